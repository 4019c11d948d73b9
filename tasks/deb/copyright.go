package deb

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/github/go-spdx/v2/spdxexp/spdxlicenses"
)

// Licence is what a copyright file says of a package's sources.
type Licence struct {
	// Expression is an SPDX licence expression that joins the licences of all
	// files of the source package by AND; empty where the file is none that a
	// program can read, or has a licence that is not understood.
	Expression string
	// Texts are the licences that SPDX's list does not have, by the
	// LicenseRef-… that Expression uses.
	Texts map[string]LicenceText
}

// LicenceText is a licence in the copyright file's own words.
type LicenceText struct {
	Name string // as the copyright file calls it
	Text string // never empty
}

// ReadCopyright reads a copyright file in the machine-readable format (Debian's
// copyright-format 1.0, also known as DEP-5). Any other gives the zero Licence:
// nobody guesses a licence from free text here.
func ReadCopyright(data []byte) Licence {
	var stanzas []Stanza
	for s, err := range Stanzas(bytes.NewReader(data)) {
		if err != nil {
			return Licence{}
		}
		stanzas = append(stanzas, s)
	}
	if len(stanzas) == 0 || !formatURI.MatchString(stanzas[0]["format"]) {
		return Licence{}
	}
	c := copyright{given: map[string]string{}, used: map[string]LicenceText{}}
	for _, s := range stanzas {
		if name, text := licenceField(s); name != "" && text != "" && c.given[name] == "" {
			c.given[name] = text
		}
	}
	var all []string
	for _, s := range stanzas {
		if s["files"] == "" {
			continue
		}
		name, _ := licenceField(s)
		terms, ok := c.terms(name)
		if !ok {
			return Licence{}
		}
		all = append(all, terms...)
	}
	return Licence{Expression: join(all, " AND "), Texts: c.used}
}

var formatURI = regexp.MustCompile(`copyright-format|dep\.debian\.net/deps/dep5`)

// licenceField splits the field License into the name in its first line and the
// text below.
func licenceField(s Stanza) (name, text string) {
	name, text, _ = strings.Cut(s["license"], "\n")
	return strings.Join(strings.Fields(name), " "), strings.TrimSpace(text)
}

type copyright struct {
	given map[string]string      // licence's name to its text
	used  map[string]LicenceText // by LicenseRef
}

// A comma binds weaker than a word without one: "A or B, and C" is (A or B) and
// C. And binds stronger than or.
var operators = []struct {
	split *regexp.Regexp
	or    bool
}{
	{regexp.MustCompile(`(?i), *or +`), true},
	{regexp.MustCompile(`(?i), *and +|, *`), false},
	{regexp.MustCompile(`(?i) +or +| *\| *`), true},
	{regexp.MustCompile(`(?i) +and +`), false},
}

// terms translates the name of a licence, or of several: all that are returned
// hold together.
func (c copyright) terms(text string) ([]string, bool) {
	for _, op := range operators {
		parts := op.split.Split(text, -1)
		if len(parts) == 1 {
			continue
		}
		var all []string
		for _, part := range parts {
			terms, ok := c.terms(part)
			if !ok {
				return nil, false
			}
			if op.or {
				terms = []string{join(terms, " AND ")}
			}
			all = append(all, terms...)
		}
		if op.or {
			all = []string{join(all, " OR ")}
		}
		return all, true
	}
	id, ok := c.licence(strings.TrimSpace(text))
	return []string{id}, ok
}

// join sorts the parts, leaves doubles out and puts in brackets what the operator
// would tear apart.
func join(parts []string, operator string) string {
	slices.Sort(parts)
	parts = slices.Compact(parts)
	for i, p := range parts {
		if len(parts) > 1 && (strings.Contains(p, " OR ") || strings.Contains(p, " AND ")) {
			parts[i] = "(" + p + ")"
		}
	}
	return strings.Join(parts, operator)
}

var exception = regexp.MustCompile(`(?i)^(\S+) with (\S+)(?: exception)?$`)

// licence translates one licence.
func (c copyright) licence(name string) (string, bool) {
	if name == "" {
		return "", false
	}
	if id, ok := identifier(name); ok {
		return id, true
	}
	if m := exception.FindStringSubmatch(name); m != nil {
		for _, e := range []string{m[2], m[2] + "-exception"} {
			id, ok := identifier(m[1])
			known, e := spdxlicenses.IsException(e)
			if ok && known {
				return id + " WITH " + e, true
			}
		}
	}
	return c.own(name), true
}

var unfit = regexp.MustCompile(`[^A-Za-z0-9.]+`)

// own makes a reference to a licence that only this copyright file defines. Two
// packages that call two texts by one name get two references, by the texts'
// digest.
func (c copyright) own(name string) string {
	text := c.given[name]
	if text == "" {
		text = "The copyright file names this licence and gives no text of that name: " + name
	}
	sum := sha256.Sum256([]byte(name + "\n" + text))
	ref := fmt.Sprintf("LicenseRef-%s-%x", strings.Trim(unfit.ReplaceAllString(name, "-"), "-"), sum[:4])
	c.used[ref] = LicenceText{Name: name, Text: text}
	return ref
}

var gnu = regexp.MustCompile(`(?i)^(A?GPL|LGPL|GFDL)-(NIV-)?([0-9])(?:\.([0-9]))?(\+)?$`)

// identifier returns SPDX's name for one of Debian's (copyright-format 1.0,
// section 7.1.1), where both surely mean the same.
func identifier(name string) (string, bool) {
	switch strings.ToLower(name) {
	case "expat":
		return "MIT", true
	case "cc0":
		return "CC0-1.0", true
	}
	if m := gnu.FindStringSubmatch(name); m != nil {
		family, minor, which := strings.ToUpper(m[1]), m[4], "-only"
		if minor == "" {
			minor = "0"
		}
		if m[5] != "" {
			which = "-or-later"
		}
		if m[2] != "" {
			which = "-no-invariants" + which
		}
		name = family + "-" + m[3] + "." + minor + which
	}
	for _, candidate := range []string{name, name + ".0"} {
		if known, id := spdxlicenses.IsActiveLicense(candidate); known {
			return id, true
		}
	}
	return "", false
}
