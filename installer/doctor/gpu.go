package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"cc-base/tasks/facts"
	"cc-base/tasks/gpu"
	"cc-base/tasks/hw"
)

func iommuChecks() []Check {
	return []Check{
		{"iommu.on", "an IOMMU is on", "no IOMMU, no passthrough", iommuOn},
		{"vfio.pci", "the driver vfio-pci is there", "the guest's definition is refused when it starts", vfioPCI},
		{"vfio.isolation", "VFIO does not work without an IOMMU", "enable_unsafe_noiommu_mode: the GPU reaches all of the host's memory", vfioIsolation},
		{"vfio.iommufd", "devices can go through /dev/iommu", "Debian trixie's kernel has no CONFIG_IOMMUFD", vfioIOMMUFD},
		{"vfio.dma-limit", "DMA mappings suffice for a confidential guest", "\"possibly running out of DMA mappings. Maximum possible DMA mappings: 65535\"", vfioDMALimit},
		{"vfio.memlock", "QEMU may lock the guest's memory", "iommufd counts the GPU's own memory against RLIMIT_MEMLOCK", vfioMemlock},
	}
}

func iommuOn(s Subject) (Verdict, bool) {
	if s.IOMMU.Groups > 0 {
		return ok("%d groups, %d units", s.IOMMU.Groups, len(s.IOMMU.Units))
	}
	const found, cause = "there are no IOMMU groups", "the IOMMU is off in the firmware's setup or not switched on by the kernel, or this is a virtual machine without one"
	fix := "switch it on in the firmware's setup"
	if s.intel() {
		fix += " and put intel_iommu=on on the kernel's command line"
	}
	if s.hasGPU() || s.TEE.Kind == hw.SEVSNP {
		return fail(found, cause, fix)
	}
	return note(found, cause, fix)
}

func vfioPCI(s Subject) (Verdict, bool) {
	switch {
	case !s.hasGPU():
		return silent()
	case !s.Passthrough.VFIOPCI:
		return fail("the kernel has no vfio-pci", "it was built without CONFIG_VFIO_PCI, or its modules are not installed", "install the distribution's extra modules, or another kernel")
	}
	return ok("vfio-pci is there")
}

func vfioIsolation(s Subject) (Verdict, bool) {
	if !s.Passthrough.UnsafeNoIOMMU {
		return silent()
	}
	return fail("vfio.enable_unsafe_noiommu_mode=Y", "devices of guests can then reach all memory of the host", "remove the option and boot again")
}

func vfioIOMMUFD(s Subject) (Verdict, bool) {
	switch {
	case !s.hasGPU():
		return silent()
	case s.Passthrough.IOMMUFD && atLeast(s.Program("virsh").Version, "12.1"):
		return ok("/dev/iommu is there, and libvirt %s uses it", s.Program("virsh").Version)
	case s.Passthrough.IOMMUFD:
		return note("/dev/iommu is there, but libvirt "+cmp.Or(s.Program("virsh").Version, "is not and")+" does not use it", "libvirt uses it from 12.1 on", "VFIO's type 1 is used; see vfio.dma-limit")
	case s.Kernel.Config != nil && s.Kernel.Config["IOMMUFD"] == "n":
		return note("there is no /dev/iommu: CONFIG_IOMMUFD is not set", "this distribution's kernel is built without it", "VFIO's type 1 is used; see vfio.dma-limit")
	}
	return note("there is no /dev/iommu", "the module iommufd is not loaded", "modprobe iommufd")
}

