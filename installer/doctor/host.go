package doctor

import (
	"fmt"
	"strings"

	"cc-base/tasks/domain"
	"cc-base/tasks/hw"
)

// least are the versions from which a TEE is supported. The sources are
// libvirt's release notes, QEMU's, and the kernel's merge of each.
type least struct {
	kernel string
	domain.Versions
}

func leastFor(kind hw.TEE) (least, bool) {
	switch kind {
	case hw.SEVSNP:
		return least{"6.11", domain.LeastFor(kind)}, true
	case hw.TDX:
		return least{"6.16", domain.LeastFor(kind)}, true
	}
	return least{}, false
}

func hostChecks() []Check {
	return []Check{
		{"facts.read", "everything could be looked at", "an answer of \"none\" that only means that nobody could look", factsRead},
		{"facts.root", "the doctor is root", "without root neither the kernel's log nor a GPU's mode nor libvirt's networks are seen", factsRoot},
		{"cpu.virtualization", "the processor's virtualization can be used", "without /dev/kvm nothing starts", virtualization},
		{"kernel.version", "the host's kernel is new enough for its TEE", "SNP needs Linux 6.11, TDX 6.16; older ones have no such guests", kernelVersion},
		{"kernel.config", "the kernel was built with the host side of its TEE", "Debian trixie's kernel has KVM_AMD_SEV and no KVM_INTEL_TDX", kernelConfig},
		{"qemu.version", "QEMU is there and new enough", "QEMU 7.2 and 8.2 of Debian 12 and Ubuntu 24.04 have no SNP; TDX needs 10.1", programVersion("qemu-system-x86_64", "QEMU", func(l least) string { return l.QEMU })},
		{"libvirt.version", "libvirt is there and new enough", "libvirt of Debian 12 cannot start SNP guests: virsh define fails; TDX needs 11.6", programVersion("virsh", "libvirt", func(l least) string { return l.Libvirt })},
		{"programs.present", "the programs of the installation are there", "an installation that stops half-way for want of a program", programsPresent},
		{"memory.size", "the host has 16 GiB of memory", "the image needs the room for its GPU's staging buffers", memorySize},
	}
}

func factsRead(s Subject) (Verdict, bool) {
	if len(s.Unread) > 0 {
		return warn(strings.Join(s.Unread, "; "), "sysfs or procfs is hidden, as in a container", "run this on the host itself")
	}
	return ok("GPUs, network and disks")
}

func factsRoot(s Subject) (Verdict, bool) {
	if !s.Root {
		return note("not root", "the kernel's log, BAR0 and the definitions of libvirt's networks may be unread", "run it with sudo")
	}
	return ok("root")
}

func virtualization(s Subject) (Verdict, bool) {
	switch {
	case s.TEE.DevKVM && s.CPU.Has("hypervisor"):
		return note("/dev/kvm is there, and this host is itself a virtual machine", "", "nested guests are never confidential; use the bare machine")
	case s.TEE.DevKVM:
		return ok("/dev/kvm is there (%s)", s.CPU.Model)
	case !s.CPU.Has("svm") && !s.CPU.Has("vmx"):
		return fail("there is no /dev/kvm, and the processor shows neither svm nor vmx", "virtualization is off in the firmware's setup, or this is a virtual machine without nesting",
			"switch SVM or VT-x on in the firmware's setup")
	}
	return fail("there is no /dev/kvm", "the module kvm_amd or kvm_intel is not loaded, or this is a container", "modprobe kvm_amd or kvm_intel; run on the host itself")
}

func kernelVersion(s Subject) (Verdict, bool) {
	l, known := leastFor(s.kind())
	switch {
	case !known:
		return silent()
	case s.Kernel.Release == "":
		return warn("the kernel's release cannot be read", "", "run on the host itself")
	case !atLeast(s.Kernel.Release, l.kernel):
		return s.confidential("Linux "+s.Kernel.Release, fmt.Sprintf("%s guests need %s", s.kind(), l.kernel), "install a newer kernel")
	}
	return ok("Linux %s, %s needs %s", s.Kernel.Release, s.kind(), l.kernel)
}

func kernelConfig(s Subject) (Verdict, bool) {
	key := map[hw.TEE]string{hw.SEVSNP: "KVM_AMD_SEV", hw.TDX: "KVM_INTEL_TDX"}[s.kind()]
	switch {
	case key == "" || s.Kernel.Config == nil:
		return silent()
	case s.Kernel.Config[key] != "y" && s.Kernel.Config[key] != "m":
		return s.confidential("CONFIG_"+key+" is not set", "this distribution's kernel has no "+string(s.kind())+" guests", "install a kernel that was built with it")
	}
	return ok("CONFIG_%s=%s", key, s.Kernel.Config[key])
}

func programVersion(program, name string, of func(least) string) func(Subject) (Verdict, bool) {
	return func(s Subject) (Verdict, bool) {
		p := s.Program(program)
		l, known := leastFor(s.kind())
		switch {
		case p.Version == "":
			return fail(name+" is not there", p.Problem, "install "+name)
		case known && !atLeast(p.Version, of(l)):
			return s.confidential(fmt.Sprintf("%s %s", name, p.Version), fmt.Sprintf("%s needs %s >= %s, have %s", s.kind(), name, of(l), p.Version), "install a newer "+name+"; distribution backports may have it")
		}
		return ok("%s %s", name, p.Version)
	}
}

func programsPresent(s Subject) (Verdict, bool) {
	var missing, there []string
	for _, name := range []string{"qemu-img", "swtpm", "cryptsetup"} {
		p := s.Program(name)
		if p.Version == "" {
			missing = append(missing, name)
			continue
		}
		there = append(there, name+" "+p.Version)
	}
	if len(missing) > 0 {
		return fail("not there: "+strings.Join(missing, ", "), "", "install the packages that hold them")
	}
	return ok("%s", strings.Join(there, ", "))
}

func memorySize(s Subject) (Verdict, bool) {
	found := gib(s.Memory.Total)
	switch {
	case s.Memory.Total >= LeastMemory:
		return ok("%s", found)
	case s.AllowSmall:
		return note(found, "", "accepted by --allow-small")
	}
	return fail(found, "a confidential guest's memory is pinned and cannot be swapped out", "add memory, or accept it with --allow-small")
}
