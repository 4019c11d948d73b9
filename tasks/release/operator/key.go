package operator

import (
	"crypto/ed25519"

	"cc-base/tasks/fault"
	"cc-base/tasks/keyfile"
)

// GenerateKey makes an operator key and keeps it as the file path. A file that is
// there is never overwritten. It returns the public half, which belongs into the
// image.
func GenerateKey(path string) (ed25519.PublicKey, error) {
	public, err := keyfile.Generate(path)
	if err != nil {
		return nil, fault.Newf(fault.SigningKey, "operator key: %w", err)
	}
	return public, nil
}

// ReadKey reads an operator key. One that others can read is refused: it may
// have been read. The caller wipes the key.
func ReadKey(path string) (ed25519.PrivateKey, error) {
	key, err := keyfile.Read(path)
	if err != nil {
		return nil, fault.Newf(fault.SigningKey, "operator key: %w", err)
	}
	return key, nil
}
