// Package layout reads, compares and writes the partition table. The table of
// an installed disk is that of the image, GUID for GUID, with two differences:
// the last partition is stretched and the backup header stands at the end of
// the device. It is written once, by the installer; the guest never changes
// it, because firmware measures it.
package layout

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/partition/gpt"

	"cc-base/tasks/manifest"
)

// Sector is the only sector size that images have, in bytes.
const Sector = 512

// Align is the unit in which partitions begin and end, in bytes.
const Align = 1 << 20

// ReadOnly is the attribute of an entry that is not to be written to (bit 60,
// the one that systemd and sgdisk know).
const ReadOnly = 1 << 60

const (
	entries    = 128
	entrySize  = 128
	tableBytes = entries * entrySize
)

// ErrNone is returned for a disk without a GUID partition table.
var ErrNone = errors.New("there is no GUID partition table")

// Entry is one partition.
type Entry struct {
	Number     int
	Label      string
	TypeGUID   string // upper case
	GUID       string // upper case
	Start      int64  // bytes
	Size       int64  // bytes
	Attributes uint64
}

// Table is a partition table. Problems are findings that do not keep it from
// being read, such as a backup that differs.
type Table struct {
	GUID     string // upper case
	Entries  []Entry
	Problems []string
}

// Read reads the table of a disk of size bytes.
func Read(disk io.ReaderAt, size int64) (Table, error) {
	if size < 2*(tableBytes+2*Sector) {
		return Table{}, ErrNone
	}
	primary, err := sane(disk, Sector)
	if err != nil {
		return Table{}, fmt.Errorf("primary header: %w", err)
	}
	backup, err := sane(disk, size-Sector)
	if err != nil {
		return Table{}, fmt.Errorf("backup header: %w", err)
	}
	if !primary && !backup {
		return Table{}, ErrNone
	}
	raw, err := gpt.Read(file{io.NewSectionReader(disk, 0, size)}, Sector, Sector)
	if err != nil {
		return Table{}, fmt.Errorf("partition table: %w", err)
	}
	t := Table{GUID: strings.ToUpper(raw.GUID)}
	for _, p := range raw.Partitions {
		t.Entries = append(t.Entries, Entry{
			Number: p.Index, Label: p.Name, TypeGUID: strings.ToUpper(string(p.Type)), GUID: strings.ToUpper(p.GUID),
			Start: int64(p.Start) * Sector, Size: int64(p.Size), Attributes: p.Attributes,
		})
	}
	if raw.RecoveredFromBackup {
		t.Problems = append(t.Problems, "the primary table is damaged, the backup was read")
		return t, nil
	}
	if err := raw.Verify(file{io.NewSectionReader(disk, 0, size)}, uint64(size)); err != nil {
		t.Problems = append(t.Problems, "the backup table is not valid: "+err.Error())
		return t, nil
	}
	if same, err := equal(disk, 2*Sector, size-Sector-tableBytes, tableBytes); err != nil {
		return Table{}, err
	} else if !same {
		t.Problems = append(t.Problems, "the backup table differs from the primary one")
	}
	return t, nil
}

// sane tells whether there is a header at off, and fails for one whose counts
// are unusual: go-diskfs allocates what they say.
func sane(disk io.ReaderAt, off int64) (bool, error) {
	var h [92]byte
	if _, err := disk.ReadAt(h[:], off); err != nil {
		return false, err
	}
	if !bytes.Equal(h[:8], []byte("EFI PART")) {
		return false, nil
	}
	if n, each := binary.LittleEndian.Uint32(h[80:]), binary.LittleEndian.Uint32(h[84:]); n != entries || each != entrySize {
		return false, fmt.Errorf("%d entries of %d bytes, only %d of %d are read", n, each, entries, entrySize)
	}
	return true, nil
}

