// Package bridge decides on the network of a virtual machine, and renders what
// libvirt needs for it. It changes nothing: what it returns is made, and taken
// back, by package machine.
//
//	facts, err := bridge.Look(ctx, sh.Host{}, virt.Client{Run: sh.Host{}})
//	n, err := bridge.Plan(bridge.Wanted{VM: "cc-base", Isolated: true}, facts)
//
// Which network a machine gets: the bridge that was named; else the host's own
// bridge, if there is just one with a physical card in it; else ccbr0, or another
// name that was given, a bridge of a libvirt network, with a private network that
// is free here, DHCP and NAT, started with the host. A physical card is never
// touched unless it was named.
//
// Isolated means that the guest reaches the uplink, its DHCP and its DNS, and
// nothing else near the host: see [Filter].
package bridge

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/google/uuid"
	"libvirt.org/go/libvirtxml"

	"cc-base/installer/machine"
	"cc-base/tasks/domain"
	"cc-base/tasks/fault"
)

// Own is the name of the bridge, and of the network of libvirt, that is made
// where none is named and the host has none.
const Own = "ccbr0"

// Wanted is what network_settings ask for.
type Wanted struct {
	VM       string // name of the machine
	Bridge   string // a bridge of the host; empty chooses. With NAT, the one to be made
	NAT      bool   // a network of our own, even where the host has a bridge
	Uplink   string // a physical card that the guest is to share, by macvtap
	Isolated bool
	// Resolvers are the only addresses whose port 53 an isolated guest on a
	// bridge of the host may reach; none means all. On ccbr0 it is the host's.
	Resolvers []netip.Addr
	// Subnet is that of a new ccbr0, of 8 to 29 bits; the zero value chooses.
	Subnet netip.Prefix
}

// Facts is what a host has.
type Facts struct {
	Bridges   []Bridge
	Cards     []string          // physical network cards
	Addresses []netip.Addr      // the host's own, on all interfaces
	Used      []netip.Prefix    // destinations of its routes; the default route does not count
	Networks  map[string]string // libvirt's networks, with their XML
}

// Bridge is a bridge of the host.
type Bridge struct {
	Name     string
	Physical bool // a physical card is in it
}

// Net is a machine's network.
type Net struct {
	Network  domain.Network     // for the machine's specification
	Filters  []machine.Resource // to be made with the machine
	Networks []machine.Resource
	Notes    []string // decisions, for the plan that people see
}

