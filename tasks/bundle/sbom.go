package bundle

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"cc-base/tasks/digest"
	"cc-base/tasks/manifest"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// Package is one package of the distribution that went into the image.
type Package struct {
	Name         string // binary package
	Version      string // as the distribution writes it, with epoch and revision
	Architecture string // amd64, all
	Source       string // source package, or empty where it has the same name
	SHA256       string // of the .deb, 64 lower-case hexadecimal digits
	Size         int64  // of the .deb, bytes
	Filename     string // in the archive, relative to its root; may be empty
}

// Binary is a Go program of ours that is in the image or the installer.
type Binary struct {
	Name string // as it is named in the bill
	Path string // where to read it now; not written to the bill
}

// Bill is what a bill of materials is made from.
type Bill struct {
	Name         string // of the product: cc-base
	Version      string // of the product; may be empty
	Epoch        int64  // time of the bill, seconds since 1970
	Distribution string // debian or ubuntu: the namespace of the packages' URLs
	Suite        string // trixie, …: their distro qualifier
	Packages     []Package
	Binaries     []Binary
	Files        []manifest.File // further files with their digests; may be empty
}

var hexDigest = regexp.MustCompile(`^[0-9a-f]{64}$`)

// SBOM returns the bill of materials as CycloneDX 1.6 JSON. It is
// deterministic: components are sorted, the time is the epoch, and the serial
// number is derived from the content, not drawn.
//
// A package without a well-formed digest, or given twice, and a binary without
// Go build information are errors.
func SBOM(b Bill) ([]byte, error) {
	w := &billWriter{seen: map[string]bool{}}
	for _, p := range b.Packages {
		w.pkg(b, p)
	}
	for _, bin := range b.Binaries {
		w.binary(bin)
	}
	for _, f := range b.Files {
		w.file(f)
	}
	if b.Name == "" {
		w.fail("the product has no name")
	}
	if len(w.errs) > 0 {
		return nil, errors.Join(w.errs...)
	}
	byRef := func(a, b cdx.Component) int { return strings.Compare(a.BOMRef, b.BOMRef) }
	slices.SortFunc(w.components, byRef)
	slices.SortFunc(w.dependencies, func(a, b cdx.Dependency) int { return strings.Compare(a.Ref, b.Ref) })

	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{
		Timestamp: time.Unix(b.Epoch, 0).UTC().Format(time.RFC3339),
		Component: &cdx.Component{BOMRef: "product:" + b.Name, Type: cdx.ComponentTypeOS, Name: b.Name, Version: b.Version},
	}
	bom.Components = &w.components
	bom.Dependencies = &w.dependencies
	draft, err := encodeBill(bom)
	if err != nil {
		return nil, err
	}
	bom.SerialNumber = "urn:uuid:" + contentUUID(draft)
	return encodeBill(bom)
}

func encodeBill(bom *cdx.BOM) ([]byte, error) {
	var b bytes.Buffer
	enc := cdx.NewBOMEncoder(&b, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false)
	if err := enc.EncodeVersion(bom, cdx.SpecVersion1_6); err != nil {
		return nil, fmt.Errorf("sbom: %w", err)
	}
	return b.Bytes(), nil
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

type billWriter struct {
	components   []cdx.Component
	dependencies []cdx.Dependency
	seen         map[string]bool // references
	errs         []error
}

func (w *billWriter) fail(format string, args ...any) {
	w.errs = append(w.errs, fmt.Errorf("sbom: "+format, args...))
}

func (w *billWriter) add(c cdx.Component) bool {
	if w.seen[c.BOMRef] {
		return false
	}
	w.seen[c.BOMRef] = true
	w.components = append(w.components, c)
	return true
}

func sha256Hash(digest string) *[]cdx.Hash {
	return &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: digest}}
}

