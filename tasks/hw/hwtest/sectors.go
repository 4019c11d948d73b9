package hwtest

import (
	"encoding/binary"
	"hash/crc32"
	"io"
	"maps"
	"slices"
	"unicode/utf16"
)

// Sectors is what lies on a disk: a few blocks of bytes by their offset,
// zeros elsewhere.
type Sectors struct {
	Size   int64
	Blocks map[int64][]byte
}

// Blank returns a disk of zeros; size in bytes.
func Blank(size int64) Sectors { return Sectors{size, map[int64][]byte{}} }

// ReadAt implements [io.ReaderAt].
func (s Sectors) ReadAt(p []byte, off int64) (int, error) {
	if off >= s.Size {
		return 0, io.EOF
	}
	var err error
	if int64(len(p)) > s.Size-off {
		p, err = p[:s.Size-off], io.EOF
	}
	clear(p)
	for _, at := range slices.Sorted(maps.Keys(s.Blocks)) {
		b := s.Blocks[at]
		if from, to := max(at, off), min(at+int64(len(b)), off+int64(len(p))); from < to {
			copy(p[from-off:], b[from-at:to-at])
		}
	}
	return len(p), err
}

// Put writes into the partition that starts at start what another disk of the
// partition's size holds.
func (s Sectors) Put(start int64, other Sectors) Sectors {
	for at, b := range other.Blocks {
		s.Blocks[start+at] = b
	}
	return s
}

// Slot is a partition of a table to be made.
type Slot struct {
	Label       string
	Start, Size int64 // bytes
}

// GPT returns a disk with the partitions, both copies of the table and the
// protective record.
func GPT(size int64, slots ...Slot) Sectors {
	const sector = 512
	entries := make([]byte, 128*128)
	for i, s := range slots {
		e := entries[i*128:]
		copy(e, "\xaf\x3d\xc6\x0f\x83\x84\x72\x47\x8e\x79\x3d\x69\xd8\x47\x7d\xe4") // Linux file system data
		e[16] = byte(i + 1)
		binary.LittleEndian.PutUint64(e[32:], uint64(s.Start/sector))
		binary.LittleEndian.PutUint64(e[40:], uint64((s.Start+s.Size)/sector-1))
		for j, unit := range utf16.Encode([]rune(s.Label)) {
			binary.LittleEndian.PutUint16(e[56+2*j:], unit)
		}
	}
	header := func(at, other, first int64) []byte {
		h := make([]byte, sector)
		copy(h, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
		for off, v := range map[int]int64{24: at, 32: other, 40: 34, 48: size/sector - 34, 72: first} {
			binary.LittleEndian.PutUint64(h[off:], uint64(v))
		}
		h[56] = 0xcc
		binary.LittleEndian.PutUint32(h[80:], 128)
		binary.LittleEndian.PutUint32(h[84:], 128)
		binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
		binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
		return h
	}
	last := size/sector - 1
	disk := MBR(size, Record{0xee, 1, uint32(min(last, 1<<32-1))})
	disk.Blocks[sector] = header(1, last, 2)
	disk.Blocks[2*sector] = entries
	disk.Blocks[(last-32)*sector] = entries
	disk.Blocks[last*sector] = header(last, 1, last-32)
	return disk
}

// Record is an entry of a boot record, in sectors of 512 bytes.
type Record struct {
	Type         byte
	Start, Count uint32
}

// MBR returns a disk with a master boot record.
func MBR(size int64, records ...Record) Sectors {
	b := make([]byte, 512)
	b[510], b[511] = 0x55, 0xaa
	for i, r := range records {
		e := b[446+16*i:]
		e[4] = r.Type
		binary.LittleEndian.PutUint32(e[8:], r.Start)
		binary.LittleEndian.PutUint32(e[12:], r.Count)
	}
	disk := Blank(size)
	disk.Blocks[0] = b
	return disk
}
