package bridge_test

// Green here means: the choice of a network is the documented one, and on a
// real libvirt, with real packets through the filter, an isolated interface
// reaches what it may and nothing else (packets_test.go). The interfaces are
// those of network namespaces and not of QEMU; physical cards, macvtap and
// bridges with a switch behind them are not tried, nor is IPv6 beyond what
// libvirt accepts, nor firewalld.

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"libvirt.org/go/libvirtxml"

	"cc-base/installer/bridge"
	"cc-base/installer/virt"
	"cc-base/tasks/domain"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/golden"
	"cc-base/tasks/sh"
)

func facts() bridge.Facts {
	return bridge.Facts{
		Bridges:   []bridge.Bridge{{Name: "docker0"}, {Name: "virbr0"}, {Name: "br0", Physical: true}},
		Cards:     []string{"eno1", "eno2"},
		Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("192.168.1.5"), netip.MustParseAddr("198.51.100.2")},
		Used:      []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("192.168.200.0/24"), netip.MustParsePrefix("192.168.201.7/32")},
		Networks:  map[string]string{"default": "<network/>"},
	}
}

func without(f bridge.Facts, bridges bool) bridge.Facts {
	if bridges {
		f.Bridges = nil
	}
	return f
}

func TestTheNetworkIsTheDocumentedOne(t *testing.T) {
	t.Parallel()
	two := facts()
	two.Bridges = append(two.Bridges, bridge.Bridge{Name: "br1", Physical: true})
	for name, tc := range map[string]struct {
		want   bridge.Wanted
		facts  bridge.Facts
		get    domain.Network
		makes  string // the network that is made
		subnet string
	}{
		"the one bridge with a card":      {bridge.Wanted{VM: "vm"}, facts(), domain.Network{Bridge: "br0"}, "", ""},
		"the bridge that is named":        {bridge.Wanted{VM: "vm", Bridge: "docker0"}, facts(), domain.Network{Bridge: "docker0"}, "", ""},
		"no bridge":                       {bridge.Wanted{VM: "vm"}, without(facts(), true), domain.Network{Name: "ccbr0"}, "ccbr0", "192.168.202."},
		"two bridges, and none is named":  {bridge.Wanted{VM: "vm"}, two, domain.Network{Name: "ccbr0"}, "ccbr0", "192.168.202."},
		"NAT":                             {bridge.Wanted{VM: "vm", NAT: true}, facts(), domain.Network{Name: "ccbr0"}, "ccbr0", "192.168.202."},
		"NAT with a subnet":               {bridge.Wanted{VM: "vm", NAT: true, Subnet: netip.MustParsePrefix("10.9.0.0/29")}, facts(), domain.Network{Name: "ccbr0"}, "ccbr0", "10.9.0."},
		"NAT on a bridge of another name": {bridge.Wanted{VM: "vm", NAT: true, Bridge: "ccbr7"}, facts(), domain.Network{Name: "ccbr7"}, "ccbr7", `<bridge name="ccbr7"`},
		"an uplink":                       {bridge.Wanted{VM: "vm", Uplink: "eno1"}, facts(), domain.Network{Name: "cc-eno1"}, "cc-eno1", "eno1"},
		"the one bridge, isolated":        {bridge.Wanted{VM: "vm", Isolated: true}, facts(), domain.Network{Bridge: "br0", Filter: "cc-base-vm", Isolated: true}, "", ""},
		"NAT, isolated":                   {bridge.Wanted{VM: "vm", NAT: true, Isolated: true}, facts(), domain.Network{Name: "ccbr0", Filter: "cc-base-vm", Isolated: true}, "ccbr0", ""},
	} {
		n, err := bridge.Plan(tc.want, tc.facts)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(tc.get, n.Network); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if len(n.Notes) == 0 {
			t.Errorf("%s: the user is not told", name)
		}
		made := ""
		for _, r := range n.Networks {
			made = r.Name
			if !strings.Contains(r.XML, tc.subnet) || !strings.Contains(r.XML, "<uuid>"+r.UUID+"</uuid>") {
				t.Errorf("%s:\n%s", name, r.XML)
			}
		}
		if made != tc.makes {
			t.Errorf("%s: made %q, want %q", name, made, tc.makes)
		}
		if (len(n.Filters) == 1) != tc.want.Isolated {
			t.Errorf("%s: %d filters", name, len(n.Filters))
		}
	}
}

