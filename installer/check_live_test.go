package main

// What green does not prove: that a guest's own verdicts are true. The boots of
// tasks/lab run these checks in a real one.

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cc-base/tasks/fault"
	"cc-base/tasks/measurements"
	"cc-base/validation/check"
	guestchecks "cc-base/validation/guest"
)

func TestOfAGuestsAnswerOnlyTheVerdictIsTaken(t *testing.T) {
	all := guestchecks.All(guestchecks.Env{})
	said := check.Report{Results: []check.Result{
		{ID: all[0].ID, Title: "another claim", Tier: check.TierSilicon, Verdict: check.Verdict{Status: check.Pass, Detail: "fine\x1b[2J\nok"}},
		{ID: all[1].ID, Verdict: check.Verdict{Status: "marvellous"}},
		{ID: "boot.invented", Verdict: check.Passed("x")},
	}}
	report := check.Run(t.Context(), check.Guest, answered(all[:3], said))
	if len(report.Results) != 3 {
		t.Fatalf("%d results for 3 checks", len(report.Results))
	}
	first := report.Results[0]
	if first.Status != check.Pass || first.Title != all[0].Title || first.Tier != all[0].Tier || first.Detail != "fine?[2J?ok" {
		t.Errorf("%+v", first)
	}
	for i, want := range map[int]string{1: `the verdict "marvellous"`, 2: "does not answer this"} {
		if r := report.Results[i]; r.Status != check.Error || !strings.Contains(r.Detail, want) {
			t.Errorf("%s: %s: %s", r.ID, r.Status, r.Detail)
		}
	}
}

// registers is a guest that answers with these.
type registers struct {
	values map[string]string
	err    error
}

func (r registers) Ask(_ context.Context, verb string, _, result any) error {
	if r.err != nil {
		return r.err
	}
	if verb != "pcrs" {
		return fmt.Errorf("asked for %q", verb)
	}
	*result.(*map[string]string) = r.values
	return nil
}

func TestTheRegistersAreThoseOfOneRow(t *testing.T) {
	sum := func(n int) string { return strings.Repeat(fmt.Sprintf("%02x", n), 32) }
	row := func(secureBoot string, four int) measurements.TPMRow {
		return measurements.TPMRow{BootMode: "disk", SecureBoot: secureBoot, Profile: "tpm", PCRs: []measurements.PCR{
			{PCR: 4, SHA256: sum(four)}, {PCR: 5, SHA256: sum(5)}, {PCR: 9, SHA256: sum(9)}, {PCR: 12, SHA256: sum(0)}, {PCR: 13, SHA256: sum(0)},
		}}
	}
	text, err := json.Marshal(measurements.Document{
		TPM: []measurements.TPMRow{row("absent", 4), row("on", 0x44)}, PCR11: []measurements.PCR11{{After: "uki", SHA256: sum(0x11)}, {After: "ready", SHA256: sum(0x12)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, data := range map[string][]byte{measurements.File: text, "SHA256SUMS": []byte(sum(1) + "  " + measurements.File + "\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	good := func() map[string]string {
		// 5 differs: the installed disk is larger.
		return map[string]string{"4": sum(0x44), "5": sum(0x55), "9": sum(9), "11": sum(0x12), "12": sum(0), "13": sum(0)}
	}
	changed := func(pcr string) map[string]string { m := good(); m[pcr] = sum(0xff); return m }
	for name, c := range map[string]struct {
		guest  registers
		status check.Status
		detail string
	}{
		"as built":           {registers{values: good()}, check.Pass, "Secure Boot on"},
		"another boot image": {registers{values: changed("4")}, check.Fail, "PCR 4 is ff"},
		"another line":       {registers{values: changed("9")}, check.Fail, "PCR 9 is ff"},
		"an added word":      {registers{values: changed("12")}, check.Fail, "PCR 12 is ff"},
		"another image":      {registers{values: changed("11")}, check.Fail, "of no phase"},
		"nothing":            {registers{values: map[string]string{}}, check.Fail, "PCR"},
		"no TPM":             {registers{err: fault.Newf(fault.GuestTPM, "none")}, check.Skip, "no TPM"},
		"no answer":          {registers{err: context.DeadlineExceeded}, check.Error, "deadline"},
	} {
		v := liveChecks(c.guest, options{dir: dir})[0].Func(t.Context())
		if v.Status != c.status || !strings.Contains(v.Detail, c.detail) {
			t.Errorf("%s: %s: %s", name, v.Status, v.Detail)
		}
	}
}

func TestADryRunAsksNobody(t *testing.T) {
	report := unasked(t.Context(), guestchecks.All(guestchecks.Env{})[:2], "cc-base")
	if report.Counts[check.Skip] != 2 || !strings.Contains(report.Results[0].Detail, "cc-base would be asked") {
		t.Errorf("%+v", report)
	}
}
