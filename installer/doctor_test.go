package main

import (
	"encoding/json"
	"strings"
	"testing"

	"cc-base/installer/doctor"
	"cc-base/tasks/facts"
	"cc-base/tasks/facts/factstest"
	"cc-base/tasks/fault"
)

// What green does not prove: the doctor is given hosts that were made by hand.
// On this machine only its outer form is tested, in testdata/doctor.txtar.

func TestDoctorsExitStatusIsThatOfTheWorstFinding(t *testing.T) {
	t.Parallel()
	off := factstest.EPYC()
	off.Modes = map[string]string{factstest.GPU0: "off", factstest.GPU1: "off"}
	without := factstest.EPYC()
	without.Remove("dev/kvm")
	small := factstest.EPYC()
	small.Put("proc/meminfo", "MemTotal: 4000000 kB\n")
	for _, test := range []struct {
		name string
		host factstest.Host
		opt  options
		want int
	}{
		{"in good order", factstest.EPYC(), options{}, 0},
		{"CC mode off", off, options{}, fault.ExitFailed},
		{"CC mode off, where a plain guest will do", off, options{allowPlain: true}, 0},
		{"no /dev/kvm", without, options{allowPlain: true}, fault.ExitUnsupported},
		{"little memory", small, options{}, fault.ExitFailed},
		{"little memory, accepted", small, options{allowSmall: true}, 0},
		{"facts of a host that fails", without, options{facts: true}, 0},
		{"two formats", factstest.EPYC(), options{facts: true, json: true}, fault.ExitUsage},
	} {
		a, out := inProcess(test.host.Tree, "", false)
		err := a.doctor(t.Context(), test.host.World(), test.opt)
		if fault.Exit(err) != test.want {
			t.Errorf("%s: exit status %d (%v), want %d\n%s", test.name, fault.Exit(err), err, test.want, out)
		}
	}
}

func TestDoctorsFormats(t *testing.T) {
	t.Parallel()
	h := factstest.EPYC()
	a, out := inProcess(h.Tree, "", false)
	if err := a.doctor(t.Context(), h.World(), options{json: true}); err != nil {
		t.Fatal(err)
	}
	var report doctor.Report
	if err := json.Unmarshal(out.Bytes(), &report); err != nil || len(report.GPUs) != 2 || len(report.Findings) < 30 {
		t.Errorf("%v: %+v", err, report)
	}
	a, out = inProcess(h.Tree, "", false)
	if err := a.doctor(t.Context(), h.World(), options{facts: true}); err != nil {
		t.Fatal(err)
	}
	var f facts.Facts
	if err := json.Unmarshal(out.Bytes(), &f); err != nil || f.TEE.Kind != "sev-snp" || f.NVIDIA[0].Mode.Mode != "on" {
		t.Errorf("%v: %+v", err, f)
	}
	a, out = inProcess(h.Tree, "", false)
	if err := a.doctor(t.Context(), h.World(), options{}); err != nil || !strings.Contains(out.String(), "gpu 0  "+factstest.GPU0+"  NVIDIA H100 SXM5 80GB [10de:2330]") {
		t.Errorf("%v:\n%s", err, out)
	}
}
