package image_test

// What green does not prove: no guest boots a grown disk here, and none formats
// what was added; that a guest's kernel takes such a table is shown by the
// installer's boots, which have the same one. A formatted cc-dynamic is two
// magic numbers, and a machine that uses an image is one that has not begun to
// run. No power is cut while a snapshot is made: that it costs no content is
// QEMU's word. Disks have a few MiB of content, whatever size they claim.

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/digest"
	"cc-base/tasks/disk"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/image"
	"cc-base/tasks/lab"
	"cc-base/tasks/layout"
	"cc-base/tasks/manifest"
	"cc-base/tasks/sh"
	"cc-base/tasks/toolbox"
)

const mib = 1 << 20

// bench is a folder with one image in it and what works on it.
type bench struct {
	image.Editor
	dir, file string
	disk      manifest.Disk
	mu        sync.Mutex
	events    []string
}

// content is what a partition of a test's disk begins with.
type content map[string][]byte

// newBench makes cc-base.qcow2 in a folder whose name has a space: a disk with
// the partitions cc-esp, cc-root and cc-dynamic.
func newBench(t *testing.T, c content) *bench {
	t.Helper()
	tools, tmp := lab.Tools(t)
	b := &bench{dir: filepath.Join(tmp, "images here")}
	if err := os.Mkdir(b.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	b.file = filepath.Join(b.dir, "cc-base.qcow2")
	b.Editor = image.Editor{Tools: toolbox.Tree{Dir: tools.Dir, Host: tools.Host}, Event: b.event}
	b.make(t, tools, tmp, c, "cc-esp", "cc-root", "cc-dynamic")
	return b
}

func (b *bench) make(t *testing.T, tools sh.Runner, tmp string, c content, labels ...string) {
	t.Helper()
	var volumes []disk.Volume
	for i, label := range labels {
		v := disk.Volume{
			Label: label, GUID: fmt.Sprintf("AAAAAAAA-0000-0000-0000-00000000000%d", i+1),
			TypeGUID: "0FC63DAF-8483-4772-8E79-3D69D8477DE4", Size: 2 * mib, ReadOnly: label == "cc-root",
		}
		if data := c[label]; data != nil {
			v.Content = filetest.Write(t, filepath.Join(tmp, label), data)
		}
		volumes = append(volumes, v)
	}
	raw := filepath.Join(tmp, "assembled.raw")
	var err error
	if b.disk, err = disk.Assemble(t.Context(), raw, "AAAAAAAA-0000-0000-0000-000000000000", volumes); err != nil {
		t.Fatal(err)
	}
	if err := disk.Qcow2(t.Context(), tools, raw, b.file); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(raw); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) event(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, fmt.Sprintf(format, args...))
}

func (b *bench) told() string { return strings.Join(b.events, "\n") }

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

func (b *bench) qemu(t *testing.T, name string, args ...string) string {
	t.Helper()
	text, err := sh.Text(t.Context(), b.Tools.With(b.dir), name, args...).String()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// raw returns the disk in the file as a raw file elsewhere.
func (b *bench) raw(t *testing.T, file, format string) string {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "raw")
	if err := sh.Do(t.Context(), b.Tools.With(b.dir, filepath.Dir(raw)), "qemu-img", "convert", "-f", format, "-O", "raw", file, raw); err != nil {
		t.Fatal(err)
	}
	return raw
}

