// Package bench measures the installer's write phase against dd.
//
// Both write the same bytes to the same place in turn, past the page cache and
// synced at the end: dd with oflag=direct conv=fsync bs=4M, the installer with
// [write.Job.Write], which also hashes what it reads and wipes old signatures.
// It is a measurement and never a test: a slow run is a figure, not an error.
package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"cc-base/installer/target"
	"cc-base/installer/write"
	"cc-base/tasks/digest"
	"cc-base/tasks/fault"
	"cc-base/tasks/hw"
	"cc-base/tasks/layout"
	"cc-base/tasks/manifest"
	"cc-base/tasks/qcow2"
	"cc-base/tasks/sh"
)

const (
	mib = 1 << 20

	// Generated is how much is written when there is no built image, MiB.
	Generated = 1024
	// Runs is how often each of the two writes.
	Runs = 3
)

// Options is what is measured.
type Options struct {
	Out    string // the build's output folder: its image is written if there is one
	Device string // is overwritten; empty: a file in Out's scratch folder
	MiB    int    // writes that much generated content instead of the image; 0: the image
	Runs   int    // of each, at least 1

	Root  fs.FS     // the host's /, see [hw.Devices]
	Tools sh.Runner // has dd
}

// Run measures and prints a table. The scratch files are removed.
func Run(ctx context.Context, o Options, out io.Writer) (err error) {
	scratch := filepath.Join(o.Out, "scratch")
	if err := os.MkdirAll(scratch, 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(scratch, "bench")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	job, raw, what, err := o.content(ctx, dir)
	if err != nil {
		return err
	}
	if job.closer != nil {
		defer job.closer.Close()
	}
	t, err := o.target(dir, &job)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s, %d MiB, to %s\n", what, job.bytes/mib, t.Path)
	taken, past, err := o.measure(ctx, t, job, raw, out)
	if err != nil {
		return err
	}
	if !past {
		fmt.Fprintf(out, "%s cannot be written past the page cache: the installer went through it\n", t.Path)
	}
	return taken.print(out, job.bytes)
}

// work is what the installer is to write.
type work struct {
	write.Job
	bytes  int64 // of content
	closer io.Closer
}

// content makes the job, and beside it the file that dd reads: the same bytes.
func (o Options) content(ctx context.Context, dir string) (w work, raw, what string, err error) {
	raw = filepath.Join(dir, "content")
	if o.MiB == 0 {
		w, err = image(o.Out)
		what = "the built image"
	}
	if o.MiB > 0 || errors.Is(err, fs.ErrNotExist) {
		if o.MiB == 0 {
			o.MiB = Generated
		}
		w, err = generated(ctx, raw, int64(o.MiB)*mib)
		return w, raw, "generated content", err
	}
	if err != nil {
		return w, "", "", err
	}
	defer func() {
		if err != nil {
			w.closer.Close()
		}
	}()
	f, err := os.Create(raw)
	if err != nil {
		return w, "", "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for _, p := range w.Disk.Partitions {
		if _, err := io.Copy(f, io.NewSectionReader(w.Image, p.Start, p.ContentSize)); err != nil {
			return w, "", "", err
		}
		w.bytes += p.ContentSize
	}
	return w, raw, what, nil
}

// image opens the built image.
func image(out string) (work, error) {
	text, err := os.ReadFile(filepath.Join(out, "manifest.json"))
	if err != nil {
		return work{}, err
	}
	m, err := manifest.Read(bytes.NewReader(text))
	if err != nil {
		return work{}, err
	}
	f, err := os.Open(filepath.Join(out, m.Disk.File))
	if err != nil {
		return work{}, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return work{}, err
	}
	disk, err := qcow2.Open(f, info.Size())
	if err != nil {
		f.Close()
		return work{}, err
	}
	return work{Job: write.Job{Image: disk, Disk: m.Disk}, closer: f}, nil
}

// generated makes a disk of one partition that does not compress, like the
// encrypted volumes that a real one consists of.
func generated(ctx context.Context, path string, size int64) (work, error) {
	f, err := os.Create(path)
	if err != nil {
		return work{}, err
	}
	if _, err = io.CopyN(f, rand.Reader, size); err != nil {
		f.Close()
		return work{}, err
	}
	sum, err := digest.Reader(ctx, io.NewSectionReader(f, 0, size))
	if err != nil {
		f.Close()
		return work{}, err
	}
	p := manifest.Partition{Number: 1, Label: "content", Start: layout.Align, Size: size, ContentSize: size, SHA256: sum}
	return work{
		Job:    write.Job{Instead: map[string]io.ReaderAt{p.Label: f}, Disk: manifest.Disk{Partitions: []manifest.Partition{p}}},
		bytes:  size,
		closer: f,
	}, nil
}

// target finds what is written to, and tells the job its size. A device must be
// one that could be installed to.
func (o Options) target(dir string, job *work) (target.Target, error) {
	last := job.Disk.Partitions[len(job.Disk.Partitions)-1]
	need := hw.Need{Size: last.Start + last.Size + 2*mib, SectorSize: layout.Sector, Named: true, Files: o.Device == ""}
	path := o.Device
	if path == "" {
		path = filepath.Join(dir, "disk")
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return target.Target{}, err
		}
		if err := errors.Join(f.Truncate(need.Size), f.Close()); err != nil {
			return target.Target{}, err
		}
	}
	t, err := target.Find(o.Root, path)
	if err != nil {
		return t, err
	}
	var errs []error
	for _, r := range t.Refusals(need) {
		errs = append(errs, fmt.Errorf("%s is refused: %s", path, r.Detail))
	}
	if err := errors.Join(errs...); err != nil {
		return t, fault.New(fault.DeviceRefused, err)
	}
	job.Size = t.Size
	return t, nil
}

