package vm_test

// What green does not prove: QEMU and swtpm are real here, but QEMU is paused
// before its first instruction. No firmware runs, so nothing is measured, no
// variable is written and no guest reads a port.

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/lab"
	"cc-base/tasks/tpm"
	"cc-base/tasks/tpm/tpmtest"
	"cc-base/tasks/vm"
)

// paused returns a real QEMU that executes nothing (-S), with its own folder
// and a raw disk that can be written to. It costs no time of a guest's.
func paused(t *testing.T) *vm.Machine {
	t.Helper()
	dir := lab.ShortDir(t)
	tools, _ := lab.Tools(t, dir)
	disk := filepath.Join(dir, "disk.raw")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	return &vm.Machine{
		Runner: tools, Dir: dir, MemoryMiB: 64, VCPUs: 1, TPM: true, SecureBoot: true,
		Firmware: vm.Firmware{
			Code: "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd",
			Vars: filepath.Join(tools.Dir, "usr/share/OVMF/OVMF_VARS_4M.fd"),
		},
		Disks: []vm.Disk{{Path: disk, Format: "raw", Persistent: true}},
		Ports: []vm.Port{{Name: "one"}, {Name: "two"}},
		Extra: []string{"-S"},
	}
}

func limited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// storageRootKey returns that of the machine's TPM, which it makes on first
// use. The machine is off.
func storageRootKey(t *testing.T, m *vm.Machine) tpm.SRK {
	t.Helper()
	socket, stop := tpmtest.StartState(t, filepath.Join(m.Dir, "tpm"))
	defer stop()
	device := tpmtest.Dial(t, socket)
	defer device.Close()
	srk, err := device.EnsureSRK()
	if err != nil {
		t.Fatal(err)
	}
	return srk
}

func TestAKilledMachineIsGoneAndItsFolderGoesOn(t *testing.T) {
	t.Parallel()
	ctx := limited(t)
	first := paused(t)
	if err := os.Mkdir(filepath.Join(first.Dir, "tpm"), 0o700); err != nil {
		t.Fatal(err)
	}
	before := storageRootKey(t, first)
	defer first.Close()
	if err := first.Start(ctx); err != nil {
		t.Fatal(err)
	}
	port, err := first.Dial(ctx, "one")
	if err != nil {
		t.Fatal(err)
	}
	defer port.Close()
	if err := first.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := port.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the port is still open: %v", err)
	}
	if err := first.Wait(ctx); err != nil {
		t.Errorf("a machine that was killed on purpose: %v", err)
	}
	if err := first.Kill(); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("killed twice: %v", err)
	}

	// The disk is Persistent, so QEMU locks it: a second machine starts only
	// where nothing of the first is left.
	second := paused(t)
	second.Dir, second.Disks, second.Runner = first.Dir, first.Disks, first.Runner
	defer second.Close()
	if err := second.Start(ctx); err != nil {
		t.Fatal(err)
	}
	conn, err := second.Dial(ctx, "two")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(before, storageRootKey(t, first)); diff != "" {
		t.Errorf("it is another TPM now (-before +after):\n%s", diff)
	}
}

// A second that is killed at once must not take the first one with it.
func TestKillEndsItsOwnMachineOnly(t *testing.T) {
	t.Parallel()
	ctx := limited(t)
	stays, goes := paused(t), paused(t)
	for _, m := range []*vm.Machine{stays, goes} {
		defer m.Close()
		if err := m.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := goes.Kill(); err != nil {
		t.Fatal(err)
	}
	conn, err := stays.Dial(ctx, "one")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if err := stays.Wait(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the other machine: %v", err)
	}
}

func TestAFreshTPMHasOnlyTheBanksThatWereAskedFor(t *testing.T) {
	t.Parallel()
	ctx := limited(t)
	m := paused(t)
	m.PCRBanks = []string{"sha384"}
	defer m.Close()
	if err := m.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Dial(ctx, "one"); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	socket, _ := tpmtest.StartState(t, filepath.Join(m.Dir, "tpm"))
	if _, err := tpmtest.Dial(t, socket).ReadPCRs(7); !errors.Is(err, tpm.ErrBank) {
		t.Errorf("there is a SHA-256 bank: %v", err)
	}
}

func TestFirmwareThatKeepsNoVariablesNeedsNone(t *testing.T) {
	t.Parallel()
	ctx := limited(t)
	m := paused(t)
	m.Firmware, m.SecureBoot, m.BIOS = vm.Firmware{}, false, "/usr/share/qemu/qboot.rom"
	defer m.Close()
	if err := m.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Dial(ctx, "one"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(m.Dir, "vars.fd")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there are EFI variables: %v", err)
	}
}
