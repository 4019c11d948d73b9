package signature_test

// What green does not prove: the samples are made from the formats' documents
// and hold headers only, ext4 and swap excepted, which mkfs and mkswap make as
// well; libblkid confirms all but the rarer formats. Tables other than GPT and
// MBR are not known.

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/hw/hwtest"
	"cc-base/tasks/hw/signature"
)

const (
	mib = int64(1) << 20
	// size is no multiple of the blocks that formats align to: their places at
	// the end of the disk are to be computed, not guessed.
	size = 300*mib + 13*512
)

type sample struct {
	name    string
	sectors hwtest.Sectors
	want    []string // KIND NAME @OFFSET
	blkid   string   // what libblkid calls it
}

func samples() []sample {
	return []sample{
		{"md 0.90", hwtest.RAID(size, "0.90"), []string{"raid a Linux RAID superblock 0.90 @314507264"}, "linux_raid_member"},
		{"md 1.0", hwtest.RAID(size, "1.0"), []string{"raid a Linux RAID superblock 1.0 @314568704"}, "linux_raid_member"},
		{"md 1.1", hwtest.RAID(size, "1.1"), []string{"raid a Linux RAID superblock 1.1 @0"}, "linux_raid_member"},
		{"md 1.2", hwtest.RAID(size, "1.2"), []string{"raid a Linux RAID superblock 1.2 @4096"}, "linux_raid_member"},
		{"lvm", hwtest.LVM(size), []string{"lvm an LVM physical volume @512"}, "LVM2_member"},
		{"zfs", hwtest.ZFS(size), []string{"zfs a member of a ZFS pool @131072"}, "zfs_member"},
		{"ceph", hwtest.Ceph(size), []string{"ceph a Ceph BlueStore label @0"}, "ceph_bluestore"},
		{"luks", hwtest.LUKS(size), []string{"data a LUKS volume @0"}, "crypto_LUKS"},
		{"swap", hwtest.Swap(size), []string{"data swap space @4086"}, "swap"},
		{"bcache", hwtest.Bcache(size), []string{"data a bcache superblock @4120"}, "bcache"},
		{"ext4", hwtest.Ext4(size), []string{"data an ext2, ext3 or ext4 file system @1080"}, "ext4"},
		{"xfs", hwtest.XFS(size), []string{"data an xfs file system @0"}, "xfs"},
		{"btrfs", hwtest.Btrfs(size, 2), []string{"data a btrfs file system @65600"}, "btrfs"},
	}
}

func lines(found []signature.Found) []string {
	var out []string
	for _, f := range found {
		out = append(out, fmt.Sprintf("%s %s @%d", f.Kind, f, f.Offset))
	}
	return out
}

func find(t *testing.T, disk io.ReaderAt, size int64) []string {
	t.Helper()
	found, err := signature.Find(disk, size)
	if err != nil {
		t.Fatal(err)
	}
	return lines(found)
}

func TestEveryFormatIsFound(t *testing.T) {
	t.Parallel()
	for _, s := range samples() {
		if diff := cmp.Diff(s.want, find(t, s.sectors, size)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", s.name, diff)
		}
	}
}

