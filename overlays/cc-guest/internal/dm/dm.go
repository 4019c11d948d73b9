// Package dm reads what the kernel says about mapped devices and holds it
// against what the measured command line asks for. The tools that set the
// devices up take salt, sizes and algorithm from a superblock on a disk that
// the host can write to, so their word alone is not enough.
package dm

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"cc-base/overlays/cc-guest/internal/cmdline"
)

// CheckTable compares a table as `dmsetup table NAME` prints it with the
// volume. The fields are those of the kernel's
// Documentation/admin-guide/device-mapper/verity.rst:
//
//	start length verity version dev hash_dev data_block hash_block
//	data_blocks hash_start algorithm digest salt [#opt opt…]
func CheckTable(v cmdline.Volume, table string) error {
	lines := strings.Split(strings.TrimSpace(table), "\n")
	if len(lines) != 1 {
		return errors.New("the table has not exactly one line")
	}
	f := strings.Fields(lines[0])
	if len(f) < 13 || f[2] != "verity" {
		return errors.New("it is not a verity device")
	}
	if f[0] != "0" || f[3] != "1" || f[4] != f[5] {
		return errors.New("the table is not of the form that cc-base makes")
	}
	if f[6] != strconv.Itoa(cmdline.BlockSize) || f[7] != strconv.Itoa(cmdline.BlockSize) {
		return fmt.Errorf("the block sizes are %s and %s, not %d", f[6], f[7], cmdline.BlockSize)
	}
	if f[10] != "sha256" || f[11] != v.RootHash {
		return errors.New("the root hash is not the one of the command line")
	}
	blocks, err := strconv.ParseInt(f[8], 10, 64)
	if err != nil || blocks <= 0 || blocks > v.HashOffset/cmdline.BlockSize {
		return errors.New("the data reaches into the hash tree")
	}
	if f[1] != strconv.FormatInt(blocks*cmdline.BlockSize/512, 10) {
		return errors.New("the device is not as long as its data")
	}
	// The tree follows the superblock, which takes one block.
	if f[9] != strconv.FormatInt(v.HashOffset/cmdline.BlockSize+1, 10) {
		return errors.New("the hash tree is not where the command line says")
	}
	if !slices.Contains(f[13:], "panic_on_corruption") {
		return errors.New("a damaged block would not stop the machine")
	}
	return nil
}

// Numbers returns the device number, as "major:minor", of every mapped device
// by name, from sysfs.
func Numbers(sys fs.FS) (map[string]string, error) {
	entries, err := fs.ReadDir(sys, "class/block")
	if err != nil {
		return nil, fmt.Errorf("listing block devices: %w", err)
	}
	numbers := make(map[string]string)
	for _, entry := range entries {
		name, err := fs.ReadFile(sys, path.Join("class/block", entry.Name(), "dm/name"))
		if err != nil {
			continue // not a mapped device
		}
		number, err := fs.ReadFile(sys, path.Join("class/block", entry.Name(), "dev"))
		if err != nil {
			return nil, fmt.Errorf("reading device number: %w", err)
		}
		numbers[strings.TrimSpace(string(name))] = strings.TrimSpace(string(number))
	}
	return numbers, nil
}
