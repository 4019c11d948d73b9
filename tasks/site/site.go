// Package site is site.conf: the settings of the place where a VM runs, which
// stand beside the image and not in it, so that one image serves many places.
//
//	s, err := site.Parse(text)                  // what it says
//	err := site.Launch{Kind: …}.Check(text)     // whether the launch names it
//
// The file comes from the host. Its digest is in what the launch of a
// confidential guest fixes and every attestation report repeats ([HostData],
// [MRConfigID]); the guest compares the two before it uses a word of the file.
// That shows which file is in force, to whoever reads the report; it does not
// show that it is the right one, and nothing in it may be what secrecy rests on
// (docs/site.md).
package site

import (
	"bytes"
	"crypto/sha256"
	"fmt"

	"cc-base/tasks/conf/literal"
	"cc-base/tasks/fault"
)

const (
	// FWCfg is the name under which QEMU hands the file to the guest.
	FWCfg = "opt/org.cc-base/site"
	// MaxSize bounds the file, in bytes.
	MaxSize = 16 << 10

	// maxWord bounds one value, in bytes.
	maxWord = 1024
	// name is the file in messages; the guest gets no path.
	name = "site.conf"
)

// Site is the settings. What is not set is empty.
type Site struct {
	Hostname    string   // a label: the guest's name in this place
	VerifierURL string   // https; where the guest sends its evidence
	Firewall    []Rule   // what may be connected to from outside
	FirewallOut []Rule   // what the guest may connect to, beside name service, time and https; From is where to
	OperatorKey string   // ed25519: and base64; who may give the running guest orders
	NTPServers  []string // names or addresses
}

// Parse reads the text of a site.conf: shell assignments that are read and never
// executed, one for each key at most. Its error has code fault.SiteInvalid and
// names everything that is wrong, by line and column.
func Parse(text []byte) (Site, error) {
	var s Site
	if len(text) == 0 || len(text) > MaxSize {
		return s, fault.Newf(fault.SiteInvalid, "%s has %d bytes, want 1 to %d", name, len(text), MaxSize)
	}
	assignments, problems := literal.Parse(name, text)
	names := make([]string, 0, len(keys()))
	byName := map[string]key{}
	for _, k := range keys() {
		names = append(names, k.name)
		byName[k.name] = k
	}
	seen := map[string]int{} // line
	for _, a := range assignments {
		bad := func(what, allowed, suggest string) {
			problems = append(problems, literal.Problem{File: name, Line: a.At.Line, Col: a.At.Col, Key: a.Key, What: what, Allowed: allowed, Suggest: suggest})
		}
		k, known := byName[a.Key]
		before, again := seen[a.Key]
		seen[a.Key] = a.At.Line
		switch {
		case !known:
			bad("there is no such key", "", literal.Nearest(a.Key, names))
		case again:
			bad(fmt.Sprintf("it is set twice, first in line %d", before), "once", "")
		case a.Array:
			bad("it is written in the wrong form", k.name+`="value"`, "")
		case len(a.Words[0].Text) > maxWord:
			bad(fmt.Sprintf("the value has %d bytes", len(a.Words[0].Text)), fmt.Sprintf("at most %d", maxWord), "")
		default:
			if err := k.set(&s, a.Words[0].Text); err != nil {
				bad(err.Error(), k.allowed, "")
			}
		}
	}
	if len(problems) > 0 {
		problems.Sort()
		return Site{}, fault.New(fault.SiteInvalid, problems)
	}
	return s, nil
}

// Text returns the settings in one canonical spelling, which [Parse] reads back:
// every key that is set, in the order of the documentation, KEY="value". No
// value holds a character that a shell or systemd's EnvironmentFile= would read
// otherwise.
func (s Site) Text() []byte {
	var b bytes.Buffer
	for _, k := range keys() {
		if value := k.get(s); value != "" {
			fmt.Fprintf(&b, "%s=%q\n", k.name, value)
		}
	}
	return b.Bytes()
}

// HostData is what the launch of an SEV-SNP guest carries for the file: SHA-256
// of its bytes, as sha256sum prints it.
func HostData(text []byte) [32]byte { return sha256.Sum256(text) }

// MRConfigID is what the launch of a TDX guest carries for the file: the same
// digest with zeros up to the register's 48 bytes, so that one number names a
// file everywhere.
func MRConfigID(text []byte) [48]byte {
	var id [48]byte
	sum := HostData(text)
	copy(id[:], sum[:])
	return id
}
