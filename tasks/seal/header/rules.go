package header

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"cc-base/tasks/fault"
)

const (
	cipher  = "aes-xts-plain64" // the only one that cc-base opens
	stripes = 4000              // of the anti-forensic split; cryptsetup writes no other number
	align   = 4096              // of keyslot areas, in bytes
	slots   = 32                // LUKS2_KEYSLOTS_MAX and LUKS2_TOKENS_MAX of cryptsetup
	saltLen = 32                // bytes; cryptsetup's LUKS_SALTSIZE

	// cryptsetup allows no fewer iterations; the most bound what a header can
	// make us do: ten seconds. Derivations timed by cryptsetup (2 s) stay below.
	minIterations = 1000
	maxIterations = 10_000_000

	// Of argon2id: cryptsetup's least, and its default as the most memory.
	minTime   = 4
	minMemory = 32             // KiB
	maxMemory = 1 << 20        // KiB
	maxWork   = 16 * (1 << 20) // KiB times passes
	maxLanes  = 4
)

// Rules are what a header must be. What is not in them is the same for every
// volume of cc-base.
type Rules struct {
	Cipher     string // as cryptsetup names it; only aes-xts-plain64 passes
	KeyBits    int    // of the cipher's key: 256 or 512; 0 is any of the two
	Hash       string // of the digest: sha256 or sha512; empty is any. Keyslots may use either: luksAddKey takes sha256 unless told
	SectorSize int    // of encryption, in bytes
	HeaderSize int64  // bytes before the data
	Integrity  string // as the header spells it: hmac(sha256), hmac(sha512), or empty for none
	DeviceSize int64  // bytes, or 0 where it is not known
}

// findings collects everything that is wrong.
type findings []error

func (f *findings) add(code fault.Code, format string, args ...any) {
	*f = append(*f, fault.Newf(code, format, args...))
}

// rule judges one object; bad returns what is wrong with it, or nothing.
type rule[T any] struct {
	code fault.Code
	bad  func(T, Rules) string
}

// broken returns text when it is true.
func broken(is bool, format string, args ...any) string {
	if !is {
		return ""
	}
	return fmt.Sprintf(format, args...)
}

func apply[T any](f *findings, rules []rule[T], o T, r Rules, where string) {
	for _, one := range rules {
		if text := one.bad(o, r); text != "" {
			f.add(one.code, "%s: %s", where, text)
		}
	}
}

func segmentRules() []rule[Segment] {
	return []rule[Segment]{
		{fault.HeaderCipher, func(s Segment, r Rules) string {
			return broken(s.Encryption != r.Cipher || s.Encryption != cipher, "cipher %q", s.Encryption)
		}},
		{fault.HeaderSegment, func(s Segment, _ Rules) string { return broken(s.Type != "crypt", "type %q", s.Type) }},
		{fault.HeaderSegment, func(s Segment, r Rules) string {
			return broken(s.Offset != strconv.FormatInt(r.HeaderSize, 10), "it begins at %q, not %d", s.Offset, r.HeaderSize)
		}},
		{fault.HeaderSegment, func(s Segment, _ Rules) string {
			return broken(s.Size != "dynamic", "its size is %q, not the rest of the volume", s.Size)
		}},
		{fault.HeaderSegment, func(s Segment, _ Rules) string { return broken(s.IVTweak != "0", "iv_tweak %q", s.IVTweak) }},
		{fault.HeaderSegment, func(s Segment, r Rules) string {
			return broken(s.SectorSize != r.SectorSize, "sectors of %d bytes, not %d", s.SectorSize, r.SectorSize)
		}},
		{fault.HeaderSegment, func(s Segment, r Rules) string {
			got := Integrity{}
			if s.Integrity != nil {
				got = *s.Integrity
			}
			return broken(got.Type != r.Integrity || (s.Integrity != nil) != (r.Integrity != ""), "integrity %q, not %q", got.Type, r.Integrity)
		}},
		{fault.HeaderSegment, func(s Segment, _ Rules) string {
			i := s.Integrity
			return broken(i != nil && (i.JournalEncryption != "none" || i.JournalIntegrity != "none"), "its journal is encrypted or authenticated")
		}},
		{fault.HeaderSegment, func(s Segment, _ Rules) string { return broken(len(s.Flags) > 0, "flags %q", s.Flags) }},
		{fault.HeaderSegment, func(_ Segment, r Rules) string {
			data := r.DeviceSize - r.HeaderSize
			return broken(r.DeviceSize != 0 && (data <= 0 || r.SectorSize <= 0 || data%int64(r.SectorSize) != 0),
				"a device of %d bytes holds no whole sectors of %d bytes behind the header", r.DeviceSize, r.SectorSize)
		}},
	}
}

