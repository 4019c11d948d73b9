package deb

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// Installed is a package that dpkg's status file calls installed.
type Installed struct {
	Name         string
	Version      string
	Architecture string
	Source       string // as in [Package]
	Maintainer   string // "Name <mail>"; may be empty
	Needs        []string
	Licence      Licence // zero where only the status file was read
}

// ID tells packages of one tree apart: NAME:ARCHITECTURE. [Installed.Needs] holds
// these, sorted.
func (i Installed) ID() string { return i.Name + ":" + i.Architecture }

// ReadStatus returns what is installed, sorted by ID. What a package depends on
// is the package that is there to satisfy it; of alternatives the first. One that
// nothing satisfies is left out: dpkg lets that happen, and so does a build.
func ReadStatus(r io.Reader) ([]Installed, error) {
	var all []Installed
	var stanzas []Stanza
	for s, err := range Stanzas(r) {
		if err != nil {
			return nil, err
		}
		if words := strings.Fields(s["status"]); len(words) == 0 || words[len(words)-1] != "installed" {
			continue
		}
		i := Installed{Name: s["package"], Version: s["version"], Architecture: s["architecture"], Source: s["source"], Maintainer: s["maintainer"]}
		if i.Name == "" || i.Version == "" || i.Architecture == "" {
			return nil, fmt.Errorf("package %q has no name, version or architecture", i.Name)
		}
		all, stanzas = append(all, i), append(stanzas, s)
	}
	p := providers(all, stanzas)
	for n, s := range stanzas {
		all[n].Needs = p.needs(all[n], s["pre-depends"]+","+s["depends"])
	}
	slices.SortFunc(all, func(a, b Installed) int { return strings.Compare(a.ID(), b.ID()) })
	return all, nil
}

// provided is who provides a name: first the package that has it, then those that
// say so.
type provided map[string][]Installed

func providers(all []Installed, stanzas []Stanza) provided {
	p := provided{}
	for _, i := range all {
		p[i.Name] = append(p[i.Name], i)
	}
	for n, s := range stanzas {
		for _, name := range relations(s["provides"]) {
			p[name[0]] = append(p[name[0]], all[n])
		}
	}
	return p
}

func (p provided) needs(of Installed, depends string) []string {
	var ids []string
	for _, alternatives := range relations(depends) {
		for _, name := range alternatives {
			if by, ok := p.by(name, of.Architecture); ok {
				if by.ID() != of.ID() {
					ids = append(ids, by.ID())
				}
				break
			}
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// by prefers the package of the same architecture.
func (p provided) by(name, architecture string) (Installed, bool) {
	for _, i := range p[name] {
		if i.Architecture == architecture || i.Architecture == "all" {
			return i, true
		}
	}
	if len(p[name]) > 0 {
		return p[name][0], true
	}
	return Installed{}, false
}

// relations splits a field such as "a (>= 1) | b, c:any" into names: what is
// needed, and for each the alternatives. Whether the versions fit was dpkg's to
// check.
func relations(field string) [][]string {
	var all [][]string
	for _, relation := range strings.Split(field, ",") {
		var names []string
		for _, alternative := range strings.Split(relation, "|") {
			name, _, _ := strings.Cut(alternative, "(")
			name, _, _ = strings.Cut(name, "[")
			name, _, _ = strings.Cut(strings.TrimSpace(name), ":")
			if name != "" {
				names = append(names, name)
			}
		}
		if len(names) > 0 {
			all = append(all, names)
		}
	}
	return all
}
