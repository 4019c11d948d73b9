// Package signature reads from the sectors of a disk what was put on it: a
// partition table, a file system, or membership of something that spans
// several disks. Nobody may hold the disk at the moment and sysfs may know
// nothing of it; the sectors still do.
//
// Only fixed places are read, about half a megabyte of a disk of any size and
// as much of each partition. Magic numbers and places are those of the
// formats' own documents; the tests ask libblkid, a second implementation,
// what it makes of the same bytes. A magic number is enough to be found,
// checksums are not verified: a damaged member is a member, too.
package signature

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Kind is what a signature says of a disk.
type Kind string

// The kinds. The first four are members of something that may span several
// disks, so that erasing one of them harms data elsewhere.
const (
	RAID  Kind = "raid"  // Linux md, Intel or DDF firmware RAID
	LVM   Kind = "lvm"   // physical volume
	ZFS   Kind = "zfs"   // vdev of a pool
	Ceph  Kind = "ceph"  // OSD
	Table Kind = "table" // partition table
	Data  Kind = "data"  // a file system, an encrypted volume, swap space …
)

// Member reports whether the kind is membership of something larger.
func (k Kind) Member() bool { return k != Table && k != Data }

// Found is one signature.
type Found struct {
	Kind   Kind     `json:"kind"`
	Name   string   `json:"name"`             // for users: "an xfs file system"
	Offset int64    `json:"offset"`           // of the magic number, bytes from the start of the disk
	Part   int      `json:"part,omitempty"`   // number of the partition it is in, 0 for the disk itself
	Labels []string `json:"labels,omitempty"` // of a GPT: the partitions' labels in order of number
}

// String names the signature and, if it is in one, the partition.
func (f Found) String() string {
	if f.Part > 0 {
		return fmt.Sprintf("%s in partition %d", f.Name, f.Part)
	}
	return f.Name
}

// Find returns the signatures on a disk of size bytes and in the partitions
// that its table names, in the order of the partitions. With an error, the
// list may lack some.
func Find(disk io.ReaderAt, size int64) ([]Found, error) {
	r := &reader{disk: disk}
	table, parts := r.table(size)
	found := r.area(extent{0, size, 0})
	if table != nil {
		found = append([]Found{*table}, found...)
	}
	for _, p := range parts {
		if p.start > 0 && p.size > 0 && p.size <= size-p.start {
			found = append(found, r.area(p)...)
		}
	}
	return found, r.err
}

// extent is the disk or a partition of it, in bytes.
type extent struct {
	start, size int64
	part        int
}

// reader keeps the first error, so that a search reads as one.
type reader struct {
	disk io.ReaderAt
	err  error
}

// bytes returns n bytes at off, zeros where the disk cannot be read.
func (r *reader) bytes(off int64, n int) []byte {
	b := make([]byte, n)
	if got, err := r.disk.ReadAt(b, off); err != nil && got < n && r.err == nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		r.err = err
	}
	return b
}

// area looks into one extent. Of the signatures with one name the first
// counts: a copy says nothing new.
func (r *reader) area(e extent) []Found {
	var found []Found
	add := func(kind Kind, name string, off int64) {
		if !slices.ContainsFunc(found, func(f Found) bool { return f.Name == name }) {
			found = append(found, Found{Kind: kind, Name: name, Offset: e.start + off, Part: e.part})
		}
	}
	for _, m := range magics() {
		off := m.place(e.size)
		if off < 0 || off+int64(len(m.value)) > e.size {
			continue
		}
		if string(r.bytes(e.start+off, len(m.value))) == m.value {
			add(m.kind, m.name, off)
		}
	}
	for _, label := range zfsLabels(e.size) {
		if off, ok := r.uberblock(e.start + label); ok {
			add(ZFS, "a member of a ZFS pool", off-e.start)
		}
	}
	return found
}

// A ZFS label is 256 KiB: two at the start and two at the end of the vdev,
// whose size counts in whole labels. Its second half is a ring of uberblocks
// of 1 to 8 KiB each, which start with this number in the writer's byte order
// (OpenZFS, include/sys/vdev_impl.h, uberblock_impl.h).
const (
	zfsLabel = 256 << 10
	zfsRing  = 128 << 10
	zfsMagic = 0x00bab10c
)

func zfsLabels(size int64) []int64 {
	end := size &^ (zfsLabel - 1)
	if end < 4*zfsLabel {
		return nil
	}
	return []int64{0, zfsLabel, end - 2*zfsLabel, end - zfsLabel}
}

func (r *reader) uberblock(label int64) (int64, bool) {
	ring := r.bytes(label+zfsRing, zfsRing)
	for off := 0; off < len(ring); off += 1 << 10 {
		if little, big := binary.LittleEndian.Uint64(ring[off:]), binary.BigEndian.Uint64(ring[off:]); little == zfsMagic || big == zfsMagic {
			return label + zfsRing + int64(off), true
		}
	}
	return 0, false
}

// zero reports whether b holds zeros only.
func zero(b []byte) bool { return bytes.Count(b, []byte{0}) == len(b) }
