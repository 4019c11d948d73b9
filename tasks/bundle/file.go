package bundle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// WriteFile packs the entries into the file path (mode 0644) and writes
// path.sha256 beside it: the digest, two spaces and the bare file name, so that
// `sha256sum -c` works wherever both files are copied to.
//
// Both appear by rename after fsync. Until then an older file stays as it was;
// at that moment its .sha256 and its .asc, which speak of other bytes, go. On
// error or cancellation nothing of the new file is left.
func WriteFile(ctx context.Context, path string, entries []Entry, opts Options) (res Result, err error) {
	tarPart, sumPart := path+".part", path+".sha256.part"
	defer func() {
		if err != nil {
			err = errors.Join(err, remove(tarPart), remove(sumPart))
		}
	}()
	err = writePart(tarPart, func(f *os.File) error {
		var err error
		res, err = Write(ctx, f, entries, opts)
		return err
	})
	if err != nil {
		return Result{}, err
	}
	line := fmt.Sprintf("%s  %s\n", res.SHA256, filepath.Base(path))
	err = writePart(sumPart, func(f *os.File) error {
		_, err := f.WriteString(line)
		return err
	})
	if err != nil {
		return Result{}, err
	}
	// The last look before something changes: from here on it is a matter of
	// microseconds, and stopping half-way would be worse than finishing.
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	if err := errors.Join(remove(path+".sha256"), remove(path+".asc")); err != nil {
		return Result{}, err
	}
	if err := os.Rename(tarPart, path); err != nil {
		return Result{}, err
	}
	if err := os.Rename(sumPart, path+".sha256"); err != nil {
		return Result{}, errors.Join(err, remove(path))
	}
	return res, syncDir(filepath.Dir(path))
}

// writePart makes the file anew, lets fill write it and forces it to the disk.
// A part left by a build that was killed is removed first; O_EXCL then makes
// sure that no link planted there is written through.
func writePart(path string, fill func(*os.File) error) (err error) {
	if err := remove(path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	if err := fill(f); err != nil {
		return err
	}
	return f.Sync()
}

// remove is os.Remove for a file that need not exist.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// syncDir makes renames in dir last over a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
