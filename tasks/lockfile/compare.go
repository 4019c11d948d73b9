package lockfile

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"cc-base/tasks/deb"
	"cc-base/tasks/fault"
)

// Difference is a package that is not as the lock has it.
type Difference struct {
	Package      string `json:"package"`
	Architecture string `json:"architecture"`
	Locked       string `json:"locked"`  // version; empty: the lock does not have the package
	Offered      string `json:"offered"` // version; empty: there is no such package now
	// The digests, where the versions are the same and these are not.
	LockedSHA256  string `json:"lockedSHA256,omitempty"`
	OfferedSHA256 string `json:"offeredSHA256,omitempty"`
}

// Compare returns how packages differ from the locked ones, sorted by name.
func Compare(locked, packages []deb.Package) []Difference {
	type id struct{ name, arch string }
	index := func(list []deb.Package) map[id]deb.Package {
		m := map[id]deb.Package{}
		for _, p := range list {
			m[id{p.Name, p.Architecture}] = p
		}
		return m
	}
	was, is := index(locked), index(packages)
	all := maps.Clone(was)
	maps.Copy(all, is)
	var out []Difference
	for of := range all {
		a, b := was[of], is[of]
		d := Difference{Package: of.name, Architecture: of.arch, Locked: a.Version, Offered: b.Version}
		switch {
		case a.Version != b.Version:
		case a.SHA256 != b.SHA256:
			d.LockedSHA256, d.OfferedSHA256 = a.SHA256, b.SHA256
		default:
			continue
		}
		out = append(out, d)
	}
	slices.SortFunc(out, byPackage)
	return out
}

func byPackage(a, b Difference) int {
	return cmp.Or(strings.Compare(a.Package, b.Package), strings.Compare(a.Architecture, b.Architecture),
		strings.Compare(a.Locked, b.Locked), strings.Compare(a.Offered, b.Offered), strings.Compare(a.OfferedSHA256, b.OfferedSHA256))
}

// String is the difference in a line.
func (d Difference) String() string {
	switch {
	case d.Locked == "":
		return fmt.Sprintf("%s %s: not in the lock", d.Package, d.Offered)
	case d.Offered == "":
		return fmt.Sprintf("%s %s: in the lock, but not among these packages", d.Package, d.Locked)
	case d.LockedSHA256 != "":
		return fmt.Sprintf("%s %s: sha256 %s, locked %s", d.Package, d.Offered, d.OfferedSHA256, d.LockedSHA256)
	}
	return fmt.Sprintf("%s %s: locked %s", d.Package, d.Offered, d.Locked)
}

// Check returns nil where packages from the given place are exactly those of
// the section, and otherwise an error with code fault.NotLocked that has a line
// for each difference.
func (s Section) Check(from string, packages []deb.Package) error {
	var lines []error
	if from != s.From {
		lines = append(lines, fmt.Errorf("  they come from %s: locked %s", from, s.From))
	}
	for _, d := range Compare(s.Packages, packages) {
		lines = append(lines, fmt.Errorf("  %s", d))
	}
	if len(lines) == 0 {
		return nil
	}
	what := fmt.Sprintf("%d differences", len(lines))
	if len(lines) == 1 {
		what = "one difference"
	}
	return fault.Newf(fault.NotLocked, "the packages are not those of the section %s in the lock, %s:\n%w", s.Name, what, errors.Join(lines...)).
		Hint("`mage outdated` lists the differences of every section; `mage lock` takes what the mirror has now; a mirror that keeps old versions (SNAPSHOT) has what was locked; LOCKED=no builds without")
}

// Change is a difference and the sections that have it.
type Change struct {
	Difference
	Sections []string `json:"sections"`
}

// Origin is a section that comes from somewhere else, or is in one of two locks
// alone.
type Origin struct {
	Section string `json:"section"`
	Locked  string `json:"locked"`  // empty: the lock does not have it
	Offered string `json:"offered"` // empty: it would not be written now
}

// News is what a new lock would change in an old one.
type News struct {
	Origins  []Origin `json:"sections"`
	Packages []Change `json:"packages"`
}

// None tells that both locks are the same.
func (n News) None() bool { return len(n.Origins) == 0 && len(n.Packages) == 0 }

// Since returns what l changes in the former lock. Packages are compared in the
// sections that both have.
func (l Lock) Since(former Lock) News {
	news := News{Origins: []Origin{}, Packages: []Change{}}
	in := map[Difference][]string{}
	for _, old := range former.Sections {
		now, ok := l.Section(old.Name)
		if !ok || now.From != old.From {
			news.Origins = append(news.Origins, Origin{old.Name, old.From, now.From})
		}
		if !ok {
			continue
		}
		for _, d := range Compare(old.Packages, now.Packages) {
			in[d] = append(in[d], old.Name)
		}
	}
	for _, now := range l.Sections {
		if _, ok := former.Section(now.Name); !ok {
			news.Origins = append(news.Origins, Origin{now.Name, "", now.From})
		}
	}
	slices.SortFunc(news.Origins, func(a, b Origin) int { return strings.Compare(a.Section, b.Section) })
	for _, d := range slices.SortedFunc(maps.Keys(in), byPackage) {
		slices.Sort(in[d])
		news.Packages = append(news.Packages, Change{d, in[d]})
	}
	return news
}
