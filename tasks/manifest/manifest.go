// Package manifest is the record of one built image: what is on the disk, at
// which place, with which digest. The build writes it as manifest.json, the
// installer and the checks read it; it holds no time and no path of the
// machine that built, so equal inputs give equal bytes.
package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// Schema is the version of the format. A reader refuses any other.
const Schema = 1

// Name is the product's, in every manifest.
const Name = "cc-base"

// Manifest describes one image.
type Manifest struct {
	Schema          int    `json:"schema"`
	Name            string `json:"name"`            // always cc-base
	Profile         string `json:"profile"`         // default, minimal, …
	Distribution    string `json:"distribution"`    // debian or ubuntu
	Suite           string `json:"suite"`           // trixie, …
	Kernel          string `json:"kernel"`          // release of the image's kernel, as uname -r prints it
	SourceDateEpoch int64  `json:"sourceDateEpoch"` // seconds since 1970, every time stamp in the image
	CommandLine     string `json:"commandLine"`     // of the UKI, exact

	// CommandLines are the exact command lines by key profile (tpm, snp,
	// attested), for a host that starts kernel and initrd itself; both are the
	// UKI's .linux and .initrd. The guest accepts these and no other. Empty in
	// the manifest of an image that has no key profiles.
	CommandLines map[string]string `json:"commandLines,omitempty"`

	Disk  Disk   `json:"disk"`
	Files []File `json:"files"` // of the installer, sorted by path
}

// DebugMark is the word of the command line that marks a debug image, one whose
// console has a root shell. It is measured like every other.
const DebugMark = "cc.debug=1"

// Debug tells whether the image is a debug image.
func (m Manifest) Debug() bool { return slices.Contains(strings.Fields(m.CommandLine), DebugMark) }

// Disk is the image as a disk.
type Disk struct {
	File        string      `json:"file"`        // name in the installer, a qcow2
	GUID        string      `json:"guid"`        // of the GPT, upper case
	SectorSize  int64       `json:"sectorSize"`  // bytes
	VirtualSize int64       `json:"virtualSize"` // bytes
	Partitions  []Partition `json:"partitions"`  // in disk order
}

// Labels returns the labels of the partitions in disk order.
func (d Disk) Labels() []string {
	var labels []string
	for _, p := range d.Partitions {
		labels = append(labels, p.Label)
	}
	return labels
}

// Partition is one entry of the GPT and what it holds.
type Partition struct {
	Number   int    `json:"number"`
	Label    string `json:"label"`
	TypeGUID string `json:"typeGUID"` // upper case
	GUID     string `json:"guid"`     // upper case
	Start    int64  `json:"start"`    // bytes from the start of the disk
	Size     int64  `json:"size"`     // bytes

	// ContentSize and SHA256 are of the bytes that the build put at Start;
	// both are zero for a partition that the guest fills (cc-dynamic).
	ContentSize int64  `json:"contentSize,omitempty"`
	SHA256      string `json:"sha256,omitempty"`

	Encrypted bool    `json:"encrypted"`
	ReadOnly  bool    `json:"readOnly"`
	Mount     string  `json:"mount,omitempty"` // in the guest
	Verity    *Verity `json:"verity,omitempty"`
}

// Verity is what dm-verity needs to open a volume. Offsets count from the
// start of the file system, that is, inside the LUKS2 volume where there is
// one.
type Verity struct {
	RootHash   string `json:"rootHash"`   // 64 lower-case hexadecimal digits
	HashOffset int64  `json:"hashOffset"` // bytes; also the size of the data
	Salt       string `json:"salt"`       // lower-case hexadecimal
}

// File is one file of the installer.
type File struct {
	Path   string `json:"path"` // relative to the installer's folder, with slashes
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// Partition returns the partition with the label.
func (d Disk) Partition(label string) (Partition, bool) {
	for _, p := range d.Partitions {
		if p.Label == label {
			return p, true
		}
	}
	return Partition{}, false
}

// Encode returns the file's bytes: indented, with a final line end.
func (m Manifest) Encode() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(m); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Read decodes and checks a manifest. It is strict: a field that this program
// does not know would be one whose promise it cannot check.
func Read(r io.Reader) (Manifest, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxSize+1))
	if err != nil {
		return Manifest{}, fmt.Errorf("manifest: %w", err)
	}
	if len(raw) > maxSize {
		return Manifest{}, fmt.Errorf("manifest: larger than %d bytes", maxSize)
	}
	var m Manifest
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&m); err != nil {
		return Manifest{}, fmt.Errorf("manifest: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Manifest{}, errors.New("manifest: data after the end")
	}
	if err := m.check(); err != nil {
		return Manifest{}, err
	}
	// encoding/json takes a key twice, in any case, and null for anything;
	// another reader of the same file would see another manifest.
	if same, err := m.Encode(); err != nil || !bytes.Equal(same, raw) {
		return Manifest{}, errors.New("manifest: not in the form that the build writes")
	}
	return m, nil
}

