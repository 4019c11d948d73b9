// Package disk puts finished volumes together to a disk image: the FAT32 boot
// partition, the GUID partition table, the qcow2 file. It works on plain files
// and needs neither root nor loop devices.
package disk

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"

	"cc-base/tasks/fault"
	"cc-base/tasks/sh"
)

// MiB is the unit of partition sizes and alignment, in bytes.
const MiB = 1 << 20

// ESP is what the boot partition holds.
type ESP struct {
	Files    map[string]string // path in the file system, such as EFI/BOOT/BOOTX64.EFI, to the file on the build machine
	Label    string            // volume label, at most 11 characters
	VolumeID uint32            // FAT serial number
	Epoch    int64             // every time stamp, seconds since 1970
	Size     int64             // bytes; 0 chooses
}

// minESP is the smallest FAT32 file system with 512-byte clusters: 65525
// clusters by Microsoft's fatgen103, some tables, and room to spare.
const minESP = 64 * MiB

// BuildESP writes the file system to image and returns its size in bytes.
//
// Without a size it chooses room for twice the content, so that an update can
// write the new UKI beside the old one. mkfs.vfat and mtools write it: go-diskfs
// makes directories whose ".." entry fsck.vfat rejects, and is a hundred times
// slower on large files. On failure image is removed.
func BuildESP(ctx context.Context, run sh.Runner, e ESP, image string) (_ int64, err error) {
	content, err := e.contentSize()
	if err != nil {
		return 0, err
	}
	size := e.Size
	if size == 0 {
		size = max(minESP, roundUp(2*content+8*MiB, 8*MiB))
	}
	// Two tables of 4 bytes for each cluster of 512 take a 64th of the whole.
	if need := max(minESP, roundUp(content+content/63+4*MiB, MiB)); size < need {
		return 0, fault.Newf(fault.VolumeTooBig, "the boot partition of %d MiB cannot hold %d MiB of files; at least %d MiB are needed",
			size/MiB, roundUp(content, MiB)/MiB, need/MiB)
	}
	if err := os.WriteFile(image, nil, 0o644); err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(image)
		}
	}()
	if err := os.Truncate(image, size); err != nil {
		return 0, err
	}
	epoch := fmt.Sprintf("SOURCE_DATE_EPOCH=%d", e.Epoch)
	steps := []sh.Cmd{{
		Name: "mkfs.vfat",
		Args: []string{"--invariant", "-F", "32", "-s", "1", "-S", "512", "-i", fmt.Sprintf("%08x", e.VolumeID), "-n", e.Label, image},
	}}
	for _, dir := range e.directories() {
		steps = append(steps, sh.Cmd{Name: "mmd", Args: []string{"-i", image, "::" + dir}})
	}
	for _, dst := range e.destinations() {
		// Without -m every time in the entry is SOURCE_DATE_EPOCH, not the
		// source file's.
		steps = append(steps, sh.Cmd{Name: "mcopy", Args: []string{"-i", image, e.Files[dst], "::" + dst}})
	}
	steps = append(steps, sh.Cmd{Name: "fsck.vfat", Args: []string{"-n", image}})
	for _, s := range steps {
		s.Env = []string{epoch}
		if err := run.Run(ctx, s); err != nil {
			return 0, fault.New(fault.DiskImage, err)
		}
	}
	return size, nil
}

func (e ESP) contentSize() (int64, error) {
	var sum int64
	for _, src := range e.Files {
		info, err := os.Stat(src)
		if err != nil {
			return 0, err
		}
		sum += roundUp(info.Size(), 512)
	}
	return sum, nil
}

func (e ESP) destinations() []string {
	var out []string
	for dst := range e.Files {
		out = append(out, dst)
	}
	sort.Strings(out)
	return out
}

// directories returns every parent directory once, parents first.
func (e ESP) directories() []string {
	set := map[string]bool{}
	for dst := range e.Files {
		for d := path.Dir(filepath.ToSlash(dst)); d != "." && d != "/"; d = path.Dir(d) {
			set[d] = true
		}
	}
	var out []string
	for d := range set {
		out = append(out, d)
	}
	sort.Slice(out, func(i, j int) bool {
		if a, b := strings.Count(out[i], "/"), strings.Count(out[j], "/"); a != b {
			return a < b
		}
		return out[i] < out[j]
	})
	return out
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
