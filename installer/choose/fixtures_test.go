package choose_test

import (
	"io/fs"
	"strings"
	"syscall"
	"testing/fstest"

	"golang.org/x/sys/unix"

	. "cc-base/tasks/hw/hwtest" // nothing but machines are made here
)

// fixture is a machine with what is to be said of it.
type fixture struct {
	name    string
	host    Host
	env     string   // NAME=VALUE …; AUTO_SELECT=true if empty
	devices []string // "NAME CLASS" of a free one, "NAME CLASS REASON,REASON" of another; the best first
	named   string   // names of those that are refused only because they were not named
	choice  string   // name, or empty
	reasons []string // of the choice
}

// labels are those of an image, in these tests.
func labels() []string { return []string{"cc-esp", "cc-root", "cc-dynamic"} }

func slot(label string, start, size int64) Slot { return Slot{Label: label, Start: start, Size: size} }

// ours is a disk with a former installation.
func ours(size int64) Sectors {
	return GPT(size, slot("cc-esp", MiB, 64*MiB), slot("cc-root", 65*MiB, GiB), slot("cc-dynamic", 2*GiB, size-3*GiB)).
		Put(65*MiB, LUKS(GiB))
}

const (
	hdd  = "queue/rotational=1"
	usb  = "../devices/pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0/host6/target6:0:0/6:0:0:0/block/"
	wwid = "device/wwid=naa.5000c500a1b2c3d4"
)

// onUSB adds a disk in the place that sysfs has for one on USB.
func onUSB(h Host, name, number string, size int64, more ...string) Host {
	return h.Link("sys/block/"+name, usb+name).DiskAt("sys/"+strings.TrimPrefix(usb, "../")+name, name, number, size, more...)
}

// opened adds a process with an open device.
func opened(h Host, pid, comm, flags string, major, minor uint32) Host {
	h.MapFS["proc/"+pid+"/fd/7"] = &fstest.MapFile{Mode: fs.ModeDevice | 0o600, Sys: &syscall.Stat_t{Rdev: unix.Mkdev(major, minor)}}
	return h.File("proc/"+pid+"/fdinfo/7", "pos:\t0\nflags:\t"+flags+"\nmnt_id:\t25\n").File("proc/"+pid+"/comm", comm+"\n")
}

