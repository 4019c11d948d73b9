// Package qcow2 reads disk images in QEMU's format, so that the installer needs
// no program of the host to unpack the one it carries.
//
// It reads what `qemu-img convert -O qcow2` writes and refuses the rest: only
// version 3, no backing file, no snapshot, no encryption, no external data, no
// compressed cluster. An image is hostile until its checksum is verified, so
// every offset is checked against the file before it is used (source: QEMU's
// docs/interop/qcow2.txt).
package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

const (
	magic      = 0x514649fb // "QFI" and 0xfb
	headerSize = 104        // of version 3, without the fields it may have after that

	entryOffset   = 0x00fffffffffffe00 // bits 9 to 55
	entryCopied   = 1 << 63            // refcount is exactly one; of use to writers only
	l2Compressed  = 1 << 62
	l2Zero        = 1
	compatDirty   = 1 << 0 // refcounts may be stale, they are not read here
	maxL1Entries  = 32 << 20 / 8
	maxClusterLog = 21
	minClusterLog = 9
)

// Image is an open image. It is an [io.ReaderAt] over the disk that the image
// holds; parts that the image does not store read as zeros. Several goroutines
// may read at once.
type Image struct {
	file     io.ReaderAt
	fileSize int64
	size     int64
	bits     uint // log2 of the cluster size
	l1       []uint64

	mu sync.Mutex
	l2 map[uint64][]uint64 // by place in the file: one table read once, however often L1 names it
}

// Open reads the header and the first-level table of an image of fileSize
// bytes.
func Open(file io.ReaderAt, fileSize int64) (*Image, error) {
	var h [headerSize]byte
	if _, err := file.ReadAt(h[:], 0); err != nil {
		return nil, fmt.Errorf("qcow2: reading the header: %w", err)
	}
	u32 := func(at int) uint32 { return binary.BigEndian.Uint32(h[at:]) }
	u64 := func(at int) uint64 { return binary.BigEndian.Uint64(h[at:]) }

	bits, size := u32(20), u64(24)
	switch {
	case u32(0) != magic:
		return nil, errors.New("qcow2: not a qcow2 image")
	case u32(4) != 3:
		return nil, fmt.Errorf("qcow2: version %d, only 3 is read", u32(4))
	case u64(8) != 0:
		return nil, errors.New("qcow2: the image has a backing file")
	case bits < minClusterLog || bits > maxClusterLog:
		return nil, fmt.Errorf("qcow2: clusters of 2^%d bytes", bits)
	case size%512 != 0 || size > 1<<56:
		return nil, fmt.Errorf("qcow2: a disk of %d bytes", size)
	case u32(32) != 0:
		return nil, errors.New("qcow2: the image is encrypted by QEMU")
	case u32(60) != 0:
		return nil, errors.New("qcow2: the image has snapshots")
	case u64(72)&^compatDirty != 0:
		return nil, fmt.Errorf("qcow2: incompatible features %#x", u64(72))
	case u32(100) < headerSize || u32(100) > 1<<bits || u32(100)%8 != 0:
		return nil, fmt.Errorf("qcow2: a header of %d bytes", u32(100))
	}

	i := &Image{file: file, fileSize: fileSize, size: int64(size), bits: uint(bits), l2: map[uint64][]uint64{}}
	span := uint64(1) << (bits + bits - 3) // bytes of disk that one L1 entry covers
	need := (size + span - 1) / span
	if entries := uint64(u32(36)); entries < need || need > maxL1Entries {
		return nil, fmt.Errorf("qcow2: a first-level table of %d entries, the disk needs %d", entries, need)
	}
	l1, err := i.table(u64(40), int(need))
	if err != nil {
		return nil, fmt.Errorf("qcow2: first-level table: %w", err)
	}
	i.l1 = l1
	return i, nil
}

// Size returns the size of the disk in bytes.
func (i *Image) Size() int64 { return i.size }

// ReadAt implements [io.ReaderAt] over the disk.
func (i *Image) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("qcow2: negative offset")
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at >= i.size {
			return done, io.EOF
		}
		inCluster := at & (1<<i.bits - 1)
		n := min(int64(len(p)-done), 1<<i.bits-inCluster, i.size-at)
		if err := i.readCluster(p[done:done+int(n)], at, inCluster); err != nil {
			return done, fmt.Errorf("qcow2: reading the disk at %d: %w", at, err)
		}
		done += int(n)
	}
	return done, nil
}

// readCluster fills p, which lies in one cluster, from disk offset at.
func (i *Image) readCluster(p []byte, at, inCluster int64) error {
	place, err := i.lookup(uint64(at))
	if err != nil {
		return err
	}
	if place == 0 {
		clear(p)
		return nil
	}
	n, err := i.file.ReadAt(p, int64(place)+inCluster)
	if n < len(p) && errors.Is(err, io.EOF) {
		// The last cluster of the file may be cut short; QEMU reads zeros there.
		clear(p[n:])
		return nil
	}
	if n == len(p) {
		return nil
	}
	return err
}

// lookup returns where in the file the cluster with disk offset at is, or 0
// when the image does not store it.
func (i *Image) lookup(at uint64) (uint64, error) {
	l2Bits := i.bits - 3
	entry := i.l1[at>>(i.bits+l2Bits)]
	if entry&^(entryOffset|entryCopied) != 0 {
		return 0, fmt.Errorf("first-level entry %#x has reserved bits set", entry)
	}
	if entry&entryOffset == 0 {
		return 0, nil
	}
	l2, err := i.second(entry & entryOffset)
	if err != nil {
		return 0, err
	}
	entry = l2[at>>i.bits&(1<<l2Bits-1)]
	place := entry & entryOffset
	switch {
	case entry&l2Compressed != 0:
		return 0, errors.New("the cluster is compressed, which is not read here")
	case entry&^(entryOffset|entryCopied|l2Zero) != 0:
		return 0, fmt.Errorf("second-level entry %#x has reserved bits set", entry)
	case entry&l2Zero != 0 || place == 0:
		return 0, nil
	case place%(1<<i.bits) != 0 || place >= uint64(i.fileSize):
		return 0, fmt.Errorf("second-level entry points to %d in a file of %d bytes", place, i.fileSize)
	}
	return place, nil
}

func (i *Image) second(place uint64) ([]uint64, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if t, ok := i.l2[place]; ok {
		return t, nil
	}
	t, err := i.table(place, 1<<(i.bits-3))
	if err != nil {
		return nil, fmt.Errorf("second-level table: %w", err)
	}
	i.l2[place] = t
	return t, nil
}

// table reads entries of 8 bytes. The table must lie on a cluster and inside
// the file, so memory is bounded by the file's size.
func (i *Image) table(place uint64, entries int) ([]uint64, error) {
	bytes := uint64(entries) * 8
	if place%(1<<i.bits) != 0 || place > uint64(i.fileSize) || bytes > uint64(i.fileSize)-place {
		return nil, fmt.Errorf("it is at %d with %d bytes, the file has %d", place, bytes, i.fileSize)
	}
	raw := make([]byte, bytes)
	if _, err := i.file.ReadAt(raw, int64(place)); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	t := make([]uint64, entries)
	for n := range t {
		t[n] = binary.BigEndian.Uint64(raw[n*8:])
	}
	return t, nil
}
