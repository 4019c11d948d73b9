package write_test

// What green does not prove: the device is memory that forgets nothing and
// reorders nothing. That a real disk keeps what fsync promised, and that the
// read-back does not come from a cache, is beyond any test here.

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"cc-base/installer/installertest"
	"cc-base/installer/write"
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
	budget int
	writes int
	lieAt  int64
}

func newDevice() *device {
	d := &device{Disk: installertest.NewDisk(size), budget: 1 << 30, lieAt: -1}
	copy(d.Bytes, bytes.Repeat([]byte{0xa5}, size))
	return d
}

var errGone = errors.New("input/output error")

func (d *device) WriteAt(p []byte, off int64) (int, error) {
	if d.writes++; d.writes > d.budget {
		return 0, errGone
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