var (
	vmName   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	linkName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$`)
)

// Plan decides on the network.
func Plan(w Wanted, f Facts) (Net, error) {
	if err := w.check(f); err != nil {
		return Net{}, err
	}
	if w.Uplink != "" {
		return uplink(w, f)
	}
	name := w.Bridge
	if name == "" && !w.NAT {
		name = f.only()
	}
	if name != "" && !w.NAT {
		n := Net{Network: domain.Network{Bridge: name}, Notes: []string{"the guest is on the host's bridge " + name + ", which stays as it is"}}
		n.isolate(w, f, netip.Prefix{})
		return n, nil
	}
	return own(w, f)
}

// check finds everything that is wrong with what is asked for.
func (w Wanted) check(f Facts) error {
	var wrong []string
	no := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if !vmName.MatchString(w.VM) {
		no("%q is no name of a machine", w.VM)
	}
	if w.Bridge != "" && !linkName.MatchString(w.Bridge) {
		no("%q is no name of a bridge", w.Bridge)
	}
	if w.Bridge != "" && !w.NAT && !f.bridge(w.Bridge) {
		no("the host has no bridge %q", w.Bridge)
	}
	if w.Uplink != "" && !slices.Contains(f.Cards, w.Uplink) {
		no("the host has no physical network card %q", w.Uplink)
	}
	if w.Uplink != "" && (w.Bridge != "" || w.NAT) {
		no("an uplink and a bridge exclude each other")
	}
	if w.Uplink != "" && w.Isolated {
		no("libvirt has no filters for a card that the guest shares with the host: isolation needs a bridge, or NAT")
	}
	if s := w.Subnet; s.IsValid() {
		switch {
		case !s.Addr().Is4() || !s.Addr().IsPrivate() || s.Bits() < 8 || s.Bits() > 29 || s != s.Masked():
			no("%s is no private IPv4 network of 8 to 29 bits", s)
		case overlaps(s, f.Used) != "":
			no("%s is in use: %s", s, overlaps(s, f.Used))
		}
	}
	if len(wrong) > 0 {
		return fault.Newf(fault.HostNetwork, "%s", strings.Join(wrong, "\n"))
	}
	return nil
}

func (f Facts) bridge(name string) bool {
	return slices.ContainsFunc(f.Bridges, func(b Bridge) bool { return b.Name == name })
}

// only is the host's one bridge to the outside; with several, none is guessed
// at.
func (f Facts) only() string {
	var found []string
	for _, b := range f.Bridges {
		if b.Physical {
			found = append(found, b.Name)
		}
	}
	if len(found) != 1 {
		return ""
	}
	return found[0]
}

// own is a network of our own, a new one or that of another machine.
func own(w Wanted, f Facts) (Net, error) {
	name := cmp.Or(w.Bridge, Own)
	n := Net{Network: domain.Network{Name: name}}
	if xml, there := f.Networks[name]; there {
		subnet, err := subnetOf(name, xml)
		if err != nil {
			return Net{}, err
		}
		n.Notes = []string{fmt.Sprintf("the guest is on %s, which is there already: %s with DHCP and NAT", name, subnet)}
		n.isolate(w, f, subnet)
		return n, nil
	}
	if f.bridge(name) {
		return Net{}, fault.Newf(fault.HostNetwork, "the host has a bridge %s that is not a network of libvirt", name).
			Hint("name it as a bridge of the host, or remove it")
	}
	subnet := w.Subnet
	if !subnet.IsValid() {
		var err error
		if subnet, err = Free(f.Used); err != nil {
			return Net{}, err
		}
	}
	r, err := natNetwork(name, subnet)
	if err != nil {
		return Net{}, err
	}
	n.Networks = []machine.Resource{r}
	n.Notes = []string{fmt.Sprintf("the guest is on a new bridge %s: %s with DHCP and NAT, started with the host", name, subnet)}
	n.isolate(w, f, subnet)
	return n, nil
}

// Free returns a private network of 24 bits that none of the used ones touches.
func Free(used []netip.Prefix) (netip.Prefix, error) {
	// From the ranges that home routers, cloud networks, Docker (172.17 and up)
	// and libvirt itself (192.168.122) take last.
	for _, r := range []struct{ a, b, from, to int }{{192, 168, 200, 254}, {172, 30, 0, 255}, {10, 213, 0, 255}, {172, 31, 0, 255}, {10, 77, 0, 255}} {
		for c := r.from; c <= r.to; c++ {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(r.a), byte(r.b), byte(c), 0}), 24)
			if overlaps(p, used) == "" {
				return p, nil
			}
		}
	}
	return netip.Prefix{}, fault.Newf(fault.HostNetwork, "every private network that a bridge of our own could have is in use").
		Hint("name a bridge of the host, or a subnet; `ip route` shows those in use")
}

func overlaps(p netip.Prefix, used []netip.Prefix) string {
	for _, u := range used {
		if u.Bits() > 0 && u.Overlaps(p) {
			return u.String()
		}
	}
	return ""
}

// id is the UUID of a thing of ours, the same each time it is rendered: libvirt
// takes a definition with another one for another thing of the same name.
func id(kind, name string) string {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte("cc-base/"+kind+"/"+name)).String()
}

func natNetwork(name string, subnet netip.Prefix) (machine.Resource, error) {
	gateway := subnet.Addr().Next()
	first, last := gateway, gateway
	for a := gateway.Next(); subnet.Contains(a.Next()); a = a.Next() { // the last one is the broadcast address
		if first == gateway {
			first = a
		}
		if last = a; subnet.Bits() < 24 && a.As4()[3] == 254 {
			break // 253 machines will do
		}
	}
	return render("network", name, &libvirtxml.Network{
		Name: name, UUID: id("network", name),
		Forward: &libvirtxml.NetworkForward{Mode: "nat"},
		Bridge:  &libvirtxml.NetworkBridge{Name: name, STP: "off", Delay: "0"},
		IPs: []libvirtxml.NetworkIP{{
			Address: gateway.String(), Prefix: uint(subnet.Bits()),
			DHCP: &libvirtxml.NetworkDHCP{Ranges: []libvirtxml.NetworkDHCPRange{{Start: first.String(), End: last.String()}}},
		}},
	})
}

// uplink lets the guest share a card: by macvtap, which leaves the card as it is
// and which libvirt makes and removes with the guest. Guest and host do not see
// each other on it.
func uplink(w Wanted, f Facts) (Net, error) {
	name := "cc-" + w.Uplink
	n := Net{Network: domain.Network{Name: name}, Notes: []string{"the guest shares the card " + w.Uplink + " with the host, by macvtap"}}
	if _, there := f.Networks[name]; there {
		return n, nil
	}
	r, err := render("network", name, &libvirtxml.Network{
		Name: name, UUID: id("network", name),
		Forward: &libvirtxml.NetworkForward{Mode: "bridge", Interfaces: []libvirtxml.NetworkForwardInterface{{Dev: w.Uplink}}},
	})
	n.Networks = []machine.Resource{r}
	return n, err
}

func render(kind, name string, v interface{ Marshal() (string, error) }) (machine.Resource, error) {
	text, err := v.Marshal()
	if err != nil {
		return machine.Resource{}, fault.New(fault.HostNetwork, err)
	}
	return machine.Resource{Name: name, UUID: id(kind, name), XML: text + "\n"}, nil
}

// subnetOf is the IPv4 network of a bridge of ours as libvirt has it.
func subnetOf(name, xml string) (netip.Prefix, error) {
	var n libvirtxml.Network
	if err := n.Unmarshal(xml); err != nil {
		return netip.Prefix{}, fault.New(fault.HostNetwork, fmt.Errorf("the network %s: %w", name, err))
	}
	if n.UUID != id("network", name) {
		return netip.Prefix{}, fault.Newf(fault.VMTaken, "libvirt has a network %s that was not made here", name).
			Hint("name its bridge as the machine's, or rename the network")
	}
	for _, ip := range n.IPs {
		addr, err := netip.ParseAddr(ip.Address)
		if err != nil || !addr.Is4() {
			continue
		}
		bits := int(ip.Prefix)
		if ip.Netmask != "" {
			mask, err := netip.ParseAddr(ip.Netmask)
			if err != nil || !mask.Is4() {
				continue
			}
			bits = ones(mask)
		}
		if p, err := addr.Prefix(bits); err == nil {
			return p, nil
		}
	}
	return netip.Prefix{}, fault.Newf(fault.HostNetwork, "the network %s has no IPv4 address", name)
}

func ones(mask netip.Addr) int {
	n := 0
	for _, b := range mask.As4() {
		for ; b&0x80 != 0; b <<= 1 {
			n++
		}
	}
	return n
}
