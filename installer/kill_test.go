package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cc-base/installer/deployment"
	"cc-base/tasks/filetest"
	"cc-base/tasks/lab"
	"cc-base/tasks/toolbox"
)

// killable is a host with the shipped program on it.
type killable struct {
	host
	program, path string
}

func newKillable(t *testing.T) killable {
	t.Helper()
	h := newHost(t)
	tree, ok := h.tools.(toolbox.Tree)
	if !ok {
		t.Fatalf("the tools are a %T", h.tools)
	}
	k := killable{host: h, program: shipped(t)}
	k.path = lab.OnPath(t, tree, "cryptsetup") + string(os.PathListSeparator) + os.Getenv("PATH")
	return k
}

// watched is the output of a program, which tells when a line has come.
type watched struct {
	text bytes.Buffer // no part of it: its ReadFrom would pass Write by
	line string
	at   time.Time
	came chan struct{}
}

func (w *watched) Write(p []byte) (int, error) {
	n, err := w.text.Write(p)
	if w.at.IsZero() && strings.Contains(w.text.String(), w.line) {
		w.at = time.Now()
		close(w.came)
	}
	return n, err
}

func (w *watched) String() string { return w.text.String() }

// prepared is the last line before the disk is written to.
const prepared = "cc-app: other key, other bytes"

func (k killable) command(args ...string) (*exec.Cmd, *watched) {
	cmd := exec.Command(k.program, append(args, k.disk, "--allow-file", "--dir", k.dir, "--state", k.state)...)
	cmd.Env = append(os.Environ(), "PATH="+k.path)
	out := &watched{line: prepared, came: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, out
}

func (k killable) install() (*exec.Cmd, *watched) {
	return k.command("install", "--disk-only", "--yes")
}

// complete installs to the end, and verifies. It returns how long the installer
// took to prepare the content, and how long for the disk.
func (k killable) complete(t *testing.T) (preparing, writing time.Duration) {
	t.Helper()
	start := time.Now()
	cmd, out := k.install()
	if err := cmd.Run(); err != nil {
		t.Fatalf("install: %v\n%s", err, out)
	}
	if out.at.IsZero() {
		t.Fatalf("it never said %q:\n%s", prepared, out)
	}
	preparing, writing = out.at.Sub(start), time.Since(out.at)
	if out, installed := k.verify(); !installed {
		t.Fatalf("verify:\n%s", out)
	}
	return preparing, writing
}

func (k killable) verify() (out string, installed bool) {
	cmd, text := k.command("verify")
	err := cmd.Run()
	return text.String(), err == nil && strings.Contains(text.String(), "installed and unchanged")
}

// killed starts an installation and kills it with SIGKILL after the delay, or
// that long after the content was prepared. ended is true when it was faster.
// out is what it had said.
func (k killable) killed(t *testing.T, afterwards bool, delay time.Duration) (out string, ended bool) {
	t.Helper()
	cmd, text := k.install()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		if afterwards {
			select {
			case <-text.came:
			case <-done:
			}
		}
		select {
		case <-time.After(delay):
			_ = cmd.Process.Signal(syscall.SIGKILL)
		case <-done:
		}
	}()
	err := cmd.Wait()
	close(done)
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); err != nil && (!ok || !status.Signaled()) {
		t.Fatalf("it ended by itself: %v\n%s", err, text)
	}
	return text.String(), err == nil
}

// record is what the host remembers, in a word.
func (k killable) record(t *testing.T) (state, content string) {
	t.Helper()
	r, found, err := deployment.Load(k.state, "cc-base")
	if err != nil {
		t.Errorf("the record cannot be read: %v", err)
	}
	if !found {
		return "none", ""
	}
	for _, p := range r.Partitions {
		content += p.UUID + p.SHA256
	}
	return string(r.State), content
}

// step is the last line that an installer said, without what differs from run
// to run.
func step(out string) string {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	last := strings.TrimSpace(lines[len(lines)-1])
	if at := strings.LastIndex(last, "/"); at >= 0 {
		last = last[at+1:]
	}
	return last
}

// What green does not prove: a killed process leaves a kernel that goes on
// writing what it was given; a power cut does not. That the steps are in an
// order that survives one is tested with the writes cut off, in package write.
//
// Every other installation is over a complete earlier one: the worst case, as
// all that a verification looks for is on the disk already.
func TestKilledAtRandomMomentsAnInstallationIsNeverCalledGood(t *testing.T) {
	kills := 4
	if lab.Long() {
		kills = 20
	}
	k := newKillable(t)
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	preparing, writing := k.complete(t)
	t.Logf("seed %d; undisturbed it takes %d ms to prepare the content and %d ms for the disk", seed, preparing.Milliseconds(), writing.Milliseconds())
	interrupted := 0
	for n := 0; interrupted < kills; n++ {
		if n == 4*kills {
			t.Fatalf("%d of %d kills interrupted an installation", interrupted, n)
		}
		earlier := "none"
		if n%2 == 0 {
			filetest.Write(t, k.disk, bytes.Repeat([]byte{used}, 80<<20))
			if err := os.RemoveAll(k.state); err != nil {
				t.Fatal(err)
			}
		} else {
			earlier = "complete"
		}
		_, content := k.record(t)
		disk := wholeDigest(t, k.disk)
		// Every fourth while the content is made, which takes longest; the others
		// while the disk and the records are written.
		afterwards, phase := n%4 != 0, preparing
		if afterwards {
			phase = writing
		}
		delay := time.Duration(random.Float64() * float64(phase))
		out, ended := k.killed(t, afterwards, delay)
		state, now := k.record(t)
		text, installed := k.verify()
		verdict := "not installed"
		if installed {
			verdict = "installed"
		}
		since := "the start"
		if afterwards {
			since = "the content"
		}
		t.Logf("kill %2d %4d ms after %s, earlier installation %-8s: record %-7s, %s; at %q", n+1, delay.Milliseconds(), since, earlier, state, verdict, step(out))
		switch untouched := content != "" && now == content && wholeDigest(t, k.disk) == disk; {
		case ended:
			t.Logf("        it was faster")
		case installed && untouched:
			// The earlier installation is whole: nothing had begun.
		case installed && state == string(deployment.Written) && now != content:
			// The new one is: the record is written after the comparison.
		case installed:
			t.Errorf("a partial installation is called good:\n%s", text)
		}
		if !ended {
			interrupted++
		}
		k.complete(t)
	}
	left, err := filepath.Glob(filepath.Join(k.state, "cc-base", "*"))
	if err != nil || strings.Contains(fmt.Sprint(left), "scratch") || strings.Contains(fmt.Sprint(left), ".part") {
		t.Errorf("left in the state folder: %q, %v", left, err)
	}
}
