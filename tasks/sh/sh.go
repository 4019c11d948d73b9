// Package sh runs programs the way a careful shell script would: an argument
// vector and never a string to be split, one process group per command that is
// ended as a whole, output that is kept for the log and shown only when the
// command fails, secrets on standard input or on an inherited descriptor.
//
// A stage reads like the script that it replaces:
//
//	err := sh.Do(ctx, run, "veritysetup", "verify", data, tree, rootHash)
//	hash, err := sh.Text(ctx, run, "veritysetup", "dump", tree).Match("Salt").Column(2).String()
//
// bitfield/script is the vocabulary for text; it never starts a program here,
// because its Exec splits strings, expands the environment and loses the exit
// status of a killed child (reference: script v0.25.2 script.go).
package sh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/bitfield/script"

	"cc-base/tasks/fault"
)

// Cmd is one program to run.
type Cmd struct {
	Name string   // program name, looked up in the runner's PATH
	Args []string // arguments, passed on untouched; never a secret
	Dir  string   // working directory; empty means the runner's
	Env  []string // KEY=value on top of the runner's fixed environment; never a secret

	Stdin  io.Reader  // nil means empty
	Stdout io.Writer  // nil means the log
	Files  []*os.File // inherited as descriptors 3, 4, …: the way for secrets

	// PrivateMounts keeps what the command mounts to itself, so that it is gone
	// with the last of its processes, however they end. It takes CAP_SYS_ADMIN.
	PrivateMounts bool
}

// Runner runs commands: the host, the tools tree, or a test's recorder.
type Runner interface {
	// Run starts c, waits for it and returns an *[Error] when it does not
	// exit with status 0. When ctx ends, the whole process group gets SIGTERM
	// and, [grace] later, SIGKILL.
	Run(ctx context.Context, c Cmd) error
}

// Do runs a program for its effect.
func Do(ctx context.Context, r Runner, name string, args ...string) error {
	return r.Run(ctx, Cmd{Name: name, Args: args})
}

// Text runs a program and returns its standard output as a pipe of text, with
// the error of the run in it.
func Text(ctx context.Context, r Runner, name string, args ...string) *script.Pipe {
	var out bytes.Buffer
	err := r.Run(ctx, Cmd{Name: name, Args: args, Stdout: &out})
	return script.NewPipe().WithReader(&out).WithError(err)
}

// Error is a command that failed. It holds the program's name and what it
// printed last, and never its arguments: those may hold paths that mean
// nothing to the reader, and a slip that put a secret there must not reach a
// log.
type Error struct {
	Name   string   // program
	Code   int      // exit status; -1 when it did not run or was killed
	Signal string   // signal that ended it, or empty
	Tail   []string // its last lines, at most [TailLines]
	Cause  error    // start error, the context's error, or ENOSPC when it printed that
}

// TailLines is how much of a failed command's output is shown.
const TailLines = 40

func (e *Error) Error() string {
	var what string
	switch {
	case e.Cause != nil && (errors.Is(e.Cause, context.Canceled) || errors.Is(e.Cause, context.DeadlineExceeded)):
		what = e.Cause.Error()
	case e.Signal != "":
		what = "ended by signal " + e.Signal
	case e.Code >= 0:
		what = fmt.Sprintf("exit status %d", e.Code)
	default:
		what = e.Cause.Error()
	}
	if len(e.Tail) == 0 {
		return e.Name + ": " + what
	}
	return e.Name + ": " + what + "\n  | " + strings.Join(e.Tail, "\n  | ")
}

// Unwrap returns Cause.
func (e *Error) Unwrap() error { return e.Cause }

// Host runs programs of the machine itself.
type Host struct {
	Log     io.Writer // every command's output; nil discards it
	Verbose io.Writer // the same, live, prefixed with the program's name; nil is quiet
	Env     []string  // whole environment; nil means [BaseEnv]
}

// BaseEnv returns the environment that commands get: fixed where it could
// change an output (locale, time zone), the machine's where it must (PATH,
// HOME, TMPDIR and the proxy variables).
func BaseEnv() []string {
	env := []string{"LC_ALL=C.UTF-8", "TZ=UTC"}
	for _, key := range []string{"PATH", "HOME", "TMPDIR", "http_proxy", "https_proxy", "no_proxy"} {
		if v, ok := os.LookupEnv(key); ok {
			if key == "PATH" {
				// An ordinary user's PATH often lacks the folders of chroot
				// and mkfs.
				v += ":/usr/local/sbin:/usr/sbin:/sbin"
			}
			env = append(env, key+"="+v)
		}
	}
	return env
}

