package domain

import (
	"encoding/base64"
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"

	"cc-base/tasks/fault"
)

// XML returns the domain as libvirt reads it. A specification that Check
// refuses is an error.
//
// Needed are libvirt 9.1 for a plain guest (pvpanic on PCI), 10.5 for SEV-SNP,
// 11.6 for TDX and 12.1 with Host.IOMMUFD.
func XML(s Spec) (string, error) {
	if err := s.Check(); err != nil {
		return "", err
	}
	d := &libvirtxml.Domain{
		Type: "kvm", Name: s.Name, UUID: s.UUID,
		Memory:        &libvirtxml.DomainMemory{Value: uint(s.MemoryMiB), Unit: "MiB"},
		VCPU:          &libvirtxml.DomainVCPU{Placement: "static", Value: uint(s.VCPUs)},
		MemoryTune:    s.memoryTune(),
		MemoryBacking: s.memoryBacking(),
		SysInfo:       s.sysInfo(),
		OS:            s.osXML(),
		Features:      s.features(),
		CPU:           s.cpuXML(),
		Clock: &libvirtxml.DomainClock{Offset: "utc", Timer: []libvirtxml.DomainTimer{
			{Name: "hpet", Present: "no"},
		}},
		OnPoweroff: "destroy", OnReboot: "restart",
		// A panicked guest counts as stopped. It is not started again: a host
		// could otherwise try an attack on the boot as often as it likes.
		OnCrash:         "destroy",
		Devices:         s.devices(),
		LaunchSecurity:  s.launchSecurity(),
		QEMUCommandline: s.passedToQEMU(),
	}
	if s.Emulated {
		d.Type = "qemu"
	}
	text, err := d.Marshal()
	if err != nil {
		return "", fault.New(fault.Config, err)
	}
	return s.finish(text) + "\n", nil
}

// finish mends what the library cannot say, or says although it was not asked
// to: it writes every element of launch security, empty or not, which newer
// schemas refuse, and knows no iommufd.
func (s Spec) finish(text string) string {
	for _, name := range []string{"guestVisibleWorkarounds", "idBlock", "idAuth", "hostData", "mrConfigId", "mrOwner", "mrOwnerConfig"} {
		text = strings.ReplaceAll(text, fmt.Sprintf("    <%s></%s>\n", name, name), "")
	}
	if s.Host.IOMMUFD {
		text = strings.ReplaceAll(text, `<driver name="vfio"></driver>`, `<driver name="vfio" iommufd="yes"></driver>`)
	}
	return text
}

func (s Spec) memoryTune() *libvirtxml.DomainMemoryTune {
	if len(s.GPUs) == 0 {
		return nil
	}
	return &libvirtxml.DomainMemoryTune{HardLimit: &libvirtxml.DomainMemoryTuneLimit{Value: uint64(s.pinnedMiB()), Unit: "MiB"}}
}

// memoryBacking is anonymous shared memory for SEV-SNP, as AMD advises; the
// guest's private memory comes from guest_memfd by itself.
func (s Spec) memoryBacking() *libvirtxml.DomainMemoryBacking {
	if s.SNP == nil {
		return nil
	}
	return &libvirtxml.DomainMemoryBacking{MemorySource: &libvirtxml.DomainMemorySource{Type: "memfd"}}
}

func (s Spec) sysInfo() []libvirtxml.DomainSysInfo {
	var entries []libvirtxml.DomainSysInfoEntry
	for _, f := range s.handedOver() {
		entries = append(entries, libvirtxml.DomainSysInfoEntry{Name: f.name, File: f.path})
	}
	if entries == nil {
		return nil
	}
	return []libvirtxml.DomainSysInfo{{FWCfg: &libvirtxml.DomainSysInfoFWCfg{Entry: entries}}}
}

func (s Spec) osXML() *libvirtxml.DomainOS {
	os := &libvirtxml.DomainOS{
		Type:   &libvirtxml.DomainOSType{Arch: "x86_64", Machine: "q35", Type: "hvm"},
		Kernel: s.Kernel, Initrd: s.Initrd, Cmdline: s.CommandLine,
	}
	if s.tee() {
		os.Loader = &libvirtxml.DomainLoader{Path: s.Firmware.Image, Type: "rom", Format: "raw", Stateless: "yes"}
		return os
	}
	os.Loader = &libvirtxml.DomainLoader{Path: s.Firmware.Code, Type: "pflash", Format: "raw", Readonly: "yes"}
	if s.Firmware.SecureBoot {
		os.Loader.Secure = "yes"
	}
	os.NVRam = &libvirtxml.DomainNVRam{NVRam: s.Firmware.NVRAM, Template: s.Firmware.Vars, Format: "raw"}
	return os
}

