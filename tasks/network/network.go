// Package network tells what the host's network offers to a guest: its
// interfaces and what they are, its bridges with their members, the interface
// of the default route, and the private ranges that are taken.
//
//	n, err := network.Read(os.DirFS("/"))
//	free, err := n.FreeRange()
//
// Everything is read from sysfs, procfs and libvirt's definitions through an
// [io/fs.FS] that stands for the root folder. Nothing is changed and no program
// is run. Addresses of interfaces and hardware addresses are not read: they
// tell who a host is and decide nothing here.
package network

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Kind is what an interface is made of.
type Kind string

// The kinds.
const (
	Physical Kind = "physical" // a network card, or a virtual function of one
	Wireless Kind = "wireless" // cannot be a port of a bridge
	Bridge   Kind = "bridge"
	Bond     Kind = "bond"
	Loopback Kind = "loopback"
	Virtual  Kind = "virtual" // tap, veth, VLAN, tunnel …
)

// Interface is one network interface.
type Interface struct {
	Name    string   `json:"name"`
	Kind    Kind     `json:"kind"`
	Up      bool     `json:"up"`                // carrier and administrative state
	Master  string   `json:"master,omitempty"`  // bridge or bond that it is a port of
	Members []string `json:"members,omitempty"` // ports of a bridge or bond, sorted
}

// Facts is what [Read] found.
type Facts struct {
	Interfaces []Interface `json:"interfaces"`        // by name
	Default    string      `json:"default,omitempty"` // interface of the default route, IPv4 before IPv6
	// Taken are the IPv4 ranges that the host routes, or that a network of
	// libvirt uses; sorted, the default route not among them. They are not in
	// the JSON, which is made to be shown; Free is what follows from them.
	Taken []netip.Prefix `json:"-"`
	Free  string         `json:"free,omitempty"` // what FreeRange answers; empty for none
}

// Read reads the facts. A host without the sysfs of networks gives an error.
func Read(root fs.FS) (Facts, error) {
	entries, err := fs.ReadDir(root, classDir)
	if err != nil {
		return Facts{}, fmt.Errorf("listing network interfaces: %w", err)
	}
	var f Facts
	for _, e := range entries {
		dir := path.Join(classDir, e.Name())
		if info, err := fs.Stat(root, dir); err != nil || !info.IsDir() {
			continue // bonding_masters is a file
		}
		f.Interfaces = append(f.Interfaces, read(root, e.Name()))
	}
	routes, err := ipv4Routes(root)
	if err != nil {
		return Facts{}, err
	}
	f.Default = defaultRoute(root, routes)
	f.Taken = taken(root, routes)
	if free, err := f.FreeRange(); err == nil {
		f.Free = free.String()
	}
	return f, nil
}

const classDir = "sys/class/net"

func read(root fs.FS, name string) Interface {
	dir := path.Join(classDir, name)
	i := Interface{Name: name, Kind: Virtual, Up: text(root, path.Join(dir, "operstate")) == "up"}
	if target, err := fs.ReadLink(root, path.Join(dir, "master")); err == nil {
		i.Master = path.Base(target)
	}
	has := func(sub string) bool { _, err := fs.Stat(root, path.Join(dir, sub)); return err == nil }
	link := func(sub string) bool { _, err := fs.ReadLink(root, path.Join(dir, sub)); return err == nil }
	switch {
	case has("bridge"):
		i.Kind, i.Members = Bridge, names(root, path.Join(dir, "brif"))
	case has("bonding"):
		i.Kind, i.Members = Bond, strings.Fields(text(root, path.Join(dir, "bonding/slaves")))
		slices.Sort(i.Members)
	case has("wireless") || link("phy80211"):
		i.Kind = Wireless
	case text(root, path.Join(dir, "type")) == "772": // ARPHRD_LOOPBACK, linux/if_arp.h
		i.Kind = Loopback
	case link("device"):
		i.Kind = Physical
	}
	return i
}

// Bridges returns the bridges, those with a physical member first, then by
// name: they are more likely to lead out of the host than one of virtual
// machines only.
func (f Facts) Bridges() []Interface {
	var out []Interface
	for _, i := range f.Interfaces {
		if i.Kind == Bridge {
			out = append(out, i)
		}
	}
	slices.SortStableFunc(out, func(a, b Interface) int {
		return cmp.Or(compareBool(f.Uplinked(b), f.Uplinked(a)), strings.Compare(a.Name, b.Name))
	})
	return out
}

