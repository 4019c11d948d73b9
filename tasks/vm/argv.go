package vm

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// Argv returns QEMU's arguments for m. It is a pure function of m, so that a
// test can hold it against a golden file and `mage vm` can print it.
func (m *Machine) Argv() []string {
	args := []string{
		// Nothing but what is listed here: no network card, no display, no
		// configuration of the host's user.
		"-nodefaults", "-no-user-config",
		"-machine", "q35,accel=" + string(m.accel()),
		"-cpu", m.cpu(),
		"-smp", strconv.Itoa(m.VCPUs),
		"-m", strconv.Itoa(m.MemoryMiB) + "M",
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file=" + escape(m.Firmware.Code),
		"-drive", "if=pflash,unit=1,format=raw,file=" + escape(m.varsPath()),
	}
	if m.needsSCSI() {
		args = append(args, "-device", "virtio-scsi-pci,id=scsi0")
	}
	for i, d := range m.Disks {
		id := fmt.Sprintf("disk%d", i)
		args = append(args,
			"-drive", fmt.Sprintf("if=none,id=%s,format=%s,snapshot=on,file=%s", id, d.format(), escape(d.Path)),
			"-device", d.device(id)+fmt.Sprintf(",bootindex=%d", i+1))
	}
	for _, f := range m.FWCfg {
		args = append(args, "-fw_cfg", "name="+escape(f.Name)+",file="+escape(f.Path))
	}
	for _, s := range m.OEMStrings {
		args = append(args, "-smbios", "type=11,value="+escape(s))
	}
	if m.TPM {
		args = append(args,
			"-chardev", "socket,id=tpm,path="+escape(m.socketPath()),
			"-tpmdev", "emulator,id=tpm0,chardev=tpm",
			"-device", "tpm-crb,tpmdev=tpm0")
	}
	args = append(args,
		"-device", "virtio-rng-pci",
		// A panic, a reboot and a power-off all end QEMU: a test waits for
		// its exit and for nothing else.
		"-device", "pvpanic-pci",
		"-action", "panic=shutdown,reboot=shutdown",
		"-display", "none", "-monitor", "none",
		"-chardev", "stdio,id=console,signal=off",
		"-serial", "chardev:console")
	return append(args, m.Extra...)
}

// swtpmArgv returns swtpm's arguments. It ends by itself when QEMU goes.
func (m *Machine) swtpmArgv() []string {
	return []string{
		"socket", "--tpm2",
		"--tpmstate", "dir=" + m.tpmDir(),
		"--ctrl", "type=unixio,path=" + m.socketPath(),
		"--terminate",
	}
}

func (m *Machine) accel() Accel {
	if m.Accel == "" {
		return TCG
	}
	return m.Accel
}

// cpu asks for every feature that the accelerator has. TCG's default model
// lacks instructions that distributions build for; the host's model exists
// under KVM only.
func (m *Machine) cpu() string {
	if m.accel() == KVM {
		return "host"
	}
	return "max"
}

func (m *Machine) needsSCSI() bool {
	for _, d := range m.Disks {
		if d.Bus == SCSI {
			return true
		}
	}
	return false
}

func (m *Machine) varsPath() string   { return filepath.Join(m.Dir, "vars.fd") }
func (m *Machine) tpmDir() string     { return filepath.Join(m.Dir, "tpm") }
func (m *Machine) socketPath() string { return filepath.Join(m.Dir, "tpm.sock") }

func (d Disk) format() string {
	if d.Format == "" {
		return "qcow2"
	}
	return d.Format
}

func (d Disk) device(id string) string {
	if d.Bus == SCSI {
		return "scsi-hd,bus=scsi0.0,drive=" + id
	}
	return "virtio-blk-pci,drive=" + id
}

// escape doubles commas, which separate a QEMU option's fields.
func escape(value string) string { return strings.ReplaceAll(value, ",", ",,") }
