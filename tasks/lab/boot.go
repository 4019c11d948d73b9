package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cc-base/tasks/boot"
	"cc-base/tasks/sh"
	"cc-base/tasks/toolbox"
	"cc-base/tasks/vm"
)

// Budget is how many boots the short mode may make. Under emulation on two
// cores each costs half a minute to a minute, whatever runs beside it.
const Budget = 22

// Boots counts the boots of one test run and what they cost. TestMain makes
// one and prints its sum.
type Boots struct {
	mu    sync.Mutex
	names []string
	took  []time.Duration
}

// Sum returns one line per boot and the total.
func (b *Boots) Sum() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var s strings.Builder
	var total time.Duration
	for i, name := range b.names {
		fmt.Fprintf(&s, "boot %2d: %6.1f s  %s\n", i+1, b.took[i].Seconds(), name)
		total += b.took[i]
	}
	fmt.Fprintf(&s, "boots: %d of %d in the budget, %.0f s\n", len(b.names), Budget, total.Seconds())
	return s.String()
}

// Count enters one boot of test t into the books, or fails the test when the
// budget is spent. The caller calls done when the machine has ended.
func (b *Boots) Count(t testing.TB) (done func()) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	n, began := len(b.names), time.Now()
	if n >= Budget && !Long() {
		t.Fatalf("boot %d is above the short mode's budget of %d", n+1, Budget)
	}
	b.names, b.took = append(b.names, t.Name()), append(b.took, 0)
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.took[n] = time.Since(began)
	}
}

// Guest is one boot to be made.
type Guest struct {
	Disk       string // raw or, with the ending .qcow2, qcow2
	Key        string // file with the image key
	OEMStrings []string
}

// bootTime bounds a boot; a loaded machine needs a minute for a good one.
const bootTime = 6 * time.Minute

// Boot starts the guest, waits for one of the lines and for the machine's end
// if it is to end, and returns the console. until is matched as a part of a
// line; empty means that the machine must end by itself.
func (b *Boots) Boot(t testing.TB, tools toolbox.Tree, g Guest, until string) []string {
	t.Helper()
	done := b.Count(t)
	defer done()
	// A socket's path may have 107 bytes; t.TempDir is longer.
	dir, err := os.MkdirTemp("", "lab")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := &vm.Machine{
		Runner: tools.With(dir), Dir: dir, MemoryMiB: 1024, TPM: true, OEMStrings: g.OEMStrings,
		Firmware: vm.Firmware{Code: "/usr/share/OVMF/OVMF_CODE_4M.fd", Vars: filepath.Join(tools.Dir, "usr/share/OVMF/OVMF_VARS_4M.fd")},
		Disks:    []vm.Disk{{Path: g.Disk, Format: strings.TrimPrefix(filepath.Ext(g.Disk), ".")}},
	}
	if g.Key != "" {
		m.FWCfg = []vm.FWCfg{{Name: vm.EnrollKey, Path: g.Key}}
	}
	ctx, cancel := context.WithTimeout(context.Background(), bootTime)
	defer cancel()
	if err := m.Start(ctx); err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if until != "" {
		if _, err := m.Expect(ctx, until); err != nil {
			t.Fatal(err)
		}
		return m.Lines()
	}
	if err := m.Wait(ctx); err != nil {
		t.Fatalf("%v\n%s", err, strings.Join(m.Lines(), "\n"))
	}
	return m.Lines()
}

// Raw converts the image to a raw disk in dir that a test may change.
func (i Image) Raw(t testing.TB, tools sh.Runner, dir string) string {
	t.Helper()
	raw := filepath.Join(dir, "disk.raw")
	err := sh.Do(context.Background(), tools, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", i.Path("cc-base.qcow2"), raw)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// Flip inverts every bit of the byte at off.
func Flip(t testing.TB, file string, off int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	b[0] = ^b[0]
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

// WithCommandLine puts a UKI with another command line on the raw disk, as a
// build with other settings would.
func (i Image) WithCommandLine(t testing.TB, tools sh.Runner, raw, line string) {
	t.Helper()
	ctx := context.Background()
	uki := raw + ".efi"
	err := boot.BuildUKI(ctx, tools, boot.UKI{
		Kernel: i.Path("scratch", "vmlinuz"), Release: i.Manifest.Kernel, Initrd: i.Path("scratch", "initrd.img"),
		OSRelease: i.Path("scratch", "os-release"), CommandLine: line, Epoch: i.Manifest.SourceDateEpoch,
	}, uki)
	if err != nil {
		t.Fatal(err)
	}
	esp, ok := i.Manifest.Disk.Partition("cc-esp")
	if !ok {
		t.Fatal("the image has no cc-esp")
	}
	err = sh.Do(ctx, tools, "mcopy", "-o", "-i", fmt.Sprintf("%s@@%d", raw, esp.Start), uki, "::EFI/BOOT/BOOTX64.EFI")
	if err != nil {
		t.Fatal(err)
	}
}
