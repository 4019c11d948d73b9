package build

import (
	"context"
	"io"
	"os"
	"path"
	"path/filepath"

	"cc-base/overlays/cc-guest/control"
	"cc-base/tasks/vm"
)

// RunVM builds the image where it is not up to date and boots it, with the
// serial console on stdin and console, until it ends or ctx does. The image is
// not changed, and one that others have changed is booted as it is; TPM state and EFI variables stay in out/vm for the next start.
// With secureBoot the firmware starts nothing but what our keys have signed; such
// a machine has a state of its own, because PCR 7 is another one.
func RunVM(ctx context.Context, o Options, secureBoot bool, stdin io.Reader, console io.Writer) error {
	return with(ctx, o, func(ctx context.Context, b *Build) error {
		if err := b.bootable(ctx); err != nil {
			return err
		}
		dir, firmware := b.out("vm"), Firmware(b.Tools.Dir)
		if secureBoot {
			dir, firmware = b.out("vm", "secureboot"), b.secureBootFirmware()
		}
		m, err := b.machine(ctx, dir)
		if err != nil {
			return err
		}
		m.Firmware, m.SecureBoot = firmware, secureBoot
		m.Ports = []vm.Port{{Name: control.PortName, Path: o.controlSocket()}}
		m.Mirror, m.Stdin, m.ConsoleLog = console, stdin, b.out("log", "console.log")
		b.log.event("vm", "booting cc-base.qcow2; Ctrl-C ends it")
		if err := m.Start(ctx); err != nil {
			return err
		}
		defer m.Close()
		return m.Wait(ctx)
	})
}

// bootable builds the image where it is not up to date. One that others have
// changed stays as it is.
func (b *Build) bootable(ctx context.Context) error {
	target := "package"
	if b.keeps() {
		b.log.event("vm", "%s was changed after the build: it is booted as it is, and nothing is built", diskImage)
		target = "prepare"
	}
	return b.Through(ctx, target)
}

// machine returns one with the built image, which it does not change. TPM state
// and EFI variables are kept in dir.
func (b *Build) machine(ctx context.Context, dir string) (*vm.Machine, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	accel, why := vm.ProbeKVM(ctx, b.Tools, Firmware(b.Tools.Dir), dir)
	b.log.event("vm", "%s", why)
	m := &vm.Machine{
		Runner: b.Tools, Dir: dir, Firmware: Firmware(b.Tools.Dir), Accel: accel, TPM: true, MemoryMiB: 2048,
		Disks: []vm.Disk{{Path: b.out("cc-base.qcow2")}},
	}
	if b.encrypted() {
		m.FWCfg = []vm.FWCfg{{Name: vm.EnrollKey, Path: b.imageKeyFile()}}
	}
	return m, nil
}

// Firmware returns the plain OVMF of a tools tree: the code as the tree's
// programs see it, the variables' template as this process does.
func Firmware(tools string) vm.Firmware {
	return vm.Firmware{
		Code: "/usr/share/OVMF/OVMF_CODE_4M.fd",
		Vars: filepath.Join(tools, "usr/share/OVMF/OVMF_VARS_4M.fd"),
	}
}

// secureBootFirmware is [Firmware] that enforces Secure Boot with our keys.
func (b *Build) secureBootFirmware() vm.Firmware {
	return vm.Firmware{Code: "/usr/share/OVMF/" + path.Base(secureBootCode), Vars: b.firmwareFiles()[secureBootVars]}
}
