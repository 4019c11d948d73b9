package header

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"cc-base/tasks/fault"
)

// Between two volume keys a header is what [Copy.Check] refuses: cryptsetup
// reencrypt has set a requirement, there are two keys, and the segments say how
// far it has come. The types here judge such a header and end the change.
//
// They end it because cryptsetup 2.7.5 cannot be trusted to, once it was cut
// off behind the last stretch (reencrypt_teardown_ok in lib/luks2): started
// again while the old keyslots are there, it takes one new segment for none
// done and encrypts everything a second time; started when they are gone, it
// fails for want of the old key. Nor does it sync the journal before it writes
// the first copy of the metadata that counts on it; see [Copy.Earlier].

const (
	// renewing is set by cryptsetup 2.4 and later, which put a code over the
	// parameters that is keyed by both volume keys (CVE-2021-4122).
	renewing = "online-reencrypt-v2"
	// journalSlot is the type of the keyslot that keeps a stretch while it is
	// written.
	journalSlot = "reencrypt"

	flagOld = "backup-previous"
	flagNew = "backup-final"
	flagHot = "in-reencryption"
)

// Renewal is how far the change of a volume key has come.
type Renewal struct {
	Old, New []string // keyslots of the two keys; the old ones go first when it ends
	Hot      bool     // a stretch was being written: its journal must be played back
	Done     bool     // the new key encrypts everything
}

// Renewing tells whether the header says that the volume key is being changed.
// Whether it may say so is for the caller to know.
func (c *Copy) Renewing() bool {
	var r struct {
		Mandatory []string `json:"mandatory"`
	}
	raw := c.meta.Config.Requirements
	return len(raw) > 0 && decode(raw, &r) == nil && slices.Equal(r.Mandatory, []string{renewing})
}

// Earlier returns the same reading with the older copy of the metadata where
// the two differ. Between two volume keys it is the one to go by: the newer one
// may have reached the disk before the journal that it counts on, and what
// follows in either case begins only when both copies are on the disk.
func (c *Copy) Earlier() (*Copy, error) { return parseArea(c.area, true) }

// CheckRenewal is [Copy.Check] for a header between two volume keys: the same
// rules, but for what cryptsetup reencrypt adds while it runs with
// --resilience=journal.
func (c *Copy) CheckRenewal(r Rules) (Renewal, error) {
	f := slices.Clone(findings(c.findings))
	if !c.Renewing() {
		f.add(fault.HeaderRequirement, "config: requirements %s, not %s alone", c.meta.Config.Requirements, renewing)
	}
	c.areas(&f)
	c.config(&f, r)
	c.bound(&f)
	p := c.parts(&f)
	c.slotsOf(&f, r, p)
	n := c.progress(&f, r, p)
	n.Old, n.New = c.meta.Digests[p.oldKey].Keyslots, c.meta.Digests[p.newKey].Keyslots
	if len(n.New) == 0 || len(n.Old) == 0 && !n.Done {
		f.add(fault.HeaderSlots, "keyslots %q of the old and %q of the new volume key", n.Old, n.New)
	}
	return n, errors.Join(f...)
}

// parts are the identifiers of what takes part in a change.
type parts struct {
	oldSegment, newSegment string // flagged: how all of it was, and will be
	oldKey, newKey, code   string // digests: of the two keys, and over the parameters
	journal                string // keyslot
	data                   []string
}

// parts finds them, each of which must be there once.
func (c *Copy) parts(f *findings) parts {
	var p parts
	once := func(to *string, id, what string) {
		if *to != "" {
			f.add(fault.HeaderSegment, "%s and %s are both %s", *to, id, what)
		}
		*to = id
	}
	for _, id := range sorted(c.meta.Segments) {
		switch s := c.meta.Segments[id]; {
		case slices.Equal(s.Flags, []string{flagOld}):
			once(&p.oldSegment, id, flagOld)
		case slices.Equal(s.Flags, []string{flagNew}):
			once(&p.newSegment, id, flagNew)
		default:
			p.data = append(p.data, id)
		}
	}
	for _, id := range sorted(c.meta.Keyslots) {
		if c.meta.Keyslots[id].Type == journalSlot {
			once(&p.journal, id, journalSlot)
		}
	}
	for _, id := range sorted(c.meta.Digests) {
		switch d := c.meta.Digests[id]; {
		case slices.Contains(d.Segments, p.oldSegment):
			once(&p.oldKey, id, "of the old key")
		case slices.Contains(d.Segments, p.newSegment):
			once(&p.newKey, id, "of the new key")
		default:
			once(&p.code, id, "of no key")
		}
	}
	if p.oldSegment == "" || p.newSegment == "" || p.oldKey == "" || p.newKey == "" || p.code == "" || p.journal == "" {
		f.add(fault.HeaderSegment, "of what a change of the volume key needs, something is missing")
	}
	return p
}

