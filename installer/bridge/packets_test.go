package bridge_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cc-base/installer/bridge"
	"cc-base/installer/hostlab"
	"cc-base/installer/machine"
	"cc-base/tasks/sh"
)

// Under this variable the test's own program is a network program, run inside a
// namespace: it prints which of the targets answer, as JSON, or serves.
const probeEnv = "CC_TEST_PROBE"

func TestMain(m *testing.M) {
	switch job, rest, _ := strings.Cut(os.Getenv(probeEnv), " "); job {
	case "":
		os.Exit(m.Run())
	case "ask":
		ask(strings.Fields(rest))
	case "serve":
		serve(strings.Fields(rest))
	}
}

const patience = 1500 * time.Millisecond

// ask tries targets at once: tcp:ADDRESS:PORT answers when it accepts and says
// hello, udp:… when it echoes, dns:… when it answers a query, dhcp:INTERFACE
// when it offers an address, which is the answer.
func ask(targets []string) {
	type answer struct{ target, text string }
	answers := make(chan answer)
	for _, t := range targets {
		go func() {
			kind, where, _ := strings.Cut(t, ":")
			text, err := map[string]func(string) (string, error){"tcp": askTCP, "udp": askUDP, "dns": askDNS, "dhcp": askDHCP}[kind](where)
			if err != nil {
				text = ""
			}
			answers <- answer{t, text}
		}()
	}
	all := map[string]string{}
	for range targets {
		a := <-answers
		all[a.target] = a.text
	}
	_ = json.NewEncoder(os.Stdout).Encode(all)
}

func askTCP(where string) (string, error) {
	c, err := net.DialTimeout("tcp", where, patience)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return talk(c, nil)
}

func askUDP(where string) (string, error) {
	c, err := net.Dial("udp", where)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return talk(c, []byte("hello"))
}

// askDNS asks for the address of localhost (RFC 1035 4.1).
func askDNS(where string) (string, error) {
	c, err := net.Dial("udp", where)
	if err != nil {
		return "", err
	}
	defer c.Close()
	text, err := talk(c, append([]byte{0xcc, 0xba, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, "\x09localhost\x00\x00\x01\x00\x01"...))
	if !strings.HasPrefix(text, "\xcc\xba") {
		return "", errors.New("no answer")
	}
	return "answered", err
}

func talk(c net.Conn, say []byte) (string, error) {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := c.Write(say); err != nil {
		return "", err
	}
	buf := make([]byte, 512)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

// askDHCP sends a DHCPDISCOVER (RFC 2131) through an interface that has no
// address yet, with the broadcast flag, and returns what is offered.
func askDHCP(link string) (string, error) {
	card, err := net.InterfaceByName(link)
	if err != nil {
		return "", err
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, 0)
	if err != nil {
		return "", err
	}
	defer syscall.Close(fd)
	if err := errors.Join(
		syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_BROADCAST, 1),
		syscall.SetsockoptString(fd, syscall.SOL_SOCKET, syscall.SO_BINDTODEVICE, link),
		syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &syscall.Timeval{Sec: 6}), // dnsmasq pings an address first
		syscall.Bind(fd, &syscall.SockaddrInet4{Port: 68}),
	); err != nil {
		return "", err
	}
	packet := make([]byte, 300)
	packet[0], packet[1], packet[2], packet[10] = 1, 1, 6, 0x80
	binary.BigEndian.PutUint32(packet[4:], 0xccba5e)
	copy(packet[28:], card.HardwareAddr)
	copy(packet[236:], "\x63\x82\x53\x63\x35\x01\x01\xff")
	if err := syscall.Sendto(fd, packet, 0, &syscall.SockaddrInet4{Port: 67, Addr: [4]byte{255, 255, 255, 255}}); err != nil {
		return "", err
	}
	reply := make([]byte, 1500)
	n, _, err := syscall.Recvfrom(fd, reply, 0)
	if err != nil || n < 240 || !bytes.Equal(reply[4:8], packet[4:8]) {
		return "", fmt.Errorf("no offer: %w", err)
	}
	return netip.AddrFrom4([4]byte(reply[16:20])).String(), nil
}

