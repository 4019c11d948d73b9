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
	"path/filepath"
	"regexp"
)

// Schema is the version of the format. A reader refuses any other.
const Schema = 1

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
	Disk            Disk   `json:"disk"`
	Files           []File `json:"files"` // of the installer, sorted by path
}

// Disk is the image as a disk.
type Disk struct {
	File        string      `json:"file"`        // name in the installer, a qcow2
	GUID        string      `json:"guid"`        // of the GPT, upper case
	SectorSize  int64       `json:"sectorSize"`  // bytes
	VirtualSize int64       `json:"virtualSize"` // bytes
	Partitions  []Partition `json:"partitions"`  // in disk order
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
	var m Manifest
	dec := json.NewDecoder(r)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&m); err != nil {
		return Manifest{}, fmt.Errorf("manifest: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Manifest{}, errors.New("manifest: data after the end")
	}
	return m, m.check()
}

var (
	digest = regexp.MustCompile(`^[0-9a-f]{64}$`)
	guid   = regexp.MustCompile(`^[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}$`)
)

func (m Manifest) check() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf("manifest: "+format, args...)) }
	if m.Schema != Schema {
		fail("schema %d, this program reads %d", m.Schema, Schema)
	}
	if !guid.MatchString(m.Disk.GUID) {
		fail("disk GUID %q", m.Disk.GUID)
	}
	if m.Disk.SectorSize != 512 {
		fail("sector size %d, only 512 is built", m.Disk.SectorSize)
	}
	end := int64(0)
	for _, p := range m.Disk.Partitions {
		if !guid.MatchString(p.GUID) || !guid.MatchString(p.TypeGUID) {
			fail("partition %s: malformed GUID", p.Label)
		}
		if p.Start < end || p.Size <= 0 || p.Start%m.sector() != 0 || p.Size%m.sector() != 0 {
			fail("partition %s: bad extent %d+%d", p.Label, p.Start, p.Size)
		}
		if p.ContentSize < 0 || p.ContentSize > p.Size {
			fail("partition %s: content of %d bytes in %d", p.Label, p.ContentSize, p.Size)
		}
		if p.ContentSize > 0 && !digest.MatchString(p.SHA256) {
			fail("partition %s: malformed sha256", p.Label)
		}
		if p.Verity != nil && (!digest.MatchString(p.Verity.RootHash) || p.Verity.HashOffset <= 0) {
			fail("partition %s: malformed verity", p.Label)
		}
		end = p.Start + p.Size
	}
	if end > m.Disk.VirtualSize {
		fail("partitions end at %d, the disk at %d", end, m.Disk.VirtualSize)
	}
	for _, f := range m.Files {
		if !filepath.IsLocal(f.Path) || !digest.MatchString(f.SHA256) || f.Size < 0 {
			fail("file %q: malformed entry", f.Path)
		}
	}
	return errors.Join(errs...)
}

func (m Manifest) sector() int64 {
	if m.Disk.SectorSize > 0 {
		return m.Disk.SectorSize
	}
	return 512
}
