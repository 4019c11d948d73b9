// Package deb reads what a Debian root file system says of its own packages:
// dpkg's list of what is installed, what needs what, and the copyright files
// with their licences.
//
// Control files are split here, in forty lines: the Go libraries for them either
// join the lines of a field, which loses the licence's name, or bring an OpenPGP
// implementation along.
package deb

import (
	"bufio"
	"fmt"
	"io"
	"iter"
	"strings"
)

// Package is one package of the distribution, as a signed index lists it.
type Package struct {
	Name         string // binary package
	Version      string // as the distribution writes it, with epoch and revision
	Architecture string // amd64, all
	Source       string // source package, with its version where that differs; empty where both are the same
	SHA256       string // of the .deb, 64 lower-case hexadecimal digits
	Size         int64  // of the .deb, bytes
	Filename     string // in the archive, relative to its root; may be empty
}

// Stanza is one paragraph of a control file: the values by field name in lower
// case. A value of several lines keeps its line ends, and loses the one blank
// that every further line starts with.
type Stanza map[string]string

// maxLine is far above any line of a control file, bytes.
const maxLine = 1 << 20

// Stanzas splits a control file (deb822(5)). After an error, which names the
// line, nothing follows.
func Stanzas(r io.Reader) iter.Seq2[Stanza, error] {
	return func(yield func(Stanza, error) bool) {
		in := bufio.NewScanner(r)
		in.Buffer(nil, maxLine)
		s, field, line := Stanza{}, "", 0
		for in.Scan() {
			line++
			text := strings.TrimRight(in.Text(), " \t\r")
			switch {
			case text == "":
				if len(s) > 0 && !yield(s, nil) {
					return
				}
				s, field = Stanza{}, ""
			case text[0] == '#':
			case text[0] == ' ' || text[0] == '\t':
				if field == "" {
					yield(nil, fmt.Errorf("line %d: continues no field", line))
					return
				}
				s[field] += "\n" + text[1:]
			default:
				name, value, ok := strings.Cut(text, ":")
				if !ok {
					yield(nil, fmt.Errorf("line %d: not a field: %.40q", line, text))
					return
				}
				field = strings.ToLower(name)
				if _, twice := s[field]; twice {
					yield(nil, fmt.Errorf("line %d: %s is there twice", line, name))
					return
				}
				s[field] = strings.TrimSpace(value)
			}
		}
		if err := in.Err(); err != nil {
			yield(nil, fmt.Errorf("line %d: %w", line+1, err))
			return
		}
		if len(s) > 0 {
			yield(s, nil)
		}
	}
}
