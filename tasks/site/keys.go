package site

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"cc-base/overlays/cc-guest/settings"
)

// key is one setting: parser, canonical text and documentation come from here.
type key struct {
	name    string
	meaning string
	allowed string
	set     func(s *Site, value string) error // value is the text; empty leaves it unset
	get     func(s Site) string
}

const (
	maxRules   = 64
	maxServers = 8
)

func keys() []key {
	return []key{
		{
			"HOSTNAME", "the guest's host name, in place of the image's",
			"1 to 63 of a-z 0-9 -, no - at either end",
			func(s *Site, v string) error { return word(&s.Hostname, v, hostname) },
			func(s Site) string { return s.Hostname },
		},
		{
			"VERIFIER_URL", "where the guest sends its evidence",
			"an https address without user name, query and fragment",
			func(s *Site, v string) error { return word(&s.VerifierURL, v, verifier) },
			func(s Site) string { return s.VerifierURL },
		},
		{
			"FIREWALL_ALLOW", "ports that may be connected to from outside",
			fmt.Sprintf("at most %d of tcp/PORT, udp/PORT, each also with @NETWORK such as tcp/443@192.0.2.0/24", maxRules),
			func(s *Site, v string) (err error) {
				s.Firewall, err = list(v, maxRules, parseRule)
				return err
			},
			func(s Site) string { return join(s.Firewall, Rule.String) },
		},
		{
			"FIREWALL_ALLOW_OUT", "ports that the guest may connect to, beside name service, time and https; a network is where to",
			fmt.Sprintf("at most %d of tcp/PORT, udp/PORT, each also with @NETWORK such as tcp/443@192.0.2.0/24", maxRules),
			func(s *Site, v string) (err error) {
				s.FirewallOut, err = list(v, maxRules, parseRule)
				return err
			},
			func(s Site) string { return join(s.FirewallOut, Rule.String) },
		},
		{
			"OPERATOR_KEY", "whose orders the running guest follows; keys are released by the holder of the image's OPERATOR_KEY alone",
			"ed25519: and 32 bytes in base64, as `cc-install release --new-key` prints it",
			func(s *Site, v string) error {
				return word(&s.OperatorKey, v, func(v string) error { _, err := settings.ParseOperatorKey(v); return err })
			},
			func(s Site) string { return s.OperatorKey },
		},
		{
			"NTP_SERVERS", "where the guest asks for the time",
			fmt.Sprintf("at most %d host names or IP addresses", maxServers),
			func(s *Site, v string) (err error) {
				s.NTPServers, err = list(v, maxServers, server)
				return err
			},
			func(s Site) string { return strings.Join(s.NTPServers, " ") },
		},
	}
}

// word sets a value that is one word and right.
func word(to *string, value string, check func(string) error) error {
	if value == "" {
		return nil
	}
	if err := check(value); err != nil {
		return err
	}
	*to = value
	return nil
}

// list reads words that are separated by single spaces, each there once.
func list[T any](value string, most int, parse func(string) (T, error)) ([]T, error) {
	if value == "" {
		return nil, nil
	}
	words := strings.Split(value, " ")
	if len(words) > most {
		return nil, fmt.Errorf("%d are more than %d", len(words), most)
	}
	var out []T
	for i, w := range words {
		if w == "" {
			return nil, errors.New("between two of them stands more than one space, or there is one at an end")
		}
		if slices.Contains(words[:i], w) {
			return nil, fmt.Errorf("%q is there twice", w)
		}
		one, err := parse(w)
		if err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	return out, nil
}

func join[T any](list []T, text func(T) string) string {
	words := make([]string, len(list))
	for i, one := range list {
		words[i] = text(one)
	}
	return strings.Join(words, " ")
}

var (
	label   = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	urlText = regexp.MustCompile(`^https://[A-Za-z0-9:/._~%\[\]-]+$`)
)

func hostname(v string) error {
	if !label.MatchString(v) {
		return fmt.Errorf("%q is not a host name", v)
	}
	return nil
}

func verifier(v string) error {
	u, err := url.Parse(v)
	// What has another form is not repeated: it may hold a password.
	if err != nil || u.Scheme != "https" || u.User != nil || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" || !urlText.MatchString(v) {
		return errors.New("the value is not such an address")
	}
	return nil
}

// server accepts a DNS name or an address.
func server(v string) (string, error) {
	if _, err := netip.ParseAddr(v); err == nil && !strings.Contains(v, "%") {
		return v, nil
	}
	for _, l := range strings.Split(v, ".") {
		if len(v) > 253 || !label.MatchString(l) {
			return "", fmt.Errorf("%q is neither a host name nor an address", v)
		}
	}
	return v, nil
}

// Rule permits connections to a port.
type Rule struct {
	Protocol string       // tcp or udp
	Port     uint16       // above 0
	From     netip.Prefix // where the other end is; the zero value is anywhere
}

// String returns the rule as it is written in the file.
func (r Rule) String() string {
	text := r.Protocol + "/" + strconv.Itoa(int(r.Port))
	if r.From.IsValid() {
		text += "@" + r.From.String()
	}
	return text
}

func parseRule(text string) (Rule, error) {
	what, from, bound := strings.Cut(text, "@")
	protocol, number, _ := strings.Cut(what, "/")
	port, err := strconv.ParseUint(number, 10, 16)
	if protocol != "tcp" && protocol != "udp" || err != nil || port == 0 || strconv.FormatUint(port, 10) != number {
		return Rule{}, fmt.Errorf("%q is not a port such as tcp/443", what)
	}
	r := Rule{Protocol: protocol, Port: uint16(port)}
	if !bound {
		return r, nil
	}
	r.From, err = netip.ParsePrefix(from)
	// One spelling of each network: 192.0.2.1/24 looks like a host.
	if err != nil || r.From.Masked() != r.From || r.From.String() != from || r.From.Addr().Is4In6() {
		return Rule{}, fmt.Errorf("%q is not a network such as 192.0.2.0/24", from)
	}
	return r, nil
}
