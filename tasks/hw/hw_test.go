package hw_test

// What green does not prove: the trees below were written by hand after those
// of real machines, they are not recordings. No test here meets an imported
// ZFS pool, a mount of another namespace or a device that vanishes while it is
// read; the exclusive open in the installer is what guards against those.

import (
	"fmt"
	"os"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/hw"
	"cc-base/tasks/hw/hwtest"
)

func TestDevicesAreJudgedByEverythingThatUsesThem(t *testing.T) {
	t.Parallel()
	need := hw.Need{Size: 8 * hwtest.GiB, SectorSize: 512}
	tests := []struct {
		name string
		host hwtest.Host
		want []string // "NAME CLASS" or "NAME CLASS REASON,REASON", in order of preference
	}{
		{"no disks at all", hwtest.New(), nil},
		{"nvme over ssd over hdd, whatever the sizes",
			hwtest.New().Disk("sda", "8:0", 4096*hwtest.GiB, "queue/rotational=1").Disk("sdb", "8:16", 1024*hwtest.GiB, "queue/rotational=0").Disk("nvme0n1", "259:0", 480*hwtest.GiB, "queue/rotational=0"),
			[]string{"nvme0n1 nvme", "sdb ssd", "sda hdd"}},
		{"the larger of one class",
			hwtest.New().Disk("nvme0n1", "259:0", 1024*hwtest.GiB, "queue/rotational=0").Disk("nvme1n1", "259:1", 4096*hwtest.GiB, "queue/rotational=0"),
			[]string{"nvme1n1 nvme", "nvme0n1 nvme"}},
		{"equal disks in the order of their names",
			hwtest.New().Disk("sdb", "8:16", 100*hwtest.GiB, "queue/rotational=0").Disk("sda", "8:0", 100*hwtest.GiB, "queue/rotational=0"),
			[]string{"sda ssd", "sdb ssd"}},
		{"a mounted partition takes its disk with it",
			hwtest.New().Disk("sda", "8:0", 100*hwtest.GiB, "queue/rotational=0").Part("sda", "sda1", "8:1", 90*hwtest.GiB).Mount("8:1", "/srv", "ext4", "/dev/sda1"),
			[]string{"sda ssd mounted,data", "sda1 ssd mounted,partition"}},
		{"the disk is mounted through another node",
			hwtest.New().Disk("sda", "8:0", 100*hwtest.GiB, "queue/rotational=0").Part("sda", "sda1", "8:1", 90*hwtest.GiB).Mount("8:1", "/srv", "ext4", "/dev/disk/by-uuid/1234"),
			[]string{"sda ssd mounted,data", "sda1 ssd mounted,partition"}},
		{"sda in use says nothing of sdaa",
			hwtest.New().Disk("sda", "8:0", 100*hwtest.GiB, "queue/rotational=0").Disk("sdaa", "65:160", 100*hwtest.GiB, "queue/rotational=0").Mount("8:0", "/srv", "xfs", "/dev/sda"),
			[]string{"sda ssd mounted", "sdaa ssd"}},
		{"the root file system on lvm on a partition",
			hwtest.New().Disk("sda", "8:0", 100*hwtest.GiB, "queue/rotational=0").Part("sda", "sda2", "8:2", 90*hwtest.GiB, "holders/dm-0/.x=").
				Disk("dm-0", "253:0", 50*hwtest.GiB, "queue/rotational=0", "dm/name=vg-root").Mount("253:0", "/", "ext4", "/dev/mapper/vg-root"),
			[]string{"sda ssd system-disk,mounted,held,data", "sda2 ssd system-disk,mounted,held,partition", "dm-0 ssd system-disk,mounted,virtual"}},
		{"lvm on crypt on md on two disks, mounted at the top",
			hwtest.New().Disk("sda", "8:0", 100*hwtest.GiB, "queue/rotational=1", "holders/md0/.x=").Disk("sdb", "8:16", 100*hwtest.GiB, "queue/rotational=1", "holders/md0/.x=").
				Disk("md0", "9:0", 99*hwtest.GiB, "queue/rotational=1", "holders/dm-0/.x=").Disk("dm-0", "253:0", 98*hwtest.GiB, "queue/rotational=1", "holders/dm-1/.x=").
				Disk("dm-1", "253:1", 97*hwtest.GiB, "queue/rotational=1").Mount("253:1", "/home", "ext4", "/dev/dm-1"),
			[]string{"sda hdd mounted,held", "sdb hdd mounted,held", "md0 hdd mounted,held,virtual", "dm-0 hdd mounted,held,virtual", "dm-1 hdd mounted,virtual"}},
		{"multipath holds both paths, the map itself is free",
			hwtest.New().Disk("sda", "8:0", 100*hwtest.GiB, "queue/rotational=0", "holders/dm-0/.x=").Disk("sdb", "8:16", 100*hwtest.GiB, "queue/rotational=0", "holders/dm-0/.x=").
				Disk("dm-0", "253:0", 100*hwtest.GiB, "queue/rotational=0", "dm/name=mpatha"),
			[]string{"dm-0 ssd virtual", "sda ssd held", "sdb ssd held"}},
		{"a member of a raid that is not mounted",
			hwtest.New().Disk("sda", "8:0", 100*hwtest.GiB, "queue/rotational=1").Part("sda", "sda1", "8:1", 90*hwtest.GiB, "holders/md127/.x=").Disk("md127", "9:127", 90*hwtest.GiB, "queue/rotational=1", "md/array_state=clean"),
			[]string{"sda hdd held,raid,data", "md127 hdd virtual", "sda1 hdd held,raid,partition"}},
		{"swap on a partition",
			func() hwtest.Host {
				h := hwtest.New().Disk("sda", "8:0", 100*hwtest.GiB, "queue/rotational=0").Part("sda", "sda2", "8:2", 10*hwtest.GiB)
				h.File("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n/dev/sda2  partition 1 0 -2\n/swap\\040file file 1 0 -3\n")
				return h
			}(),
			[]string{"sda ssd swap,data", "sda2 ssd swap,partition"}},
		{"swap on a logical volume",
			func() hwtest.Host {
				h := hwtest.New().Disk("sda", "8:0", 100*hwtest.GiB, "queue/rotational=0", "holders/dm-0/.x=").Disk("dm-0", "253:0", 10*hwtest.GiB, "queue/rotational=0", "dm/name=vg-swap")
				h.File("proc/swaps", "Filename Type Size Used Priority\n/dev/dm-0 partition 1 0 -2\n")
				return h
			}(),
			[]string{"sda ssd swap,held", "dm-0 ssd swap,virtual"}},
		{"btrfs has no device number of its own",
			hwtest.New().Disk("sda", "8:0", 100*hwtest.GiB, "queue/rotational=0").Part("sda", "sda3", "8:3", 90*hwtest.GiB).Mount("0:24", "/", "btrfs", "/dev/sda3"),
			[]string{"sda ssd system-disk,mounted,data", "sda3 ssd system-disk,mounted,partition"}},
		{"the second disk of a btrfs",
			func() hwtest.Host {
				h := hwtest.New().Disk("sda", "8:0", 100*hwtest.GiB, "queue/rotational=0").Disk("sdb", "8:16", 100*hwtest.GiB, "queue/rotational=0").Mount("0:24", "/srv", "btrfs", "/dev/sda")
				h.File("sys/fs/btrfs/1234/devices/sda", "")
				h.File("sys/fs/btrfs/1234/devices/sdb", "")
				return h
			}(),
			[]string{"sda ssd mounted", "sdb ssd mounted"}},
		{"a mount point with a blank",
			hwtest.New().Disk("sda", "8:0", 100*hwtest.GiB, "queue/rotational=0").Mount("8:0", `/mnt/my\040disk`, "ext4", "/dev/sda"),
			[]string{"sda ssd mounted"}},
		{"read-only", hwtest.New().Disk("sda", "8:0", 100*hwtest.GiB, "queue/rotational=0", "ro=1"), []string{"sda ssd read-only"}},
		{"a card reader with nothing in it", hwtest.New().Disk("sda", "8:0", 0, "queue/rotational=1", "removable=1"), []string{"sda hdd no-medium,removable"}},
		{"a usb disk that denies being removable",
			func() hwtest.Host {
				h := hwtest.New()
				h.Link("sys/block/sda", "../devices/pci0000:00/0000:00:14.0/usb2/2-1/block/sda")
				return h.DiskAt("sys/devices/pci0000:00/0000:00:14.0/usb2/2-1/block/sda", "sda", "8:0", 100*hwtest.GiB, "queue/rotational=1")
			}(),
			[]string{"sda hdd removable"}},
		{"too small", hwtest.New().Disk("vda", "254:0", 4*hwtest.GiB, "queue/rotational=1"), []string{"vda hdd too-small"}},
		{"4096-byte sectors", hwtest.New().Disk("nvme0n1", "259:0", 100*hwtest.GiB, "queue/rotational=0", "queue/logical_block_size=4096"), []string{"nvme0n1 nvme sector-size"}},
		{"loop, zram and a compressed swap",
			func() hwtest.Host {
				h := hwtest.New().Disk("loop0", "7:0", 10*hwtest.GiB, "queue/rotational=0").Disk("zram0", "252:0", 16*hwtest.GiB, "queue/rotational=0")
				h.File("proc/swaps", "Filename Type Size Used Priority\n/dev/zram0 partition 1 0 100\n")
				return h
			}(),
			[]string{"zram0 ssd memory,swap", "loop0 ssd virtual"}},
		{"a hidden path of a native nvme multipath",
			hwtest.New().Disk("nvme0n1", "259:0", 100*hwtest.GiB, "queue/rotational=0").Disk("nvme0c0n1", "259:1", 100*hwtest.GiB, "queue/rotational=0", "hidden=1"),
			[]string{"nvme0n1 nvme"}},
		{"a device of which the kernel tells no size",
			hwtest.New().Disk("sda", "8:0", 100*hwtest.GiB, "queue/rotational=0", "size=many"),
			[]string{"sda ssd unreadable,too-small"}},
		{"a device without a number", hwtest.New().Disk("sda", "8:0", 100*hwtest.GiB, "queue/rotational=0", "dev="), []string{"sda ssd unreadable"}},
		{"a raid controller's name with a slash",
			hwtest.New().Disk("cciss!c0d0", "104:0", 100*hwtest.GiB, "queue/rotational=1"), []string{"cciss!c0d0 hdd"}},
		{"a partition of a disk that is mounted as a whole",
			hwtest.New().Disk("sda", "8:0", 100*hwtest.GiB, "queue/rotational=0").Part("sda", "sda1", "8:1", 90*hwtest.GiB).Mount("8:0", "/srv", "ext4", "/dev/sda"),
			[]string{"sda ssd mounted,data", "sda1 ssd mounted,partition"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			devices, err := hw.Devices(test.host)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, d := range devices {
				line := d.Name + " " + d.Class.String()
				for i, r := range hw.Refusals(d, need) {
					line += map[bool]string{true: " ", false: ","}[i == 0] + string(r.Reason)
				}
				got = append(got, line)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("devices (-want +got):\n%s", diff)
			}
		})
	}
}

