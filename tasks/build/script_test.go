package build_test

// What green does not prove: no script builds anything, each one ends before
// the first stage. That a configuration which is accepted also builds and
// boots is proven by the pipeline and boot tests alone. The second build is
// kept out by a lock that the test itself holds, the read-only checkout is one by
// its permissions, not by its mount, and a running guest is this process.

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// TestScripts runs testdata/script over the real mage binary. A script starts
// in a checkout that has no more than the targets need: an empty magefiles,
// which is what marks one, and the shipped config.
func TestScripts(t *testing.T) {
	t.Parallel()
	bin := t.TempDir()
	compileMage(t, filepath.Join(bin, "mage"))
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", bin+":"+env.Getenv("PATH"))
			if err := os.Mkdir(filepath.Join(env.WorkDir, "magefiles"), 0o755); err != nil {
				return err
			}
			// The facts of other machines, for the targets that judge one.
			if err := os.CopyFS(filepath.Join(env.WorkDir, "hosts"), os.DirFS("../facts/testdata")); err != nil {
				return err
			}
			return os.CopyFS(filepath.Join(env.WorkDir, "config"), os.DirFS(shippedConfig))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exitcode": exitcode, "bound": bound, "refused": refused, "hold": hold, "image": image, "guest": guest, "program": program,
		},
		Condition: condition,
	})
}

const shippedConfig = "../../config"

// compileMage compiles the magefiles to file. It works on a copy of them in a
// folder outside the checkout, which a workspace ties to our module: mage puts
// a generated file beside the magefiles, and two mages at work in one folder
// take it away from each other (magefile/mage issue 247).
func compileMage(t *testing.T, file string) {
	t.Helper()
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "magefiles"), os.DirFS(filepath.Join(repo, "magefiles"))); err != nil {
		t.Fatal(err)
	}
	work := filepath.Join(dir, "go.work")
	for _, args := range [][]string{{"work", "init", repo}, {"tool", "mage", "-compile", file}} {
		cmd := exec.Command("go", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOWORK="+work)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// exitcode N PROGRAM ARG... wants that exit status; the output can be looked
// at as after exec.
func exitcode(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// bound N PROGRAM ARG... is exitcode for a process that permissions bind: root
// gives up what puts it above them.
func bound(ts *testscript.TestScript, neg bool, args []string) {
	if os.Geteuid() == 0 {
		drop := []string{"setpriv", "--bounding-set=-dac_override,-dac_read_search"}
		args = append(append(args[:1:1], drop...), args[1:]...)
	}
	exitcode(ts, neg, args)
}

// refused NAME lays the files in the folder NAME over the shipped
// configuration. build and config:validate must then say what NAME/want says,
// byte for byte and with paths below the configuration's folder, end with exit
// status 2, and leave every file of the script as it was.
func refused(ts *testscript.TestScript, neg bool, args []string) {
	layer, config := ts.MkAbs(args[0]), ts.MkAbs("broken")
	ts.Check(os.RemoveAll(config))
	ts.Check(os.CopyFS(config, os.DirFS(shippedConfig)))
	ts.Check(fs.WalkDir(os.DirFS(layer), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || name == "want" {
			return err
		}
		data, err := os.ReadFile(filepath.Join(layer, name))
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(config, name), data, 0o644)
	}))
	ts.Setenv("CC_CONFIG_DIR", config)
	want := "Error: cc-base: " + ts.ReadFile(filepath.Join(layer, "want")) +
		"code: CC0101 (explain with `mage explain CC0101`)\n"
	before := listing(ts)
	for _, target := range []string{"build", "config:validate"} {
		exitcode(ts, neg, []string{"2", "mage", target})
		got := strings.ReplaceAll(ts.ReadFile("stderr"), config+string(filepath.Separator), "")
		if diff := cmp.Diff(want, got); diff != "" {
			ts.Fatalf("%s: mage %s (-want +got):\n%s", args[0], target, diff)
		}
		if out := ts.ReadFile("stdout"); out != "" {
			ts.Fatalf("%s: mage %s printed to stdout: %s", args[0], target, out)
		}
	}
	if diff := cmp.Diff(before, listing(ts)); diff != "" {
		ts.Fatalf("%s: something was written (-before +after):\n%s", args[0], diff)
	}
}

// listing describes every file of the script, so that a write to any shows.
func listing(ts *testscript.TestScript) []string {
	var lines []string
	ts.Check(filepath.WalkDir(ts.MkAbs("."), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		lines = append(lines, fmt.Sprintf("%s %s %d %s", path, info.Mode(), info.Size(), info.ModTime()))
		return nil
	}))
	return lines
}

// hold FILE locks the file until the script ends, as a build in another
// process would, and sets HOLDER to that process's number.
func hold(ts *testscript.TestScript, _ bool, args []string) {
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_CREATE|os.O_RDWR, 0o644)
	ts.Check(err)
	ts.Defer(func() { _ = f.Close() })
	ts.Check(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	holder := strconv.Itoa(os.Getpid())
	_, err = f.WriteString(holder)
	ts.Check(err)
	ts.Setenv("HOLDER", holder)
}

// image DIR puts something that can be measured where a build puts its image.
func image(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	ts.Check(imageIn(dir))
}

// program copies into the checkout what the stages are made from, so that targets
// that look at stages have something to look at.
func program(ts *testscript.TestScript, _ bool, _ []string) {
	for _, dir := range []string{"tasks", "overlays", "installer", "validation"} {
		ts.Check(os.CopyFS(ts.MkAbs(dir), os.DirFS(filepath.Join("..", "..", dir))))
	}
	sums, err := os.ReadFile("../../go.sum")
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs("go.sum"), sums, 0o644))
}

// guest SOCKET FILE serves the socket as a guest whose TPM holds what FILE, the
// output of tpm:pcrs -json, predicts; without FILE, what no image measures.
func guest(ts *testscript.TestScript, _ bool, args []string) {
	g := &fakeGuest{epoch: 1}
	var p prediction
	if len(args) > 1 {
		ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[1])), &p))
	}
	g.measuring(p)
	socket := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(filepath.Dir(socket), 0o755))
	stop, err := g.listen(socket)
	ts.Check(err)
	ts.Defer(stop)
}

// condition knows [buildable]: this machine has what a build asks of it before
// it looks at its output folder; a build by root would install it. Under
// CI=true a machine without it fails the script, so that no skip hides there.
func condition(name string) (bool, error) {
	if name != "buildable" {
		return false, fmt.Errorf("unknown condition %q", name)
	}
	_, err := exec.LookPath("mmdebstrap")
	if err == nil && os.Geteuid() != 0 {
		_, err = exec.LookPath("newuidmap")
	}
	if err != nil && os.Getenv("CI") == "true" {
		return false, err
	}
	return err == nil, nil
}