// serve says hello to whoever connects to a port, and echoes datagrams, until
// it is ended with its host. It prints a line when it listens.
func serve(ports []string) {
	for _, p := range ports {
		l, err := net.Listen("tcp4", ":"+p)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = c.Write([]byte("hello"))
				c.Close()
			}
		}()
		echo(p)
	}
	fmt.Println("listening")
	select {}
}

// echo sends datagrams back, on each address by a socket of its own: one for all
// would answer from another address than was asked.
func echo(port string) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for _, a := range addresses {
		p, err := netip.ParsePrefix(a.String())
		if err != nil || !p.Addr().Is4() {
			continue
		}
		u, err := net.ListenPacket("udp4", net.JoinHostPort(p.Addr().String(), port))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		go func() {
			buf := make([]byte, 512)
			for {
				n, from, err := u.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = u.WriteTo(buf[:n], from)
			}
		}()
	}
}

// network is that of the test: the host is between ccbr0 with two guests and an uplink, on
// whose other side are a public server and a private one. Addresses for
// documentation (RFC 5737) play the public ones.
type network struct {
	*hostlab.Host
	t       *testing.T
	program string
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

func (n network) sh(script string) {
	n.t.Helper()
	if err := sh.Do(n.t.Context(), n.Host, "sh", "-euc", script); err != nil {
		n.t.Fatal(err)
	}
}

// in runs the program inside a namespace; an empty one is the host itself.
func (n network) in(space, job string) sh.Cmd {
	c := sh.Cmd{Name: n.program, Env: []string{probeEnv + "=" + job}}
	if space != "" {
		c.Name, c.Args = "ip", []string{"netns", "exec", space, n.program}
	}
	return c
}

func (n network) serve(space string, ports string) {
	n.t.Helper()
	out, in, err := os.Pipe()
	if err != nil {
		n.t.Fatal(err)
	}
	c := n.in(space, "serve "+ports)
	c.Stdout = in
	go func() { _ = n.Host.Run(n.t.Context(), c); in.Close() }() // ends with the test
	buf := make([]byte, 9)
	if _, err := out.Read(buf); err != nil {
		n.t.Fatalf("%s: nobody listens: %v", space, err)
	}
}

// ask returns what each of the targets answers.
func (n network) ask(space string, targets ...string) map[string]string {
	n.t.Helper()
	var out bytes.Buffer
	c := n.in(space, "ask "+strings.Join(targets, " "))
	c.Stdout = &out
	if err := n.Host.Run(n.t.Context(), c); err != nil {
		n.t.Fatal(err)
	}
	var all map[string]string
	if err := json.Unmarshal(out.Bytes(), &all); err != nil {
		n.t.Fatal(err)
	}
	return all
}

// reached are the targets that answer.
func (n network) reached(space string, targets ...string) []string {
	n.t.Helper()
	var found []string
	for target, text := range n.ask(space, targets...) {
		if text != "" {
			found = append(found, target)
		}
	}
	slices.Sort(found)
	return found
}

// guest plugs a namespace into the bridge, as libvirt does with a guest's tap.
func (n network) guest(name, mac, isolated string) {
	n.t.Helper()
	n.sh(fmt.Sprintf(`
		ip netns add %[1]s
		ip link add %[1]s-tap type veth peer name eth0 address %[2]s netns %[1]s
		ip link set %[1]s-tap master ccbr0 up
		bridge link set dev %[1]s-tap isolated %[3]s
		ip -n %[1]s link set lo up
		ip -n %[1]s link set eth0 up`, name, mac, isolated))
}

func (n network) configure(guest, address string, gateway netip.Addr) {
	n.t.Helper()
	n.sh(fmt.Sprintf("ip -n %s addr add %s/24 dev eth0; ip -n %[1]s route add default via %[3]s", guest, address, gateway))
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
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	n := network{Host: hostlab.Start(t, filepath.Dir(exe)), t: t, program: exe}
	n.sh(uplinkScript)
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
	offered := n.ask("one", "dhcp:eth0")["dhcp:eth0"]
	if a, err := netip.ParseAddr(offered); err != nil || !subnet.Contains(a) {
		t.Fatalf("no address by DHCP: %q", offered)
	}
	two := subnet.Addr().Next().Next().Next()
	if two.String() == offered {
		two = two.Next()
	}
	n.configure("one", offered, gateway)
	n.configure("two", two.String(), gateway)
	n.serve("", "22 8080")
	n.serve("two", "22")
	n.serve("world", "443 53")

	open := []string{"tcp:203.0.113.10:443", "udp:203.0.113.10:443", fmt.Sprintf("dns:%s:53", gateway), fmt.Sprintf("tcp:203.0.113.10:53")}
	shut := []string{
		fmt.Sprintf("tcp:%s:22", gateway), fmt.Sprintf("udp:%s:8080", gateway), // the host on the bridge
		"tcp:198.51.100.2:22", "udp:198.51.100.2:8080", // the host on its uplink
		fmt.Sprintf("tcp:%s:22", two), fmt.Sprintf("udp:%s:22", two), // another guest
		"tcp:10.66.0.5:443", "udp:10.66.0.5:53", "tcp:100.64.9.9:443", // private networks behind the uplink
	}
	all := slices.Sorted(slices.Values(append(slices.Clone(open), shut...)))
	slices.Sort(open)
	if diff := cmp.Diff(open, n.reached("one", all...)); diff != "" {
		t.Errorf("isolated (-want +got):\n%s", diff)
	}
	// Nor do others get in, by what the guest has not asked for.
	n.serve("one", "22")
	if got := n.reached("two", "tcp:"+offered+":22", "udp:"+offered+":22"); got != nil {
		t.Errorf("another guest gets in: %v", got)
	}

	// The filter is what does it: without it everything answers.
	if err := n.Virt().BindingDelete(t.Context(), "one-tap"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(all, n.reached("one", all...)); diff != "" {
		t.Errorf("without the filter (-want +got):\n%s", diff)
	}
	// The bridge keeps isolated ports apart, filter or not.
	n.sh("bridge link set dev one-tap isolated on; bridge link set dev two-tap isolated on")
	others := []string{fmt.Sprintf("tcp:%s:22", two), fmt.Sprintf("udp:%s:22", two)}
	if got := n.reached("one", others...); got != nil {
		t.Errorf("isolated ports see each other: %v", got)
	}

	// A guest that takes another MAC or IP address gets nowhere.
	n.bind(p.Filters[0], "one", mac)
	n.sh("ip -n one link set eth0 address 52:54:00:aa:00:09")
	if got := n.reached("one", open...); got != nil {
		t.Errorf("with another MAC address: %v", got)
	}
	n.sh("ip route add 10.250.0.0/24 dev ccbr0; ip -n one link set eth0 address " + mac + "; ip -n one addr flush dev eth0; ip -n one addr add 10.250.0.9/24 dev eth0; ip -n one route add default via " + gateway.String() + " dev eth0 onlink")
	names := fmt.Sprintf("dns:%s:53", gateway)
	if got := n.reached("one", open...); got != nil {
		t.Errorf("with another IP address: %v", got)
	}
	if err := n.Virt().BindingDelete(t.Context(), "one-tap"); err != nil {
		t.Fatal(err)
	}
	if got := n.reached("one", names); !slices.Equal(got, []string{names}) {
		t.Error("with another IP address nothing answers anyway: the test shows nothing")
	}
}

func TestAnIsolatedGuestOnABridgeOfTheHost(t *testing.T) {
	n := start(t)
	const mac = "52:54:00:aa:00:01"
	// The host's bridge has the name of ours, so that guest() plugs into it,
	// and the world is in it: its router, resolver and neighbours.
	n.sh(`
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
	n.serve("", "22")
	n.serve("world", "443 53")
	open := []string{"tcp:192.168.7.53:53", "tcp:203.0.113.10:443", "udp:192.168.7.53:53", "udp:203.0.113.10:443"}
	shut := []string{"tcp:192.168.7.2:22", "udp:192.168.7.2:22", "tcp:192.168.7.1:443", "udp:192.168.7.1:53", "tcp:10.66.0.5:443", "tcp:100.64.9.9:443"}
	all := slices.Sorted(slices.Values(append(slices.Clone(open), shut...)))
	if diff := cmp.Diff(open, n.reached("one", all...)); diff != "" {
		t.Errorf("isolated (-want +got):\n%s", diff)
	}
	if err := n.Virt().BindingDelete(t.Context(), "one-tap"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(all, n.reached("one", all...)); diff != "" {
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
