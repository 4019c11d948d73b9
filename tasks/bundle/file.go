package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"cc-base/tasks/atomicfile"
)

// WriteFile packs the entries into the file path (mode 0644) and writes
// path.sha256 beside it: the digest, two spaces and the bare file name, so that
// `sha256sum -c` works wherever both files are copied to.
//
// Both appear by rename after fsync. Until then an older file stays as it was;
// at that moment its .sha256 and its .asc, which speak of other bytes, go. On
// error or cancellation nothing of the new file is left.
func WriteFile(ctx context.Context, path string, entries []Entry, opts Options) (res Result, err error) {
	tarPart, sumPart := path+atomicfile.Extension, path+".sha256"+atomicfile.Extension
	defer func() {
		if err != nil {
			err = errors.Join(err, atomicfile.Remove(tarPart), atomicfile.Remove(sumPart))
		}
	}()
	err = atomicfile.WritePart(tarPart, 0o644, func(w io.Writer) error {
		var err error
		res, err = Write(ctx, w, entries, opts)
		return err
	})
	if err != nil {
		return Result{}, err
	}
	line := fmt.Sprintf("%s  %s\n", res.SHA256, filepath.Base(path))
	err = atomicfile.WritePart(sumPart, 0o644, func(w io.Writer) error {
		_, err := io.WriteString(w, line)
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
	if err := errors.Join(atomicfile.Remove(path+".sha256"), atomicfile.Remove(path+".asc")); err != nil {
		return Result{}, err
	}
	// Not atomicfile.Publish: the folder is forced to the medium once, after
	// both names are right.
	if err := os.Rename(tarPart, path); err != nil {
		return Result{}, err
	}
	if err := os.Rename(sumPart, path+".sha256"); err != nil {
		return Result{}, errors.Join(err, atomicfile.Remove(path))
	}
	return res, atomicfile.SyncDir(filepath.Dir(path))
}
