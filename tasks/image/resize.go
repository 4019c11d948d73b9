package image

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/fault"
	"cc-base/tasks/layout"
	"cc-base/tasks/seal/header"
	"cc-base/tasks/sh"
)

// Growing is the partition that takes what a disk is grown by.
const Growing = "cc-dynamic"

// secondCopy is where the guest puts the second copy of cc-dynamic's header, in
// bytes from its start, and writes first
// (overlays/cc-guest/internal/dynamic).
const secondCopy = 64 << 10

// Growth is an image to be made larger.
type Growth struct {
	File  string
	By    string // what is added: +10G; M, G and T are of 1024
	Force bool   // also where a guest has formatted the partition already
}

// Check returns what is wrong with the call, before any tool is needed.
func (g Growth) Check() error {
	_, _, err := g.check()
	return err
}

func (g Growth) check() (source, int64, error) {
	by, err := parseGrowth(g.By)
	if err != nil {
		return source{}, 0, fault.New(fault.Usage, err).Hint("mage image:resize +10G -file=FILE")
	}
	s, err := open(g.File)
	return s, by, err
}

// parseGrowth reads +10G.
func parseGrowth(text string) (int64, error) {
	if strings.HasPrefix(text, "-") && strings.Trim(text[1:], "0123456789MGT") == "" {
		return 0, fmt.Errorf("%s: an image only grows: what lies at the end of the disk would be lost", text)
	}
	bad := fmt.Errorf("%q is no growth; allowed: + and a number with M, G or T, as +10G", text)
	if len(text) < 3 || text[0] != '+' {
		return 0, bad
	}
	shift, ok := map[byte]uint{'M': 20, 'G': 30, 'T': 40}[text[len(text)-1]]
	digits := text[1 : len(text)-1]
	n, err := strconv.ParseInt(digits, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange), err == nil && n > math.MaxInt64>>shift:
		return 0, fmt.Errorf("%s is more than any disk has", text)
	case !ok || err != nil || strings.Trim(digits, "0123456789") != "":
		return 0, bad
	case n == 0:
		return 0, fmt.Errorf("%s adds nothing", text)
	}
	return n << shift, nil
}

// largest is the size that an image of this format can have, in bytes. The
// first-level table of a qcow2 has at most 32 MiB (QEMU, block/qcow2.h,
// QCOW_MAX_L1_SIZE); a file has at most what its offsets can say, and a GPT's
// sector numbers go further than both.
func (d disk) largest() int64 {
	if d.format == Raw || d.Cluster < 512 {
		return math.MaxInt64 / layout.Align * layout.Align
	}
	const entries = 32 << 20 / 8
	perEntry := d.Cluster * d.Cluster / 8
	if perEntry > math.MaxInt64/entries {
		return math.MaxInt64 / layout.Align * layout.Align
	}
	return entries * perEntry
}

// Resize makes the disk larger and stretches the last partition over what is
// added, in the one table that is left: that of a disk of the new size. A guest
// that starts for the first time formats all of it.
func (e Editor) Resize(ctx context.Context, g Growth) error {
	s, by, err := g.check()
	if err != nil {
		return err
	}
	d, err := e.sound(ctx, s)
	if err != nil {
		return err
	}
	if most := d.largest(); by > most-d.Size {
		return fault.Newf(fault.Usage, "%s with %s more is beyond the %s that a %s of this kind can have", Bytes(d.Size), Bytes(by), Bytes(most), d.format)
	}
	table, ends, err := e.growable(ctx, d)
	if err != nil {
		return err
	}
	want, err := layout.Final(table, d.Size+by)
	if err != nil {
		return fault.New(fault.ImageFile, fmt.Errorf("%s: %w", s.path, err))
	}
	last := want.Entries[len(want.Entries)-1]
	used, err := e.started(ctx, d, last.Start)
	if err != nil {
		return err
	}
	if used && !g.Force {
		return fault.Newf(fault.ImageLoss, "a guest has formatted %s of %s already: its file system keeps its size, and with the partition table PCR 5 (under TDX, RTMR1) becomes another one, so that a machine bound to it opens its volumes no more by itself", Growing, s.path).
			Hint("grow an image before its first start; with -force, start it with its recovery key once, which enrols it anew, and grow the file system in the guest")
	}
	need, err := allocated(s.path)
	if err != nil {
		return err
	}
	if err := e.room(filepath.Dir(s.path), need+2*layout.Align); err != nil {
		return err
	}
	e.Event("growing %s from %s to %s, %s to %s", s.path, Bytes(d.Size), Bytes(d.Size+by), Growing, Bytes(last.Size))
	if err := e.grow(ctx, d, d.Size+by, want, ends[0]); err != nil {
		return err
	}
	if used {
		e.Event("%s was in use: the machine needs its recovery key at the next start, and then is enrolled anew", Growing)
	}
	e.Event("PCR 5 and, under TDX, RTMR1 of this disk are not those in measurements.json any more; `mage tpm:pcrs` and `cc-install measure --gpt` compute them")
	return e.wrote(s)
}

