package doctor

import (
	"fmt"
	"slices"
	"strings"

	"cc-base/tasks/facts"
	"cc-base/tasks/gpu"
	"cc-base/tasks/hw"
	"cc-base/tasks/network"
)

// placeChecks are about where the guest lies: memory, processors, network,
// disks, and what of the host's security keeps QEMU away from them.
func placeChecks() []Check {
	return []Check{
		{"memory.guest", "the guest's memory is free", "with a GPU all of it is locked at the start, private and shared", memoryGuest},
		{"memory.huge-pages", "no memory is set aside that a confidential guest cannot use", "hugetlbfs pages do not serve private memory", memoryHuge},
		{"memory.transparent-huge-pages", "the kernel may use huge pages", "never: a large guest is slow", memoryTHP},
		{"numa.gpu", "guest and GPU are on the same NUMA node", "memory on the other node halves the transfers", numaGPU},
		{"numa.pinning", "virtual processors stay on their node", "without pinning they wander between sockets", numaPinning},
		{"security.modules", "QEMU is confined and may reach its devices", "security_driver none; a profile that forbids the disk", securityModules},
		{"network.bridge", "there is a bridge, or one can be made", "no bridge: NETWORK_TYPE=bridge cannot work as it is", networkBridge},
		{"network.range", "a private range is free for a network of its own", "a range that clashes cuts the host off", networkRange},
		{"disk.free", "a disk is free for the image", "every disk is in use", diskFree},
	}
}

func memoryGuest(s Subject) (Verdict, bool) {
	if s.GuestMiB == 0 {
		return silent()
	}
	const overhead = 2 << 10 // MiB: QEMU, page tables, staging buffers
	need := uint64(s.GuestMiB+overhead) << 20
	if s.Memory.Available < need {
		return warn(fmt.Sprintf("%s are available, the guest needs %s", gib(s.Memory.Available), gib(need)), "its memory is locked and cannot be swapped", "stop other guests, or lower TEE_MEMORY_SIZE")
	}
	return ok("%s are available, the guest needs %s", gib(s.Memory.Available), gib(need))
}

func memoryHuge(s Subject) (Verdict, bool) {
	var set []string
	for size, n := range s.Memory.HugePages {
		if n > 0 {
			set = append(set, fmt.Sprintf("%d of %s", n, size))
		}
	}
	slices.Sort(set)
	switch {
	case len(set) == 0:
		return ok("none is set aside")
	case s.TEE.Kind == hw.NoTEE:
		return note("set aside: "+strings.Join(set, ", "), "a plain guest can use them, a confidential one cannot", "")
	}
	return warn("set aside: "+strings.Join(set, ", "), "the private memory of confidential guests does not come from hugetlbfs; these pages are lost to them", "set vm.nr_hugepages=0 and take hugepages= off the kernel's command line")
}

func memoryTHP(s Subject) (Verdict, bool) {
	switch s.Memory.Huge {
	case "":
		return silent()
	case "never":
		return note("transparent huge pages are off", "page tables of a large guest grow, and its start takes longer", "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled")
	}
	return ok("%s", s.Memory.Huge)
}

func numaGPU(s Subject) (Verdict, bool) {
	if !s.hasGPU() || len(s.Memory.Nodes) < 2 {
		return silent()
	}
	var tight []string
	for _, f := range s.gpus() {
		node, found := s.node(f.NUMA)
		switch {
		case !found:
			return warn(fmt.Sprintf("%s: the firmware does not say on which of %d nodes it is", f.Address, len(s.Memory.Nodes)), "memory cannot be placed beside it", "update the firmware; NPS or SNC settings may hide it")
		case s.GuestMiB > 0 && node.Free < uint64(s.GuestMiB)<<20:
			tight = append(tight, fmt.Sprintf("%s: node %d has %s free, the guest needs %s", f.Address, node.ID, gib(node.Free), gib(uint64(s.GuestMiB)<<20)))
		}
	}
	if len(tight) > 0 {
		return warn(strings.Join(tight, "; "), "part of the guest's memory would be on another node", "lower TEE_MEMORY_SIZE, or free memory on that node")
	}
	return ok("%s", each(s.gpus(), func(f gpu.Function) string {
		return fmt.Sprintf("node %d; in the domain <numatune><memory mode='strict' nodeset='%d'/></numatune>", f.NUMA, f.NUMA)
	}))
}

func (s Subject) node(id int) (facts.Node, bool) {
	for _, n := range s.Memory.Nodes {
		if n.ID == id {
			return n, true
		}
	}
	return facts.Node{}, false
}

func numaPinning(s Subject) (Verdict, bool) {
	if len(s.Memory.Nodes) < 2 {
		return silent()
	}
	var advice []string
	for _, n := range s.Memory.Nodes {
		if !s.hasGPU() || slices.ContainsFunc(s.gpus(), func(f gpu.Function) bool { return f.NUMA == n.ID }) {
			advice = append(advice, fmt.Sprintf("node %d: <vcpu cpuset='%s'>", n.ID, n.CPUs))
		}
	}
	if len(advice) == 0 {
		return silent() // numa.gpu says why
	}
	return note(strings.Join(advice, "; "), "memory and GPU are nearer to the processors of their own node", "put the cpuset into the domain")
}

func securityModules(s Subject) (Verdict, bool) {
	var on []string
	if s.Security.SELinux != "" {
		on = append(on, "SELinux "+s.Security.SELinux)
	}
	if s.Security.AppArmor {
		on = append(on, "AppArmor")
	}
	switch {
	case s.Security.LibvirtDriver == "none":
		return warn("security_driver is none in /etc/libvirt/qemu.conf", "a guest that breaks out of QEMU reaches everything of the host", "remove the line")
	case len(on) == 0:
		return note("neither SELinux nor AppArmor is on", "QEMU runs unconfined", "")
	}
	return ok("%s; libvirt labels disks and devices itself", strings.Join(on, ", "))
}

func networkBridge(s Subject) (Verdict, bool) {
	for _, b := range s.Network.Bridges() {
		if s.Network.Uplinked(b) {
			return ok("%s leads out of the host", b.Name)
		}
	}
	if i, found := s.Network.Lookup(s.Network.Default); found && i.Kind == network.Wireless {
		return note("the default route is over "+i.Name+", a wireless interface", "wireless interfaces cannot be ports of a bridge", "use NETWORK_TYPE=\"nat\"")
	}
	return note("no bridge leads out of the host", "", "a network of its own with NAT is made; for the host's own network make a bridge first, and name it in NETWORK_BRIDGE")
}

func networkRange(s Subject) (Verdict, bool) {
	if s.Network.Free == "" {
		return warn("every private range that was tried is in use", "the host routes all of them, perhaps through a VPN", "use an existing bridge")
	}
	return ok("%s", s.Network.Free)
}

func diskFree(s Subject) (Verdict, bool) {
	var free []string
	for _, d := range s.Disks {
		if d.Free {
			free = append(free, fmt.Sprintf("/dev/%s (%s, %s)", d.Name, d.Class, gib(uint64(d.Size))))
		}
	}
	if len(free) == 0 {
		return warn(fmt.Sprintf("none of %d disks", len(s.Disks)), "every disk is mounted, held or removable", "cc-install list-devices shows why")
	}
	return ok("%s", strings.Join(free, ", "))
}
