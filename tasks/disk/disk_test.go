package disk_test

// What green does not prove: no firmware reads the boot partition and no kernel
// the table here; fsck.vfat, mtools, sgdisk and qemu-img are the readers. Files
// and partitions are a few MiB, so the limits of FAT32 and GPT on large disks
// are not met, and no power is cut: that the bytes are on the medium before
// their name is written, not shown.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cc-base/tasks/digest"
	"cc-base/tasks/disk"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/golden"
	"cc-base/tasks/lab"
	"cc-base/tasks/manifest"
	"cc-base/tasks/sh"
)

const (
	epoch    = 1767225600
	diskGUID = "8838B6BD-4A64-5071-99BA-D628892CD8BE"
)

func absent(t *testing.T, files ...string) {
	t.Helper()
	for _, f := range files {
		if _, err := os.Lstat(f); err == nil {
			t.Errorf("%s was left behind", filepath.Base(f))
		}
	}
}

// sparse makes a file of zeros that takes no space.
func sparse(t *testing.T, file string, size int64) string {
	t.Helper()
	filetest.Write(t, file, nil)
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	return file
}

func esp(t *testing.T, dir string) disk.ESP {
	t.Helper()
	return disk.ESP{
		Files: map[string]string{
			"EFI/BOOT/BOOTX64.EFI":                         filetest.Write(t, filepath.Join(dir, "uki"), filetest.Noise(1, 3<<20+5)),
			"EFI/a directory/A rather long file name.conf": filetest.Write(t, filepath.Join(dir, "conf"), []byte("x=1\n")),
			"empty": filetest.Write(t, filepath.Join(dir, "empty"), nil),
		},
		Label: "CC-ESP", VolumeID: 0x1234abcd, Epoch: epoch,
	}
}

func TestABootPartitionIsMadeByTheseCommands(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	run := &sh.Recorder{}
	if _, err := disk.BuildESP(t.Context(), run, esp(t, dir), filepath.Join(dir, "esp.img")); err != nil {
		t.Fatal(err)
	}
	golden.Compare(t, "esp.argv", strings.ReplaceAll(run.Transcript(), dir, "DIR"))
}

func TestABootPartitionIsSoundAndHoldsTheFiles(t *testing.T) {
	t.Parallel()
	run, dir := lab.Tools(t)
	e, image := esp(t, dir), filepath.Join(dir, "esp.img")
	old := time.Unix(1600000000, 0)
	for _, src := range e.Files {
		if err := os.Chtimes(src, old, old); err != nil {
			t.Fatal(err)
		}
	}
	size, err := disk.BuildESP(t.Context(), run, e, image)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(image); err != nil || info.Size() != size || size%disk.MiB != 0 || size < 64*disk.MiB {
		t.Errorf("it says %d bytes; %v, %v", size, info, err)
	}
	if err := sh.Do(t.Context(), run, "fsck.vfat", "-n", image); err != nil {
		t.Error(err)
	}
	for dst, src := range e.Files {
		var out bytes.Buffer
		err := run.Run(t.Context(), sh.Cmd{Name: "mcopy", Args: []string{"-i", image, "::" + dst, "-"}, Stdout: &out})
		if err != nil || !bytes.Equal(out.Bytes(), filetest.Read(t, src)) {
			t.Errorf("%s: %d bytes came back; %v", dst, out.Len(), err)
		}
		if info, err := os.Stat(src); err != nil || !info.ModTime().Equal(old) {
			t.Errorf("the source of %s was touched", dst)
		}
	}
	label, err := sh.Text(t.Context(), run, "minfo", "-i", image, "::").String()
	if err != nil || !strings.Contains(label, "1234ABCD") || !strings.Contains(label, "CC-ESP") {
		t.Errorf("serial number or label are not as asked: %s; %v", label, err)
	}
}

