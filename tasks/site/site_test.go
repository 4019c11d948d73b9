package site

// What green does not prove: launches here are numbers of the test. That a
// processor reports what the host launched with is AMD's and Intel's promise,
// and that something in the guest follows the settings is not this package's
// matter.

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/lab"
)

const full = `# a comment
HOSTNAME="node-7"
VERIFIER_URL="https://verifier.example.org:8443/v1"
FIREWALL_ALLOW="tcp/443 udp/51820@192.0.2.0/24 tcp/22@2001:db8::/32"
FIREWALL_ALLOW_OUT="tcp/5432@198.51.100.0/24"
OPERATOR_KEY='ed25519:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY='
NTP_SERVERS="ntp.example.org 192.0.2.1 2001:db8::1"
`

func compare(t *testing.T, want, got Site) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	got, err := Parse([]byte(full))
	if err != nil {
		t.Fatal(err)
	}
	want := Site{
		Hostname: "node-7", VerifierURL: "https://verifier.example.org:8443/v1",
		Firewall:    []Rule{{"tcp", 443, netip.Prefix{}}, {"udp", 51820, netip.MustParsePrefix("192.0.2.0/24")}, {"tcp", 22, netip.MustParsePrefix("2001:db8::/32")}},
		FirewallOut: []Rule{{"tcp", 5432, netip.MustParsePrefix("198.51.100.0/24")}},
		OperatorKey: "ed25519:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
		NTPServers:  []string{"ntp.example.org", "192.0.2.1", "2001:db8::1"},
	}
	compare(t, want, got)
	const canonical = `HOSTNAME="node-7"
VERIFIER_URL="https://verifier.example.org:8443/v1"
FIREWALL_ALLOW="tcp/443 udp/51820@192.0.2.0/24 tcp/22@2001:db8::/32"
FIREWALL_ALLOW_OUT="tcp/5432@198.51.100.0/24"
OPERATOR_KEY="ed25519:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
NTP_SERVERS="ntp.example.org 192.0.2.1 2001:db8::1"
`
	if diff := cmp.Diff(canonical, string(got.Text())); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	for _, text := range []string{"# nothing is set\n", "HOSTNAME=\n", `NTP_SERVERS=""` + "\n"} {
		if s, err := Parse([]byte(text)); err != nil || len(s.Text()) > 0 {
			t.Errorf("%q: %+v, %v", text, s, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	many := func(n int, word string) string {
		var words []string
		for i := range n {
			words = append(words, fmt.Sprintf(word, i+1))
		}
		return strings.Join(words, " ")
	}
	for text, want := range map[string]string{
		"":                             "0 bytes",
		strings.Repeat("#", MaxSize+1): "16385 bytes, want 1 to 16384",
		"HOSTNAME=a\nHOSTNAME=b\n":     "site.conf:2:1: HOSTNAME: it is set twice, first in line 1",
		"HOSTNAM=a\n":                  "did you mean HOSTNAME",
		"hostname=a\n":                 "there is no such key",
		"NTP_SERVERS=( a b )\n":        `allowed: NTP_SERVERS="value"`,
		"HOSTNAME=$(id)\n":             "command substitution",
		"HOSTNAME=\"$X\"\n":            "expansion",
		"reboot\n":                     "command",
		"export HOSTNAME=a\n":          "not allowed",
		"HOSTNAME=a\x00b\n":            "0x00",
		"HOSTNAME=\"a\r\n":             "carriage return",
		"HOSTNAME=Node\n":              `"Node" is not a host name`,
		"HOSTNAME=-a\n":                "not a host name",
		"HOSTNAME=a.b\n":               "not a host name",
		"HOSTNAME=" + many(1, strings.Repeat("a", 64)+"%d"):   "not a host name",
		"VERIFIER_URL=http://a/\n":                            "https",
		"VERIFIER_URL=https://\n":                             "not such an address",
		"VERIFIER_URL=https://u:secret@a/\n":                  "not such an address",
		"VERIFIER_URL='https://a/?q=1'\n":                     "not such an address",
		"VERIFIER_URL='https://a/#f'\n":                       "not such an address",
		"VERIFIER_URL='https://a/$x'\n":                       "not such an address",
		"VERIFIER_URL='https://a/ b'\n":                       "not such an address",
		"VERIFIER_URL=https://a/" + strings.Repeat("a", 1024): "at most 1024",
		"FIREWALL_ALLOW=443\n":                                `"443" is not a port`,
		"FIREWALL_ALLOW=tcp/0\n":                              "not a port",
		"FIREWALL_ALLOW=tcp/65536\n":                          "not a port",
		"FIREWALL_ALLOW=tcp/0443\n":                           "not a port",
		"FIREWALL_ALLOW=tcp/+443\n":                           "not a port",
		"FIREWALL_ALLOW=sctp/1\n":                             "not a port",
		"FIREWALL_ALLOW=tcp/1@\n":                             "not a network",
		"FIREWALL_ALLOW=tcp/1@192.0.2.1\n":                    "not a network",
		"FIREWALL_ALLOW=tcp/1@192.0.2.1/24\n":                 "not a network",
		"FIREWALL_ALLOW=tcp/1@2001:DB8::/32\n":                "not a network",
		"FIREWALL_ALLOW=tcp/1@::ffff:192.0.2.0/120\n":         "not a network",
		"FIREWALL_ALLOW='tcp/1 tcp/1'\n":                      "is there twice",
		"FIREWALL_ALLOW='tcp/1  tcp/2'\n":                     "more than one space",
		"FIREWALL_ALLOW=' tcp/1'\n":                           "more than one space",
		"FIREWALL_ALLOW='" + many(65, "tcp/%d") + "'\n":       "65 are more than 64",
		"OPERATOR_KEY=ed25519:AAAA\n":                         "has 3 bytes",
		"NTP_SERVERS=a_b\n":                                   "neither a host name nor an address",
		"NTP_SERVERS=fe80::1%eth0\n":                          "neither a host name nor an address",
		"NTP_SERVERS=a..b\n":                                  "neither a host name nor an address",
		"NTP_SERVERS=" + strings.Repeat("a.", 127) + "a\n":    "neither a host name nor an address",
		"NTP_SERVERS='" + many(9, "n%d") + "'\n":              "9 are more than 8",
	} {
		s, err := Parse([]byte(text))
		if err == nil {
			t.Errorf("%.60q was accepted: %+v", text, s)
			continue
		}
		faulttest.Want(t, err, fault.SiteInvalid, want)
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("%v repeats a password", err)
		}
		compare(t, Site{}, s)
	}
	_, err := Parse([]byte("NTP_SERVERS=a_b\nHOSTNAME=A\nX=1\n"))
	faulttest.Want(t, err, fault.SiteInvalid, "site.conf:1:1: NTP_SERVERS", "\nsite.conf:2:1: HOSTNAME", "\nsite.conf:3:1: X")
}

func TestAFileIsHeldAgainstTheLaunch(t *testing.T) {
	t.Parallel()
	text := []byte(full)
	sum := sha256.Sum256(text)
	if HostData(text) != sum {
		t.Error("host data is not the SHA-256 of the bytes")
	}
	id := MRConfigID(text)
	if !bytes.Equal(id[:32], sum[:]) || !bytes.Equal(id[32:], make([]byte, 16)) {
		t.Errorf("MRCONFIGID is not the digest and zeros: %x", id)
	}
	other := sha256.Sum256(append([]byte(full), '\n'))
	tail := id
	tail[47] = 1
	for _, tc := range []struct {
		name   string
		launch Launch
		text   []byte
		want   string // of the refusal; empty for none
	}{
		{"a plain machine", Launch{}, text, ""},
		{"a plain machine without", Launch{}, nil, ""},
		{"SNP", Launch{SNP, sum[:]}, text, ""},
		{"TDX", Launch{TDX, id[:]}, text, ""},
		{"SNP with neither", Launch{SNP, make([]byte, 32)}, nil, ""},
		{"TDX with neither", Launch{TDX, make([]byte, 48)}, nil, ""},
		{"SNP with another one", Launch{SNP, other[:]}, text, "host data is " + hex.EncodeToString(other[:])},
		{"TDX with another one", Launch{TDX, append(other[:], make([]byte, 16)...)}, text, "MRCONFIGID is " + hex.EncodeToString(other[:])},
		{"TDX with something behind it", Launch{TDX, tail[:]}, text, "MRCONFIGID is " + hex.EncodeToString(tail[:])},
		{"SNP named, none given", Launch{SNP, sum[:]}, nil, "but there is none"},
		{"TDX named, none given", Launch{TDX, id[:]}, nil, "but there is none"},
		{"SNP given, none named", Launch{SNP, make([]byte, 32)}, text, "names none"},
		{"TDX given, none named", Launch{TDX, make([]byte, 48)}, text, "names none"},
		{"an empty file is a file", Launch{SNP, make([]byte, 32)}, []byte{}, "names none"},
		{"too short", Launch{SNP, sum[:31]}, text, "31 bytes"},
		{"SNP's in TDX", Launch{TDX, sum[:]}, text, "32 bytes"},
		{"no data", Launch{SNP, nil}, nil, "0 bytes"},
		{"another kind", Launch{"CCA", sum[:]}, text, "kind"},
	} {
		err := tc.launch.Check(tc.text)
		if tc.want == "" {
			if err != nil {
				t.Errorf("%s: %v", tc.name, err)
			}
			continue
		}
		if err == nil {
			t.Errorf("%s: accepted", tc.name)
			continue
		}
		faulttest.Want(t, err, fault.SiteOther, tc.want)
	}
	if got := (Launch{}).Say(text); !strings.Contains(got, hex.EncodeToString(sum[:])) || !strings.Contains(got, "nothing to hold it against") {
		t.Error(got)
	}
	if got := (Launch{SNP, sum[:]}).Say(text); !strings.HasSuffix(got, "the launch names it (SEV-SNP)") {
		t.Error(got)
	}
}

// An accepted file reads the same in its canonical spelling, a shell reads that
// as we do, and what a shell would act on is in none of the values.
func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte("HOSTNAME=a;NTP_SERVERS='a b'#c"))
	f.Add([]byte("A=(\n"))
	f.Add([]byte("FIREWALL_ALLOW=\"tcp/1@::/0\""))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse(data)
		if err != nil {
			if fault.Of(err) == nil {
				t.Errorf("no code: %v", err)
			}
			return
		}
		text := s.Text()
		if bytes.ContainsAny(text, "$`\\!*?;&|<>(){}") {
			t.Errorf("%q", text)
		}
		if len(text) == 0 {
			return
		}
		again, err := Parse(text)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		compare(t, s, again)
	})
}