func keyslotRules() []rule[Keyslot] {
	return []rule[Keyslot]{
		{fault.HeaderKeyslot, func(k Keyslot, _ Rules) string {
			return broken(k.Area.Encryption != cipher, "its area has cipher %q", k.Area.Encryption)
		}},
		{fault.HeaderKeyslot, func(k Keyslot, _ Rules) string {
			return broken(k.Type != "luks2" || k.Mode != "" || k.Direction != "", "type %q, mode %q, direction %q", k.Type, k.Mode, k.Direction)
		}},
		{fault.HeaderKeyslot, func(k Keyslot, _ Rules) string {
			return broken(k.Area.Type != "raw", "its area has type %q", k.Area.Type)
		}},
		{fault.HeaderKeyslot, func(k Keyslot, r Rules) string {
			return broken(!slices.Contains(keySizes(r), k.KeySize), "a volume key of %d bytes", k.KeySize)
		}},
		{fault.HeaderKeyslot, func(k Keyslot, _ Rules) string {
			return broken(k.Area.KeySize != 32 && k.Area.KeySize != 64, "its area has a key of %d bytes", k.Area.KeySize)
		}},
		{fault.HeaderKeyslot, func(k Keyslot, _ Rules) string { return broken(k.AF.Type != "luks1", "split of type %q", k.AF.Type) }},
		{fault.HeaderKeyslot, func(k Keyslot, _ Rules) string {
			return broken(k.AF.Stripes != stripes, "split into %d stripes, not %d", k.AF.Stripes, stripes)
		}},
		{fault.HeaderKeyslot, func(k Keyslot, _ Rules) string {
			return broken(!knownHash(k.AF.Hash), "split with hash %q", k.AF.Hash)
		}},
		{fault.HeaderKeyslot, func(k Keyslot, _ Rules) string {
			return broken(k.Priority != nil && *k.Priority != 1, "it has a priority")
		}},
		{fault.HeaderKDF, func(k Keyslot, _ Rules) string {
			return broken(k.KDF.Type != "pbkdf2" && k.KDF.Type != "argon2id", "key derivation %q", k.KDF.Type)
		}},
		{fault.HeaderKDF, func(k Keyslot, _ Rules) string {
			return broken(k.KDF.Type == "pbkdf2", "%s", badPBKDF2(k.KDF.Hash, k.KDF.Iterations))
		}},
		{fault.HeaderKDF, func(k Keyslot, _ Rules) string {
			d := k.KDF
			return broken(d.Type == "argon2id" && (d.Time < minTime || d.Memory < minMemory || d.Memory > maxMemory || d.Time > maxWork/d.Memory ||
				d.CPUs < 1 || d.CPUs > maxLanes), "argon2id with %d passes, %d KiB and %d lanes", d.Time, d.Memory, d.CPUs)
		}},
		{fault.HeaderKDF, func(k Keyslot, _ Rules) string {
			return broken(len(k.KDF.Salt) != saltLen, "a salt of %d bytes", len(k.KDF.Salt))
		}},
	}
}

func digestRules() []rule[Digest] {
	return []rule[Digest]{
		{fault.HeaderKDF, func(d Digest, _ Rules) string { return broken(d.Type != "pbkdf2", "type %q", d.Type) }},
		{fault.HeaderKDF, func(d Digest, _ Rules) string { return badPBKDF2(d.Hash, d.Iterations) }},
		{fault.HeaderKDF, func(d Digest, r Rules) string {
			return broken(r.Hash != "" && d.Hash != r.Hash, "hash %q, not %q", d.Hash, r.Hash)
		}},
		{fault.HeaderKDF, func(d Digest, _ Rules) string {
			return broken(len(d.Salt) != saltLen, "a salt of %d bytes", len(d.Salt))
		}},
		{fault.HeaderDigest, func(d Digest, _ Rules) string {
			h, ok := hashes()[d.Hash]
			return broken(ok && len(d.Digest) != h().Size(), "%d bytes", len(d.Digest))
		}},
	}
}