func TestABootPartitionBuiltTwiceIsTheSameBytes(t *testing.T) {
	t.Parallel()
	one, first := lab.Tools(t)
	two, second := lab.Tools(t)
	a, b := filepath.Join(first, "a"), filepath.Join(second, "b")
	if _, err := disk.BuildESP(t.Context(), one, esp(t, first), a); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3100 * time.Millisecond) // FAT counts in units of two seconds
	if _, err := disk.BuildESP(t.Context(), two, esp(t, second), b); err != nil {
		t.Fatal(err)
	}
	x, y := filetest.Read(t, a), filetest.Read(t, b)
	if !bytes.Equal(x, y) {
		for i := range x {
			if x[i] != y[i] {
				t.Fatalf("they differ first at byte %d: %#x and %#x", i, x[i], y[i])
			}
		}
	}
	// Creation, access and modification of every entry are the epoch, in
	// FAT's form: 2026-01-01 is (46<<9 | 1<<5 | 1).
	const date = 46<<9 | 1<<5 | 1
	at := bytes.Index(x, []byte("BOOTX64 EFI"))
	if at < 0 {
		t.Fatal("no entry of the boot program")
	}
	for name, off := range map[string]int{"creation": 16, "access": 18, "modification": 24} {
		if got := int(x[at+off]) | int(x[at+off+1])<<8; got != date {
			t.Errorf("%s date is %#x, not %#x", name, got, date)
		}
	}
	for name, off := range map[string]int{"creation": 14, "modification": 22} {
		if got := int(x[at+off]) | int(x[at+off+1])<<8; got != 0 {
			t.Errorf("%s time is %#x, not midnight", name, got)
		}
	}
}

func TestABootPartitionTooSmallIsRefusedWithTheNumberThatWorks(t *testing.T) {
	t.Parallel()
	run, dir := lab.Tools(t)
	image := filepath.Join(dir, "esp.img")
	// Above some 250 MiB the file allocation tables need more than the spare
	// room of small images.
	big := disk.ESP{Files: map[string]string{"BIG": sparse(t, filepath.Join(dir, "big"), 300*disk.MiB)}, Label: "CC-ESP", Size: 304 * disk.MiB}
	_, err := disk.BuildESP(t.Context(), run, big, image)
	faulttest.Want(t, err, fault.VolumeTooBig, "304 MiB", "300 MiB")
	absent(t, image)
	var have, files, need int64
	if _, err := fmt.Sscanf(err.Error(), "the boot partition of %d MiB cannot hold %d MiB of files; at least %d MiB are needed", &have, &files, &need); err != nil {
		t.Fatal(err)
	}
	big.Size = need * disk.MiB
	if _, err := disk.BuildESP(t.Context(), run, big, image); err != nil {
		t.Errorf("%d MiB are not enough: %v", need, err)
	}
	small := esp(t, dir)
	small.Size = 32 * disk.MiB
	_, err = disk.BuildESP(t.Context(), run, small, filepath.Join(dir, "small.img"))
	faulttest.Want(t, err, fault.VolumeTooBig, "32 MiB", "at least 64 MiB")
}

func TestAFailureLeavesNoBootPartition(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"mkfs.vfat", "mmd", "mcopy", "fsck.vfat"} {
		dir := t.TempDir()
		image := filepath.Join(dir, "esp.img")
		run := &sh.Recorder{Answer: func(c sh.Cmd) (string, error) {
			if c.Name == tool {
				return "", errors.New("it broke")
			}
			return "", nil
		}}
		_, err := disk.BuildESP(t.Context(), run, esp(t, dir), image)
		faulttest.Want(t, err, fault.DiskImage, "it broke")
		absent(t, image)
	}
	dir := t.TempDir()
	e := disk.ESP{Files: map[string]string{"a": filepath.Join(dir, "none")}}
	if _, err := disk.BuildESP(t.Context(), &sh.Recorder{}, e, filepath.Join(dir, "esp.img")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v for a file that is not there", err)
	}
}

// volumes is a disk in small: a read-only volume with a hole, one that is not a
// whole number of MiB, one with room to spare, and one that the guest fills.
func volumes(t *testing.T, dir string) []disk.Volume {
	t.Helper()
	holes := make([]byte, 8*disk.MiB)
	copy(holes, filetest.Noise(2, 4096))
	copy(holes[7*disk.MiB:], filetest.Noise(3, disk.MiB))
	return []disk.Volume{
		{Label: "cc-esp", TypeGUID: "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", GUID: "DEA949C3-45A6-5EB9-BF9B-1365E4FC877B", Content: filetest.Write(t, filepath.Join(dir, "1"), filetest.Noise(1, 2*disk.MiB))},
		{Label: "cc-root", TypeGUID: "CA7D7CCB-63ED-4C53-861C-1742536059CC", GUID: "3D1FBB4A-3A87-58A9-9403-4D7952DEB57A", Content: filetest.Write(t, filepath.Join(dir, "2"), holes), ReadOnly: true},
		{Label: "cc-app", TypeGUID: "CA7D7CCB-63ED-4C53-861C-1742536059CC", GUID: "9C2E27FE-005F-586C-8EFB-118A583F1FC5", Content: filetest.Write(t, filepath.Join(dir, "3"), filetest.Noise(4, disk.MiB+512)), ReadOnly: true},
		{Label: "cc-config", TypeGUID: "0FC63DAF-8483-4772-8E79-3D69D8477DE4", GUID: "31F4BCAE-6833-5FFA-9AC5-9159A74030BA", Content: filetest.Write(t, filepath.Join(dir, "4"), filetest.Noise(5, 100)), Size: 3*disk.MiB - 1},
		{Label: "cc-dynamic", TypeGUID: "6229E8D9-6D18-5389-A180-E8461AC96685", GUID: "0A80DFEC-9FF1-5CA9-BBE0-11A3D198F52F", Size: 64 * disk.MiB},
	}
}

