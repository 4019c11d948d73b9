// Package write puts an image on a device and proves that it is there.
//
// The order is chosen so that a disk with a partition table is a finished
// installation, whenever the power fails: the old tables go first, then comes
// the content, it is synced and read back from the device, and the table is
// written last. A plan is the same list of steps that is carried out, so what
// is shown is what is done.
package write

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/diskfs/go-diskfs/backend"

	"cc-base/tasks/layout"
	"cc-base/tasks/manifest"
)

const (
	// edge is how much is wiped at both ends of an area that is not written:
	// signatures of file systems, RAID, LVM and ZFS (two labels of 256 KiB at
	// either end) lie there. The rest of the free space keeps its old bytes.
	edge = 1 << 20

	// atOnce is how many pieces a device has to write at a time: while one is
	// prepared or acknowledged, the device works on the other.
	atOnce = 2

	// oldTables is how many of the first steps take away what was a table.
	oldTables = 2

	// tableBytes is the protective record, the header and 128 entries.
	tableBytes = 34 * layout.Sector
)

// Device is what is written to: a [cc-base/installer/target.Disk], or memory in
// tests. What is written in one piece is in aligned memory, so that a device
// may take it without the page cache; several pieces are written at once.
type Device interface {
	backend.WritableFile
	Sync() error
}

// Zeroer is a Device that can be told to hold zeros without being sent them. An
// error in whose chain [errors.ErrUnsupported] is has changed nothing.
type Zeroer interface {
	Zero(off, length int64) error
}

// Action is what a step does.
type Action string

// The actions.
const (
	Wipe  Action = "wipe"  // zeros
	Copy  Action = "copy"  // content of a partition
	Table Action = "table" // the partition table, both copies
)

// Step is one write.
type Step struct {
	Action Action `json:"action"`
	Offset int64  `json:"offset"` // bytes from the start of the device
	Length int64  `json:"length"` // bytes
	What   string `json:"what"`
}

// Job is one installation.
type Job struct {
	Image io.ReaderAt // the disk in the image
	// Instead has the content of partitions that is written in place of the
	// image's, by label.
	Instead map[string]io.ReaderAt
	Disk    manifest.Disk // what it holds
	Table   layout.Table  // final, see [layout.Final]
	Size    int64         // of the device, bytes

	// Progress is told how many of all bytes to be copied are on the device;
	// nil keeps quiet.
	Progress func(done, all int64)
}

// Steps returns every write in order.
func (j Job) Steps() []Step {
	first := j.Size
	if len(j.Disk.Partitions) > 0 {
		first = j.Disk.Partitions[0].Start
	}
	steps := []Step{
		{Wipe, 0, min(first, edge), "the old partition table and boot code"},
		{Wipe, j.Size - edge, edge, "the old backup table"},
	}
	for i, p := range j.Disk.Partitions {
		if p.ContentSize > 0 {
			steps = append(steps, Step{Copy, p.Start, p.ContentSize, p.Label})
		}
		free, end := p.Start+p.ContentSize, p.Start+p.Size
		if i < len(j.Table.Entries) {
			end = j.Table.Entries[i].Start + j.Table.Entries[i].Size
		}
		steps = append(steps, edges(free, end, p.Label)...)
	}
	return append(steps, Step{Table, 0, tableBytes, fmt.Sprintf("the partition table, %d entries, and its backup at the end", len(j.Table.Entries))})
}

// edges returns the wipes of the free area [from, to) of a partition.
func edges(from, to int64, label string) []Step {
	switch {
	case from >= to:
		return nil
	case to-from <= 2*edge:
		return []Step{{Wipe, from, to - from, "the rest of " + label}}
	}
	return []Step{
		{Wipe, from, edge, "old signatures at the start of the free part of " + label},
		{Wipe, to - edge, edge, "old signatures at its end"},
	}
}

// ErrUntouched is in the chain of an error of [Job.Run] that came before the
// first write.
var ErrUntouched = errors.New("nothing was written")

// Run carries the steps out: [Job.Write], then [Job.Prove], then the table.
// forget is called before anything is read back: it drops what the page cache
// holds, so that the bytes come from the device.
func (j Job) Run(ctx context.Context, dev Device, forget func() error) error {
	if err := j.Write(ctx, dev); err != nil {
		return err
	}
	if err := forget(); err != nil {
		return err
	}
	if err := j.Prove(ctx, dev); err != nil {
		return err
	}
	if err := j.writeTable(dev); err != nil {
		return fmt.Errorf("the partition table: %w", err)
	}
	if err := forget(); err != nil {
		return err
	}
	got, err := layout.Read(dev, j.Size)
	if err != nil {
		return fmt.Errorf("reading back the partition table: %w", err)
	}
	if diffs := got.Compare(j.Table); len(diffs) > 0 {
		return fmt.Errorf("the partition table reads back differently: %s", diffs[0])
	}
	return nil
}

// Write carries out every step but the table; what it wrote is on the device,
// not in its cache, when it returns. The disk has no partition table then.
func (j Job) Write(ctx context.Context, dev Device) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", ErrUntouched, ctx.Err())
	}
	var all, done int64
	for _, s := range j.Steps() {
		if s.Action == Copy {
			all += s.Length
		}
	}
	for i, s := range j.Steps() {
		var err error
		switch s.Action {
		case Wipe:
			err = wipe(ctx, dev, s)
		case Copy:
			err = j.copy(ctx, dev, s, done, all)
			done += s.Length
		case Table:
			continue
		}
		// Neither old table may come back once there is new content.
		if err == nil && i == oldTables-1 {
			err = dev.Sync()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.What, err)
		}
	}
	if err := dev.Sync(); err != nil {
		return fmt.Errorf("the content: %w", err)
	}
	return nil
}

