package guest

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"cc-base/validation/check"
)

func (e Env) network() []check.Check {
	return []check.Check{
		one("network.firewall", "packets are dropped in, out and through unless a rule takes them", "the VM does not boot without its rules: start it again", e.firewall),
		one("network.port-22", "nobody listens where logins are", again, e.port22),
		one("network.listeners", "nobody listens to the network who is not permitted to", "stop the service, or let it listen on a loopback address", e.listeners),
	}
}

// nftObject is one entry of `nft -j list ruleset` (libnftables-json(5)).
type nftObject struct {
	Chain *struct {
		Family, Table, Name, Hook, Policy string
		Prio                              int
	}
	Rule *struct {
		Family, Table, Chain string
		Expr                 []map[string]json.RawMessage
	}
}

// ourTable is where the guest's packet filter is (overlays/cc-guest/internal/firewall).
const ourTable = "cc_base"

// firewall looks at the chains of our table that see packets, of both versions
// of IP: each must drop what no rule takes, and no rule may take everything.
func (e Env) firewall(ctx context.Context) check.Verdict {
	text, err := e.Ruleset(ctx)
	if err != nil {
		return check.Broken(err)
	}
	var rules struct{ Nftables []nftObject }
	if err := json.Unmarshal([]byte(text), &rules); err != nil {
		return check.Broken(fmt.Errorf("what nft prints: %w", err))
	}
	drops := map[string]bool{}
	var findings []string
	for _, o := range rules.Nftables {
		if c := o.Chain; c != nil && c.Family == "inet" && c.Table == ourTable && c.Policy == "drop" && c.Prio == 0 {
			drops[c.Hook] = true
		}
		if r := o.Rule; r != nil && r.Table == ourTable && takesAll(r.Expr) {
			findings = append(findings, "a rule takes everything: "+r.Chain)
		}
	}
	for _, hook := range []string{"input", "output", "forward"} {
		if !drops[hook] {
			findings = append(findings, "nothing drops by default: "+hook)
		}
	}
	return check.Judge(findings, "input, output and forward drop by default")
}

// takesAll tells whether a rule accepts without a condition.
func takesAll(expr []map[string]json.RawMessage) bool {
	accepts, conditions := false, false
	for _, statement := range expr {
		for kind := range statement {
			accepts = accepts || kind == "accept"
			conditions = conditions || kind == "match"
		}
	}
	return accepts && !conditions
}

// socket is one that waits for others.
type socket struct {
	protocol string
	at       netip.AddrPort
}

func (s socket) String() string { return s.protocol + " " + s.at.String() }

// sockets reads the tables of the first process's network namespace
// (proc_net_tcp.rst): local address and state are the second and the fourth
// word.
func (e Env) sockets() ([]socket, error) {
	const listening, unconnected = "0A", "07"
	var all []socket
	for _, table := range []struct{ name, state string }{{"tcp", listening}, {"tcp6", listening}, {"udp", unconnected}, {"udp6", unconnected}} {
		text, err := e.text("/proc/1/net/" + table.name)
		if errors.Is(err, fs.ErrNotExist) && strings.HasSuffix(table.name, "6") {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, err
		}
		for _, line := range strings.Split(text, "\n")[1:] {
			f := strings.Fields(line)
			if len(f) < 4 {
				return nil, fmt.Errorf("/proc/1/net/%s has the line %q", table.name, line)
			}
			if f[3] != table.state {
				continue
			}
			at, err := address(f[1])
			if err != nil {
				return nil, fmt.Errorf("/proc/1/net/%s: %w", table.name, err)
			}
			all = append(all, socket{table.name, at})
		}
	}
	return all, nil
}

// address decodes the kernel's form: words of 32 bits in the machine's byte
// order, then the port.
func address(text string) (netip.AddrPort, error) {
	host, port, ok := strings.Cut(text, ":")
	raw, err := hex.DecodeString(host)
	if !ok || err != nil || len(raw) != 4 && len(raw) != 16 {
		return netip.AddrPort{}, fmt.Errorf("%q is no address", text)
	}
	for i := 0; i < len(raw); i += 4 {
		slices.Reverse(raw[i : i+4])
	}
	ip, _ := netip.AddrFromSlice(raw)
	number, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is no address", text)
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(number)), nil
}

func (e Env) port22(context.Context) check.Verdict {
	all, err := e.sockets()
	if err != nil {
		return check.Broken(err)
	}
	for _, s := range all {
		if s.at.Port() == 22 && strings.HasPrefix(s.protocol, "tcp") {
			return check.Failed("%s", s)
		}
	}
	return check.Passed("nobody")
}

func (e Env) listeners(context.Context) check.Verdict {
	all, err := e.sockets()
	if err != nil {
		return check.Broken(err)
	}
	permitted, err := e.permitted()
	if err != nil {
		return check.Broken(err)
	}
	var findings []string
	for _, s := range all {
		name := s.protocol[:3] + "/" + strconv.Itoa(int(s.at.Port()))
		switch {
		case s.at.Addr().IsLoopback():
		case slices.Contains([]string{"udp/68", "udp/546"}, name): // addresses from DHCP
		case slices.Contains(permitted, name):
		default:
			findings = append(findings, s.String())
		}
	}
	return check.Judge(findings, "%d sockets", len(all))
}

// permitted are the ports that site.conf opens, as it writes them.
func (e Env) permitted() ([]string, error) {
	text, err := e.text("/run/cc/site.conf")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var ports []string
	for _, line := range strings.Split(text, "\n") {
		if value, ok := strings.CutPrefix(line, "FIREWALL_ALLOW="); ok {
			for _, word := range strings.Fields(strings.Trim(value, `"`)) {
				port, _, _ := strings.Cut(word, "@")
				ports = append(ports, port)
			}
		}
	}
	return ports, nil
}
