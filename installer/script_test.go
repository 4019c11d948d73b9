package main

// What green does not prove: no machine boots from what is installed here, and
// the disks are files and loop devices. Real NVMe, SATA and USB hardware, its
// write caches and its errors are met on test hardware only.

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"cc-base/installer/installertest"
)

// built is the real program: static, as it is shipped.
var built = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "cc-install")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "cc-install")
	cmd := exec.Command("go", "build", "-trimpath", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return os.ReadFile(path)
})

// folder returns the installer folder as the tarball has it.
func folder() (*installertest.Folder, error) {
	f := installertest.New().Plain()
	program, err := built()
	if err != nil {
		return nil, err
	}
	f.Files["cc-install"] = program
	f.Modes["cc-install"] = 0o755
	for _, pattern := range []string{"*.sh", "../validation/*.sh"} {
		scripts, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		for _, script := range scripts {
			name := filepath.Base(script)
			if filepath.Dir(script) != "." {
				name = "validation/" + name
			}
			if f.Files[name], err = os.ReadFile(script); err != nil {
				return nil, err
			}
			f.Modes[name] = 0o755
		}
	}
	return f, nil
}

func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			f, err := folder()
			if err != nil {
				return err
			}
			dir := filepath.Join(env.WorkDir, "installer")
			if err := os.Mkdir(dir, 0o755); err != nil {
				return err
			}
			env.Setenv("PATH", dir+string(filepath.ListSeparator)+env.Getenv("PATH"))
			env.Setenv("CC_STATE_DIR", filepath.Join(env.WorkDir, "state"))
			env.Setenv("GNUPGHOME", filepath.Join(env.WorkDir, "gnupg"))
			// validate.sh writes settings files, which must not be this machine's.
			env.Setenv("CC_SETTINGS_ROOT", filepath.Join(env.WorkDir, "host"))
			for _, name := range []string{"gnupg", "host"} {
				if err := os.Mkdir(filepath.Join(env.WorkDir, name), 0o700); err != nil {
					return err
				}
			}
			return f.Write(dir)
		},
		Condition: func(name string) (bool, error) {
			switch name {
			case "gpg":
				_, err := exec.LookPath("gpg")
				return err == nil, nil
			}
			return false, fmt.Errorf("unknown condition %q", name)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"disk": makeDisk, "flip": flip, "untouched": untouched, "status": status, "put": putText,
		},
	})
}

const used = 0xa5 // what a used disk holds in every byte

// disk FILE MIB makes a used disk.
func makeDisk(ts *testscript.TestScript, _ bool, args []string) {
	mib, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), bytes.Repeat([]byte{used}, mib<<20), 0o600))
}

// untouched FILE wants a disk as disk made it.
func untouched(ts *testscript.TestScript, _ bool, args []string) {
	raw, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	if bytes.Count(raw, []byte{used}) != len(raw) || len(raw) == 0 {
		ts.Fatalf("%s was written to", args[0])
	}
}

// flip FILE OFFSET changes one bit of a byte.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	off, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_RDWR, 0)
	ts.Check(err)
	defer f.Close()
	var b [1]byte
	_, err = f.ReadAt(b[:], off)
	ts.Check(err)
	b[0] ^= 1
	_, err = f.WriteAt(b[:], off)
	ts.Check(err)
}

// putText writes text into a file: put FILE OFFSET TEXT.
func putText(ts *testscript.TestScript, _ bool, args []string) {
	off, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_WRONLY, 0)
	ts.Check(err)
	defer f.Close()
	_, err = f.WriteAt([]byte(args[2]), off)
	ts.Check(err)
}

// status N PROGRAM ARG... wants the exit status; the output is shown.
func status(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		exit, ok := err.(*exec.ExitError)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// The program must not need a C library of the host.
func TestTheProgramIsStatic(t *testing.T) {
	t.Parallel()
	program, err := built()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(program, []byte("/lib64/ld-linux")) {
		t.Error("it names a dynamic linker")
	}
}

// app returns the program in-process, with what it wrote.
func inProcess(root fs.FS, stdin string, terminal bool) (*app, *bytes.Buffer) {
	var out bytes.Buffer
	return &app{root: root, getenv: hostless, stdin: bytes.NewBufferString(stdin), out: &out, err: io.MultiWriter(&out), asks: terminal}, &out
}

// hostless is the environment of tests: what they do not keep elsewhere with
// --state ends in an error, not on this machine.
func hostless(name string) string {
	if name == "CC_STATE_DIR" {
		return "/dev/null/state"
	}
	return ""
}