func TestANamedDeviceYieldsOnlyWhereNamingCanHelp(t *testing.T) {
	t.Parallel()
	h := hwtest.New().Disk("loop0", "7:0", 10*hwtest.GiB, "queue/rotational=0", "removable=1", "ro=1").Mount("7:0", "/mnt", "ext4", "/dev/loop0")
	devices, err := hw.Devices(h)
	if err != nil {
		t.Fatal(err)
	}
	var got []hw.Reason
	for _, r := range hw.Refusals(devices[0], hw.Need{Named: true}) {
		got = append(got, r.Reason)
	}
	if diff := cmp.Diff([]hw.Reason{hw.Mounted, hw.IsReadOnly}, got); diff != "" {
		t.Error(diff)
	}
}

func TestARuleThatYieldsIsToldAllTheSame(t *testing.T) {
	t.Parallel()
	h := hwtest.New().Disk("sda", "8:0", 100*hwtest.GiB, "removable=1").Sectors("sda", hwtest.XFS(100*hwtest.GiB))
	devices, err := hw.Devices(h)
	if err != nil {
		t.Fatal(err)
	}
	told := func(need hw.Need) (out []string) {
		for _, v := range hw.Judge(devices[0], need) {
			if v.Detail != "" {
				out = append(out, fmt.Sprint(v.Rule, " ", v.Refused, " ", v.Detail))
			}
		}
		return out
	}
	for _, test := range []struct {
		need hw.Need
		want []string
	}{
		{hw.Need{}, []string{"data true it holds an xfs file system; name it to use it", "removable true it is removable or on USB; name it to use it"}},
		{hw.Need{Named: true}, []string{"data false it holds an xfs file system", "removable false it is removable or on USB"}},
		// A name would not help here, so nobody is told to give one.
		{hw.Need{Size: hwtest.TiB}, []string{"too-small true it has 107374182400 bytes, the image needs 1099511627776",
			"data true it holds an xfs file system", "removable true it is removable or on USB"}},
	} {
		if diff := cmp.Diff(test.want, told(test.need)); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", test.need, diff)
		}
	}
}

