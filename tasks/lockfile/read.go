package lockfile

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"cc-base/tasks/deb"
	"cc-base/tasks/fault"
)

// Read reads a lock as [Parse] does; a file that is not there is an
// fs.ErrNotExist.
func Read(file string) (Lock, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return Lock{}, err
	}
	return Parse(file, data)
}

// Parse returns the lock that data, which is called file, holds. Everything that
// is wrong with it is one error with code fault.Config and a line for each
// mistake.
func Parse(file string, data []byte) (Lock, error) {
	r := reader{file: file, seen: map[string]int{}}
	r.read(string(data))
	if len(r.problems) > 0 {
		return Lock{}, fault.New(fault.Config, errors.Join(r.problems...)).Hint("`mage lock` writes it anew")
	}
	return r.lock, nil
}

// A stanza is lines of FIELD: VALUE. Every field that a kind of stanza has is
// required, and it has no others. The patterns also keep what goes into apt's
// preferences and into an address from being anything else.
type field struct {
	name    string
	pattern *regexp.Regexp
}

var (
	sectionFields = []field{
		{"Section", regexp.MustCompile(`^` + sectionName + `$`)},
		{"From", regexp.MustCompile(`^[a-z]+( [a-z0-9-]+)+$`)},
	}
	packageFields = []field{
		{"Package", regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)},
		{"Version", regexp.MustCompile(`^[0-9][A-Za-z0-9.+~:-]*$`)},
		{"Architecture", regexp.MustCompile(`^[a-z0-9-]+$`)},
		{"Filename", regexp.MustCompile(`^pool/([A-Za-z0-9][A-Za-z0-9+._~-]*/)+[A-Za-z0-9][A-Za-z0-9+._~-]*\.deb$`)},
		{"Size", regexp.MustCompile(`^[1-9][0-9]{0,17}$`)},
		{"SHA256", regexp.MustCompile(`^[0-9a-f]{64}$`)},
		{"Section", regexp.MustCompile(`^` + sectionName + `( ` + sectionName + `)*$`)},
	}
)

const sectionName = `[a-z]+(?:/[A-Za-z0-9][A-Za-z0-9._-]*)?`

// reader notes every problem and goes on.
type reader struct {
	file     string
	lock     Lock
	seen     map[string]int // section, package and architecture → line
	problems []error
}

func (r *reader) problem(line int, format string, args ...any) {
	r.problems = append(r.problems, fmt.Errorf("%s:%d: %s", r.file, line, fmt.Sprintf(format, args...)))
}

func (r *reader) read(text string) {
	var stanza []line
	formatted := false
	// The empty line behind the text ends the last stanza.
	for i, t := range append(strings.Split(text, "\n"), "") {
		switch {
		case strings.HasPrefix(t, "#"):
		case t != "":
			stanza = append(stanza, line{i + 1, t})
		case len(stanza) > 0 && !formatted:
			if stanza[0].text != "Format: "+format || len(stanza) > 1 {
				r.problem(stanza[0].number, "a lock begins with the line %q and an empty one", "Format: "+format)
				return // what follows is anything
			}
			stanza, formatted = nil, true
		case len(stanza) > 0:
			r.stanza(stanza)
			stanza = nil
		}
	}
	if !formatted {
		r.problem(1, "the lock is empty")
	}
}

// line is a line of the file; the first is number 1.
type line struct {
	number int
	text   string
}

func (r *reader) stanza(lines []line) {
	fields, take := sectionFields, r.section
	if strings.HasPrefix(lines[0].text, "Package:") {
		fields, take = packageFields, r.pkg
	}
	before := len(r.problems)
	values := r.values(lines, fields)
	if len(r.problems) == before {
		take(lines[0].number, values)
	}
}

func (r *reader) values(lines []line, fields []field) map[string]string {
	values := map[string]string{}
	for _, l := range lines {
		name, value, ok := strings.Cut(l.text, ": ")
		at := slices.IndexFunc(fields, func(f field) bool { return f.name == name })
		switch {
		case !ok:
			r.problem(l.number, "%q is not FIELD: VALUE", l.text)
		case at < 0:
			r.problem(l.number, "there is no field %s here", name)
		case values[name] != "":
			r.problem(l.number, "%s is there twice", name)
		case !fields[at].pattern.MatchString(value):
			r.problem(l.number, "%s cannot be %q", name, value)
		}
		if ok && values[name] == "" {
			values[name] = value
		}
	}
	for _, f := range fields {
		if values[f.name] == "" {
			r.problem(lines[0].number, "%s is missing", f.name)
		}
	}
	return values
}

func (r *reader) section(line int, values map[string]string) {
	name := values["Section"]
	if _, ok := r.lock.Section(name); ok {
		r.problem(line, "the section %s is there twice", name)
		return
	}
	r.lock.Sections = append(r.lock.Sections, Section{Name: name, From: values["From"]})
}

func (r *reader) pkg(line int, values map[string]string) {
	size, err := strconv.ParseInt(values["Size"], 10, 64)
	if err != nil {
		r.problem(line, "Size: %v", err)
	}
	p := deb.Package{
		Name: values["Package"], Version: values["Version"], Architecture: values["Architecture"],
		Filename: values["Filename"], Size: size, SHA256: values["SHA256"],
	}
	for _, name := range strings.Fields(values["Section"]) {
		at := slices.IndexFunc(r.lock.Sections, func(s Section) bool { return s.Name == name })
		if at < 0 {
			r.problem(line, "no stanza before this one describes the section %s", name)
			continue
		}
		id := name + " " + p.Name + ":" + p.Architecture
		if former, ok := r.seen[id]; ok {
			r.problem(line, "%s is already in the section %s, by line %d", p.Name, name, former)
			continue
		}
		r.seen[id] = line
		r.lock.Sections[at].Packages = append(r.lock.Sections[at].Packages, p)
	}
}
