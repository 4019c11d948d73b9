package main

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"cc-base/tasks/fault"
	"cc-base/tasks/release/policy"
	"cc-base/tasks/site"
	"cc-base/tasks/tee/evidence"
	"cc-base/tasks/tee/evidence/verify"
)

// evidenceUsage is the part of the usage for verify-evidence.
const evidenceUsage = `  cc-install verify-evidence FILE --policy FILE (--nonce HEX [--identity FILE] | --report-data HEX)
                 [--site FILE] [--measurements FILE] [--at TIME] [--json]
                                               judge an SNP report or TDX quote, offline
`

// maxEvidence bounds each file but the policy, bytes.
const maxEvidence = 2 << 20

// evidenceVerdict is what verify-evidence --json writes.
type evidenceVerdict struct {
	File   string        `json:"file"`
	Kind   string        `json:"kind"`
	At     time.Time     `json:"at"`
	OK     bool          `json:"ok"`
	Claims verify.Claims `json:"claims"`
}

// evidenceFlags are the flags of verify-evidence.
type evidenceFlags struct {
	policy, reportData, nonce, identity, site, measurements, at string
	json                                                        bool
}

func parseEvidence(args []string) (file string, f evidenceFlags, err error) {
	set := flag.NewFlagSet("verify-evidence", flag.ContinueOnError)
	for name, into := range map[string]*string{
		"policy": &f.policy, "report-data": &f.reportData, "nonce": &f.nonce, "identity": &f.identity,
		"site": &f.site, "measurements": &f.measurements, "at": &f.at,
	} {
		set.StringVar(into, name, "", "")
	}
	set.BoolVar(&f.json, "json", false, "")
	files, err := parseFlags(set, args)
	switch {
	case err != nil:
		return "", f, err
	case len(files) != 1:
		return "", f, fmt.Errorf("%d files given, not one", len(files))
	case f.policy == "":
		return "", f, errors.New("--policy is needed: without it there is nothing to compare with")
	case f.nonce != "" && f.reportData != "":
		return "", f, errors.New("--nonce and --report-data are two answers to one question")
	case f.identity != "" && f.nonce == "":
		return "", f, errors.New("--identity belongs to --nonce")
	}
	return files[0], f, nil
}

// verifyEvidence judges a file of evidence by an operator's policy, the same
// that the key release uses. Exit status: 0 when every claim holds, 1 when one
// does not, 2 when something that was given cannot be read.
func (a *app) verifyEvidence(args []string) error {
	file, f, err := parseEvidence(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(a.out, evidenceUsage)
		return nil
	}
	if err != nil {
		return fault.Newf(fault.Usage, "verify-evidence: %w", err).Hint("cc-install help shows the usage")
	}
	p, err := policy.Read(f.policy)
	if err != nil {
		return err
	}
	data, err := readLimited(file)
	if err != nil {
		return err
	}
	answer, err := evidence.ParseAttestation(data)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	o, key, err := f.options(p.Verify, answer)
	if err != nil {
		return err
	}
	claims, err := verify.Evidence(answer.Evidence, o)
	if claims == nil {
		return err
	}
	if f.nonce != "" {
		claims = append(claims, identityClaim(claims, answer, key))
	}
	if f.measurements != "" {
		row, err := rowClaim(answer.Evidence, f.measurements)
		if err != nil {
			return err
		}
		claims = append(claims, row)
	}
	bad := claims.Err()
	if f.json {
		err = a.writeJSON(evidenceVerdict{file, answer.Kind, o.Now.UTC(), bad == nil, claims})
	} else {
		err = a.showClaims(claims)
	}
	if err != nil || bad == nil {
		return err
	}
	return told(fault.Damaged)
}