func TestTheSecondMachineSharesTheNetwork(t *testing.T) {
	t.Parallel()
	f := without(facts(), true)
	first, err := bridge.Plan(bridge.Wanted{VM: "first", Isolated: true}, f)
	if err != nil {
		t.Fatal(err)
	}
	f.Networks["ccbr0"] = first.Networks[0].XML
	f.Bridges = []bridge.Bridge{{Name: "ccbr0"}}
	second, err := bridge.Plan(bridge.Wanted{VM: "second", Isolated: true}, f)
	if err != nil {
		t.Fatal(err)
	}
	if len(second.Networks) != 0 || second.Network.Name != "ccbr0" || !strings.Contains(second.Filters[0].XML, "192.168.202.1'") {
		t.Errorf("%+v", second)
	}
	if first.Filters[0].UUID == second.Filters[0].UUID {
		t.Error("two filters of one UUID")
	}
}

func TestWhatCannotBeIsRefused(t *testing.T) {
	t.Parallel()
	foreign := without(facts(), true)
	foreign.Networks["ccbr0"] = "<network><name>ccbr0</name><uuid>1b4e28ba-2fa1-41d2-883f-0016d3cca427</uuid></network>"
	lone := facts()
	lone.Bridges = []bridge.Bridge{{Name: "ccbr0"}}
	full := without(facts(), true)
	full.Used = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16")}
	for says, tc := range map[string]struct {
		want  bridge.Wanted
		facts bridge.Facts
		code  fault.Code
	}{
		"no bridge \"br9\"":                  {bridge.Wanted{VM: "vm", Bridge: "br9"}, facts(), fault.HostNetwork},
		"network card \"br0\"":               {bridge.Wanted{VM: "vm", Uplink: "br0"}, facts(), fault.HostNetwork},
		"exclude each other":                 {bridge.Wanted{VM: "vm", Uplink: "eno1", NAT: true}, facts(), fault.HostNetwork},
		"isolation needs a bridge":           {bridge.Wanted{VM: "vm", Uplink: "eno1", Isolated: true}, facts(), fault.HostNetwork},
		"8.8.8.0/24 is no private":           {bridge.Wanted{VM: "vm", NAT: true, Subnet: netip.MustParsePrefix("8.8.8.0/24")}, facts(), fault.HostNetwork},
		"192.168.200.0/23 is in use":         {bridge.Wanted{VM: "vm", NAT: true, Subnet: netip.MustParsePrefix("192.168.200.0/23")}, facts(), fault.HostNetwork},
		"\"a' b\" is no name":                {bridge.Wanted{VM: "a' b"}, facts(), fault.HostNetwork},
		"a bridge br0 that is not a network": {bridge.Wanted{VM: "vm", NAT: true, Bridge: "br0"}, facts(), fault.HostNetwork},
		"no name of a bridge":                {bridge.Wanted{VM: "vm", NAT: true, Bridge: "a b"}, facts(), fault.HostNetwork},
		"every private network":              {bridge.Wanted{VM: "vm"}, full, fault.HostNetwork},
		"not made here":                      {bridge.Wanted{VM: "vm"}, foreign, fault.VMTaken},
		"not a network of libvirt":           {bridge.Wanted{VM: "vm"}, lone, fault.HostNetwork},
	} {
		_, err := bridge.Plan(tc.want, tc.facts)
		faulttest.Want(t, err, tc.code, says)
	}
}

