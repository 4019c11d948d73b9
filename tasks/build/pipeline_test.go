package build_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cc-base/tasks/compare"
	"cc-base/tasks/lab"
)

// checkout is a copy of this checkout that a test may change, with its own
// output folder and its own cache, and mage run in it as a user would. The cache
// has the tools tree and no result of any stage: a build that took its results
// from another one would prove nothing.
type checkout struct {
	dir, out, tmp, cache string
	env                  []string
}

func newCheckout(t *testing.T, image lab.Image) checkout {
	t.Helper()
	shared := os.Getenv("CC_CACHE_DIR")
	if shared == "" {
		lab.Absent(t, "CC_CACHE_DIR is not set: run `go tool mage test`")
	}
	// A path with a space and a letter beyond ASCII: users have such homes.
	base := filepath.Join(t.TempDir(), "mit Größe")
	c := checkout{dir: filepath.Join(base, "cc base"), out: filepath.Join(base, "out put"), tmp: filepath.Join(base, "tmp"), cache: filepath.Join(base, "cache")}
	for _, d := range []string{c.dir, filepath.Join(c.out, "keys"), c.tmp, c.cache} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	copyCheckout(t, c.dir)
	if err := os.Symlink(filepath.Join(shared, "tools"), filepath.Join(c.cache, "tools")); err != nil {
		t.Fatal(err)
	}
	// The firmware that the other build got, if it got any: the archive of the
	// testing suite is not to be asked by every test.
	err := os.CopyFS(filepath.Join(c.cache, "firmware"), os.DirFS(filepath.Join(shared, "firmware")))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	// The same keys, so that signed files can be compared.
	for _, k := range []string{"image.key", "secureboot", "pcr"} {
		if err := exec.Command("cp", "-a", image.Path("keys", k), filepath.Join(c.out, "keys")).Run(); err != nil {
			t.Fatal(err)
		}
	}
	c.env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "CC_") || strings.HasPrefix(kv, "CI=") || strings.HasPrefix(kv, "TMPDIR=")
	}), "CC_PROFILE=minimal", "CC_OUT_DIR="+c.out, "CC_CACHE_DIR="+c.cache, "TMPDIR="+c.tmp)
	return c
}

func copyCheckout(t *testing.T, to string) {
	t.Helper()
	from, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() == "out" || e.Name() == ".git" {
			continue
		}
		if out, err := exec.Command("cp", "-a", filepath.Join(from, e.Name()), to).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
}

func (c checkout) mage(args ...string) *exec.Cmd {
	cmd := exec.Command("go", append([]string{"tool", "mage"}, args...)...)
	cmd.Dir, cmd.Env = c.dir, c.env
	return cmd
}

// build runs `mage build` and returns the stages that ran.
func (c checkout) build(t *testing.T) (ran []string, took time.Duration) {
	t.Helper()
	began := time.Now()
	out, err := c.mage("build").CombinedOutput()
	if err != nil {
		t.Fatalf("mage build: %v\n%s", err, out)
	}
	return stagesIn(string(out)), time.Since(began)
}

func stagesIn(out string) []string {
	var ran []string
	for _, line := range strings.Split(out, "\n") {
		name, what, _ := strings.Cut(line, ":")
		if strings.Contains(what, "nothing has changed") {
			continue
		}
		known := []string{"prepare", "bootstrap", "baseos", "tee", "initrd", "encrypt", "apps", "firmware", "package", "sign"}
		if slices.Contains(known, name) && !slices.Contains(ran, name) {
			ran = append(ran, name)
		}
	}
	return ran
}

// interrupt runs `mage build` until it prints a line with mark, signals it and
// checks that everything it started has gone.
func (c checkout) interrupt(t *testing.T, mark string, signal syscall.Signal) {
	t.Helper()
	terminated := signal == syscall.SIGTERM
	cmd := c.mage("build")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	mounts := mountinfo(t)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	seen := false
	for lines.Scan() {
		if strings.Contains(lines.Text(), mark) {
			seen = true
			break
		}
	}
	if !seen {
		t.Fatalf("mage build ended without %q", mark)
	}
	time.Sleep(2 * time.Second) // into the middle of it
	pid := cmd.Process.Pid
	if !terminated {
		pid = -pid // Ctrl-C on a terminal reaches the whole group
	}
	if err := syscall.Kill(pid, signal); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
	}
	// The exit status says nothing after SIGTERM: the go command exits with 0
	// when its tool was killed by a signal (go 1.26 cmd/go/internal/tool,
	// SetExitStatus of -1). Under mage itself it is the signal's.
	if err := cmd.Wait(); err == nil && !terminated {
		t.Error("an interrupted build exits with 0")
	}
	deadline := time.Now().Add(15 * time.Second)
	for left := c.processes(t); len(left) > 0; left = c.processes(t) {
		if time.Now().After(deadline) {
			t.Fatalf("still running after 15 s: %v", left)
		}
		time.Sleep(200 * time.Millisecond)
	}
	if now := mountinfo(t); now != mounts {
		t.Errorf("mounts before:\n%s\nafter:\n%s", mounts, now)
	}
	c.nothingHalfWritten(t)
}

