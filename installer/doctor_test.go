package main

import (
	"encoding/json"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cc-base/installer/doctor"
	"cc-base/installer/installertest"
	"cc-base/tasks/deb"
	"cc-base/tasks/facts"
	"cc-base/tasks/facts/factstest"
	"cc-base/tasks/fault"
	"cc-base/tasks/filetest"
	"cc-base/tasks/sbom"
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

func TestTheDoctorJudgesFactsOfAnotherHost(t *testing.T) {
	t.Parallel()
	h := factstest.Xeon()
	h.Put("sys/module/kvm_intel/parameters/tdx", "N\n")
	a, out := inProcess(h.Tree, "", false)
	if err := a.doctor(t.Context(), h.World(), options{facts: true}); err != nil {
		t.Fatal(err)
	}
	file := filetest.Write(t, filepath.Join(t.TempDir(), "facts.json"), out.Bytes())
	here := factstest.EPYC()
	a, out = inProcess(here.Tree, "", false)
	err := a.doctor(t.Context(), here.World(), options{from: file})
	if fault.Exit(err) != fault.ExitFailed || !strings.Contains(out.String(), "kvm_intel.tdx=N") {
		t.Errorf("%v\n%s", err, out)
	}
	for _, text := range []string{"", "[]", `{"schema": 99}`} {
		file := filetest.Write(t, filepath.Join(t.TempDir(), "facts.json"), []byte(text))
		if err := a.doctor(t.Context(), here.World(), options{from: file}); fault.Exit(err) != fault.ExitUsage {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestTheDoctorKnowsTheImageBesideIt(t *testing.T) {
	t.Parallel()
	listed := func(name, version string) sbom.Package {
		return sbom.Package{Distribution: "debian", Package: deb.Package{Name: name, Version: version, Architecture: "amd64", SHA256: strings.Repeat("ab", 32)}}
	}
	bills, err := sbom.Bill{Name: "cc-base", Packages: []sbom.Package{
		listed("bash", "5.2"), listed("firmware-nvidia-gsp", "550.163.01-2"),
	}}.Documents()
	if err != nil {
		t.Fatal(err)
	}
	f, dir := installertest.New(), t.TempDir()
	f.Files[sbom.CycloneDXFile] = bills[sbom.CycloneDXFile]
	configs, err := filepath.Glob("../config/*.conf")
	if err != nil {
		t.Fatal(err)
	}
	size := regexp.MustCompile(`(?m)^TEE_MEMORY_SIZE=.*$`)
	for _, c := range configs {
		f.Files["config/"+filepath.Base(c)] = size.ReplaceAll(filetest.Read(t, c), []byte(`TEE_MEMORY_SIZE="900G"`))
	}
	if err := f.Write(dir); err != nil {
		t.Fatal(err)
	}
	h := factstest.EPYC()
	a, out := inProcess(h.Tree, "", false)
	err = a.doctor(t.Context(), h.World(), options{dir: dir})
	for _, want := range []string{"driver 550.163.01-2", "the image's command line has no swiotlb=", "the guest needs 902.0 GiB", "driver 550.163.01-2 is too old for NVIDIA H100 SXM5 80GB (key rotation)"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing (%v):\n%s", want, err, out)
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
