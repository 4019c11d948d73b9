package boot

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"debug/pe"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/foxboron/go-uefi/authenticode"
	"github.com/foxboron/go-uefi/pkcs7"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/fault"
)

// Key is a Secure Boot signing key with its certificate: the pair that an
// OVMF variable store holds as db.
type Key struct {
	Private *rsa.PrivateKey
	Cert    *x509.Certificate
}

// KeyNames are the keys of a Secure Boot set, as files and as EFI variables: the
// platform key, the key exchange key, and the one that signs what boots (UEFI
// specification section 32.4).
func KeyNames() []string { return []string{"PK", "KEK", "db"} }

// LoadOrMakeKeys is [LoadOrMakeKey] for each of [KeyNames]; made are the names of
// those that this call made.
func LoadOrMakeKeys(dir string, notBefore time.Time) (keys map[string]Key, made []string, err error) {
	keys = map[string]Key{}
	for _, name := range KeyNames() {
		key, isNew, err := LoadOrMakeKey(dir, name, notBefore)
		if err != nil {
			return nil, made, fmt.Errorf("%s: %w", name, err)
		}
		if keys[name] = key; isNew {
			made = append(made, name)
		}
	}
	return keys, made, nil
}

// keyBits is the RSA length that every UEFI firmware accepts.
const keyBits = 2048

// LoadOrMakeKey reads the key pair dir/name.key and dir/name.crt, making it on
// first use. An existing key is never overwritten; a key without its
// certificate, or the reverse, is an error. made tells whether this call made
// the pair.
func LoadOrMakeKey(dir, name string, notBefore time.Time) (key Key, made bool, err error) {
	keyFile, certFile := filepath.Join(dir, name+".key"), filepath.Join(dir, name+".crt")
	_, keyErr := os.Stat(keyFile)
	_, certErr := os.Stat(certFile)
	switch {
	case keyErr == nil && certErr == nil:
		key, err = loadKey(keyFile, certFile)
		return key, false, err
	case errors.Is(keyErr, fs.ErrNotExist) && errors.Is(certErr, fs.ErrNotExist):
		key, err = makeKey(keyFile, certFile, name, notBefore)
		return key, err == nil, err
	case keyErr != nil && !errors.Is(keyErr, fs.ErrNotExist):
		return Key{}, false, keyErr
	case certErr != nil && !errors.Is(certErr, fs.ErrNotExist):
		return Key{}, false, certErr
	default:
		return Key{}, false, fault.Newf(fault.BootImage, "of %s and %s only one is there; restore the other or move this one away", keyFile, certFile)
	}
}

func loadKey(keyFile, certFile string) (Key, error) {
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil {
		return Key{}, err
	}
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return Key{}, err
	}
	keyBlock, _ := pem.Decode(keyPEM)
	certBlock, _ := pem.Decode(certPEM)
	if keyBlock == nil || certBlock == nil {
		return Key{}, fault.Newf(fault.BootImage, "%s or %s is not PEM", keyFile, certFile)
	}
	private, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		return Key{}, fault.New(fault.BootImage, fmt.Errorf("%s: %w", keyFile, err))
	}
	rsaKey, ok := private.(*rsa.PrivateKey)
	if !ok {
		return Key{}, fault.Newf(fault.BootImage, "%s: UEFI wants an RSA key", keyFile)
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return Key{}, fault.New(fault.BootImage, fmt.Errorf("%s: %w", certFile, err))
	}
	if !rsaKey.PublicKey.Equal(cert.PublicKey) {
		return Key{}, fault.Newf(fault.BootImage, "%s does not belong to %s", keyFile, certFile)
	}
	return Key{Private: rsaKey, Cert: cert}, nil
}

