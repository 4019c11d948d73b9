package doctor_test

// What green does not prove: the hosts are made by hand (factstest), so that a
// check may be right and still never fire on a real host whose sysfs differs.
// No check was seen firing on SNP, TDX or GPU hardware by these tests.

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cc-base/installer/doctor"
	"cc-base/tasks/facts"
	"cc-base/tasks/facts/factstest"
	"cc-base/tasks/golden"
	"cc-base/tasks/gpu/gputest"
)

func examine(t *testing.T, h factstest.Host, o doctor.Options) doctor.Report {
	t.Helper()
	return doctor.Examine(facts.Gather(t.Context(), h.World()), o)
}

// finding returns the finding of the check, or one of severity "" when it has
// nothing to say.
func finding(r doctor.Report, id string) doctor.Finding {
	for _, f := range r.Findings {
		if f.ID == id {
			return f
		}
	}
	return doctor.Finding{ID: id}
}

const (
	gpu0, gpu1 = "sys/bus/pci/devices/" + factstest.GPU0, "sys/bus/pci/devices/" + factstest.GPU1
	silent     = doctor.Severity("")
)

type row struct {
	id    string
	host  func() factstest.Host
	spoil func(h factstest.Host) // nil: the host as it is
	opt   doctor.Options
	want  doctor.Severity
	text  string // in what was found, the cause or the fix
}