func knownHash(name string) bool { _, ok := hashes()[name]; return ok }

func badPBKDF2(hash string, iterations int) string {
	switch {
	case !knownHash(hash):
		return fmt.Sprintf("pbkdf2 with hash %q", hash)
	case iterations < minIterations || iterations > maxIterations:
		return fmt.Sprintf("pbkdf2 with %d iterations, not %d to %d", iterations, minIterations, maxIterations)
	}
	return ""
}

// keySizes returns how long a volume key may be, in bytes: the cipher's key and
// then that of the authentication code, which is as long as its hash.
func keySizes(r Rules) []int {
	more, ok := map[string]int{"": 0, "hmac(sha256)": 32, "hmac(sha512)": 64}[r.Integrity]
	switch {
	case !ok:
		return nil
	case r.KeyBits == 0:
		return []int{32 + more, 64 + more}
	case r.KeyBits == 256 || r.KeyBits == 512:
		return []int{r.KeyBits/8 + more}
	}
	return nil
}

// Check returns everything that the rules find, joined: each finding is a fault
// with a code from [fault.HeaderCipher] to [fault.HeaderToken]. What a hostile
// header may still choose is the passphrases of its slots and the number of
// slots without a token: see [Copy.Unbound] and [Copy.MAC].
func (c *Copy) Check(r Rules) error {
	f := slices.Clone(findings(c.findings))
	m := c.meta
	// First, because a re-encryption breaks other rules as well.
	if required := requirements(c.meta.Config.Requirements); required != "" {
		f.add(fault.HeaderRequirement, "config: requirements %s", required)
	}
	for _, id := range sorted(m.Segments) {
		apply(&f, segmentRules(), m.Segments[id], r, "segment "+id)
	}
	if _, ok := m.Segments["0"]; !ok || len(m.Segments) != 1 {
		f.add(fault.HeaderSegment, "segments %q, not only 0", sorted(m.Segments))
	}
	for _, id := range sorted(m.Keyslots) {
		apply(&f, keyslotRules(), m.Keyslots[id], r, "keyslot "+id)
	}
	c.areas(&f)
	c.digests(&f, r)
	c.config(&f, r)
	c.bound(&f)
	return errors.Join(f...)
}

// span is a stretch of the header, in bytes.
type span struct{ from, to int64 }

func (s span) meets(o span) bool { return s.from < o.to && o.from < s.to }

// span returns where a keyslot's area is, if it is at a place for areas.
func (c *Copy) span(k Keyslot) (span, error) {
	offset, ok1 := decimal(k.Area.Offset)
	size, ok2 := decimal(k.Area.Size)
	keyslots, ok3 := decimal(c.meta.Config.KeyslotsSize)
	first := 2 * int64(len(c.chosen.block))
	switch end := int64(len(c.area)); {
	case !ok1 || !ok2 || !ok3:
		return span{}, fmt.Errorf("offset %q and size %q in an area of %q bytes are no numbers", k.Area.Offset, k.Area.Size, c.meta.Config.KeyslotsSize)
	case offset%align != 0 || size%align != 0:
		return span{}, fmt.Errorf("%d bytes at %d are not aligned", size, offset)
	case k.KeySize < 1 || size/stripes < int64(k.KeySize):
		return span{}, fmt.Errorf("%d bytes are too few for a key of %d", size, k.KeySize)
	case offset < first || size > end-offset || size > keyslots-(offset-first): // numbers below 2^63: nothing overflows
		return span{}, fmt.Errorf("%d bytes at %d are not in the keyslot area", size, offset)
	}
	return span{offset, offset + size}, nil
}

func (c *Copy) areas(f *findings) {
	taken := map[string]span{}
	ids := sorted(c.meta.Keyslots)
	for _, id := range ids {
		s, err := c.span(c.meta.Keyslots[id])
		if err != nil {
			f.add(fault.HeaderArea, "keyslot %s: %w", id, err)
			continue
		}
		for _, other := range ids {
			if t, ok := taken[other]; ok && s.meets(t) {
				f.add(fault.HeaderArea, "keyslots %s and %s overlap", other, id)
			}
		}
		taken[id] = s
	}
}

