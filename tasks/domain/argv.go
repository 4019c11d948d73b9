package domain

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"cc-base/tasks/fault"
)

// Argv returns the arguments of qemu-system-x86_64 for the same machine,
// without the program's name. QEMU does not run swtpm: TPM.Socket must be the
// control socket of one. A network of libvirt is an error. With Network.Bridge
// QEMU starts its bridge helper.
//
// QEMU 9.1 is needed for SEV-SNP and 10.1 for TDX.
func Argv(s Spec) ([]string, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	if s.Network.Filter != "" || s.Network.Isolated {
		return nil, fault.Newf(fault.Config, "the network card is filtered or isolated by libvirt: QEMU alone would leave it open")
	}
	if s.Network.Name != "" {
		return nil, fault.Newf(fault.Config, "network %q is libvirt's: QEMU alone needs a bridge", s.Network.Name)
	}
	if s.TPM.Present && s.TPM.Socket == "" {
		return nil, fault.Newf(fault.Config, "QEMU alone needs the socket of a swtpm for the TPM")
	}
	a := &argv{virtio: ",disable-legacy=on"}
	if s.tee() {
		a.virtio += ",iommu_platform=on"
	}
	a.machine(s)
	a.firmware(s)
	a.boot(s)
	a.disk(s)
	a.network(s)
	a.gpus(s)
	a.tpm(s)
	a.ports(s)
	a.rest(s)
	return a.args, nil
}

// argv collects arguments; virtio is what every virtio device gets.
type argv struct {
	args   []string
	virtio string
}

func (a *argv) add(args ...string) { a.args = append(a.args, args...) }

// object adds an object in QEMU's JSON form, in which no value can be taken
// for another property.
func (a *argv) object(properties map[string]any) {
	a.add("-object", encode(properties))
}

// encode returns JSON with its keys in order.
func encode(v map[string]any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings, numbers and byte slices always encode
	}
	return string(b)
}

func (a *argv) machine(s Spec) {
	machine := []string{"q35"}
	if s.Emulated {
		machine = append(machine, "accel=tcg")
	} else {
		machine = append(machine, "accel=kvm")
	}
	machine = append(machine, "vmport=off", "hpet=off")
	switch {
	case s.tee():
		machine = append(machine, "smm=off", "confidential-guest-support=tee0")
	case s.Firmware.SecureBoot:
		machine = append(machine, "smm=on")
	}
	if s.SNP != nil {
		machine = append(machine, "memory-backend=ram0")
	}
	if s.TDX != nil {
		machine = append(machine, "kernel-irqchip=split")
	}
	cpu := s.CPUModel
	switch {
	case cpu == "" && s.Emulated:
		cpu = "max"
	case cpu == "":
		cpu = "host"
	}
	a.add("-name", "guest="+s.Name, "-nodefaults", "-no-user-config",
		"-machine", strings.Join(machine, ","), "-cpu", cpu,
		"-smp", fmt.Sprintf("%d,sockets=1,cores=%d,threads=1", s.VCPUs, s.VCPUs),
		"-m", fmt.Sprintf("%dM", s.MemoryMiB))
	if s.UUID != "" {
		a.add("-uuid", s.UUID)
	}
	if s.SNP != nil {
		a.object(map[string]any{"qom-type": "memory-backend-memfd", "id": "ram0", "size": s.MemoryMiB << 20, "share": true})
		a.object(s.SNP.object())
	}
	if s.TDX != nil {
		a.object(s.TDX.object())
	}
}

func (n SNP) object() map[string]any {
	o := map[string]any{"qom-type": "sev-snp-guest", "id": "tee0", "cbitpos": n.CBitPos, "reduced-phys-bits": 1, "policy": n.Policy, "kernel-hashes": n.KernelHashes}
	if n.CBitPos == 0 {
		o["cbitpos"] = defaultCBitPos
	}
	if len(n.HostData) > 0 {
		o["host-data"] = base64.StdEncoding.EncodeToString(n.HostData)
	}
	if len(n.IDBlock) > 0 {
		o["id-block"] = base64.StdEncoding.EncodeToString(n.IDBlock)
		o["id-auth"] = base64.StdEncoding.EncodeToString(n.IDAuth)
		o["author-key-enabled"] = n.AuthorKey
	}
	return o
}

