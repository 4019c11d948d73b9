package header

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"cc-base/tasks/fault"
)

// Device is where a header is written to: a partition, from its first byte.
type Device interface {
	io.WriterAt
	Sync() error
}

// Store turns the header before, as it was read from the device, into after. It
// writes only what differs, in whole blocks of 4096 bytes, and a cut at any
// byte leaves a header that [Read] takes for before or for after, with every
// keyslot that it names intact:
//
//  1. the areas of new keyslots, which before does not use;
//  2. one copy of the metadata, while the other one still says before;
//  3. the other copy;
//  4. everything else, such as the areas of keyslots that are gone.
//
// Each step is on the medium before the next one begins. The first copy is
// written first, unless it is the only whole one. before must therefore be what
// the device holds, damage included, and not a [Copy.Bytes] of it.
//
// An after that cannot be written like that is refused and nothing is written:
// another volume, a sequence number that has not risen, or a keyslot whose area
// was changed in place.
func Store(w Device, before, after *Copy) error {
	if err := storable(before, after); err != nil {
		return err
	}
	used, err := after.spans()
	if err != nil {
		return err
	}
	kept, err := before.spans()
	if err != nil {
		return err
	}
	s := &store{w: w, from: bytes.Clone(before.area), to: after.Bytes()}
	for _, u := range used {
		for _, k := range kept {
			if both := (span{max(u.from, k.from), min(u.to, k.to)}); u.meets(k) && !s.equal(both) {
				return fault.Newf(fault.HeaderArea, "the area of a keyslot at %d was changed in place", u.from)
			}
		}
	}
	size := int64(len(after.chosen.block))
	first, second := span{0, size}, span{size, 2 * size}
	if !before.whole[1] {
		first, second = second, first
	}
	for _, step := range [][]span{used, {first}, {second}, {{0, int64(len(s.to))}}} {
		if err := s.step(step); err != nil {
			return err
		}
	}
	return nil
}

// storable tells whether after can follow before at all.
func storable(before, after *Copy) error {
	switch a, b := after.chosen, before.chosen; {
	case after.UUID() != before.UUID() || len(after.area) != len(before.area) || len(a.block) != len(b.block):
		return errors.New("the header before and the one after are of different volumes")
	case !a.same(b) && a.seqID <= b.seqID:
		return fmt.Errorf("the header after has sequence number %d, the one before has %d", a.seqID, b.seqID)
	}
	return nil
}

// spans returns the areas of all keyslots.
func (c *Copy) spans() ([]span, error) {
	var out []span
	for _, id := range sorted(c.meta.Keyslots) {
		s, err := c.span(c.meta.Keyslots[id])
		if err != nil {
			return nil, fault.Newf(fault.HeaderArea, "keyslot %s: %w", id, err)
		}
		out = append(out, s)
	}
	return out, nil
}

// store knows what the device holds, as far as it has been written.
type store struct {
	w        Device
	from, to []byte
}

func (s *store) equal(r span) bool { return bytes.Equal(s.from[r.from:r.to], s.to[r.from:r.to]) }

// step writes the blocks that differ in the ranges, neighbours at once, and
// syncs if there were any.
func (s *store) step(ranges []span) error {
	wrote := false
	for _, r := range ranges {
		for at := r.from; at < r.to; at += align {
			run := span{at, at}
			for run.to < r.to && !s.equal(span{run.to, min(run.to+align, r.to)}) {
				run.to = min(run.to+align, r.to)
			}
			if run.from == run.to {
				continue
			}
			if _, err := s.w.WriteAt(s.to[run.from:run.to], run.from); err != nil {
				return fmt.Errorf("writing %d bytes at %d: %w", run.to-run.from, run.from, err)
			}
			copy(s.from[run.from:run.to], s.to[run.from:run.to])
			at, wrote = run.to, true // the block there is equal, or behind the range
		}
	}
	if !wrote {
		return nil
	}
	return s.w.Sync()
}
