package sh

// What green does not prove: the programs run here are a shell and coreutils of
// the machine. That SIGKILL of the build itself takes the children along rests
// on PDEATHSIG, which is set here and not exercised; a process that leaves its
// process group on purpose (setsid) is out of reach of a cancelled command
// unless it runs in the tools tree, whose PID namespace ends it.

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/fault"
)

// shell is a command that runs a few lines of shell.
func shell(text string, args ...string) Cmd {
	return Cmd{Name: "sh", Args: append([]string{"-c", text, "sh"}, args...)}
}

// failure runs c and returns the typed error that it must end with.
func failure(t *testing.T, h Host, c Cmd) *Error {
	t.Helper()
	err := h.Run(t.Context(), c)
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got error %v, want a *sh.Error", err)
	}
	if f := fault.Of(err); f == nil || f.Code != fault.Command {
		t.Errorf("got code %v, want %s", f, fault.Command)
	}
	return e
}

func TestAFailedCommandSaysHowItEnded(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		cmd    Cmd
		code   int
		signal string
		text   string
		is     error
	}{
		{name: "an exit status is kept", cmd: shell("exit 7"), code: 7, text: "sh: exit status 7"},
		{name: "a signal is named", cmd: shell("kill -TERM $$"), code: -1, signal: "terminated", text: "sh: ended by signal terminated"},
		{name: "a program that is not there is named", cmd: Cmd{Name: "cc-no-such-program"}, code: -1,
			text: "cc-no-such-program: executable file not found in $PATH", is: exec.ErrNotFound},
		{name: "a path that is not there is named", cmd: Cmd{Name: "/nowhere/tool"}, code: -1,
			text: "/nowhere/tool: fork/exec /nowhere/tool: no such file or directory", is: os.ErrNotExist},
		{name: "a missing working directory is not blamed on the program", cmd: Cmd{Name: "true", Dir: "/nowhere"}, code: -1,
			text: "true: stat /nowhere: no such file or directory", is: os.ErrNotExist},
		{name: "what it printed last follows", cmd: shell("echo out; echo err >&2; exit 1"), code: 1,
			text: "sh: exit status 1\n  | out\n  | err"},
		{name: "carriage returns of a progress bar are line ends", cmd: shell(`printf '10%%\r20%%\r\nbad\r\n'; exit 1`), code: 1,
			text: "sh: exit status 1\n  | 10%\n  | 20%\n  | bad"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := failure(t, Host{}, tt.cmd)
			if e.Code != tt.code || e.Signal != tt.signal {
				t.Errorf("got status %d signal %q, want %d %q", e.Code, e.Signal, tt.code, tt.signal)
			}
			if e.Error() != tt.text {
				t.Errorf("got %q, want %q", e.Error(), tt.text)
			}
			if tt.is != nil && !errors.Is(e, tt.is) {
				t.Errorf("%v does not wrap %v", e, tt.is)
			}
		})
	}
}

func TestOnlyTheLastLinesAreShown(t *testing.T) {
	t.Parallel()
	e := failure(t, Host{}, shell("seq 1 1000; exit 1"))
	if len(e.Tail) != TailLines || e.Tail[0] != "961" || e.Tail[TailLines-1] != "1000" {
		t.Errorf("got %d lines from %s to %s, want 40 from 961 to 1000", len(e.Tail), e.Tail[0], e.Tail[len(e.Tail)-1])
	}
}

func TestAChattyCommandIsHeldInBoundedMemory(t *testing.T) {
	t.Parallel()
	var kept tail
	for range 100 {
		if _, err := kept.Write(bytes.Repeat([]byte("x"), 10<<10)); err != nil {
			t.Fatal(err)
		}
	}
	if n := kept.buf.Len(); n > tailBytes {
		t.Errorf("%d bytes are held, want at most %d", n, tailBytes)
	}
}

