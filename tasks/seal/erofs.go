package seal

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"cc-base/tasks/fault"
	"cc-base/tasks/sh"
)

// BuildErofs writes the tar tree as an erofs image: read-only, compressed with
// lz4hc (fast to read under verity), owners, modes, links, devices and
// capabilities as in the tar. uuid is the file system's; a random one would
// change the bytes.
func BuildErofs(ctx context.Context, run sh.Runner, tarFile, uuid string, epoch int64, image string) error {
	if err := whole(tarFile); err != nil {
		return fault.New(fault.Sealing, err)
	}
	_ = os.Remove(image)
	err := sh.Do(ctx, run, "mkfs.erofs", "--tar=f", "-zlz4hc,9", fmt.Sprintf("-T%d", epoch), "-U"+uuid, image, tarFile)
	if err != nil {
		return fault.New(fault.Sealing, err)
	}
	if err := sh.Do(ctx, run, "fsck.erofs", image); err != nil {
		return fault.New(fault.Sealing, err)
	}
	return nil
}

// whole checks that file is a tar with its end: for one that is cut off,
// mkfs.erofs 1.8.6 spins for ever.
func whole(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		_, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%s is damaged or cut off: %w", file, err)
		}
	}
	// Go takes the end of the file for the end of the archive, too; the real
	// one is two blocks of zeros.
	info, err := f.Stat()
	if err != nil {
		return err
	}
	end := make([]byte, 1024)
	if _, err := f.ReadAt(end, max(0, info.Size()-int64(len(end)))); err != nil {
		return fmt.Errorf("%s is cut off: %w", file, err)
	}
	for _, b := range end {
		if b != 0 {
			return fmt.Errorf("%s is cut off: it has no end mark", file)
		}
	}
	return nil
}