// slotsOf judges keyslots and digests: each slot has one digest, the journal
// that over the parameters.
func (c *Copy) slotsOf(f *findings, r Rules, p parts) {
	for _, id := range []string{p.oldKey, p.newKey} {
		apply(f, digestRules(), c.meta.Digests[id], r, "digest "+id)
	}
	code := c.meta.Digests[p.code]
	apply(f, digestRules(), code, Rules{}, "digest "+p.code)
	if !slices.Equal(code.Keyslots, []string{p.journal}) || len(code.Segments) > 0 {
		f.add(fault.HeaderDigest, "digest %s covers keyslots %q and segments %q", p.code, code.Keyslots, code.Segments)
	}
	var named []string
	for _, d := range c.meta.Digests {
		named = append(named, d.Keyslots...)
		for _, id := range d.Segments {
			if _, ok := c.meta.Segments[id]; !ok {
				f.add(fault.HeaderDigest, "a digest covers segment %q, which is not there", id)
			}
		}
	}
	if !covers(named, sorted(c.meta.Keyslots)) {
		f.add(fault.HeaderDigest, "the digests cover keyslots %q", named)
	}
	for _, id := range sorted(c.meta.Keyslots) {
		k := c.meta.Keyslots[id]
		if id != p.journal {
			apply(f, keyslotRules(), k, r, "keyslot "+id)
			continue
		}
		// Anything but a journal, or another direction, is not what the guest
		// asks cryptsetup for; "decrypt" would write plaintext.
		if k.Mode != "reencrypt" || k.Direction != "forward" || k.Area.Type != "journal" || k.Area.Encryption != "" || k.KeySize != 1 {
			f.add(fault.HeaderKeyslot, "keyslot %s: mode %q, direction %q, area of type %q", id, k.Mode, k.Direction, k.Area.Type)
		}
	}
}

// progress judges the segments: one behind the other, those of the new key
// first, and between them at most one that is being written.
func (c *Copy) progress(f *findings, r Rules, p parts) Renewal {
	var n Renewal
	at := int64(0) // bytes of data
	old := false
	for i, id := range p.data {
		s := c.meta.Segments[id]
		inOld := slices.Contains(c.meta.Digests[p.oldKey].Segments, id)
		inNew := slices.Contains(c.meta.Digests[p.newKey].Segments, id)
		hot := slices.Equal(s.Flags, []string{flagHot})
		last := i == len(p.data)-1
		size, ok := decimal(s.Size)
		sized := ok && size > 0 && size%int64(r.SectorSize) == 0
		switch {
		case !hot && len(s.Flags) > 0, hot != (inOld && inNew), !inOld && !inNew:
			f.add(fault.HeaderSegment, "segment %s: flags %q, of the old key: %v, of the new key: %v", id, s.Flags, inOld, inNew)
		case old, hot && n.Hot, i > 0 && !inOld:
			f.add(fault.HeaderSegment, "segment %s: out of order", id)
		case strconv.Itoa(i) != id || s.Offset != strconv.FormatInt(r.HeaderSize+at, 10) || s.IVTweak != strconv.FormatInt(at/areaSector, 10):
			f.add(fault.HeaderSegment, "segment %s: at %q with iv_tweak %q", id, s.Offset, s.IVTweak)
		case !(last && s.Size == "dynamic" || (!last || hot) && sized):
			f.add(fault.HeaderSegment, "segment %s: size %q", id, s.Size)
		}
		n.Hot, old, at = n.Hot || hot, old || inOld && !inNew, at+size
		n.Done = len(p.data) == 1 && inNew && !inOld
		plain := s
		plain.Offset, plain.Size, plain.IVTweak, plain.Flags = strconv.FormatInt(r.HeaderSize, 10), "dynamic", "0", nil
		apply(f, segmentRules(), plain, r, "segment "+id)
	}
	if len(p.data) == 0 {
		f.add(fault.HeaderSegment, "no segment is the data's")
	}
	for _, id := range []string{p.oldSegment, p.newSegment} {
		s := c.meta.Segments[id]
		s.Flags = nil
		apply(f, segmentRules(), s, r, "segment "+id)
	}
	return n
}