func vfioDMALimit(s Subject) (Verdict, bool) {
	limit := s.Passthrough.DMAEntryLimit
	switch {
	case !s.hasGPU():
		return silent()
	case s.Passthrough.IOMMUFD && atLeast(s.Program("virsh").Version, "12.1"):
		return ok("iommufd has no such limit")
	case limit >= gpu.EnoughDMAEntries:
		return ok("vfio_iommu_type1.dma_entry_limit=%d", limit)
	}
	found := fmt.Sprintf("vfio_iommu_type1.dma_entry_limit=%d", limit)
	if limit == 0 {
		found = "the module vfio_iommu_type1 is not loaded; its limit is 65535 by default"
	}
	return warn(found, "a confidential guest maps its memory piece by piece and runs out of 65535 mappings",
		fmt.Sprintf("echo 'options vfio_iommu_type1 dma_entry_limit=%d' > /etc/modprobe.d/cc-vfio.conf, and load the module again", gpu.EnoughDMAEntries))
}

func vfioMemlock(s Subject) (Verdict, bool) {
	switch {
	case !s.hasGPU() || s.Security.MemlockHard == "":
		return silent()
	case s.Security.MemlockHard == "unlimited":
		return ok("unlimited")
	}
	return note("the limit of locked memory is "+s.Security.MemlockHard+" bytes", "all of the guest's memory is locked, with iommufd the GPU's BARs too",
		"the domain sets its own limit (memtune hard_limit); QEMU without libvirt needs ulimit -l unlimited")
}

func gpuChecks() []Check {
	return []Check{
		{"gpu.present", "the host has GPUs that its kernel shows", "a container or sandbox shows a driver and no device", gpuPresent},
		{"gpu.known", "every GPU is in the table of models", "a register read at another model's offset gives any answer", gpuKnown},
		{"gpu.confidential", "every GPU has a confidential-computing mode", "older GPUs and consumer models have none", gpuConfidential},
		{"gpu.cc-mode", "the confidential-computing mode of every GPU is on", "mode off or not set: the guest's attestation fails", gpuMode},
		{"gpu.devtools", "no GPU is in devtools mode", "devtools works like on, and fails attestation", gpuDevtools},
		{"gpu.alike", "all GPUs are in the same mode", "NVIDIA supports a host only with all of its GPUs set the same way", gpuAlike},
		{"gpu.mode-switch", "a mode is not switched back and forth", "on, off, on broke attestation of an RTX PRO 6000 until the host's reboot", gpuModeSwitch},
		{"gpu.nvswitch", "NVSwitches go to the guest with their GPUs", "protected PCIe needs the switches on vfio too; 4 of 8 GPUs do not work", gpuSwitches},
		{"gpu.bars", "every BAR has an address", "large BARs do not fit below the firmware's limit", gpuBARs},
		{"gpu.aperture", "the guest's PCI window holds the GPUs", "wrong X-PciMmio64Mb: \"OVMF PCI Host bridge error\", or the guest sees no GPU", gpuAperture},
		{"gpu.iommu-group", "the IOMMU group of every GPU can go to a guest as a whole", "a group shared with another device cannot be passed; mixed groups are refused", gpuGroup},
		{"gpu.driver", "no driver of the host uses a GPU", "nouveau or nvidia bound: the GPU was initialized by the host", gpuDriver},
		{"gpu.link", "the PCIe link runs at full width", "a card that is not seated right halves the transfers", gpuLink},
		{"gpu.host-kernel", "the host's kernel is one that NVIDIA supports", "NVIDIA supports hosts from Linux 6.17 on", gpuHostKernel},
	}
}

func gpuPresent(s Subject) (Verdict, bool) {
	switch {
	case s.hasGPU():
		return ok("%s", each(s.gpus(), func(f gpu.Function) string { return f.Model.String() }))
	case slices.ContainsFunc(s.Unread, func(u string) bool { return strings.HasPrefix(u, facts.UnreadGPUs) }):
		return warn("the PCI bus cannot be looked at", "sysfs is not mounted, or this is a container or sandbox", "run this on the host itself")
	case s.HostDriver != "":
		return warn("NVIDIA's driver "+s.HostDriver+" is loaded, but sysfs shows no GPU", "this is a container or sandbox that hides the PCI bus", "run this on the host itself")
	}
	return note("no NVIDIA GPU: the guest runs without one", "", "")
}

