package header_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/seal/header"
)

// writing is one write to a device.
type writing struct {
	off  int64
	data []byte
}

// recorder is a device that keeps what is written between syncs.
type recorder struct {
	steps [][]writing // one more than there were syncs
	fail  int         // the write that fails, from 1; 0 for none
	n     int
}

func newRecorder() *recorder { return &recorder{steps: [][]writing{nil}} }

func (r *recorder) WriteAt(p []byte, off int64) (int, error) {
	if r.n++; r.n == r.fail {
		return 0, errors.New("the disk is full of holes")
	}
	last := &r.steps[len(r.steps)-1]
	*last = append(*last, writing{off, bytes.Clone(p)})
	return len(p), nil
}

func (r *recorder) Sync() error {
	r.steps = append(r.steps, nil)
	return nil
}

// crashes calls each with every state that a cut can leave on a device that
// held area: everything up to a sync, and of the writes after it any of them,
// whole, not at all, or up to an offset. A state is overwritten by the next.
func (r *recorder) crashes(area []byte, each func(state []byte, where string)) {
	disk, state := bytes.Clone(area), bytes.Clone(area)
	random := rand.New(rand.NewPCG(1, 2))
	for _, writes := range r.steps {
		copy(state, disk)
		each(state, "between steps")
		for i, w := range writes {
			for _, cut := range []int{1, 6, 16, 448, 480, 512, 4095, 4096, len(w.data) / 2, len(w.data) - 512, len(w.data) - 1} {
				if cut <= 0 || cut >= len(w.data) {
					continue
				}
				copy(state, disk)
				for _, before := range writes[:i] {
					copy(state[before.off:], before.data)
				}
				copy(state[w.off:], w.data[:cut])
				each(state, "in order")
				// The end of a write may be there without its beginning.
				copy(state, disk)
				copy(state[w.off+int64(cut):], w.data[cut:])
				each(state, "the end first")
			}
		}
		// Sectors reach the medium in any order.
		for range 10 {
			copy(state, disk)
			for _, w := range writes {
				for at := 0; at < len(w.data); at += 512 {
					if random.IntN(2) == 0 {
						copy(state[w.off+int64(at):], w.data[at:min(at+512, len(w.data))])
					}
				}
			}
			each(state, "sectors in any order")
		}
		for _, w := range writes {
			copy(disk[w.off:], w.data)
		}
	}
	each(disk, "at the end")
}

// intact tells whether c, which was read from area, is the header that want is,
// with the areas of all its keyslots as in wantArea.
func intact(c *header.Copy, area []byte, want *header.Copy, wantArea []byte) bool {
	if c.SeqID() != want.SeqID() || !reflect.DeepEqual(c.Metadata(), want.Metadata()) {
		return false
	}
	for _, k := range want.Metadata().Keyslots {
		from, size := number(k.Area.Offset), number(k.Area.Size)
		if !bytes.Equal(area[from:from+size], wantArea[from:from+size]) {
			return false
		}
	}
	return true
}

func number(s string) int {
	n := 0
	for _, ch := range s {
		n = 10*n + int(ch-'0')
	}
	return n
}

// change is a header before and after.
type change struct {
	name          string
	before, after []byte
	most          int // bytes that may be written
}

func changes() []change {
	one := func() *fixture { return newFixture(32, "sha256").slot("0", 0, first, nil).token("0", "cc-base", "0") }
	two := func() *fixture { return one().slot("1", 1, second, nil).token("1", "systemd-recovery", "1") }
	var out []change
	add := func(name string, f *fixture, writes int, do func(f *fixture)) {
		before := f.bytes()
		do(f)
		out = append(out, change{name, before, f.bytes(), writes})
	}
	const meta = 2 * copySize
	area := one().areaSize()
	add("a slot more", one(), meta+area, func(f *fixture) { f.slot("1", 1, second, nil) })
	add("a token more", one(), meta, func(f *fixture) { f.token("3", "cc-base") })
	add("a slot less", two(), meta+area, func(f *fixture) { f.kill("1", 1).token("1", "systemd-recovery") })
	add("a slot for another", one(), meta+2*area, func(f *fixture) { f.slot("1", 1, second, nil).kill("0", 0).token("0", "cc-base", "1") })
	add("two slots for one", one().slot("1", 3, second, nil), meta+3*area, func(f *fixture) {
		f.slot("2", 1, second, nil).slot("3", 2, second, nil).kill("1", 3)
	})
	add("the space between the areas", one(), meta+4096, func(f *fixture) { f.area[len(f.area)-1] ^= 1 })
	return out
}

// torn returns the header before with something wrong with one copy of its
// metadata, as a former cut may have left it.
func torn(area []byte) map[string][]byte {
	flip := func(at int) []byte { b := bytes.Clone(area); b[at] ^= 0xff; return b }
	stale := func(copyAt int) []byte {
		old := edit(area, set("tokens.20", object{"type": "cc-base", "keyslots": []string{}}))
		old = both(old, func(b []byte) { b[23]-- })
		b := bytes.Clone(area)
		copy(b[copyAt:copyAt+copySize], old[copyAt:copyAt+copySize])
		return b
	}
	return map[string][]byte{
		"whole": area, "first torn": flip(5000), "second torn": flip(copySize + 5000), "first without magic": flip(0),
		"second without magic": flip(copySize), "first stale": stale(0), "second stale": stale(copySize),
	}
}