func tableOf(t *testing.T, raw string) (layout.Table, int64) {
	t.Helper()
	f, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	table, err := layout.Read(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return table, info.Size()
}

// at reads a part of a file.
func at(t *testing.T, file string, off int64, n int) []byte {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := f.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	return b
}

func sum(t *testing.T, file string) string {
	t.Helper()
	s, err := digest.File(file)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func noise() content {
	return content{"cc-esp": filetest.Noise(1, mib+5), "cc-root": append([]byte("LUKS\xba\xbe\x00\x02"), filetest.Noise(2, mib)...)}
}

func TestAGrownDiskIsThatOfALargerImageAndHoldsTheSame(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		by     string
		bytes  int64
		format string
	}{{"+1M", mib, image.Qcow2}, {"+10G", 10 << 30, image.Qcow2}, {"+3T", 3 << 40, image.Qcow2}, {"+5G", 5 << 30, image.Raw}} {
		t.Run(c.format+c.by, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, noise())
			file := b.file
			if c.format == image.Raw {
				file = b.path("disk.raw")
				if err := b.Convert(t.Context(), image.Conversion{File: b.file, To: image.Raw, Out: file}); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chmod(file, 0o640); err != nil {
				t.Fatal(err)
			}
			before := b.raw(t, file, c.format)
			old, size := tableOf(t, before)
			if err := b.Resize(t.Context(), image.Growth{File: file, By: c.by}); err != nil {
				t.Fatal(err)
			}
			after := b.raw(t, file, c.format)
			got, grown := tableOf(t, after)
			want, err := layout.Final(old, size+c.bytes)
			if err != nil {
				t.Fatal(err)
			}
			if diffs := got.Compare(want); grown != size+c.bytes || len(diffs) > 0 {
				t.Errorf("a disk of %d bytes, want %d; %v", grown, size+c.bytes, diffs)
			}
			if last := got.Entries[2]; last.Size <= old.Entries[2].Size || last.Start+last.Size > grown-33*512 {
				t.Errorf("cc-dynamic is %s", last)
			}
			for _, p := range old.Entries {
				if !bytes.Equal(at(t, before, p.Start, int(p.Size)), at(t, after, p.Start, int(p.Size))) {
					t.Errorf("%s holds something else", p.Label)
				}
			}
			if left := at(t, after, size-33*512, 33*512); len(bytes.Trim(left, "\x00")) > 0 {
				t.Error("the former backup table is still there")
			}
			if !bytes.Equal(at(t, before, 0, 446), at(t, after, 0, 446)) {
				t.Error("the boot code before the protective entry has changed")
			}
			tools := b.Tools.With(filepath.Dir(after))
			if text, err := sh.Text(t.Context(), tools, "sgdisk", "-v", after).String(); err != nil || !strings.Contains(text, "No problems found") {
				t.Errorf("sgdisk: %v\n%s", err, text)
			}
			if c.format == image.Qcow2 {
				b.qemu(t, "qemu-img", "check", file)
				filetest.Only(t, b.dir, "cc-base.qcow2")
			}
			if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o640 {
				t.Errorf("its mode is %v (%v)", info.Mode(), err)
			}
			if !strings.Contains(b.told(), "PCR 5") || strings.Contains(b.told(), "recovery key") {
				t.Errorf("told:\n%s", b.told())
			}
		})
	}
}

func TestADiskThatAGuestHasBegunToUseGrowsWithForceOnly(t *testing.T) {
	t.Parallel()
	second := make([]byte, 128<<10)
	second[64<<10] = 1
	for name, data := range map[string][]byte{"a header": append([]byte("LUKS\xba\xbe\x00\x02"), make([]byte, 4096)...), "the second copy alone": second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := noise()
			c["cc-dynamic"] = data
			b := newBench(t, c)
			before := sum(t, b.file)
			err := b.Resize(t.Context(), image.Growth{File: b.file, By: "+1G"})
			faulttest.Want(t, err, fault.ImageLoss, "cc-dynamic", "PCR 5", "RTMR1")
			if sum(t, b.file) != before {
				t.Error("it was changed")
			}
			if err := b.Resize(t.Context(), image.Growth{File: b.file, By: "+1G", Force: true}); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(b.told(), "needs its recovery key at the next start") {
				t.Errorf("told:\n%s", b.told())
			}
			raw := b.raw(t, b.file, image.Qcow2)
			table, _ := tableOf(t, raw)
			if !bytes.Equal(at(t, raw, table.Entries[2].Start, len(data)), data) {
				t.Error("what the guest has written is gone")
			}
		})
	}
}

func TestASnapshotIsComeBackTo(t *testing.T) {
	t.Parallel()
	b := newBench(t, noise())
	do := func(what, name string) string {
		t.Helper()
		var w strings.Builder
		if err := b.Snapshot(t.Context(), image.Snapshot{File: b.file, Do: what, Name: name}, &w); err != nil {
			t.Fatal(err)
		}
		return w.String()
	}
	if got := do("list", ""); got != "no snapshots\n" {
		t.Errorf("list: %q", got)
	}
	state := sum(t, b.raw(t, b.file, image.Qcow2))
	do("create", "first")
	b.qemu(t, "qemu-io", "-f", "qcow2", "-c", "write -P 7 4M 64k", b.file)
	if sum(t, b.raw(t, b.file, image.Qcow2)) == state {
		t.Fatal("writing has changed nothing")
	}
	if err := b.Resize(t.Context(), image.Growth{File: b.file, By: "+1G"}); err != nil {
		t.Fatal(err)
	}
	do("create", "grown")
	if lines := strings.Split(do("list", ""), "\n"); len(lines) != 4 || !strings.HasPrefix(lines[1], "first ") || !strings.HasPrefix(lines[2], "grown ") {
		t.Errorf("list: %q", lines)
	}
	do("revert", "first")
	if sum(t, b.raw(t, b.file, image.Qcow2)) != state {
		t.Error("it is not as it was, the size included")
	}
	do("revert", "grown")
	if _, size := tableOf(t, b.raw(t, b.file, image.Qcow2)); size < 1<<30 {
		t.Errorf("a disk of %d bytes", size)
	}
	do("delete", "first")
	if got := do("list", ""); strings.Contains(got, "first") || !strings.Contains(got, "grown") {
		t.Errorf("list: %q", got)
	}
	b.qemu(t, "qemu-img", "check", b.file)
	filetest.Only(t, b.dir, "cc-base.qcow2")
}

