// Package header reads, judges, authenticates and writes the header of a LUKS2
// volume. Who can write to the disk can write the header, so it is hostile
// input: it is read into memory once, everything is decided on that copy, and
// cryptsetup gets the copy, never the disk (CVE-2025-59054 and CVE-2025-58356
// are why the cipher of every part is looked at).
//
//	c, err := header.Read(partition)
//	if err == nil {
//		err = c.Check(rules)
//	}
//	… os.WriteFile("/run/cc/header", c.Bytes(), 0o600)
//	… cryptsetup open --header /run/cc/header /dev/vda2 cc-root
//
// A header that passes Check is one that cc-base could have written. That it is
// the one that it did write is for [Copy.MAC] to show, and nothing here can
// show that it is the latest one.
//
// The format is that of the LUKS2 On-Disk Format Specification 1.1.x; where it
// leaves a choice, cryptsetup 2.7.5 decides.
package header

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"cc-base/tasks/fault"
)

// Size is what a header takes before the data, in bytes: two copies of the
// metadata and the keyslot area (cryptsetup's default, seal.HeaderSize).
const Size = 16 << 20

// Fields of the binary header, in bytes from its start (specification, 2.1).
const (
	atVersion   = 6
	atSize      = 8
	atSeqID     = 16
	atLabel     = 24
	atAlgorithm = 72
	atSalt      = 104
	atUUID      = 168
	atSubsystem = 208
	atOffset    = 256
	atPadding   = 264
	atChecksum  = 448
	atRest      = 512

	binarySize = 4096     // JSON follows
	minCopy    = 16 << 10 // binary header with JSON; a power of two
	maxCopy    = 4 << 20
)

// Copy is one reading of a header: its metadata, in two places, and the keyslot
// area. It does not change.
type Copy struct {
	area     []byte // as it was read
	chosen   *record
	whole    [2]bool // which place holds the chosen metadata
	damage   error
	meta     Metadata
	findings []error // of reading meta, for Check
}

// record is the metadata in one of the two places.
type record struct {
	block []byte // binary header and JSON
	seqID uint64
	uuid  string
	top   top
}

var errNoMagic = errors.New("there is no LUKS2 header")

// IsLUKS tells whether a volume begins like a LUKS volume of any version.
func IsLUKS(start []byte) bool { return bytes.HasPrefix(start, []byte(magic(0))) }

func magic(at int) string {
	if at == 0 {
		return "LUKS\xba\xbe"
	}
	return "SKUL\xba\xbe"
}

// Read reads the first [Size] bytes of a volume, or what there is of them, each
// byte once, and parses them.
func Read(r io.ReaderAt) (*Copy, error) {
	area := make([]byte, Size)
	n, err := io.ReadFull(io.NewSectionReader(r, 0, Size), area)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, fault.New(fault.HeaderUnreadable, err)
	}
	return Parse(area[:n:n])
}

// Parse takes area, which must not change any more, for a header. Of the two
// copies of the metadata the valid one with the higher sequence number counts,
// as for cryptsetup: a write that was cut off leaves one torn or older. Copies
// that cannot come from such a cut are refused: two volumes, or two stories
// with the same number. Every error has the code [fault.HeaderUnreadable].
func Parse(area []byte) (*Copy, error) { return parseArea(area, false) }

// parseArea is Parse, or the same with the lower sequence number counting.
func parseArea(area []byte, earlier bool) (*Copy, error) {
	first, err1 := parseRecord(area, 0)
	second, err2 := secondRecord(area, first)
	c := &Copy{area: area}
	other := "older"
	if earlier {
		other = "newer"
	}
	switch {
	case first == nil && second == nil:
		return nil, fault.Newf(fault.HeaderUnreadable, "first copy: %w; second copy: %w", err1, err2)
	case second == nil:
		c.chosen, c.whole[0], c.damage = first, true, fmt.Errorf("second copy: %w", err2)
	case first == nil:
		c.chosen, c.whole[1], c.damage = second, true, fmt.Errorf("first copy: %w", err1)
	case first.uuid != second.uuid:
		return nil, fault.Newf(fault.HeaderUnreadable, "the two copies are of different volumes")
	case first.same(second):
		c.chosen, c.whole = first, [2]bool{true, true}
	case first.seqID == second.seqID:
		return nil, fault.Newf(fault.HeaderUnreadable, "the two copies differ and have the same sequence number %d", first.seqID)
	case (first.seqID > second.seqID) != earlier:
		c.chosen, c.whole[0], c.damage = first, true, errors.New("the second copy is "+other)
	default:
		c.chosen, c.whole[1], c.damage = second, true, errors.New("the first copy is "+other)
	}
	if len(area) < 2*len(c.chosen.block) {
		return nil, fault.Newf(fault.HeaderUnreadable, "there is no room for a second copy in %d bytes", len(area))
	}
	c.meta, c.findings = c.chosen.top.typed()
	return c, nil
}

// secondRecord looks for the second copy where the first one ends. Without a
// first one its size is not known, and every size is tried.
func secondRecord(area []byte, first *record) (*record, error) {
	if first != nil {
		return parseRecord(area, len(first.block))
	}
	found := errNoMagic
	for at := minCopy; at <= maxCopy; at *= 2 {
		r, err := parseRecord(area, at)
		if err == nil {
			return r, nil
		}
		if errors.Is(found, errNoMagic) {
			found = err
		}
	}
	return nil, found
}

