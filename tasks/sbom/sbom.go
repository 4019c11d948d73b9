// Package sbom writes bills of materials: what an image and its installer are
// made of, in CycloneDX 1.6 and in SPDX 2.3, and reads both.
//
//	bill := sbom.Bill{Name: "cc-base", Epoch: epoch, Packages: …, Programs: …, Files: …}
//	docs, err := bill.Documents() // by file name: sbom.cdx.json, sbom.spdx.json
//	list, err := sbom.Read(docs[sbom.SPDXFile])
//
// Both documents say the same in two formats; scanners for vulnerabilities and
// licences read one or the other. Equal bills give equal bytes: components are
// sorted, the time is the epoch, and what must be unique is derived from the
// content.
package sbom

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"cc-base/tasks/deb"
	"cc-base/tasks/fault"
)

// The names of the two documents.
const (
	CycloneDXFile = "sbom.cdx.json"
	SPDXFile      = "sbom.spdx.json"
)

// Bill is what the documents are made from.
type Bill struct {
	Name     string // of the product: cc-base
	Version  string // of the product; may be empty
	Epoch    int64  // time of the documents, seconds since 1970
	Packages []Package
	Programs []Program
	Files    []File
}

// Package is a package of the distribution.
type Package struct {
	deb.Package
	Distribution string      // debian or ubuntu: the namespace of its URL
	Suite        string      // trixie, …: the distro qualifier of its URL; may be empty
	In           string      // label of the volume that it is installed in; empty for one that only files are made from
	Maintainer   string      // "Name <mail>"; may be empty
	Licence      deb.Licence // zero where nothing is known
	Needs        []string    // IDs (NAME:ARCHITECTURE) of others of Bill.Packages
}

// Program is a Go program of ours: what it was linked from is read from it.
type Program struct {
	Name string // as it is named in the bill
	Path string // where to read it now; not written to the bill
	In   string // as Package.In
}

// File is a further file of the installer, made from packages that may be in no
// volume, such as firmware.
type File struct {
	Name     string // in the installer
	SHA256   string // 64 lower-case hexadecimal digits
	Firmware bool
	From     []Package
}

// Documents returns both documents by file name. A package or file with a
// malformed digest, or given twice, and a program without Go's build information
// are errors with code [fault.Bill], all at once.
func (b Bill) Documents() (map[string][]byte, error) {
	g, err := b.graph()
	if err != nil {
		return nil, err
	}
	docs := map[string][]byte{}
	for name, write := range map[string]func(Bill, graph) ([]byte, error){CycloneDXFile: cycloneDX, SPDXFile: spdx} {
		if docs[name], err = write(b, g); err != nil {
			return nil, fault.Newf(fault.Bill, "%s: %w", name, err)
		}
	}
	return docs, nil
}

// contentUUID is a UUID of version 8 made from the SHA-256 of the content, as
// RFC 9562 appendix B.2 shows; version 5 would be the same over SHA-1.
func contentUUID(content []byte) string {
	h := sha256.Sum256(content)
	u := h[:16]
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

var hexDigest = regexp.MustCompile(`^[0-9a-f]{64}$`)

func (p Package) check() error {
	var errs []error
	if p.Name == "" || p.Version == "" || p.Architecture == "" {
		errs = append(errs, fmt.Errorf("package %q %q %q: name, version and architecture are all needed", p.Name, p.Version, p.Architecture))
	}
	if p.Distribution == "" {
		errs = append(errs, fmt.Errorf("package %s: of no distribution", p.Name))
	}
	// What came from no signed index has no digest that means anything.
	if p.SHA256 != "" && !hexDigest.MatchString(p.SHA256) {
		errs = append(errs, fmt.Errorf("package %s: malformed sha256 %q", p.Name, p.SHA256))
	}
	return errors.Join(errs...)
}

// url is the package URL, with its qualifiers in alphabetical order, as the
// specification asks.
func (p Package) url() string {
	url := "pkg:deb/" + escape(strings.ToLower(p.Distribution)) + "/" + escape(strings.ToLower(p.Name)) +
		"@" + escape(p.Version) + "?arch=" + escape(p.Architecture)
	if p.Suite != "" {
		url += "&distro=" + escape(p.Suite)
	}
	return url
}

func moduleURL(path, version string) string {
	parts := strings.Split(strings.ToLower(path), "/")
	for i := range parts {
		parts[i] = escape(parts[i])
	}
	url := "pkg:golang/" + strings.Join(parts, "/")
	if version != "" {
		url += "@" + escape(version)
	}
	return url
}

// escape percent-encodes all but letters, digits, .-_~ and the colon, as the
// package URL specification (ECMA-427, section on encoding) asks.
func escape(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte(".-_~:", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
