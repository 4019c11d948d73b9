package pcr

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"debug/pe"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/foxboron/go-uefi/authenticode"
)

// Offsets in a PE32+ file, from its PE header (Microsoft PE format).
const (
	optionalHeader  = 4 + 20
	checksumField   = optionalHeader + 64
	certificateDir  = optionalHeader + 112 + 4*8 // entry of the data directory
	certificateSlot = 8
)

// Authenticode returns the digests by which firmware knows a 64-bit PE image:
// of the whole file less its checksum, its signatures and the place that names
// them (Windows Authenticode Portable Executable Signature Format, "Calculating
// the PE Image Hash"; edk2 DxeTpm2MeasureBootLib).
func Authenticode(image []byte) (Digests, error) {
	f, err := pe.NewFile(bytes.NewReader(image))
	if err != nil {
		return nil, fmt.Errorf("not a PE file: %w", err)
	}
	header, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok {
		return nil, errors.New("not a 64-bit PE image")
	}
	if len(image) < 64 || !bytes.HasPrefix(image, []byte("MZ")) {
		return nil, errors.New("no DOS header")
	}
	start := uint64(binary.LittleEndian.Uint32(image[60:]))
	headers := uint64(header.SizeOfHeaders)
	if header.NumberOfRvaAndSizes <= 4 || start+certificateDir+certificateSlot > headers || headers > uint64(len(image)) {
		return nil, errors.New("the PE headers are outside the file")
	}
	parts := [][]byte{
		image[:start+checksumField],
		image[start+checksumField+4 : start+certificateDir],
		image[start+certificateDir+certificateSlot : headers],
	}
	// Firmware hashes section by section. In an image without gaps and
	// overlaps that is the file itself; others are not made here.
	end, sections := headers, slices.Clone(f.Sections)
	slices.SortStableFunc(sections, func(a, b *pe.Section) int { return cmp.Compare(a.Offset, b.Offset) })
	for _, s := range sections {
		if s.Size == 0 {
			continue
		}
		if uint64(s.Offset) != end {
			return nil, fmt.Errorf("section %s begins at %d, not at %d", s.Name, s.Offset, end)
		}
		next := end + uint64(s.Size)
		if next > uint64(len(image)) {
			return nil, fmt.Errorf("section %s ends outside the file", s.Name)
		}
		parts = append(parts, image[end:next])
		end = next
	}
	signatures := uint64(header.DataDirectory[4].Size)
	if signatures > uint64(len(image))-end {
		return nil, errors.New("the signatures are outside the file")
	}
	if place := uint64(header.DataDirectory[4].VirtualAddress); signatures > 0 && place+signatures != uint64(len(image)) {
		return nil, errors.New("the signatures are not at the end of the file")
	}
	parts = append(parts, image[end:uint64(len(image))-signatures])
	d := Digests{}
	for _, bank := range Banks() {
		h := bank.New()
		for _, p := range parts {
			h.Write(p)
		}
		d[bank] = h.Sum(nil)
	}
	return d, nil
}

// signer returns the certificate by whose key the image is signed, or nothing
// for an unsigned image. A signature that does not verify is an error: the
// firmware would refuse the image, and there would be nothing to predict.
func signer(image []byte, digests Digests) ([]byte, error) {
	table, err := signatures(image)
	if err != nil || table == nil {
		return nil, err
	}
	sig, err := authenticode.ParseAuthenticode(table)
	if err != nil {
		return nil, fmt.Errorf("the signature cannot be read: %w", err)
	}
	if !bytes.Equal(sig.Digest, digests[SHA256]) {
		return nil, errors.New("the signature is for another image")
	}
	for _, cert := range sig.Pkcs.Certs {
		if sig.Pkcs.HasCertificate(cert) {
			return cert.Raw, verify(sig, cert)
		}
	}
	return nil, errors.New("the signature comes without the signer's certificate")
}

// signatures returns the PKCS #7 object of the image's first signature, or nil.
func signatures(image []byte) ([]byte, error) {
	f, err := pe.NewFile(bytes.NewReader(image))
	if err != nil {
		return nil, err
	}
	header, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok || header.DataDirectory[4].Size == 0 {
		return nil, nil
	}
	// Authenticode has found the place to be within the file.
	table := image[header.DataDirectory[4].VirtualAddress:]
	const headerSize, pkcsSignedData = 8, 2
	if len(table) < headerSize {
		return nil, errors.New("the signature is cut short")
	}
	n := uint64(binary.LittleEndian.Uint32(table))
	if n < headerSize || n > uint64(len(table)) || binary.LittleEndian.Uint16(table[6:]) != pkcsSignedData {
		return nil, errors.New("the signature cannot be read")
	}
	return table[headerSize:n], nil
}

// verify checks the signature with the certificate's key. go-uefi's own check
// wants authenticated attributes, which ours do not have, and does not compare
// their digest with the content.
func verify(sig *authenticode.Authenticode, cert *x509.Certificate) error {
	var content asn1.RawValue
	if _, err := asn1.Unmarshal(sig.Pkcs.ContentInfo, &content); err != nil {
		return fmt.Errorf("the signature cannot be read: %w", err)
	}
	for _, info := range sig.Pkcs.SignerInfo {
		signed := content.Bytes
		if attributes := info.AuthenticatedAttributes; attributes != nil {
			digest := sha256.Sum256(content.Bytes)
			if !attributes.ContentType.Equal(authenticode.OIDSpcIndirectDataContent) || !bytes.Equal(attributes.MessageDigest, digest[:]) {
				continue
			}
			signed = attributes.Marshal()
		}
		if cert.CheckSignature(x509.SHA256WithRSA, signed, info.EncryptedDigest) == nil {
			return nil
		}
	}
	return errors.New("the signature does not verify")
}