func fixtures() []fixture {
	const only = "/dev/sda is the only free disk"
	free := func(f fixture) fixture { // sda alone is free
		f.choice, f.reasons = "sda", []string{only}
		return f
	}
	nvme0 := []string{"/dev/nvme0n1 is the only free disk"}
	return []fixture{
		// The order.
		{name: "no disks", host: New()},
		{name: "nvme, ssd and hdd", host: New().Disk("nvme0n1", "259:0", 480*GiB).Disk("sda", "8:0", TiB).Disk("sdb", "8:16", 4*TiB, hdd),
			devices: []string{"nvme0n1 nvme", "sda ssd", "sdb hdd"}, choice: "nvme0n1", reasons: []string{"/dev/nvme0n1: nvme goes before ssd (/dev/sda)"}},
		free(fixture{name: "one ssd", host: New().Disk("sda", "8:0", TiB), devices: []string{"sda ssd"}}),
		free(fixture{name: "one hdd", host: New().Disk("sda", "8:0", TiB, hdd), devices: []string{"sda hdd"}}),
		{name: "ssd of 1 TiB, hdd of 4 TiB", host: New().Disk("sda", "8:0", 4*TiB, hdd).Disk("sdb", "8:16", TiB),
			devices: []string{"sdb ssd", "sda hdd"}, choice: "sdb", reasons: []string{"/dev/sdb: ssd goes before hdd (/dev/sda)"}},
		{name: "1 TiB and 4 TiB of one class", host: New().Disk("sda", "8:0", TiB).Disk("sdb", "8:16", 4*TiB),
			devices: []string{"sdb ssd", "sda ssd"}, choice: "sdb", reasons: []string{"/dev/sdb is the largest free ssd disk"}},
		{name: "two equal disks", host: New().Disk("sdb", "8:16", TiB).Disk("sda", "8:0", TiB),
			devices: []string{"sda ssd", "sdb ssd"}, choice: "sda", reasons: []string{"/dev/sda comes first by name among the largest free ssd disks"}},
		{name: "the best disk is taken", host: New().Disk("nvme0n1", "259:0", TiB).Mount("259:0", "/srv", "xfs", "/dev/nvme0n1").Disk("sda", "8:0", TiB),
			devices: []string{"nvme0n1 nvme mounted", "sda ssd"}, choice: "sda", reasons: []string{only}},
		{name: "virtio disks", host: New().Disk("vda", "254:0", 20*GiB, hdd).Mount("254:0", "/", "ext4", "/dev/root").Disk("vdb", "254:16", 100*GiB, hdd, "serial=data"),
			devices: []string{"vdb hdd", "vda hdd system-disk,mounted"}, choice: "vdb", reasons: []string{"/dev/vdb is the only free disk"}},

		// Wishes.
		{name: "PREFER_SSD where an nvme is free", env: "PREFER_SSD=true", host: New().Disk("nvme0n1", "259:0", TiB).Disk("sda", "8:0", 480*GiB),
			devices: []string{"sda ssd", "nvme0n1 nvme"}, choice: "sda", reasons: []string{"/dev/sda: PREFER_SSD puts ssd before nvme (/dev/nvme0n1)"}},
		{name: "PREFER_SSD without one", env: "PREFER_SSD=1", host: New().Disk("nvme0n1", "259:0", TiB).Disk("sda", "8:0", 4*TiB, hdd),
			devices: []string{"nvme0n1 nvme", "sda hdd"}, choice: "nvme0n1",
			reasons: []string{"PREFER_SSD: no free ssd disk is here; the normal order decides: NVMe, SSD, HDD", "/dev/nvme0n1: nvme goes before hdd (/dev/sda)"}},
		{name: "PREFER_NVME", env: "PREFER_NVME=true AUTO_SELECT=true", host: New().Disk("nvme0n1", "259:0", TiB).Disk("sda", "8:0", 4*TiB),
			devices: []string{"nvme0n1 nvme", "sda ssd"}, choice: "nvme0n1", reasons: []string{"/dev/nvme0n1: PREFER_NVME puts nvme before ssd (/dev/sda)"}},
		{name: "PREFER_NVME without one", env: "PREFER_NVME=true", host: New().Disk("sda", "8:0", TiB).Disk("sdb", "8:16", TiB, hdd),
			devices: []string{"sda ssd", "sdb hdd"}, choice: "sda",
			reasons: []string{"PREFER_NVME: no free nvme disk is here; the normal order decides: NVMe, SSD, HDD", "/dev/sda: ssd goes before hdd (/dev/sdb)"}},
		{name: "PREFER_NVME with a taken one", env: "PREFER_NVME=true", host: New().Disk("nvme0n1", "259:0", TiB, "ro=1").Disk("sda", "8:0", TiB, hdd),
			devices: []string{"nvme0n1 nvme read-only", "sda hdd"}, choice: "sda",
			reasons: []string{"PREFER_NVME: no free nvme disk is here; the normal order decides: NVMe, SSD, HDD", only}},
		{name: "both wishes", env: "PREFER_NVME=true PREFER_SSD=true", host: New().Disk("nvme0n1", "259:0", 100*GiB).Disk("sda", "8:0", TiB),
			devices: []string{"nvme0n1 nvme", "sda ssd"}, choice: "nvme0n1", reasons: []string{"/dev/nvme0n1: PREFER_NVME puts nvme before ssd (/dev/sda)"}},
		{name: "both wishes without an nvme", env: "PREFER_NVME=true PREFER_SSD=true", host: New().Disk("sda", "8:0", TiB, hdd).Disk("sdb", "8:16", 100*GiB),
			devices: []string{"sdb ssd", "sda hdd"}, choice: "sdb",
			reasons: []string{"PREFER_NVME: no free nvme disk is here; PREFER_SSD is next", "/dev/sdb: PREFER_SSD puts ssd before hdd (/dev/sda)"}},
		{name: "a wish gives way to no rule", env: "PREFER_SSD=true", host: New().Disk("sda", "8:0", TiB).Sectors("sda", LVM(TiB)),
			devices: []string{"sda ssd lvm"}},

		// Mounted and in use.
		{name: "mounted", host: New().Disk("sda", "8:0", TiB).Mount("8:0", `/mnt/my\040disk`, "ext4", "/dev/sda"), devices: []string{"sda ssd mounted"}},
		{name: "mounted by partition", host: New().Disk("sda", "8:0", TiB).Part("sda", "sda1", "8:1", 90*GiB).Mount("8:1", "/srv", "ext4", "/dev/disk/by-uuid/1234"),
			devices: []string{"sda ssd mounted,data", "sda1 ssd mounted,partition"}},
		{name: "mounted through device-mapper on a partition", host: New().Disk("sda", "8:0", TiB).Part("sda", "sda1", "8:1", 90*GiB).
			Mapped("dm-0", "253:0", 90*GiB, "backup", "CRYPT-LUKS2-1234-backup").On("dm-0", "sda/sda1").Mount("253:0", "/backup", "xfs", "/dev/mapper/backup"),
			devices: []string{"sda ssd mounted,held,data", "dm-0 ssd mounted,virtual", "sda1 ssd mounted,held,partition"}},
		{name: "mounted for process 1 only", host: New().Disk("sda", "8:0", TiB).MountForFirst("8:0", "/data", "xfs", "/dev/sda"), devices: []string{"sda ssd mounted"}},
		{name: "mounted through a loop device over it", host: New().Disk("sda", "8:0", TiB).Disk("loop0", "7:0", TiB, "loop/backing_file=/dev/sda").
			Mount("7:0", "/mnt", "ext4", "/dev/loop0"), devices: []string{"loop0 ssd mounted,virtual", "sda ssd mounted,held"}},
		{name: "mounted through another path to the disk", host: New().Disk("sda", "8:0", TiB, wwid).Disk("sdb", "8:16", TiB, wwid).Mount("8:16", "/srv", "xfs", "/dev/sdb"),
			devices: []string{"sda ssd mounted,several-paths", "sdb ssd mounted,several-paths"}},
		{name: "sda in use says nothing of sdaa", host: New().Disk("sda", "8:0", TiB).Mount("8:0", "/srv", "xfs", "/dev/sda").Disk("sdaa", "65:160", TiB),
			devices: []string{"sda ssd mounted", "sdaa ssd"}, choice: "sdaa", reasons: []string{"/dev/sdaa is the only free disk"}},
		{name: "btrfs on two disks", host: New().Disk("sda", "8:0", TiB).Sectors("sda", Btrfs(TiB, 2)).Disk("sdb", "8:16", TiB).Sectors("sdb", Btrfs(TiB, 2)).
			File("sys/fs/btrfs/1234/devices/sda", "").File("sys/fs/btrfs/1234/devices/sdb", "").Mount("0:24", "/srv", "btrfs", "/dev/sda"),
			devices: []string{"sda ssd mounted,data", "sdb ssd mounted,data"}},
		{name: "btrfs that is not mounted", named: "sda", host: New().Disk("sda", "8:0", TiB).Sectors("sda", Btrfs(TiB, 2)), devices: []string{"sda ssd data"}},
		{name: "swap partition", host: New().Disk("sda", "8:0", TiB).Part("sda", "sda2", "8:2", 90*GiB).Sectors("sda2", Swap(90*GiB)).Swap("/dev/sda2"),
			devices: []string{"sda ssd swap,data", "sda2 ssd swap,data,partition"}},
		{name: "swap on a whole disk", host: New().Disk("sda", "8:0", TiB).Sectors("sda", Swap(TiB)).Swap("/dev/sda"), devices: []string{"sda ssd swap,data"}},
		{name: "swap that is off", named: "sda", host: New().Disk("sda", "8:0", TiB).Sectors("sda", Swap(TiB)), devices: []string{"sda ssd data"}},
		{name: "a virtual machine's disk", host: opened(New().Disk("sda", "8:0", TiB).Sectors("sda", ours(TiB)), "4242", "qemu-system-x86", "02500002", 8, 0),
			devices: []string{"sda ssd in-use"}},
		{name: "a virtual machine's partition", host: opened(New().Disk("sda", "8:0", TiB).Part("sda", "sda1", "8:1", 90*GiB), "4242", "qemu-system-x86", "0100001", 8, 1),
			devices: []string{"sda ssd in-use,data", "sda1 ssd in-use,partition"}},
		free(fixture{name: "a disk that somebody only reads", host: opened(New().Disk("sda", "8:0", TiB), "77", "smartd", "0104000", 8, 0), devices: []string{"sda ssd"}}),

		// Stacks.
		{name: "system disk on lvm", host: New().Disk("sda", "8:0", TiB).Part("sda", "sda1", "8:1", GiB).Mount("8:1", "/boot/efi", "vfat", "/dev/sda1").
			Part("sda", "sda2", "8:2", 900*GiB).Sectors("sda2", LVM(900*GiB)).
			Mapped("dm-0", "253:0", 50*GiB, "vg-root", "LVM-abcdef").On("dm-0", "sda/sda2").Mount("253:0", "/", "ext4", "/dev/mapper/vg-root"),
			devices: []string{"sda ssd system-disk,mounted,held,lvm,data", "sda2 ssd system-disk,mounted,held,lvm,partition",
				"dm-0 ssd system-disk,mounted,virtual", "sda1 ssd system-disk,mounted,too-small,partition"}},
		{name: "system disk on md on partitions", host: New().Disk("sda", "8:0", TiB).Part("sda", "sda1", "8:1", 900*GiB).Disk("sdb", "8:16", TiB).Part("sdb", "sdb1", "8:17", 900*GiB).
			Disk("md0", "9:0", 899*GiB, "md/array_state=clean").On("md0", "sda/sda1", "sdb/sdb1").Mount("9:0", "/", "ext4", "/dev/md0"),
			devices: []string{"sda ssd system-disk,mounted,held,raid,data", "sdb ssd system-disk,mounted,held,raid,data",
				"sda1 ssd system-disk,mounted,held,raid,partition", "sdb1 ssd system-disk,mounted,held,raid,partition", "md0 ssd system-disk,mounted,virtual"}},
		{name: "nested holders", host: New().Disk("sda", "8:0", TiB, hdd).Disk("sdb", "8:16", TiB, hdd).Disk("md0", "9:0", TiB, hdd, "md/array_state=clean").On("md0", "sda", "sdb").
			Mapped("dm-0", "253:0", 900*GiB, "safe", "CRYPT-LUKS2-1-safe", hdd).On("dm-0", "md0").
			Mapped("dm-1", "253:1", 800*GiB, "vg-home", "LVM-abc", hdd).On("dm-1", "dm-0").Mount("253:1", "/home", "ext4", "/dev/dm-1"),
			devices: []string{"md0 hdd mounted,held,virtual", "sda hdd mounted,held,raid", "sdb hdd mounted,held,raid", "dm-0 hdd mounted,held,lvm,virtual", "dm-1 hdd mounted,virtual"}},
		{name: "md, active", named: "md127", host: New().Disk("sda", "8:0", TiB).Sectors("sda", RAID(TiB, "1.2")).Disk("md127", "9:127", TiB-GiB, "md/array_state=active").On("md127", "sda"),
			devices: []string{"sda ssd held,raid", "md127 ssd virtual"}},
		{name: "md, assembled and not started", host: New().Disk("sda", "8:0", TiB).Sectors("sda", RAID(TiB, "1.2")).Disk("md127", "9:127", 0, "md/array_state=inactive", "md/dev-sda/state=spare"),
			devices: []string{"sda ssd held,raid", "md127 ssd no-medium,virtual"}},
		{name: "md, nobody holds it", host: New().Disk("sda", "8:0", TiB).Sectors("sda", RAID(TiB, "1.0")).Disk("sdb", "8:16", TiB).Sectors("sdb", RAID(TiB, "0.90")),
			devices: []string{"sda ssd raid", "sdb ssd raid"}},
		{name: "md in a partition that the kernel does not see", host: New().Disk("sda", "8:0", TiB).
			Sectors("sda", GPT(TiB, slot("raid", MiB, 100*GiB)).Put(MiB, RAID(100*GiB, "1.1"))), devices: []string{"sda ssd raid,data"}},
		{name: "a partition of a disk that is a member as a whole", host: New().Disk("sda", "8:0", TiB).Sectors("sda", RAID(TiB, "1.0")).Part("sda", "sda1", "8:1", 9*GiB),
			devices: []string{"sda ssd raid,data", "sda1 ssd raid,partition"}},
		{name: "lvm, active", named: "dm-0", host: New().Disk("sda", "8:0", TiB).Sectors("sda", LVM(TiB)).Mapped("dm-0", "253:0", 10*GiB, "vg-data", "LVM-abc").On("dm-0", "sda"),
			devices: []string{"sda ssd held,lvm", "dm-0 ssd virtual"}},
		{name: "lvm, nobody holds it", host: New().Disk("sda", "8:0", TiB).Sectors("sda", LVM(TiB)), devices: []string{"sda ssd lvm"}},
		{name: "zfs on a whole disk", host: New().Disk("sda", "8:0", TiB).Sectors("sda", GPT(TiB, slot("zfs-1", MiB, TiB-10*MiB), slot("", TiB-9*MiB, 8*MiB)).Put(MiB, ZFS(TiB-10*MiB))).
			Part("sda", "sda1", "8:1", TiB-10*MiB).Sectors("sda1", ZFS(TiB-10*MiB)).Part("sda", "sda9", "8:9", 8*MiB),
			devices: []string{"sda ssd zfs,data", "sda1 ssd zfs,partition", "sda9 ssd too-small,partition"}},
		{name: "ceph", host: New().Disk("sda", "8:0", TiB, hdd).Sectors("sda", Ceph(TiB)), devices: []string{"sda hdd ceph"}},
		{name: "ceph on lvm", host: New().Disk("sda", "8:0", TiB).Sectors("sda", LVM(TiB)).
			Mapped("dm-0", "253:0", TiB-GiB, "ceph-osd", "LVM-abc").Sectors("dm-0", Ceph(TiB-GiB)).On("dm-0", "sda"),
			devices: []string{"sda ssd held,lvm", "dm-0 ssd ceph,virtual"}},
		{name: "bcache", named: "sdb bcache0", host: New().Disk("sda", "8:0", TiB, hdd).Sectors("sda", Bcache(TiB)).Disk("bcache0", "252:0", TiB-8192, hdd).On("bcache0", "sda").
			Disk("sdb", "8:16", TiB, hdd).Sectors("sdb", Bcache(TiB)),
			devices: []string{"sda hdd held,data", "sdb hdd data", "bcache0 hdd virtual"}},
		{name: "dm-crypt", named: "sdb dm-0", host: New().Disk("sda", "8:0", TiB).Sectors("sda", LUKS(TiB)).Mapped("dm-0", "253:0", TiB-16*MiB, "safe", "CRYPT-LUKS2-1-safe").On("dm-0", "sda").
			Disk("sdb", "8:16", TiB).Sectors("sdb", LUKS(TiB)),
			devices: []string{"sda ssd held,data", "sdb ssd data", "dm-0 ssd virtual"}},
		{name: "a suspended map is not read", host: New().Mapped("dm-0", "253:0", TiB, "stuck", "CRYPT-LUKS2-1-stuck", "dm/suspended=1"),
			devices: []string{"dm-0 ssd unreadable,virtual"}},

		// Paths.
		{name: "multipath", host: New().Disk("sda", "8:0", TiB, hdd, wwid).Disk("sdb", "8:16", TiB, hdd, wwid).
			Mapped("dm-0", "253:0", TiB, "mpatha", "mpath-35000c500a1b2c3d4", hdd).On("dm-0", "sda", "sdb"),
			devices: []string{"dm-0 hdd", "sda hdd held", "sdb hdd held"}, choice: "dm-0", reasons: []string{"/dev/dm-0 is the only free disk"}},
		{name: "multipath, mounted", host: New().Disk("sda", "8:0", TiB, wwid).Disk("sdb", "8:16", TiB, wwid).
			Mapped("dm-0", "253:0", TiB, "mpatha", "mpath-35000c500a1b2c3d4").On("dm-0", "sda", "sdb").Mount("253:0", "/srv", "xfs", "/dev/mapper/mpatha"),
			devices: []string{"dm-0 ssd mounted", "sda ssd mounted,held", "sdb ssd mounted,held"}},
		{name: "multipath of nvme disks", host: New().Disk("nvme0n1", "259:0", TiB, "wwid=eui.01").Disk("nvme1n1", "259:1", TiB, "wwid=eui.01").Disk("sda", "8:0", 4*TiB).
			Mapped("dm-0", "253:0", TiB, "mpathb", "mpath-eui.01").On("dm-0", "nvme0n1", "nvme1n1"),
			devices: []string{"dm-0 nvme", "nvme0n1 nvme held", "nvme1n1 nvme held", "sda ssd"},
			choice:  "dm-0", reasons: []string{"/dev/dm-0: nvme goes before ssd (/dev/sda)"}},
		{name: "two paths without multipath", named: "sda sdb sdb1", host: New().Disk("sda", "8:0", TiB, wwid).Disk("sdb", "8:16", TiB, wwid).Part("sdb", "sdb1", "8:17", 9*GiB),
			devices: []string{"sda ssd several-paths", "sdb ssd data,several-paths", "sdb1 ssd several-paths,partition"}},
		{name: "two disks that claim one WWID", host: New().Disk("sda", "8:0", TiB, wwid).Disk("sdb", "8:16", 2*TiB, wwid).Mount("8:0", "/srv", "xfs", "/dev/sda"),
			devices: []string{"sdb ssd", "sda ssd mounted"}, choice: "sdb", reasons: []string{"/dev/sdb is the only free disk"}},
		{name: "hidden paths of native nvme multipath", host: New().Disk("nvme0n1", "259:0", TiB, "wwid=eui.01").Disk("nvme0c0n1", "259:1", TiB, "wwid=eui.01", "hidden=1"),
			devices: []string{"nvme0n1 nvme"}, choice: "nvme0n1", reasons: nvme0},

		// What a disk must be.
		{name: "read-only", host: New().Disk("sda", "8:0", TiB, "ro=1"), devices: []string{"sda ssd read-only"}},
		{name: "usb stick", named: "sda", host: onUSB(New(), "sda", "8:0", 64*GiB, "removable=1", hdd), devices: []string{"sda hdd removable"}},
		{name: "usb ssd that says it is fixed", named: "sda", host: onUSB(New(), "sda", "8:0", TiB), devices: []string{"sda ssd removable"}},
		{name: "sd card", named: "mmcblk0", host: New().Disk("mmcblk0", "179:0", 64*GiB, "removable=1"), devices: []string{"mmcblk0 ssd removable"}},
		{name: "a card reader with nothing in it", host: New().Disk("sda", "8:0", 0, "removable=1"), devices: []string{"sda ssd no-medium,removable"}},
		{name: "cd-rom", host: New().Disk("sr0", "11:0", 4*GiB, "removable=1", "ro=1", "queue/logical_block_size=2048", hdd),
			devices: []string{"sr0 hdd read-only,too-small,sector-size,removable"}},
		{name: "floppy", host: New().Disk("fd0", "2:0", 1440<<10, "removable=1", hdd), devices: []string{"fd0 hdd too-small,removable"}},
		{name: "loop", named: "loop0", host: New().Disk("loop0", "7:0", TiB), devices: []string{"loop0 ssd virtual"}},
		{name: "nbd", named: "nbd0", host: New().Disk("nbd0", "43:0", TiB).Disk("nbd1", "43:1", 0), devices: []string{"nbd0 ssd virtual", "nbd1 ssd no-medium,virtual"}},
		{name: "zram and ram disk", host: New().Disk("zram0", "252:0", 16*GiB).Swap("/dev/zram0").Disk("ram0", "1:0", 16*GiB), devices: []string{"ram0 ssd memory", "zram0 ssd memory,swap"}},
		{name: "too small", host: New().Disk("sda", "8:0", 4*GiB).Disk("sdb", "8:16", 8*GiB-512).Disk("sdc", "8:32", 8*GiB),
			devices: []string{"sdc ssd", "sdb ssd too-small", "sda ssd too-small"}, choice: "sdc", reasons: []string{"/dev/sdc is the only free disk"}},
		{name: "sectors of 4096 bytes", host: New().Disk("nvme0n1", "259:0", TiB, "queue/logical_block_size=4096"), devices: []string{"nvme0n1 nvme sector-size"}},
		{name: "no size", host: New().Disk("sda", "8:0", TiB, "size=many"), devices: []string{"sda ssd unreadable,too-small"}},
		{name: "no device number", host: New().Disk("sda", "8:0", TiB, "dev="), devices: []string{"sda ssd unreadable"}},
		{name: "no node in /dev", host: New().Disk("sda", "8:0", TiB).WithoutNode("sda"), devices: []string{"sda ssd unreadable"}},
		{name: "a disk that fails at its end", host: New().Disk("sda", "8:0", TiB).Sectors("sda", Blank(TiB/2)), devices: []string{"sda ssd unreadable"}},
		{name: "a partition", named: "sda sda1", host: New().Disk("sda", "8:0", TiB).Part("sda", "sda1", "8:1", 900*GiB), devices: []string{"sda ssd data", "sda1 ssd partition"}},
		free(fixture{name: "a name with a slash does not hide another disk", host: New().Disk("cciss!c0d0", "104:0", 480*GiB, hdd).Disk("sda", "8:0", TiB, hdd).Mount("104:0", "/", "ext4", "/dev/cciss/c0d0"),
			devices: []string{"sda hdd", "cciss!c0d0 hdd system-disk,mounted"}}),
		{name: "a name with a slash", host: New().Disk("cciss!c0d0", "104:0", TiB, hdd), devices: []string{"cciss!c0d0 hdd"}, choice: "cciss!c0d0",
			reasons: []string{"/dev/cciss/c0d0 is the only free disk"}},

		// What it holds.
		{name: "file systems", named: "sda sdb", host: New().Disk("sda", "8:0", TiB).Sectors("sda", Ext4(TiB)).Disk("sdb", "8:16", TiB).Sectors("sdb", XFS(TiB)),
			devices: []string{"sda ssd data", "sdb ssd data"}},
		{name: "a partition table without partitions", named: "sda", host: New().Disk("sda", "8:0", TiB).Sectors("sda", GPT(TiB)), devices: []string{"sda ssd data"}},
		{name: "an mbr that the kernel does not see", named: "sda", host: New().Disk("sda", "8:0", TiB).Sectors("sda", MBR(TiB, Record{Type: 7, Start: 2048, Count: 1 << 20})), devices: []string{"sda ssd data"}},
		{name: "a former installation", named: "sda3", host: New().Disk("sda", "8:0", TiB).Sectors("sda", ours(TiB)).Part("sda", "sda1", "8:1", 64*MiB).Part("sda", "sda2", "8:2", GiB).Part("sda", "sda3", "8:3", 900*GiB),
			devices: []string{"sda ssd", "sda3 ssd partition", "sda2 ssd too-small,partition", "sda1 ssd too-small,partition"}, choice: "sda", reasons: []string{only, "/dev/sda holds a former installation, whose data will be lost"}},
		{name: "a table like ours with one partition more", named: "sda", host: New().Disk("sda", "8:0", TiB).Sectors("sda", GPT(TiB, slot("cc-esp", MiB, MiB), slot("cc-root", 2*MiB, MiB),
			slot("cc-dynamic", 3*MiB, MiB), slot("mine", 4*MiB, MiB))), devices: []string{"sda ssd data"}},
		{name: "a former installation that became a member", host: New().Disk("sda", "8:0", TiB).Sectors("sda", ours(TiB).Put(0, RAID(TiB, "1.0"))), devices: []string{"sda ssd raid"}},
	}
}
