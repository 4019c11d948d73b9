package hwtest

import (
	"encoding/binary"
	"hash/crc32"
	"strings"
)

// The samples hold the fields by which libblkid knows a format: magic number,
// version, sizes and, where it verifies one, the checksum.

// RAID returns a member of a Linux RAID with metadata of the version: 0.90,
// 1.0, 1.1 or 1.2.
func RAID(size int64, version string) Sectors {
	disk, le := Blank(size), binary.LittleEndian
	sb := make([]byte, 4096)
	le.PutUint32(sb, 0xa92b4efc)
	if version == "0.90" {
		le.PutUint32(sb[8:], 90)
		sb[20] = 1 // set_uuid
		disk.Blocks[size/65536*65536-65536] = sb
		return disk
	}
	off := map[string]int64{"1.0": (size - 8192) / 4096 * 4096, "1.1": 0, "1.2": 4096}[version]
	le.PutUint32(sb[4:], 1)
	sb[16] = 1 // set_uuid
	le.PutUint64(sb[144:], uint64(off/512))
	var sum uint64
	for i := 0; i < 256; i += 4 {
		sum += uint64(le.Uint32(sb[i:]))
	}
	le.PutUint32(sb[216:], uint32(sum)+uint32(sum>>32))
	disk.Blocks[off] = sb
	return disk
}

// LVM returns a physical volume, labelled in its second sector as pvcreate
// does.
func LVM(size int64) Sectors {
	label := make([]byte, 512)
	copy(label, "LABELONE")
	label[8] = 1
	binary.LittleEndian.PutUint32(label[20:], 32)
	copy(label[24:], "LVM2 001"+strings.Repeat("u", 32))
	binary.LittleEndian.PutUint64(label[64:], uint64(size))
	// LVM's checksum is CRC-32 with another start value and no last inversion.
	binary.LittleEndian.PutUint32(label[16:], ^crc32.Update(^uint32(0xf597a6cf), crc32.IEEETable, label[20:]))
	disk := Blank(size)
	disk.Blocks[512] = label
	return disk
}

// ZFS returns a vdev: four labels with eight uberblocks each.
func ZFS(size int64) Sectors {
	disk := Blank(size)
	const label = 256 << 10
	end := size / label * label
	for _, at := range []int64{0, label, end - 2*label, end - label} {
		ring := make([]byte, 8<<10)
		for i := 0; i < len(ring); i += 1 << 10 {
			binary.LittleEndian.PutUint64(ring[i:], 0x00bab10c)
			binary.LittleEndian.PutUint64(ring[i+8:], 5000) // version
			binary.LittleEndian.PutUint64(ring[i+16:], 4)   // transaction group
		}
		disk.Blocks[at+label/2] = ring
	}
	return disk
}

// Ceph returns the block device of an OSD.
func Ceph(size int64) Sectors {
	disk := Blank(size)
	disk.Blocks[0] = []byte("bluestore block device\n" + strings.Repeat("0", 8) + "-0000-4000-8000-000000000001\n")
	return disk
}

// LUKS returns an encrypted volume of version 1.
func LUKS(size int64) Sectors {
	b := make([]byte, 592)
	copy(b, "LUKS\xba\xbe\x00\x01aes")
	copy(b[168:], "00000000-0000-4000-8000-000000000001")
	disk := Blank(size)
	disk.Blocks[0] = b
	return disk
}

// Swap returns swap space made on a machine with pages of 4 KiB.
func Swap(size int64) Sectors {
	disk := Blank(size)
	disk.Blocks[1024] = []byte{1, 0, 0, 0, 255, 0, 0, 0, 0, 0, 0, 0, 1}
	disk.Blocks[4086] = []byte("SWAPSPACE2")
	return disk
}

// Bcache returns a backing device.
func Bcache(size int64) Sectors {
	b := make([]byte, 4096)
	le := binary.LittleEndian
	le.PutUint64(b[8:], 8)  // in sectors, its own place
	le.PutUint64(b[16:], 1) // a backing device
	copy(b[24:], "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81\x01")
	le.PutUint64(b[168:], 16) // where its data starts
	le.PutUint64(b, crc64(b[8:208]))
	disk := Blank(size)
	disk.Blocks[4096] = b
	return disk
}

// crc64 is the unreflected CRC-64 of ECMA-182 with inversions, as bcache uses
// it; the standard library has the reflected one.
func crc64(p []byte) uint64 {
	crc := ^uint64(0)
	for _, b := range p {
		crc ^= uint64(b) << 56
		for range 8 {
			carry := crc >> 63
			crc = crc<<1 ^ carry*0x42f0e1eba9ea3693
		}
	}
	return ^crc
}

// Ext4 returns a file system.
func Ext4(size int64) Sectors {
	b := make([]byte, 1024)
	le := binary.LittleEndian
	le.PutUint32(b, 64)              // inodes
	le.PutUint32(b[4:], 1024)        // blocks
	le.PutUint32(b[20:], 1)          // first block
	le.PutUint16(b[56:], 0xef53)     //
	le.PutUint32(b[76:], 1)          // revision
	le.PutUint32(b[92:], 0x4)        // has a journal
	le.PutUint32(b[96:], 0x40|0x2)   // extents, file types
	le.PutUint32(b[100:], 0x8|0x2|1) // huge files and more
	b[104] = 1                       // UUID
	disk := Blank(size)
	disk.Blocks[1024] = b
	return disk
}

// XFS returns a file system of four groups of 64 MiB.
func XFS(size int64) Sectors {
	b := make([]byte, 512)
	be := binary.BigEndian
	copy(b, "XFSB")
	be.PutUint32(b[4:], 4096)
	be.PutUint64(b[8:], 4*16384)
	b[32] = 1 // UUID
	be.PutUint64(b[48:], 32)
	be.PutUint32(b[80:], 1)
	be.PutUint32(b[84:], 16384)
	be.PutUint32(b[88:], 4)
	be.PutUint32(b[96:], 1024)
	be.PutUint16(b[100:], 0xb4a4)
	be.PutUint16(b[102:], 512)
	be.PutUint16(b[104:], 512)
	be.PutUint16(b[106:], 8)
	copy(b[120:], []byte{12, 9, 9, 3, 14, 0, 0, 25})
	disk := Blank(size)
	disk.Blocks[0] = b
	return disk
}

// Btrfs returns a device of a file system of so many devices.
func Btrfs(size int64, devices uint64) Sectors {
	b := make([]byte, 4096)
	le := binary.LittleEndian
	b[32] = 1 // UUID
	le.PutUint64(b[48:], 64<<10)
	copy(b[64:], "_BHRfS_M")
	le.PutUint64(b[112:], uint64(size))
	le.PutUint64(b[136:], devices)
	le.PutUint32(b[144:], 4096)
	le.PutUint32(b[148:], 16384)
	le.PutUint32(b, crc32.Checksum(b[32:], crc32.MakeTable(crc32.Castagnoli)))
	disk := Blank(size)
	disk.Blocks[64<<10] = b
	return disk
}