func makeKey(keyFile, certFile, name string, notBefore time.Time) (Key, error) {
	private, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return Key{}, err
	}
	spki, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		return Key{}, err
	}
	id := sha256.Sum256(spki)
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(id[:16]),
		Subject:      pkix.Name{CommonName: "cc-base Secure Boot " + name},
		NotBefore:    notBefore,
		// Firmware does not check validity; a date that passes would only
		// make tools complain about images that still boot.
		NotAfter:    notBefore.AddDate(30, 0, 0),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return Key{}, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return Key{}, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return Key{}, err
	}
	if err := os.MkdirAll(filepath.Dir(keyFile), 0o700); err != nil {
		return Key{}, err
	}
	if err := atomicfile.CreateNew(keyFile, 0o600, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})); err != nil {
		return Key{}, err
	}
	if err := atomicfile.CreateNew(certFile, 0o644, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})); err != nil {
		return Key{}, err
	}
	return Key{Private: private, Cert: cert}, nil
}

// Sign returns the PE image with an Authenticode signature over it. An image
// that is signed already is refused.
//
// The signature carries no authenticated attributes, so no signing time: RSA
// with PKCS #1 v1.5 is deterministic, and the same image signed twice has the
// same bytes. sbverify and OVMF (both OpenSSL's PKCS7_verify) accept that; a
// boot under OVMF_CODE_4M.secboot.fd with only our certificate enrolled started
// the kernel, and refused the unsigned image.
func Sign(image []byte, key Key) ([]byte, error) {
	if err := signable(image); err != nil {
		return nil, fault.New(fault.BootImage, err)
	}
	p, err := authenticode.Parse(bytes.NewReader(image))
	if err != nil {
		return nil, fault.New(fault.BootImage, err)
	}
	digest := p.Hash(crypto.SHA256)
	if len(digest) != sha256.Size {
		return nil, fault.Newf(fault.BootImage, "the image cannot be read in whole")
	}
	content, err := authenticode.CreateSpcIndirectDataContent(digest, crypto.SHA256)
	if err != nil {
		return nil, fault.New(fault.BootImage, err)
	}
	sig, err := pkcs7.SignPKCS7(key.Private, key.Cert, authenticode.OIDSpcIndirectDataContent, content, pkcs7.NoAttr())
	if err != nil {
		return nil, fault.New(fault.BootImage, err)
	}
	if err := p.AppendSignature(sig); err != nil {
		return nil, fault.New(fault.BootImage, err)
	}
	return p.Bytes(), nil
}

// signable checks what go-uefi takes for granted and would panic on, or hash
// other bytes than the firmware: places and sizes within the file.
func signable(image []byte) error {
	f, err := pe.NewFile(bytes.NewReader(image))
	if err != nil {
		return fmt.Errorf("not a PE file: %w", err)
	}
	header, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok {
		return errors.New("not a 64-bit PE image")
	}
	const certificates = 4 // data directory
	if header.NumberOfRvaAndSizes <= certificates {
		return errors.New("the PE header has no place for a signature")
	}
	if d := header.DataDirectory[certificates]; d.VirtualAddress != 0 || d.Size != 0 {
		return errors.New("the image is signed already")
	}
	// From the DOS header's e_lfanew: signature, COFF header, optional header,
	// sections of 40 bytes.
	const dosHeader, sectionHeader = 64, 40
	if len(image) < dosHeader || !bytes.HasPrefix(image, []byte("MZ")) {
		return errors.New("no DOS header")
	}
	table := uint64(binary.LittleEndian.Uint32(image[60:])) + 4 + uint64(binary.Size(f.FileHeader)) +
		uint64(f.SizeOfOptionalHeader) + sectionHeader*uint64(len(f.Sections))
	end := uint64(header.SizeOfHeaders)
	if table > end || end > uint64(len(image)) {
		return fmt.Errorf("the headers of %d bytes are outside the file", end)
	}
	// The digest is of the sections in file order, then of what follows their
	// sizes: with gaps or overlaps that is not the file.
	sections := slices.Clone(f.Sections)
	slices.SortFunc(sections, func(a, b *pe.Section) int { return cmp.Compare(a.Offset, b.Offset) })
	for _, s := range sections {
		if s.Size == 0 {
			continue
		}
		if uint64(s.Offset) != end {
			return fmt.Errorf("section %s begins at %d, not at %d", s.Name, s.Offset, end)
		}
		if end += uint64(s.Size); end > uint64(len(image)) {
			return fmt.Errorf("section %s ends outside the file", s.Name)
		}
	}
	return nil
}
