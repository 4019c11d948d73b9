package vm

import (
	"context"
	"fmt"
	"os"
	"time"

	"cc-base/tasks/sh"
)

// probeTime is what firmware gets to reach its boot menu; under a KVM that
// works it needs about two seconds.
const probeTime = 20 * time.Second

// firmwareLine is what OVMF prints when it looks for something to boot.
const firmwareLine = "BdsDxe"

// ProbeKVM decides by a short run whether KVM executes a guest here: the
// device node may exist and still crash every guest (nested or para-virtual
// hosts), and then only TCG is left. The text says what was found, for the
// user to see.
//
// dir must be absolute; the probe leaves nothing in it.
func ProbeKVM(ctx context.Context, run sh.Runner, fw Firmware, dir string) (Accel, string) {
	node, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return TCG, fmt.Sprintf("KVM is not available (%v); using emulation", err)
	}
	node.Close()
	return probe(ctx, run, fw, dir)
}

func probe(ctx context.Context, run sh.Runner, fw Firmware, dir string) (Accel, string) {
	scratch, err := os.MkdirTemp(dir, "kvm-probe-")
	if err != nil {
		return TCG, fmt.Sprintf("KVM was not probed (%v); using emulation", err)
	}
	defer os.RemoveAll(scratch)

	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	m := &Machine{Runner: run, Dir: scratch, Firmware: fw, MemoryMiB: 256, VCPUs: 1, Accel: KVM}
	if err := m.Start(ctx); err != nil {
		return TCG, "KVM was not probed; using emulation"
	}
	defer m.Close()
	if _, err := m.Expect(ctx, firmwareLine); err != nil {
		return TCG, "KVM is present but a test guest did not run; using emulation"
	}
	return KVM, "KVM works"
}
