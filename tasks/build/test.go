package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"cc-base/tasks/fault"
	"cc-base/tasks/lab"
	"cc-base/tasks/tee/ovmf/ovmftest"
)

// Test builds the minimal image in an output folder of its own and runs every
// test on it: first the packages side by side, then the boots alone, because
// two emulated machines at once run no faster than one after the other.
func Test(ctx context.Context, o Options) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	o.Profile = "minimal"
	o.OutDir = filepath.Join(o.OutDir, "test")
	o.LookupEnv = testKey(o.LookupEnv)
	tools, images, libvirt := "", "", ""
	err := with(ctx, o, func(ctx context.Context, b *Build) (err error) {
		tools, images = b.Tools.Dir, b.scratch("firmware")
		if libvirt, err = b.testHost(ctx); err != nil {
			return err
		}
		return b.Through(ctx, "sign")
	})
	if err != nil {
		return err
	}
	// A new name each time, so that go takes no result of those who write to it
	// from its cache.
	notRun, err := os.CreateTemp("", "cc-base-not-run-")
	if err != nil {
		return err
	}
	defer os.Remove(notRun.Name())
	defer notRun.Close()
	t := suite{ctx: ctx, repo: o.Repo, env: append(os.Environ(),
		lab.ToolsEnv+"="+tools, lab.HostEnv+"="+libvirt, lab.OutEnv+"="+o.OutDir, "CC_CACHE_DIR="+o.CacheDir,
		ovmftest.FirmwareEnv+"="+images, ovmftest.NotRunEnv+"="+notRun.Name())}
	t.run("go", "vet", "./...")
	t.run("go", "vet", "-tags", "mage", "./magefiles/...")
	packages, err := t.packages()
	if err != nil {
		return err
	}
	boots, rest := split(packages)
	t.run("go", append(raceFlag("test", "-timeout=60m"), rest...)...)
	t.run("go", append([]string{"test", "-v", "-timeout=60m"}, boots...)...)
	if lab.Long() {
		t.fuzz(rest)
	}
	if err := showNotRun(os.Stderr, notRun); err != nil {
		return err
	}
	if len(t.failed) > 0 {
		return fault.Newf(fault.Command, "failed: %s", strings.Join(t.failed, "; "))
	}
	return nil
}

// showNotRun names the tests that lacked firmware which this machine could not
// get: a run in which they were skipped must not look like one in which they
// passed.
func showNotRun(w io.Writer, from io.Reader) error {
	text, err := io.ReadAll(from)
	if err != nil {
		return err
	}
	lines := strings.FieldsFunc(string(text), func(r rune) bool { return r == '\n' })
	slices.Sort(lines)
	for _, line := range slices.Compact(lines) {
		fmt.Fprintf(w, "test: not run: %s\n", line)
	}
	return nil
}

// testKey makes the image under test signed even under CI=true, where a build
// without a given key is not: the project key of out/test is as good for a
// test as any other.
func testKey(look func(string) (string, bool)) func(string) (string, bool) {
	return func(name string) (string, bool) {
		if name == "CI" {
			return "", false
		}
		return look(name)
	}
}

type suite struct {
	ctx    context.Context
	repo   string
	env    []string
	failed []string
}

// run shows the command's output as it comes and notes a failure; the next
// command runs all the same, so that one run shows everything that is wrong.
func (s *suite) run(name string, args ...string) {
	if s.ctx.Err() != nil {
		return
	}
	line := name + " " + strings.Join(args[:min(len(args), 4)], " ")
	fmt.Fprintf(os.Stderr, "test: %s\n", line)
	cmd := exec.CommandContext(s.ctx, name, args...)
	cmd.Dir, cmd.Env = s.repo, s.env
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		s.failed = append(s.failed, fmt.Sprintf("%s: %v", line, err))
	}
}

func (s *suite) packages() ([]string, error) {
	cmd := exec.CommandContext(s.ctx, "go", "list", "./...")
	cmd.Dir, cmd.Env = s.repo, s.env
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	return strings.Fields(string(out)), nil
}

// split takes the package of the boots out of the others.
func split(packages []string) (boots, rest []string) {
	for _, p := range packages {
		if strings.HasSuffix(p, "/tasks/lab") {
			boots = append(boots, p)
			continue
		}
		rest = append(rest, p)
	}
	return boots, rest
}

// raceFlag adds -race where there is a C compiler, which the race detector
// needs and a machine with only Go has not.
func raceFlag(args ...string) []string {
	if _, err := exec.LookPath("gcc"); err != nil {
		fmt.Fprintln(os.Stderr, "test: no gcc here: without the race detector")
		return args
	}
	return append(args, "-race")
}

// fuzzTime is how long a fuzz target runs: longest where the input is a header
// that a host may have written, and a mistake opens a volume.
func fuzzTime(pkg string) string {
	if strings.HasSuffix(pkg, "/tasks/seal/header") {
		return "60s"
	}
	return "15s"
}

// fuzz runs every fuzz target for a while.
func (s *suite) fuzz(packages []string) {
	for _, pkg := range packages {
		dir := filepath.Join(s.repo, strings.TrimPrefix(pkg, "cc-base"))
		targets, err := fuzzTargets(dir)
		if err != nil {
			s.failed = append(s.failed, err.Error())
			continue
		}
		for _, name := range targets {
			// Making an interesting input smaller takes up to a minute of its own, in
			// which nothing is tried: the header's target ran seven inputs in 60 s.
			s.run("go", "test", "-run=^$", "-fuzz=^"+name+"$", "-fuzztime="+fuzzTime(pkg), "-fuzzminimizetime=1x", pkg)
		}
	}
}

func fuzzTargets(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		return nil, err
	}
	var names []string
	var errs []error
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, line := range strings.Split(string(data), "\n") {
			rest, ok := strings.CutPrefix(line, "func Fuzz")
			if name, _, found := strings.Cut(rest, "("); ok && found {
				names = append(names, "Fuzz"+name)
			}
		}
	}
	slices.Sort(names)
	return names, errors.Join(errs...)
}