func TestAFreeNetworkTouchesNoUsedOne(t *testing.T) {
	t.Parallel()
	for _, used := range [][]string{nil, {"192.168.0.0/16"}, {"192.168.0.0/16", "172.16.0.0/12"}, {"192.168.200.128/25", "192.168.201.1/32", "::/0", "fd00::/8"}, {"0.0.0.0/0"}} {
		var prefixes []netip.Prefix
		for _, u := range used {
			prefixes = append(prefixes, netip.MustParsePrefix(u))
		}
		p, err := bridge.Free(prefixes)
		if err != nil || p.Bits() != 24 || !p.Addr().IsPrivate() {
			t.Errorf("%v: %v %v", used, p, err)
		}
		for _, u := range prefixes {
			if u.Bits() > 0 && u.Overlaps(p) {
				t.Errorf("%v overlaps %v", p, u)
			}
		}
	}
}

func TestWhatIsRenderedMatchesItsGoldenFiles(t *testing.T) {
	t.Parallel()
	n, err := bridge.Plan(bridge.Wanted{VM: "vm", NAT: true, Isolated: true}, facts())
	if err != nil {
		t.Fatal(err)
	}
	golden.Compare(t, "network.xml", n.Networks[0].XML)
	golden.Compare(t, "filter-nat.xml", n.Filters[0].XML)
	n, err = bridge.Plan(bridge.Wanted{VM: "vm", Bridge: "br0", Isolated: true, Resolvers: []netip.Addr{netip.MustParseAddr("10.0.0.53"), netip.MustParseAddr("fd00::53")}}, facts())
	if err != nil {
		t.Fatal(err)
	}
	golden.Compare(t, "filter-bridge.xml", n.Filters[0].XML)
	var f libvirtxml.NWFilter
	if err := f.Unmarshal(n.Filters[0].XML); err != nil || len(f.Entries) < 30 {
		t.Errorf("%v, %d rules", err, len(f.Entries))
	}
}

const addresses = `[
{"ifname":"lo","link_type":"loopback","addr_info":[{"local":"127.0.0.1"},{"local":"::1"}]},
{"ifname":"eno1","link_type":"ether","parentbus":"pci","master":"br0","addr_info":[]},
{"ifname":"eno2","link_type":"ether","parentbus":"pci","addr_info":[{"local":"198.51.100.2"}]},
{"ifname":"br0","link_type":"ether","linkinfo":{"info_kind":"bridge"},"addr_info":[{"local":"192.168.1.5"}]},
{"ifname":"veth1","link_type":"ether","master":"docker0","linkinfo":{"info_kind":"veth"},"addr_info":[]},
{"ifname":"docker0","link_type":"ether","linkinfo":{"info_kind":"bridge"},"addr_info":[{"local":"172.17.0.1"}]}]`

func TestAHostsFactsAreRead(t *testing.T) {
	t.Parallel()
	run := &sh.Recorder{Answer: func(c sh.Cmd) (string, error) {
		switch line := c.Name + " " + strings.Join(c.Args, " "); line {
		case "ip -json -details address show":
			return addresses, nil
		case "ip -json -4 route show table all":
			return `[{"dst":"default"},{"dst":"192.168.1.0/24"},{"dst":"172.17.0.0/16"},{"type":"local","dst":"127.0.0.1"}]`, nil
		case "ip -json -6 route show table all":
			return "", nil
		case "virsh -c qemu:///system net-list --all --name":
			return "default\n", nil
		case "virsh -c qemu:///system net-dumpxml --inactive --network default":
			return "<network/>", nil
		default:
			t.Errorf("unexpected: %s", line)
			return "", nil
		}
	}}
	f, err := bridge.Look(t.Context(), run, virt.Client{Run: run})
	if err != nil {
		t.Fatal(err)
	}
	want := bridge.Facts{
		Bridges:  []bridge.Bridge{{Name: "br0", Physical: true}, {Name: "docker0"}},
		Cards:    []string{"eno1", "eno2"},
		Used:     []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24"), netip.MustParsePrefix("172.17.0.0/16"), netip.MustParsePrefix("127.0.0.1/32")},
		Networks: map[string]string{"default": "<network/>"},
	}
	for _, a := range []string{"127.0.0.1", "::1", "198.51.100.2", "192.168.1.5", "172.17.0.1"} {
		want.Addresses = append(want.Addresses, netip.MustParseAddr(a))
	}
	if diff := cmp.Diff(want, f, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}
