package vm

// Green here means: the arguments are the intended ones, the console is read
// rightly, and a machine is started, watched and ended in order. No QEMU runs
// in these tests; that a guest boots with these arguments is proven by the
// boot tests, and that KVM works somewhere only by [ProbeKVM] there.

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/fault"
	"cc-base/tasks/golden"
	"cc-base/tasks/sh"
)

func TestArgvMatchesItsGoldenFile(t *testing.T) {
	t.Parallel()
	fw := Firmware{Code: "/fw/OVMF_CODE_4M.fd", Vars: "/fw/OVMF_VARS_4M.fd"}
	for name, m := range map[string]*Machine{
		"full": {Dir: "/out/vm", Firmware: fw, MemoryMiB: 1024, VCPUs: 2, TPM: true,
			Disks:      []Disk{{Path: "/out/cc-base.qcow2"}, {Path: "/out/a,b.img", Format: "raw", Bus: SCSI}},
			FWCfg:      []FWCfg{{Name: EnrollKey, Path: "/out/keys/image.key"}},
			OEMStrings: []string{"io.systemd.stub.kernel-cmdline-extra=a=1,2"},
			Extra:      []string{"-name", "extra"}},
		"bare-kvm": {Dir: "/out/vm", Firmware: fw, MemoryMiB: 256, VCPUs: 1, Accel: KVM},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := strings.Join(m.Argv(), "\n") + "\n"
			golden.Compare(t, name+".argv", got)
		})
	}
}

