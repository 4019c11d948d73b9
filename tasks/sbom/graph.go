package sbom

import (
	"debug/buildinfo"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cc-base/tasks/deb"
	"cc-base/tasks/digest"
	"cc-base/tasks/fault"
)

// kind is what a component is.
type kind int

const (
	debPackage kind = iota
	goModule
	program
	plainFile
	firmware
)

// component is what both formats can say.
type component struct {
	kind       kind
	ref        string // unique in the bill
	name       string
	version    string
	url        string
	sha256     string
	supplier   string
	licence    string // SPDX expression, or empty
	in         string // volume, or empty
	source     string // source package
	properties [][2]string
	needs      []string // refs, sorted
}

// graph is the bill with every reference resolved.
type graph struct {
	components []component // sorted by ref
	licences   map[string]deb.LicenceText
}

func (b Bill) graph() (graph, error) {
	w := builder{byRef: map[string]component{}, licences: map[string]deb.LicenceText{}}
	if b.Name == "" {
		w.fail("the product has no name")
	}
	urls := map[string]string{}
	for _, p := range b.Packages {
		urls[p.Name+":"+p.Architecture] = p.url()
	}
	for _, p := range b.Packages {
		if !w.pkg(p, urls) {
			w.fail("package %s %s %s: given twice", p.Name, p.Version, p.Architecture)
		}
	}
	for _, p := range b.Programs {
		w.program(p)
	}
	for _, f := range b.Files {
		w.file(f)
	}
	if len(w.errs) > 0 {
		return graph{}, fault.New(fault.Bill, errors.Join(w.errs...))
	}
	g := graph{licences: w.licences}
	for _, c := range w.byRef {
		slices.Sort(c.needs)
		c.needs = slices.Compact(c.needs)
		g.components = append(g.components, c)
	}
	slices.SortFunc(g.components, func(a, b component) int { return strings.Compare(a.ref, b.ref) })
	return g, nil
}

type builder struct {
	byRef    map[string]component
	licences map[string]deb.LicenceText
	errs     []error
}

func (w *builder) fail(format string, args ...any) {
	w.errs = append(w.errs, fmt.Errorf("bill of materials: "+format, args...))
}

// add takes a component unless one with its reference is there.
func (w *builder) add(c component) bool {
	if _, there := w.byRef[c.ref]; there {
		return false
	}
	w.byRef[c.ref] = c
	return true
}

// pkg adds a package; urls are those that it may need, by ID. It returns false
// for one that is there already.
func (w *builder) pkg(p Package, urls map[string]string) bool {
	if err := p.check(); err != nil {
		w.fail("%w", err)
		return true
	}
	url := p.url()
	c := component{
		kind: debPackage, ref: url, name: p.Name, version: p.Version, url: url, sha256: p.SHA256,
		supplier: p.Maintainer, licence: p.Licence.Expression, in: p.In, source: p.Source,
	}
	for _, id := range p.Needs {
		if urls[id] == "" {
			w.fail("package %s: needs %s, which is not in the bill", p.Name, id)
		}
		c.needs = append(c.needs, urls[id])
	}
	if p.Filename != "" {
		c.properties = append(c.properties, [2]string{"cc-base:deb:filename", p.Filename})
	}
	if p.Size > 0 {
		c.properties = append(c.properties, [2]string{"cc-base:deb:size", fmt.Sprint(p.Size)})
	}
	for ref, text := range p.Licence.Texts {
		w.licences[ref] = text
	}
	return w.add(c)
}

func (w *builder) file(f File) {
	c := component{kind: plainFile, ref: "file:" + f.Name, name: f.Name, sha256: f.SHA256}
	if f.Firmware {
		c.kind = firmware
	}
	if f.Name == "" || !hexDigest.MatchString(f.SHA256) {
		w.fail("file %q: malformed entry", f.Name)
		return
	}
	for _, p := range f.From {
		w.pkg(p, nil)
		c.needs = append(c.needs, p.url())
	}
	if !w.add(c) {
		w.fail("file %s: given twice", f.Name)
	}
}

// program adds the program, the modules that it was linked from and the standard
// library.
func (w *builder) program(p Program) {
	info, err := buildinfo.ReadFile(p.Path)
	if err != nil {
		w.fail("program %s: %w", p.Name, err)
		return
	}
	sum, err := digest.File(p.Path)
	if err != nil {
		w.fail("program %s: %w", p.Name, err)
		return
	}
	c := component{kind: program, ref: "program:" + p.Name, name: p.Name, sha256: sum, in: p.In}
	// "go1.26.1 X:something" names experiments after a space.
	release, _, _ := strings.Cut(strings.TrimPrefix(info.GoVersion, "go"), " ")
	c.needs = append(c.needs, w.module("stdlib", release, ""))
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		c.needs = append(c.needs, w.module(m.Path, m.Version, m.Sum))
	}
	if !w.add(c) {
		w.fail("program %s: given twice", p.Name)
	}
}

// module adds a Go module once and returns its reference. The sum (h1:…) is a
// digest over a listing of the module, not of one file, so it is a property and
// not a hash.
func (w *builder) module(path, version, sum string) string {
	url := moduleURL(path, version)
	c := component{kind: goModule, ref: url, name: path, version: version, url: url}
	if sum != "" {
		c.properties = [][2]string{{"cc-base:go:sum", sum}}
	}
	w.add(c)
	return url
}