// grace is the time between SIGTERM and SIGKILL for a cancelled command: enough
// for mmdebstrap to remove its tree, and below the five seconds after which
// Mage gives up on a cancelled target (mage v1.17.2 mage/template.go).
const grace = 4 * time.Second

// Run implements [Runner].
func (h Host) Run(ctx context.Context, c Cmd) error {
	env := h.Env
	if env == nil {
		env = BaseEnv()
	}
	env = append(env[:len(env):len(env)], c.Env...)
	file, err := lookPath(c.Name, env)
	if err == nil && c.Dir != "" {
		// With SysProcAttr set, os.StartProcess would blame the program for
		// a folder that is not there (go1.26 os/exec_posix.go).
		_, err = os.Stat(c.Dir)
	}
	if err != nil {
		return fault.New(fault.Command, newError(ctx, c.Name, err, nil))
	}
	cmd := exec.CommandContext(ctx, file, c.Args...)
	cmd.Args[0] = c.Name
	cmd.Dir = c.Dir
	cmd.Env = env
	cmd.Stdin = c.Stdin
	cmd.ExtraFiles = c.Files

	tail := &tail{}
	sinks := []io.Writer{tail}
	if h.Log != nil {
		sinks = append(sinks, h.Log)
	}
	if h.Verbose != nil {
		live := &prefixed{w: h.Verbose, prefix: c.Name + " | "}
		defer live.flush()
		sinks = append(sinks, live)
	}
	all := io.MultiWriter(sinks...)
	cmd.Stderr = all
	cmd.Stdout = all
	if c.Stdout != nil {
		cmd.Stdout = c.Stdout
	}
	// One process group, so that a cancelled command takes its children with
	// it; PDEATHSIG, so that kill -9 of the build does not leave orphans.
	// Pdeathsig follows the creating thread, not the process: Go ends a
	// thread only when a locked goroutine exits, and no caller locks one.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if c.PrivateMounts {
		cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS // Go makes the mounts private, too
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = grace

	if h.Log != nil {
		fmt.Fprintf(h.Log, "+ %s\n", line(c))
	}
	err = cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = fmt.Errorf("a process that it left behind held its output: %w", err)
	}
	if cmd.Process != nil && (ctx.Err() != nil || errors.Is(err, exec.ErrWaitDelay)) {
		// Whatever of the group outlived its leader's grace goes now.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	if err == nil {
		return nil
	}
	return fault.New(fault.Command, newError(ctx, c.Name, err, tail.lines()))
}

// line renders a command for the log; a script given as an argument would
// drown the rest.
func line(c Cmd) string {
	words := []string{c.Name}
	for _, a := range c.Args {
		if strings.Contains(a, "\n") {
			a = "…"
		}
		words = append(words, a)
	}
	return strings.Join(words, " ")
}

// lookPath finds a program in the PATH of the environment that it will get,
// where exec.Command would search this process's own. Relative folders are
// passed over: what runs must not depend on the working directory.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for i := len(env) - 1; i >= 0; i-- {
		list, ok := strings.CutPrefix(env[i], "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(list) {
			if !filepath.IsAbs(dir) {
				continue
			}
			if file, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
				return file, nil
			}
		}
		break
	}
	return "", exec.ErrNotFound
}

func newError(ctx context.Context, name string, err error, tail []string) *Error {
	e := &Error{Name: name, Code: -1, Tail: tail, Cause: err}
	if ctx.Err() != nil {
		e.Cause = ctx.Err()
		return e
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return e
	}
	e.Cause = nil
	e.Code = exit.ExitCode()
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		e.Signal = status.Signal().String()
	}
	if slices.ContainsFunc(tail, func(l string) bool { return strings.Contains(strings.ToLower(l), "no space left on device") }) {
		// strerror(3) in the C locale, which [BaseEnv] sets, and in small letters
		// Go's, whose compiler we run: the one cause that callers tell apart from
		// all others.
		e.Cause = syscall.ENOSPC
	}
	return e
}
