// Package luks2 reads the header of a LUKS2 volume without a key, to judge
// whether it is the volume that the build promises. A header is hostile input:
// it is copied to memory once and everything is taken from the copy (source:
// LUKS2 On-Disk Format Specification 1.1.1; CVE-2025-59054 and CVE-2025-58356
// are why the cipher of every part is looked at).
package luks2

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
)

const (
	binaryBytes = 4096    // of the fixed part; JSON follows
	maxHeader   = 4 << 20 // the largest size that the format allows
	sumOffset   = 448
	sumBytes    = 64
)

// Header is what a volume says of itself.
type Header struct {
	UUID     string
	Keyslots map[string]Keyslot `json:"keyslots"`
	Segments map[string]Segment `json:"segments"`
	Digests  map[string]Digest  `json:"digests"`
	Tokens   map[string]Token   `json:"tokens"`
	Config   struct {
		Requirements json.RawMessage `json:"requirements"`
	} `json:"config"`
}

// Keyslot is one way to the volume key.
type Keyslot struct {
	Type    string `json:"type"`
	KeySize int    `json:"key_size"`
	Area    struct {
		Type       string `json:"type"`
		Encryption string `json:"encryption"`
	} `json:"area"`
	KDF struct {
		Type string `json:"type"`
	} `json:"kdf"`
}

// Segment is a stretch of the volume and how it is encrypted.
type Segment struct {
	Type       string `json:"type"`
	Offset     string `json:"offset"` // bytes, as decimal text
	Size       string `json:"size"`   // bytes, or dynamic
	Encryption string `json:"encryption"`
	SectorSize int    `json:"sector_size"`
}

// Digest binds keyslots to segments.
type Digest struct {
	Keyslots []string `json:"keyslots"`
	Segments []string `json:"segments"`
}

// Token is metadata of a program; only its kind is read.
type Token struct {
	Type string `json:"type"`
}

// IsLUKS tells whether the volume begins like a LUKS volume of any version.
func IsLUKS(start []byte) bool { return bytes.HasPrefix(start, []byte("LUKS\xba\xbe")) }

// Read reads and checks both copies of the header. They must agree: a
// difference means a write that was interrupted, or two stories for two
// readers.
func Read(volume io.ReaderAt) (Header, error) {
	first, size, json1, err := copyOf(volume, 0, "LUKS\xba\xbe")
	if err != nil {
		return Header{}, fmt.Errorf("first header: %w", err)
	}
	_, _, json2, err := copyOf(volume, size, "SKUL\xba\xbe")
	if err != nil {
		return Header{}, fmt.Errorf("second header: %w", err)
	}
	if !bytes.Equal(json1, json2) {
		return Header{}, errors.New("the two headers differ")
	}
	h := Header{UUID: text(first[168:208])}
	if err := json.Unmarshal(json1, &h); err != nil {
		return Header{}, fmt.Errorf("header: %w", err)
	}
	return h, nil
}

// copyOf reads one copy at offset and verifies its checksum.
func copyOf(volume io.ReaderAt, offset int64, magic string) (fixed []byte, size int64, area []byte, err error) {
	fixed = make([]byte, binaryBytes)
	if _, err := volume.ReadAt(fixed, offset); err != nil {
		return nil, 0, nil, err
	}
	hdrSize := binary.BigEndian.Uint64(fixed[8:])
	switch {
	case string(fixed[:6]) != magic:
		return nil, 0, nil, errors.New("no LUKS header")
	case binary.BigEndian.Uint16(fixed[6:]) != 2:
		return nil, 0, nil, fmt.Errorf("version %d, not 2", binary.BigEndian.Uint16(fixed[6:]))
	case hdrSize < 4*binaryBytes || hdrSize > maxHeader || hdrSize&(hdrSize-1) != 0:
		return nil, 0, nil, fmt.Errorf("a header of %d bytes", hdrSize)
	case binary.BigEndian.Uint64(fixed[256:]) != uint64(offset):
		return nil, 0, nil, errors.New("it was written for another place")
	}
	whole := make([]byte, hdrSize)
	if _, err := volume.ReadAt(whole, offset); err != nil {
		return nil, 0, nil, err
	}
	copy(whole, fixed) // one reading decides, whatever the disk says the second time
	var h hash.Hash
	switch alg := text(fixed[72:104]); alg {
	case "sha256":
		h = sha256.New()
	case "sha512":
		h = sha512.New()
	default:
		return nil, 0, nil, fmt.Errorf("checksum algorithm %q", alg)
	}
	clear(whole[sumOffset : sumOffset+sumBytes])
	h.Write(whole)
	if !bytes.Equal(h.Sum(nil), fixed[sumOffset:sumOffset+h.Size()]) {
		return nil, 0, nil, errors.New("its checksum is wrong")
	}
	area, _, _ = bytes.Cut(whole[binaryBytes:], []byte{0})
	return fixed, int64(hdrSize), area, nil
}

// Findings returns everything that a volume of a shipped image must not have:
// it holds exactly one keyslot, one encrypted segment, no null cipher, no
// pending re-encryption.
func (h Header) Findings() []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if len(h.Keyslots) != 1 {
		add("%d keyslots, not 1", len(h.Keyslots))
	}
	for id, k := range h.Keyslots {
		if k.Type != "luks2" || k.Area.Type != "raw" {
			add("keyslot %s is of type %q in an area of type %q", id, k.Type, k.Area.Type)
		}
		if null(k.Area.Encryption) {
			add("keyslot %s is kept with cipher %q", id, k.Area.Encryption)
		}
		if k.KDF.Type != "pbkdf2" && k.KDF.Type != "argon2id" {
			add("keyslot %s has key derivation %q", id, k.KDF.Type)
		}
		if k.KeySize < 32 {
			add("keyslot %s holds a key of %d bytes", id, k.KeySize)
		}
	}
	if len(h.Segments) != 1 {
		add("%d segments, not 1", len(h.Segments))
	}
	for id, s := range h.Segments {
		if s.Type != "crypt" {
			add("segment %s is of type %q", id, s.Type)
		}
		if null(s.Encryption) {
			add("segment %s has cipher %q", id, s.Encryption)
		}
		if s.Size != "dynamic" {
			add("segment %s covers only %s bytes", id, s.Size)
		}
	}
	if len(h.Digests) != 1 {
		add("%d digests, not 1", len(h.Digests))
	}
	for id, d := range h.Digests {
		if len(d.Keyslots) != len(h.Keyslots) || len(d.Segments) != len(h.Segments) {
			add("digest %s does not cover every keyslot and segment", id)
		}
	}
	if r := strings.TrimSpace(string(h.Config.Requirements)); r != "" && r != "null" && r != "{}" && !emptyMandatory(h.Config.Requirements) {
		add("it has requirements: %s", r)
	}
	return out
}

func emptyMandatory(raw json.RawMessage) bool {
	var r map[string][]string
	if json.Unmarshal(raw, &r) != nil {
		return false
	}
	return len(r) <= 1 && len(r["mandatory"]) == 0 && (len(r) == 0 || r["mandatory"] != nil)
}

// null tells whether a cipher specification encrypts nothing.
func null(cipher string) bool {
	return cipher == "" || strings.Contains(cipher, "null") || cipher == "none"
}

func text(field []byte) string {
	before, _, _ := bytes.Cut(field, []byte{0})
	return string(before)
}