func equal(disk io.ReaderAt, a, b, n int64) (bool, error) {
	one, two := make([]byte, n), make([]byte, n)
	_, errA := disk.ReadAt(one, a)
	_, errB := disk.ReadAt(two, b)
	return bytes.Equal(one, two), errors.Join(errA, errB)
}

// Final returns the table for a device of size bytes: the image's, with the
// last partition stretched to the last whole MiB before the backup table.
func Final(image Table, size int64) (Table, error) {
	if len(image.Entries) == 0 {
		return Table{}, errors.New("the image has no partitions")
	}
	t := Table{GUID: image.GUID, Entries: append([]Entry(nil), image.Entries...)}
	last := &t.Entries[len(t.Entries)-1]
	limit := size - Sector - tableBytes
	if last.Start+last.Size > limit {
		return Table{}, fmt.Errorf("a device of %d bytes is too small for the image", size)
	}
	last.Size = max(last.Size, limit/Align*Align-last.Start)
	return t, nil
}

// Write writes t with both headers to a device of size bytes. The caller has
// made sure that nothing else uses it.
func (t Table) Write(disk backend.WritableFile, size int64) error {
	out := gpt.Table{GUID: t.GUID, ProtectiveMBR: true, LogicalSectorSize: Sector, PhysicalSectorSize: Sector}
	for _, e := range t.Entries {
		out.Partitions = append(out.Partitions, &gpt.Partition{
			Index: e.Number, Name: e.Label, Type: gpt.Type(e.TypeGUID), GUID: e.GUID, Attributes: e.Attributes,
			Start: uint64(e.Start / Sector), End: uint64((e.Start+e.Size)/Sector) - 1, Size: uint64(e.Size),
		})
	}
	if err := out.Write(disk, size); err != nil {
		return err
	}
	if sectors := size/Sector - 1; sectors > 0xffffffff {
		// go-diskfs cuts the number off; the UEFI specification (5.2.3) wants
		// all ones where the disk has more sectors than the field can say.
		if _, err := disk.WriteAt([]byte{0xff, 0xff, 0xff, 0xff}, 446+12); err != nil {
			return err
		}
	}
	return nil
}

// Compare returns every difference between t and what it should be.
func (t Table) Compare(want Table) []string {
	diffs := append([]string(nil), t.Problems...)
	if t.GUID != want.GUID {
		diffs = append(diffs, fmt.Sprintf("disk GUID is %s, not %s", t.GUID, want.GUID))
	}
	if len(t.Entries) != len(want.Entries) {
		diffs = append(diffs, fmt.Sprintf("%d partitions, not %d", len(t.Entries), len(want.Entries)))
	}
	for i := range min(len(t.Entries), len(want.Entries)) {
		if t.Entries[i] != want.Entries[i] {
			diffs = append(diffs, fmt.Sprintf("partition %d is %s, not %s", i+1, t.Entries[i], want.Entries[i]))
		}
	}
	return diffs
}

// String returns the entry in one line.
func (e Entry) String() string {
	return fmt.Sprintf("%d %s at %d+%d, %s of type %s, attributes %#x", e.Number, e.Label, e.Start, e.Size, e.GUID, e.TypeGUID, e.Attributes)
}

// AgainstManifest returns every difference between the table of an image and
// its manifest.
func (t Table) AgainstManifest(d manifest.Disk) []string {
	want := Table{GUID: d.GUID}
	for i, p := range d.Partitions {
		e := Entry{Number: p.Number, Label: p.Label, TypeGUID: p.TypeGUID, GUID: p.GUID, Start: p.Start, Size: p.Size}
		if i < len(t.Entries) {
			e.Attributes = t.Entries[i].Attributes // the manifest does not hold them
		}
		want.Entries = append(want.Entries, e)
	}
	return t.Compare(want)
}

// file makes an [io.ReaderAt] what go-diskfs reads from.
type file struct{ *io.SectionReader }

func (file) Stat() (fs.FileInfo, error) { return nil, errors.ErrUnsupported }
func (file) Close() error               { return nil }