func TestACutAtAnyByteLeavesOneOfTheTwoHeaders(t *testing.T) {
	t.Parallel()
	for _, ch := range changes() {
		t.Run(ch.name, func(t *testing.T) {
			t.Parallel()
			after := parse(t, ch.after)
			for state, disk := range torn(ch.before) {
				before := parse(t, disk)
				r := newRecorder()
				if err := header.Store(r, before, after); err != nil {
					t.Fatalf("%s: %v", state, err)
				}
				news, cuts, n := 0, 0, 0
				for _, writes := range r.steps {
					for _, w := range writes {
						n += len(w.data)
					}
				}
				if n > ch.most {
					t.Errorf("%s: %d bytes were written, %d differ", state, n, ch.most)
				}
				r.crashes(disk, func(left []byte, where string) {
					cuts++
					c, err := header.Parse(left)
					if err != nil {
						t.Fatalf("%s, cut %d, %s: %v", state, cuts, where, err)
					}
					is := intact(c, left, after, ch.after)
					if !is && !intact(c, left, before, disk) {
						t.Fatalf("%s, cut %d, %s: neither of the two, number %d, damage %v", state, cuts, where, c.SeqID(), c.Damage())
					}
					if is {
						news++
					}
					if where != "at the end" {
						return
					}
					if !is || c.Damage() != nil || !bytes.Equal(left, ch.after) {
						t.Errorf("%s: at the end it is not the header after: %v", state, c.Damage())
					}
				})
				if news < 2 || cuts < 60 {
					t.Errorf("%s: %d cuts, %d with the new header", state, cuts, news)
				}
			}
		})
	}
}

// A cut write is followed by another one, which may be cut too.
func TestASecondCutLeavesOneOfTheTwoHeaders(t *testing.T) {
	t.Parallel()
	ch := changes()[3]
	before, after := parse(t, ch.before), parse(t, ch.after)
	r := newRecorder()
	if err := header.Store(r, before, after); err != nil {
		t.Fatal(err)
	}
	n := 0
	r.crashes(ch.before, func(left []byte, _ string) {
		if n++; n%30 != 0 {
			return
		}
		now := parse(t, left)
		again := newRecorder()
		if err := header.Store(again, now, after); err != nil {
			t.Fatal(err)
		}
		again.crashes(left, func(left []byte, where string) {
			c, err := header.Parse(left)
			if err != nil || !intact(c, left, before, ch.before) && !intact(c, left, after, ch.after) {
				t.Fatalf("after cut %d, %s: %v", n, where, err)
			}
			if where == "at the end" && !bytes.Equal(left, ch.after) {
				t.Errorf("after cut %d: not the header after", n)
			}
		})
	})
}

func TestTheSameHeaderIsRepairedOrNotWritten(t *testing.T) {
	t.Parallel()
	for state, disk := range torn(sample().bytes()) {
		c := parse(t, disk)
		r := newRecorder()
		if err := header.Store(r, c, c); err != nil {
			t.Fatal(err)
		}
		if state == "whole" && (len(r.steps) != 1 || len(r.steps[0]) != 0) {
			t.Errorf("%s: something was written or synced", state)
		}
		r.crashes(disk, func(left []byte, where string) {
			got := parse(t, left)
			if !intact(got, left, c, disk) || where == "at the end" && got.Damage() != nil {
				t.Errorf("%s, %s: %v", state, where, got.Damage())
			}
		})
	}
}

func TestAHeaderThatCannotFollowIsRefused(t *testing.T) {
	t.Parallel()
	f := sample()
	before := f.bytes()
	later := f.bytes()
	for name, tt := range map[string]struct {
		after []byte
		want  string
	}{
		"another volume":         {both(later, func(b []byte) { copy(b[168:], "00000000") }), "different volumes"},
		"another size":           {append(bytes.Clone(later), make([]byte, 4096)...), "different volumes"},
		"no new number":          {edit(before, set("tokens", object{})), "sequence number 4"},
		"a lower number":         {both(later, func(b []byte) { b[23] = 1 }), "sequence number 1"},
		"a slot changed inside":  {func() []byte { b := bytes.Clone(later); b[2*copySize+77] ^= 1; return b }(), "changed in place"},
		"a slot in the metadata": {edit(later, set("keyslots.0.area.offset", "0")), "not in the keyslot area"},
		"a slot in the place of another": {func() []byte {
			g := newFixture(64, "sha256").slot("1", 1, second, nil).slot("5", 0, second, nil)
			g.seq = 9
			return g.bytes()
		}(), "changed in place"},
	} {
		r := newRecorder()
		err := header.Store(r, parse(t, before), parse(t, tt.after))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
		if r.n != 0 {
			t.Errorf("%s: %d writes", name, r.n)
		}
	}
	err := header.Store(newRecorder(), parse(t, edit(before, set("keyslots.0.area.size", "1"))), parse(t, later))
	faulttest.Want(t, err, fault.HeaderArea)
}

func TestAFailedWriteEndsIt(t *testing.T) {
	t.Parallel()
	ch := changes()[3]
	whole := newRecorder()
	if err := header.Store(whole, parse(t, ch.before), parse(t, ch.after)); err != nil {
		t.Fatal(err)
	}
	for fail := 1; fail <= whole.n; fail++ {
		r := newRecorder()
		r.fail = fail
		err := header.Store(r, parse(t, ch.before), parse(t, ch.after))
		if err == nil || !strings.Contains(err.Error(), "full of holes") || r.n != fail {
			t.Errorf("write %d: %v, %d writes", fail, err, r.n)
		}
	}
}

func TestStoreLeavesItsArgumentsAlone(t *testing.T) {
	t.Parallel()
	ch := changes()[0]
	before, after := parse(t, ch.before), parse(t, ch.after)
	if err := header.Store(newRecorder(), before, after); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before.Bytes(), ch.before) || !bytes.Equal(after.Bytes(), ch.after) {
		t.Error("a header changed")
	}
}