func rows() []row {
	epyc, xeon, plain := factstest.EPYC, factstest.Xeon, factstest.Plain
	put := func(name, text string) func(factstest.Host) {
		return func(h factstest.Host) { h.Put(name, text) }
	}
	remove := func(names ...string) func(factstest.Host) {
		return func(h factstest.Host) {
			for _, n := range names {
				h.Remove(n)
			}
		}
	}
	prints := func(program, text string) func(factstest.Host) {
		return func(h factstest.Host) { h.Prints[program] = text }
	}
	gone := func(program string) func(factstest.Host) {
		return func(h factstest.Host) { delete(h.Prints, program) }
	}
	log := func(line string) func(factstest.Host) { return func(h factstest.Host) { h.Log(line) } }
	device := func(d gputest.Device) func(factstest.Host) {
		return func(h factstest.Host) { h.Remove(gpu0); h.Add(factstest.GPU0, d) }
	}
	mode := func(words ...string) func(factstest.Host) {
		return func(h factstest.Host) {
			for i, w := range words {
				h.Modes[[]string{factstest.GPU0, factstest.GPU1}[i]] = w
			}
		}
	}
	both := func(spoil ...func(factstest.Host)) func(factstest.Host) {
		return func(h factstest.Host) {
			for _, s := range spoil {
				s(h)
			}
		}
	}
	oneGPU := remove(gpu1, "sys/kernel/iommu_groups/12")
	nvswitch := func(h factstest.Host) {
		h.Add("0000:05:00.0", gputest.Device{ID: 0x22a3, Class: 0x068000, Group: 3, Driver: "vfio-pci"})
	}
	cmdline := func(option string) func(factstest.Host) { return put("proc/cmdline", "ro "+option+"\n") }
	none := doctor.Options{}
	allow := doctor.Options{AllowPlain: true}
	return []row{
		{"facts.read", epyc, nil, none, doctor.OK, "GPUs"},
		{"facts.read", epyc, remove("sys/class/net"), none, doctor.Warn, "network: listing"},
		{"facts.root", epyc, nil, none, doctor.OK, "root"},
		{"facts.root", epyc, put("proc/self/status", "Uid:\t1000\t1000\t1000\t1000\n"), none, doctor.Note, "sudo"},

		{"cpu.virtualization", epyc, nil, none, doctor.OK, "AMD EPYC"},
		{"cpu.virtualization", epyc, remove("dev/kvm"), none, doctor.Fail, "modprobe kvm_amd"},
		{"cpu.virtualization", plain, both(remove("dev/kvm"), func(h factstest.Host) { h.Edit("proc/cpuinfo", "svm", "") }), none, doctor.Fail, "neither svm nor vmx"},
		{"cpu.virtualization", plain, func(h factstest.Host) { h.Edit("proc/cpuinfo", "svm", "svm hypervisor") }, none, doctor.Note, "itself a virtual machine"},

		{"kernel.version", epyc, put("proc/sys/kernel/osrelease", "6.11.0-rc1\n"), none, doctor.OK, "needs 6.11"},
		{"kernel.version", epyc, put("proc/sys/kernel/osrelease", "6.8.0-40-generic\n"), none, doctor.Fail, "sev-snp guests need 6.11"},
		{"kernel.version", xeon, put("proc/sys/kernel/osrelease", "6.12.0\n"), none, doctor.Fail, "tdx guests need 6.16"},
		{"kernel.version", xeon, remove("proc/sys/kernel/osrelease"), none, doctor.Warn, "cannot be read"},
		{"kernel.config", epyc, nil, none, doctor.OK, "KVM_AMD_SEV=y"},
		{"kernel.config", xeon, put("boot/config-6.17.0-5-generic", "# CONFIG_KVM_INTEL_TDX is not set\n"), none, doctor.Fail, "KVM_INTEL_TDX is not set"},
		{"kernel.config", xeon, put("boot/config-6.17.0-5-generic", "CONFIG_X=y\n"), allow, doctor.Note, "KVM_INTEL_TDX is not set"},
		{"qemu.version", epyc, prints("qemu-system-x86_64", "QEMU emulator version 9.1.0"), none, doctor.OK, "9.1.0"},
		{"qemu.version", epyc, prints("qemu-system-x86_64", "QEMU emulator version 7.2.17 (Debian 1:7.2+dfsg-7)"), none, doctor.Fail, "needs QEMU >= 9.1, have 7.2.17"},
		{"qemu.version", xeon, prints("qemu-system-x86_64", "QEMU emulator version 10.0.2"), none, doctor.Fail, "needs QEMU >= 10.1"},
		{"qemu.version", plain, gone("qemu-system-x86_64"), allow, doctor.Fail, "not there"},
		{"libvirt.version", xeon, nil, none, doctor.OK, "12.2.0"},
		{"libvirt.version", epyc, prints("virsh", "9.0.0"), none, doctor.Fail, "needs libvirt >= 10.5"},
		{"libvirt.version", xeon, prints("virsh", "11.3.0"), none, doctor.Fail, "needs libvirt >= 11.6"},
		{"programs.present", epyc, nil, none, doctor.OK, "swtpm 0.10.1"},
		{"programs.present", epyc, gone("swtpm"), none, doctor.Fail, "not there: swtpm"},
		{"memory.size", epyc, nil, none, doctor.OK, "503.5 GiB"},
		{"memory.size", epyc, put("proc/meminfo", "MemTotal: 8000000 kB\n"), none, doctor.Fail, "--allow-small"},
		{"memory.size", epyc, put("proc/meminfo", "MemTotal: 8000000 kB\n"), doctor.Options{AllowSmall: true}, doctor.Note, "accepted"},

		{"tee.available", epyc, nil, none, doctor.OK, "sev-snp"},
		{"tee.available", xeon, nil, none, doctor.OK, "tdx"},
		{"tee.available", plain, nil, none, doctor.Fail, "switch SEV-SNP"},
		{"tee.available", plain, nil, allow, doctor.Note, "not be protected"},
		{"tee.domcapabilities", epyc, nil, none, doctor.OK, "sev, sev-es, sev-snp"},
		{"tee.domcapabilities", epyc, gone("virsh domcapabilities"), none, doctor.Note, "sysfs was asked instead"},
		{"tee.domcapabilities", epyc, func(h factstest.Host) {
			h.Prints["virsh domcapabilities"] = strings.ReplaceAll(h.Prints["virsh domcapabilities"], "<value>sev-snp</value>", "")
		}, none, doctor.Warn, "libvirt offers only sev, sev-es"},
		{"tee.domcapabilities", epyc, gone("virsh"), none, silent, ""},
		{"tee.tdx-claimed", xeon, nil, none, doctor.OK, "kvm_intel has tdx on"},
		{"tee.tdx-claimed", xeon, both(put("sys/module/kvm_intel/parameters/tdx", "N\n"), prints("virsh", "11.8.0")), none, doctor.Warn, "libvirt 11.8.0 offers tdx"},
		{"tee.firmware", epyc, nil, none, doctor.OK, "OVMF.amdsev.fd"},
		{"tee.firmware", epyc, remove("usr/share/qemu/firmware"), none, doctor.Warn, "no firmware descriptor has the feature amd-sev-snp"},
		{"tee.firmware", epyc, remove("usr/share/ovmf/OVMF.amdsev.fd"), none, doctor.Warn, "which is not there"},
		{"tee.firmware", xeon, func(h factstest.Host) {
			h.Edit("usr/share/qemu/firmware/60-edk2-x86_64-inteltdx.json", `"memory"`, `"flash"`)
		}, none, doctor.Warn, "maps it as flash"},
		{"tee.vtpm", plain, nil, none, silent, ""},
		{"tee.vtpm", epyc, nil, none, doctor.Note, "swtpm, a program of the host"},

		{"snp.parameter", epyc, nil, none, doctor.OK, "sev_snp=Y"},
		{"snp.parameter", epyc, both(put("sys/module/kvm_amd/parameters/sev_snp", "N\n"), log("AMD-Vi: SNP: IOMMU disabled or configured in passthrough mode, SNP cannot be supported.")), none, doctor.Fail, "the kernel says: AMD-Vi: SNP"},
		{"snp.parameter", plain, nil, none, doctor.Fail, "shows no parameter"},
		{"snp.parameter", xeon, nil, none, silent, ""},
		{"snp.device", epyc, nil, none, doctor.OK, "/dev/sev"},
		{"snp.device", epyc, remove("dev/sev"), none, doctor.Fail, "modprobe ccp"},
		{"snp.iommu-passthrough", epyc, nil, none, doctor.OK, "translation"},
		{"snp.iommu-passthrough", epyc, cmdline("iommu=pt"), none, doctor.Fail, "has iommu=pt"},
		{"snp.iommu-passthrough", epyc, cmdline("iommu=soft,pt"), none, doctor.Fail, "has iommu=pt"},
		{"snp.iommu-passthrough", epyc, cmdline("iommu=nopt"), none, doctor.OK, "translation"},
		{"snp.iommu-passthrough", epyc, cmdline("amd_iommu=off"), none, doctor.Fail, "has amd_iommu=off"},
		{"snp.iommu-passthrough", epyc, log("AMD-Vi: SNP: IOMMU disabled or configured in passthrough mode, SNP cannot be supported."), none, doctor.Fail, "remove iommu=pt"},
		{"snp.iommu-passthrough", epyc, both(put("sys/kernel/iommu_groups/7/type", "identity\n"), put("sys/kernel/iommu_groups/12/type", "identity\n")), none, doctor.Fail, "all 2 IOMMU groups"},
		{"snp.iommu-passthrough", xeon, cmdline("intel_iommu=on iommu=pt"), none, silent, ""},
		{"snp.iommu-tables", epyc, nil, none, doctor.OK, "v2"},
		{"snp.iommu-tables", epyc, cmdline("amd_iommu=pgtbl_v2"), none, doctor.Fail, "pgtbl_v2"},
		{"snp.firmware-abi", epyc, nil, none, doctor.OK, "1.55"},
		{"snp.firmware-abi", epyc, prints("dmesg", "ccp 0000:42:00.1: SEV-SNP API:1.51 build:3\n"), none, doctor.Warn, "1.55 is what"},
		{"snp.firmware-abi", epyc, gone("dmesg"), none, doctor.Note, "not in the kernel's log"},
		{"snp.asids", epyc, nil, none, doctor.OK, "99 SNP guests"},
		{"snp.asids", epyc, put("sys/fs/cgroup/misc.capacity", "sev 509\nsev_es 0\n"), none, doctor.Fail, "ASID space limit"},
		{"snp.smt", epyc, nil, none, doctor.OK, "0x30000"},
		{"snp.smt", epyc, put("sys/devices/system/cpu/smt/active", "0\n"), none, doctor.Note, "0x20000"},
		{"snp.certificates", xeon, nil, none, silent, ""},
		{"snp.certificates", epyc, nil, none, doctor.Note, "keep it with the verifier"},

		{"tdx.parameter", xeon, nil, none, doctor.OK, "tdx=Y"},
		{"tdx.parameter", xeon, put("sys/module/kvm_intel/parameters/tdx", "N\n"), none, doctor.Fail, "kvm_intel.tdx=1"},
		{"tdx.parameter", xeon, remove("sys/module/kvm_intel"), none, doctor.Fail, "KVM_INTEL_TDX"},
		{"tdx.hibernation", xeon, nil, none, doctor.OK, "cannot hibernate"},
		{"tdx.hibernation", xeon, cmdline("intel_iommu=on"), none, doctor.Warn, "nohibernate"},
		{"tdx.hibernation", xeon, both(cmdline("intel_iommu=on"), put("proc/sys/kernel/osrelease", "7.0.1\n")), none, doctor.Fail, "nohibernate"},
		{"tdx.hibernation", xeon, log("virt/tdx: initialization failed: Hibernation support is enabled"), none, doctor.Fail, "the kernel says: virt/tdx"},
		{"tdx.initialized", xeon, nil, none, doctor.OK, "initialized"},
		{"tdx.initialized", xeon, prints("dmesg", "virt/tdx: initialization failed: too old\n"), none, doctor.Fail, "too old"},
		{"tdx.initialized", xeon, log("DMAR: initialization failed"), none, doctor.OK, "initialized"},
		{"tdx.initialized", xeon, gone("dmesg"), none, doctor.Note, "first guest"},
		{"tdx.quotes", xeon, nil, none, doctor.OK, "socket"},
		{"tdx.quotes", xeon, remove("run/tdx-qgs"), none, doctor.Warn, "gets no quotes"},
		{"tdx.quotes", xeon, both(remove("run/tdx-qgs"), put("etc/qgs.conf", "port = 4050\n")), none, doctor.Note, "vsock port 4050"},
		{"tdx.registration", xeon, func(h factstest.Host) { h.Edit("proc/cpuinfo", "physical id\t: 1", "physical id\t: 0") }, none, silent, ""},
		{"tdx.registration", xeon, nil, none, doctor.Note, "2 processors"},
		{"tdx.collateral", epyc, nil, none, silent, ""},
		{"tdx.collateral", xeon, nil, none, doctor.Note, "168 hours"},

		{"iommu.on", epyc, nil, none, doctor.OK, "2 groups, 1 units"},
		{"iommu.on", xeon, remove("sys/kernel/iommu_groups"), none, doctor.Fail, "intel_iommu=on"},
		{"iommu.on", plain, nil, none, doctor.Note, "no IOMMU groups"},
		{"vfio.pci", epyc, nil, none, doctor.OK, "vfio-pci"},
		{"vfio.pci", epyc, remove("sys/bus/pci/drivers/vfio-pci"), none, doctor.Fail, "no vfio-pci"},
		{"vfio.isolation", epyc, nil, none, silent, ""},
		{"vfio.isolation", epyc, put("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n"), none, doctor.Fail, "unsafe_noiommu"},
		{"vfio.iommufd", epyc, nil, none, doctor.OK, "/dev/iommu"},
		{"vfio.iommufd", epyc, prints("virsh", "11.3.0"), none, doctor.Note, "libvirt 11.3.0 does not use it"},
		{"vfio.iommufd", epyc, both(remove("dev/iommu"), put("boot/config-6.17.0-5-generic", "CONFIG_KVM_AMD_SEV=y\n# CONFIG_IOMMUFD is not set\n")), none, doctor.Note, "CONFIG_IOMMUFD is not set"},
		{"vfio.iommufd", epyc, remove("dev/iommu"), none, doctor.Note, "modprobe iommufd"},
		{"vfio.dma-limit", epyc, nil, none, doctor.OK, "no such limit"},
		{"vfio.dma-limit", epyc, both(remove("dev/iommu"), put("sys/module/vfio_iommu_type1/parameters/dma_entry_limit", "1048576\n")), none, doctor.OK, "1048576"},
		{"vfio.dma-limit", epyc, both(remove("dev/iommu"), put("sys/module/vfio_iommu_type1/parameters/dma_entry_limit", "65535\n")), none, doctor.Warn, "dma_entry_limit=1048576"},
		{"vfio.dma-limit", epyc, prints("virsh", "11.3.0"), none, doctor.Warn, "65535 by default"},
		{"vfio.memlock", epyc, nil, none, doctor.OK, "unlimited"},
		{"vfio.memlock", epyc, put("proc/self/limits", "Max locked memory         8388608              8388608              bytes\n"), none, doctor.Note, "8388608 bytes"},

		{"gpu.present", epyc, nil, none, doctor.OK, "H100"},
		{"gpu.present", plain, nil, none, doctor.Note, "no NVIDIA GPU"},
		{"gpu.present", plain, remove("sys/bus"), none, doctor.Warn, "cannot be looked at"},
		{"gpu.present", epyc, nil, none, doctor.OK, "all 2: NVIDIA H100"},
		{"gpu.present", plain, put("sys/module/nvidia/version", "580.159.04\n"), none, doctor.Warn, "sysfs shows no GPU"},
		{"gpu.known", epyc, nil, none, doctor.OK, "all"},
		{"gpu.known", epyc, device(gputest.Device{ID: 0x1234, Group: 7, Driver: "vfio-pci"}), none, doctor.Warn, "10de:1234"},
		{"gpu.confidential", epyc, nil, none, doctor.OK, "all"},
		{"gpu.confidential", epyc, device(gputest.Device{ID: 0x26b9, Group: 7, Driver: "vfio-pci"}), none, doctor.Fail, "no confidential-computing mode"},
		{"gpu.cc-mode", epyc, nil, none, doctor.OK, "on"},
		{"gpu.cc-mode", epyc, mode("off", "off"), none, doctor.Fail, "--set-cc-mode=on"},
		{"gpu.cc-mode", epyc, mode("invalid"), none, doctor.Fail, "invalid"},
		{"gpu.cc-mode", epyc, mode("off", "off"), allow, doctor.Note, "off"},
		{"gpu.cc-mode", epyc, mode("refuses"), none, doctor.Warn, "refuses to show"},
		{"gpu.cc-mode", epyc, both(oneGPU, device(gputest.Device{ID: h100, Group: 7, Power: "D3cold"})), none, doctor.Warn, "asleep"},
		{"gpu.devtools", epyc, nil, none, doctor.OK, "none"},
		{"gpu.devtools", epyc, mode("devtools", "devtools"), none, doctor.Fail, "attestation fails"},
		{"gpu.alike", epyc, nil, none, doctor.OK, "all"},
		{"gpu.alike", epyc, mode("off"), none, doctor.Fail, "different modes: off, on"},
		{"gpu.mode-switch", epyc, nil, none, silent, ""},
		{"gpu.mode-switch", epyc, device(gputest.Device{ID: 0x2bb5, Group: 7}), none, doctor.Note, "boot the host after a switch"},
		{"gpu.nvswitch", epyc, nil, none, silent, ""},
		{"gpu.nvswitch", epyc, nvswitch, none, doctor.Warn, "--set-ppcie-mode=on"},
		{"gpu.bars", epyc, nil, none, doctor.OK, "0:16M 2:128G 4:32M"},
		{"gpu.bars", epyc, put(gpu0+"/resource", "0x0000000000000000 0x0000001fffffffff 0x000000002014220c\n"), none, doctor.Fail, "Above 4G Decoding"},
		{"gpu.bars", epyc, put(gpu0+"/resource", "\n"), none, doctor.Fail, "no BAR is shown"},
		{"gpu.aperture", epyc, nil, none, doctor.OK, "262144 for one GPU, 524288 for all 2"},
		{"gpu.aperture", epyc, put(gpu0+"/resource", "\n"), none, doctor.Fail, "no 64-bit BAR"},
		{"gpu.iommu-group", epyc, nil, none, doctor.OK, "7"},
		{"gpu.iommu-group", epyc, func(h factstest.Host) {
			h.Add("0000:18:00.1", gputest.Device{Vendor: 0x15b3, Class: 0x020000, Group: 7, Driver: "mlx5_core"})
		}, none, doctor.Fail, "group 7 holds 0000:18:00.1 (class 0200)"},
		{"gpu.iommu-group", epyc, remove("sys/kernel/iommu_groups", gpu0+"/iommu_group", gpu1+"/iommu_group"), none, doctor.Fail, "no IOMMU groups"},
		{"gpu.driver", epyc, nil, none, doctor.OK, "vfio-pci"},
		{"gpu.driver", epyc, device(gputest.Device{ID: h100, Group: 7, Driver: "nvidia"}), none, doctor.Warn, factstest.GPU0 + ": nvidia"},
		{"gpu.driver", epyc, both(put("sys/module/nvidia/version", "580.159.04\n"), device(gputest.Device{ID: h100, Group: 7, Driver: "nvidia"})), none, doctor.Warn, factstest.GPU0 + ": nvidia 580.159.04"},
		{"gpu.driver", epyc, device(gputest.Device{ID: h100, Group: 7, Driver: "nouveau"}), none, doctor.Warn, "nouveau"},
		{"gpu.link", epyc, nil, none, doctor.OK, "x16"},
		{"gpu.link", epyc, put(gpu0+"/current_link_width", "8\n"), none, doctor.Note, "x8"},
		{"gpu.host-kernel", epyc, nil, none, doctor.OK, "6.17"},
		{"gpu.host-kernel", epyc, put("proc/sys/kernel/osrelease", "6.12.5\n"), none, doctor.Note, "from 6.17 on"},

		{"guest.driver", epyc, oneGPU, doctor.Options{GuestDriver: "550.163.01"}, doctor.OK, "550.163.01"},
		{"guest.driver", epyc, nil, none, doctor.Note, "Hopper (single) from 550.54.15"},
		{"guest.driver", epyc, nil, doctor.Options{GuestDriver: "550.163.01"}, doctor.OK, "550.163.01"},
		{"guest.driver", epyc, nvswitch, doctor.Options{GuestDriver: "550.163.01"}, doctor.Fail, "needs 580.65.06"},
		{"guest.driver", epyc, both(oneGPU, device(gputest.Device{ID: 0x2901, Group: 7})), doctor.Options{GuestDriver: "550.163.01"}, doctor.Fail, "too old for NVIDIA B200"},
		{"guest.key-rotation", epyc, nil, doctor.Options{GuestDriver: "580.65.06"}, doctor.OK, "renews"},
		{"guest.key-rotation", epyc, nil, doctor.Options{GuestDriver: "550.163.01"}, doctor.Note, "AES-GCM"},
		{"guest.swiotlb", epyc, nil, doctor.Options{CommandLine: "ro swiotlb=262144"}, doctor.OK, "swiotlb=262144"},
		{"guest.swiotlb", epyc, nil, doctor.Options{CommandLine: "ro"}, doctor.Note, "no swiotlb="},
		{"guest.start-order", plain, nil, none, silent, ""},
		{"guest.start-order", epyc, nil, none, doctor.Note, "nvidia-persistenced"},

		{"memory.guest", epyc, nil, doctor.Options{GuestMiB: 65536}, doctor.OK, "the guest needs 66.0 GiB"},
		{"memory.guest", epyc, nil, doctor.Options{GuestMiB: 524288}, doctor.Warn, "TEE_MEMORY_SIZE"},
		{"memory.huge-pages", epyc, nil, none, doctor.OK, "none"},
		{"memory.huge-pages", epyc, put("sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "64\n"), none, doctor.Warn, "64 of 1048576kB"},
		{"memory.huge-pages", plain, put("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "64\n"), none, doctor.Note, "a plain guest can use them"},
		{"memory.transparent-huge-pages", epyc, nil, none, doctor.OK, "madvise"},
		{"memory.transparent-huge-pages", epyc, put("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n"), none, doctor.Note, "madvise >"},
		{"numa.gpu", epyc, nil, none, doctor.OK, "nodeset='1'"},
		{"numa.gpu", epyc, put(gpu0+"/numa_node", "-1\n"), none, doctor.Warn, "does not say"},
		{"numa.gpu", epyc, nil, doctor.Options{GuestMiB: 300000}, doctor.Warn, "node 0 has 238.4 GiB free"},
		{"numa.pinning", plain, nil, none, silent, ""},
		{"numa.pinning", epyc, oneGPU, none, doctor.Note, "node 0: <vcpu cpuset='0-63'>"},
		{"security.modules", epyc, nil, none, doctor.OK, "AppArmor"},
		{"security.modules", epyc, remove("sys/module/apparmor"), none, doctor.Note, "unconfined"},
		{"security.modules", epyc, put("etc/libvirt/qemu.conf", "security_driver = \"none\"\n"), none, doctor.Warn, "security_driver"},
		{"network.bridge", epyc, nil, none, doctor.OK, "br0"},
		{"network.bridge", epyc, remove("sys/class/net/br0"), none, doctor.Note, "NAT"},
		{"network.bridge", epyc, both(remove("sys/class/net/br0"), put("sys/class/net/wlp1s0/wireless/x", ""), func(h factstest.Host) { h.Edit("proc/net/route", "br0", "wlp1s0") }), none, doctor.Note, "wireless"},
		{"network.range", epyc, nil, none, doctor.OK, "192.168.200.0/24"},
		{"network.range", epyc, put("proc/net/route", "head\nvpn\t000010AC\t0\t1\t0\t0\t0\t0000F0FF\t0\t0\t0\nvpn\t0000A8C0\t0\t1\t0\t0\t0\t0000FFFF\t0\t0\t0\nvpn\t0000000A\t0\t1\t0\t0\t0\t000000FF\t0\t0\t0\n"), none, doctor.Warn, "every private range"},
		{"disk.free", epyc, nil, none, doctor.OK, "/dev/nvme0n1 (nvme"},
		{"disk.free", epyc, put("sys/block/nvme0n1/holders/dm-0/.x", ""), none, doctor.Warn, "none of 1 disks"},
	}
}

const h100 = 0x2330

func TestEveryCheckFiresAndStaysQuiet(t *testing.T) {
	t.Parallel()
	for _, r := range rows() {
		h := r.host()
		if r.spoil != nil {
			r.spoil(h)
		}
		got := finding(examine(t, h, r.opt), r.id)
		all := got.Found + "\n" + got.Cause + "\n" + got.Fix
		if got.Severity != r.want || !strings.Contains(all, r.text) {
			t.Errorf("%s: %q, want %q with %q:\n%s", r.id, got.Severity, r.want, r.text, all)
		}
		if got.Severity == doctor.Fail && got.Fix == "" {
			t.Errorf("%s: a failure without a fix", r.id)
		}
	}
}

// Nothing is checked that no fixture makes fail, and nothing fails everywhere.
func TestEveryCheckHasAFixtureOfBothKinds(t *testing.T) {
	t.Parallel()
	good, bad := map[string]bool{}, map[string]bool{}
	for _, r := range rows() {
		if r.want == doctor.OK || r.want == silent {
			good[r.id] = true
		} else {
			bad[r.id] = true
		}
	}
	seen := map[string]bool{}
	for _, c := range doctor.Checks() {
		if seen[c.ID] {
			t.Errorf("%s is there twice", c.ID)
		}
		seen[c.ID] = true
		if !good[c.ID] || !bad[c.ID] {
			t.Errorf("%s: passes in a fixture: %v, complains in one: %v", c.ID, good[c.ID], bad[c.ID])
		}
		if c.Title == "" || c.Trap == "" {
			t.Errorf("%s has no title or no trap", c.ID)
		}
	}
}

func TestAHostInGoodOrderHasNoFailure(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]factstest.Host{"epyc": factstest.EPYC(), "xeon": factstest.Xeon()} {
		r := examine(t, h, doctor.Options{GuestMiB: 65536, GuestDriver: "580.65.06"})
		if r.Failed() || r.Unsupported || r.Counts["warn"] > 0 {
			t.Errorf("%s: %+v", name, r.Findings)
		}
	}
}

func TestReports(t *testing.T) {
	t.Parallel()
	h := factstest.EPYC()
	h.Modes[factstest.GPU0] = "off"
	h.Add("0000:05:00.0", gputest.Device{ID: 0x22a3, Class: 0x068000, Group: 3, Driver: "vfio-pci", Resource: "0x00000000b0000000 0x00000000b1ffffff 0x0000000000040200\n"})
	r := examine(t, h, doctor.Options{})
	var text, js bytes.Buffer
	if err := r.Text(&text); err != nil {
		t.Fatal(err)
	}
	golden.Compare(t, "report.txt", text.String())
	if err := r.JSON(&js); err != nil {
		t.Fatal(err)
	}
	var back doctor.Report
	if err := json.Unmarshal(js.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, back); diff != "" {
		t.Errorf("the JSON loses something:\n%s", diff)
	}
	if !r.Failed() || r.Unsupported {
		t.Errorf("failed %v, unsupported %v", r.Failed(), r.Unsupported)
	}
}

func TestAHostWithoutKVMIsUnsupported(t *testing.T) {
	t.Parallel()
	h := factstest.EPYC()
	h.Remove("dev/kvm")
	if r := examine(t, h, doctor.Options{AllowPlain: true, AllowSmall: true}); !r.Unsupported {
		t.Error("a host without /dev/kvm is supported")
	}
}

// traps are those that people met on such hosts, with the check that guards
// against each. One has none: GPUs with an SVSM (coconut-svsm issue 796), which
// no guest here runs.
func traps() [][2]string {
	return [][2]string{
		{"all GPUs of a host must be set the same way", "gpu.alike"},
		{"devtools fails attestation", "gpu.devtools"},
		{"CC mode off", "gpu.cc-mode"},
		{"protected PCIe needs the NVSwitches on vfio, and all GPUs", "gpu.nvswitch"},
		{"the 550 series has no Blackwell", "guest.driver"},
		{"no GPU key rotation before R575", "guest.key-rotation"},
		{"NVIDIA supports hosts from kernel 6.17", "gpu.host-kernel"},
		{"toggling the mode broke attestation until a reboot", "gpu.mode-switch"},
		{"a device id that is not in the table", "gpu.known"},
		{"wrong X-PciMmio64Mb: OVMF PCI Host bridge error", "gpu.aperture"},
		{"BARs that the host's firmware did not place", "gpu.bars"},
		{"out of DMA mappings: 65535", "vfio.dma-limit"},
		{"iommufd counts BAR pages against RLIMIT_MEMLOCK", "vfio.memlock"},
		{"CONFIG_IOMMUFD is not set in Debian trixie", "vfio.iommufd"},
		{"iommu=pt on AMD clears SNP", "snp.iommu-passthrough"},
		{"AMD v2 IOMMU page tables", "snp.iommu-tables"},
		{"LKCA modules before nvidia, persistenced before NVML, ready state after attestation", "guest.start-order"},
		{"swiotlb buffer is full", "guest.swiotlb"},
		{"kernel 6.11 for SNP, 6.16 for TDX", "kernel.version"},
		{"QEMU 9.1 for SNP, 10.1 for TDX", "qemu.version"},
		{"libvirt 10.5 for SNP, 11.6 for TDX", "libvirt.version"},
		{"libvirt 11.6 to 11.9 report TDX falsely", "tee.tdx-claimed"},
		{"firmware without SEV or TDVF metadata, or in flash", "tee.firmware"},
		{"sev_snp=N, /dev/sev missing", "snp.parameter"},
		{"/dev/sev missing though sev_snp=Y", "snp.device"},
		{"kvm_intel.tdx=N", "tdx.parameter"},
		{"the TDX module did not initialize, or does so lazily", "tdx.initialized"},
		{"domcapabilities is the truth, sysfs the fallback", "tee.domcapabilities"},
		{"Debian trixie's kernel has no KVM_INTEL_TDX", "kernel.config"},
		{"no quote generation service, or its port commented out", "tdx.quotes"},
		{"hibernation: virt/tdx initialization failed", "tdx.hibernation"},
		{"a host of several packages that is not registered", "tdx.registration"},
		{"QGS after 168 hours; TCB channels early and standard", "tdx.collateral"},
		{"outages of AMD's key server", "snp.certificates"},
		{"a driver of the host bound to the GPU", "gpu.driver"},
		{"IOMMU off", "iommu.on"},
		{"no ACS: mixed IOMMU groups", "gpu.iommu-group"},
		{"the vTPM is no part of the TEE", "tee.vtpm"},
		{"ASID space: SEV-ES limit of the firmware's setup", "snp.asids"},
		{"hugetlbfs for private memory", "memory.huge-pages"},
		{"all guest memory is pinned with VFIO", "memory.guest"},
		{"GPU and memory on different nodes", "numa.gpu"},
		{"a policy that forbids SMT on a host that has it", "snp.smt"},
		{"SNP firmware older than 1.55", "snp.firmware-abi"},
	}
}

func TestEveryTrapHasItsCheck(t *testing.T) {
	t.Parallel()
	var ids []string
	for _, c := range doctor.Checks() {
		ids = append(ids, c.ID)
	}
	for _, trap := range traps() {
		if !slices.Contains(ids, trap[1]) {
			t.Errorf("%s: there is no check %s", trap[0], trap[1])
		}
	}
}

func TestThePageHasEveryCheck(t *testing.T) {
	const file = "../../docs/hardware.md"
	if golden.Updating() {
		if err := os.WriteFile(file, doctor.Page(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(doctor.Page()), string(got)); diff != "" {
		t.Errorf("%s differs; go test ./installer/doctor -run Page -update (-want +got):\n%s", file, diff)
	}
}

// Hosts that were met: virtual machines with passed-through H100, which can run
// no confidential guest. What the doctor says of them is looked at as a whole.
func TestRecordedHosts(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"h100-one", "h100-two"} {
		text, err := os.ReadFile("testdata/" + name + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var f facts.Facts
		if err := json.Unmarshal(text, &f); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := doctor.Examine(f, doctor.Options{}).Text(&out); err != nil {
			t.Fatal(err)
		}
		golden.Compare(t, name+".txt", out.String())
	}
}
