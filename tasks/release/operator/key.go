package operator

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

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
	text, err := readPrivate(path, 4096)
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

// readPrivate reads a file that must be regular, no link and closed to others.
func readPrivate(path string, most int64) ([]byte, error) {
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
	case !st.Mode().IsRegular() || st.Size() > most:
		return nil, fmt.Errorf("%s: not a file of at most %d bytes", path, most)
	case st.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%s: others may read it (mode %04o, want 0600)", path, st.Mode().Perm())
	}
	// A buffer of full size from the start: growing would leave copies behind
	// that nobody wipes.
	buf := make([]byte, st.Size())
	if _, err := io.ReadFull(f, buf); err != nil && !errors.Is(err, io.EOF) {
		clear(buf)
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return buf, nil
}
