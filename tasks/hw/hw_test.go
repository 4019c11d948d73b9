package hw_test

// What green does not prove: the trees below were written by hand after those
// of real machines, they are not recordings. No test here meets an imported
// ZFS pool, a mount of another namespace or a device that vanishes while it is
// read; the exclusive open in the installer is what guards against those.

import (
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/hw"
)

// host builds a tree of sysfs and procfs.
type host struct{ fstest.MapFS }

func newHost() host {
	h := host{fstest.MapFS{}}
	h.put("sys/block/.keep", "")
	delete(h.MapFS, "sys/block/.keep")
	h.MapFS["sys/block"] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
	h.put("proc/self/mountinfo", "")
	return h
}

func (h host) put(name, text string) {
	h.MapFS[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
}

const gib = int64(1) << 30

// disk adds a disk with the usual files; more are KEY=VALUE pairs of files
// under its folder.
func (h host) disk(name, number string, size int64, rotational string, more ...string) host {
	return h.diskAt("sys/block/"+name, number, size, rotational, more...)
}

func (h host) diskAt(dir, number string, size int64, rotational string, more ...string) host {
	h.put(dir+"/dev", number+"\n")
	h.put(dir+"/size", fmt.Sprintf("%d\n", size/512))
	h.put(dir+"/ro", "0\n")
	h.put(dir+"/removable", "0\n")
	h.put(dir+"/queue/logical_block_size", "512\n")
	h.put(dir+"/queue/rotational", rotational+"\n")
	for _, m := range more {
		key, value, _ := strings.Cut(m, "=")
		h.put(dir+"/"+key, value+"\n")
	}
	return h
}

func (h host) part(disk, name, number string, size int64, more ...string) host {
	dir := "sys/block/" + disk + "/" + name
	h.put(dir+"/dev", number+"\n")
	h.put(dir+"/size", fmt.Sprintf("%d\n", size/512))
	h.put(dir+"/ro", "0\n")
	h.put(dir+"/partition", "1\n")
	for _, m := range more {
		key, value, _ := strings.Cut(m, "=")
		h.put(dir+"/"+key, value+"\n")
	}
	return h
}

func (h host) mount(number, point, fstype, source string) host {
	old := string(h.MapFS["proc/self/mountinfo"].Data)
	h.put("proc/self/mountinfo", old+fmt.Sprintf("29 1 %s / %s rw,relatime shared:1 - %s %s rw\n", number, point, fstype, source))
	return h
}

func TestDevicesAreJudgedByEverythingThatUsesThem(t *testing.T) {
	t.Parallel()
	need := hw.Need{Size: 8 * gib, SectorSize: 512}
	tests := []struct {
		name string
		host host
		want []string // "NAME CLASS" or "NAME CLASS REASON,REASON", in order of preference
	}{
		{"no disks at all", newHost(), nil},
		{"nvme over ssd over hdd, whatever the sizes",
			newHost().disk("sda", "8:0", 4096*gib, "1").disk("sdb", "8:16", 1024*gib, "0").disk("nvme0n1", "259:0", 480*gib, "0"),
			[]string{"nvme0n1 nvme", "sdb ssd", "sda hdd"}},
		{"the larger of one class",
			newHost().disk("nvme0n1", "259:0", 1024*gib, "0").disk("nvme1n1", "259:1", 4096*gib, "0"),
			[]string{"nvme1n1 nvme", "nvme0n1 nvme"}},
		{"equal disks in the order of their names",
			newHost().disk("sdb", "8:16", 100*gib, "0").disk("sda", "8:0", 100*gib, "0"),
			[]string{"sda ssd", "sdb ssd"}},
		{"a mounted partition takes its disk with it",
			newHost().disk("sda", "8:0", 100*gib, "0").part("sda", "sda1", "8:1", 90*gib).mount("8:1", "/srv", "ext4", "/dev/sda1"),
			[]string{"sda ssd mounted", "sda1 ssd mounted,partition"}},
		{"the disk is mounted through another node",
			newHost().disk("sda", "8:0", 100*gib, "0").part("sda", "sda1", "8:1", 90*gib).mount("8:1", "/srv", "ext4", "/dev/disk/by-uuid/1234"),
			[]string{"sda ssd mounted", "sda1 ssd mounted,partition"}},
		{"sda in use says nothing of sdaa",
			newHost().disk("sda", "8:0", 100*gib, "0").disk("sdaa", "65:160", 100*gib, "0").mount("8:0", "/srv", "xfs", "/dev/sda"),
			[]string{"sda ssd mounted", "sdaa ssd"}},
		{"the root file system on lvm on a partition",
			newHost().disk("sda", "8:0", 100*gib, "0").part("sda", "sda2", "8:2", 90*gib, "holders/dm-0/.x=").
				disk("dm-0", "253:0", 50*gib, "0", "dm/name=vg-root").mount("253:0", "/", "ext4", "/dev/mapper/vg-root"),
			[]string{"sda ssd system-disk,mounted,held", "sda2 ssd system-disk,mounted,held,partition", "dm-0 ssd system-disk,mounted,virtual"}},
		{"lvm on crypt on md on two disks, mounted at the top",
			newHost().disk("sda", "8:0", 100*gib, "1", "holders/md0/.x=").disk("sdb", "8:16", 100*gib, "1", "holders/md0/.x=").
				disk("md0", "9:0", 99*gib, "1", "holders/dm-0/.x=").disk("dm-0", "253:0", 98*gib, "1", "holders/dm-1/.x=").
				disk("dm-1", "253:1", 97*gib, "1").mount("253:1", "/home", "ext4", "/dev/dm-1"),
			[]string{"sda hdd mounted,held", "sdb hdd mounted,held", "md0 hdd mounted,held,virtual", "dm-0 hdd mounted,held,virtual", "dm-1 hdd mounted,virtual"}},
		{"multipath holds both paths, the map itself is free",
			newHost().disk("sda", "8:0", 100*gib, "0", "holders/dm-0/.x=").disk("sdb", "8:16", 100*gib, "0", "holders/dm-0/.x=").
				disk("dm-0", "253:0", 100*gib, "0", "dm/name=mpatha"),
			[]string{"dm-0 ssd virtual", "sda ssd held", "sdb ssd held"}},
		{"a member of a raid that is not mounted",
			newHost().disk("sda", "8:0", 100*gib, "1").part("sda", "sda1", "8:1", 90*gib, "holders/md127/.x=").disk("md127", "9:127", 90*gib, "1"),
			[]string{"sda hdd held", "md127 hdd virtual", "sda1 hdd held,partition"}},
		{"swap on a partition",
			func() host {
				h := newHost().disk("sda", "8:0", 100*gib, "0").part("sda", "sda2", "8:2", 10*gib)
				h.put("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n/dev/sda2  partition 1 0 -2\n/swap\\040file file 1 0 -3\n")
				return h
			}(),
			[]string{"sda ssd swap", "sda2 ssd swap,partition"}},
		{"swap on a logical volume",
			func() host {
				h := newHost().disk("sda", "8:0", 100*gib, "0", "holders/dm-0/.x=").disk("dm-0", "253:0", 10*gib, "0", "dm/name=vg-swap")
				h.put("proc/swaps", "Filename Type Size Used Priority\n/dev/dm-0 partition 1 0 -2\n")
				return h
			}(),
			[]string{"sda ssd swap,held", "dm-0 ssd swap,virtual"}},
		{"btrfs has no device number of its own",
			newHost().disk("sda", "8:0", 100*gib, "0").part("sda", "sda3", "8:3", 90*gib).mount("0:24", "/", "btrfs", "/dev/sda3"),
			[]string{"sda ssd system-disk,mounted", "sda3 ssd system-disk,mounted,partition"}},
		{"the second disk of a btrfs",
			func() host {
				h := newHost().disk("sda", "8:0", 100*gib, "0").disk("sdb", "8:16", 100*gib, "0").mount("0:24", "/srv", "btrfs", "/dev/sda")
				h.put("sys/fs/btrfs/1234/devices/sda", "")
				h.put("sys/fs/btrfs/1234/devices/sdb", "")
				return h
			}(),
			[]string{"sda ssd mounted", "sdb ssd mounted"}},
		{"a mount point with a blank",
			newHost().disk("sda", "8:0", 100*gib, "0").mount("8:0", `/mnt/my\040disk`, "ext4", "/dev/sda"),
			[]string{"sda ssd mounted"}},
		{"read-only", newHost().disk("sda", "8:0", 100*gib, "0", "ro=1"), []string{"sda ssd read-only"}},
		{"a card reader with nothing in it", newHost().disk("sda", "8:0", 0, "1", "removable=1"), []string{"sda hdd no-medium,removable"}},
		{"a usb disk that denies being removable",
			func() host {
				h := newHost()
				h.MapFS["sys/block/sda"] = &fstest.MapFile{Data: []byte("../devices/pci0000:00/0000:00:14.0/usb2/2-1/block/sda"), Mode: fs.ModeSymlink | 0o777}
				return h.diskAt("sys/devices/pci0000:00/0000:00:14.0/usb2/2-1/block/sda", "8:0", 100*gib, "1")
			}(),
			[]string{"sda hdd removable"}},
		{"too small", newHost().disk("vda", "254:0", 4*gib, "1"), []string{"vda hdd too-small"}},
		{"4096-byte sectors", newHost().disk("nvme0n1", "259:0", 100*gib, "0", "queue/logical_block_size=4096"), []string{"nvme0n1 nvme sector-size"}},
		{"loop, zram and a compressed swap",
			func() host {
				h := newHost().disk("loop0", "7:0", 10*gib, "0").disk("zram0", "252:0", 16*gib, "0")
				h.put("proc/swaps", "Filename Type Size Used Priority\n/dev/zram0 partition 1 0 100\n")
				return h
			}(),
			[]string{"zram0 ssd memory,swap", "loop0 ssd virtual"}},
		{"a hidden path of a native nvme multipath",
			newHost().disk("nvme0n1", "259:0", 100*gib, "0").disk("nvme0c0n1", "259:1", 100*gib, "0", "hidden=1"),
			[]string{"nvme0n1 nvme"}},
		{"a device of which the kernel tells no size",
			newHost().disk("sda", "8:0", 100*gib, "0", "size=many"),
			[]string{"sda ssd unreadable,too-small"}},
		{"a device without a number", newHost().disk("sda", "8:0", 100*gib, "0", "dev="), []string{"sda ssd unreadable"}},
		{"a raid controller's name with a slash",
			newHost().disk("cciss!c0d0", "104:0", 100*gib, "1"), []string{"cciss!c0d0 hdd"}},
		{"a partition of a disk that is mounted as a whole",
			newHost().disk("sda", "8:0", 100*gib, "0").part("sda", "sda1", "8:1", 90*gib).mount("8:0", "/srv", "ext4", "/dev/sda"),
			[]string{"sda ssd mounted", "sda1 ssd mounted,partition"}},
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
	h := newHost().disk("loop0", "7:0", 10*gib, "0", "removable=1", "ro=1").mount("7:0", "/mnt", "ext4", "/dev/loop0")
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

func TestNoAnswerWithoutTheListOfMounts(t *testing.T) {
	t.Parallel()
	h := newHost().disk("sda", "8:0", 100*gib, "0")
	for name, spoil := range map[string]func(){
		"malformed": func() { h.put("proc/self/mountinfo", "29 1 8:1 / /\n") },
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
	h := newHost().disk("cciss!c0d0", "104:0", 100*gib, "1", "device/model= LOGICAL VOLUME ", "serial=S1")
	devices, err := hw.Devices(h)
	if err != nil {
		t.Fatal(err)
	}
	d, ok := hw.Lookup(devices, hw.Number{Major: 104})
	if !ok || d.Path != "/dev/cciss/c0d0" || d.Model != "LOGICAL VOLUME" || d.Serial != "S1" || d.Size != 100*gib {
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
