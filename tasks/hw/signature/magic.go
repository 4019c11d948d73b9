package signature

import "strings"

// magic is a fixed value at a place that the size of the disk determines.
type magic struct {
	kind  Kind
	name  string
	place func(size int64) int64
	value string
}

// magics are all fixed signatures. Several rows of one name are versions and
// byte orders of one format, or copies of which one is enough.
func magics() []magic {
	at := func(off int64) func(int64) int64 { return func(int64) int64 { return off } }
	fromEnd := func(off int64) func(int64) int64 { return func(size int64) int64 { return size - off } }
	const (
		md     = "\xfc\x4e\x2b\xa9" // MD_SB_MAGIC 0xa92b4efc, little endian
		sector = 512
	)
	all := []magic{
		// linux/raid/md_p.h; the places are those of md(4) and mdadm's super0.c, super1.c.
		{RAID, "a Linux RAID superblock 0.90", md090, md},
		{RAID, "a Linux RAID superblock 0.90", md090, reverse(md)},
		{RAID, "a Linux RAID superblock 1.0", md10, md},
		{RAID, "a Linux RAID superblock 1.1", at(0), md},
		{RAID, "a Linux RAID superblock 1.2", at(4096), md},
		{RAID, "an Intel firmware RAID superblock", fromEnd(2 * sector), "Intel Raid ISM Cfg Sig. "},
		{RAID, "a DDF firmware RAID header", fromEnd(sector), "\xde\x11\xde\x11"},

		{Ceph, "a Ceph BlueStore label", at(0), "bluestore block device"},

		{Data, "a LUKS volume", at(0), "LUKS\xba\xbe"},
		{Data, "a bcache superblock", at(4096 + 24), "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"},
		{Data, "a bcachefs file system", at(4096 + 24), "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"},
		{Data, "a dm-integrity volume", at(0), "integrt\x00"},
		{Data, "a VDO volume", at(0), "dmvdo001"},
		{Data, "a Stratis pool", at(sector + 4), "!Stra0tis\x86\xff\x02^\x41rh"},

		{Data, "an ext2, ext3 or ext4 file system", at(1024 + 56), "\x53\xef"},
		{Data, "an xfs file system", at(0), "XFSB"},
		{Data, "a btrfs file system", at(64<<10 + 64), "_BHRfS_M"},
		{Data, "an f2fs file system", at(1024), "\x10\x20\xf5\xf2"},
		{Data, "an erofs file system", at(1024), "\xe2\xe1\xf5\xe0"},
		{Data, "a squashfs file system", at(0), "hsqs"},
		{Data, "a jfs file system", at(32 << 10), "JFS1"},
		{Data, "an NTFS file system", at(3), "NTFS    "},
		{Data, "a BitLocker volume", at(3), "-FVE-FS-"},
		{Data, "an exFAT file system", at(3), "EXFAT   "},
		{Data, "a FAT file system", at(54), "FAT12   "},
		{Data, "a FAT file system", at(54), "FAT16   "},
		{Data, "a FAT file system", at(82), "FAT32   "},
		{Data, "an ISO 9660 file system", at(32<<10 + 1), "CD001"},
		{Data, "an APFS container", at(32), "NXSB"},
		{Data, "an HFS+ file system", at(1024), "H+\x00\x04"},
		// Cluster file systems: another host may use the disk right now.
		{Data, "a GFS2 file system", at(64 << 10), "\x01\x16\x19\x70"},
		{Data, "an OCFS2 file system", at(2048), "OCFSV2"},
		{Data, "an OCFS2 file system", at(4096), "OCFSV2"},
		{Data, "a VMFS volume", at(1 << 20), "\x0d\xd0\x01\xc0"},
	}
	// LVM2 puts its label into one of the first four sectors, and looks there
	// (lib/label/label.h).
	for i := range int64(4) {
		all = append(all, magic{LVM, "an LVM physical volume", at(i * sector), "LABELONE"})
	}
	// The second header of LUKS2 survives where the first was overwritten; its
	// place depends on the size of the header area (LUKS2 on-disk format, 2).
	for off := int64(16 << 10); off <= 4<<20; off *= 2 {
		all = append(all, magic{Data, "a LUKS volume", at(off), "SKUL\xba\xbe"})
	}
	// Swap space is signed at the end of its first page, whose size is that of
	// the machine that made it (linux/swap.h).
	for page := int64(4 << 10); page <= 64<<10; page *= 2 {
		all = append(all,
			magic{Data, "swap space", at(page - 10), "SWAPSPACE2"},
			magic{Data, "swap space", at(page - 10), "SWAP-SPACE"},
			magic{Data, "a hibernated system", at(page - 10), "S1SUSPEND\x00"})
	}
	return all
}

// md090 is the last whole 64 KiB of the disk.
func md090(size int64) int64 { return size&^(64<<10-1) - 64<<10 }

// md10 is at least 8 and less than 12 KiB before the end, at a multiple of 4 KiB.
func md10(size int64) int64 { return (size/512*512 - 8<<10) &^ (4<<10 - 1) }

func reverse(s string) string {
	var b strings.Builder
	for i := len(s) - 1; i >= 0; i-- {
		b.WriteByte(s[i])
	}
	return b.String()
}