// figures are the times of every run.
type figures struct{ installer, dd, proof []time.Duration }

// measure writes in turn. One run of each comes before, so that both find the
// same: blocks that the file has, pages that the cache holds.
func (o Options) measure(ctx context.Context, t target.Target, job work, raw string, out io.Writer) (taken figures, past bool, err error) {
	for n := range o.Runs + 1 {
		dd, err := timed(func() error {
			return sh.Do(ctx, o.Tools, "dd", "if="+raw, "of="+t.Path, fmt.Sprintf("seek=%d", layout.Align), "bs=4M",
				"oflag=direct,seek_bytes", "conv=fsync,notrunc", "status=none")
		})
		if err != nil {
			return taken, past, err
		}
		installer, proof, direct, err := install(ctx, t, job)
		if err != nil {
			return taken, past, err
		}
		if past = direct; n == 0 {
			continue
		}
		fmt.Fprintf(out, "run %d: installer %.2f s, dd %.2f s\n", n, installer.Seconds(), dd.Seconds())
		taken.installer, taken.dd, taken.proof = append(taken.installer, installer), append(taken.dd, dd), append(taken.proof, proof)
	}
	return taken, past, nil
}

// install carries out the write phase, and then reads back.
func install(ctx context.Context, t target.Target, job work) (took, proof time.Duration, past bool, err error) {
	f, err := t.Open()
	if err != nil {
		return 0, 0, false, err
	}
	defer f.Close()
	disk := target.Direct(f)
	defer disk.Close()
	// Without its [write.Zeroer]: dd has to send zeros too.
	if took, err = timed(func() error { return job.Write(ctx, struct{ write.Device }{disk}) }); err != nil {
		return 0, 0, false, err
	}
	if err := disk.Forget(); err != nil {
		return 0, 0, false, err
	}
	proof, err = timed(func() error { return job.Prove(ctx, disk) })
	return took, proof, disk.Past(), err
}

func timed(do func() error) (time.Duration, error) {
	start := time.Now()
	err := do()
	return time.Since(start), err
}

// print writes the table: seconds of the fastest, the median and the slowest
// run, the median's speed, and the ratio of the medians.
func (f figures) print(out io.Writer, bytes int64) error {
	for _, took := range [][]time.Duration{f.installer, f.dd, f.proof} {
		slices.Sort(took)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, strings.Join([]string{"", "min s", "median s", "max s", "MB/s", "of dd", ""}, "\t"))
	for _, row := range []struct {
		name string
		took []time.Duration
	}{{"installer, write", f.installer}, {"dd", f.dd}, {"installer, read back", f.proof}} {
		m := median(row.took)
		fmt.Fprintf(w, "%s\t%.2f\t%.2f\t%.2f\t%.0f\t%.2f\t\n", row.name, row.took[0].Seconds(), m.Seconds(),
			row.took[len(row.took)-1].Seconds(), float64(bytes)/1e6/m.Seconds(), median(f.dd).Seconds()/m.Seconds())
	}
	return w.Flush()
}

// median of a sorted, non-empty list; the lower one of two.
func median(sorted []time.Duration) time.Duration { return sorted[(len(sorted)-1)/2] }
