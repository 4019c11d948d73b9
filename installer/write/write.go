// Package write puts an image on a device and proves that it is there.
//
// The order is chosen so that a disk with a partition table is a finished
// installation, whenever the power fails: the old tables go first, then comes
// the content, it is synced and read back from the device, and the table is
// written last. A plan is the same list of steps that is carried out, so what
// is shown is what is done.
package write

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/diskfs/go-diskfs/backend"

	"cc-base/tasks/layout"
	"cc-base/tasks/manifest"
)

const (
	chunk = 4 << 20   // bytes of one read or write
	flush = 256 << 20 // bytes between two syncs, so that progress is what is on the disk

	// edge is how much is wiped at both ends of an area that is not written:
	// signatures of file systems, RAID, LVM and ZFS (two labels of 256 KiB at
	// either end) lie there. The rest of the free space keeps its old bytes.
	edge = 1 << 20

	// tableBytes is the protective record, the header and 128 entries.
	tableBytes = 34 * layout.Sector
)

// Device is what is written to: an *os.File opened exclusively.
type Device interface {
	backend.WritableFile
	Sync() error
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

// Run carries the steps out. Before the table is written, the content is read
// back: forget is called to drop it from the page cache, so that the bytes
// come from the device.
func (j Job) Run(ctx context.Context, dev Device, forget func() error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", ErrUntouched, ctx.Err())
	}
	var all, done int64
	for _, s := range j.Steps() {
		if s.Action == Copy {
			all += s.Length
		}
	}
	digests := map[string]string{}
	for _, p := range j.Disk.Partitions {
		digests[p.Label] = p.SHA256
	}
	for _, s := range j.Steps() {
		var err error
		switch s.Action {
		case Wipe:
			err = wipe(ctx, dev, s)
		case Copy:
			err = j.copy(ctx, dev, s, digests[s.What], done, all)
			done += s.Length
		case Table:
			if err = j.prove(ctx, dev, forget); err == nil {
				err = j.Table.Write(dev, j.Size)
			}
		}
		if err == nil {
			err = dev.Sync()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.What, err)
		}
	}
	if err := forget(); err != nil {
		return err
	}
	got, err := layout.Read(dev, j.Size)
	if err != nil {
		return err
	}
	if diffs := got.Compare(j.Table); len(diffs) > 0 {
		return fmt.Errorf("the partition table reads back differently: %s", diffs[0])
	}
	return nil
}

// copy streams one partition's content and compares what it reads with the
// manifest: an image that changed after its checksum was verified stops here.
func (j Job) copy(ctx context.Context, dev Device, s Step, want string, before, all int64) error {
	source := io.ReaderAt(io.NewSectionReader(j.Image, s.Offset, s.Length))
	if other := j.Instead[s.What]; other != nil {
		source = other
	}
	h, buf := sha256.New(), make([]byte, chunk)
	unsynced := int64(0)
	for at := int64(0); at < s.Length; {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := buf[:min(chunk, s.Length-at)]
		if _, err := source.ReadAt(b, at); err != nil && (err != io.EOF || at+int64(len(b)) < s.Length) {
			return fmt.Errorf("reading the image: %w", err)
		}
		h.Write(b)
		if _, err := dev.WriteAt(b, s.Offset+at); err != nil {
			return err
		}
		at += int64(len(b))
		if unsynced += int64(len(b)); unsynced >= flush {
			if err := dev.Sync(); err != nil {
				return err
			}
			unsynced = 0
		}
		if j.Progress != nil {
			j.Progress(before+at, all)
		}
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		return fmt.Errorf("the image's content has sha256 %s, the manifest says %s", got, want)
	}
	return nil
}

func (j Job) prove(ctx context.Context, dev Device, forget func() error) error {
	if err := forget(); err != nil {
		return err
	}
	for _, p := range j.Disk.Partitions {
		if p.ContentSize == 0 {
			continue
		}
		if err := Content(ctx, dev, p); err != nil {
			return fmt.Errorf("reading back %s: %w", p.Label, err)
		}
	}
	return nil
}

// Content compares a partition's content on disk with the manifest.
func Content(ctx context.Context, disk io.ReaderAt, p manifest.Partition) error {
	h, buf := sha256.New(), make([]byte, chunk)
	for at := int64(0); at < p.ContentSize; {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := buf[:min(chunk, p.ContentSize-at)]
		if _, err := disk.ReadAt(b, p.Start+at); err != nil {
			return err
		}
		h.Write(b)
		at += int64(len(b))
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != p.SHA256 {
		return fmt.Errorf("its content has sha256 %s, the manifest says %s", got, p.SHA256)
	}
	return nil
}

func wipe(ctx context.Context, dev io.WriterAt, s Step) error {
	zeros := make([]byte, min(s.Length, edge))
	for at := int64(0); at < s.Length; at += int64(len(zeros)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := dev.WriteAt(zeros[:min(int64(len(zeros)), s.Length-at)], s.Offset+at); err != nil {
			return err
		}
	}
	return nil
}