func (s Spec) features() *libvirtxml.DomainFeatureList {
	f := &libvirtxml.DomainFeatureList{
		ACPI: &libvirtxml.DomainFeature{}, APIC: &libvirtxml.DomainFeatureAPIC{},
		VMPort: &libvirtxml.DomainFeatureState{State: "off"},
	}
	switch {
	case s.tee():
		f.SMM = &libvirtxml.DomainFeatureSMM{State: "off"}
	case s.Firmware.SecureBoot:
		f.SMM = &libvirtxml.DomainFeatureSMM{State: "on"}
	}
	if s.TDX != nil {
		f.IOAPIC = &libvirtxml.DomainFeatureIOAPIC{Driver: "qemu"} // split irqchip
	}
	return f
}

func (s Spec) cpuXML() *libvirtxml.DomainCPU {
	cpu := &libvirtxml.DomainCPU{
		// One socket, because early stacks for TDX know no other.
		Topology: &libvirtxml.DomainCPUTopology{Sockets: 1, Cores: s.VCPUs, Threads: 1},
	}
	switch {
	case s.CPUModel != "":
		// Fixed: SEV-SNP has it in the launch digest.
		cpu.Mode, cpu.Match = "custom", "exact"
		cpu.Model = &libvirtxml.DomainCPUModel{Fallback: "forbid", Value: s.CPUModel}
	case s.Emulated:
		cpu.Mode = "maximum"
	default:
		cpu.Mode = "host-passthrough"
	}
	return cpu
}

// iommu is the setting of virtio devices: in a confidential guest they must go
// through the kernel's DMA interface, which copies to memory that the host can
// read.
func (s Spec) iommu() string {
	if s.tee() {
		return "on"
	}
	return ""
}

func (s Spec) devices() *libvirtxml.DomainDeviceList {
	zero := uint(0)
	d := &libvirtxml.DomainDeviceList{
		Disks:      []libvirtxml.DomainDisk{s.diskXML()},
		Interfaces: s.interfaces(),
		Serials:    []libvirtxml.DomainSerial{{Source: s.console(), Target: &libvirtxml.DomainSerialTarget{Type: "isa-serial", Port: &zero}}},
		Consoles:   []libvirtxml.DomainConsole{{Source: s.console(), Target: &libvirtxml.DomainConsoleTarget{Type: "serial", Port: &zero}}},
		Channels:   s.channels(),
		Hostdevs:   s.hostdevs(),
		MemBalloon: &libvirtxml.DomainMemBalloon{Model: "none"},
		Panics:     []libvirtxml.DomainPanic{{Model: "pvpanic"}},
		// No USB controller, which libvirt would add.
		Controllers: []libvirtxml.DomainController{{Type: "usb", Model: "none"}},
		RNGs: []libvirtxml.DomainRNG{{
			Model: "virtio", Driver: s.rngDriver(),
			Backend: &libvirtxml.DomainRNGBackend{Random: &libvirtxml.DomainRNGBackendRandom{Device: "/dev/urandom"}},
		}},
	}
	if len(d.Channels) > 0 {
		c := libvirtxml.DomainController{Type: "virtio-serial", Index: &zero}
		if s.tee() {
			c.Driver = &libvirtxml.DomainControllerDriver{IOMMU: "on"}
		}
		d.Controllers = append(d.Controllers, c)
	}
	if s.TPM.Present {
		d.TPMs = []libvirtxml.DomainTPM{{Model: "tpm-crb", Backend: &libvirtxml.DomainTPMBackend{
			Emulator: &libvirtxml.DomainTPMBackendEmulator{
				Version: "2.0", PersistentState: "yes",
				ActivePCRBanks: &libvirtxml.DomainTPMBackendPCRBanks{SHA256: &libvirtxml.DomainTPMBackendPCRBank{}},
			},
		}}}
	}
	return d
}

func (s Spec) rngDriver() *libvirtxml.DomainRNGDriver {
	if !s.tee() {
		return nil
	}
	return &libvirtxml.DomainRNGDriver{IOMMU: "on"}
}

func (s Spec) diskXML() libvirtxml.DomainDisk {
	disk := libvirtxml.DomainDisk{
		Device: "disk",
		Driver: &libvirtxml.DomainDiskDriver{Name: "qemu", Type: s.Disk.format(), Cache: "none", IOMMU: s.iommu()},
		Source: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: s.Disk.Path}},
		Target: &libvirtxml.DomainDiskTarget{Dev: "vda", Bus: "virtio"},
	}
	if s.Disk.Block {
		disk.Source = &libvirtxml.DomainDiskSource{Block: &libvirtxml.DomainDiskSourceBlock{Dev: s.Disk.Path}}
	}
	if s.Boot == Disk {
		disk.Boot = &libvirtxml.DomainDeviceBoot{Order: 1}
	}
	return disk
}

