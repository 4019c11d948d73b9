package operator

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/fault"
	"cc-base/tasks/release"
)

// Store keeps instance keys.
type Store interface {
	// Key returns an instance's key, which the caller wipes, or an error that
	// is [fs.ErrNotExist].
	Key(instance string) ([]byte, error)

	// Enrol makes a key for an instance that has none, keeps it for good, and
	// returns it. Of several at once, one makes it and all get that one.
	Enrol(instance string) ([]byte, error)
}

// Folder is a [Store] of files: one for each instance, 32 bytes, mode 0600.
// Whoever has the files can open the volumes, and who loses them cannot.
type Folder struct{ dir string }

// OpenFolder takes a folder as a store. It is made with mode 0700 when missing;
// one that others may enter is refused.
func OpenFolder(dir string) (*Folder, error) {
	err := os.Mkdir(dir, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fault.Newf(fault.Usage, "store: %w", err)
	}
	st, err := os.Stat(dir)
	switch {
	case err != nil:
		return nil, fault.Newf(fault.Usage, "store: %w", err)
	case !st.IsDir():
		return nil, fault.Newf(fault.Usage, "store: %s is no folder", dir)
	case st.Mode().Perm()&0o077 != 0:
		return nil, fault.Newf(fault.Usage, "store: others may enter %s (mode %04o)", dir, st.Mode().Perm()).Hint("chmod 0700 %s", dir)
	}
	return &Folder{dir}, nil
}

// path is safe: an instance is a UUID in its one spelling or refused.
func (f *Folder) path(instance string) (string, error) {
	if err := release.CheckInstance(instance); err != nil {
		return "", err
	}
	return filepath.Join(f.dir, instance+".key"), nil
}

// Key implements [Store].
func (f *Folder) Key(instance string) ([]byte, error) {
	path, err := f.path(instance)
	if err != nil {
		return nil, err
	}
	key, err := atomicfile.ReadPrivate(path, release.KeySize)
	if err != nil {
		return nil, err
	}
	if len(key) != release.KeySize || !slices.ContainsFunc(key, func(b byte) bool { return b != 0 }) {
		clear(key)
		return nil, fmt.Errorf("%s: not a key of %d bytes", path, release.KeySize)
	}
	return key, nil
}

// Enrol implements [Store].
func (f *Folder) Enrol(instance string) ([]byte, error) {
	path, err := f.path(instance)
	if err != nil {
		return nil, err
	}
	key := make([]byte, release.KeySize)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	err = atomicfile.CreateNew(path, 0o600, key)
	if err == nil {
		return key, nil
	}
	clear(key)
	if errors.Is(err, fs.ErrExist) {
		return f.Key(instance)
	}
	return nil, err
}
