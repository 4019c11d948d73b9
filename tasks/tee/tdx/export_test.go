package tdx

import (
	"encoding/binary"
	"hash/crc32"
)

// StubArchive is the archive that systemd-stub makes of a section.
func StubArchive(file string, data []byte) []byte { return stubArchive(file, data) }

// FixGPT returns a copy of a partition table with right checksums, as far as
// it can have any.
func FixGPT(data []byte) []byte {
	data = append([]byte(nil), data...)
	if len(data) < 1024 {
		return data
	}
	le := binary.LittleEndian
	header := data[512 : 512+92]
	lba, count, length := le.Uint64(header[72:]), uint64(le.Uint32(header[80:])), uint64(le.Uint32(header[84:]))
	if lba < 1<<20 && count <= 1024 && length <= 4096 && lba*512+count*length <= uint64(len(data)) {
		le.PutUint32(header[88:], crc32.ChecksumIEEE(data[lba*512:][:count*length]))
	}
	clear(header[16:20])
	le.PutUint32(header[16:], crc32.ChecksumIEEE(header))
	return data
}