func (c *Copy) digests(f *findings, r Rules) {
	if len(c.meta.Digests) != 1 {
		f.add(fault.HeaderDigest, "%d digests, not 1", len(c.meta.Digests))
	}
	for _, id := range sorted(c.meta.Digests) {
		d := c.meta.Digests[id]
		apply(f, digestRules(), d, r, "digest "+id)
		if !covers(d.Keyslots, sorted(c.meta.Keyslots)) || !covers(d.Segments, sorted(c.meta.Segments)) {
			f.add(fault.HeaderDigest, "digest %s: it covers keyslots %q and segments %q", id, d.Keyslots, d.Segments)
		}
	}
}

// covers tells whether two lists name the same, each once.
func covers(list, all []string) bool {
	list, all = slices.Clone(list), slices.Clone(all)
	slices.Sort(list)
	slices.Sort(all)
	return slices.Equal(list, all)
}

func (c *Copy) config(f *findings, r Rules) {
	size := int64(len(c.chosen.block))
	if got, want := c.meta.Config.JSONSize, strconv.FormatInt(size-binarySize, 10); got != want {
		f.add(fault.HeaderArea, "config: json_size is %q, not %s", got, want)
	}
	if got, want := c.meta.Config.KeyslotsSize, strconv.FormatInt(r.HeaderSize-2*size, 10); got != want {
		f.add(fault.HeaderArea, "config: keyslots_size is %q, not %s", got, want)
	}
	if flags := c.meta.Config.Flags; len(flags) > 0 {
		f.add(fault.HeaderRequirement, "config: flags %q", flags)
	}
}

// requirements returns what is required as JSON text; of the ways to say that
// nothing is, all give nothing.
func requirements(raw json.RawMessage) string {
	var r struct {
		Mandatory []string `json:"mandatory"`
	}
	if len(raw) == 0 || bytes.HasPrefix(raw, []byte("{")) && decode(raw, &r) == nil && len(r.Mandatory) == 0 {
		return ""
	}
	return string(raw)
}

func (c *Copy) bound(f *findings) {
	if len(c.meta.Keyslots) == 0 {
		f.add(fault.HeaderSlots, "there is no keyslot")
	}
	for _, id := range sorted(c.meta.Keyslots) {
		if n, ok := decimal(id); !ok || n >= slots {
			f.add(fault.HeaderSlots, "keyslot %s: not a number below %d", id, slots)
		}
	}
	named := map[string]string{}
	for _, id := range sorted(c.meta.Tokens) {
		if n, ok := decimal(id); !ok || n >= slots {
			f.add(fault.HeaderToken, "token %s: not a number below %d", id, slots)
		}
		var t token
		if err := json.Unmarshal(c.meta.Tokens[id], &t); err != nil {
			f.add(fault.HeaderToken, "token %s: %w", id, err)
			continue
		}
		if t.Keyslots == nil {
			f.add(fault.HeaderToken, "token %s: it has no list of keyslots", id)
		}
		if !slices.Contains([]string{"systemd-tpm2", "systemd-recovery", "cc-base"}, t.Type) {
			f.add(fault.HeaderToken, "token %s: type %q", id, t.Type)
		}
		for _, slot := range t.Keyslots {
			if _, ok := c.meta.Keyslots[slot]; !ok {
				f.add(fault.HeaderSlots, "token %s: there is no keyslot %q", id, slot)
			}
			if other, ok := named[slot]; ok {
				f.add(fault.HeaderSlots, "token %s: keyslot %q is that of token %s", id, slot, other)
			}
			named[slot] = id
		}
	}
}

// Unbound returns the keyslots that no token names, in order.
func (c *Copy) Unbound() []string {
	named := map[string]bool{}
	for _, raw := range c.meta.Tokens {
		var t token
		if json.Unmarshal(raw, &t) == nil {
			for _, slot := range t.Keyslots {
				named[slot] = true
			}
		}
	}
	return slices.DeleteFunc(sorted(c.meta.Keyslots), func(id string) bool { return named[id] })
}
