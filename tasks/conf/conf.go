// Package conf turns config/*.conf into one typed, checked Config.
//
//	cfg, err := conf.Load(conf.Options{Dir: "config", Profile: os.Getenv("CC_PROFILE")})
//	if err != nil {
//		return err // every problem of every file, file:line:col each; exit status 2
//	}
//	fmt.Println(cfg.OS.Suite, cfg.TEE.MemorySize)
//
// The files are shell syntax, so that people can read them as the shell does,
// but they are parsed and never executed: only assignments of literals are
// accepted. Every key is a row of one table (table.go, keys_*.go); parser,
// defaults, validation, `config:show`, docs/configuration.md and the comments
// of the shipped files come from that row. To add a key, add a row.
//
// The result depends on the files alone, never on the machine that reads them:
// what only the installing host knows stays "auto".
package conf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"cc-base/tasks/conf/literal"
	"cc-base/tasks/fault"
)

// Options says what to load.
type Options struct {
	Dir     string // folder of the *.conf files, "config" when empty
	Profile string // overlay profiles/<Profile>.conf; "" or "default" for none

	// File looks at each file that a key names (TPM_SRK, KEY_RECIPIENTS); path
	// lies in Dir. Its error becomes a problem of the key. Nil looks at none:
	// only a build has the files, the installer's copy of the configuration
	// names them still.
	File func(key, path string) error
}

// Problem is one thing wrong with the configuration, and where.
type Problem = literal.Problem

// Problems is every problem of a configuration, one per line, sorted by file,
// line and column. It is what the error of [Load] wraps; errors.As finds it.
type Problems = literal.Problems

// source is the text of one file. Its name decides which keys may stand in it;
// a profile, whose name is empty, may hold any.
type source struct {
	path, name string
	text       []byte
}

// Load reads and checks the configuration. Its error has the code
// fault.Config and wraps [Problems] with everything that is wrong, or it is
// what reading the folder failed with.
func Load(opts Options) (Config, error) {
	dir := opts.Dir
	if dir == "" {
		dir = "config"
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return Config{}, fault.Newf(fault.Config, "configuration folder: %w", err).
			Hint("CC_CONFIG_DIR names the folder with the *.conf files; without it that is config/")
	}
	sources, problems := readSources(dir, entries)
	profile := opts.Profile
	if profile == "default" {
		profile = ""
	}
	if profile != "" {
		s, ps := readProfile(dir, profile)
		sources, problems = append(sources, s...), append(problems, ps...)
	}
	var look func(key, name string) error
	if opts.File != nil {
		look = func(key, name string) error { return opts.File(key, filepath.Join(dir, name)) }
	}
	c, ps := loadWith(sources, look)
	if problems = append(problems, ps...); len(problems) > 0 {
		problems.Sort()
		return Config{}, fault.New(fault.Config, problems)
	}
	c.Profile = profile
	return c, nil
}

func readSources(dir string, entries []fs.DirEntry) ([]source, Problems) {
	var sources []source
	var problems Problems
	names := Files()
	for _, name := range names {
		path := filepath.Join(dir, name)
		text, err := os.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			problems = append(problems, Problem{File: path, What: "the file is missing"})
		case err != nil:
			problems = append(problems, Problem{File: path, What: "the file cannot be read: " + reason(err)})
		default:
			sources = append(sources, source{path, name, text})
		}
	}
	// A misspelt file would otherwise be ignored without a word.
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".conf") && !slices.Contains(names, e.Name()) {
			problems = append(problems, Problem{File: filepath.Join(dir, e.Name()), What: "no such configuration file is known",
				Allowed: strings.Join(names, ", "), Suggest: nearestFile(e.Name(), names)})
		}
	}
	return sources, problems
}

// nearestFile compares names without their common ending, which would make
// any two short ones look alike.
func nearestFile(name string, names []string) string {
	var stems []string
	for _, n := range names {
		stems = append(stems, strings.TrimSuffix(n, ".conf"))
	}
	stem := literal.Nearest(strings.TrimSuffix(name, ".conf"), stems)
	if stem == "" {
		return ""
	}
	return stem + ".conf"
}

// Profiles returns the names of the profiles in a configuration's folder; it may
// have none.
func Profiles(dir string) []string {
	var names []string
	found, _ := os.ReadDir(filepath.Join(dir, "profiles")) // no folder: no profiles
	for _, e := range found {
		if name, ok := strings.CutSuffix(e.Name(), ".conf"); ok && name != "default" {
			names = append(names, name)
		}
	}
	return names
}

func readProfile(dir, profile string) ([]source, Problems) {
	folder := filepath.Join(dir, "profiles")
	known := append([]string{"default"}, Profiles(dir)...)
	sort.Strings(known)
	if !slices.Contains(known, profile) {
		return nil, Problems{{File: folder, What: fmt.Sprintf("there is no profile %q", profile),
			Allowed: strings.Join(known, ", "), Suggest: literal.Nearest(profile, known)}}
	}
	path := filepath.Join(folder, profile+".conf")
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, Problems{{File: path, What: "the file cannot be read: " + reason(err)}}
	}
	return []source{{path, "", text}}, nil
}

