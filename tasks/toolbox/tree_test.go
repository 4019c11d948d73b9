package toolbox_test

// What green does not prove: the tree is whatever CC_TEST_TOOLS names, run on
// this machine's kernel and by this user. The other kinds of user (root and
// not), AppArmor's restriction of user namespaces and other distributions'
// versions of unshare are seen only where the tests run as such.

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cc-base/tasks/fault"
	"cc-base/tasks/lab"
	"cc-base/tasks/sh"
	"cc-base/tasks/toolbox"
)

// in runs a few lines of shell in the tree and returns what they print.
func in(t *testing.T, tree toolbox.Tree, text string, args ...string) string {
	t.Helper()
	out, err := sh.Text(t.Context(), tree, "sh", append([]string{"-euc", text, "sh"}, args...)...).String()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestAToolSeesBoundFoldersAtTheirOwnPath(t *testing.T) {
	t.Parallel()
	other := t.TempDir()
	tree, dir := lab.Tools(t, other)
	odd := filepath.Join(dir, "a b 'ä' $x")
	if err := os.Mkdir(odd, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(odd, "input"), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tree := range []toolbox.Tree{tree, {Dir: tree.Dir, Host: tree.Host, Binds: []string{odd, other}}} {
		in(t, tree, `cat "$1/input" "$1/input" >"$1/output"; umask 077; echo x >"$2/other"`, odd, other)
		if data, err := os.ReadFile(filepath.Join(odd, "output")); err != nil || string(data) != "hellohello" {
			t.Errorf("written: %q, %v", data, err)
		}
	}
	info, err := os.Stat(filepath.Join(other, "other"))
	if err != nil {
		t.Fatal(err)
	}
	if owner := info.Sys().(*syscall.Stat_t); int(owner.Uid) != os.Geteuid() || int(owner.Gid) != os.Getegid() || info.Mode() != 0o600 {
		t.Errorf("the file belongs to %d:%d with mode %v, want the caller's", owner.Uid, owner.Gid, info.Mode())
	}
}

func TestWithAddsFoldersAndLeavesTheTreeAlone(t *testing.T) {
	t.Parallel()
	base := toolbox.Tree{Binds: append(make([]string, 0, 8), "/a")}
	one, two := base.With("/b"), base.With("/c", "/d")
	for _, tt := range []struct {
		tree toolbox.Tree
		want string
	}{{base, "/a"}, {one, "/a /b"}, {two, "/a /c /d"}} {
		if got := strings.Join(tt.tree.Binds, " "); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
}

func TestAToolIsAloneInItsTree(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	tree, dir := lab.Tools(t)
	tests := []struct{ name, script, want string }{
		{"it is root of its own namespace", `id -u; cat /proc/self/uid_map | wc -l`, "0\n1\n"},
		{"it has the loopback interface alone", `tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '`, "lo\n"},
		{"it sees no other process", `ls /proc | grep -c '^[0-9]*$' >"$1/n"; [ "$(cat "$1/n")" -lt 10 ] && echo few; cat /proc/1/comm`, "few\nsh\n"},
		{"it does not see other folders", `[ -e "$2" ] || echo absent`, "absent\n"},
		{"its /tmp and /run are empty but for what is bound", `ls -A /run | wc -l; touch /run/x /tmp/x && echo writable`, "0\nwritable\n"},
		{"its environment is the tree's", `echo $PATH $HOME $TMPDIR $LC_ALL $TZ; cd "$TMPDIR" && mktemp >/dev/null && echo made`, "/usr/sbin:/usr/bin:/sbin:/bin /tmp /tmp C.UTF-8 UTC\nmade\n"},
		{"it has the machine's devices", `[ -c /dev/null ] && head -c 3 /dev/zero | wc -c`, "3\n"},
		{"it starts in the root", `pwd`, "/\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := in(t, tree, tt.script, dir, outside); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	t.Cleanup(func() {
		// In /run and /tmp of the tree itself nothing may have appeared.
		for _, name := range []string{"run/x", "tmp/x"} {
			if _, err := os.Lstat(filepath.Join(tree.Dir, name)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is in the tree: %v", name, err)
			}
		}
	})
}

func TestACommandsSettingsArePassedOn(t *testing.T) {
	t.Parallel()
	tree, dir := lab.Tools(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.WriteString(w, "descriptor"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	var out bytes.Buffer
	err = tree.Run(t.Context(), sh.Cmd{
		Name: "sh", Args: []string{"-euc", `pwd; cat; echo; cat <&3; echo; echo "$SOURCE_DATE_EPOCH $TMPDIR"; printf '<%s>' "$@"`, "sh", "a b", "", "*", "'"},
		Dir: dir, Env: []string{"SOURCE_DATE_EPOCH=7", "TMPDIR=" + dir}, Stdin: strings.NewReader("standard input"), Stdout: &out, Files: []*os.File{r},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := dir + "\nstandard input\ndescriptor\n7 " + dir + "\n<a b><><*><'>"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

func TestAFailedToolIsNamedAndNotItsWrapping(t *testing.T) {
	t.Parallel()
	tree, dir := lab.Tools(t)
	tests := []struct {
		name string
		cmd  sh.Cmd
		code int
		want string
	}{
		{"a status and the last lines", sh.Cmd{Name: "sh", Args: []string{"-c", "echo out; echo err >&2; exit 42"}}, 42, "sh: exit status 42\n  | out\n  | err"},
		{"a signal, as the shell gives it", sh.Cmd{Name: "sh", Args: []string{"-c", "kill -SEGV $$"}}, 139, "sh: exit status 139"},
		{"a tool that is not in the tree", sh.Cmd{Name: "cc-no-such-tool"}, 127, "cc-no-such-tool: exit status 127\n  | "},
		{"a working directory that is not there", sh.Cmd{Name: "true", Dir: dir + "/none"}, 125, "true: exit status 125\n  | "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := tree.Run(t.Context(), tt.cmd)
			var failed *sh.Error
			if !errors.As(err, &failed) || failed.Code != tt.code || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "unshare") {
				t.Errorf("the user is told about unshare: %v", err)
			}
		})
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for bind, want := range map[string]string{dir + "/none": "no such file", file: "not a folder"} {
		err := tree.With(bind).Run(t.Context(), sh.Cmd{Name: "true"})
		if err == nil || !strings.HasPrefix(err.Error(), "true: ") || !strings.Contains(err.Error(), bind) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s cannot be bound: %v", bind, err)
		}
	}
	if _, err := os.Stat(dir + "/none"); !errors.Is(err, os.ErrNotExist) {
		t.Error("a folder that was not there has been made")
	}
}

// mounts returns the lines of mountinfo that are about the folders.
func mounts(t *testing.T, folders ...string) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for line := range strings.Lines(string(data)) {
		for _, f := range folders {
			if strings.Contains(line, f) {
				b.WriteString(line)
				break
			}
		}
	}
	return b.String()
}

// running counts the machine's processes with the text among their arguments.
func running(t *testing.T, text string) int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range files {
		data, _ := os.ReadFile(f) // it may have ended
		if bytes.Contains(data, []byte(text)) {
			n++
		}
	}
	return n
}

func TestACancelEndsEverythingAndLeavesNoMount(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, script string }{
		{"a tool that heeds SIGTERM", `touch "$1/up"; sleep 300 & wait`},
		{"one that ignores it", `trap '' TERM; touch "$1/up"; sleep 300; sleep 300`},
		{"one that left its process group", `setsid sh -c 'trap "" TERM; touch "$1/up"; sleep 300; : "$1"' sh "$1" >/dev/null 2>&1 & wait`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tree, dir := lab.Tools(t)
			before := mounts(t, tree.Dir, dir)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- sh.Do(ctx, tree, "sh", "-c", tt.script, "sh", dir) }()
			for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
				if _, err := os.Stat(filepath.Join(dir, "up")); err == nil {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("the tool did not start")
				}
			}
			if running(t, dir) == 0 {
				t.Fatal("the tool is not to be seen, so its end would prove nothing")
			}
			cancel()
			select {
			case err := <-done:
				if !errors.Is(err, context.Canceled) || !strings.HasPrefix(err.Error(), "sh: ") {
					t.Errorf("got %v", err)
				}
			case <-time.After(10 * time.Second):
				t.Error("still running 10 s after the cancel")
			}
			for i := 0; running(t, dir) > 0; i++ {
				if i == 200 {
					t.Fatalf("%d processes are left", running(t, dir))
				}
				time.Sleep(10 * time.Millisecond)
			}
			if after := mounts(t, tree.Dir, dir); after != before {
				t.Errorf("mounts before:\n%safter:\n%s", before, after)
			}
		})
	}
}