// parseRecord reads the copy of the metadata at the place, which is 0 or the
// size of a copy.
func parseRecord(area []byte, at int) (*record, error) {
	if len(area) < at+binarySize {
		return nil, errNoMagic
	}
	b := area[at:]
	if string(b[:atVersion]) != magic(at) {
		return nil, errNoMagic
	}
	size := binary.BigEndian.Uint64(b[atSize:])
	switch v := binary.BigEndian.Uint16(b[atVersion:]); {
	case v != 2:
		return nil, fmt.Errorf("version %d, not 2", v)
	case size < minCopy || size > maxCopy || size&(size-1) != 0:
		return nil, fmt.Errorf("metadata of %d bytes", size)
	case at != 0 && size != uint64(at) || binary.BigEndian.Uint64(b[atOffset:]) != uint64(at):
		return nil, errors.New("it was written for another place")
	case uint64(len(b)) < size:
		return nil, errors.New("it is cut off")
	}
	b = b[:size:size]
	if err := checksum(b); err != nil {
		return nil, err
	}
	if !zero(b[atPadding:atChecksum]) || !zero(b[atRest:binarySize]) {
		return nil, errors.New("its padding is not empty")
	}
	for _, field := range [][]byte{b[atLabel:atAlgorithm], b[atSubsystem:atOffset]} {
		if _, ok := text(field); !ok {
			return nil, errors.New("its label or subsystem is not printable text")
		}
	}
	uuid, ok := text(b[atUUID:atSubsystem])
	if !ok || !isUUID(uuid) {
		return nil, errors.New("its UUID is malformed")
	}
	t, err := parseJSON(b[binarySize:])
	if err != nil {
		return nil, fmt.Errorf("JSON: %w", err)
	}
	return &record{block: b, seqID: binary.BigEndian.Uint64(b[atSeqID:]), uuid: uuid, top: t}, nil
}

// checksum verifies a copy with the only algorithm that cryptsetup writes.
func checksum(b []byte) error {
	if name, ok := text(b[atAlgorithm:atSalt]); !ok || name != "sha256" {
		return errors.New("its checksum algorithm is not sha256")
	}
	sum := sum(b)
	if !bytes.Equal(sum[:], b[atChecksum:atChecksum+len(sum)]) || !zero(b[atChecksum+len(sum):atRest]) {
		return errors.New("its checksum is wrong")
	}
	return nil
}

// sum hashes a copy with the field of the checksum as zeros.
func sum(b []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write(b[:atChecksum])
	h.Write(make([]byte, atRest-atChecksum))
	h.Write(b[atRest:])
	return [sha256.Size]byte(h.Sum(nil))
}

// same tells whether two copies say the same: what depends on the place, and
// the salt, which only makes the bytes unlike, may differ.
func (r *record) same(o *record) bool {
	a, b := r.block, o.block
	return len(a) == len(b) && bytes.Equal(a[atVersion:atSalt], b[atVersion:atSalt]) &&
		bytes.Equal(a[atUUID:atOffset], b[atUUID:atOffset]) && bytes.Equal(a[atRest:], b[atRest:])
}

// at returns the record as it is written at a place. The salt stays: it is for
// nothing but a different checksum, and the place makes that different already.
func (r *record) at(place int) []byte {
	b := bytes.Clone(r.block)
	copy(b, magic(place))
	binary.BigEndian.PutUint64(b[atOffset:], uint64(place))
	sum := sum(b)
	copy(b[atChecksum:], sum[:])
	return b
}

// Bytes returns the whole area for a file that is given to cryptsetup as
// --header: both copies of the metadata are the one that was judged.
func (c *Copy) Bytes() []byte {
	out := bytes.Clone(c.area)
	for i, whole := range c.whole {
		if at := i * len(c.chosen.block); !whole {
			copy(out[at:], c.chosen.at(at))
		}
	}
	return out
}

// Damage says what is wrong with the copy of the metadata that was not chosen;
// nil means that both are whole and agree. [Store] with the same header before
// and after repairs it.
func (c *Copy) Damage() error { return c.damage }

// UUID returns the volume's UUID as the header spells it.
func (c *Copy) UUID() string { return c.chosen.uuid }

// SeqID returns the sequence number, which rises with every change.
func (c *Copy) SeqID() uint64 { return c.chosen.seqID }

// Metadata returns what the header says. It is shared and must not be changed.
// What could not be read is left out or zero, and found by [Copy.Check].
func (c *Copy) Metadata() Metadata { return c.meta }

// text returns a field that ends with a NUL, is printable ASCII before and
// empty after it.
func text(field []byte) (string, bool) {
	before, after, ok := bytes.Cut(field, []byte{0})
	for _, ch := range before {
		ok = ok && ch >= ' ' && ch <= '~'
	}
	return string(before), ok && zero(after)
}

func isUUID(s string) bool {
	for i, ch := range []byte(s) {
		switch dash := i == 8 || i == 13 || i == 18 || i == 23; {
		case dash && ch != '-':
			return false
		case !dash && (ch < '0' || ch > '9') && (ch < 'a' || ch > 'f') && (ch < 'A' || ch > 'F'):
			return false
		}
	}
	return len(s) == 36
}

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }
