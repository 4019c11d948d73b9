package pcr

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"cc-base/tasks/fault"
)

// Sizes in a GUID partition table (UEFI 2.10, section 5.3).
const (
	sectorSize    = 512
	gptHeaderSize = 92
	gptEntrySize  = 128
	gptMaxEntries = 1024
)

// ReadGPT reads the partition table of a raw disk with sectors of 512 bytes and
// returns what the firmware measures of it into PCR 5: the header, the number
// of entries in use and these entries (UEFI_GPT_DATA of the TCG PC Client
// Platform Firmware Profile). Its errors have the code fault.DiskImage.
func ReadGPT(disk io.ReaderAt) ([]byte, error) {
	data, err := readGPT(disk)
	if err != nil {
		return nil, fault.New(fault.DiskImage, fmt.Errorf("the partition table: %w", err))
	}
	return data, nil
}

func readGPT(disk io.ReaderAt) ([]byte, error) {
	le := binary.LittleEndian
	header := make([]byte, gptHeaderSize)
	if _, err := disk.ReadAt(header, sectorSize); err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(header, []byte("EFI PART")) {
		return nil, errors.New("there is none; a raw disk is needed, no qcow2")
	}
	if n := le.Uint32(header[12:]); n != gptHeaderSize {
		return nil, fmt.Errorf("its header has %d bytes", n)
	}
	bare := bytes.Clone(header)
	clear(bare[16:20])
	if crc32.ChecksumIEEE(bare) != le.Uint32(header[16:]) {
		return nil, errors.New("the checksum of its header is wrong")
	}
	place, n, size := le.Uint64(header[72:]), le.Uint32(header[80:]), le.Uint32(header[84:])
	if size != gptEntrySize || n == 0 || n > gptMaxEntries || place < 2 || place > 1<<40 {
		return nil, fmt.Errorf("it has %d entries of %d bytes at sector %d", n, size, place)
	}
	entries := make([]byte, n*size)
	if _, err := disk.ReadAt(entries, int64(place)*sectorSize); err != nil {
		return nil, err
	}
	if crc32.ChecksumIEEE(entries) != le.Uint32(header[88:]) {
		return nil, errors.New("the checksum of its entries is wrong")
	}
	var used []byte
	for e := entries; len(e) > 0; e = e[gptEntrySize:] {
		if !bytes.Equal(e[:16], make([]byte, 16)) {
			used = append(used, e[:gptEntrySize]...)
		}
	}
	data := le.AppendUint64(header, uint64(len(used)/gptEntrySize))
	return append(data, used...), nil
}
