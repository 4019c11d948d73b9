package header

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"cc-base/tasks/fault"
)

// Metadata is what a header says. Identifiers are decimal numbers as text.
type Metadata struct {
	Keyslots map[string]Keyslot
	Segments map[string]Segment
	Digests  map[string]Digest
	Tokens   map[string]json.RawMessage // with all their fields
	Config   Config
}

// Keyslot is one way to the volume key (specification, 3.2).
type Keyslot struct {
	Type     string
	KeySize  int  // of the volume key, in bytes
	Priority *int // nil is normal
	AF       AF
	Area     Area
	KDF      KDF

	// Of a slot that holds the journal of a re-encryption, and no key.
	Mode, Direction string
}

// AF is the anti-forensic split of the volume key.
type AF struct {
	Type    string `json:"type"`
	Stripes int    `json:"stripes"`
	Hash    string `json:"hash"`
}

// Area is where and how a keyslot keeps the split key.
type Area struct {
	Type       string `json:"type"`
	Offset     string `json:"offset"` // bytes from the header's start, decimal
	Size       string `json:"size"`   // bytes, decimal
	Encryption string `json:"encryption"`
	KeySize    int    `json:"key_size"` // bytes
}

// KDF makes an area's key from a passphrase.
type KDF struct {
	Type       string `json:"type"`
	Hash       string `json:"hash"`       // pbkdf2
	Iterations int    `json:"iterations"` // pbkdf2
	Time       int    `json:"time"`       // argon2: passes
	Memory     int    `json:"memory"`     // argon2: KiB
	CPUs       int    `json:"cpus"`       // argon2: lanes
	Salt       []byte `json:"salt"`
}

// Segment is a stretch of the volume and how it is encrypted (3.3).
type Segment struct {
	Type       string     `json:"type"`
	Offset     string     `json:"offset"` // bytes, decimal
	Size       string     `json:"size"`   // bytes, decimal, or dynamic
	IVTweak    string     `json:"iv_tweak"`
	Encryption string     `json:"encryption"`
	SectorSize int        `json:"sector_size"` // bytes
	Integrity  *Integrity `json:"integrity"`   // nil without dm-integrity
	Flags      []string   `json:"flags"`
}

// Integrity is how dm-integrity is used below a segment.
type Integrity struct {
	Type              string `json:"type"`
	JournalEncryption string `json:"journal_encryption"`
	JournalIntegrity  string `json:"journal_integrity"`
}

// Digest tells the right volume key from others (3.4).
type Digest struct {
	Type       string   `json:"type"`
	Keyslots   []string `json:"keyslots"`
	Segments   []string `json:"segments"`
	Hash       string   `json:"hash"`
	Iterations int      `json:"iterations"`
	Salt       []byte   `json:"salt"`
	Digest     []byte   `json:"digest"`
}

// Config is about the header itself (3.5).
type Config struct {
	JSONSize     string          `json:"json_size"`     // bytes, decimal
	KeyslotsSize string          `json:"keyslots_size"` // bytes, decimal
	Flags        []string        `json:"flags"`
	Requirements json.RawMessage `json:"requirements"`
}

// token is what every token has.
type token struct {
	Type     string   `json:"type"`
	Keyslots []string `json:"keyslots"`
}

// top is the outermost object, all of whose members must be there.
type top struct {
	Keyslots map[string]json.RawMessage `json:"keyslots"`
	Tokens   map[string]json.RawMessage `json:"tokens"`
	Segments map[string]json.RawMessage `json:"segments"`
	Digests  map[string]json.RawMessage `json:"digests"`
	Config   json.RawMessage            `json:"config"`
}

// maxDepth is far more than metadata need (config, requirements, list: 4).
const maxDepth = 8

