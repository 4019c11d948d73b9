// Package identity makes the guest's own key pair. The private key is made in
// the guest at every boot, lives in memory only, and nothing outside ever sees
// it; the hash of the public key is what attestation reports carry.
package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"cc-base/overlays/cc-guest/settings"
	"cc-base/tasks/atomicfile"
)

const (
	privateFile = "identity.key" // PKCS #8, PEM, mode 0600
	publicFile  = "identity.pub" // SubjectPublicKeyInfo, PEM
)

// Generate makes the key pair in the folder, which must be in memory. A pair
// that is there is kept; made tells whether this call made it.
func Generate(s settings.Identity) (made bool, err error) {
	_, err = os.Stat(filepath.Join(s.Dir, privateFile))
	if err == nil {
		return false, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	key, err := generate(s)
	if err != nil {
		return false, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return false, err
	}
	defer clear(private)
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return false, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	defer clear(text)
	// The private key last: it is what a later call goes by.
	err = atomicfile.Write(filepath.Join(s.Dir, publicFile), 0o644, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
	if err == nil {
		err = atomicfile.Write(filepath.Join(s.Dir, privateFile), 0o600, text)
	}
	return err == nil, err
}

func generate(s settings.Identity) (crypto.Signer, error) {
	switch s.Algo {
	case "rsa":
		return rsa.GenerateKey(rand.Reader, s.Size)
	case "ecdsa":
		curve := elliptic.P256()
		if s.Size == 384 {
			curve = elliptic.P384()
		}
		return ecdsa.GenerateKey(curve, rand.Reader)
	case "ed25519":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, fmt.Errorf("unknown algorithm %q", s.Algo)
}

// Hash returns the SHA-512 of the public key (SubjectPublicKeyInfo, DER), which
// is part of what attestation reports carry.
func Hash(dir string) ([64]byte, error) {
	text, err := os.ReadFile(filepath.Join(dir, publicFile))
	if err != nil {
		return [64]byte{}, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return [64]byte{}, fmt.Errorf("%s is not PEM", publicFile)
	}
	return sha512.Sum512(block.Bytes), nil
}
