package idblock

import (
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

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
	text, err := readPrivate(path)
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

func readPrivate(path string) ([]byte, error) {
	// O_NONBLOCK, or opening a named pipe would wait for its other end.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular() || st.Size() > maxKeyFile:
		return nil, fmt.Errorf("%s: not a file of at most %d bytes", path, maxKeyFile)
	case st.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%s: others may read it (mode %04o, want 0600)", path, st.Mode().Perm())
	}
	// A buffer of full size from the start: growing would leave copies behind
	// that nobody wipes.
	text := make([]byte, st.Size())
	if _, err := io.ReadFull(f, text); err != nil && !errors.Is(err, io.EOF) {
		clear(text)
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return text, nil
}