// growable reads the table of a disk whose last partition may be stretched.
func (e Editor) growable(ctx context.Context, d disk) (layout.Table, pieces, error) {
	t, both, err := e.table(ctx, d, false)
	if err != nil {
		if fault.Of(err) == nil {
			err = fault.New(fault.ImageFile, fmt.Errorf("%s: %w", d.path, err))
		}
		return t, nil, err
	}
	if len(t.Problems) > 0 {
		return t, nil, fault.Newf(fault.ImageFile, "%s: the partition table is damaged: %s", d.path, strings.Join(t.Problems, "; "))
	}
	if len(t.Entries) == 0 {
		return t, nil, fault.Newf(fault.ImageFile, "%s has no partitions", d.path)
	}
	last := t.Entries[len(t.Entries)-1]
	for _, p := range t.Entries {
		if last.Label != Growing || p.Start > last.Start {
			return t, nil, fault.Newf(fault.ImageFile, "%s: the last partition is not %s, which alone may grow", d.path, Growing)
		}
	}
	return t, both, nil
}

// started tells whether a guest has begun to use the partition that starts
// there: it writes the second copy of the volume's header before the first.
func (e Editor) started(ctx context.Context, d disk, start int64) (bool, error) {
	first, second := blank(start, layout.Sector), blank(start+secondCopy, layout.Sector)
	if err := e.read(ctx, d, false, first, second); err != nil {
		return false, err
	}
	return header.IsLUKS(first.data) || !second.empty(), nil
}

// grow works on a copy, which takes the image's place when all of it was read
// back.
func (e Editor) grow(ctx context.Context, d disk, size int64, want layout.Table, head extent) error {
	part := d
	part.path, part.Size = d.path+atomicfile.Extension, size
	if err := atomicfile.Remove(part.path); err != nil {
		return fault.New(fault.Usage, err)
	}
	defer os.Remove(part.path)
	if err := copyFile(ctx, d.path, part.path); err != nil {
		return e.failed(d.source, err)
	}
	if err := sh.Do(ctx, e.with(part.source), "qemu-img", "resize", "-q", "-f", d.format, part.path, strconv.FormatInt(size, 10)); err != nil {
		return e.failed(d.source, err)
	}
	_, tail := ends(size)
	// The MBR's code stays as it is.
	if err := want.Write(pieces{head, tail}, size); err != nil {
		return fault.New(fault.ImageFile, err)
	}
	if err := e.write(ctx, part, blank(d.Size-tailBytes, tailBytes), tail, head); err != nil {
		return err
	}
	got, _, err := e.table(ctx, part, false)
	if err != nil {
		return fault.New(fault.ImageFile, err)
	}
	if diffs := got.Compare(want); len(diffs) > 0 {
		return fault.Newf(fault.ImageFile, "the table that was read back is another one: %s", strings.Join(diffs, "; "))
	}
	if err := e.check(ctx, part.source); err != nil {
		return err
	}
	if err := publish(part.path, d.path, d.info); err != nil {
		return fault.New(fault.ImageFile, err)
	}
	return nil
}