func TestArgumentsNeverReachTheError(t *testing.T) {
	t.Parallel()
	const slip = "a-secret-that-slipped"
	for _, c := range []Cmd{
		shell("exit 3", slip),
		shell("kill -9 $$", slip),
		{Name: "cc-no-such-program", Args: []string{slip}},
		{Name: "sh", Args: []string{"-c", "exit 1", slip}, Env: []string{"SLIP=" + slip}},
		{Name: "sh", Args: []string{slip}, Dir: "/nowhere"},
	} {
		if err := (Host{}).Run(t.Context(), c); err == nil || strings.Contains(fault.Render(err), slip) {
			t.Errorf("%s: the error is %v", c.Name, err)
		}
	}
}

func TestASecretOnStandardInputOrADescriptorStaysOutOfTheLog(t *testing.T) {
	t.Parallel()
	const secret = "correct horse battery staple"
	var log, verbose, got bytes.Buffer
	h := Host{Log: &log, Verbose: &verbose}

	c := shell("cat")
	c.Stdin, c.Stdout = strings.NewReader(secret), &got
	if err := h.Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.WriteString(w, secret); err != nil {
		t.Fatal(err)
	}
	w.Close()
	c = shell("cat <&3")
	c.Files, c.Stdout = []*os.File{r}, &got
	if err := h.Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if got.String() != secret+secret {
		t.Errorf("the commands read %q", got.String())
	}
	if strings.Contains(log.String()+verbose.String(), secret) {
		t.Errorf("the secret is in the log:\n%s%s", log.String(), verbose.String())
	}
}

func TestStandardInputIsEmptyUnlessGiven(t *testing.T) {
	t.Parallel()
	c := shell(`read -r line && exit 1; exit 0`)
	if err := (Host{}).Run(t.Context(), c); err != nil {
		t.Error(err)
	}
}

