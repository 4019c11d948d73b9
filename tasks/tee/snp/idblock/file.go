package idblock

import (
	"crypto/ecdsa"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/fault"
)

// maxKeyFile is far above any private key on P-384 in PEM, bytes.
const maxKeyFile = 16 << 10

// CreateKey makes a key and keeps it as the file path: PEM, PKCS #8, mode 0600.
// A file that is there is never overwritten; the error is then fs.ErrExist. Its
// code is [fault.SigningKey]. It returns the public half.
func CreateKey(path string) (*ecdsa.PublicKey, error) {
	key, err := GenerateKey()
	if err != nil {
		return nil, fault.New(fault.SigningKey, err)
	}
	text, err := MarshalKey(key)
	if err != nil {
		return nil, fault.New(fault.SigningKey, err)
	}
	defer clear(text)
	if err := atomicfile.CreateNew(path, 0o600, text); err != nil {
		return nil, fault.New(fault.SigningKey, err)
	}
	return &key.PublicKey, nil
}

// ReadKey reads a key as [ParseKey] does. A file that others can read is
// refused, because they may have read it. Errors have code [fault.SigningKey].
func ReadKey(path string) (*ecdsa.PrivateKey, error) {
	text, err := atomicfile.ReadPrivate(path, maxKeyFile)
	if err != nil {
		return nil, fault.New(fault.SigningKey, err)
	}
	defer clear(text)
	key, err := ParseKey(text)
	if err != nil {
		return nil, fault.Newf(fault.SigningKey, "%s: %w", path, err)
	}
	return key, nil
}