// blkid returns the program, or skips, except in CI, where a skip would hide
// that nobody else was asked.
func blkid(t *testing.T) string {
	t.Helper()
	for _, place := range []string{"blkid", "/usr/sbin/blkid", "/sbin/blkid"} {
		if path, err := exec.LookPath(place); err == nil {
			return path
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("blkid is missing")
	}
	t.Skip("blkid is missing")
	return ""
}

func TestLibblkidSaysTheSameOfTheSamples(t *testing.T) {
	t.Parallel()
	program := blkid(t)
	for _, s := range samples() {
		path := write(t, s.sectors)
		out, err := exec.Command(program, "--probe", "--match-tag", "TYPE", "--output", "value", path).CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != s.blkid {
			t.Errorf("%s: blkid says %q (%v), want %s", s.name, got, err, s.blkid)
		}
	}
	path := write(t, hwtest.GPT(size, hwtest.Slot{Label: "data", Start: mib, Size: mib}))
	out, err := exec.Command(program, "--probe", "--match-tag", "PTTYPE", "--output", "value", path).CombinedOutput()
	if got := strings.TrimSpace(string(out)); err != nil || got != "gpt" {
		t.Errorf("blkid calls the table %q (%v)", got, err)
	}
}

// write makes a sparse file of a sample.
func write(t *testing.T, s hwtest.Sectors) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for off, b := range s.Blocks {
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(s.Size); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

func TestWhatTheRealToolsMake(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ tool, option, want string }{
		{"mkfs.ext4", "-qF", "data an ext2, ext3 or ext4 file system @1080"},
		{"mkswap", "-q", "data swap space @4086"},
	} {
		t.Run(test.tool, func(t *testing.T) {
			path, err := exec.LookPath(test.tool)
			if err != nil {
				path, err = exec.LookPath("/usr/sbin/" + test.tool)
			}
			if err != nil && os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			if err != nil {
				t.Skip(err)
			}
			disk := write(t, hwtest.Blank(16*mib))
			// Some versions of mkswap know no option to be quiet.
			args := []string{disk}
			if test.tool != "mkswap" {
				args = []string{test.option, disk}
			}
			if out, err := exec.Command(path, args...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			f, err := os.Open(disk)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if diff := cmp.Diff([]string{test.want}, find(t, f, 16*mib)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPartitionsAreLookedInto(t *testing.T) {
	t.Parallel()
	slots := []hwtest.Slot{{Label: "boot", Start: mib, Size: 2 * mib}, {Label: "räid", Start: 8 * mib, Size: 32 * mib}}
	gpt := func() hwtest.Sectors {
		return hwtest.GPT(size, slots...).Put(mib, hwtest.Ext4(2*mib)).Put(8*mib, hwtest.RAID(32*mib, "1.0"))
	}
	inside := []string{
		"data an ext2, ext3 or ext4 file system in partition 1 @1049656",
		"raid a Linux RAID superblock 1.0 in partition 2 @41934848",
	}
	noPrimary := gpt()
	delete(noPrimary.Blocks, 0)
	delete(noPrimary.Blocks, 512)
	backup := size - 512
	zfs := hwtest.GPT(size, hwtest.Slot{Label: "zfs", Start: mib, Size: 280 * mib}, hwtest.Slot{Start: 290 * mib, Size: 8 * mib}).
		Put(mib, hwtest.ZFS(280*mib))
	logical := hwtest.MBR(size, hwtest.Record{Type: 0x83, Start: 2048, Count: 4096}, hwtest.Record{Type: 0x05, Start: 8192, Count: 100000}).
		Put(mib, hwtest.Swap(2*mib)).
		Put(8192*512, hwtest.MBR(size, hwtest.Record{Type: 0x8e, Start: 2048, Count: 8192}, hwtest.Record{Type: 0x05, Start: 20480, Count: 20000})).
		Put((8192+2048)*512, hwtest.LVM(4*mib)).
		Put((8192+20480)*512, hwtest.MBR(size, hwtest.Record{Type: 0x83, Start: 2048, Count: 8192}, hwtest.Record{Type: 0x05, Start: 40960, Count: 20000})).
		Put((8192+20480+2048)*512, hwtest.XFS(4*mib)).
		Put((8192+40960)*512, hwtest.MBR(size, hwtest.Record{Type: 0xfd, Start: 2048, Count: 8192})).
		Put((8192+40960+2048)*512, hwtest.RAID(4*mib, "1.2"))
	endless := hwtest.MBR(size, hwtest.Record{Type: 0x0f, Start: 8192, Count: 100000}).
		Put(8192*512, hwtest.MBR(size, hwtest.Record{Type: 0x83, Start: 1, Count: 1}, hwtest.Record{Type: 0x05, Start: 1, Count: 1})).
		Put(8193*512, hwtest.MBR(size, hwtest.Record{Type: 0x83, Start: 1, Count: 1}, hwtest.Record{Type: 0x05, Start: 1, Count: 1}))
	for _, test := range []struct {
		name string
		disk hwtest.Sectors
		want []string
	}{
		{"gpt", gpt(), append([]string{"table a GPT partition table @512"}, inside...)},
		{"only the backup of a gpt", noPrimary, append([]string{fmt.Sprintf("table a GPT partition table @%d", backup)}, inside...)},
		{"a whole disk given to zfs", zfs, []string{"table a GPT partition table @512", "zfs a member of a ZFS pool in partition 1 @1179648"}},
		{"mbr with logical partitions", logical, []string{
			"table an MBR partition table @510",
			"data swap space in partition 1 @1052662",
			"lvm an LVM physical volume in partition 5 @5243392",
			"data an xfs file system in partition 6 @15728640",
			"raid a Linux RAID superblock 1.2 in partition 7 @26218496",
		}},
		{"a chain of logical partitions that does not end", endless, []string{"table an MBR partition table @510"}},
		{"a protective record and nothing else", hwtest.MBR(size, hwtest.Record{Type: 0xee, Start: 1, Count: 1000}), []string{"table an MBR partition table @510"}},
		{"a boot record without partitions", hwtest.MBR(size), nil},
		{"nothing", hwtest.Blank(size), nil},
		{"less than a sector", hwtest.Blank(100), nil},
		{"no byte", hwtest.Blank(0), nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(test.want, find(t, test.disk, test.disk.Size)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	found, err := signature.Find(gpt(), size)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"boot", "räid"}, found[0].Labels); diff != "" {
		t.Error(diff)
	}
}

// A sector of 4096 bytes: the table of a disk that was partitioned behind
// another enclosure.
func TestATableOfLargeSectors(t *testing.T) {
	t.Parallel()
	small := hwtest.GPT(size, hwtest.Slot{Label: "x", Start: 8 * mib, Size: 8 * mib})
	header := append([]byte{}, small.Blocks[512]...)
	entries := append([]byte{}, small.Blocks[1024]...)
	copy(entries[32:], []byte{0, 8, 0, 0, 0, 0, 0, 0, 0xff, 0xf, 0, 0, 0, 0, 0, 0}) // 2048 to 4095
	disk := hwtest.Blank(size).Put(8*mib, hwtest.LVM(8*mib))
	disk.Blocks[4096], disk.Blocks[8192] = header, entries
	want := []string{"table a GPT partition table @4096", "lvm an LVM physical volume in partition 1 @8389120"}
	if diff := cmp.Diff(want, find(t, disk, size)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestADamagedTableIsStillATable(t *testing.T) {
	t.Parallel()
	for off, value := range map[int]byte{75: 0xff, 82: 0xff, 86: 0xff, 84: 1} {
		disk := hwtest.GPT(size, hwtest.Slot{Start: mib, Size: mib}).Put(mib, hwtest.LVM(mib))
		disk.Blocks[512][off] = value
		if diff := cmp.Diff([]string{"table a GPT partition table @512"}, find(t, disk, size)); diff != "" {
			t.Errorf("byte %d (-want +got):\n%s", off, diff)
		}
	}
	// Entries that lie outside of the disk are passed over.
	disk := hwtest.GPT(size, hwtest.Slot{Start: 299 * mib, Size: 1 << 40}, hwtest.Slot{Start: mib, Size: mib}).Put(mib, hwtest.LVM(mib))
	want := []string{"table a GPT partition table @512", "lvm an LVM physical volume in partition 2 @1049088"}
	if diff := cmp.Diff(want, find(t, disk, size)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

type failing struct{ after int64 }

var errIO = errors.New("input/output error")

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if off >= f.after {
		return 0, errIO
	}
	return hwtest.LVM(size).ReadAt(p, off)
}

func TestADiskThatCannotBeReadIsAnError(t *testing.T) {
	t.Parallel()
	if _, err := signature.Find(failing{0}, size); !errors.Is(err, errIO) {
		t.Errorf("error %v", err)
	}
	found, err := signature.Find(failing{mib}, size)
	if !errors.Is(err, errIO) || len(found) != 1 {
		t.Errorf("found %v, error %v", found, err)
	}
	if _, err := signature.Find(hwtest.LVM(size), size+mib); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a disk that is shorter than it says: error %v", err)
	}
}

func FuzzFind(f *testing.F) {
	f.Add([]byte("LABELONE"), int64(512), int64(mib))
	f.Add([]byte("EFI PART\xff\xff\xff"), int64(512), int64(mib))
	f.Add(hwtest.GPT(mib, hwtest.Slot{Start: 4096, Size: 4096}).Blocks[512], int64(512), int64(mib))
	f.Fuzz(func(t *testing.T, block []byte, off, size int64) {
		size, off = size&(64*mib-1), off&(64*mib-1)
		disk := hwtest.MBR(size, hwtest.Record{Type: 5, Start: 1, Count: 100})
		disk.Blocks[off] = block
		found, err := signature.Find(disk, size)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range found {
			if x.Offset < 0 || x.Offset >= size {
				t.Errorf("%v lies at %d of %d", x, x.Offset, size)
			}
		}
	})
}
