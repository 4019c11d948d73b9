package image

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"cc-base/tasks/fault"
	"cc-base/tasks/layout"
	"cc-base/tasks/manifest"
	"cc-base/tasks/seal/header"
)

// Info is what an image holds.
type Info struct {
	File        string      `json:"file"`
	Format      string      `json:"format"`      // raw or qcow2
	VirtualSize int64       `json:"virtualSize"` // bytes, of the disk that a machine sees
	DiskSize    int64       `json:"diskSize"`    // bytes that the file takes
	Dirty       bool        `json:"dirty"`       // not cleanly closed
	Corrupt     bool        `json:"corrupt"`     // QEMU has met damaged metadata
	Snapshots   []State     `json:"snapshots"`
	Partitions  []Partition `json:"partitions"`
	Problems    []string    `json:"problems"` // of the partition table
}

// State is one snapshot.
type State struct {
	Name string    `json:"name"`
	Made time.Time `json:"made"`
}

// Partition is one partition and what was found at its start.
type Partition struct {
	Number int    `json:"number"`
	Label  string `json:"label"`
	Start  int64  `json:"start"` // bytes
	Size   int64  `json:"size"`  // bytes
	Holds  string `json:"holds"` // LUKS2, FAT, erofs, ext4, empty or unknown

	// The rest is the manifest's word for the partition, where the image is
	// the one that it describes.
	Mount       string `json:"mount,omitempty"`
	Verity      bool   `json:"verity,omitempty"`
	ContentSize int64  `json:"contentSize,omitempty"` // bytes, as built
}

// Inspect looks at an image, also at one in use. The manifest says more of the
// partitions of the disk that it describes; nil is none.
func (e Editor) Inspect(ctx context.Context, file string, m *manifest.Manifest) (Info, error) {
	s, err := open(file)
	if err != nil {
		return Info{}, err
	}
	d, err := e.inspect(ctx, s, true)
	if err != nil {
		return Info{}, err
	}
	i := Info{
		File: s.path, Format: s.format, VirtualSize: d.Size, DiskSize: d.Allocated, Dirty: d.Dirty, Corrupt: d.corrupt,
		Snapshots: []State{}, Partitions: []Partition{}, Problems: []string{},
	}
	for _, x := range d.Snapshots {
		i.Snapshots = append(i.Snapshots, State{Name: x.Name, Made: x.made()})
	}
	t, _, err := e.table(ctx, d, true)
	switch {
	case errors.Is(err, layout.ErrNone):
		i.Problems = append(i.Problems, err.Error())
		return i, nil
	case fault.Of(err) != nil:
		return i, err
	case err != nil: // the table's own fault
		i.Problems = append(i.Problems, err.Error())
		return i, nil
	}
	i.Problems = append(i.Problems, t.Problems...)
	known := map[string]manifest.Partition{}
	if m != nil && m.Disk.GUID == t.GUID {
		for _, p := range m.Disk.Partitions {
			known[p.GUID] = p
		}
	}
	if i.Partitions, err = e.partitions(ctx, d, t, known); err != nil {
		return i, err
	}
	return i, nil
}

// sniffed is how much of a partition tells what it holds, in bytes: the
// superblocks of erofs and ext4 lie in it, one KiB from its start.
const sniffed = 4 * layout.Sector

func (e Editor) partitions(ctx context.Context, d disk, t layout.Table, known map[string]manifest.Partition) ([]Partition, error) {
	starts := make([]extent, len(t.Entries))
	var there []extent
	for i, p := range t.Entries {
		if p.Start >= 0 && p.Size >= sniffed && p.Start <= d.Size-sniffed {
			starts[i] = blank(p.Start, sniffed)
			there = append(there, starts[i])
		}
	}
	if len(there) > 0 {
		if err := e.read(ctx, d, true, there...); err != nil {
			return nil, err
		}
	}
	all := []Partition{}
	for i, p := range t.Entries {
		k := known[p.GUID]
		all = append(all, Partition{
			Number: p.Number, Label: p.Label, Start: p.Start, Size: p.Size, Holds: holds(starts[i]),
			Mount: k.Mount, Verity: k.Verity != nil, ContentSize: k.ContentSize,
		})
	}
	return all, nil
}

// holds names what begins there, by the magic numbers of LUKS, FAT (its
// specification's file system type), erofs and ext4.
func holds(start extent) string {
	b := start.data
	switch {
	case len(b) < sniffed:
		return "unknown"
	case header.IsLUKS(b):
		return "LUKS2"
	case b[510] == 0x55 && b[511] == 0xaa && (string(b[82:87]) == "FAT32" || string(b[54:57]) == "FAT"):
		return "FAT"
	case binary.LittleEndian.Uint32(b[1024:]) == 0xe0f5e1e2:
		return "erofs"
	case binary.LittleEndian.Uint16(b[1080:]) == 0xef53:
		return "ext4"
	case start.empty():
		return "empty"
	}
	return "unknown"
}

// Write prints the information as a table, or as JSON.
func (i Info) Write(w io.Writer, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(i)
	}
	fmt.Fprintf(w, "%s: %s, a disk of %s (%d bytes), takes %s\n", i.File, i.Format, Bytes(i.VirtualSize), i.VirtualSize, Bytes(i.DiskSize))
	if i.Dirty || i.Corrupt {
		fmt.Fprintf(w, "marked as %s\n", flags(disk{Dirty: i.Dirty, corrupt: i.Corrupt}))
	}
	for _, p := range i.Problems {
		fmt.Fprintf(w, "partition table: %s\n", printable(p))
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(i.Partitions) > 0 {
		fmt.Fprintln(t, "partition\tlabel\tat\tsize\tholds")
	}
	for _, p := range i.Partitions {
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\n", p.Number, printable(p.Label), Bytes(p.Start), Bytes(p.Size), p.content())
	}
	if err := t.Flush(); err != nil {
		return err
	}
	var states []rawSnapshot
	for _, s := range i.Snapshots {
		states = append(states, rawSnapshot{Name: s.Name, Seconds: s.Made.Unix()})
	}
	return writeSnapshots(w, states)
}

// content is what the partition holds, in one line.
func (p Partition) content() string {
	text := p.Holds
	if p.ContentSize > 0 {
		text += ", " + Bytes(p.ContentSize)
	}
	if p.Verity {
		text += ", verity"
	}
	if p.Mount != "" {
		text += ", at " + printable(p.Mount)
	}
	return text
}

// printable is a word of an image for a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, text)
}