// A shell is asked, because consumers in the guest may source the file.
func TestAShellReadsTheCanonicalTextAsWeDo(t *testing.T) {
	t.Parallel()
	s, err := Parse([]byte(full))
	if err != nil {
		t.Fatal(err)
	}
	file := filetest.Write(t, filepath.Join(t.TempDir(), "site.conf"), s.Text())
	for _, k := range keys() {
		out, err := exec.Command("sh", "-euc", `. "$1"; eval "printf %s \"\$$2\""`, "sh", file, k.name).CombinedOutput()
		if err != nil || string(out) != k.get(s) {
			t.Errorf("%s: a shell reads %q, %v", k.name, out, err)
		}
	}
}

// The page has every key as the table has it, its example parses, and its
// command gives the number that it promises.
func TestThePageSaysWhatTheCodeDoes(t *testing.T) {
	t.Parallel()
	page := string(filetest.Read(t, "../../docs/site.md"))
	for _, k := range keys() {
		row := fmt.Sprintf("| `%s` | %s | %s |", k.name, k.meaning, k.allowed)
		if !strings.Contains(page, row) {
			t.Errorf("docs/site.md lacks the line\n%s", row)
		}
	}
	for _, limit := range []string{"16 KiB", FWCfg, string(fault.SiteOther), string(fault.SiteInvalid)} {
		if !strings.Contains(page, limit) {
			t.Errorf("docs/site.md does not say %s", limit)
		}
	}
	_, rest, _ := strings.Cut(page, "```conf\n")
	example, _, found := strings.Cut(rest, "```")
	if s, err := Parse([]byte(example)); !found || err != nil || s.Hostname == "" {
		t.Errorf("the example: %+v, %v", s, err)
	}
	_, rest, _ = strings.Cut(page, "```sh\n")
	commands, _, found := strings.Cut(rest, "```")
	if !found || strings.TrimSpace(commands) != "sha256sum site.conf" {
		t.Fatalf("the page has the commands %q", commands)
	}
	if _, err := exec.LookPath("sha256sum"); err != nil {
		lab.Absent(t, "no sha256sum here")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "site.conf"), []byte(example), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-ec", commands)
	cmd.Dir = dir
	out, err := cmd.Output()
	if sum := HostData([]byte(example)); err != nil || !strings.HasPrefix(string(out), hex.EncodeToString(sum[:])+" ") {
		t.Errorf("%s gives %s, %v", commands, out, err)
	}
}