// options completes a policy's by the question that was asked. key is the
// identity key that the answer must be for; nil without a nonce.
func (f evidenceFlags) options(o verify.Options, answer evidence.Attestation) (_ verify.Options, key []byte, err error) {
	if o.Now = time.Now(); f.at != "" {
		if o.Now, err = time.Parse(time.RFC3339, f.at); err != nil {
			return o, nil, fault.Newf(fault.Usage, "--at: %q is no time such as 2026-01-31T00:00:00Z", f.at)
		}
	}
	if f.reportData != "" {
		if o.ReportData, err = hex.DecodeString(f.reportData); err != nil || len(o.ReportData) != evidence.DataSize {
			return o, nil, fault.Newf(fault.Usage, "--report-data: not %d hexadecimal digits", 2*evidence.DataSize)
		}
	}
	if f.nonce != "" {
		if key, err = f.identityKey(answer); err != nil {
			return o, nil, err
		}
		nonce, err := evidence.ParseNonce(f.nonce)
		if err != nil {
			return o, nil, fmt.Errorf("--nonce: %w", err)
		}
		want := evidence.ReportData(nonce, evidence.IdentityHash(key))
		o.ReportData = want[:]
	}
	if f.site == "" {
		return o, key, nil
	}
	text, err := readLimited(f.site)
	if err != nil {
		return o, nil, err
	}
	hostData, id := site.HostData(text), site.MRConfigID(text)
	if o.HostData != nil && !bytes.Equal(o.HostData, hostData[:]) || o.MRConfigID != nil && !bytes.Equal(o.MRConfigID, id[:]) {
		return o, nil, fault.Newf(fault.Usage, "the policy demands other site settings than those of %s", f.site)
	}
	o.HostData, o.MRConfigID = hostData[:], id[:]
	return o, key, nil
}

// identityKey returns the key that the guest must have: the one that was given,
// else the one that it calls its own.
func (f evidenceFlags) identityKey(answer evidence.Attestation) ([]byte, error) {
	if f.identity == "" {
		if answer.Identity == nil {
			return nil, fault.Newf(fault.Usage, "the evidence names no identity key, and --identity gives none")
		}
		return answer.Identity, nil
	}
	text, err := readLimited(f.identity)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, fault.Newf(fault.Usage, "%s is not a public key in PEM", f.identity)
	}
	if _, err := x509.ParsePKIXPublicKey(block.Bytes); err != nil {
		return nil, fault.Newf(fault.Usage, "%s: %w", f.identity, err)
	}
	return block.Bytes, nil
}

// identityClaim is the verdict about the guest's own key: it is vouched for if
// the report carries it.
func identityClaim(claims verify.Claims, answer evidence.Attestation, key []byte) verify.Claim {
	want := evidence.IdentityHash(key)
	got := want
	if answer.Identity != nil {
		got = evidence.IdentityHash(answer.Identity)
	}
	c := verify.Claim{Name: "identity", Value: hex.EncodeToString(got[:]), Want: hex.EncodeToString(want[:]), OK: true}
	switch carried, ok := claims.Get("report data"); {
	case got != want:
		c.OK, c.Reason = false, "the guest calls another key its own"
	case !ok || !carried.OK:
		c.OK, c.Reason = false, "the report does not vouch for it"
	}
	return c
}

// rowClaim is the verdict about the machine being one of the published ones.
func rowClaim(e evidence.Evidence, file string) (verify.Claim, error) {
	t, err := readTable(file)
	if err != nil {
		return verify.Claim{}, err
	}
	c := verify.Claim{Name: "table", Want: "a row of " + file}
	found, err := judge(e, t)
	switch {
	case err != nil:
		c.Reason = err.Error()
	case len(found.Matches) == 0:
		c.Reason = strings.Join(append([]string{"it is of no row"}, found.Advice...), "; ")
	default:
		c.OK, c.Value = true, strings.Join(found.Matches, "; ")
	}
	return c, nil
}

func (a *app) showClaims(claims verify.Claims) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	for _, c := range claims {
		verdict, detail := "ok", c.Value
		switch {
		case !c.OK:
			verdict, detail = "FAILED", c.Reason
			if c.Value != "" {
				detail += ": " + c.Value
			}
			if c.Want != "" {
				detail += ", wanted " + c.Want
			}
		case c.Reason != "":
			verdict, detail = "-", c.Reason
		}
		if c.Note != "" {
			detail += "; but " + c.Note
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", verdict, c.Name, detail)
	}
	return w.Flush()
}

// parseFlags reads flags and arguments in any order, as people type them.
func parseFlags(set *flag.FlagSet, args []string) (positional []string, err error) {
	set.SetOutput(io.Discard)
	for {
		if err := set.Parse(args); err != nil {
			return nil, err
		}
		if set.NArg() == 0 {
			return positional, nil
		}
		positional = append(positional, set.Arg(0))
		args = set.Args()[1:]
	}
}

// readLimited reads a file that the command line names.
func readLimited(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.New(fault.Usage, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxEvidence+1))
	if err == nil && len(data) > maxEvidence {
		err = fmt.Errorf("%s: longer than %d bytes", strings.ToValidUTF8(path, "?"), maxEvidence)
	}
	if err != nil {
		return nil, fault.New(fault.Usage, err)
	}
	return data, nil
}