// Prove compares the content on the device with the manifest, and where it
// differs says from which byte on.
func (j Job) Prove(ctx context.Context, dev io.ReaderAt) error {
	for _, p := range j.Disk.Partitions {
		if p.ContentSize == 0 {
			continue
		}
		err := Content(ctx, dev, p)
		var differs *digestError
		if errors.As(err, &differs) {
			err = fmt.Errorf("%w; %s", err, j.difference(ctx, dev, p))
		}
		if err != nil {
			return fmt.Errorf("reading back %s: %w", p.Label, err)
		}
	}
	return nil
}

func (j Job) writeTable(dev Device) error {
	if err := j.Table.Write(dev, j.Size); err != nil {
		return err
	}
	return dev.Sync()
}

// source is where a partition's content comes from.
func (j Job) source(p manifest.Partition) io.ReaderAt {
	if other := j.Instead[p.Label]; other != nil {
		return other
	}
	return io.NewSectionReader(j.Image, p.Start, p.ContentSize)
}

// copy streams one partition's content and compares what it reads with the
// manifest: an image that changed after its checksum was verified stops here.
// Zeros are written like all else, as the disk is a used one; a device that can
// make zeros itself is asked to.
func (j Job) copy(ctx context.Context, dev Device, s Step, before, all int64) error {
	p, ok := j.Disk.Partition(s.What)
	if !ok {
		return errors.New("the manifest has no such partition")
	}
	h := sha256.New()
	zeroer, _ := dev.(Zeroer)
	var mu sync.Mutex
	var failed *offsetError // the first on the device, not the first in time
	err := stream(ctx, j.source(p), s.Length, into(h), stage{lanes: atOnce, do: func(b []byte, at int64) error {
		err := put(dev, zeroer, b, s.Offset+at)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			if failed == nil || err.at < failed.at {
				failed = err
			}
			return err
		}
		before += int64(len(b))
		if j.Progress != nil {
			j.Progress(before, all)
		}
		return nil
	}})
	if failed != nil {
		return failed
	}
	var read *offsetError
	if errors.As(err, &read) {
		return fmt.Errorf("the image's content: %w", err)
	}
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != p.SHA256 {
		return fmt.Errorf("the image's content has sha256 %s, the manifest says %s", got, p.SHA256)
	}
	return nil
}

// into is a stage that takes a digest.
func into(h hash.Hash) stage {
	return stage{lanes: 1, do: func(b []byte, _ int64) error { h.Write(b); return nil }}
}

// put writes b, or has the device make a whole chunk of zeros.
func put(dev Device, zeroer Zeroer, b []byte, off int64) *offsetError {
	if zeroer != nil && len(b) == chunk && zeros(b) {
		err := zeroer.Zero(off, int64(len(b)))
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, errors.ErrUnsupported):
			return &offsetError{"making zeros of", off, int64(len(b)), err}
		}
	}
	if n, err := dev.WriteAt(b, off); err != nil {
		return &offsetError{"writing", off + int64(n), int64(len(b) - n), err}
	}
	return nil
}

// zeros compares b with itself, one byte on.
func zeros(b []byte) bool { return b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1]) }

// digestError is content that was read without an error and is another one.
type digestError struct{ got, want string }

func (e *digestError) Error() string {
	return fmt.Sprintf("its content has sha256 %s, the manifest says %s", e.got, e.want)
}

// Content compares a partition's content on disk with the manifest.
func Content(ctx context.Context, disk io.ReaderAt, p manifest.Partition) error {
	h := sha256.New()
	err := stream(ctx, io.NewSectionReader(disk, p.Start, p.ContentSize), p.ContentSize, into(h))
	var read *offsetError
	if errors.As(err, &read) {
		read.at += p.Start
	}
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != p.SHA256 {
		return &digestError{got, p.SHA256}
	}
	return nil
}

// difference tells where the device holds something else than was written. It
// reads both again: the digest of a partition does not know.
func (j Job) difference(ctx context.Context, dev io.ReaderAt, p manifest.Partition) string {
	first, source := int64(-1), j.source(p)
	want := make([]byte, chunk)
	err := stream(ctx, io.NewSectionReader(dev, p.Start, p.ContentSize), p.ContentSize, stage{lanes: 1, do: func(got []byte, at int64) error {
		if n, err := source.ReadAt(want[:len(got)], at); n < len(got) {
			return noEOF(err)
		}
		if bytes.Equal(got, want[:len(got)]) {
			return nil
		}
		for i := range got {
			if got[i] != want[i] {
				first = p.Start + at + int64(i)
				break
			}
		}
		return errFound
	}})
	switch {
	case errors.Is(err, errFound):
		return fmt.Sprintf("the device returns other bytes than were written from byte %d on", first)
	case err != nil:
		return fmt.Sprintf("reading it once more failed: %v", err)
	}
	return "read once more it is what was written: the device is not reliable"
}

var errFound = errors.New("found")

func wipe(ctx context.Context, dev Device, s Step) error {
	zeros := alignedBuffer(int(min(s.Length, edge)))
	for at := int64(0); at < s.Length; at += int64(len(zeros)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := put(dev, nil, zeros[:min(int64(len(zeros)), s.Length-at)], s.Offset+at); err != nil {
			return err
		}
	}
	return nil
}