func (t TDX) object() map[string]any {
	o := map[string]any{
		"qom-type": "tdx-guest", "id": "tee0", "attributes": t.Attributes,
		"quote-generation-socket": map[string]any{"type": "unix", "path": t.quoteSocket()},
	}
	if len(t.MRConfigID) > 0 {
		o["mrconfigid"] = base64.StdEncoding.EncodeToString(t.MRConfigID)
	}
	return o
}

func (a *argv) firmware(s Spec) {
	if s.tee() {
		a.add("-bios", s.Firmware.Image)
		return
	}
	a.add("-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+escape(s.Firmware.Code),
		"-drive", "if=pflash,unit=1,format=raw,file="+escape(s.Firmware.NVRAM))
	if s.Firmware.SecureBoot {
		a.add("-global", "driver=cfi.pflash01,property=secure,value=on")
	}
}

func (a *argv) boot(s Spec) {
	if s.Boot != Direct {
		return
	}
	a.add("-kernel", s.Kernel)
	if s.Initrd != "" {
		a.add("-initrd", s.Initrd, "-append", s.CommandLine)
	}
}

func (a *argv) disk(s Spec) {
	protocol := "file"
	if s.Disk.Block {
		protocol = "host_device"
	}
	a.add("-blockdev", encode(map[string]any{
		"driver": s.Disk.format(), "node-name": "disk0", "cache": map[string]any{"direct": true},
		"file": map[string]any{"driver": protocol, "filename": s.Disk.Path, "cache": map[string]any{"direct": true}},
	}))
	device := "virtio-blk-pci,drive=disk0" + a.virtio
	if s.Boot == Disk {
		device += ",bootindex=1"
	}
	a.add("-device", device)
}

func (a *argv) network(s Spec) {
	if s.Network.Bridge == "" {
		return
	}
	device := "virtio-net-pci,netdev=net0,romfile=" + a.virtio
	if s.Network.MAC != "" {
		device += ",mac=" + s.Network.MAC
	}
	a.add("-netdev", "bridge,id=net0,br="+s.Network.Bridge, "-device", device)
}

func (a *argv) gpus(s Spec) {
	if len(s.GPUs) == 0 {
		return
	}
	fd := ""
	if s.Host.IOMMUFD {
		a.object(map[string]any{"qom-type": "iommufd", "id": "iommufd0"})
		fd = ",iommufd=iommufd0"
	}
	for i, g := range s.GPUs {
		a.add("-device", fmt.Sprintf("pcie-root-port,id=gpu%d,bus=pcie.0,chassis=%d,hotplug=off", i, i+1),
			"-device", fmt.Sprintf("vfio-pci,host=%s,bus=gpu%d,rombar=0%s", g, i, fd))
	}
	a.add("-fw_cfg", s.apertureArg())
}

func (a *argv) tpm(s Spec) {
	if !s.TPM.Present {
		return
	}
	a.add("-chardev", "socket,id=tpm,path="+escape(s.TPM.Socket), "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0")
}

func (a *argv) ports(s Spec) {
	for i, p := range s.ports() {
		if i == 0 {
			a.add("-device", "virtio-serial-pci"+a.virtio)
		}
		id := "port" + strconv.Itoa(i)
		a.add("-chardev", "socket,id="+id+",path="+escape(p.socket)+",server=on,wait=off", "-device", "virtserialport,chardev="+id+",name="+p.name)
	}
}

func (a *argv) rest(s Spec) {
	for _, f := range s.handedOver() {
		a.add("-fw_cfg", "name="+f.name+",file="+escape(f.path))
	}
	console := "pty,id=console"
	if s.ConsoleFile != "" {
		console = "file,id=console,path=" + escape(s.ConsoleFile)
	}
	a.add("-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"+a.virtio,
		"-device", "pvpanic-pci", "-action", "panic=shutdown",
		"-display", "none", "-monitor", "none",
		"-chardev", console, "-serial", "chardev:console")
}

// escape doubles commas, which separate a QEMU option's fields.
func escape(value string) string { return strings.ReplaceAll(value, ",", ",,") }
