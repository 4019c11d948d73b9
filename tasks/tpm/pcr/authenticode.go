package pcr

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"debug/pe"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/foxboron/go-uefi/authenticode"

	"cc-base/tasks/boot/measured"
)

// program returns the digests by which firmware knows a program.
func program(file []byte) (Digests, error) {
	p, err := measured.ReadProgram(file)
	if err != nil {
		return nil, err
	}
	d := Digests{}
	for _, bank := range Banks() {
		d[bank] = p.Sum(bank.New())
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
	// ReadProgram has found the place to be within the file.
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
