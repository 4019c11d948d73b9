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
	"strconv"
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
	return this().check(ctx, run, n, say)
}

// machine is what the check asks of the machine, so that tests can be another.
type machine struct {
	uid    int
	look   func(program string) (string, error)
	exists func(path string) bool
	read   func(file string) ([]byte, error)
	user   func() (*user.User, error)
	free   func(dir string) (int64, error) // bytes
}

func this() machine {
	return machine{os.Geteuid(), exec.LookPath, exists, os.ReadFile, user.Current, free}
}

func (m machine) check(ctx context.Context, run sh.Runner, n Needs, say func(format string, args ...any)) error {
	root := m.uid == 0
	lacks := missing(n, root, m.look, m.exists)
	if len(lacks) > 0 && root {
		say("installing %s", strings.Join(lacks, " "))
		if err := install(ctx, run, lacks); err != nil {
			return err
		}
		lacks = missing(n, root, m.look, m.exists)
	}
	var errs []error
	if len(lacks) > 0 {
		errs = append(errs, fault.Newf(fault.HostTools, "these packages are missing on this machine: %s", strings.Join(lacks, " ")).
			Hint("run: %s", command(lacks, root)))
	}
	if err := toolbox.Probe(ctx, run); err != nil {
		errs = append(errs, err)
	}
	if !root {
		if err := m.subIDs(); err != nil {
			errs = append(errs, err)
		}
	}
	if err := m.space(n.Dir, n.Space); err != nil {
		errs = append(errs, err)
	}
	if err := m.memory(n.Memory); err != nil {
		errs = append(errs, err)
	}
	return join(errs)
}

// join keeps a single error as it is. Several get the code of the first that
// has one; fault.Render shows the hints of all.
func join(errs []error) error {
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	}
	all := errors.Join(errs...)
	if coded := fault.Of(all); coded != nil {
		return fault.New(coded.Code, all)
	}
	return all
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
func (m machine) subIDs() error {
	u, err := m.user()
	if err != nil {
		return err
	}
	var errs []error
	for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
		data, err := m.read(file)
		if err != nil || !hasRange(string(data), u.Username) {
			errs = append(errs, fmt.Errorf("%s has no range of %d for %s", file, ids, u.Username))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return fault.New(fault.UserNamespace, errors.Join(errs...)).
		Hint("run: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s", u.Username)
}

// ids is how many users a Debian tree needs: nobody is 65534.
const ids = 65536

// hasRange reads /etc/subuid as mmdebstrap does, which takes the first line of
// the user's name, and no line of the number (mmdebstrap 1.3.5,
// read_subuid_subgid).
func hasRange(text, name string) bool {
	for _, line := range strings.Split(text, "\n") {
		f := strings.Split(line, ":")
		if f[0] != name {
			continue
		}
		if len(f) != 3 {
			return false
		}
		_, err := strconv.ParseUint(f[1], 10, 32)
		count, err2 := strconv.ParseUint(f[2], 10, 33)
		return err == nil && err2 == nil && count >= ids
	}
	return false
}

func free(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("%s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

func (m machine) space(dir string, need int64) error {
	for !m.exists(dir) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
	}
	free, err := m.free(dir)
	if err != nil {
		return err
	}
	if free < need {
		return fault.Newf(fault.HostSpace, "%s has %.1f GB free, the build needs %.1f GB", dir, float64(free)/1e9, float64(need)/1e9).
			Hint("free some space, or set CC_OUT_DIR to a folder on a larger disk")
	}
	return nil
}

func (m machine) memory(need int64) error {
	data, err := m.read("/proc/meminfo")
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
