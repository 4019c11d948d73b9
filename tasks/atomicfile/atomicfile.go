// Package atomicfile writes files that appear whole or not at all, also over a
// power cut: what another program, or the next build, finds under a name is
// everything that was written there.
//
//	err := atomicfile.Write("out/manifest.json", 0o644, data)
//
//	part := out + atomicfile.Extension
//	defer os.Remove(part)
//	…                                   // a tool writes part
//	err := atomicfile.Publish(part, out)
//
// The rules, for every function here:
//
//   - The bytes go to a part beside the file, reach the medium (fsync), and only
//     then get their name; then the folder reaches the medium too.
//   - Until that moment an older file stays as it was. On error it stays for
//     good, and of the new one nothing is left.
//   - Nothing is written through a symbolic link. A part that is there, left by
//     a build that was killed or planted by somebody, is removed and made anew;
//     a link under the file's own name is replaced, not followed.
package atomicfile

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Extension is appended to a file's name for its part.
const Extension = ".part"

// Write writes data as the file path. Two writers of one path at a time would
// use the same part; whoever may meet another one holds a lock.
func Write(path string, mode fs.FileMode, data []byte) error {
	return Fill(path, mode, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// Fill is [Write] for content that fill produces as it goes. What it is given
// is the file itself, so that a program can have it as its standard output.
func Fill(path string, mode fs.FileMode, fill func(io.Writer) error) error {
	part := path + Extension
	if err := WritePart(part, mode, fill); err != nil {
		return err
	}
	return rename(part, path)
}

// WritePart makes the file part anew, lets fill write it and forces it to the
// medium, for a caller that gives several files their names together. On error
// no part is left.
func WritePart(part string, mode fs.FileMode, fill func(io.Writer) error) error {
	if err := Remove(part); err != nil {
		return err
	}
	return create(part, mode, fill)
}

// Publish gives a part that a tool has written its name. On error the part may stay; the
// caller, who had it made, removes it.
func Publish(part, path string) error {
	// A descriptor of our own will do: fsync is for the file, not for what was
	// written through the descriptor.
	f, err := os.Open(part)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	return rename(part, path)
}

// CreateNew writes a file whose name must not be taken, as a key's: an existing
// one, a dangling link included, is an error that is [fs.ErrExist], and of many
// that try at once one succeeds. A build that is killed half-way leaves no half
// key under the name that a later one trusts, which O_EXCL alone would do.
func CreateNew(path string, mode fs.FileMode, data []byte) error {
	// A name of its own, because removing another one's part would break the
	// promise above.
	part := fmt.Sprintf("%s.%s%s", path, rand.Text(), Extension)
	err := create(part, mode, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
	if err != nil {
		return err
	}
	// A link, unlike a rename, fails where the name is taken.
	if err := errors.Join(os.Link(part, path), os.Remove(part)); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// Remove is os.Remove for a file that need not be there.
func Remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// SyncDir makes what was renamed in dir last over a power cut.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// create makes a file that must not exist, lets fill write it and forces it to
// the medium.
func create(path string, mode fs.FileMode, fill func(io.Writer) error) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(err, Remove(path))
		}
	}()
	if err := fill(f); err != nil {
		return err
	}
	return f.Sync()
}

func rename(part, path string) error {
	if err := os.Rename(part, path); err != nil {
		return errors.Join(err, Remove(part))
	}
	return SyncDir(filepath.Dir(path))
}