func TestAConvertedImageHoldsTheSameDisk(t *testing.T) {
	t.Parallel()
	c := noise()
	c["cc-root"] = bytes.Repeat([]byte("compresses well "), 2*mib/16)
	b := newBench(t, c)
	want := sum(t, b.raw(t, b.file, image.Qcow2))
	if err := b.Convert(t.Context(), image.Conversion{File: b.file, From: image.Qcow2, To: image.Raw, Out: b.path("a.raw")}); err != nil {
		t.Fatal(err)
	}
	if sum(t, b.path("a.raw")) != want {
		t.Error("the raw disk is another one")
	}
	if err := b.Convert(t.Context(), image.Conversion{File: b.path("a.raw"), From: image.Raw, To: image.Qcow2, Out: b.path("b.qcow2")}); err != nil {
		t.Fatal(err)
	}
	if sum(t, b.path("b.qcow2")) != sum(t, b.file) {
		t.Error("raw and back to qcow2 is not what the build writes")
	}
	before, err := os.Stat(b.file)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Snapshot(t.Context(), image.Snapshot{File: b.file, Do: "create", Name: "kept"}, io.Discard); err != nil {
		t.Fatal(err)
	}
	faulttest.Want(t, b.Convert(t.Context(), image.Conversion{File: b.file, To: image.Qcow2, Compress: true}), fault.ImageLoss, "snapshot")
	if err := b.Convert(t.Context(), image.Conversion{File: b.file, To: image.Qcow2, Compress: true, Force: true}); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(b.file)
	if err != nil {
		t.Fatal(err)
	}
	if after.Size() > before.Size()-mib {
		t.Errorf("compressed from %d to %d bytes", before.Size(), after.Size())
	}
	if sum(t, b.raw(t, b.file, image.Qcow2)) != want {
		t.Error("the compressed disk is another one")
	}
	filetest.Only(t, b.dir, "a.raw", "b.qcow2", "cc-base.qcow2")
}

// cutOff ends a context once the part of a conversion has been begun.
type cutOff struct {
	sh.Runner
	part string
	end  context.CancelFunc
}

func (c cutOff) Run(ctx context.Context, cmd sh.Cmd) error {
	if strings.Contains(strings.Join(cmd.Args, " "), " convert ") {
		go func() {
			for ctx.Err() == nil {
				if info, err := os.Stat(c.part); err == nil && info.Size() > 0 {
					c.end()
				}
				time.Sleep(time.Millisecond)
			}
		}()
	}
	return c.Runner.Run(ctx, cmd)
}

func TestAConversionThatIsCutOffLeavesNothing(t *testing.T) {
	t.Parallel()
	for name, out := range map[string]string{"to another file": "out.qcow2", "in place": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, content{"cc-root": filetest.Noise(3, 2*mib)})
			big := b.path("big.raw")
			filetest.Write(t, big, filetest.Noise(4, 96*mib))
			if err := b.Convert(t.Context(), image.Conversion{File: big, To: image.Qcow2, Out: b.file, Force: true}); err != nil {
				t.Fatal(err)
			}
			before := sum(t, b.file)
			ctx, end := context.WithCancel(t.Context())
			defer end()
			c := image.Conversion{File: b.file, To: image.Qcow2, Compress: true}
			part := b.file + ".part"
			if out != "" {
				c.Out, part = b.path(out), b.path(out)+".part"
			}
			b.Tools.Host = cutOff{b.Tools.Host, part, end}
			if err := b.Convert(ctx, c); err == nil || ctx.Err() == nil {
				t.Fatalf("it was not cut off: %v", err)
			}
			filetest.Only(t, b.dir, "big.raw", "cc-base.qcow2")
			if sum(t, b.file) != before {
				t.Error("the image was changed")
			}
		})
	}
}

