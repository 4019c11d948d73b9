// Package host checks that this machine can build: the few programs that do
// not come from the tools tree, user namespaces, disk and memory. Everything
// that is missing is reported at once, with the one command that cures it.
package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"cc-base/tasks/fault"
	"cc-base/tasks/sh"
	"cc-base/tasks/toolbox"
)

// Needs is what a build asks of the machine.
type Needs struct {
	Keyrings map[string]string // file → package that brings it
	Dir      string            // where the build writes
	Space    int64             // bytes that must be free there
	Memory   int64             // bytes of the machine that must be available
}

// program is one that the build runs from the machine itself.
type program struct{ name, pkg, why string }

func programs(root bool) []program {
	list := []program{
		{"mmdebstrap", "mmdebstrap", "bootstraps the tools tree and the image"},
		{"unshare", "util-linux", "enters the tools tree"},
		{"tar", "tar", "unpacks the tools tree"},
		{"apt-get", "apt", "names this machine's mirror"},
	}
	if !root {
		list = append(list, program{"newuidmap", "uidmap", "lets mmdebstrap map users without root"})
	}
	return list
}

// Check returns every problem at once, or nil. As root it first installs the
// packages that are missing.
func Check(ctx context.Context, run sh.Runner, n Needs, say func(format string, args ...any)) error {
	root := os.Geteuid() == 0
	missing := missing(n, root, exec.LookPath, exists)
	if len(missing) > 0 && root {
		say("installing %s", strings.Join(missing, " "))
		if err := install(ctx, run, missing); err != nil {
			return err
		}
		missing = nil
	}
	var errs []error
	if len(missing) > 0 {
		errs = append(errs, fault.Newf(fault.HostTools, "these packages are missing on this machine: %s", strings.Join(missing, " ")).
			Hint("run: %s", command(missing, root)))
	}
	if err := toolbox.Probe(ctx, run); err != nil {
		errs = append(errs, err)
	}
	if !root {
		if err := subIDs(); err != nil {
			errs = append(errs, err)
		}
	}
	if err := space(n.Dir, n.Space); err != nil {
		errs = append(errs, err)
	}
	if err := memory(n.Memory); err != nil {
		errs = append(errs, err)
	}
	return join(errs)
}

// join keeps a single coded error as it is, and all hints of several.
func join(errs []error) error {
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	}
	var hints []string
	for _, err := range errs {
		hints = append(hints, hintsOf(err)...)
	}
	return fault.New(fault.Of(errs[0]).Code, errors.Join(errs...)).Hint("%s", strings.Join(hints, "; then "))
}

func hintsOf(err error) []string {
	var out []string
	for _, line := range strings.Split(fault.Render(err), "\n") {
		if h, ok := strings.CutPrefix(line, "hint: "); ok {
			out = append(out, h)
		}
	}
	return out
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// missing returns the packages that are not there, sorted, each once.
func missing(n Needs, root bool, look func(string) (string, error), exists func(string) bool) []string {
	var pkgs []string
	for _, p := range programs(root) {
		if _, err := look(p.name); err != nil {
			pkgs = append(pkgs, p.pkg)
		}
	}
	for file, pkg := range n.Keyrings {
		if !exists(file) {
			pkgs = append(pkgs, pkg)
		}
	}
	slices.Sort(pkgs)
	return slices.Compact(pkgs)
}

// command is what a person would type.
func command(pkgs []string, root bool) string {
	c := "apt-get update && apt-get install --yes --no-install-recommends " + strings.Join(pkgs, " ")
	if root {
		return c
	}
	return "sudo sh -c '" + c + "'"
}

func install(ctx context.Context, run sh.Runner, pkgs []string) error {
	env := []string{"DEBIAN_FRONTEND=noninteractive"}
	for _, args := range [][]string{{"update"}, append([]string{"install", "--yes", "--no-install-recommends"}, pkgs...)} {
		if err := run.Run(ctx, sh.Cmd{Name: "apt-get", Args: args, Env: env}); err != nil {
			return fault.New(fault.HostTools, err).Hint("run: %s", command(pkgs, true))
		}
	}
	return nil
}

// subIDs checks that mmdebstrap's unshare mode has a range of users to map.
func subIDs() error {
	u, err := user.Current()
	if err != nil {
		return err
	}
	var errs []error
	for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
		data, err := os.ReadFile(file)
		if err != nil || !hasRange(string(data), u.Username, u.Uid) {
			errs = append(errs, fmt.Errorf("%s has no range for %s", file, u.Username))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return fault.New(fault.UserNamespace, errors.Join(errs...)).
		Hint("run: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s", u.Username)
}

func hasRange(text, name, uid string) bool {
	for _, line := range strings.Split(text, "\n") {
		f := strings.Split(line, ":")
		if len(f) == 3 && (f[0] == name || f[0] == uid) {
			return true
		}
	}
	return false
}

func space(dir string, need int64) error {
	for !exists(dir) && dir != "/" {
		dir = filepath.Dir(dir)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	if free := int64(st.Bavail) * st.Bsize; free < need {
		return fault.Newf(fault.HostSpace, "%s has %.1f GB free, the build needs %.1f GB", dir, float64(free)/1e9, float64(need)/1e9).
			Hint("free some space, or set CC_OUT_DIR to a folder on a larger disk")
	}
	return nil
}

func memory(need int64) error {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return err
	}
	have, err := available(string(data))
	if err != nil {
		return err
	}
	if have < need {
		return fault.Newf(fault.HostSpace, "%.1f GB of memory are available, the build needs %.1f GB", float64(have)/1e9, float64(need)/1e9)
	}
	return nil
}

// available reads MemAvailable, in bytes.
func available(meminfo string) (int64, error) {
	for _, line := range strings.Split(meminfo, "\n") {
		var kib int64
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); n == 1 {
			return kib << 10, nil
		}
	}
	return 0, errors.New("/proc/meminfo has no MemAvailable")
}
