package tdx

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// sector is the size of a disk's sectors in bytes; cc-base makes no other disk.
const sector = 512

// GPT is a partition table as firmware measures it.
type GPT struct {
	header  []byte // 92 bytes
	entries []byte // those in use, in order
	size    int    // of one
}

// ParseGPT reads the primary partition table from the first bytes of a disk,
// or from what follows its first sector. Checksums must be right: firmware
// would use the backup table of a disk where they are not.
func ParseGPT(data []byte) (*GPT, error) {
	const magic = "EFI PART"
	le := binary.LittleEndian
	at, first := 0, uint64(1) // where the table lies, and the sector that data begins with
	if len(data) >= 2*sector && string(data[sector:sector+8]) == magic {
		at, first = sector, 0
	}
	if len(data) < at+sector || string(data[at:at+8]) != magic {
		return nil, errors.New("there is no partition table (GPT) in the first two sectors of 512 bytes")
	}
	const size = 92
	header := data[at : at+size]
	if n := le.Uint32(header[12:]); n != size {
		return nil, fmt.Errorf("partition table: a header of %d bytes, want %d", n, size)
	}
	copied := append([]byte(nil), header...)
	clear(copied[16:20]) // the checksum is made with zeros in its own place
	if crc32.ChecksumIEEE(copied) != le.Uint32(header[16:]) {
		return nil, errors.New("partition table: the header's checksum is wrong")
	}
	lba, count, length := le.Uint64(header[72:]), uint64(le.Uint32(header[80:])), uint64(le.Uint32(header[84:]))
	if length < 128 || length > 4096 || count == 0 || count > 1024 {
		return nil, fmt.Errorf("partition table: %d entries of %d bytes", count, length)
	}
	if lba < first || lba > uint64(len(data))/sector {
		return nil, fmt.Errorf("partition table: the entries at sector %d are not in the %d bytes given", lba, len(data))
	}
	entries := data[min((lba-first)*sector, uint64(len(data))):]
	if uint64(len(entries)) < count*length {
		return nil, fmt.Errorf("partition table: the entries at sector %d are not in the %d bytes given", lba, len(data))
	}
	entries = entries[:count*length]
	if crc32.ChecksumIEEE(entries) != le.Uint32(header[88:]) {
		return nil, errors.New("partition table: the entries' checksum is wrong")
	}
	g := &GPT{header: header, size: int(length)}
	for ; len(entries) > 0; entries = entries[length:] {
		if [16]byte(entries[:16]) != [16]byte{} {
			g.entries = append(g.entries, entries[:length]...)
		}
	}
	return g, nil
}

// event returns what is measured: header, number of partitions, and their
// entries without the unused ones (edk2 SecurityPkg/Library/
// DxeTpm2MeasureBootLib, Tcg2MeasureGptTable).
func (g *GPT) event() []byte {
	out := append([]byte(nil), g.header...)
	out = binary.LittleEndian.AppendUint64(out, uint64(len(g.entries)/g.size))
	return append(out, g.entries...)
}
