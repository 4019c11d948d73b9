package host

// What green does not prove: nothing is installed and no user namespace is
// entered; the machine is a struct of answers and its programs are recorded.
// That the packages have these names on every supported host is seen only
// where a build runs.

import (
	"context"
	"errors"
	"io/fs"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/fault"
	"cc-base/tasks/sh"
)

const gb = 1_000_000_000

func needs() Needs {
	return Needs{
		Keyrings: map[string]string{"/keys/debian.gpg": "debian-archive-keyring", "/keys/ubuntu.gpg": "ubuntu-keyring"},
		Dir:      "/build/out/test", Space: 20 * gb, Memory: 2 * gb,
	}
}

// fake is a machine on which everything is there, to be changed by a test.
func fake(uid int, without ...string) machine {
	return machine{
		uid: uid,
		look: func(name string) (string, error) {
			if slices.Contains(without, name) {
				return "", errors.New("not found")
			}
			return "/usr/bin/" + name, nil
		},
		exists: func(path string) bool { return !slices.Contains(without, path) },
		read: func(file string) ([]byte, error) {
			text, ok := map[string]string{
				"/etc/subuid":   "alice:100000:65536\n",
				"/etc/subgid":   "alice:100000:65536\n",
				"/proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable:    4000000 kB\n",
			}[file]
			if !ok || slices.Contains(without, file) {
				return nil, fs.ErrNotExist
			}
			return []byte(text), nil
		},
		user: func() (*user.User, error) { return &user.User{Username: "alice", Uid: "1000"}, nil },
		free: func(string) (int64, error) { return 100 * gb, nil },
	}
}

func quiet(string, ...any) {}

