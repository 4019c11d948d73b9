// Package packets sends packets between the network namespaces of a host for
// tests, to see what a packet filter lets through.
package packets

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

	"cc-base/installer/hostlab"
	"cc-base/tasks/sh"
)

// probeEnv makes the test's own program a network program, run inside a
// namespace: it prints which of the targets answer, as JSON, or serves.
const probeEnv = "CC_TEST_PROBE"

// Main runs the tests, or as the network program what a test has asked for. It is
// what a package's TestMain does.
func Main(m *testing.M) {
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

// Network is a host whose namespaces, made with `ip netns`, talk to each other.
type Network struct {
	*hostlab.Host
	t       *testing.T
	program string
}

// Start starts a host that ends with the test; see [hostlab.Start].
func Start(t *testing.T) Network {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Network{Host: hostlab.Start(t, filepath.Dir(exe)), t: t, program: exe}
}

// Sh runs a script on the host, which must succeed.
func (n Network) Sh(script string) {
	n.t.Helper()
	if err := sh.Do(n.t.Context(), n.Host, "sh", "-euc", script); err != nil {
		n.t.Fatal(err)
	}
}

// in runs the program inside a namespace; an empty one is the host itself.
func (n Network) in(space, job string) sh.Cmd {
	c := sh.Cmd{Name: n.program, Env: []string{probeEnv + "=" + job}}
	if space != "" {
		c.Name, c.Args = "ip", []string{"netns", "exec", space, n.program}
	}
	return c
}

// Serve has the ports of a namespace answered, and returns when they are.
func (n Network) Serve(space string, ports string) {
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

// Ask returns what each of the targets answers.
func (n Network) Ask(space string, targets ...string) map[string]string {
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

// Reached are the targets that answer.
func (n Network) Reached(space string, targets ...string) []string {
	n.t.Helper()
	var found []string
	for target, text := range n.Ask(space, targets...) {
		if text != "" {
			found = append(found, target)
		}
	}
	slices.Sort(found)
	return found
}
