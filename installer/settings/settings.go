// Package settings reads and writes the two files in which the operator of a
// host says what a VM gets of it: /etc/cc/qemu/gpu_settings and
// network_settings, of lines KEY="value" with comments.
//
//	found := settings.Detect(functions, net)
//	plan, err := found.Against(os.DirFS(dir), dir)  // problems of both files, all at once
//	err = plan.Write()
//
// Detection proposes, the operator decides: a line that is there is never
// changed or removed by it, only keys that are missing are added. The files are
// shell syntax of literals and are read, never executed.
package settings

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/conf/literal"
	"cc-base/tasks/fault"
	"cc-base/tasks/gpu"
	"cc-base/tasks/network"
)

// Where the files are, below the root folder.
const (
	GPUFile     = "etc/cc/qemu/gpu_settings"
	NetworkFile = "etc/cc/qemu/network_settings"
)

// Settings is what both files say.
type Settings struct {
	GPU     GPU     `json:"gpu"`
	Network Network `json:"network"`
}

// Detect proposes settings for a host.
func Detect(functions []gpu.Function, net network.Facts) Settings {
	return Settings{detectGPU(functions), detectNetwork(net)}
}

// Read reads the files of a host and judges them by what it has. A file that is
// not there gives the detected settings. The error is a [literal.Problems]
// under fault.HostSettings.
func Read(root fs.FS, name string, functions []gpu.Function, net network.Facts) (Settings, error) {
	c, err := Detect(functions, net).Against(root, name, functions, net)
	return c.Settings, err
}

// State is what would become of a file.
type State string

// The states.
const (
	New      State = "new"      // it is not there
	Kept     State = "kept"     // it is there and complete
	Extended State = "extended" // it is there, and keys are added at its end
)

// File is one file as it would be written.
type File struct {
	Path  string      `json:"path"`
	State State       `json:"state"`
	Added []string    `json:"added,omitempty"` // keys that were missing
	Text  string      `json:"text"`
	mode  fs.FileMode // of the file that is there
}

// Change is what detection would write, and the settings that are then in
// force.
type Change struct {
	Settings Settings `json:"settings"`
	Files    []File   `json:"files"`
}

// Against lays the detected settings under the files that are there: what they
// say counts. name is the path of root, for messages and for [Change.Write].
// All problems of both files come as one error, under fault.HostSettings.
func (s Settings) Against(root fs.FS, name string, functions []gpu.Function, net network.Facts) (Change, error) {
	c := Change{Settings: s}
	var problems literal.Problems
	for _, f := range []struct {
		name, head string
		keys       []key
		settle     func(places)
		judge      func(places) literal.Problems
	}{
		{GPUFile, gpuHead, c.Settings.GPU.keys(),
			func(p places) { c.Settings.GPU.settle(p, functions) },
			func(p places) literal.Problems { return c.Settings.GPU.judge(p, functions) }},
		{NetworkFile, networkHead, c.Settings.Network.keys(),
			func(p places) { c.Settings.Network.settle(p) },
			func(p places) literal.Problems { return c.Settings.Network.judge(p, net) }},
	} {
		file, p, found, err := merge(root, name, f.name, f.head, f.keys, f.settle)
		if err != nil {
			return c, fault.New(fault.HostSettings, err)
		}
		c.Files = append(c.Files, file)
		if len(found) == 0 {
			found = f.judge(p) // what cannot be read cannot be judged
		}
		found.Sort()
		problems = append(problems, found...)
	}
	if len(problems) > 0 {
		return c, fault.New(fault.HostSettings, problems).Hint("correct the lines, or remove the file and run cc-install detect")
	}
	return c, nil
}

// Write writes the files that are new or extended, each whole or not at all.
func (c Change) Write() error {
	for _, f := range c.Files {
		if f.State == Kept {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
			return err
		}
		if err := atomicfile.Write(f.Path, f.mode, []byte(f.Text)); err != nil {
			return err
		}
	}
	return nil
}

// key is one key of a file.
type key struct {
	name    string
	comment string // lines without #
	allowed string
	get     func() string
	set     func(value string) error
}

// places is where keys stand in a file that is there.
type places struct {
	file string
	at   map[string]literal.Pos
}

func (p places) has(key string) bool { _, ok := p.at[key]; return ok }

func (p places) problem(key, what, allowed string) literal.Problem {
	at := p.at[key]
	return literal.Problem{File: p.file, Line: at.Line, Col: at.Col, Key: key, What: what, Allowed: allowed}
}

// merge reads a file into its keys and says what it would be with those that
// are missing. Their values are the detected ones, which settle makes agree
// with what the file says.
func merge(root fs.FS, rootName, name, head string, keys []key, settle func(places)) (File, places, literal.Problems, error) {
	p := places{filepath.Join(rootName, name), map[string]literal.Pos{}}
	f := File{Path: p.file, State: New, mode: 0o644}
	old, err := fs.ReadFile(root, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.Text = head
	case err != nil:
		return f, p, nil, err
	default:
		f.State, f.Text = Kept, string(old)
		if info, err := fs.Stat(root, name); err == nil {
			f.mode = info.Mode().Perm()
		}
	}
	problems := p.read(old, keys)
	settle(p)
	for _, k := range keys {
		if p.has(k.name) {
			continue
		}
		if f.State == Kept {
			f.State = Extended
			f.Text = strings.TrimRight(f.Text, "\n") + "\n"
		}
		f.Added = append(f.Added, k.name)
		f.Text += fmt.Sprintf("\n# %s\n# Allowed: %s.\n%s=\"%s\"\n", strings.ReplaceAll(k.comment, "\n", "\n# "), k.allowed, k.name, k.get())
	}
	return f, p, problems, nil
}

// read sets the keys that the text assigns.
func (p places) read(text []byte, keys []key) literal.Problems {
	assignments, problems := literal.Parse(p.file, text)
	var names []string
	for _, k := range keys {
		names = append(names, k.name)
	}
	for _, a := range assignments {
		here := literal.Problem{File: p.file, Line: a.At.Line, Col: a.At.Col, Key: a.Key}
		i := slices.Index(names, a.Key)
		switch {
		case i < 0:
			here.What, here.Suggest = "unknown key", literal.Nearest(a.Key, names)
			here.Allowed = strings.Join(names, ", ")
		case p.has(a.Key):
			here.What = fmt.Sprintf("it is set in line %d already", p.at[a.Key].Line)
		case a.Array:
			here.What, here.Allowed = "an array is not allowed", a.Key+`="value"`
		default:
			p.at[a.Key] = a.At
			if err := keys[i].set(a.Words[0].Text); err != nil {
				here.What, here.Allowed = err.Error(), keys[i].allowed
			}
		}
		if here.What != "" {
			problems = append(problems, here)
		}
	}
	return problems
}
