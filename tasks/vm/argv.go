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
		"-machine", m.machine(),
		"-cpu", m.cpu(),
		"-smp", strconv.Itoa(m.VCPUs),
		"-m", strconv.Itoa(m.MemoryMiB) + "M",
		// See Kill.
		"-pidfile", m.pidPath(),
	}
	args = append(args, m.firmware()...)
	if m.Kernel != "" {
		args = append(args, "-kernel", m.Kernel)
	}
	if m.Initrd != "" {
		args = append(args, "-initrd", m.Initrd)
	}
	if m.Append != "" {
		args = append(args, "-append", m.Append)
	}
	if m.needsSCSI() {
		args = append(args, "-device", "virtio-scsi-pci,id=scsi0")
	}
	for i, d := range m.Disks {
		id := fmt.Sprintf("disk%d", i)
		args = append(args,
			"-drive", fmt.Sprintf("if=none,id=%s,format=%s,%sfile=%s", id, d.format(), d.snapshot(), escape(d.Path)),
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
	if len(m.Ports) > 0 {
		args = append(args, "-device", "virtio-serial-pci,id=ports")
	}
	for i, p := range m.Ports {
		args = append(args,
			"-chardev", fmt.Sprintf("socket,id=port%d,server=on,wait=off,path=%s", i, escape(m.portPath(p))),
			"-device", fmt.Sprintf("virtserialport,bus=ports.0,chardev=port%d,name=%s", i, escape(p.Name)))
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

// firmware gives the machine its first program.
func (m *Machine) firmware() []string {
	if m.BIOS != "" {
		return []string{"-bios", m.BIOS}
	}
	args := []string{
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file=" + escape(m.Firmware.Code),
		"-drive", "if=pflash,unit=1,format=raw,file=" + escape(m.varsPath()),
	}
	if m.SecureBoot {
		// Only code in system management mode may write the variables: an
		// operating system could enrol its own keys otherwise.
		args = append(args, "-global", "driver=cfi.pflash01,property=secure,value=on")
	}
	return args
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

// machine names the board. System management mode is asked for by name where
// the firmware relies on it, so that an accelerator without it is an error.
func (m *Machine) machine() string {
	board := "q35,accel=" + string(m.accel())
	if m.SecureBoot {
		board += ",smm=on"
	}
	return board
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
func (m *Machine) pidPath() string    { return filepath.Join(m.Dir, "qemu.pid") }

func (m *Machine) portPath(p Port) string {
	if p.Path == "" {
		return filepath.Join(m.Dir, p.Name+".sock")
	}
	return p.Path
}

func (d Disk) format() string {
	if d.Format == "" {
		return "qcow2"
	}
	return d.Format
}

func (d Disk) snapshot() string {
	if d.Persistent {
		return ""
	}
	return "snapshot=on,"
}

func (d Disk) device(id string) string {
	if d.Bus == SCSI {
		return "scsi-hd,bus=scsi0.0,drive=" + id
	}
	return "virtio-blk-pci,drive=" + id
}

// escape doubles commas, which separate a QEMU option's fields.
func escape(value string) string { return strings.ReplaceAll(value, ",", ",,") }