func TestMissingPackagesAreListedOnceAndSorted(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		root    bool
		without []string
		want    []string
	}{
		{"nothing is missing", false, nil, nil},
		{"a program", false, []string{"mmdebstrap"}, []string{"mmdebstrap"}},
		{"a program whose package has another name", false, []string{"unshare", "apt-get"}, []string{"apt", "util-linux"}},
		{"an ordinary user needs uidmap", false, []string{"newuidmap"}, []string{"uidmap"}},
		{"root needs no uidmap", true, []string{"newuidmap"}, nil},
		{"a keyring", true, []string{"/keys/ubuntu.gpg"}, []string{"ubuntu-keyring"}},
		{"all of it", false, []string{"tar", "mmdebstrap", "newuidmap", "unshare", "apt-get", "/keys/debian.gpg", "/keys/ubuntu.gpg"},
			[]string{"apt", "debian-archive-keyring", "mmdebstrap", "tar", "ubuntu-keyring", "uidmap", "util-linux"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := fake(0, tt.without...)
			if diff := cmp.Diff(tt.want, missing(needs(), tt.root, m.look, m.exists)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	n := needs()
	n.Keyrings = map[string]string{"/a": "keys", "/b": "keys"}
	m := fake(0, "/a", "/b")
	if got := missing(n, true, m.look, m.exists); !slices.Equal(got, []string{"keys"}) {
		t.Errorf("one package for two files: %v", got)
	}
}

func TestTheCommandIsWhatAPersonWouldType(t *testing.T) {
	t.Parallel()
	const plain = "apt-get update && apt-get install --yes --no-install-recommends tar uidmap"
	if got := command([]string{"tar", "uidmap"}, true); got != plain {
		t.Errorf("as root: %s", got)
	}
	if got := command([]string{"tar", "uidmap"}, false); got != "sudo sh -c '"+plain+"'" {
		t.Errorf("as a user: %s", got)
	}
}

func TestARangeOfUsersIsReadAsMmdebstrapDoes(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, text string
		want       bool
	}{
		{"an empty file", "", false},
		{"the user's line", "alice:100000:65536\n", true},
		{"a line without an end", "alice:100000:65536", true},
		{"among others", "bob:100000:65536\nalice:165536:65536\n", true},
		{"another user's", "bob:100000:65536\n", false},
		{"a name that begins alike", "alice2:100000:65536\n", false},
		{"the number instead of the name", "1000:100000:65536\n", false},
		{"a larger range", "alice:100000:1000000\n", true},
		{"too small a range", "alice:100000:65535\n", false},
		{"the first line decides", "alice:100000:1\nalice:200000:65536\n", false},
		{"too few fields", "alice:100000\n", false},
		{"too many fields", "alice:100000:65536:x\n", false},
		{"not a number", "alice:many:65536\n", false},
		{"a negative count", "alice:100000:-65536\n", false},
		{"a comment", "# alice:100000:65536\n", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := hasRange(tt.text, "alice"); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestAvailableMemoryIsReadInBytes(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, text string
		want       int64
		fails      bool
	}{
		{"as the kernel prints it", "MemTotal:       16000000 kB\nMemFree:  1 kB\nMemAvailable:   12000000 kB\n", 12000000 << 10, false},
		{"none", "MemAvailable: 0 kB", 0, false},
		{"a kernel that does not say", "MemTotal: 16000000 kB\n", 0, true},
		{"not a number", "MemAvailable: much\n", 0, true},
		{"empty", "", 0, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got, err := available(tt.text); got != tt.want || (err != nil) != tt.fails {
				t.Errorf("got %d, %v", got, err)
			}
		})
	}
}

func TestSeveralProblemsAreJoined(t *testing.T) {
	t.Parallel()
	plain := errors.New("plain")
	tools := fault.Newf(fault.HostTools, "tools").Hint("install")
	space := fault.Newf(fault.HostSpace, "space").Hint("free some")
	tests := []struct {
		name string
		errs []error
		code fault.Code
		want string // text and hints
	}{
		{"one stays as it is", []error{space}, fault.HostSpace, "space|free some"},
		{"one without a code stays as it is", []error{plain}, "", "plain"},
		{"all hints are kept", []error{tools, space}, fault.HostTools, "tools|space|install|free some"},
		{"the first has no code", []error{plain, space}, fault.HostSpace, "plain|space|free some"},
		{"none has a code", []error{plain, plain}, "", "plain|plain"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := join(tt.errs)
			var code fault.Code
			if f := fault.Of(err); f != nil {
				code = f.Code
			}
			if code != tt.code {
				t.Errorf("got code %q, want %q", code, tt.code)
			}
			if got := rendered(err); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
	if err := join(nil); err != nil {
		t.Errorf("no problem: %v", err)
	}
}

// rendered is what the user sees, on one line and without the code's line.
func rendered(err error) string {
	var lines []string
	for line := range strings.Lines(fault.Render(err)) {
		line = strings.TrimSuffix(line, "\n")
		if !strings.HasPrefix(line, "code: ") {
			lines = append(lines, strings.TrimPrefix(line, "hint: "))
		}
	}
	return strings.Join(lines, "|")
}

const probe = "unshare --user --map-root-user --mount --pid --net --ipc --fork true\n"

func TestAMachineThatHasEverythingPasses(t *testing.T) {
	t.Parallel()
	for _, uid := range []int{0, 1000} {
		var run sh.Recorder
		if err := fake(uid).check(t.Context(), &run, needs(), quiet); err != nil {
			t.Errorf("user %d: %v", uid, err)
		}
		if got := run.Transcript(); got != probe {
			t.Errorf("user %d: ran %q", uid, got)
		}
	}
}

func TestRootInstallsWhatIsMissing(t *testing.T) {
	t.Parallel()
	m := fake(0)
	installed := false
	m.exists = func(path string) bool { return installed || path != "/keys/debian.gpg" }
	run := sh.Recorder{Answer: func(c sh.Cmd) (string, error) {
		if c.Name == "apt-get" && !slices.Contains(c.Env, "DEBIAN_FRONTEND=noninteractive") {
			t.Error("apt-get may ask")
		}
		installed = installed || c.Args[0] == "install"
		return "", nil
	}}
	var said []string
	if err := m.check(t.Context(), &run, needs(), func(f string, a ...any) { said = append(said, a[0].(string)) }); err != nil {
		t.Error(err)
	}
	want := "apt-get update\napt-get install --yes --no-install-recommends debian-archive-keyring\n" + probe
	if diff := cmp.Diff(want, run.Transcript()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !slices.Equal(said, []string{"debian-archive-keyring"}) {
		t.Errorf("said %q", said)
	}
}

func TestAPackageThatDoesNotBringItsFileIsStillMissing(t *testing.T) {
	t.Parallel()
	var run sh.Recorder
	err := fake(0, "/keys/debian.gpg").check(t.Context(), &run, needs(), quiet)
	if err == nil || !strings.Contains(err.Error(), "missing on this machine: debian-archive-keyring") {
		t.Errorf("got %v", err)
	}
}

func TestAFailedInstallationNamesTheCommand(t *testing.T) {
	t.Parallel()
	run := sh.Recorder{Answer: func(sh.Cmd) (string, error) { return "", errors.New("no route to host") }}
	err := fake(0, "mmdebstrap").check(t.Context(), &run, needs(), quiet)
	if f := fault.Of(err); f == nil || f.Code != fault.HostTools {
		t.Fatalf("got %v", err)
	}
	if got := rendered(err); got != "no route to host|run: "+command([]string{"mmdebstrap"}, true) {
		t.Errorf("got %s", got)
	}
	if run.Transcript() != "apt-get update\n" {
		t.Errorf("ran %q after a failure", run.Transcript())
	}
}

func TestAUserIsToldEverythingAtOnce(t *testing.T) {
	t.Parallel()
	m := fake(1000, "mmdebstrap", "newuidmap", "/etc/subuid", "/build/out/test", "/build/out")
	var asked string
	m.free = func(dir string) (int64, error) { asked = dir; return 1.5 * gb, nil }
	n := needs()
	n.Memory = 64 * gb
	run := sh.Recorder{Answer: func(c sh.Cmd) (string, error) { return "", errors.New("unshare: not permitted") }}
	err := m.check(t.Context(), &run, n, quiet)
	if f := fault.Of(err); f == nil || f.Code != fault.HostTools {
		t.Fatalf("got %v", err)
	}
	got := fault.Render(err)
	for _, want := range []string{
		"these packages are missing on this machine: mmdebstrap uidmap\n",
		"unshare: not permitted\n",
		"/etc/subuid has no range of 65536 for alice\n",
		"/build has 1.5 GB free, the build needs 20.0 GB\n",
		"4.1 GB of memory are available, the build needs 64.0 GB\n",
		"hint: run: sudo sh -c 'apt-get update && apt-get install --yes --no-install-recommends mmdebstrap uidmap'\n",
		"hint: run: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 alice\n",
		"hint: free some space, or set CC_OUT_DIR to a folder on a larger disk",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in:\n%s", want, got)
		}
	}
	if asked != "/build" {
		t.Errorf("free space of %q, want that of the first folder that exists", asked)
	}
	if run.Transcript() != probe {
		t.Errorf("a user's build ran %q", run.Transcript())
	}
}

func TestWhatCannotBeReadIsAnErrorAndNotACrash(t *testing.T) {
	t.Parallel()
	m := fake(1000, "/proc/meminfo")
	broken := errors.New("no such user")
	m.user = func() (*user.User, error) { return nil, broken }
	m.free = func(string) (int64, error) { return 0, fs.ErrPermission }
	err := m.check(t.Context(), &sh.Recorder{}, needs(), quiet)
	for _, want := range []error{broken, fs.ErrPermission, fs.ErrNotExist} {
		if !errors.Is(err, want) {
			t.Errorf("%v is not in %v", want, err)
		}
	}
}

// This machine's own answers: whatever they are, they come.
func TestThisMachineAnswers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if n, err := free(dir); err != nil || n <= 0 {
		t.Errorf("free space: %d, %v", n, err)
	}
	if _, err := free(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
	if !exists(dir) || exists(filepath.Join(dir, "none")) {
		t.Error("exists is wrong")
	}
	run := sh.Recorder{Answer: func(sh.Cmd) (string, error) { return "", context.Canceled }}
	if err := Check(t.Context(), &run, Needs{Dir: dir}, quiet); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