func TestToolsOfTheTreeRun(t *testing.T) {
	t.Parallel()
	tree, _ := lab.Tools(t)
	for _, tool := range []string{"mkfs.erofs", "veritysetup", "cryptsetup", "ukify", "sbsign", "mcopy", "mkfs.vfat", "sgdisk", "qemu-img", "qemu-system-x86_64", "swtpm", "gpg", "shellcheck", "zstd", "cpio"} {
		in(t, tree, `command -v "$1"`, tool)
	}
}

func TestProbe(t *testing.T) {
	t.Parallel()
	var run sh.Recorder
	if err := toolbox.Probe(t.Context(), &run); err != nil {
		t.Error(err)
	}
	if got, want := run.Transcript(), "unshare --user --map-root-user --mount --pid --net --ipc --fork true\n"; got != want {
		t.Errorf("ran %q, want %q", got, want)
	}
	denied := &sh.Recorder{Answer: func(sh.Cmd) (string, error) { return "", errors.New("unshare: operation not permitted") }}
	err := toolbox.Probe(t.Context(), denied)
	if f := fault.Of(err); f == nil || f.Code != fault.UserNamespace || !strings.Contains(fault.Render(err), "\nhint: ") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := toolbox.Probe(ctx, sh.Host{}); !errors.Is(err, context.Canceled) || fault.Of(err).Code == fault.UserNamespace {
		t.Errorf("a cancel is taken for a machine without user namespaces: %v", err)
	}
}
