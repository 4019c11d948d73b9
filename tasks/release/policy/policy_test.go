package policy_test

// What green does not prove: whether an operator's policy is wise. Only that
// what it says is what is compared, and that it cannot say it by accident.

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/release/policy"
	"cc-base/tasks/tee/evidence"
	"cc-base/tasks/tee/evidence/verify"
)

var (
	digits = strings.Repeat("3e", 48)
	snp    = `{"version": 1, "measurements": [{"kind": "snp", "digest": "` + digits + `"}]`
)

func TestTheSmallestPolicyRefusesWhatItLeavesOut(t *testing.T) {
	t.Parallel()
	p, err := policy.Parse([]byte(snp+"}"), "p.json")
	if err != nil {
		t.Fatal(err)
	}
	if p.Enrol || p.Instances != nil || !p.Serves("any") || len(p.Verify.Measurements) != 1 || p.Verify.Measurements[0].Digest[47] != 0x3e {
		t.Errorf("%+v", p)
	}
	if p.Verify.ReportData != nil || !p.Verify.Now.IsZero() {
		t.Error("a policy speaks of one question")
	}
	_, err = verify.Evidence(evidence.Evidence{Kind: evidence.SNP, Report: []byte{1}}, p.Verify)
	faulttest.Want(t, err, fault.Usage, "no time")
}

func TestEverySettingArrives(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"amd.pem", "intel.pem", "vcek.der", "milan.crl"} {
		write(name, name)
	}
	for _, name := range []string{policy.TCBInfoName, policy.TCBInfoChainName, policy.QEIdentityName, policy.QEIdentityChainName, policy.PCKCRLName, policy.PCKCRLChainName, policy.RootCRLName} {
		write("pcs/"+name, name)
	}
	write("p.json", `{
  "version": 1,
  "measurements": [
    {"kind": "snp", "digest": "`+digits+`"},
    {"kind": "tdx", "mrtd": "`+digits+`", "rtmr": ["any", "`+digits+`", "`+digits+`"]},
    {"kind": "tdx", "mrtd": "`+digits+`", "rtmr": ["any", "any", "any", "`+digits+`"]}
  ],
  "products": ["Genoa", "50806f000000"],
  "tcb": {"snp": {"Genoa": {"bootloader": 9, "tee": 1, "snp": 21, "microcode": 72}}, "tdx": "03000400000000000000000000000000"},
  "debug": "never",
  "hostData": "`+digits[:64]+`", "mrConfigId": "`+digits+`",
  "tdAttributes": ["0x10000000", "1073741824"],
  "amdRoots": "amd.pem", "intelRoots": "`+filepath.Join(dir, "intel.pem")+`", "vceks": ["vcek.der"], "amdCRLs": ["milan.crl"], "collateral": "pcs",
  "maxCRLAge": "720h",
  "enrol": true,
  "instances": ["2c1f0f5e-0d1c-4b43-9a58-55a3a4f5f3e1"]
}
`)
	p, err := policy.Read(filepath.Join(dir, "p.json"))
	if err != nil {
		t.Fatal(err)
	}
	v := p.Verify
	got := fmt.Sprintf("%d %v %v %v %x %d %d %x %s %s %s %s %s %s %v %v %v",
		len(v.Measurements), v.Measurements[1].RTMR[0] == nil, v.Measurements[1].RTMR[3] == nil, v.Products, v.TDXMinTCB[:3], len(v.HostData), len(v.MRConfigID),
		v.TDXAttributes, v.AMDRoots, v.IntelRoots, v.VCEKs[0], v.AMDCRLs[0], v.Collateral.TCBInfoChain, v.Collateral.RootCRL, v.MaxCRLAge, p.Enrol, v.SNPMinTCB["Genoa"])
	want := "3 true true [Genoa 50806f000000] 030004 32 48 [10000000 40000000] amd.pem intel.pem vcek.der milan.crl tcbinfo-chain.pem rootcrl.der 720h0m0s true bootloader 9, tee 1, snp 21, microcode 72"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if v.Measurements[2].RTMR[3] == nil || !p.Serves("2c1f0f5e-0d1c-4b43-9a58-55a3a4f5f3e1") || p.Serves("9a3c0b52-7d5e-4a55-8c0e-0d5a41c7d1f2") {
		t.Errorf("%+v", p)
	}
	if v.MaxCRLAge != 30*24*time.Hour {
		t.Error(v.MaxCRLAge)
	}
}

