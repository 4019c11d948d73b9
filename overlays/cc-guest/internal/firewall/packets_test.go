package firewall_test

// The guest's rules in a kernel, and packets through them: a namespace plays the
// guest, another the network that it is in.
//
// What green does not prove: that the guest's kernel filters as this machine's
// does; nor what goes through other families than IP, such as ARP.

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cc-base/installer/hostlab/packets"
	"cc-base/overlays/cc-guest/internal/firewall"
	"cc-base/tasks/site"
)

func TestMain(m *testing.M) { packets.Main(m) }

// The guest is at 198.51.100.2. Of the world, 192.0.2.1 is in the network that
// site.conf names and 198.51.100.1 is not; inner is behind the guest.
const place = `
ip netns add guest
ip netns add world
ip netns add inner
ip link add eth0 netns guest type veth peer name w0 netns world
ip link add eth1 netns guest type veth peer name i0 netns inner
ip -n guest addr add 198.51.100.2/24 dev eth0
ip -n guest addr add 203.0.113.1/24 dev eth1
ip -n world addr add 198.51.100.1/24 dev w0
ip -n world addr add 192.0.2.1/32 dev lo
ip -n inner addr add 203.0.113.2/24 dev i0
for end in 'guest lo' 'guest eth0' 'guest eth1' 'world lo' 'world w0' 'inner lo' 'inner i0'; do
	ip -n ${end% *} link set ${end#* } up
done
ip -n guest route add 192.0.2.0/24 via 198.51.100.1
ip -n world route add 203.0.113.0/24 via 198.51.100.2
ip -n inner route add default via 203.0.113.1
ip netns exec guest sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
`

func TestPacketsPassOnlyWhereARuleTakesThem(t *testing.T) {
	rules, err := firewall.Rules(site.Site{
		Firewall:    []site.Rule{{Protocol: "tcp", Port: 8080}, {Protocol: "udp", Port: 51820, From: netip.MustParsePrefix("192.0.2.0/24")}},
		FirewallOut: []site.Rule{{Protocol: "tcp", Port: 5432, From: netip.MustParsePrefix("192.0.2.0/24")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	n := packets.Start(t)
	n.Sh(place)
	n.Serve("guest", "22 8080 51820")
	n.Serve("world", "22 53 443 5432")
	n.Serve("inner", "443")

	type way struct {
		from       string
		all, taken []string
	}
	ways := []way{
		{
			from: "world", // into the guest
			all: []string{"tcp:198.51.100.2:22", "tcp:198.51.100.2:8080", "udp:198.51.100.2:22", "udp:198.51.100.2:8080",
				"udp:198.51.100.2:51820", "tcp:203.0.113.2:443", "udp:203.0.113.2:443"},
			taken: []string{"tcp:198.51.100.2:8080"},
		},
		{
			from: "guest", // out of it
			all: []string{"tcp:198.51.100.1:22", "tcp:198.51.100.1:443", "tcp:198.51.100.1:53", "tcp:198.51.100.1:5432", "tcp:192.0.2.1:5432",
				"udp:198.51.100.1:22", "udp:198.51.100.1:53", "udp:198.51.100.1:443", "udp:192.0.2.1:5432", "tcp:198.51.100.2:22"},
			taken: []string{"tcp:192.0.2.1:5432", "tcp:198.51.100.1:443", "tcp:198.51.100.1:53", "tcp:198.51.100.2:22", "udp:198.51.100.1:53"},
		},
		{
			from:  "inner", // through it, and into it from another side
			all:   []string{"tcp:198.51.100.1:443", "udp:198.51.100.1:53", "tcp:203.0.113.1:22", "tcp:203.0.113.1:8080"},
			taken: []string{"tcp:203.0.113.1:8080"},
		},
	}
	reached := func(what string, want func(way) []string) {
		t.Helper()
		for _, w := range ways {
			expected := slices.Sorted(slices.Values(want(w)))
			if diff := cmp.Diff(expected, n.Reached(w.from, w.all...)); diff != "" {
				t.Errorf("%s, from %s (-want +got):\n%s", what, w.from, diff)
			}
		}
	}
	// Without the rules everything answers: it is they that take and drop.
	reached("no rules", func(w way) []string { return w.all })
	file := filepath.Join(n.Tmp, "rules.nft")
	if err := os.WriteFile(file, []byte(rules), 0o644); err != nil {
		t.Fatal(err)
	}
	n.Sh("ip netns exec guest nft -f " + file)
	reached("the guest's rules", func(w way) []string { return w.taken })

	// The sender's address decides, not only the port.
	n.Sh("ip -n world route replace 198.51.100.0/24 dev w0 src 192.0.2.1")
	if got := n.Reached("world", "udp:198.51.100.2:51820"); len(got) != 1 {
		t.Error("the network that site.conf names does not get in")
	}
}