func TestConsoleShowsTextOnly(t *testing.T) {
	t.Parallel()
	var raw bytes.Buffer
	c := newConsole(&raw)
	text := "\x1b[2J\x1b[01;01H\x1b[=3hBdsDxe: loading\r\n\r\n" +
		"\x1b[!p\x1b]104\x07\x1b[?7hcc-base: keys: x\r\n" + "\x1bP+q\x1b\\cc-base: " + "ready\r\nnot finished"
	for _, b := range []byte(text) { // sequences arrive in pieces
		if _, err := c.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	c.close()
	want := []string{"BdsDxe: loading", "cc-base: keys: x", "cc-base: ready", "not finished"}
	if diff := cmp.Diff(want, c.all()); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if raw.String() != text {
		t.Error("the log is not what came")
	}
}

func TestConsoleCutsALineWithoutEnd(t *testing.T) {
	t.Parallel()
	c := newConsole(nil)
	_, _ = c.Write(bytes.Repeat([]byte("x"), 3*maxLine))
	if len(c.rest) > maxLine {
		t.Errorf("%d bytes are held", len(c.rest))
	}
}

// fake plays swtpm, which makes its socket and stays until QEMU goes, and
// QEMU, which prints its script.
type fake struct {
	script   string
	stay     bool  // QEMU stays until it is cancelled
	qemuErr  error // what QEMU ends with
	swtpmErr error // swtpm fails at once
	gone     chan struct{}
}

func (f *fake) Run(ctx context.Context, c sh.Cmd) error {
	if c.Name == "swtpm" {
		if f.swtpmErr != nil {
			return f.swtpmErr
		}
		listener, err := net.Listen("unix", strings.TrimPrefix(c.Args[5], "type=unixio,path="))
		if err != nil {
			return err
		}
		defer listener.Close()
		select {
		case <-ctx.Done():
		case <-f.gone:
		}
		return nil
	}
	defer close(f.gone)
	_, _ = c.Stdout.Write([]byte(f.script))
	if f.stay {
		<-ctx.Done()
		return ctx.Err()
	}
	return f.qemuErr
}

func machine(t *testing.T, f *fake) *Machine {
	t.Helper()
	f.gone = make(chan struct{})
	// Not t.TempDir: with the test's name in it, it is too long for a socket.
	dir, err := os.MkdirTemp("", "vm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	vars := filepath.Join(dir, "template.fd")
	if err := os.WriteFile(vars, []byte("variables"), 0o444); err != nil {
		t.Fatal(err)
	}
	m := &Machine{Runner: f, Dir: dir, Firmware: Firmware{Code: "/fw/code.fd", Vars: vars}, TPM: true,
		ConsoleLog: filepath.Join(dir, "console.log")}
	t.Cleanup(func() { m.Close() })
	return m
}

func TestExpectReturnsLinesInTheOrderTheyCame(t *testing.T) {
	t.Parallel()
	m := machine(t, &fake{script: "one\r\ntwo\r\ncc-base: keys: k\r\ncc-base: ready\r\n", stay: true})
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"two", "cc-base: keys: k", "cc-base: ready"} {
		got, err := m.Expect(t.Context(), "two", "cc-base: ")
		if err != nil || got != want {
			t.Fatalf("got %q, %v; want %q", got, err, want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := m.Expect(ctx, "one")
	if !errors.Is(err, context.DeadlineExceeded) || fault.Of(err).Code != fault.Machine {
		t.Errorf("a line from before is found again, or the error is wrong: %v", err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if log, err := os.ReadFile(m.ConsoleLog); err != nil || !strings.HasPrefix(string(log), "one\r\n") {
		t.Errorf("console log is %q, %v", log, err)
	}
	if text, err := os.ReadFile(m.varsPath()); err != nil || string(text) != "variables" {
		t.Errorf("EFI variables are %q, %v", text, err)
	}
}

func TestExpectShowsTheEndOfTheConsoleWhenTheMachineEnds(t *testing.T) {
	t.Parallel()
	m := machine(t, &fake{script: strings.Repeat("early\n", 10) + strings.Repeat("late\n", tailLines-1) + "Kernel panic"})
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := m.Expect(t.Context(), "cc-base: ready")
	if err == nil || !strings.Contains(err.Error(), "Kernel panic") || strings.Contains(err.Error(), "early") {
		t.Fatalf("error is %v", err)
	}
	if fault.Of(err).Code != fault.Machine {
		t.Errorf("code is %s", fault.Of(err).Code)
	}
	if err := m.Wait(t.Context()); err != nil {
		t.Errorf("a machine that ended by itself: %v", err)
	}
}

func TestFailuresOfTheProgramsAreReported(t *testing.T) {
	t.Parallel()
	broken := errors.New("no such device")
	m := machine(t, &fake{qemuErr: broken})
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Expect(t.Context(), "x"); !errors.Is(err, broken) || !strings.Contains(err.Error(), "stayed empty") {
		t.Errorf("error is %v", err)
	}
	if err := m.Wait(t.Context()); !errors.Is(err, broken) {
		t.Errorf("error is %v", err)
	}

	m = machine(t, &fake{swtpmErr: broken})
	if err := m.Start(t.Context()); !errors.Is(err, broken) || fault.Of(err).Code != fault.Machine {
		t.Errorf("error is %v", err)
	}
}

func TestStartRefusesPathsThatCannotWork(t *testing.T) {
	t.Parallel()
	m := machine(t, &fake{})
	m.Disks = []Disk{{Path: "out/cc-base.qcow2"}}
	if err := m.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "not absolute") {
		t.Errorf("error is %v", err)
	}
	m = machine(t, &fake{})
	m.Dir = filepath.Join(m.Dir, strings.Repeat("x", 100))
	if err := m.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "too long for a socket") {
		t.Errorf("error is %v", err)
	}
}

func TestProbeBelievesOnlyAGuestThatRuns(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		fake *fake
		want Accel
	}{
		"firmware speaks":  {&fake{script: "BdsDxe: No bootable option\n", stay: true}, KVM},
		"QEMU dies":        {&fake{qemuErr: errors.New("KVM internal error")}, TCG},
		"console is empty": {&fake{}, TCG},
	} {
		m := machine(t, tc.fake)
		got, why := probe(t.Context(), tc.fake, m.Firmware, m.Dir)
		if got != tc.want || why == "" {
			t.Errorf("%s: %s, %q", name, got, why)
		}
		if left, _ := filepath.Glob(filepath.Join(m.Dir, "kvm-probe-*")); len(left) != 0 {
			t.Errorf("%s: left behind: %v", name, left)
		}
	}
}