// maxSize bounds what Read takes into memory; a manifest has a few KiB.
const maxSize = 4 << 20

var (
	digest = regexp.MustCompile(`^[0-9a-f]{64}$`)
	guid   = regexp.MustCompile(`^[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}$`)
	salt   = regexp.MustCompile(`^([0-9a-f]{2}){1,256}$`)
	label  = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,35}$`) // a GPT name has 36 UTF-16 units
)

func (m Manifest) check() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf("manifest: "+format, args...)) }
	if m.Schema != Schema {
		fail("schema %d, this program reads %d", m.Schema, Schema)
	}
	if m.Name != Name {
		fail("name %q, expected %s", m.Name, Name)
	}
	if m.SourceDateEpoch < 0 {
		fail("source date epoch %d", m.SourceDateEpoch)
	}
	if len(m.CommandLines) > 0 && !slices.Contains(slices.Collect(maps.Values(m.CommandLines)), m.CommandLine) {
		fail("the UKI's command line is that of no key profile")
	}
	for _, profile := range slices.Sorted(maps.Keys(m.CommandLines)) {
		// The word is what makes the profile: a line under another name would
		// start the guest in a profile that nobody chose.
		var words []string
		for _, w := range strings.Split(m.CommandLines[profile], " ") {
			if strings.HasPrefix(w, "cc.keys=") {
				words = append(words, w)
			}
		}
		if !slices.Contains(profiles(), profile) || !slices.Equal(words, []string{"cc.keys=" + profile}) || strings.ContainsFunc(m.CommandLines[profile], unicode.IsControl) {
			fail("malformed command line of key profile %q", profile)
		}
	}
	if !localFile(m.Disk.File) || strings.Contains(m.Disk.File, "/") {
		fail("disk file %q", m.Disk.File)
	}
	if !guid.MatchString(m.Disk.GUID) {
		fail("disk GUID %q", m.Disk.GUID)
	}
	if m.Disk.SectorSize != sector {
		fail("sector size %d, only %d is built", m.Disk.SectorSize, sector)
	}
	if m.Disk.VirtualSize <= 0 || m.Disk.VirtualSize%sector != 0 {
		fail("disk of %d bytes", m.Disk.VirtualSize)
	}
	end := int64(0)
	seen := map[string]bool{}
	for i, p := range m.Disk.Partitions {
		if !label.MatchString(p.Label) || seen[p.Label] {
			fail("partition %q: malformed or repeated label", p.Label)
		}
		if p.Number <= 0 || (i > 0 && p.Number <= m.Disk.Partitions[i-1].Number) {
			fail("partition %s: number %d out of order", p.Label, p.Number)
		}
		if p.GUID == m.Disk.GUID || seen[p.GUID] {
			fail("partition %s: repeated GUID", p.Label)
		}
		seen[p.Label], seen[p.GUID] = true, true
		if !guid.MatchString(p.GUID) || !guid.MatchString(p.TypeGUID) {
			fail("partition %s: malformed GUID", p.Label)
		}
		if p.Start < end || p.Size <= 0 || p.Size > math.MaxInt64-max(p.Start, 0) || p.Start%sector != 0 || p.Size%sector != 0 {
			fail("partition %s: bad extent %d+%d", p.Label, p.Start, p.Size)
			continue
		}
		end = p.Start + p.Size
		if p.ContentSize < 0 || p.ContentSize > p.Size {
			fail("partition %s: content of %d bytes in %d", p.Label, p.ContentSize, p.Size)
		}
		if p.ContentSize > 0 && !digest.MatchString(p.SHA256) {
			fail("partition %s: malformed sha256", p.Label)
		}
		if p.ContentSize == 0 && p.SHA256 != "" {
			fail("partition %s: sha256 of no content", p.Label)
		}
		if v := p.Verity; v != nil && (!digest.MatchString(v.RootHash) || !salt.MatchString(v.Salt) || v.HashOffset <= 0 || v.HashOffset >= p.ContentSize) {
			fail("partition %s: malformed verity", p.Label)
		}
	}
	if end > m.Disk.VirtualSize {
		fail("partitions end at %d, the disk at %d", end, m.Disk.VirtualSize)
	}
	for i, f := range m.Files {
		if i > 0 && f.Path <= m.Files[i-1].Path {
			fail("file %q: out of order", f.Path)
		}
		if !localFile(f.Path) || !digest.MatchString(f.SHA256) || f.Size < 0 {
			fail("file %q: malformed entry", f.Path)
		}
	}
	return errors.Join(errs...)
}

// profiles are the key profiles that there are.
func profiles() []string { return []string{"tpm", "snp", "attested"} }

// sector is the only sector size that is built, in bytes.
const sector = 512

// localFile tells whether a path names a file below the folder that it is
// joined to, in its only spelling.
func localFile(p string) bool {
	return filepath.IsLocal(p) && path.Clean(p) == p && p != "." && !strings.ContainsFunc(p, unicode.IsControl)
}
