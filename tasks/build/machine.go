package build

import (
	"context"
	"io"
	"os"
	"path/filepath"

	"cc-base/tasks/vm"
)

// RunVM builds the image where it is not up to date and boots it, with the
// serial console on stdin and console, until it ends or ctx does. The image is
// not changed; TPM state and EFI variables stay in out/vm for the next start.
func RunVM(ctx context.Context, o Options, stdin io.Reader, console io.Writer) error {
	return with(ctx, o, func(ctx context.Context, b *Build) error {
		if err := b.Through(ctx, "package"); err != nil {
			return err
		}
		dir := b.out("vm")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		firmware := Firmware(b.Tools.Dir)
		accel, why := vm.ProbeKVM(ctx, b.Tools, firmware, dir)
		b.log.event("vm", "%s", why)
		m := &vm.Machine{
			Runner: b.Tools, Dir: dir, Firmware: firmware, Accel: accel, TPM: true, MemoryMiB: 2048,
			Disks:  []vm.Disk{{Path: b.out("cc-base.qcow2")}},
			Mirror: console, Stdin: stdin, ConsoleLog: b.out("log", "console.log"),
		}
		if b.encrypted() {
			m.FWCfg = []vm.FWCfg{{Name: vm.EnrollKey, Path: b.imageKeyFile()}}
		}
		b.log.event("vm", "booting cc-base.qcow2; Ctrl-C ends it")
		if err := m.Start(ctx); err != nil {
			return err
		}
		defer m.Close()
		return m.Wait(ctx)
	})
}

// Firmware returns the plain OVMF of a tools tree: the code as the tree's
// programs see it, the variables' template as this process does.
func Firmware(tools string) vm.Firmware {
	return vm.Firmware{
		Code: "/usr/share/OVMF/OVMF_CODE_4M.fd",
		Vars: filepath.Join(tools, "usr/share/OVMF/OVMF_VARS_4M.fd"),
	}
}
