// Package keyfile keeps an Ed25519 private key in a file: PKCS #8 (RFC 5958) in
// PEM, mode 0600.
package keyfile

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"cc-base/tasks/atomicfile"
)

const (
	pemType = "PRIVATE KEY"
	// maxSize is far above such a file, bytes.
	maxSize = 4096
)

// Generate makes a key and the file, and returns the public half. A file that is
// there is never overwritten: the error is then [io/fs.ErrExist].
func Generate(path string) (ed25519.PublicKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	defer clear(private)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	defer clear(der)
	text := pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der})
	defer clear(text)
	if err := atomicfile.CreateNew(path, 0o600, text); err != nil {
		return nil, err
	}
	return public, nil
}

// Read reads a key. One that others can read is refused: it may have been read.
// The caller wipes the key.
func Read(path string) (ed25519.PrivateKey, error) {
	text, err := atomicfile.ReadPrivate(path, maxSize)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	block, _ := pem.Decode(text)
	if block == nil || block.Type != pemType {
		return nil, fmt.Errorf("%s: no PEM block %q", path, pemType)
	}
	defer clear(block.Bytes)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: not PKCS #8", path)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: a %T, not Ed25519", path, parsed)
	}
	return key, nil
}