func (w *billWriter) pkg(b Bill, p Package) {
	if p.Name == "" || p.Version == "" || p.Architecture == "" {
		w.fail("package %q %q %q: name, version and architecture are all needed", p.Name, p.Version, p.Architecture)
		return
	}
	if !hexDigest.MatchString(p.SHA256) {
		w.fail("package %s: malformed sha256 %q", p.Name, p.SHA256)
		return
	}
	// Qualifiers in alphabetical order, as the package URL specification asks.
	purl := "pkg:deb/" + escapePURL(strings.ToLower(b.Distribution)) + "/" + escapePURL(strings.ToLower(p.Name)) +
		"@" + escapePURL(p.Version) + "?arch=" + escapePURL(p.Architecture)
	if b.Suite != "" {
		purl += "&distro=" + escapePURL(b.Suite)
	}
	var props []cdx.Property
	add := func(name, value string) {
		if value != "" {
			props = append(props, cdx.Property{Name: "cc-base:deb:" + name, Value: value})
		}
	}
	add("filename", p.Filename)
	if p.Size > 0 {
		add("size", strconv.FormatInt(p.Size, 10))
	}
	add("source", p.Source)
	c := cdx.Component{
		BOMRef: purl, Type: cdx.ComponentTypeLibrary, Name: p.Name, Version: p.Version,
		PackageURL: purl, Hashes: sha256Hash(p.SHA256),
	}
	if len(props) > 0 {
		c.Properties = &props
	}
	if !w.add(c) {
		w.fail("package %s %s %s: given twice", p.Name, p.Version, p.Architecture)
	}
}

func (w *billWriter) file(f manifest.File) {
	if f.Path == "" || !hexDigest.MatchString(f.SHA256) {
		w.fail("file %q: malformed entry", f.Path)
		return
	}
	if !w.add(cdx.Component{BOMRef: "file:" + f.Path, Type: cdx.ComponentTypeFile, Name: f.Path, Hashes: sha256Hash(f.SHA256)}) {
		w.fail("file %s: given twice", f.Path)
	}
}

// binary adds the program, the modules it was linked from and the standard
// library, and says which needs which.
func (w *billWriter) binary(bin Binary) {
	info, err := buildinfo.ReadFile(bin.Path)
	if err != nil {
		w.fail("binary %s: %w", bin.Name, err)
		return
	}
	sum, err := digest.File(bin.Path)
	if err != nil {
		w.fail("binary %s: %w", bin.Name, err)
		return
	}
	ref := "binary:" + bin.Name
	if !w.add(cdx.Component{BOMRef: ref, Type: cdx.ComponentTypeApplication, Name: bin.Name, Hashes: sha256Hash(sum)}) {
		w.fail("binary %s: given twice", bin.Name)
		return
	}
	// "go1.26.1 X:something" names experiments after a space.
	release, _, _ := strings.Cut(strings.TrimPrefix(info.GoVersion, "go"), " ")
	needs := []string{w.module("stdlib", release, "")}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		needs = append(needs, w.module(m.Path, m.Version, m.Sum))
	}
	slices.Sort(needs)
	needs = slices.Compact(needs)
	w.dependencies = append(w.dependencies, cdx.Dependency{Ref: ref, Dependencies: &needs})
}

// module adds a Go module once and returns its reference. The sum (h1:…) is a
// digest over a listing of the module, not of one file, so it is a property
// and not a hash.
func (w *billWriter) module(modPath, version, sum string) string {
	parts := strings.Split(strings.ToLower(modPath), "/")
	for i := range parts {
		parts[i] = escapePURL(parts[i])
	}
	purl := "pkg:golang/" + strings.Join(parts, "/")
	if version != "" {
		purl += "@" + escapePURL(version)
	}
	c := cdx.Component{BOMRef: purl, Type: cdx.ComponentTypeLibrary, Name: modPath, Version: version, PackageURL: purl}
	if sum != "" {
		c.Properties = &[]cdx.Property{{Name: "cc-base:go:sum", Value: sum}}
	}
	w.add(c)
	return purl
}

// escapePURL percent-encodes all but letters, digits, .-_~ and the colon, as
// the package URL specification (ECMA-427, section on encoding) asks.
func escapePURL(s string) string {
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