// reason is err without the path, which the problem names already.
func reason(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}

// maxWord bounds one value, in bytes.
const maxWord = 1024

// loader gathers values and problems over all sources.
type loader struct {
	config   Config
	keys     map[string]key
	names    []string
	failed   map[string]bool   // keys whose value was refused
	written  map[string]source // where a key was written last
	at       map[string]literal.Pos
	unread   bool // a syntax error hid some assignments
	problems Problems
}

// load is [loadWith] that looks at no file.
func load(sources []source) (Config, Problems) { return loadWith(sources, nil) }

// loadWith applies the defaults, then the sources in order, then the rules that
// span keys, and looks at the files that keys name.
func loadWith(sources []source, look func(key, name string) error) (Config, Problems) {
	l := loader{config: blank(), keys: map[string]key{}, failed: map[string]bool{},
		written: map[string]source{}, at: map[string]literal.Pos{}}
	for _, k := range table() {
		l.keys[k.name] = k
		l.names = append(l.names, k.name)
		k.set(&l.config, k.def, func(int, string, ...any) {}) // a test proves that defaults are right
	}
	for _, s := range sources {
		l.read(s)
	}
	settlePolicy(&l.config)
	if !l.unread { // with a value missing, a rule might blame the wrong key
		l.applyRules()
	}
	if look != nil {
		l.lookAtFiles(look)
	}
	l.problems.Sort()
	return l.config, l.problems
}

// lookAtFiles reports files that keys name and look refuses. By default no key
// names one, so each was written somewhere.
func (l *loader) lookAtFiles(look func(key, name string) error) {
	for key, names := range map[string][]string{"TPM_SRK": {l.config.Security.TPMSRK}, "KEY_RECIPIENTS": l.config.Security.KeyRecipients} {
		for _, name := range names {
			if name == "" || l.failed[key] {
				continue
			}
			if err := look(key, name); err != nil {
				at := l.at[key]
				l.problems = append(l.problems, Problem{File: l.written[key].path, Line: at.Line, Col: at.Col, Key: key,
					What: fmt.Sprintf("%s: %s", name, reason(err))})
			}
		}
	}
}

func (l *loader) read(s source) {
	assignments, problems := literal.Parse(s.path, s.text)
	for i, p := range problems {
		_, known := l.keys[p.Key]
		switch {
		case p.Key == "":
			l.unread = true
		case known:
			l.failed[p.Key] = true
		default:
			problems[i].Suggest = literal.Nearest(p.Key, l.names)
		}
	}
	l.problems = append(l.problems, problems...)
	first := map[string]literal.Pos{}
	for _, a := range assignments {
		k, known := l.keys[a.Key]
		bad := func(at literal.Pos, what, allowed, suggest string) {
			l.failed[a.Key] = true
			l.problems = append(l.problems, Problem{File: s.path, Line: at.Line, Col: at.Col,
				Key: a.Key, What: what, Allowed: allowed, Suggest: suggest})
		}
		before, again := first[a.Key]
		switch {
		case !known:
			bad(a.At, "there is no such key", "", literal.Nearest(a.Key, l.names))
			continue
		case again:
			bad(a.At, fmt.Sprintf("it is set twice, first in line %d", before.Line), "once per file", "")
			continue
		case s.name != "" && k.file != s.name:
			bad(a.At, "it does not belong in this file",
				filepath.Join(filepath.Dir(s.path), k.file), "")
			continue
		}
		first[a.Key] = a.At
		l.written[a.Key], l.at[a.Key] = s, a.At
		l.config.origin[a.Key] = fmt.Sprintf("%s:%d", s.path, a.At.Line)
		l.assign(k, a, bad)
	}
}

func (l *loader) assign(k key, a literal.Assignment, bad func(at literal.Pos, what, allowed, suggest string)) {
	if a.Array != k.array {
		form := k.name + `="value"`
		if k.array {
			form = k.name + "=( value value )"
		}
		bad(a.At, "it is written in the wrong form", form, "")
		return
	}
	words := make([]string, len(a.Words))
	for i, w := range a.Words {
		if len(w.Text) > maxWord {
			bad(w.At, fmt.Sprintf("the value has %d bytes", len(w.Text)), fmt.Sprintf("at most %d", maxWord), "")
			return
		}
		words[i] = w.Text
	}
	k.set(&l.config, words, func(i int, format string, args ...any) {
		at, suggest := a.At, ""
		if i < len(words) {
			name, _, _ := strings.Cut(words[i], "=")
			at = a.Words[i].At
			if suggest = literal.Nearest(name, k.enum); suggest == name {
				suggest = ""
			}
		}
		bad(at, fmt.Sprintf(format, args...), k.allowed, suggest)
	})
}