// breach returns the verdict of a rule on a host with GPUs.
func (s Subject) breach(rule gpu.Rule, kept string, broken func(what string) (Verdict, bool)) (Verdict, bool) {
	if !s.hasGPU() {
		return silent()
	}
	for _, b := range gpu.Breaches(s.NVIDIA) {
		if b.Rule == rule {
			return broken(strings.Join(b.Addresses, ", ") + ": " + b.What)
		}
	}
	return ok("%s", kept)
}

func gpuKnown(s Subject) (Verdict, bool) {
	return s.breach(gpu.RuleUnknown, "all of them", func(what string) (Verdict, bool) {
		return warn(what+" ("+each(s.gpus(), func(f gpu.Function) string {
			if f.Model.Known() {
				return ""
			}
			return "10de:" + f.ID.String()
		})+")", "it is newer than this program, or no data-centre GPU", "nothing is guessed of it: compare with NVIDIA's list of supported platforms")
	})
}

func gpuConfidential(s Subject) (Verdict, bool) {
	return s.breach(gpu.RuleArchitecture, "all that are known", func(what string) (Verdict, bool) {
		return s.confidential(what, "what the guest sends to such a GPU is readable by the host", "use Hopper or Blackwell data-centre GPUs")
	})
}

const setMode = "with no guest running: nvidia_gpu_tools.py --devices gpus --set-cc-mode=on --reset-after-cc-mode-switch (NVIDIA gpu-admin-tools); this program never sets it"

func gpuMode(s Subject) (Verdict, bool) {
	if !slices.ContainsFunc(s.gpus(), func(f gpu.Function) bool { return f.Model.Arch.Confidential() }) {
		return silent()
	}
	found := each(s.gpus(), func(f gpu.Function) string { return f.Mode.String() })
	bad, unread := false, false
	for _, f := range s.gpus() {
		bad = bad || f.Mode.Mode == gpu.ModeOff || f.Mode.Mode == gpu.ModeInvalid
		unread = unread || f.Mode.Mode == gpu.ModeUnread && f.Model.Arch.Confidential()
	}
	switch {
	case bad:
		return s.confidential(found, "the GPU's memory and its transfers are then open to the host", setMode)
	case unread:
		return warn(found, "the mode is in a register of the GPU, which is only looked at and never woken", "run this as root on the host, without lockdown; nvidia_gpu_tools.py --query-cc-mode tells it, too, and nvidia-smi conf-compute -f where NVIDIA's driver is bound")
	}
	return ok("%s", found)
}

func gpuDevtools(s Subject) (Verdict, bool) {
	return s.breach(gpu.RuleDevtools, "none that was read", func(what string) (Verdict, bool) {
		return fail(what, "", setMode)
	})
}

func gpuAlike(s Subject) (Verdict, bool) {
	if len(s.gpus()) < 2 {
		return silent()
	}
	return s.breach(gpu.RuleAlike, "all that were read", func(what string) (Verdict, bool) {
		return fail(what, "a mixed host is unsupported", setMode)
	})
}

func gpuModeSwitch(s Subject) (Verdict, bool) {
	if !slices.ContainsFunc(s.gpus(), func(f gpu.Function) bool { return strings.HasPrefix(f.Model.Name, "RTX PRO 6000") }) {
		return silent()
	}
	return note("this model's mode should not be switched back and forth", "after on, off, on its attestation failed until the host was booted again (attestation-sdk issue 31)", "boot the host after a switch")
}

func gpuSwitches(s Subject) (Verdict, bool) {
	if !s.hasGPU() || len(s.switches()) == 0 {
		return silent()
	}
	return s.breach(gpu.RuleSwitches, "", func(what string) (Verdict, bool) {
		return warn(what, "GPUs of such a board cannot be divided between confidential guests", "NVIDIA_GPU_INDEX=\"all\"; nvidia_gpu_tools.py --devices gpus --set-ppcie-mode=on --reset-after-ppcie-mode-switch")
	})
}

