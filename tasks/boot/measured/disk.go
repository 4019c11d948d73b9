package measured

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"cc-base/tasks/fault"
)

// sector is the size of a disk's sectors in bytes; cc-base makes no other disk.
const sector = 512

// Bounds of a GUID partition table (UEFI 2.10, section 5.3).
const (
	tableHeader = 92
	leastEntry  = 128
	mostEntry   = 4096
	mostEntries = 1024
)

// PartitionTable reads the primary partition table of a raw disk, or of a file
// without the disk's first sector, and returns what firmware measures of it,
// UEFI_GPT_DATA: the header, the number of entries in use and these entries
// (edk2 SecurityPkg/Library/DxeTpm2MeasureBootLib, Tcg2MeasureGptTable).
// Checksums must be right: firmware would use the backup table of a disk where
// they are not. Its errors have the code fault.DiskImage.
func PartitionTable(disk io.ReaderAt) ([]byte, error) {
	data, err := partitionTable(disk)
	if err != nil {
		return nil, fault.New(fault.DiskImage, err)
	}
	return data, nil
}

func partitionTable(disk io.ReaderAt) ([]byte, error) {
	const magic = "EFI PART"
	le := binary.LittleEndian
	header, start := make([]byte, tableHeader), int64(sector) // where the disk's second sector lies
	if _, err := disk.ReadAt(header, 0); err == nil && string(header[:8]) == magic {
		start = 0
	} else if _, err := disk.ReadAt(header, start); err != nil {
		return nil, fmt.Errorf("there is no partition table: %w", err)
	}
	if string(header[:8]) != magic {
		return nil, errors.New("there is no partition table (GPT) in the first two sectors of 512 bytes; a raw disk is needed, no qcow2")
	}
	if n := le.Uint32(header[12:]); n != tableHeader {
		return nil, fmt.Errorf("partition table: a header of %d bytes", n)
	}
	bare := bytes.Clone(header)
	clear(bare[16:20]) // the checksum is made with zeros in its own place
	if crc32.ChecksumIEEE(bare) != le.Uint32(header[16:]) {
		return nil, errors.New("partition table: the header's checksum is wrong")
	}
	place, n, size := le.Uint64(header[72:]), le.Uint32(header[80:]), le.Uint32(header[84:])
	if size < leastEntry || size > mostEntry || size%leastEntry != 0 || n == 0 || n > mostEntries || place < 2 || place > 1<<40 {
		return nil, fmt.Errorf("partition table: %d entries of %d bytes at sector %d", n, size, place)
	}
	entries := make([]byte, n*size)
	if _, err := disk.ReadAt(entries, start+int64(place-1)*sector); err != nil {
		return nil, fmt.Errorf("partition table: the entries at sector %d: %w", place, err)
	}
	if crc32.ChecksumIEEE(entries) != le.Uint32(header[88:]) {
		return nil, errors.New("partition table: the entries' checksum is wrong")
	}
	var used []byte
	count := uint64(0)
	for e := entries; len(e) > 0; e = e[size:] {
		if [16]byte(e[:16]) != [16]byte{} {
			used = append(used, e[:size]...)
			count++
		}
	}
	return append(le.AppendUint64(header, count), used...), nil
}