func assemble(t *testing.T, raw string, v []disk.Volume) manifest.Disk {
	t.Helper()
	d, err := disk.Assemble(t.Context(), raw, diskGUID, v)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestADiskHoldsEveryVolumeAtItsPlace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	v, raw := volumes(t, dir), filepath.Join(dir, "disk.raw")
	filetest.Write(t, raw, filetest.Noise(9, 4*disk.MiB)) // what lay there before must not show through
	d := assemble(t, raw, v)
	image := filetest.Read(t, raw)
	if d.GUID != diskGUID || d.SectorSize != 512 || d.VirtualSize != int64(len(image)) {
		t.Errorf("got %+v for %d bytes", d, len(image))
	}
	next := int64(disk.MiB)
	for i, p := range d.Partitions {
		if p.Number != i+1 || p.Label != v[i].Label || p.GUID != v[i].GUID || p.TypeGUID != v[i].TypeGUID || p.ReadOnly != v[i].ReadOnly {
			t.Errorf("partition %d is %+v", i+1, p)
		}
		if p.Start != next || p.Size%disk.MiB != 0 || p.Size < v[i].Size {
			t.Errorf("%s lies at %d+%d, want %d", p.Label, p.Start, p.Size, next)
		}
		next += p.Size
		var content []byte
		if v[i].Content != "" {
			content = filetest.Read(t, v[i].Content)
			if p.SHA256 != digest.Bytes(content) {
				t.Errorf("%s: the digest is of something else", p.Label)
			}
		} else if p.SHA256 != "" {
			t.Errorf("%s: a digest of nothing", p.Label)
		}
		if p.ContentSize != int64(len(content)) || !bytes.Equal(image[p.Start:p.Start+p.ContentSize], content) {
			t.Errorf("%s: content differs", p.Label)
		}
		if len(bytes.Trim(image[p.Start+p.ContentSize:p.Start+p.Size], "\x00")) != 0 {
			t.Errorf("%s: something lies behind the content", p.Label)
		}
	}
	if want := next + disk.MiB; d.VirtualSize != want {
		t.Errorf("the disk ends at %d, want %d", d.VirtualSize, want)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(raw, &st); err != nil {
		t.Fatal(err)
	}
	// 2 + 1 + 1 + 2 + 1 MiB of content, rounded up, and the tables.
	if got := st.Blocks * 512; got > 9*disk.MiB {
		t.Errorf("%d bytes of %d are allocated: holes were filled", got, len(image))
	}
	again := filepath.Join(dir, "again.raw")
	assemble(t, again, v)
	if !bytes.Equal(image, filetest.Read(t, again)) {
		t.Error("assembled twice, the disks differ")
	}
}

func TestSgdiskAgreesWithTheTable(t *testing.T) {
	t.Parallel()
	run, dir := lab.Tools(t)
	v, raw := volumes(t, dir), filepath.Join(dir, "disk.raw")
	d := assemble(t, raw, v)
	out, err := sh.Text(t.Context(), run, "sgdisk", "-v", raw).String()
	if err != nil || !strings.Contains(out, "No problems found") {
		t.Errorf("%s; %v", out, err)
	}
	if out, err := sh.Text(t.Context(), run, "sgdisk", "-p", raw).String(); err != nil || !strings.Contains(out, diskGUID) {
		t.Errorf("%s; %v", out, err)
	}
	for _, p := range d.Partitions {
		out, err := sh.Text(t.Context(), run, "sgdisk", fmt.Sprintf("-i=%d", p.Number), raw).String()
		if err != nil {
			t.Fatal(err)
		}
		attributes := "0000000000000000"
		if p.ReadOnly {
			attributes = "1000000000000000"
		}
		for _, want := range []string{
			"Partition GUID code: " + p.TypeGUID, "Partition unique GUID: " + p.GUID, "Partition name: '" + p.Label + "'",
			fmt.Sprintf("First sector: %d ", p.Start/512), fmt.Sprintf("Last sector: %d ", (p.Start+p.Size)/512-1), "Attribute flags: " + attributes,
		} {
			if !strings.Contains(out, want) {
				t.Errorf("partition %d: sgdisk does not say %q but\n%s", p.Number, want, out)
			}
		}
	}
}

func TestEveryVolumeThatDoesNotFitIsNamedAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	v, raw := volumes(t, dir), filepath.Join(dir, "disk.raw")
	v[1].Size, v[2].Size, v[4].Size = 4*disk.MiB, disk.MiB, 0
	_, err := disk.Assemble(t.Context(), raw, diskGUID, v)
	faulttest.Want(t, err, fault.VolumeTooBig, "cc-root: 4 MiB is below the 8 MiB", "cc-app: 1 MiB is below the 2 MiB", "cc-dynamic: there is neither content nor a size")
	if strings.Contains(err.Error(), "cc-config") {
		t.Errorf("cc-config fits: %v", err)
	}
	absent(t, raw)
}

func TestAFailureLeavesNoDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	raw := filepath.Join(dir, "disk.raw")
	gone := volumes(t, dir)
	gone[2].Content = filepath.Join(dir, "none")
	if _, err := disk.Assemble(t.Context(), raw, diskGUID, gone); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v for content that is not there", err)
	}
	absent(t, raw)
	for name, spoil := range map[string]func(*disk.Volume){
		"malformed GUID": func(v *disk.Volume) { v.GUID = "1234" },
		"malformed type": func(v *disk.Volume) { v.TypeGUID = "linux" },
		"label too long": func(v *disk.Volume) { v.Label = strings.Repeat("x", 37) },
	} {
		v := volumes(t, dir)
		spoil(&v[3])
		if _, err := disk.Assemble(t.Context(), raw, diskGUID, v); err == nil {
			t.Errorf("%s: no error", name)
		}
		absent(t, raw)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := disk.Assemble(ctx, raw, diskGUID, volumes(t, dir)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v after it was cancelled", err)
	}
	absent(t, raw)
}

func TestAQcow2IsMadeByTheseCommands(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	run := &sh.Recorder{Answer: func(c sh.Cmd) (string, error) {
		if c.Args[0] == "convert" {
			filetest.Write(t, c.Args[len(c.Args)-1], []byte("QFI"))
		}
		return "", nil
	}}
	out := filepath.Join(dir, "disk.qcow2")
	if err := disk.Qcow2(t.Context(), run, filepath.Join(dir, "disk.raw"), out); err != nil {
		t.Fatal(err)
	}
	golden.Compare(t, "qcow2.argv", strings.ReplaceAll(run.Transcript(), dir, "DIR"))
	absent(t, out+".part")
}

func TestAQcow2IsTheRawDiskAndTheSameTwice(t *testing.T) {
	t.Parallel()
	run, dir := lab.Tools(t)
	raw, a, b := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "a.qcow2"), filepath.Join(dir, "b.qcow2")
	d := assemble(t, raw, volumes(t, dir))
	for _, out := range []string{a, b} {
		if err := disk.Qcow2(t.Context(), run, raw, out); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(filetest.Read(t, a), filetest.Read(t, b)) {
		t.Error("converted twice, they differ")
	}
	if err := sh.Do(t.Context(), run, "qemu-img", "check", "-f", "qcow2", a); err != nil {
		t.Error(err)
	}
	if err := sh.Do(t.Context(), run, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, a); err != nil {
		t.Error(err)
	}
	// compare takes a longer image for equal where the rest is zeros.
	info, err := sh.Text(t.Context(), run, "qemu-img", "info", "--output=json", a).String()
	if err != nil || !strings.Contains(info, fmt.Sprintf(`"virtual-size": %d,`, d.VirtualSize)) {
		t.Errorf("its size is not %d: %s; %v", d.VirtualSize, info, err)
	}
	if n := len(filetest.Read(t, a)); n > 10*disk.MiB {
		t.Errorf("%d bytes: the holes are in it", n)
	}
}

func TestAFailureLeavesNoQcow2(t *testing.T) {
	t.Parallel()
	run, dir := lab.Tools(t)
	out := filepath.Join(dir, "disk.qcow2")
	faulttest.Want(t, disk.Qcow2(t.Context(), run, filepath.Join(dir, "none.raw"), out), fault.DiskImage)
	absent(t, out, out+".part")
	broken := &sh.Recorder{Answer: func(c sh.Cmd) (string, error) {
		if c.Args[0] == "convert" {
			filetest.Write(t, c.Args[len(c.Args)-1], []byte("half"))
			return "", nil
		}
		return "", errors.New("it is corrupt")
	}}
	faulttest.Want(t, disk.Qcow2(t.Context(), broken, filepath.Join(dir, "disk.raw"), out), fault.DiskImage, "corrupt")
	absent(t, out, out+".part")
}
