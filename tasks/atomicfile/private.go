package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// ReadPrivate reads a file with a secret, of at most so many bytes, which the
// caller wipes. It must be regular, no link and closed to others, as [CreateNew]
// makes it with mode 0600.
func ReadPrivate(path string, most int64) ([]byte, error) {
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