// Renewed returns the header of a volume whose data are all under the new key,
// as it is when the change has ended: the old key's slots, the journal and the
// requirement are gone, and the keyslot area holds nothing of them. n is what
// [Copy.CheckRenewal] returned.
func (c *Copy) Renewed(n Renewal) (*Copy, error) {
	if !n.Done {
		return nil, errors.New("the new volume key does not encrypt everything yet")
	}
	p := c.parts(&findings{})
	digest, err := members(c.chosen.top.Digests[p.newKey], map[string]any{"segments": []string{"0"}})
	if err != nil {
		return nil, err
	}
	t := top{
		Keyslots: map[string]json.RawMessage{}, Tokens: map[string]json.RawMessage{},
		Segments: map[string]json.RawMessage{"0": c.chosen.top.Segments[p.data[0]]},
		Digests:  map[string]json.RawMessage{p.newKey: digest},
	}
	for _, id := range n.New {
		t.Keyslots[id] = c.chosen.top.Keyslots[id]
	}
	for id, raw := range c.chosen.top.Tokens {
		var own token
		if err := json.Unmarshal(raw, &own); err != nil {
			return nil, fault.New(fault.HeaderToken, err)
		}
		left := slices.DeleteFunc(own.Keyslots, func(slot string) bool { return !slices.Contains(n.New, slot) })
		if t.Tokens[id], err = members(raw, map[string]any{"keyslots": left}); err != nil {
			return nil, err
		}
	}
	if t.Config, err = members(c.chosen.top.Config, map[string]any{"requirements": nil}); err != nil {
		return nil, err
	}
	after, err := c.follow(t)
	if err != nil {
		return nil, err
	}
	return after.Cleared()
}

// Cleared returns the same header with zeros in whatever part of the keyslot
// area no slot uses. An old journal is data under the old key.
func (c *Copy) Cleared() (*Copy, error) {
	used, err := c.spans()
	if err != nil {
		return nil, err
	}
	area := c.Bytes()
	clear(area[2*len(c.chosen.block):])
	for _, s := range used {
		copy(area[s.from:s.to], c.area[s.from:s.to])
	}
	return Parse(area)
}

// WithToken returns the header that follows, with a token added or replaced:
// between two volume keys cryptsetup refuses to change any.
func (c *Copy) WithToken(id string, raw json.RawMessage) (*Copy, error) {
	t := c.chosen.top
	t.Tokens = maps.Clone(t.Tokens)
	t.Tokens[id] = raw
	return c.follow(t)
}

// follow returns the header with other metadata and the next sequence number.
func (c *Copy) follow(t top) (*Copy, error) {
	next, err := c.chosen.with(t)
	if err != nil {
		return nil, err
	}
	area := bytes.Clone(c.area)
	copy(area, next.at(0))
	copy(area[len(next.block):], next.at(len(next.block)))
	return Parse(area)
}

// members changes members of an object; nil takes one away.
func members(raw json.RawMessage, values map[string]any) (json.RawMessage, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(raw, &object); err != nil {
		return nil, err
	}
	for name, value := range values {
		delete(object, name)
		if value == nil {
			continue
		}
		text, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		object[name] = text
	}
	return json.Marshal(object)
}

// with returns the record that follows r and says t.
func (r *record) with(t top) (*record, error) {
	text, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	b := bytes.Clone(r.block)
	if len(text) >= len(b)-binarySize {
		return nil, fmt.Errorf("%d bytes of metadata do not fit", len(text))
	}
	binary.BigEndian.PutUint64(b[atSeqID:], r.seqID+1)
	clear(b[binarySize:])
	copy(b[binarySize:], text)
	return &record{block: b, seqID: r.seqID + 1, uuid: r.uuid, top: t}, nil
}
