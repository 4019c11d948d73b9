package disk

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/fault"
	"cc-base/tasks/layout"
	"cc-base/tasks/manifest"
	"cc-base/tasks/sh"
)

// Volume is one partition to be placed.
type Volume struct {
	Label    string
	TypeGUID string // upper case
	GUID     string // upper case
	Content  string // file; empty for a partition that the guest fills
	Size     int64  // bytes; 0 is the content rounded up to a MiB
	ReadOnly bool   // sets the GPT's read-only attribute
}

// Assemble writes a raw disk image with the volumes in order, each at a
// multiple of 1 MiB, and returns its description. Blocks of zeros stay holes.
// On failure raw is removed.
func Assemble(ctx context.Context, raw, guid string, volumes []Volume) (_ manifest.Disk, err error) {
	d := manifest.Disk{GUID: guid, SectorSize: layout.Sector}
	table := layout.Table{GUID: guid}
	next := int64(layout.Align)
	var problems []error
	for i, v := range volumes {
		content := int64(0)
		if v.Content != "" {
			info, err := os.Stat(v.Content)
			if err != nil {
				return d, err
			}
			content = info.Size()
		}
		size := v.Size
		if size == 0 {
			size = roundUp(content, layout.Align)
		}
		size = roundUp(size, layout.Align)
		switch {
		case size == 0:
			problems = append(problems, fmt.Errorf("%s: there is neither content nor a size", v.Label))
		case size < content:
			problems = append(problems, fmt.Errorf("%s: %d MiB is below the %d MiB that the content needs", v.Label, size/MiB, roundUp(content, MiB)/MiB))
		}
		d.Partitions = append(d.Partitions, manifest.Partition{
			Number: i + 1, Label: v.Label, TypeGUID: v.TypeGUID, GUID: v.GUID, Start: next, Size: size, ContentSize: content, ReadOnly: v.ReadOnly,
		})
		var attributes uint64
		if v.ReadOnly {
			attributes = layout.ReadOnly
		}
		table.Entries = append(table.Entries, layout.Entry{
			Number: i + 1, Label: v.Label, TypeGUID: v.TypeGUID, GUID: v.GUID, Start: next, Size: size, Attributes: attributes,
		})
		next += size
	}
	if len(problems) > 0 {
		return d, fault.New(fault.VolumeTooBig, errors.Join(problems...)).Hint("raise the size in config/partition.conf, or use auto")
	}
	d.VirtualSize = next + layout.Align // the backup table
	f, err := os.OpenFile(raw, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o644)
	if err != nil {
		return d, err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			_ = os.Remove(raw)
		}
	}()
	if err := f.Truncate(d.VirtualSize); err != nil {
		return d, err
	}
	for i := range volumes {
		if volumes[i].Content == "" {
			continue
		}
		p := &d.Partitions[i]
		if p.SHA256, err = place(ctx, f, p.Start, p.ContentSize, volumes[i].Content); err != nil {
			return d, fmt.Errorf("%s: %w", p.Label, err)
		}
	}
	if err := table.Write(f, d.VirtualSize); err != nil {
		return d, fault.New(fault.DiskImage, err)
	}
	return d, f.Sync()
}

// place copies file, which has size bytes, into f at offset, leaving blocks of
// zeros as holes, and returns the digest of all bytes.
func place(ctx context.Context, f *os.File, offset, size int64, file string) (string, error) {
	in, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer in.Close()
	sum := sha256.New()
	buf := make([]byte, MiB)
	end := offset + size
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := io.ReadFull(in, buf)
		if offset+int64(n) > end {
			return "", fault.Newf(fault.DiskImage, "%s has grown while it was copied", file)
		}
		if n > 0 {
			sum.Write(buf[:n])
			if !zero(buf[:n]) {
				if _, err := f.WriteAt(buf[:n], offset); err != nil {
					return "", err
				}
			}
			offset += int64(n)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			if offset != end {
				return "", fault.Newf(fault.DiskImage, "%s has shrunk while it was copied", file)
			}
			return hex.EncodeToString(sum.Sum(nil)), nil
		}
		if err != nil {
			return "", err
		}
	}
}

func zero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// Qcow2 converts a raw image to qcow2 without compression: the content is
// ciphertext. The file appears whole or not at all.
func Qcow2(ctx context.Context, run sh.Runner, raw, out string) error {
	part := out + atomicfile.Extension
	defer os.Remove(part)
	if err := sh.Do(ctx, run, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", "compat=1.1,lazy_refcounts=off,cluster_size=65536", raw, part); err != nil {
		return fault.New(fault.DiskImage, err)
	}
	if err := sh.Do(ctx, run, "qemu-img", "check", "-q", part); err != nil {
		return fault.New(fault.DiskImage, err)
	}
	return atomicfile.Publish(part, out)
}
