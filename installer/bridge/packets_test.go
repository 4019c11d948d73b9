package bridge_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cc-base/installer/bridge"
	"cc-base/installer/hostlab"
	"cc-base/installer/hostlab/packets"
	"cc-base/installer/machine"
	"cc-base/tasks/sh"
)

func TestMain(m *testing.M) { packets.Main(m) }

// network is that of the test: the host is between ccbr0 with two guests and an uplink, on
// whose other side are a public server and a private one. Addresses for
// documentation (RFC 5737) play the public ones.
type network struct {
	packets.Network
	t *testing.T
}

const uplinkScript = `
ip netns add world
ip link add up0 type veth peer name w0 netns world
ip addr add 198.51.100.2/24 dev up0
ip link set up0 up
ip -n world addr add 198.51.100.1/24 dev w0
ip -n world link set w0 up
ip -n world link set lo up
ip -n world addr add 203.0.113.10/32 dev lo
ip -n world addr add 10.66.0.5/32 dev lo
ip -n world addr add 100.64.9.9/32 dev lo
ip route add default via 198.51.100.1
echo 1 >/proc/sys/net/ipv4/ip_forward
`

// guest plugs a namespace into the bridge, as libvirt does with a guest's tap.
func (n network) guest(name, mac, isolated string) {
	n.t.Helper()
	n.Sh(fmt.Sprintf(`
		ip netns add %[1]s
		ip link add %[1]s-tap type veth peer name eth0 address %[2]s netns %[1]s
		ip link set %[1]s-tap master ccbr0 up
		bridge link set dev %[1]s-tap isolated %[3]s
		ip -n %[1]s link set lo up
		ip -n %[1]s link set eth0 up`, name, mac, isolated))
}

func (n network) configure(guest, address string, gateway netip.Addr) {
	n.t.Helper()
	n.Sh(fmt.Sprintf("ip -n %s addr add %s/24 dev eth0; ip -n %[1]s route add default via %[3]s", guest, address, gateway))
}

func (n network) bind(r machine.Resource, guest, mac string) {
	n.t.Helper()
	xml := fmt.Sprintf(`<filterbinding><owner><name>%s</name><uuid>1b4e28ba-2fa1-41d2-883f-0016d3cca427</uuid></owner>
		<portdev name='%[1]s-tap'/><mac address='%s'/><filterref filter='%s'/></filterbinding>`, guest, mac, r.Name)
	if err := n.Virt().BindingCreate(n.t.Context(), xml); err != nil {
		n.t.Fatal(err)
	}
}

func start(t *testing.T) network {
	t.Helper()
	n := network{Network: packets.Start(t), t: t}
	n.Sh(uplinkScript)
	return n
}

// make makes what the plan names.
func (n network) make(w bridge.Wanted) (bridge.Net, bridge.Facts) {
	n.t.Helper()
	v, ctx := n.Virt(), n.t.Context()
	facts, err := bridge.Look(ctx, n.Host, v)
	if err != nil {
		n.t.Fatal(err)
	}
	p, err := bridge.Plan(w, facts)
	if err != nil {
		n.t.Fatal(err)
	}
	for _, r := range p.Networks {
		if err := errors.Join(v.NetDefine(ctx, r.XML), v.NetStart(ctx, r.Name), v.NetAutostart(ctx, r.Name, true)); err != nil {
			n.t.Fatal(err)
		}
	}
	for _, r := range p.Filters {
		if err := v.FilterDefine(ctx, r.XML); err != nil {
			n.t.Fatal(err)
		}
	}
	return p, facts
}

