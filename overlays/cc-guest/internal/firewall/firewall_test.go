package firewall_test

// What green does not prove: what packets get through, which packets_test.go asks.
// That nft and the guest's kernel take the rules is what every boot shows: without
// them it ends.

import (
	"net/netip"
	"testing"

	"cc-base/overlays/cc-guest/internal/firewall"
	"cc-base/tasks/golden"
	"cc-base/tasks/site"
)

func TestTheRulesAreTheGoldenOnes(t *testing.T) {
	for name, s := range map[string]site.Site{
		"none": {},
		"full": {
			VerifierURL: "https://verifier.example.org:8443/v1",
			Firewall:    []site.Rule{{Protocol: "tcp", Port: 443}, {Protocol: "udp", Port: 51820, From: netip.MustParsePrefix("192.0.2.0/24")}},
			FirewallOut: []site.Rule{{Protocol: "tcp", Port: 5432, From: netip.MustParsePrefix("2001:db8::/32")}},
		},
		"verifier-at-443": {VerifierURL: "https://verifier.example.org/v1"},
	} {
		rules, err := firewall.Rules(s)
		if err != nil {
			t.Fatal(err)
		}
		golden.Compare(t, name+".nft", rules)
	}
}