// Uplinked tells whether a bridge has a network card or a bond as a port, so
// that its guests are in the host's own network.
func (f Facts) Uplinked(bridge Interface) bool {
	return slices.ContainsFunc(bridge.Members, func(name string) bool {
		m, ok := f.Lookup(name)
		return ok && (m.Kind == Physical || m.Kind == Bond)
	})
}

// Lookup returns the interface with the name.
func (f Facts) Lookup(name string) (Interface, bool) {
	for _, i := range f.Interfaces {
		if i.Name == name {
			return i, true
		}
	}
	return Interface{}, false
}

// FreeRange returns a private /24 that overlaps nothing that is taken. The
// order is fixed, so that a host gets the same answer twice: 192.168.200.0 and
// up, which few home and office networks use, then 172.31.0.0, then 10.200.0.0.
func (f Facts) FreeRange() (netip.Prefix, error) {
	for _, candidate := range candidates() {
		if !slices.ContainsFunc(f.Taken, candidate.Overlaps) {
			return candidate, nil
		}
	}
	return netip.Prefix{}, errors.New("every private range that was tried is routed already")
}

func candidates() []netip.Prefix {
	var out []netip.Prefix
	add := func(a, b byte, from int) {
		for c := from; c < 255; c++ {
			out = append(out, netip.PrefixFrom(netip.AddrFrom4([4]byte{a, b, byte(c), 0}), 24))
		}
	}
	add(192, 168, 200)
	add(172, 31, 0)
	add(10, 200, 0)
	return out
}

// route is one line of the main routing table.
type route struct {
	name   string
	to     netip.Prefix
	metric int
}

// ipv4Routes reads /proc/net/route: interface, destination and mask as
// little-endian hexadecimal words (Linux net/ipv4/fib_trie.c).
func ipv4Routes(root fs.FS) ([]route, error) {
	b, err := fs.ReadFile(root, "proc/net/route")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a kernel without IPv4
	}
	if err != nil {
		return nil, err
	}
	var out []route
	for n, line := range strings.Split(string(b), "\n") {
		fields := strings.Fields(line)
		if n == 0 || len(fields) == 0 {
			continue
		}
		if len(fields) < 8 {
			return nil, fmt.Errorf("proc/net/route:%d: %d fields", n+1, len(fields))
		}
		to, errTo := word(fields[1])
		mask, errMask := word(fields[7])
		metric, errMetric := strconv.Atoi(fields[6])
		if err := errors.Join(errTo, errMask, errMetric); err != nil {
			return nil, fmt.Errorf("proc/net/route:%d: %w", n+1, err)
		}
		ones := 0
		for m := binary.BigEndian.Uint32(mask[:]); m&(1<<31) != 0; m <<= 1 {
			ones++
		}
		out = append(out, route{fields[0], netip.PrefixFrom(netip.AddrFrom4(to), ones).Masked(), metric})
	}
	return out, nil
}

func word(text string) (out [4]byte, err error) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != 4 {
		return out, fmt.Errorf("%q is no address", text)
	}
	slices.Reverse(raw)
	return [4]byte(raw), nil
}

func defaultRoute(root fs.FS, routes []route) string {
	best := route{metric: -1}
	for _, r := range routes {
		if r.to.Bits() == 0 && (best.metric < 0 || r.metric < best.metric) {
			best = r
		}
	}
	if best.metric >= 0 {
		return best.name
	}
	// IPv6: destination, its length, source, its length, gateway, metric, two
	// counters, flags, interface.
	for line := range strings.Lines(text(root, "proc/net/ipv6_route")) {
		f := strings.Fields(line)
		if len(f) == 10 && f[1] == "00" && strings.Trim(f[0], "0") == "" && f[9] != "lo" {
			return f[9]
		}
	}
	return ""
}

func taken(root fs.FS, routes []route) []netip.Prefix {
	out := libvirtRanges(root)
	for _, r := range routes {
		if r.to.Bits() > 0 {
			out = append(out, r.to)
		}
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return slices.Compact(out)
}

func names(root fs.FS, dir string) []string {
	entries, _ := fs.ReadDir(root, dir)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func text(root fs.FS, name string) string {
	b, err := fs.ReadFile(root, name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}
