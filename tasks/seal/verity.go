// Package seal turns a file system image into a volume that cannot be read
// (LUKS2) or changed (dm-verity) unnoticed. It works on plain files, with no
// device-mapper and no root.
package seal

import (
	"context"
	"fmt"
	"os"
	"regexp"

	"cc-base/tasks/fault"
	"cc-base/tasks/manifest"
	"cc-base/tasks/sh"
)

// BlockSize is the data and hash block size of every verity tree, in bytes:
// the page size, so that one read verifies one page.
const BlockSize = 4096

var rootHash = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Verity appends a dm-verity tree to image, which holds a file system and
// nothing else, and returns what is needed to open it. The file is padded to
// [BlockSize] first; superblock and tree (SHA-256) follow at the offset that is
// returned.
//
// salt is 64 hexadecimal digits and uuid the tree's UUID. The caller derives
// both from the build's inputs: the defaults are random and would make two
// builds of the same content differ.
func Verity(ctx context.Context, run sh.Runner, image, salt, uuid string) (manifest.Verity, error) {
	offset, err := pad(image, BlockSize)
	if err != nil {
		return manifest.Verity{}, err
	}
	blocks := offset / BlockSize
	hash, err := sh.Text(ctx, run, "veritysetup", "format",
		"--hash=sha256", fmt.Sprintf("--data-block-size=%d", BlockSize), fmt.Sprintf("--hash-block-size=%d", BlockSize),
		fmt.Sprintf("--data-blocks=%d", blocks), fmt.Sprintf("--hash-offset=%d", offset),
		"--salt="+salt, "--uuid="+uuid, image, image).Match("Root hash:").Column(3).String()
	if err != nil {
		return manifest.Verity{}, fault.New(fault.Sealing, err)
	}
	if len(hash) > 0 && hash[len(hash)-1] == '\n' {
		hash = hash[:len(hash)-1]
	}
	if !rootHash.MatchString(hash) {
		return manifest.Verity{}, fault.Newf(fault.Sealing, "veritysetup printed no root hash but %q", hash)
	}
	v := manifest.Verity{RootHash: hash, HashOffset: offset, Salt: salt}
	return v, VerifyVerity(ctx, run, image, v)
}

// VerifyVerity reads every block of image against its tree.
func VerifyVerity(ctx context.Context, run sh.Runner, image string, v manifest.Verity) error {
	err := sh.Do(ctx, run, "veritysetup", "verify", fmt.Sprintf("--hash-offset=%d", v.HashOffset), image, image, v.RootHash)
	if err != nil {
		return fault.New(fault.Sealing, err)
	}
	return nil
}

// pad extends the file with zeros to a multiple of unit and returns its size.
func pad(file string, unit int64) (int64, error) {
	info, err := os.Stat(file)
	if err != nil {
		return 0, err
	}
	size := (info.Size() + unit - 1) / unit * unit
	if size == 0 {
		return 0, fault.Newf(fault.Sealing, "%s is empty", file)
	}
	return size, os.Truncate(file, size)
}
