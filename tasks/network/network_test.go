package network_test

// What green does not prove: nothing here asks a running libvirt or reads a
// policy routing table. A range that only another table routes is not seen.

import (
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/network"
)

type host struct{ fstest.MapFS }

func (h host) put(name, text string) host {
	h.MapFS[name] = &fstest.MapFile{Data: []byte(text)}
	return h
}

func (h host) link(name, target string) host {
	h.MapFS[name] = &fstest.MapFile{Data: []byte(target), Mode: fs.ModeSymlink}
	return h
}

func (h host) dir(name string) host {
	h.MapFS[name] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
	return h
}

const routeHead = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"

// server has a card in a bridge, a bond of two, libvirt's own bridge and a
// wireless card.
func server() host {
	h := host{fstest.MapFS{}}
	net := "sys/class/net/"
	for name, kind := range map[string]string{"lo": "772", "eno1": "1", "ens2": "1", "ens3": "1", "br0": "1", "bond0": "1", "virbr0": "1", "vnet0": "1", "wlp1s0": "1"} {
		h.put(net+name+"/type", kind+"\n").put(net+name+"/operstate", "up\n")
	}
	for _, card := range []string{"eno1", "ens2", "ens3", "wlp1s0"} {
		h.link(net+card+"/device", "../../../0000:01:00.0")
	}
	h.put(net+"wlp1s0/operstate", "down\n").dir(net + "wlp1s0/wireless")
	h.dir(net+"br0/bridge").dir(net+"br0/brif/eno1").link(net+"eno1/master", "../br0")
	h.dir(net+"virbr0/bridge").dir(net+"virbr0/brif/vnet0").link(net+"vnet0/master", "../virbr0")
	h.put(net+"bond0/bonding/slaves", "ens3 ens2\n")
	h.put(net+"bonding_masters", "bond0\n")
	return h.put("proc/net/route", routeHead+
		"br0\t00000000\t0100A8C0\t0003\t0\t0\t425\t00000000\t0\t0\t0\n"+
		"bond0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"+
		"br0\t0000A8C0\t00000000\t0001\t0\t0\t425\t00FFFFFF\t0\t0\t0\n"+
		"virbr0\t007AA8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n")
}

func TestReadKnowsEveryKind(t *testing.T) {
	t.Parallel()
	got, err := network.Read(server())
	if err != nil {
		t.Fatal(err)
	}
	want := network.Facts{
		Interfaces: []network.Interface{
			{Name: "bond0", Kind: network.Bond, Up: true, Members: []string{"ens2", "ens3"}},
			{Name: "br0", Kind: network.Bridge, Up: true, Members: []string{"eno1"}},
			{Name: "eno1", Kind: network.Physical, Up: true, Master: "br0"},
			{Name: "ens2", Kind: network.Physical, Up: true},
			{Name: "ens3", Kind: network.Physical, Up: true},
			{Name: "lo", Kind: network.Loopback, Up: true},
			{Name: "virbr0", Kind: network.Bridge, Up: true, Members: []string{"vnet0"}},
			{Name: "vnet0", Kind: network.Virtual, Up: true, Master: "virbr0"},
			{Name: "wlp1s0", Kind: network.Wireless},
		},
		Default: "bond0", // the lower metric
		Taken:   []netip.Prefix{netip.MustParsePrefix("192.168.0.0/24"), netip.MustParsePrefix("192.168.122.0/24")},
		Free:    "192.168.200.0/24",
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
	var bridges []string
	for _, b := range got.Bridges() {
		bridges = append(bridges, fmt.Sprint(b.Name, " ", got.Uplinked(b)))
	}
	if diff := cmp.Diff([]string{"br0 true", "virbr0 false"}, bridges); diff != "" {
		t.Error(diff)
	}
}

func TestAHostWithIPv6Alone(t *testing.T) {
	t.Parallel()
	h := server()
	delete(h.MapFS, "proc/net/route")
	zero := strings.Repeat("0", 32)
	h.put("proc/net/ipv6_route",
		zero+" 00 "+zero+" 00 "+zero+" ffffffff 00000001 00000000 00200200       lo\n"+
			zero+" 00 "+zero+" 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eno1\n")
	got, err := network.Read(h)
	if err != nil || got.Default != "eno1" {
		t.Errorf("got %q, %v", got.Default, err)
	}
}

func TestWhatCannotBeReadIsAnError(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"eth0\t00000000\n", "eth0\tZZ\t0\t0\t0\t0\t0\t00000000\n", "eth0\t00000000\t0\t0\t0\t0\tx\t00000000\n"} {
		if got, err := network.Read(server().put("proc/net/route", routeHead+line)); err == nil {
			t.Errorf("%q gave %+v", line, got)
		}
	}
	if _, err := network.Read(fstest.MapFS{}); err == nil {
		t.Error("no sysfs and no error")
	}
}

func TestFreeRangeOverlapsNothing(t *testing.T) {
	t.Parallel()
	for want, taken := range map[string][]string{
		"192.168.200.0/24": {"192.168.122.0/24", "10.0.0.0/8"},
		"192.168.202.0/24": {"192.168.200.0/23"},
		"192.168.201.0/24": {"192.168.200.128/25"},
		"172.31.0.0/24":    {"192.168.0.0/16"},
		"10.200.0.0/24":    {"192.168.0.0/16", "172.16.0.0/12"},
		"":                 {"192.168.0.0/16", "172.16.0.0/12", "10.0.0.0/8"},
	} {
		var f network.Facts
		for _, p := range taken {
			f.Taken = append(f.Taken, netip.MustParsePrefix(p))
		}
		got, err := f.FreeRange()
		if err == nil && got.String() != want || (err != nil) != (want == "") {
			t.Errorf("%v: %s, %v; want %q", taken, got, err, want)
		}
	}
}

func TestANetworkOfLibvirtThatIsStoppedIsTaken(t *testing.T) {
	t.Parallel()
	h := server().
		put("etc/libvirt/qemu/networks/lab.xml", `<network><name>lab</name><ip address='192.168.200.1' netmask='255.255.254.0'/><ip family='ipv6' address='fd00::1' prefix='64'/></network>`).
		put("etc/libvirt/qemu/networks/two.xml", `<network><name>two</name><ip address='192.168.202.1' prefix='24'/><ip address='192.168.203.1'/></network>`).
		put("etc/libvirt/qemu/networks/broken.xml", `<network`).
		dir("etc/libvirt/qemu/networks/autostart")
	f, err := network.Read(h)
	if err != nil {
		t.Fatal(err)
	}
	got, err := f.FreeRange()
	if err != nil || got.String() != "192.168.203.0/24" {
		t.Errorf("got %s, %v; taken %v", got, err, f.Taken)
	}
}

// Whatever this machine has, its probes work on it.
func TestThisMachine(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/sys/class/net"); err != nil {
		t.Skip("no sysfs here")
	}
	f, err := network.Read(os.DirFS("/"))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := f.Lookup("lo"); !ok {
		t.Errorf("no loopback among %+v", f.Interfaces)
	}
}
