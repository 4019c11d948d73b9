package vm

// Green here means: the arguments are the intended ones, the console is read
// rightly, and a machine is started, watched and ended in order. No QEMU runs
// in the tests of this file, and none that executes a guest in those of the
// other; that a guest boots with these arguments is proven by the boot tests,
// and that KVM works somewhere only by [ProbeKVM] there.

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
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
		"secureboot": {Dir: "/out/vm", MemoryMiB: 1024, VCPUs: 2, SecureBoot: true,
			Firmware: Firmware{Code: "/fw/OVMF_CODE_4M.secboot.fd", Vars: "/out/keys/vars.fd"},
			Disks:    []Disk{{Path: "/out/disk.raw", Format: "raw", Persistent: true}},
			Ports:    []Port{{Name: "org.cc-base.release.0"}, {Name: "two", Path: "/run/a,b.sock"}}},
		"direct": {Dir: "/out/vm", Firmware: fw, MemoryMiB: 1024, VCPUs: 2, TPM: true, PCRBanks: []string{"sha384"},
			BIOS: "/usr/share/qemu/qboot.rom", Kernel: "/out/vmlinuz", Initrd: "/out/initrd", Append: "quiet a=1,2"},
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
	echo     bool  // QEMU prints the first line that is typed
	gone     chan struct{}
	mu       sync.Mutex
	ran      []string // the programs, in order
}

func (f *fake) Run(ctx context.Context, c sh.Cmd) error {
	f.mu.Lock()
	f.ran = append(f.ran, c.Name)
	f.mu.Unlock()
	if c.Name == "swtpm_setup" {
		return nil
	}
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
	if f.echo {
		line, err := bufio.NewReader(c.Stdin).ReadString('\n')
		if err != nil {
			return err
		}
		_, _ = c.Stdout.Write([]byte("you typed " + line))
	}
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
	for says, change := range map[string]func(*Machine){
		"not absolute":             func(m *Machine) { m.Ports = []Port{{Name: "p", Path: "p.sock"}} },
		`"vmlinuz" is not`:         func(m *Machine) { m.Kernel = "vmlinuz" },
		"too long for a socket":    func(m *Machine) { m.Dir = filepath.Join(m.Dir, strings.Repeat("x", 100)) },
		"long for a socket by 1 b": func(m *Machine) { m.Ports = []Port{{Name: "p", Path: "/" + strings.Repeat("x", 107)}} },
		"without a kernel":         func(m *Machine) { m.Append = "quiet" },
		"initrd or a command line": func(m *Machine) { m.Initrd = "/initrd" },
		"no Secure Boot":           func(m *Machine) { m.BIOS, m.SecureBoot = "/bios", true },
		"without a TPM":            func(m *Machine) { m.TPM, m.PCRBanks = false, []string{"sha384"} },
	} {
		f := &fake{}
		m := machine(t, f)
		change(m)
		faulttest.Want(t, m.Start(t.Context()), fault.Machine, says)
		if len(f.ran) > 0 {
			t.Errorf("%s: it ran %q", says, f.ran)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestWhatIsTypedReachesTheConsole(t *testing.T) {
	t.Parallel()
	m := machine(t, &fake{script: "question\n", echo: true})
	if err := m.Type("early\n"); err == nil {
		t.Error("something was typed on a machine that is off")
	}
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Expect(t.Context(), "question"); err != nil {
		t.Fatal(err)
	}
	if err := m.Type("answer\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Expect(t.Context(), "you typed answer"); err != nil {
		t.Fatal(err)
	}
	if err := m.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	faulttest.Want(t, m.Type("late\n"), fault.Machine, "typing")
}

func TestAMachineThatEndedCannotBeKilled(t *testing.T) {
	t.Parallel()
	m := machine(t, &fake{})
	faulttest.Want(t, m.Kill(), fault.Machine, "not started")
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := m.Kill()
	faulttest.Want(t, err, fault.Machine, "had ended")
	if !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("error is %v", err)
	}
}

func TestADialNamesAPort(t *testing.T) {
	t.Parallel()
	m := machine(t, &fake{})
	m.Ports = []Port{{Name: "one"}}
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := m.Dial(t.Context(), "two")
	faulttest.Want(t, err, fault.Machine, `no port "two"`)
	_, err = m.Dial(t.Context(), "one")
	faulttest.Want(t, err, fault.Machine, "that ended")
}

// The second start of a machine must not get the first one's variables from
// the template again, nor meet the sockets and the PID file that it left.
func TestALaterMachineInTheSameFolderContinues(t *testing.T) {
	t.Parallel()
	first := machine(t, &fake{})
	first.PCRBanks, first.Ports = []string{"sha384"}, []Port{{Name: "port"}}
	if err := first.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := first.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{first.varsPath(): "changed", first.pidPath(): "1", first.portPath(first.Ports[0]): ""} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := &fake{gone: make(chan struct{})}
	second := &Machine{Runner: f, Dir: first.Dir, Firmware: first.Firmware, TPM: true, Ports: first.Ports}
	defer second.Close()
	if err := second.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := second.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(second.varsPath()); err != nil || string(text) != "changed" {
		t.Errorf("EFI variables are %q, %v", text, err)
	}
	for _, file := range []string{second.pidPath(), second.portPath(second.Ports[0])} {
		if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s of the first machine is still there: %v", file, err)
		}
	}
	if diff := cmp.Diff([]string{"swtpm_setup", "swtpm", "qemu-system-x86_64"}, first.Runner.(*fake).ran); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"swtpm", "qemu-system-x86_64"}, f.ran); diff != "" {
		t.Error(diff)
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
