package gpu

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Group is the IOMMU group of a function: the smallest set of devices that the
// IOMMU can keep from the rest. Whoever owns one device of it can reach the
// others, so a group goes to one guest as a whole.
type Group struct {
	Number  int      `json:"number"`            // -1 for none
	Reason  string   `json:"reason,omitempty"`  // why there is none
	Type    string   `json:"type,omitempty"`    // DMA, DMA-FQ, identity … of its default domain
	Members []Member `json:"members,omitempty"` // in order of address, the function itself among them
}

// Member is one device of a group.
type Member struct {
	Address string `json:"address"`
	Class   string `json:"class"` // four hexadecimal digits: 0604 is a PCI bridge
	Driver  string `json:"driver,omitempty"`
}

// bridge tells whether VFIO lets the member keep its driver: bridges hold no
// DMA of their own (Linux drivers/vfio/pci, "viable" groups).
func (m Member) bridge() bool { return strings.HasPrefix(m.Class, fmt.Sprintf("%02x04", classBridge)) }

const groupsDir = "sys/kernel/iommu_groups"

func readGroup(root fs.FS, address string) Group {
	none := func(format string, args ...any) Group {
		return Group{Number: -1, Reason: fmt.Sprintf(format, args...)}
	}
	name := sysfs{root, path.Join(devicesDir, address)}.link("iommu_group")
	if name == "" {
		all, err := fs.ReadDir(root, groupsDir)
		switch {
		case err != nil:
			return none("the kernel has no IOMMU groups (%s is missing)", groupsDir)
		case len(all) == 0:
			return none("no IOMMU is on: there is no group at all")
		}
		return none("the IOMMU of this host does not cover the device")
	}
	number, err := strconv.Atoi(name)
	if err != nil {
		return none("the kernel names the group %q", name)
	}
	dir := path.Join(groupsDir, name)
	g := Group{Number: number, Type: sysfs{root, dir}.text("type")}
	entries, err := fs.ReadDir(root, path.Join(dir, "devices"))
	if err != nil {
		g.Reason = "its members cannot be listed"
		return g
	}
	for _, e := range entries {
		s := sysfs{root, path.Join(devicesDir, e.Name())}
		class, _ := s.hex("class")
		g.Members = append(g.Members, Member{e.Name(), fmt.Sprintf("%04x", class>>8), s.link("driver")})
	}
	slices.SortFunc(g.Members, func(a, b Member) int { return strings.Compare(a.Address, b.Address) })
	return g
}

// Foreign returns the members of the group that stand against giving it to a
// guest that gets the functions passed: neither among them nor a bridge.
func (g Group) Foreign(passed []string) []Member {
	var out []Member
	for _, m := range g.Members {
		if !m.bridge() && !slices.Contains(passed, m.Address) {
			out = append(out, m)
		}
	}
	return out
}
