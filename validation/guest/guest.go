// Package guest holds the checks that run inside the VM: what is claimed about
// the running system, each claim with a function that looks for itself. The
// guest's program runs them when the host asks, over a virtio-serial port, for
// nobody can log in there.
//
//	report := check.Run(ctx, check.Guest, guest.All(guest.Env{Root: os.DirFS("/"), …}))
//
// A guest that was taken over can answer what it likes: the checks find
// mistakes and damage, and an attestation report tells which image answers.
package guest

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"cc-base/validation/check"
)

// Env is the outside world of the checks.
type Env struct {
	Root fs.FS // the root folder of the running system, with /proc and /sys

	// Ready tells whether mounts and verified volumes are as at the end of the
	// boot.
	Ready func(context.Context) error
	// Ruleset returns the packet filter as `nft -j list ruleset` prints it.
	Ruleset func(context.Context) (string, error)
	// Audit returns what `auditctl -s` prints.
	Audit func(context.Context) (string, error)
}

// All returns every check in the order in which they are run.
func All(e Env) []check.Check {
	return slices.Concat(e.boot(), e.sysctls(), e.hardening(), e.network(), e.devices())
}

// one is a check that runs in the guest. What a guest says of itself proves as
// much as the machine that it runs on: at most what an emulated one does.
func one(id, title, remedy string, f func(context.Context) check.Verdict) check.Check {
	area, _, _ := strings.Cut(id, ".")
	return check.Check{ID: id, Title: title, Area: area, Where: []check.Where{check.Guest}, Tier: check.TierKVM, Remedy: remedy, Func: f}
}

// again is the remedy of what the image has to bring.
const again = "build the image again; if it stays, an overlay or a package undoes it"

// text returns a file without the white space around its content.
func (e Env) text(name string) (string, error) {
	data, err := fs.ReadFile(e.Root, strings.TrimPrefix(name, "/"))
	return strings.TrimSpace(string(data)), err
}

// equals is a check of a file with one value.
func (e Env) equals(name, want string) func(context.Context) check.Verdict {
	return func(context.Context) check.Verdict {
		got, err := e.text(name)
		if err != nil {
			return check.Failed("%s", err)
		}
		if strings.Join(strings.Fields(got), " ") != want {
			return check.Failed("it is %q, not %q", got, want)
		}
		return check.Passed("%s", want)
	}
}

// names lists a folder; one that is not there is empty.
func (e Env) names(dir string) []string {
	entries, _ := fs.ReadDir(e.Root, strings.TrimPrefix(dir, "/"))
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// words returns the kernel command line's.
func (e Env) words() ([]string, error) {
	line, err := e.text("/proc/cmdline")
	return strings.Fields(line), err
}

// profile is the key profile of the measured command line.
func (e Env) profile() string {
	words, _ := e.words()
	for _, w := range words {
		if p, ok := strings.CutPrefix(w, "cc.keys="); ok {
			return p
		}
	}
	return ""
}

// process is one that runs.
type process struct{ pid, name, line string }

func (p process) String() string { return p.name + " (" + p.pid + ")" }

func (e Env) processes() ([]process, error) {
	files, err := fs.Glob(e.Root, "proc/[0-9]*/comm")
	if err != nil {
		return nil, err
	}
	var all []process
	for _, file := range files {
		name, err := e.text(file)
		if err != nil {
			continue // it has ended
		}
		line, _ := e.text(path.Join(path.Dir(file), "cmdline"))
		all = append(all, process{pid: path.Base(path.Dir(file)), name: name, line: strings.ReplaceAll(strings.TrimRight(line, "\x00"), "\x00", " ")})
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no process is to be seen in /proc")
	}
	return all, nil
}