func gpuBARs(s Subject) (Verdict, bool) {
	if !s.hasGPU() {
		return silent()
	}
	bad := each(s.gpus(), func(f gpu.Function) string {
		if len(f.BARs) == 0 {
			return "no BAR is shown"
		}
		if slices.ContainsFunc(f.BARs, func(b gpu.BAR) bool { return b.Unassigned }) {
			return show(f).BARs
		}
		return ""
	})
	if bad != "" {
		return fail(bad, "the firmware found no room for them", "switch Above 4G Decoding on in the firmware's setup, and raise its MMIO limit")
	}
	return ok("%s", each(s.gpus(), func(f gpu.Function) string { return show(f).BARs }))
}

func gpuAperture(s Subject) (Verdict, bool) {
	if !s.hasGPU() {
		return silent()
	}
	mib, err := gpu.ApertureMiB(s.gpus())
	if err != nil {
		return fail(strings.ReplaceAll(err.Error(), "\n", "; "), "", "see gpu.bars")
	}
	one, err := gpu.ApertureMiB(s.gpus()[:1])
	if err != nil {
		return fail(err.Error(), "", "see gpu.bars")
	}
	return ok("opt/ovmf/X-PciMmio64Mb is %d for one GPU, %d for all %d", one, mib, len(s.gpus()))
}

func gpuGroup(s Subject) (Verdict, bool) {
	if !s.hasGPU() {
		return silent()
	}
	var passed []string
	for _, f := range s.NVIDIA {
		passed = append(passed, f.Address)
	}
	bad := each(s.NVIDIA, func(f gpu.Function) string {
		if f.Group.Number < 0 {
			return f.Group.Reason
		}
		var names []string
		for _, m := range f.Group.Foreign(passed) {
			names = append(names, fmt.Sprintf("%s (class %s)", m.Address, m.Class))
		}
		if len(names) == 0 {
			return ""
		}
		return fmt.Sprintf("group %d holds %s as well", f.Group.Number, strings.Join(names, ", "))
	})
	if bad != "" {
		return fail(bad, "without isolation (ACS) between them, devices of a group reach each other past the IOMMU", "switch IOMMU and ACS on in the firmware's setup, or move the card to another slot")
	}
	return ok("%s", each(s.gpus(), func(f gpu.Function) string { return show(f).Group }))
}

func gpuDriver(s Subject) (Verdict, bool) {
	if !s.hasGPU() {
		return silent()
	}
	bad := each(s.NVIDIA, func(f gpu.Function) string {
		if f.Driver == "" || f.Driver == "vfio-pci" {
			return ""
		}
		if f.Driver == "nvidia" && s.HostDriver != "" {
			return "nvidia " + s.HostDriver
		}
		return f.Driver
	})
	if bad != "" {
		return warn(bad, "a driver of the host has initialized it, and holds it", "keep nvidia and nouveau from loading (module_blacklist=nouveau,nvidia), or bind vfio-pci first; nothing is unbound here")
	}
	return ok("%s", each(s.NVIDIA, func(f gpu.Function) string { return show(f).Driver }))
}

func gpuLink(s Subject) (Verdict, bool) {
	if !s.hasGPU() {
		return silent()
	}
	narrow := each(s.gpus(), func(f gpu.Function) string {
		if f.Link.Width == f.Link.MaxWidth || f.Link.Width == "0" {
			return "" // equal, or asleep; the speed falls when the GPU idles
		}
		return show(f).Link
	})
	if narrow != "" {
		return note(narrow, "slot, riser or seating", "check the slot")
	}
	return ok("%s", each(s.gpus(), func(f gpu.Function) string { return show(f).Link }))
}