func (s Spec) interfaces() []libvirtxml.DomainInterface {
	if s.Network.Bridge == "" && s.Network.Name == "" {
		return nil
	}
	i := libvirtxml.DomainInterface{
		Model: &libvirtxml.DomainInterfaceModel{Type: "virtio"},
		// An option ROM is the host's code in the guest's firmware.
		ROM: &libvirtxml.DomainROM{Enabled: "no"},
	}
	if s.Network.Bridge != "" {
		i.Source = &libvirtxml.DomainInterfaceSource{Bridge: &libvirtxml.DomainInterfaceSourceBridge{Bridge: s.Network.Bridge}}
	} else {
		i.Source = &libvirtxml.DomainInterfaceSource{Network: &libvirtxml.DomainInterfaceSourceNetwork{Network: s.Network.Name}}
	}
	if s.Network.Filter != "" {
		i.FilterRef = &libvirtxml.DomainInterfaceFilterRef{Filter: s.Network.Filter}
	}
	if s.Network.Isolated {
		i.PortOptions = &libvirtxml.DomainInterfacePortOptions{Isolated: "yes"}
	}
	if s.Network.MAC != "" {
		i.MAC = &libvirtxml.DomainInterfaceMAC{Address: s.Network.MAC}
	}
	if s.tee() {
		i.Driver = &libvirtxml.DomainInterfaceDriver{IOMMU: "on"}
	}
	return []libvirtxml.DomainInterface{i}
}

func (s Spec) console() *libvirtxml.DomainChardevSource {
	if s.ConsoleFile == "" {
		return &libvirtxml.DomainChardevSource{Pty: &libvirtxml.DomainChardevSourcePty{}}
	}
	return &libvirtxml.DomainChardevSource{File: &libvirtxml.DomainChardevSourceFile{Path: s.ConsoleFile}}
}

// port is a virtio-serial port and its socket.
type port struct{ name, socket string }

func (s Spec) ports() []port {
	var found []port
	for _, p := range []port{{ReleasePort, s.ReleaseSocket}, {ControlPort, s.ControlSocket}} {
		if p.socket != "" {
			found = append(found, p)
		}
	}
	return found
}

func (s Spec) channels() []libvirtxml.DomainChannel {
	var channels []libvirtxml.DomainChannel
	for _, p := range s.ports() {
		channels = append(channels, libvirtxml.DomainChannel{
			Source: &libvirtxml.DomainChardevSource{UNIX: &libvirtxml.DomainChardevSourceUNIX{Mode: "bind", Path: p.socket}},
			Target: &libvirtxml.DomainChannelTarget{VirtIO: &libvirtxml.DomainChannelTargetVirtIO{Name: p.name}},
		})
	}
	return channels
}

func (s Spec) hostdevs() []libvirtxml.DomainHostdev {
	var devices []libvirtxml.DomainHostdev
	for _, g := range s.GPUs {
		var domain, bus, slot, function uint
		// Check has seen the form.
		_, _ = fmt.Sscanf(g, "%x:%x:%x.%x", &domain, &bus, &slot, &function)
		devices = append(devices, libvirtxml.DomainHostdev{
			Managed: "yes",
			SubsysPCI: &libvirtxml.DomainHostdevSubsysPCI{
				Driver: &libvirtxml.DomainHostdevSubsysPCIDriver{Name: "vfio"},
				Source: &libvirtxml.DomainHostdevSubsysPCISource{Address: &libvirtxml.DomainAddressPCI{
					Domain: &domain, Bus: &bus, Slot: &slot, Function: &function,
				}},
			},
			ROM: &libvirtxml.DomainROM{Bar: "off"},
		})
	}
	return devices
}

func (s Spec) launchSecurity() *libvirtxml.DomainLaunchSecurity {
	b64 := base64.StdEncoding.EncodeToString
	switch {
	case s.SNP != nil:
		x := &libvirtxml.DomainLaunchSecuritySEVSNP{
			Policy: &s.SNP.Policy, HostData: b64(s.SNP.HostData), IDBlock: b64(s.SNP.IDBlock), IDAuth: b64(s.SNP.IDAuth),
		}
		if s.SNP.KernelHashes {
			x.KernelHashes = "yes"
		}
		if s.SNP.AuthorKey {
			x.AuthorKey = "yes"
		}
		return &libvirtxml.DomainLaunchSecurity{SEVSNP: x}
	case s.TDX != nil:
		policy := uint(s.TDX.Attributes)
		return &libvirtxml.DomainLaunchSecurity{TDX: &libvirtxml.DomainLaunchSecurityTDX{
			Policy: &policy, MrConfigId: b64(s.TDX.MRConfigID),
			// Without it there are no quotes.
			QuoteGenerationService: &libvirtxml.DomainLaunchSecurityTDXQGS{Path: s.TDX.QuoteSocket},
		}}
	}
	return nil
}

// passedToQEMU is what libvirt has no element for: it reserves names below
// opt/ovmf in its own fw_cfg element.
func (s Spec) passedToQEMU() *libvirtxml.DomainQEMUCommandline {
	if s.aperture() == 0 {
		return nil
	}
	return &libvirtxml.DomainQEMUCommandline{Args: []libvirtxml.DomainQEMUCommandlineArg{{Value: "-fw_cfg"}, {Value: s.apertureArg()}}}
}