// killAll runs `mage build` until it prints a line with mark and then kills
// everything that it has started, at once: nothing can clean up. What is left
// in the place for temporary files is the next build's to remove.
func (c checkout) killAll(t *testing.T, mark string) {
	t.Helper()
	cmd := c.mage("build")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		if strings.Contains(lines.Text(), mark) {
			break
		}
	}
	// Until mmdebstrap has begun to fill its folder.
	begun := filepath.Join(c.tmp, "cc-base-tmp-*", "*", "*")
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if there, err := filepath.Glob(begun); err != nil || len(there) > 0 {
			break
		}
	}
	for left := c.processes(t); len(left) > 0; left = c.processes(t) {
		for _, p := range left {
			pid, err := strconv.Atoi(strings.Fields(p)[0])
			if err != nil {
				t.Fatal(err)
			}
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	_ = cmd.Wait()
	if left, err := filepath.Glob(begun); err != nil || len(left) == 0 {
		t.Errorf("nothing was left behind, so the undo record is not tested (%v)", err)
	}
}

// processes lists what runs with this checkout's TMPDIR.
func (c checkout) processes(t *testing.T) []string {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, d := range dirs {
		env, err := os.ReadFile(filepath.Join(d, "environ"))
		if err != nil || !bytes.Contains(env, []byte("TMPDIR="+c.tmp)) {
			continue
		}
		args, _ := os.ReadFile(filepath.Join(d, "cmdline"))
		left = append(left, filepath.Base(d)+" "+string(bytes.ReplaceAll(args, []byte{0}, []byte(" "))))
	}
	return left
}

func (c checkout) nothingHalfWritten(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir(c.out, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".part") {
			t.Errorf("left behind: %s", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(c.tmp)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if strings.HasPrefix(e.Name(), "mmdebstrap") || strings.HasPrefix(e.Name(), "cc-base-tmp-") {
			t.Errorf("left behind: %s", filepath.Join(c.tmp, e.Name()))
		}
	}
}

func mountinfo(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// One build serves all claims, because it is the dearest thing in the suite:
// interrupted twice, then finished, it equals the image under test; nothing
// changed, nothing runs; one overlay file changed, its stages run.
func TestABuildInterruptedTwiceGivesTheSameBytesAndThenRunsOnlyWhatChanged(t *testing.T) {
	image := lab.Built(t)
	c := newCheckout(t, image)

	c.killAll(t, "bootstrap: debian")
	c.interrupt(t, "bootstrap: debian", syscall.SIGTERM)
	c.interrupt(t, "initrd: making the initrd", syscall.SIGINT)
	if ran, _ := c.build(t); slices.Contains(ran, "bootstrap") {
		t.Error("the finished bootstrap stage was repeated")
	}
	c.equals(t, image)

	ran, took := c.build(t)
	if len(ran) > 0 {
		t.Errorf("nothing changed: %v ran", ran)
	}
	t.Logf("a build with nothing changed took %.2f s", took.Seconds())

	unit := filepath.Join(c.dir, "overlays/base/tree/usr/lib/systemd/system/cc-ready.service")
	f, err := os.OpenFile(unit, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString("# changed by a test\n")
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	ran, took = c.build(t)
	if want := []string{"baseos", "tee", "initrd", "encrypt", "package", "sign"}; !slices.Equal(ran, want) {
		t.Errorf("one overlay file changed: %v ran, want %v", ran, want)
	}
	t.Logf("a build with one overlay file changed took %.1f s", took.Seconds())
}

// equals compares everything that is reproducible. LUKS2 volumes are not: each
// build draws its volume keys, and a test that found them equal would have
// found a defect.
func (c checkout) equals(t *testing.T, image lab.Image) {
	t.Helper()
	if !same(t, image.Path("scratch", "packages.json"), filepath.Join(c.out, "scratch", "packages.json")) {
		t.Fatal("the two builds have different packages: the mirror changed between them; run the test again")
	}
	if !same(t, image.Path("scratch", "firmware", "firmware.json"), filepath.Join(c.out, "scratch", "firmware", "firmware.json")) {
		t.Fatal("the two builds have different firmware: the mirror changed between them, or answered only one; run the test again")
	}
	for _, f := range []string{
		"scratch/rootfs.tar", "scratch/root.tar", "scratch/initrd.img", "scratch/vmlinuz", "scratch/cc-guest",
		"scratch/root.json", "scratch/app.json", "scratch/config.json", "scratch/config.volume",
		"scratch/cc-install", "sbom.cdx.json", "sbom.spdx.json", "scratch/enrolled/OVMF_VARS_4M.cc-base.fd", "cc-base.efi", "measurements.json", "rvps.json",
	} {
		d, err := compare.Files(image.Path(f), filepath.Join(c.out, f))
		if err != nil {
			t.Fatal(err)
		}
		if d != nil {
			t.Errorf("two builds differ: %s: %s", f, d)
		}
	}
	for _, f := range []string{"scratch/root.volume", "scratch/app.volume"} {
		if same(t, image.Path(f), filepath.Join(c.out, f)) {
			t.Errorf("%s is equal in two builds: its volume key is not random", f)
		}
	}
}

func same(t *testing.T, a, b string) bool {
	t.Helper()
	err := exec.CommandContext(context.Background(), "cmp", "-s", a, b).Run()
	var exit *exec.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 1) {
		t.Fatal(fmt.Errorf("comparing %s and %s: %w", a, b, err))
	}
	return err == nil
}