func TestAFileIsJudgedLikeADisk(t *testing.T) {
	t.Parallel()
	const size = 64 * hwtest.MiB
	for _, test := range []struct {
		name    string
		content hwtest.Sectors
		need    hw.Need
		want    []string
	}{
		{"blank", hwtest.Blank(size), hw.Need{Files: true, Size: size, SectorSize: 512}, nil},
		{"not asked for", hwtest.Blank(size), hw.Need{}, []string{"it is a regular file"}},
		{"too small", hwtest.Blank(size), hw.Need{Files: true, Size: size + 1}, []string{"it has 67108864 bytes, the image needs 67108865"}},
		{"a member", hwtest.ZFS(size), hw.Need{Files: true, Named: true}, []string{"it belongs to ZFS (a member of a ZFS pool)"}},
		{"data", hwtest.Swap(size), hw.Need{Files: true}, []string{"it holds swap space; name it to use it"}},
		{"data, named", hwtest.Swap(size), hw.Need{Files: true, Named: true}, nil},
		{"shorter than it says", hwtest.Blank(size / 2), hw.Need{Files: true}, []string{"its sectors cannot be read: unexpected EOF"}},
	} {
		var got []string
		for _, r := range hw.Refusals(hw.RegularFile("disk", size, test.content), test.need) {
			got = append(got, r.String())
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// Whoever shortens the list of reasons or their order changes what users read.
func TestEveryDeviceMeetsEveryRule(t *testing.T) {
	t.Parallel()
	var got []hw.Reason
	for _, v := range hw.Judge(hw.Device{Size: 1}, hw.Need{}) {
		if v.Refused || v.Detail != "" {
			t.Errorf("a device without a fault: %+v", v)
		}
		got = append(got, v.Rule)
	}
	want := []hw.Reason{"unreadable", "regular-file", "memory", "system-disk", "mounted", "swap", "held", "in-use", "raid", "lvm", "zfs", "ceph", "read-only",
		"no-medium", "too-small", "sector-size", "data", "several-paths", "removable", "partition", "virtual"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestNoAnswerWithoutTheListOfMounts(t *testing.T) {
	t.Parallel()
	h := hwtest.New().Disk("sda", "8:0", 100*hwtest.GiB, "queue/rotational=0")
	for name, spoil := range map[string]func(){
		"malformed": func() { h.File("proc/self/mountinfo", "29 1 8:1 / /\n") },
		"missing":   func() { delete(h.MapFS, "proc/self/mountinfo") },
	} {
		spoil()
		if devices, err := hw.Devices(h); err == nil {
			t.Errorf("%s: got %d devices and no error", name, len(devices))
		}
	}
}

func TestPathAndModel(t *testing.T) {
	t.Parallel()
	h := hwtest.New().Disk("cciss!c0d0", "104:0", 100*hwtest.GiB, "queue/rotational=1", "device/model= LOGICAL VOLUME ", "serial=S1")
	devices, err := hw.Devices(h)
	if err != nil {
		t.Fatal(err)
	}
	d, ok := hw.Lookup(devices, hw.Number{Major: 104})
	if !ok || d.Path != "/dev/cciss/c0d0" || d.Model != "LOGICAL VOLUME" || d.Serial != "S1" || d.Size != 100*hwtest.GiB {
		t.Errorf("got %+v", d)
	}
	if _, ok := hw.Lookup(devices, hw.Number{Major: 8}); ok {
		t.Error("found a device that is not there")
	}
}

func TestHostTEE(t *testing.T) {
	t.Parallel()
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	const snp, tdx = "sys/module/kvm_amd/parameters/sev_snp", "sys/module/kvm_intel/parameters/tdx"
	tests := []struct {
		name string
		root fstest.MapFS
		want hw.TEE
	}{
		{"no kvm", fstest.MapFS{}, hw.NoTEE},
		{"snp on", fstest.MapFS{snp: file("Y\n"), "dev/sev": file("")}, hw.SEVSNP},
		{"snp on as a number", fstest.MapFS{snp: file("1\n"), "dev/sev": file("")}, hw.SEVSNP},
		{"snp off though the device is there", fstest.MapFS{snp: file("N\n"), "dev/sev": file("")}, hw.NoTEE},
		{"snp without the firmware's driver", fstest.MapFS{snp: file("Y\n")}, hw.NoTEE},
		{"tdx on", fstest.MapFS{tdx: file("Y\n")}, hw.TDX},
		{"tdx off", fstest.MapFS{tdx: file("N\n")}, hw.NoTEE},
	}
	for _, test := range tests {
		if got, why := hw.HostTEE(test.root); got != test.want || why == "" {
			t.Errorf("%s: got %s (%s), want %s", test.name, got, why, test.want)
		}
	}
}

// The one test on the machine itself: whatever it has, its probes work on it
// and the disk under this test is not a target.
func TestThisMachine(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/sys/block"); err != nil {
		t.Skip("no sysfs here")
	}
	devices, err := hw.Devices(os.DirFS("/"))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range devices {
		if len(d.Mounts) > 0 && len(hw.Refusals(d, hw.Need{Named: true})) == 0 {
			t.Errorf("%s is mounted at %v and was not refused", d.Path, d.Mounts)
		}
	}
}
