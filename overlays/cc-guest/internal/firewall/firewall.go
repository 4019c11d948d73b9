// Package firewall renders the guest's packet filter: nothing in, nothing out,
// nothing through, but for what a machine needs to be on a network and what the
// place's site.conf permits.
package firewall

import (
	"fmt"
	"net/url"
	"strings"

	"cc-base/tasks/site"
)

// Table is the name of the table, of the family inet.
const Table = "cc_base"

// Rules returns the table as `nft -f -` reads it. It replaces one that is there,
// in one transaction: at no moment is there none.
//
// What goes out without being asked for: address configuration, name service,
// time and https, which is how evidence is sent and how an application fetches
// what it needs. Everything else is for site.conf to permit.
func Rules(s site.Site) (string, error) {
	var in, out strings.Builder
	for _, r := range s.Firewall {
		in.WriteString(rule(r, "saddr"))
	}
	for _, r := range s.FirewallOut {
		out.WriteString(rule(r, "daddr"))
	}
	if s.VerifierURL != "" {
		u, err := url.Parse(s.VerifierURL)
		if err != nil {
			return "", err
		}
		if port := u.Port(); port != "" {
			fmt.Fprintf(&out, "\t\ttcp dport %s accept\n", port)
		}
	}
	return fmt.Sprintf(`table inet %[1]s
delete table inet %[1]s
table inet %[1]s {
	chain input {
		type filter hook input priority filter; policy drop;
		iif lo accept
		ct state established,related accept
		ct state invalid drop
		icmpv6 type { nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-query } ip6 hoplimit { 1, 255 } accept
		udp sport 67 udp dport 68 accept
		udp sport 547 udp dport 546 accept
%[2]s	}
	chain forward {
		type filter hook forward priority filter; policy drop;
	}
	chain output {
		type filter hook output priority filter; policy drop;
		oif lo accept
		ct state established,related accept
		icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld2-listener-report } accept
		udp sport 68 udp dport 67 accept
		udp sport 546 udp dport 547 accept
		udp dport { 53, 123 } accept
		tcp dport { 53, 443 } accept
%[3]s	}
}
`, Table, in.String(), out.String()), nil
}

// rule is one line of a chain; where is the address that a network is about.
func rule(r site.Rule, where string) string {
	line := fmt.Sprintf("%s dport %d accept\n", r.Protocol, r.Port)
	if !r.From.IsValid() {
		return "\t\t" + line
	}
	family := "ip"
	if r.From.Addr().Is6() {
		family = "ip6"
	}
	return fmt.Sprintf("\t\t%s %s %s %s", family, where, r.From, line)
}