// parseJSON reads a JSON area: one object, then zeros, at least one of them.
func parseJSON(area []byte) (top, error) {
	var t top
	raw, rest, ok := bytes.Cut(area, []byte{0})
	switch {
	case !ok:
		return t, errors.New("it does not end")
	case !zero(rest):
		return t, errors.New("bytes follow it")
	case len(raw) == 0 || raw[0] != '{' || raw[len(raw)-1] != '}':
		return t, errors.New("it is not an object")
	case !utf8.Valid(raw) || !json.Valid(raw):
		return t, errors.New("it is malformed")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := strict(dec, 0); err != nil {
		return t, err
	}
	if err := decode(raw, &t); err != nil {
		return t, err
	}
	if t.Keyslots == nil || t.Tokens == nil || t.Segments == nil || t.Digests == nil || t.Config == nil {
		return t, errors.New("a member is missing")
	}
	return t, nil
}

// strict refuses what two parsers can take for two things, so that json-c in
// cryptsetup, encoding/json here and whoever reads a token later agree: a name
// given twice, names that differ only by case (encoding/json ignores it),
// control characters (for C a NUL ends a name), halves of surrogate pairs,
// null, and numbers other than whole ones of 64 bits.
func strict(dec *json.Decoder, depth int) error {
	if depth > maxDepth {
		return errors.New("it is nested too deeply")
	}
	t, err := dec.Token()
	if err != nil {
		return err
	}
	switch t := t.(type) {
	case json.Delim:
		seen := map[string]bool{}
		for dec.More() {
			if t == '{' {
				name, err := dec.Token()
				if err != nil {
					return err
				}
				s, _ := name.(string)
				if !isName(s) || seen[s] {
					return fmt.Errorf("the name %q is malformed or there twice", s)
				}
				seen[s] = true
			}
			if err := strict(dec, depth+1); err != nil {
				return err
			}
		}
		_, err := dec.Token()
		return err
	case string:
		if strings.ContainsFunc(t, func(r rune) bool { return r < ' ' || r == 0x7f || r == utf8.RuneError }) {
			return fmt.Errorf("the text %q has control characters", t)
		}
	case json.Number:
		if n, err := strconv.ParseInt(t.String(), 10, 64); err != nil || strconv.FormatInt(n, 10) != t.String() {
			return fmt.Errorf("the number %s is not a whole one", t)
		}
	case nil:
		return errors.New("there is a null in it")
	}
	return nil
}

// isName accepts the names that LUKS2, systemd and cc-base use.
func isName(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

// decode reads an object without unknown members. Names are exact: see strict.
func decode(raw json.RawMessage, to any) error {
	if len(raw) == 0 {
		return errors.New("it is missing")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	return dec.Decode(to)
}

// typed reads every object and returns what could not be read.
func (t top) typed() (Metadata, []error) {
	var f findings
	m := Metadata{
		Keyslots: map[string]Keyslot{}, Segments: map[string]Segment{}, Digests: map[string]Digest{},
		Tokens: maps.Clone(t.Tokens),
	}
	read := func(code fault.Code, raw json.RawMessage, to any, where string, args ...any) {
		if err := decode(raw, to); err != nil {
			f.add(code, where+": %w", append(args, err)...)
		}
	}
	for _, id := range sorted(t.Segments) {
		var s Segment
		read(fault.HeaderSegment, t.Segments[id], &s, "segment %s", id)
		m.Segments[id] = s
	}
	for _, id := range sorted(t.Keyslots) {
		var parts struct {
			Type     string          `json:"type"`
			KeySize  int             `json:"key_size"`
			Priority *int            `json:"priority"`
			AF       json.RawMessage `json:"af"`
			Area     json.RawMessage `json:"area"`
			KDF      json.RawMessage `json:"kdf"`

			Mode      string `json:"mode"`
			Direction string `json:"direction"`
		}
		read(fault.HeaderKeyslot, t.Keyslots[id], &parts, "keyslot %s", id)
		k := Keyslot{Type: parts.Type, KeySize: parts.KeySize, Priority: parts.Priority, Mode: parts.Mode, Direction: parts.Direction}
		read(fault.HeaderKeyslot, parts.Area, &k.Area, "keyslot %s: area", id)
		if k.Type != journalSlot || parts.AF != nil || parts.KDF != nil {
			read(fault.HeaderKeyslot, parts.AF, &k.AF, "keyslot %s: split", id)
			read(fault.HeaderKDF, parts.KDF, &k.KDF, "keyslot %s: key derivation", id)
		}
		m.Keyslots[id] = k
	}
	for _, id := range sorted(t.Digests) {
		var d Digest
		read(fault.HeaderDigest, t.Digests[id], &d, "digest %s", id)
		m.Digests[id] = d
	}
	read(fault.HeaderRequirement, t.Config, &m.Config, "config")
	return m, f
}

// sorted returns identifiers as numbers are sorted, as far as they are some.
func sorted[V any](m map[string]V) []string {
	return slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
}

// decimal reads a number as it is written in one way only.
func decimal(s string) (int64, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n >= 0 && strconv.FormatInt(n, 10) == s
}