func TestWrongPolicies(t *testing.T) {
	t.Parallel()
	tdx := func(rest string) string {
		return `{"version": 1, "measurements": [{"kind": "tdx", "mrtd": "` + digits + `"` + rest + `}]}`
	}
	for _, tc := range []struct{ name, text, words string }{
		{"an unknown key", snp + `,` + "\n  \"enroll\": true}", "p.json:2:11: unknown key \"enroll\""},
		{"a key in another case", snp + `, "Enrol": true}`, `unknown key "Enrol"`},
		{"an unknown key deep inside", `{"tcb": {"snp": {"Genoa": {"ucode": 1}}}}`, `p.json:1:35: unknown key "tcb.snp.Genoa.ucode"`},
		{"an unknown key in a list", `{"measurements": [{"kind": "snp", "sha": ""}]}`, `unknown key "measurements.sha"`},
		{"a key twice", `{"version": 1, "version": 1}`, "version stands there twice"},
		{"no JSON", "debug: never", "p.json:1:"},
		{"truncated", snp, "p.json:1:"},
		{"something behind", snp + "} {}", "something follows"},
		{"a list", "[]", "p.json:1:"},
		{"nothing", "", "ends in the middle"},
		{"null", "null", "version is 0"},
		{"a string for a truth value", snp + `, "enrol": "yes"}`, "enrol: a JSON string"},
		{"a number too great", snp + `, "tcb": {"snp": {"Milan": {"snp": 256}}}}`, "p.json:1:"},
		{"another version", strings.Replace(snp, "1", "2", 1) + "}", "version is 2"},
		{"no measurement", `{"version": 1, "measurements": []}`, "none is given"},
		{"no measurements", `{"version": 1}`, "none is given"},
		{"debugging", snp + `, "debug": "sometimes"}`, "keeps no secret"},
		{"the debug bit", snp + `, "tdAttributes": ["0x10000001"]}`, "allows debugging"},
		{"attributes that are none", snp + `, "tdAttributes": ["on"]}`, "no number"},
		{"an unknown kind", strings.Replace(snp, "snp", "sev", 1) + "}", `"sev" is neither`},
		{"the kind of tests", strings.Replace(snp, "snp", "fake", 1) + "}", `"fake" is neither`},
		{"a short digest", strings.Replace(snp, digits, digits[2:], 1) + "}", "94 hexadecimal digits, not 96"},
		{"upper case", strings.Replace(snp, digits, strings.ToUpper(digits), 1) + "}", "lower-case"},
		{"base64", strings.Replace(snp, digits, "Pj4+", 1) + "}", "lower-case"},
		{"a field of the other kind", strings.Replace(snp, `"digest"`, `"mrtd": "x", "digest"`, 1) + "}", "other kind"},
		{"no RTMR", tdx(""), "0 values"},
		{"two RTMRs", tdx(`, "rtmr": ["any", "any"]`), "2 values"},
		{"five RTMRs", tdx(`, "rtmr": ["any", "any", "any", "any", "any"]`), "5 values"},
		{"an empty RTMR", tdx(`, "rtmr": ["any", "any", ""]`), "rtmr[2]"},
		{"an unknown product", snp + `, "products": ["Rome"]}`, `"Rome"`},
		{"no product", snp + `, "products": []}`, "allows nobody"},
		{"a minimum for an unknown product", snp + `, "tcb": {"snp": {"genoa": {}}}}`, `"genoa"`},
		{"a short TCB", snp + `, "tcb": {"tdx": "03"}}`, "tcb.tdx"},
		{"no instance", snp + `, "instances": []}`, "allows nobody"},
		{"an instance that is none", snp + `, "instances": ["../x"]}`, "UUID"},
		{"an instance in upper case", snp + `, "instances": ["2C1F0F5E-0D1C-4B43-9A58-55A3A4F5F3E1"]}`, "UUID"},
		{"a file that is missing", snp + `, "amdRoots": "missing.pem"}`, "amdRoots"},
		{"a folder for a file", snp + `, "intelRoots": "."}`, "not a regular file"},
		{"a file of a list that is missing", snp + `, "vceks": ["missing.pem"]}`, "vceks[0]"},
		{"collateral that is missing", snp + `, "collateral": "missing"}`, policy.RootCRLName},
		{"an age without a unit", snp + `, "maxCRLAge": "30"}`, "maxCRLAge"},
		{"a negative age", snp + `, "maxCRLAge": "-1h"}`, "maxCRLAge"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := policy.Parse([]byte(tc.text), "p.json")
			faulttest.Want(t, err, fault.Usage, "policy: p.json", tc.words)
		})
	}
	_, err := policy.Read(filepath.Join(t.TempDir(), "none.json"))
	faulttest.Want(t, err, fault.Usage, "none.json")
}

func TestEveryErrorIsNamedAtOnce(t *testing.T) {
	t.Parallel()
	_, err := policy.Parse([]byte(`{"version": 3, "measurements": [], "products": ["x"], "instances": []}`), "p.json")
	faulttest.Want(t, err, fault.Usage, "version", "measurements", "products", "instances")
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(snp + "}"))
	f.Add([]byte(`{"version": 1, "measurements": [{"kind": "tdx", "mrtd": "", "rtmr": ["any"]}], "instances": null}`))
	f.Add([]byte(`{"tcb": {"snp": {"Genoa": null}}, "vceks": [[{}]]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := policy.Parse(text, filepath.Join(os.DevNull, "p.json")) // names no folder, so nothing is read
		if err == nil && len(p.Verify.Measurements) == 0 {
			t.Errorf("a policy without measurements: %s", text)
		}
	})
}
