package write_test

// What green does not prove: the device is memory that forgets nothing and
// reorders nothing. That a real disk keeps what fsync promised, and that the
// read-back does not come from a cache, is beyond any test here.

import (
	"bytes"
	"context"
	"errors"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cc-base/installer/installertest"
	"cc-base/installer/write"
	"cc-base/tasks/digest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/layout"
	"cc-base/tasks/manifest"
)

const (
	mib  = 1 << 20
	size = 16 * mib
)

// device is a used disk: every byte is 0xa5. It fails from the budget-th write
// on, and may lie about what it holds.
type device struct {
	*installertest.Disk
	mu     sync.Mutex
	budget int
	writes int
	lieAt  int64
	failAt int64 // writes fail from this byte on; negative: none
}

func newDevice() *device {
	d := &device{Disk: installertest.NewDisk(size), budget: 1 << 30, lieAt: -1, failAt: -1}
	copy(d.Bytes, bytes.Repeat([]byte{0xa5}, size))
	return d
}

var errGone = errors.New("input/output error")

func (d *device) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.writes++; d.writes > d.budget {
		return 0, errGone
	}
	if end := off + int64(len(p)); d.failAt >= 0 && end > d.failAt && off < 22*mib {
		n, _ := d.Disk.WriteAt(p[:max(0, d.failAt-off)], off)
		return n, errGone
	}
	return d.Disk.WriteAt(p, off)
}

func (d *device) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.Disk.ReadAt(p, off)
	if d.lieAt >= off && d.lieAt < off+int64(n) {
		p[d.lieAt-off] ^= 1
	}
	return n, err
}

func job(t *testing.T) (write.Job, layout.Table) {
	t.Helper()
	f := installertest.New()
	final, err := layout.Final(f.Table, size)
	if err != nil {
		t.Fatal(err)
	}
	return write.Job{Image: f.Disk, Disk: f.Manifest.Disk, Table: final, Size: size}, final
}

func keep() error { return nil }

// complete tells whether a disk would pass as this installation.
func complete(disk *installertest.Disk, want layout.Table, m manifest.Disk) bool {
	got, err := layout.Read(disk, size)
	if err != nil || len(got.Compare(want)) > 0 {
		return false
	}
	for _, p := range m.Partitions {
		if p.ContentSize > 0 && write.Content(context.Background(), disk, p) != nil {
			return false
		}
	}
	return true
}

func TestInstallsAndWritesNothingElse(t *testing.T) {
	t.Parallel()
	j, want := job(t)
	dev, last := newDevice(), int64(-1)
	j.Progress = func(done, all int64) {
		if done <= last || done > all {
			t.Errorf("progress went from %d to %d of %d", last, done, all)
		}
		last = done
	}
	if err := j.Run(t.Context(), dev, keep); err != nil {
		t.Fatal(err)
	}
	if !complete(dev.Disk, want, j.Disk) {
		t.Fatal("the disk does not hold the installation")
	}
	rest := bytes.Clone(dev.Bytes)
	for _, s := range j.Steps() {
		if s.Action != write.Table {
			copy(rest[s.Offset:s.Offset+s.Length], bytes.Repeat([]byte{0xa5}, int(s.Length)))
		}
	}
	if bytes.Count(rest, []byte{0xa5}) != size {
		t.Error("a byte was written that is in no step of the plan")
	}
	dynamic := want.Entries[len(want.Entries)-1]
	for _, at := range []int64{dynamic.Start, dynamic.Start + dynamic.Size - mib} {
		if !bytes.Equal(dev.Bytes[at:at+mib], make([]byte, mib)) {
			t.Errorf("cc-dynamic keeps old signatures at %d", at)
		}
	}
}

// Whenever the installer is killed, the disk must not pass as an installation.
func TestAnInterruptedInstallationNeverLooksComplete(t *testing.T) {
	t.Parallel()
	j, want := job(t)
	whole := newDevice()
	if err := j.Run(t.Context(), whole, keep); err != nil {
		t.Fatal(err)
	}
	for stop := range whole.writes {
		// The disk held the same installation before: the worst case.
		dev := newDevice()
		copy(dev.Bytes, whole.Bytes)
		dev.budget = stop
		if err := j.Run(t.Context(), dev, keep); err == nil {
			t.Fatalf("stopped after %d writes: no error", stop)
		}
		if stop > 0 && complete(dev.Disk, want, j.Disk) {
			t.Errorf("stopped after %d of %d writes, the disk passes as installed", stop, whole.writes)
		}
	}
}