func gpuHostKernel(s Subject) (Verdict, bool) {
	switch {
	case !s.hasGPU() || s.Kernel.Release == "":
		return silent()
	case !atLeast(s.Kernel.Release, "6.17"):
		return note("Linux "+s.Kernel.Release, "NVIDIA supports hosts of confidential guests from 6.17 on; older kernels may work", "use 6.17 or later where support matters")
	}
	return ok("Linux %s", s.Kernel.Release)
}

// guestChecks are the traps inside the guest that the host can see coming.
func guestChecks() []Check {
	return []Check{
		{"guest.driver", "the image's driver serves the GPUs", "Debian's 550 series serves Hopper and no Blackwell", guestDriver},
		{"guest.key-rotation", "the GPU's session keys are renewed", "with 550 the key is fixed: restart at the AES-GCM limit", guestKeyRotation},
		{"guest.swiotlb", "the guest's staging buffers hold the GPU's transfers", "\"swiotlb buffer is full\"", guestSwiotlb},
		{"guest.start-order", "in the guest, everything about the GPU happens in order", "\"libspdm expects LKCA but found stubs\"; \"Cannot attach gpu\" after an early NVML client", guestOrder},
	}
}

func guestDriver(s Subject) (Verdict, bool) {
	if !s.hasGPU() {
		return silent()
	}
	use := gpu.Single // a guest gets one, unless they are joined
	if len(s.switches()) > 0 {
		use = gpu.Protected
	}
	if s.GuestDriver == "" {
		var rows []string
		for _, d := range gpu.Drivers() {
			if slices.ContainsFunc(s.gpus(), func(f gpu.Function) bool { return f.Model.Arch == d.Arch }) {
				rows = append(rows, fmt.Sprintf("%s (%s) from %s", d.Arch, d.Use, d.Least))
			}
		}
		return note("the image's driver is not known here", cmp.Or(strings.Join(rows, ", "), "no driver is known for these GPUs"), "compare with GPU_DRIVER_VERSION of the image")
	}
	bad := each(s.gpus(), func(f gpu.Function) string {
		if err := gpu.Serves(s.GuestDriver, f.Model, use); err != nil {
			return err.Error()
		}
		return ""
	})
	if bad != "" {
		return fail(bad, "", "build the image with a newer GPU_DRIVER_VERSION")
	}
	return ok("driver %s", s.GuestDriver)
}

func guestKeyRotation(s Subject) (Verdict, bool) {
	if s.GuestDriver == "" || !slices.ContainsFunc(s.gpus(), func(f gpu.Function) bool { return f.Model.Arch == gpu.Hopper }) {
		return silent()
	}
	if err := gpu.Serves(s.GuestDriver, s.gpus()[0].Model, gpu.KeyRotation); err != nil {
		return note(err.Error(), "the session key between guest and GPU is then kept until the guest ends", "restart the guest before the AES-GCM limit, or build the image with a newer driver")
	}
	return ok("driver %s renews them", s.GuestDriver)
}

func guestSwiotlb(s Subject) (Verdict, bool) {
	if !s.hasGPU() || s.CommandLine == "" {
		return silent()
	}
	for word := range strings.FieldsSeq(s.CommandLine) {
		if strings.HasPrefix(word, "swiotlb=") {
			return ok("%s", word)
		}
	}
	return note("the image's command line has no swiotlb=", "the kernel then takes 6 % of the memory, at most 1 GiB", "build with swiotlb=262144 or more if the guest reports that its swiotlb buffer is full; it is measured")
}

func guestOrder(s Subject) (Verdict, bool) {
	if !s.hasGPU() {
		return silent()
	}
	return note("a guest with a GPU must load ecdsa_generic and ecdh before nvidia, start nvidia-persistenced --uvm-persistence-mode before any other client, attest, and only then set the ready state",
		"the open driver finds no crypto of the kernel otherwise, and the GPU is initialized once a reset", "look for \"libspdm expects LKCA\" and \"Cannot attach gpu\" in the guest's log when its GPU is missing")
}