func TestAnImageInUseIsLookedAtAndNotChanged(t *testing.T) {
	t.Parallel()
	b := newBench(t, noise())
	ctx, end := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		// A machine that has not begun to run holds its disk already.
		_ = b.Tools.With(b.dir).Run(ctx, sh.Cmd{Name: "qemu-system-x86_64", Args: []string{
			"-nodefaults", "-display", "none", "-machine", "pc,accel=tcg", "-m", "32", "-S", "-drive", "if=virtio,format=qcow2,file=" + b.file}})
	}()
	defer func() { end(); <-done }()
	busy := func() error {
		return b.Convert(t.Context(), image.Conversion{File: b.file, To: image.Raw, Out: b.path("copy"), Force: true})
	}
	err := busy()
	for i := 0; err == nil && i < 100; i++ {
		time.Sleep(100 * time.Millisecond)
		err = busy()
	}
	faulttest.Want(t, err, fault.ImageFile, "is in use by a running machine")
	before := sum(t, b.file)
	faulttest.Want(t, b.Resize(t.Context(), image.Growth{File: b.file, By: "+1G"}), fault.ImageFile, "is in use")
	faulttest.Want(t, b.Snapshot(t.Context(), image.Snapshot{File: b.file, Do: "create", Name: "a"}, io.Discard), fault.ImageFile, "is in use")
	if sum(t, b.file) != before {
		t.Error("it was changed")
	}
	if i, err := b.Inspect(t.Context(), b.file, nil); err != nil || len(i.Partitions) != 3 {
		t.Errorf("%+v, %v", i, err)
	}
}

func TestWhatAnImageHoldsIsShown(t *testing.T) {
	t.Parallel()
	c := noise()
	c["cc-esp"] = make([]byte, 8192)
	copy(c["cc-esp"][82:], "FAT32")
	c["cc-esp"][510], c["cc-esp"][511] = 0x55, 0xaa
	b := newBench(t, c)
	if err := b.Snapshot(t.Context(), image.Snapshot{File: b.file, Do: "create", Name: "one"}, io.Discard); err != nil {
		t.Fatal(err)
	}
	m := &manifest.Manifest{Disk: b.disk}
	m.Disk.Partitions[1].Mount, m.Disk.Partitions[1].Verity = "/", &manifest.Verity{}
	got, err := b.Inspect(t.Context(), b.file, m)
	if err != nil {
		t.Fatal(err)
	}
	if got.DiskSize <= 0 || len(got.Snapshots) != 1 || got.Snapshots[0].Name != "one" || time.Since(got.Snapshots[0].Made) > time.Hour {
		t.Errorf("%+v", got)
	}
	want := image.Info{
		File: b.file, Format: image.Qcow2, VirtualSize: 8 * mib, DiskSize: got.DiskSize, Snapshots: got.Snapshots, Problems: []string{},
		Partitions: []image.Partition{
			{Number: 1, Label: "cc-esp", Start: mib, Size: 2 * mib, Holds: "FAT", ContentSize: 8192},
			{Number: 2, Label: "cc-root", Start: 3 * mib, Size: 2 * mib, Holds: "LUKS2", ContentSize: mib + 8, Mount: "/", Verity: true},
			{Number: 3, Label: "cc-dynamic", Start: 5 * mib, Size: 2 * mib, Holds: "empty"},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	var text, data strings.Builder
	var back image.Info
	if err := got.Write(&text, false); err != nil {
		t.Error(err)
	}
	for _, line := range []string{"qcow2, a disk of 8 MiB (8388608 bytes)", "2          cc-root     3 MiB  2 MiB  LUKS2, 1.0 MiB, verity, at /\n", "\none       20"} {
		if !strings.Contains(text.String(), line) {
			t.Errorf("no %q in:\n%s", line, text.String())
		}
	}
	if err := got.Write(&data, true); err != nil {
		t.Error(err)
	}
	if err := json.Unmarshal([]byte(data.String()), &back); err != nil || cmp.Diff(got, back) != "" {
		t.Errorf("%v\n%s", err, data.String())
	}

	// A manifest of another disk says nothing of this one.
	m.Disk.GUID = "BBBBBBBB-0000-0000-0000-000000000000"
	if got, err := b.Inspect(t.Context(), b.file, m); err != nil || got.Partitions[1].Verity {
		t.Errorf("%+v, %v", got, err)
	}
	// The marks of QEMU, and a disk without a table.
	mark(t, b.file, 79, 2)
	if got, err := b.Inspect(t.Context(), b.file, nil); err != nil || !got.Corrupt {
		t.Errorf("%+v, %v", got, err)
	}
	none := filetest.Write(t, b.path("none.raw"), make([]byte, mib))
	if got, err := b.Inspect(t.Context(), none, nil); err != nil || len(got.Problems) != 1 || got.Format != image.Raw {
		t.Errorf("%+v, %v", got, err)
	}
}

// mark sets bits in a byte of a file.
func mark(t *testing.T, file string, off int64, bits byte) {
	t.Helper()
	b := at(t, file, off, 1)
	b[0] |= bits
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}