func TestCancelledBeforeTheFirstWrite(t *testing.T) {
	t.Parallel()
	j, _ := job(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dev := newDevice()
	err := j.Run(ctx, dev, keep)
	if !errors.Is(err, write.ErrUntouched) || !errors.Is(err, context.Canceled) || dev.writes != 0 {
		t.Errorf("error %v after %d writes", err, dev.writes)
	}
}

func TestCancelledMidway(t *testing.T) {
	t.Parallel()
	j, want := job(t)
	ctx, cancel := context.WithCancel(t.Context())
	j.Progress = func(_, _ int64) { cancel() }
	dev := newDevice()
	err := j.Run(ctx, dev, keep)
	if errors.Is(err, write.ErrUntouched) || !errors.Is(err, context.Canceled) || complete(dev.Disk, want, j.Disk) {
		t.Errorf("error %v", err)
	}
}

func TestADeviceThatReadsBackOtherBytes(t *testing.T) {
	t.Parallel()
	j, _ := job(t)
	for name, at := range map[string]int64{"content": j.Disk.Partitions[1].Start + 5000, "table": 1024 + 3} {
		dev := newDevice()
		dev.lieAt = at
		if err := j.Run(t.Context(), dev, keep); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestAnImageThatIsNotTheManifests(t *testing.T) {
	t.Parallel()
	j, want := job(t)
	j.Image.(*installertest.Disk).Bytes[j.Disk.Partitions[2].Start+70_000] ^= 1
	dev := newDevice()
	err := j.Run(t.Context(), dev, keep)
	if err == nil || !strings.Contains(err.Error(), "cc-app") || complete(dev.Disk, want, j.Disk) {
		t.Errorf("error %v", err)
	}
}

// large is a job of one partition of several pieces, the last of them odd.
func large(t *testing.T) (write.Job, *device, []byte) {
	t.Helper()
	const length = 21*mib + 512
	content := filetest.Noise(3, length)
	clear(content[8*mib : 12*mib])
	p := manifest.Partition{Number: 1, Label: "cc-root", Start: mib, Size: 22 * mib, ContentSize: length, SHA256: digest.Bytes(content)}
	dev := newDevice()
	dev.Disk = installertest.NewDisk(24 * mib)
	return write.Job{Instead: map[string]io.ReaderAt{p.Label: bytes.NewReader(content)}, Disk: manifest.Disk{Partitions: []manifest.Partition{p}}, Size: 24 * mib}, dev, content
}

func TestWritesAndProvesMoreThanOnePiece(t *testing.T) {
	t.Parallel()
	j, dev, content := large(t)
	last, all := int64(0), int64(0)
	j.Progress = func(done, of int64) {
		if done <= last {
			t.Errorf("progress went from %d to %d", last, done)
		}
		last, all = done, of
	}
	if err := errors.Join(j.Write(t.Context(), dev), j.Prove(t.Context(), dev)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(dev.Bytes[mib:][:len(content)], content) || last != all || all != int64(len(content)) {
		t.Errorf("other bytes, or progress ended at %d of %d", last, all)
	}
}

// zeroing is a device that makes zeros itself.
type zeroing struct {
	*device
	areas []int64
	err   error
}

func (z *zeroing) Zero(off, length int64) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.areas = append(z.areas, off)
	if z.err == nil {
		clear(z.Bytes[off : off+length])
	}
	return z.err
}

func TestADeviceMakesZerosItself(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		err error
		ok  bool
	}{"it can": {nil, true}, "it cannot": {errors.ErrUnsupported, true}, "it fails": {errGone, false}} {
		j, dev, content := large(t)
		copy(dev.Bytes, bytes.Repeat([]byte{0xa5}, len(dev.Bytes)))
		z := &zeroing{device: dev, err: tt.err}
		err := j.Write(t.Context(), z)
		if !slices.Equal(z.areas, []int64{9 * mib}) {
			t.Errorf("%s: zeros were asked for at %d", name, z.areas)
		}
		if (err == nil) != tt.ok || tt.ok && !bytes.Equal(dev.Bytes[mib:][:len(content)], content) {
			t.Errorf("%s: error %v, or other bytes", name, err)
		}
		if !tt.ok && !strings.Contains(err.Error(), "cc-root: making zeros of 4194304 bytes at byte 9437184: input/output error") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The first byte that failed is named, although pieces behind it fail too.
func TestAFailureNamesTheByte(t *testing.T) {
	t.Parallel()
	for range 20 {
		j, dev, _ := large(t)
		dev.failAt = 10*mib + 7
		err := j.Write(t.Context(), dev)
		if !errors.Is(err, errGone) || !strings.Contains(err.Error(), "cc-root: writing 3145721 bytes at byte 10485767: ") {
			t.Fatalf("error %v", err)
		}
	}
	j, dev, _ := large(t)
	if err := j.Write(t.Context(), dev); err != nil {
		t.Fatal(err)
	}
	dev.lieAt = 14*mib + 11
	if err := j.Prove(t.Context(), dev); err == nil || !strings.Contains(err.Error(), "reading back cc-root: ") ||
		!strings.Contains(err.Error(), "other bytes than were written from byte 14680075 on") {
		t.Errorf("error %v", err)
	}
	dev.lieAt = -1
	j.Instead["cc-root"] = bytes.NewReader(make([]byte, 9*mib))
	if err := j.Write(t.Context(), dev); !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), "the image's content: reading 3145728 bytes at byte 9437184") {
		t.Errorf("error %v", err)
	}
}

// Whatever ends a stream, its goroutines end with it.
func TestNothingRunsOnAfterwards(t *testing.T) {
	before := runtime.NumGoroutine()
	j, dev, _ := large(t)
	dev.failAt = 3 * mib
	if err := j.Write(t.Context(), dev); err == nil {
		t.Fatal("no error")
	}
	dev.failAt = -1
	ctx, cancel := context.WithCancel(t.Context())
	j.Progress = func(int64, int64) { cancel() }
	if err := j.Write(ctx, dev); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	// One that has returned may be counted for a moment.
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), before)
}
