package operator

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/fault"
)

const pemType = "PRIVATE KEY" // PKCS #8, RFC 5958

// GenerateKey makes an operator key and keeps it as the file path: PEM, PKCS #8,
// mode 0600. A file that is there is never overwritten. It returns the public
// half, which belongs into the image.
func GenerateKey(path string) (ed25519.PublicKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fault.Newf(fault.SigningKey, "operator key: %w", err)
	}
	defer clear(private)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, fault.Newf(fault.SigningKey, "operator key: %w", err)
	}
	defer clear(der)
	text := pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der})
	defer clear(text)
	if err := atomicfile.CreateNew(path, 0o600, text); err != nil {
		return nil, fault.Newf(fault.SigningKey, "operator key: %w", err)
	}
	return public, nil
}

// ReadKey reads an operator key. One that others can read is refused: it may
// have been read. The caller wipes the key.
func ReadKey(path string) (ed25519.PrivateKey, error) {
	text, err := atomicfile.ReadPrivate(path, 4096)
	if err != nil {
		return nil, fault.Newf(fault.SigningKey, "operator key: %w", err)
	}
	defer clear(text)
	block, _ := pem.Decode(text)
	if block == nil || block.Type != pemType {
		return nil, fault.Newf(fault.SigningKey, "operator key: %s: no PEM block %q", path, pemType)
	}
	defer clear(block.Bytes)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fault.Newf(fault.SigningKey, "operator key: %s: not PKCS #8", path)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fault.Newf(fault.SigningKey, "operator key: %s: a %T, not Ed25519", path, parsed)
	}
	return key, nil
}
