package main

// What green does not prove: see validation/receipt; the processor that vouches
// here is the SNP library's test signer.

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/validation"
	"cc-base/validation/check"
	"cc-base/validation/receipt"
)

func TestAcceptanceRowsNameChecksThatThereAre(t *testing.T) {
	t.Parallel()
	registry := (&app{}).registry(&validation.Env{Dir: t.TempDir()})
	for _, row := range receipt.AcceptanceRows() {
		for _, id := range row.Checks {
			if !slices.ContainsFunc(registry, func(c check.Check) bool { return c.ID == id }) {
				t.Errorf("%s: there is no check %s", row.Row, id)
			}
		}
	}
}

// Host and guest have checks of one name; every check of every place can be kept
// and believed all the same.
func TestEveryCheckCanHaveAReceipt(t *testing.T) {
	t.Parallel()
	registry := (&app{}).registry(&validation.Env{Dir: t.TempDir()})
	dir := t.TempDir()
	key, err := receipt.HostKey(filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	public := key.Public().(ed25519.PublicKey)
	receipts := filepath.Join(dir, "receipts")
	var all check.Report
	for _, c := range registry {
		all.Results = append(all.Results, check.Result{ID: c.ID, Title: c.Title, Tier: c.Tier, Where: c.Where[0], Verdict: check.Passed("it is")})
	}
	for _, where := range []check.Where{check.Artefact, check.Host, check.Guest, check.VM} {
		_, err := receipt.Write(t.Context(), receipts, key, receipt.Source{Where: where, Most: most(where), Time: time.Now(), Tool: "test", Results: resultsOf(where, registry, all)})
		if err != nil {
			t.Fatal(err)
		}
	}
	set, err := receipt.Verify(receipts, receipt.Options{
		Registry: registry, Now: time.Now(),
		Keys: receipt.Keys{receipt.Fingerprint(public): {Name: "host", Most: check.TierKVM, Key: public}},
	})
	if err != nil || len(set.Records) != len(registry) {
		t.Errorf("%d of %d, %v", len(set.Records), len(registry), err)
	}
}

func TestVerdictsAreKeptWhereTheyBelong(t *testing.T) {
	t.Parallel()
	checks := []check.Check{
		{ID: "a.files", Where: []check.Where{check.Host, check.Artefact}},
		{ID: "b.host", Where: []check.Where{check.Host}},
		{ID: "c.guest", Where: []check.Where{check.Guest}},
	}
	report := check.Report{Results: []check.Result{{ID: "a.files", Where: check.Host}, {ID: "b.host", Where: check.Host}, {ID: "c.guest", Where: check.Guest}}}
	for where, want := range map[check.Where]string{check.Artefact: "a.files", check.Host: "b.host", check.Guest: "c.guest"} {
		if got := resultsOf(where, checks, report); len(got) != 1 || got[0].ID != want {
			t.Errorf("%s: %+v", where, got)
		}
	}
	if most(check.Guest) != check.TierTCG || most(check.VM) != check.TierTCG {
		t.Error("a guest is believed to run on more than was seen")
	}
}

// The whole way of a receipt of tier silicon: a genuine report whose data is the
// record's hash, judged by an operator's policy.
func TestSiliconIsBelievedByEvidenceAlone(t *testing.T) {
	d := newDesk(t)
	c := newChip(t)
	registry := []check.Check{{ID: "guest.sealed", Title: "memory is sealed", Area: "guest", Where: []check.Where{check.Guest}, Tier: check.TierSilicon}}
	key, err := receipt.HostKey(d.path("state"))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.app.receiptKey(d.path("state")); err != nil {
		t.Fatal(err)
	}
	filetest.Write(t, d.path("trusted-keys"), []byte(d.out.String()))
	filetest.Write(t, d.path("manifest.json"), []byte("{}"))
	written := func(name string) string {
		dir := d.path(name)
		_, err := receipt.Write(t.Context(), dir, key, receipt.Source{
			Where: check.Guest, Most: check.TierSilicon, Manifest: []byte("{}"), Time: time.Now(), Tool: "test", Reporter: c,
			Results: []check.Result{{ID: "guest.sealed", Title: "memory is sealed", Tier: check.TierSilicon, Verdict: check.Passed("it is")}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	f := receiptsFlags{manifest: d.path("manifest.json"), keys: d.path("trusted-keys"), policy: d.path("policy.json")}
	o, err := f.options(registry)
	if err != nil {
		t.Fatal(err)
	}
	good := written("good")
	set, err := receipt.Verify(good, o)
	if err != nil || len(set.Records) != 1 || set.Records[0].Tier != check.TierSilicon {
		t.Fatalf("%+v, %v", set, err)
	}

	c.measurement = 0x55
	_, err = receipt.Verify(written("other machine"), o)
	faulttest.Want(t, err, fault.ReceiptEvidence, "guest.sealed.json", "measurement")

	// The evidence of one record under another one, all else genuine.
	c.measurement = 0x3E
	other := written("other record")
	file := func(dir string) string {
		found, err := filepath.Glob(filepath.Join(dir, "*", "guest.sealed.json"))
		if err != nil || len(found) != 1 {
			t.Fatalf("%v, %v", found, err)
		}
		return found[0]
	}
	evidenceOf := func(text []byte) []byte { return text[bytes.Index(text, []byte(`"evidence"`)):] }
	text := filetest.Read(t, file(other))
	mixed := slices.Concat(bytes.TrimSuffix(text, evidenceOf(text)), evidenceOf(filetest.Read(t, file(good))))
	filetest.Write(t, file(other), mixed)
	_, err = receipt.Verify(other, o)
	var p receipt.Problems
	if !errors.As(err, &p) || !slices.ContainsFunc(p, func(one receipt.Problem) bool {
		return one.Code == fault.ReceiptEvidence && strings.Contains(one.Text, "report data")
	}) {
		t.Errorf("another record's evidence: %v", err)
	}

	f.policy = ""
	if o, err = f.options(registry); err != nil {
		t.Fatal(err)
	}
	_, err = receipt.Verify(good, o)
	faulttest.Want(t, err, fault.ReceiptEvidence, "no policy")
}

func TestReceiptsUsage(t *testing.T) {
	d := newDesk(t)
	d.app.getenv = os.Getenv
	d.app.root = os.DirFS("/")
	manifest := filetest.Write(t, d.path("manifest.json"), []byte("{}"))
	for _, tc := range []struct {
		args []string
		word string
	}{
		{nil, "verify, report or key"},
		{[]string{"burn"}, `unknown command "burn"`},
		{[]string{"key", "x"}, "--state alone"},
		{[]string{"verify"}, "0 folders"},
		{[]string{"verify", d.dir, d.dir}, "--manifest is needed"},
		{[]string{"verify", d.dir, "--manifest", manifest}, "--keys is needed"},
		{[]string{"verify", d.dir, "--manifest", manifest, "--keys", manifest, "--place", "moon"}, "none of host"},
		{[]string{"verify", d.dir, "--manifest", manifest, "--keys", manifest, "--max-age", "-1h"}, "not above 0"},
		{[]string{"verify", d.dir, "--manifest", manifest, "--keys", manifest, "--out", "x"}, "out"},
		{[]string{"report", d.dir, "--manifest", d.path("none"), "--keys", d.path("nobody"), "--at", "today"}, "--at"},
	} {
		err := d.app.receipts(tc.args)
		faulttest.Want(t, err, fault.Usage, tc.word)
	}
	err := d.app.receipts([]string{"verify", d.dir, "--manifest", manifest, "--keys", manifest})
	faulttest.Want(t, err, fault.ReceiptKey, "manifest.json:1")
	if d.out.String() != "" {
		t.Errorf("results of nothing: %s", d.out)
	}
}