func TestAnIsolatedGuestReachesTheUplinkAlone(t *testing.T) {
	n := start(t)
	const mac, mac2 = "52:54:00:aa:00:01", "52:54:00:aa:00:02"
	p, facts := n.make(bridge.Wanted{VM: "vm", Isolated: true})
	if !slices.Contains(facts.Addresses, netip.MustParseAddr("198.51.100.2")) {
		t.Errorf("the host's address is not seen: %v", facts.Addresses)
	}
	subnet, err := bridge.Free(facts.Used)
	if err != nil {
		t.Fatal(err)
	}
	gateway := subnet.Addr().Next()
	n.guest("one", mac, "off")
	n.guest("two", mac2, "off")
	n.bind(p.Filters[0], "one", mac)
	offered := n.Ask("one", "dhcp:eth0")["dhcp:eth0"]
	if a, err := netip.ParseAddr(offered); err != nil || !subnet.Contains(a) {
		t.Fatalf("no address by DHCP: %q", offered)
	}
	two := subnet.Addr().Next().Next().Next()
	if two.String() == offered {
		two = two.Next()
	}
	n.configure("one", offered, gateway)
	n.configure("two", two.String(), gateway)
	n.Serve("", "22 8080")
	n.Serve("two", "22")
	n.Serve("world", "443 53")

	open := []string{"tcp:203.0.113.10:443", "udp:203.0.113.10:443", fmt.Sprintf("dns:%s:53", gateway), fmt.Sprintf("tcp:203.0.113.10:53")}
	shut := []string{
		fmt.Sprintf("tcp:%s:22", gateway), fmt.Sprintf("udp:%s:8080", gateway), // the host on the bridge
		"tcp:198.51.100.2:22", "udp:198.51.100.2:8080", // the host on its uplink
		fmt.Sprintf("tcp:%s:22", two), fmt.Sprintf("udp:%s:22", two), // another guest
		"tcp:10.66.0.5:443", "udp:10.66.0.5:53", "tcp:100.64.9.9:443", // private networks behind the uplink
	}
	all := slices.Sorted(slices.Values(append(slices.Clone(open), shut...)))
	slices.Sort(open)
	if diff := cmp.Diff(open, n.Reached("one", all...)); diff != "" {
		t.Errorf("isolated (-want +got):\n%s", diff)
	}
	// Nor do others get in, by what the guest has not asked for.
	n.Serve("one", "22")
	if got := n.Reached("two", "tcp:"+offered+":22", "udp:"+offered+":22"); got != nil {
		t.Errorf("another guest gets in: %v", got)
	}

	// The filter is what does it: without it everything answers.
	if err := n.Virt().BindingDelete(t.Context(), "one-tap"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(all, n.Reached("one", all...)); diff != "" {
		t.Errorf("without the filter (-want +got):\n%s", diff)
	}
	// The bridge keeps isolated ports apart, filter or not.
	n.Sh("bridge link set dev one-tap isolated on; bridge link set dev two-tap isolated on")
	others := []string{fmt.Sprintf("tcp:%s:22", two), fmt.Sprintf("udp:%s:22", two)}
	if got := n.Reached("one", others...); got != nil {
		t.Errorf("isolated ports see each other: %v", got)
	}

	// A guest that takes another MAC or IP address gets nowhere.
	n.bind(p.Filters[0], "one", mac)
	n.Sh("ip -n one link set eth0 address 52:54:00:aa:00:09")
	if got := n.Reached("one", open...); got != nil {
		t.Errorf("with another MAC address: %v", got)
	}
	n.Sh("ip route add 10.250.0.0/24 dev ccbr0; ip -n one link set eth0 address " + mac + "; ip -n one addr flush dev eth0; ip -n one addr add 10.250.0.9/24 dev eth0; ip -n one route add default via " + gateway.String() + " dev eth0 onlink")
	names := fmt.Sprintf("dns:%s:53", gateway)
	if got := n.Reached("one", open...); got != nil {
		t.Errorf("with another IP address: %v", got)
	}
	if err := n.Virt().BindingDelete(t.Context(), "one-tap"); err != nil {
		t.Fatal(err)
	}
	if got := n.Reached("one", names); !slices.Equal(got, []string{names}) {
		t.Error("with another IP address nothing answers anyway: the test shows nothing")
	}
}

func TestAnIsolatedGuestOnABridgeOfTheHost(t *testing.T) {
	n := start(t)
	const mac = "52:54:00:aa:00:01"
	// The host's bridge has the name of ours, so that guest() plugs into it,
	// and the world is in it: its router, resolver and neighbours.
	n.Sh(`
		ip link add ccbr0 type bridge
		ip link set ccbr0 up
		ip addr flush dev up0
		ip link set up0 master ccbr0
		ip addr add 192.168.7.2/24 dev ccbr0
		ip -n world addr add 192.168.7.1/24 dev w0
		ip -n world addr add 192.168.7.53/24 dev w0`)
	p, _ := n.make(bridge.Wanted{VM: "vm", Bridge: "ccbr0", Isolated: true, Resolvers: []netip.Addr{netip.MustParseAddr("192.168.7.53")}})
	if len(p.Networks) != 0 || p.Network.Bridge != "ccbr0" {
		t.Fatalf("%+v", p)
	}
	n.guest("one", mac, "off")
	n.bind(p.Filters[0], "one", mac)
	n.configure("one", "192.168.7.9", netip.MustParseAddr("192.168.7.1"))
	n.Serve("", "22")
	n.Serve("world", "443 53")
	open := []string{"tcp:192.168.7.53:53", "tcp:203.0.113.10:443", "udp:192.168.7.53:53", "udp:203.0.113.10:443"}
	shut := []string{"tcp:192.168.7.2:22", "udp:192.168.7.2:22", "tcp:192.168.7.1:443", "udp:192.168.7.1:53", "tcp:10.66.0.5:443", "tcp:100.64.9.9:443"}
	all := slices.Sorted(slices.Values(append(slices.Clone(open), shut...)))
	if diff := cmp.Diff(open, n.Reached("one", all...)); diff != "" {
		t.Errorf("isolated (-want +got):\n%s", diff)
	}
	if err := n.Virt().BindingDelete(t.Context(), "one-tap"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(all, n.Reached("one", all...)); diff != "" {
		t.Errorf("without the filter (-want +got):\n%s", diff)
	}
}

// The network and the filter of a machine are there after a reboot, before the
// machine is; and are gone with it.
func TestNetworkAndFilterComeAndGoWithTheMachine(t *testing.T) {
	host := hostlab.Start(t)
	v, ctx := host.Virt(), t.Context()
	before := host.Snapshot(t)
	facts, err := bridge.Look(ctx, host, v)
	if err != nil {
		t.Fatal(err)
	}
	p, err := bridge.Plan(bridge.Wanted{VM: "vm", Isolated: true}, facts)
	if err != nil {
		t.Fatal(err)
	}
	s := host.Tiny(t, "vm")
	s.Network = p.Network
	h := machine.Host{Virt: v, Root: filepath.Join(host.Tmp, "lib"), Log: t.Logf}
	plan, err := h.Plan(ctx, machine.Wanted{Spec: s, Autostart: true, Filters: p.Filters, Networks: p.Networks})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Define(ctx, plan); err != nil {
		t.Fatal(err)
	}
	host.Reboot(t)
	if state, err := v.State(ctx, "vm"); state != "running" || err != nil {
		t.Errorf("%q %v", state, err)
	}
	var out bytes.Buffer
	if err := host.Run(ctx, sh.Cmd{Name: "sh", Args: []string{"-euc", "virsh -q nwfilter-binding-list; bridge -details link show; ebtables -t nat -L"}, Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"cc-base-vm", "isolated on", "libvirt-I-vnet", "10.0.0.0/8", "ccbr0"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("no %q in:\n%s", part, out.String())
		}
	}
	// A second look sees the network that is there.
	if facts, err = bridge.Look(ctx, host, v); err != nil {
		t.Fatal(err)
	}
	again, err := bridge.Plan(bridge.Wanted{VM: "second", Isolated: true}, facts)
	if err != nil || len(again.Networks) != 0 || again.Network.Name != bridge.Own {
		t.Errorf("%+v %v", again, err)
	}
	if kept, err := h.Undefine(ctx, "vm"); err != nil || len(kept) != 0 {
		t.Fatal(kept, err)
	}
	if diff := cmp.Diff(before, host.Snapshot(t)); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
}
