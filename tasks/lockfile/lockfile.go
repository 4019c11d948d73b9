// Package lockfile keeps the list of packages that a build may install:
// config/packages.lock.
//
// The file is stanzas as Debian's indexes have them (deb822(5)). The first
// names the format, then each section has one that says where its packages come
// from, then each package has one with its digest and the sections that it is
// in:
//
//	Format: 1
//
//	Section: tools
//	From: debian trixie main
//
//	Package: libc6
//	Version: 2.41-12+deb13u1
//	Architecture: amd64
//	Filename: pool/main/g/glibc/libc6_2.41-12+deb13u1_amd64.deb
//	Size: 2848148
//	SHA256: …
//	Section: image image/minimal tools
//
// A section is exactly what one tree gets, and not a store that several pick
// from: only so can a package that is missing be told from one that nobody
// wants.
package lockfile

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"cc-base/tasks/deb"
)

// format is the version that this package reads and writes.
const format = "1"

// Lock is a lock.
type Lock struct {
	Sections []Section
}

// Section is the packages of one tree.
type Section struct {
	Name     string        // tools, image, image/minimal, firmware
	From     string        // distribution, suite and components
	Packages []deb.Package // without Source, which says nothing that the digest does not
}

// Section returns the section called name and whether there is one.
func (l Lock) Section(name string) (Section, bool) {
	for _, s := range l.Sections {
		if s.Name == name {
			return s, true
		}
	}
	return Section{}, false
}

// Encode returns the lock as a file. The order of sections and packages does
// not matter: the same packages give the same bytes.
func (l Lock) Encode() []byte {
	var b bytes.Buffer
	b.WriteString("# The packages that a build with LOCKED=yes installs. `mage lock` writes this file.\nFormat: " + format + "\n")
	in := map[deb.Package][]string{}
	sections := slices.SortedFunc(slices.Values(l.Sections), func(a, b Section) int { return strings.Compare(a.Name, b.Name) })
	for _, s := range sections {
		fmt.Fprintf(&b, "\nSection: %s\nFrom: %s\n", s.Name, s.From)
		for _, p := range s.Packages {
			p.Source = ""
			in[p] = append(in[p], s.Name)
		}
	}
	for _, p := range slices.SortedFunc(maps.Keys(in), order) {
		fmt.Fprintf(&b, "\nPackage: %s\nVersion: %s\nArchitecture: %s\nFilename: %s\nSize: %d\nSHA256: %s\nSection: %s\n",
			p.Name, p.Version, p.Architecture, p.Filename, p.Size, p.SHA256, strings.Join(in[p], " "))
	}
	return b.Bytes()
}

// order is that of packages in the file; two with the same name, architecture,
// version and digest are the same package.
func order(a, b deb.Package) int {
	return cmp.Or(
		strings.Compare(a.Name, b.Name), strings.Compare(a.Architecture, b.Architecture),
		strings.Compare(a.Version, b.Version), strings.Compare(a.SHA256, b.SHA256),
		strings.Compare(a.Filename, b.Filename), cmp.Compare(a.Size, b.Size))
}
