package bridge

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"cc-base/installer/machine"
)

// isolate adds filter and port isolation, if they are asked for.
func (n *Net) isolate(w Wanted, f Facts, subnet netip.Prefix) {
	if !w.Isolated {
		return
	}
	r := Filter(w.VM, subnet, f.Addresses, w.Resolvers)
	n.Filters = []machine.Resource{r}
	n.Network.Filter, n.Network.Isolated = r.Name, true
	n.Notes = append(n.Notes, "it is isolated: no port of the host, no private network and no other guest can be reached")
}

// closed4 and closed6 are what an isolated guest may not reach: everything that
// is not globally reachable (IANA's registries of special-purpose addresses,
// RFC 6890), multicast, and addresses that hide an IPv4 one.
func closed4() []netip.Prefix {
	return prefixes("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
		"192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4")
}

func closed6() []netip.Prefix {
	return prefixes("::/8", "64:ff9b:1::/48", "2002::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8")
}

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, t := range texts {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}

// Filter is the filter of an isolated machine: rules in libvirt's own format,
// which it puts on the guest's interface before the guest runs and takes away
// with it, whatever happens to other firewalls of the host. They look at each
// packet alone (ebtables), with no help of br_netfilter.
//
// subnet is that of ccbr0; an invalid one means a bridge of the host, on which
// DHCP servers and, without resolvers, DNS servers may be anywhere. host are the
// host's own addresses at this moment: those that are not private are closed one
// by one, so a host that gets a new one needs `cc-install apply`.
//
// What it leaves open on purpose: an answer passes like a question, so a
// neighbour on a bridge of the host that is not isolated may send datagrams from
// its port 53 or 67 to the guest. ARP is not checked beyond the sender's MAC.
func Filter(vm string, subnet netip.Prefix, host, resolvers []netip.Addr) machine.Resource {
	r := &rules{}
	r.add("drop", "out", `<mac match='no' srcmacaddr='$MAC'/>`)
	r.add("accept", "inout", `<mac protocolid='arp'/>`)
	if subnet.IsValid() {
		r.own(subnet.Masked())
	} else {
		r.bridged(resolvers)
	}
	for _, p := range append(closed4(), single(host, netip.Addr.Is4)...) {
		r.closed("ip", p)
	}
	r.add("accept", "inout", `<ip/>`)
	if !subnet.IsValid() {
		for _, p := range append(closed6(), single(host, netip.Addr.Is6)...) {
			r.closed("ipv6", p)
		}
		r.add("accept", "inout", `<ipv6/>`)
	}
	r.add("drop", "inout", `<mac/>`)

	name := "cc-base-" + vm
	xml := fmt.Sprintf("<filter name='%s' chain='root'>\n  <uuid>%s</uuid>\n%s</filter>\n", name, id("filter", name), r.text.String())
	return machine.Resource{Name: name, UUID: id("filter", name), XML: xml}
}

// rules are in the order in which they are added: libvirt sorts by priority.
type rules struct {
	text strings.Builder
	n    int
}

func (r *rules) add(action, direction, match string) {
	fmt.Fprintf(&r.text, "  <rule action='%s' direction='%s' priority='%d'>\n    %s\n  </rule>\n", action, direction, r.n-500, match)
	r.n++
}

// own is what a guest may do on ccbr0: ask the host for an address and for
// names, and be told by it that a packet was too big.
func (r *rules) own(subnet netip.Prefix) {
	gateway := subnet.Addr().Next()
	r.add("accept", "out", `<ip dstipaddr='255.255.255.255' protocol='udp' srcportstart='68' dstportstart='67'/>`)
	r.add("accept", "out", fmt.Sprintf(`<ip dstipaddr='%s' protocol='udp' srcportstart='68' dstportstart='67'/>`, gateway))
	r.add("accept", "in", fmt.Sprintf(`<ip srcipaddr='%s' protocol='udp' srcportstart='67' dstportstart='68'/>`, gateway))
	r.add("drop", "out", fmt.Sprintf(`<ip match='no' srcipaddr='%s' srcipmask='%d'/>`, subnet.Addr(), subnet.Bits()))
	r.dns("ip", gateway)
	r.add("accept", "in", fmt.Sprintf(`<ip srcipaddr='%s' protocol='icmp'/>`, gateway))
}

// bridged is the same on a bridge of the host, for both versions of IP.
func (r *rules) bridged(resolvers []netip.Addr) {
	r.add("accept", "out", `<ip protocol='udp' srcportstart='68' dstportstart='67'/>`)
	r.add("accept", "in", `<ip protocol='udp' srcportstart='67' dstportstart='68'/>`)
	r.add("accept", "out", `<ipv6 protocol='udp' srcportstart='546' dstportstart='547'/>`)
	r.add("accept", "in", `<ipv6 protocol='udp' srcportstart='547' dstportstart='546'/>`)
	// Router and neighbour solicitation and advertisement (RFC 4861), without
	// which there is no IPv6; errors such as packet too big from anywhere.
	r.add("accept", "inout", `<ipv6 protocol='icmpv6' type='133' typeend='136'/>`)
	r.add("accept", "in", `<ipv6 protocol='icmpv6' type='1' typeend='4'/>`)
	r.add("accept", "in", `<ip protocol='icmp'/>`)
	if len(resolvers) == 0 {
		r.dns("ip", netip.Addr{})
		r.dns("ipv6", netip.Addr{})
	}
	for _, a := range resolvers {
		if a.Is4() {
			r.dns("ip", a)
		} else {
			r.dns("ipv6", a)
		}
	}
}

func (r *rules) dns(element string, server netip.Addr) {
	to, from := "", ""
	if server.IsValid() {
		to, from = fmt.Sprintf(" dstipaddr='%s'", server), fmt.Sprintf(" srcipaddr='%s'", server)
	}
	for _, protocol := range []string{"udp", "tcp"} {
		r.add("accept", "out", fmt.Sprintf(`<%s%s protocol='%s' dstportstart='53'/>`, element, to, protocol))
		r.add("accept", "in", fmt.Sprintf(`<%s%s protocol='%s' srcportstart='53'/>`, element, from, protocol))
	}
}

// closed drops what goes to the network and what comes from it.
func (r *rules) closed(element string, p netip.Prefix) {
	r.add("drop", "out", fmt.Sprintf(`<%s dstipaddr='%s' dstipmask='%d'/>`, element, p.Addr(), p.Bits()))
	r.add("drop", "in", fmt.Sprintf(`<%s srcipaddr='%s' srcipmask='%d'/>`, element, p.Addr(), p.Bits()))
}

// single are the addresses of one version of IP that no closed network has in
// it already, each as a network of its own.
func single(addresses []netip.Addr, version func(netip.Addr) bool) []netip.Prefix {
	all := append(closed4(), closed6()...)
	var out []netip.Prefix
	for _, a := range addresses {
		a = a.Unmap().WithZone("")
		if version(a) && !slices.ContainsFunc(all, func(p netip.Prefix) bool { return p.Contains(a) }) {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return slices.Compact(out)
}
