package firmware

import (
	"encoding/json"
	"fmt"
	"os"

	"cc-base/tasks/bundle"
)

// Schema is the version of the report's format.
const Schema = 1

// Report is what was got and what was not: firmware.json.
type Report struct {
	Schema  int       `json:"schema"`
	Images  []Got     `json:"images"`
	Missing []Missing `json:"missing"`
}

// Got is an image and where it is from.
type Got struct {
	File    string  `json:"file"`
	SHA256  string  `json:"sha256"` // 64 lower-case hexadecimal digits
	Size    int64   `json:"size"`   // bytes
	Package Package `json:"package"`
	From    string  `json:"from"` // FromLock or a suite
	// Suite is the one that the package was found in; nil where the lock named
	// the package.
	Suite *Suite `json:"suite,omitempty"`
}

// FromLock is the value of From for a package that the lock names.
const FromLock = "the lock"

// Package is the package that has an image.
type Package struct {
	Name     string `json:"name"`
	Version  string `json:"version"`
	Source   string `json:"source,omitempty"`
	Filename string `json:"filename"` // in the archive
	SHA256   string `json:"sha256"`
	Size     int64  `json:"size"` // bytes
}

func (p Package) bundle() bundle.Package {
	return bundle.Package{Name: p.Name, Version: p.Version, Architecture: "all", Source: p.Source, Filename: p.Filename, SHA256: p.SHA256, Size: p.Size}
}

// Suite is the state of a suite when a package was taken from it.
type Suite struct {
	Name    string `json:"name"`
	Date    string `json:"date"`    // RFC 3339
	Expired bool   `json:"expired"` // its Valid-Until was over
}

// Missing is an image that could not be had.
type Missing struct {
	File    string `json:"file"`
	Package string `json:"package"`
	Reason  Reason `json:"reason"`
	Meaning string `json:"meaning"` // for people
}

// Image returns what is known of a file that is there.
func (r Report) Image(file string) (Got, bool) {
	for _, g := range r.Images {
		if g.File == file {
			return g, true
		}
	}
	return Got{}, false
}

// Encode returns the report as firmware.json.
func (r Report) Encode() ([]byte, error) {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(data, '\n'), nil
}

// ReadReport reads firmware.json.
func ReadReport(file string) (Report, error) {
	var r Report
	data, err := os.ReadFile(file)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("%s: %w", file, err)
	}
	if r.Schema != Schema {
		return r, fmt.Errorf("%s: schema %d, want %d", file, r.Schema, Schema)
	}
	return r, nil
}

// Off is the report of a build that was asked for none of the images.
func Off(images ...Image) Report {
	r := Report{Schema: Schema, Images: []Got{}, Missing: []Missing{}}
	for _, i := range images {
		r.Missing = append(r.Missing, Missing{File: i.File, Package: i.Package, Reason: NotWanted, Meaning: NotWanted.Meaning()})
	}
	return r
}

// Reason is why an image could not be had.
type Reason string

// The reasons.
const (
	NotWanted    Reason = "not-wanted"
	NoMirror     Reason = "no-mirror"
	NoKeyring    Reason = "no-keyring"
	Unreachable  Reason = "unreachable"
	NoSuite      Reason = "no-suite"
	NotSigned    Reason = "not-signed"
	NoPackage    Reason = "no-package"
	WrongContent Reason = "wrong-content"
	Vanished     Reason = "vanished"
	Unusable     Reason = "unusable"
	NotLocked    Reason = "not-locked"
)

// Meaning is the reason in words.
func (r Reason) Meaning() string {
	switch r {
	case NotWanted:
		return "the settings do not ask for it"
	case NoMirror:
		return "no mirror of Debian is known that answers over http or https"
	case NoKeyring:
		return "the archive's public keys are not there"
	case Unreachable:
		return "the mirror does not answer"
	case NoSuite:
		return "the mirror has no suite that has it"
	case NotSigned:
		return "the suite's signature does not verify"
	case NoPackage:
		return "no suite has its package"
	case WrongContent:
		return "the mirror has other bytes than the signed index names"
	case Vanished:
		return "the mirror does not have the pinned version any more"
	case Unusable:
		return "its package does not hold firmware that a confidential guest can be started with"
	case NotLocked:
		return "the lock does not name its package, and LOCKED=yes takes no other"
	}
	return "unknown"
}

// unavailable says why an image cannot be had.
type unavailable struct {
	reason Reason
	err    error // may be nil
}

func no(reason Reason, err error) error { return &unavailable{reason, err} }

func (u *unavailable) Error() string {
	if u.err == nil {
		return u.reason.Meaning()
	}
	return u.reason.Meaning() + ": " + u.err.Error()
}
