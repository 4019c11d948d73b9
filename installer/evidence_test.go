package main

// What green does not prove: see release_test.go; the quote is the library's
// public sample of 2023.

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"testing"

	tdxdata "github.com/google/go-tdx-guest/testing/testdata"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/tee/evidence"
)

func (d *desk) evidence(t *testing.T, c *chip, data [64]byte) evidence.Evidence {
	t.Helper()
	e, err := c.Report(t.Context(), data)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.path("evidence.json"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestVerifyEvidenceShowsEachClaim(t *testing.T) {
	d := newDesk(t)
	c := newChip(t)
	data := [64]byte{1, 2, 3}
	d.evidence(t, c, data)
	args := []string{d.path("evidence.json"), "--policy", d.path("policy.json"), "--report-data", hex.EncodeToString(data[:])}
	if err := d.app.verifyEvidence(args); err != nil {
		t.Fatalf("%v\n%s", err, d.out)
	}
	for _, row := range []string{"ok  chain", "ok  signature", "ok  debug", "ok  measurement", "ok  report data", "-   host data", "Milan"} {
		if !strings.Contains(d.out.String(), row) {
			t.Errorf("no %q in\n%s", row, d.out)
		}
	}
	if d.err.String() != "" {
		t.Errorf("standard error: %s", d.err)
	}

	c.measurement = 0x55
	d.evidence(t, c, data)
	d.out.b.Reset()
	err := d.app.verifyEvidence(append(args, "--json"))
	faulttest.Want(t, err, fault.Damaged)
	if fault.Exit(err) != fault.ExitFailed {
		t.Errorf("exit status %d", fault.Exit(err))
	}
	var v evidenceVerdict
	if err := json.Unmarshal([]byte(d.out.String()), &v); err != nil {
		t.Fatalf("%v: %s", err, d.out)
	}
	claim, ok := v.Claims.Get("measurement")
	if v.OK || v.Kind != evidence.SNP || !ok || claim.OK || claim.Value != strings.Repeat("55", 48) || claim.Want != strings.Repeat("3e", 48) {
		t.Errorf("%+v", v)
	}
}

func TestVerifyEvidenceRefusesWithoutSomethingToCompare(t *testing.T) {
	d := newDesk(t)
	d.evidence(t, newChip(t), [64]byte{1})
	args := []string{"--policy", d.path("policy.json"), d.path("evidence.json")}
	faulttest.Want(t, d.app.verifyEvidence(args), fault.Damaged)
	if !strings.Contains(d.out.String(), "FAILED  report data  no expected value is given") {
		t.Errorf("%s", d.out)
	}
	d.out.b.Reset()
	faulttest.Want(t, d.app.verifyEvidence(append(args, "--report-data", hex.EncodeToString(append([]byte{1}, make([]byte, 63)...)), "--at", "2080-01-01T00:00:00Z")), fault.Damaged)
	if !strings.Contains(d.out.String(), "FAILED  chain") {
		t.Errorf("%s", d.out)
	}
}

func TestVerifyEvidenceReadsABareQuote(t *testing.T) {
	d := newDesk(t)
	body := tdxdata.RawQuote[48:]
	hex48 := func(at int) string { return hex.EncodeToString(body[at : at+48]) }
	policy := `{"version": 1, "measurements": [{"kind": "tdx", "mrtd": "` + hex48(136) + `", "rtmr": ["` + hex48(328) + `", "` + hex48(376) + `", "` + hex48(424) + `"]}], "tdAttributes": ["0x40000000"]}`
	for name, data := range map[string][]byte{"quote": tdxdata.RawQuote, "tdx.json": []byte(policy)} {
		if err := os.WriteFile(d.path(name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{d.path("quote"), "--policy", d.path("tdx.json"), "--report-data", hex.EncodeToString(body[520:584]), "--at", "2023-07-01T00:00:00Z"}
	if err := d.app.verifyEvidence(args); err != nil {
		t.Errorf("%v\n%s", err, d.out)
	}
}

func TestVerifyEvidenceUsage(t *testing.T) {
	d := newDesk(t)
	d.evidence(t, newChip(t), [64]byte{})
	file, policy := d.path("evidence.json"), d.path("policy.json")
	for _, tc := range []struct {
		args []string
		word string
	}{
		{nil, "0 files"},
		{[]string{file}, "--policy is needed"},
		{[]string{file, file, "--policy", policy}, "2 files"},
		{[]string{d.path("none"), "--policy", policy}, "none"},
		{[]string{policy, "--policy", policy}, "evidence"},
		{[]string{file, "--policy", d.path("none")}, "none"},
		{[]string{file, "--policy", policy, "--at", "today"}, "--at"},
		{[]string{file, "--policy", policy, "--report-data", "00"}, "--report-data"},
		{[]string{file, "--policy", policy, "--key", "x"}, "key"},
		{[]string{file, "--policy", policy, "--nonce", "00"}, "names no identity key"},
		{[]string{file, "--policy", policy, "--nonce", "00", "--identity", d.identity(t)}, "1 bytes"},
		{[]string{file, "--policy", policy, "--nonce", "00", "--identity", policy}, "not a public key"},
		{[]string{file, "--policy", policy, "--nonce", "00", "--identity", d.path("none")}, "none"},
		{[]string{file, "--policy", policy, "--identity", policy}, "belongs to --nonce"},
		{[]string{file, "--policy", policy, "--nonce", "00", "--report-data", "00"}, "two answers"},
		{[]string{file, "--policy", policy, "--site", d.path("none")}, "none"},
		{[]string{file, "--policy", policy, "--measurements", d.path("none")}, "none"},
		{[]string{"/dev/zero", "--policy", policy}, "longer"},
	} {
		err := d.app.verifyEvidence(tc.args)
		faulttest.Want(t, err, fault.Usage, tc.word)
		if fault.Exit(err) != fault.ExitUsage {
			t.Errorf("exit status %d", fault.Exit(err))
		}
	}
	if d.out.String() != "" {
		t.Errorf("results of nothing: %s", d.out)
	}
	if err := d.app.verifyEvidence([]string{"-h"}); err != nil || !strings.Contains(d.out.String(), "verify-evidence") {
		t.Errorf("help: %v", err)
	}
}