func TestTheLogHoldsCommandAndOutput(t *testing.T) {
	t.Parallel()
	var log, verbose bytes.Buffer
	h := Host{Log: &log, Verbose: &verbose}
	if err := h.Run(t.Context(), shell("echo one; echo two >&2; printf three", "a b")); err != nil {
		t.Fatal(err)
	}
	want := "+ sh -c echo one; echo two >&2; printf three sh a b\none\ntwo\nthree"
	if diff := cmp.Diff(want, log.String()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff("sh | one\nsh | two\nsh | three\n", verbose.String()); diff != "" {
		t.Errorf("live output (-want +got):\n%s", diff)
	}
}

func TestWrittenOutputIsNotInTheLog(t *testing.T) {
	t.Parallel()
	var log, out bytes.Buffer
	c := shell("echo data; echo note >&2")
	c.Stdout = &out
	if err := (Host{Log: &log}).Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if out.String() != "data\n" || strings.Contains(log.String(), "\ndata") || !strings.HasSuffix(log.String(), "\nnote\n") {
		t.Errorf("output %q, log %q", out.String(), log.String())
	}
}

func TestTheEnvironmentIsFixed(t *testing.T) {
	t.Setenv("LANG", "de_DE.UTF-8")
	t.Setenv("LC_ALL", "de_DE.UTF-8")
	t.Setenv("TZ", "Asia/Tokyo")
	t.Setenv("CC_LEAK", "leak")
	t.Setenv("HOME", "/a home")
	t.Setenv("https_proxy", "http://proxy.invalid:3128")
	t.Setenv("http_proxy", "")
	t.Setenv("no_proxy", "")
	t.Setenv("TMPDIR", "/tmp")
	c := Cmd{Name: "env", Env: []string{"SOURCE_DATE_EPOCH=7", "HOME=/other"}}
	var out bytes.Buffer
	c.Stdout = &out
	if err := (Host{}).Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for line := range strings.Lines(out.String()) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		got[key] = value
	}
	want := map[string]string{
		"LC_ALL": "C.UTF-8", "TZ": "UTC", "PATH": os.Getenv("PATH") + ":/usr/local/sbin:/usr/sbin:/sbin", "HOME": "/other", "TMPDIR": "/tmp",
		"https_proxy": "http://proxy.invalid:3128", "http_proxy": "", "no_proxy": "", "SOURCE_DATE_EPOCH": "7",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
}

func TestAProgramIsFoundInTheRunnersPath(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "cc-tool"), []byte("#!/bin/sh\necho found by $0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cc-data"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	h := Host{Env: []string{"PATH=/nowhere", "PATH=:.:" + dir}}
	got, err := Text(t.Context(), h, "cc-tool").String()
	if err != nil || got != "found by "+dir+"/cc-tool\n" {
		t.Errorf("got %q, %v", got, err)
	}
	if e := failure(t, h, Cmd{Name: "sh"}); !errors.Is(e, exec.ErrNotFound) {
		t.Errorf("a program of the process's own PATH: %v", e)
	}
	if e := failure(t, h, Cmd{Name: "cc-data"}); !errors.Is(e, exec.ErrNotFound) {
		t.Errorf("a file that is no program: %v", e)
	}
}

func TestArgumentsArePassedOnUntouched(t *testing.T) {
	t.Parallel()
	args := []string{"a b", "$HOME", "*", "'", `"`, "", "ä\n"}
	got, err := Text(t.Context(), Host{}, "printf", append([]string{"<%s>"}, args...)...).String()
	if want := "<" + strings.Join(args, "><") + ">"; err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestPrivateMountsEndWithTheCommand(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	script := `mount -t tmpfs none "$1" && touch "$1/mounted" && ls "$1"; exit 3`
	err := Host{}.Run(t.Context(), Cmd{Name: "sh", Args: []string{"-c", script, "sh", dir}, PrivateMounts: true})
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "mounted") {
		t.Errorf("nothing was mounted: %v", err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), dir) {
		t.Errorf("it is still mounted:\n%s", mounts)
	}
}

func TestTextCarriesTheErrorToTheEnd(t *testing.T) {
	t.Parallel()
	got, err := Text(t.Context(), Host{}, "printf", "Salt: a1\nHash: b2\n").Match("Hash").Column(2).String()
	if err != nil || got != "b2\n" {
		t.Errorf("got %q, %v", got, err)
	}
	_, err = Text(t.Context(), Host{}, "sh", "-c", "echo Hash: b2; exit 5").Match("Hash").Column(2).String()
	var e *Error
	if !errors.As(err, &e) || e.Code != 5 {
		t.Errorf("got %v, want exit status 5", err)
	}
}

func TestAnErrorOfTheWriterIsAnErrorOfTheCommand(t *testing.T) {
	t.Parallel()
	full := errors.New("disk full")
	err := (Host{}).Run(t.Context(), Cmd{Name: "echo", Stdout: failing{full}})
	if !errors.Is(err, full) {
		t.Errorf("got %v, want %v", err, full)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestDoRunsForTheEffect(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "made")
	if err := Do(t.Context(), Host{}, "touch", file); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}

func TestTheRecorderKeepsATranscript(t *testing.T) {
	t.Parallel()
	r := &Recorder{Answer: func(c Cmd) (string, error) {
		if c.Name == "false" {
			return "", errors.New("refused")
		}
		return "answer of " + c.Name, nil
	}}
	if got, err := Text(t.Context(), r, "dump", "-a", "file").String(); err != nil || got != "answer of dump" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := Do(t.Context(), r, "false"); err == nil || err.Error() != "refused" {
		t.Errorf("got %v", err)
	}
	if err := r.Run(context.Background(), Cmd{Name: "full", Stdout: failing{errors.New("disk full")}}); err == nil {
		t.Error("a writer's error is lost")
	}
	if diff := cmp.Diff("dump -a file\nfalse\nfull\n", r.Transcript()); diff != "" {
		t.Errorf("transcript (-want +got):\n%s", diff)
	}
	var silent Recorder
	if err := Do(t.Context(), &silent, "anything"); err != nil || silent.Transcript() != "anything\n" {
		t.Errorf("without answers: %v, %q", err, silent.Transcript())
	}
}

func TestAProgramThatSaysTheDiskIsFullIsToldApart(t *testing.T) {
	t.Parallel()
	for _, words := range []string{"tar: x: Cannot write: No space left on device", "go build x: write a.out: no space left on device"} {
		e := failure(t, Host{}, Cmd{Name: "sh", Args: []string{"-c", "echo '" + words + "' >&2; exit 2"}})
		if !errors.Is(e, syscall.ENOSPC) || e.Code != 2 || !strings.Contains(e.Error(), "exit status 2") {
			t.Errorf("error %v, code %d", e, e.Code)
		}
	}
}
