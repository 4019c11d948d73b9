package main

// Green here means: fields are taken from their places in reports and quotes, a
// digest is found in the table or computed from real firmware, and what differs
// is named. No report here comes from the machine that the table speaks of.

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	tdxabi "github.com/google/go-tdx-guest/abi"
	tdxpb "github.com/google/go-tdx-guest/proto/tdx"
	"github.com/google/go-tdx-guest/testing/testdata"

	"cc-base/installer/installertest"
	"cc-base/tasks/boot"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/lab"
	"cc-base/tasks/measurements"
	"cc-base/tasks/tee/evidence"
	"cc-base/tasks/tee/ovmf/ovmftest"
	"cc-base/tasks/tee/snp"
)

func gunzip(t *testing.T, file string) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(filetest.Read(t, file)))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// snpReport makes a report of version 2 with the digest.
func snpReport(digest []byte) []byte {
	r := make([]byte, 1184)
	le := binary.LittleEndian
	le.PutUint32(r, 2)
	le.PutUint64(r[8:], 0x30000)
	le.PutUint32(r[0x34:], 1) // ECDSA P-384
	r[0x50], r[0xc0] = 0xd1, 0xd2
	copy(r[0x90:], digest)
	return r
}

func digestOf(c byte) string { return strings.Repeat(fmt.Sprintf("%02x", c), 48) }

func unhex(t *testing.T, digits string) []byte {
	t.Helper()
	b, err := hex.DecodeString(digits)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func rows() published {
	const amd, intel = measurements.SNPFirmware, measurements.TDXFirmware
	sum := strings.Repeat("00", 32)
	return published{Document: measurements.Document{
		Schema: measurements.Schema, Name: "cc-base", Program: sum, UKI: sum, Kernel: sum, Initrd: sum, Disk: measurements.Disk{PartitionTable: sum},
		SNP: []measurements.SNPRow{
			{Firmware: amd, VCPUs: 4, CPUModel: "EPYC-Milan", GuestFeatures: 1, BootMode: "direct", Profile: "snp", Digest: digestOf(1)},
			{Firmware: amd, VCPUs: 8, CPUModel: "EPYC-Milan", GuestFeatures: 0x21, BootMode: "direct", Profile: "snp", Digest: digestOf(2)},
		},
		TDX: []measurements.TDXRow{
			{Firmware: intel, BootMode: "direct", Profile: "attested", MRTD: digestOf(0x10), RTMR1: digestOf(0x11), RTMR2: digestOf(0x12)},
			{Firmware: intel, BootMode: "disk", Profile: "attested", MRTD: digestOf(0x10), RTMR1: digestOf(0x21), RTMR2: digestOf(0x22)},
			{Firmware: intel, BootMode: "disk", SecureBoot: true, Profile: "attested", MRTD: digestOf(0x10), RTMR1: digestOf(0x31), RTMR2: digestOf(0x32)},
		},
	}}
}

// writeTable writes measurements.json.
func writeTable(t *testing.T, dir string, p published) string {
	t.Helper()
	b, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return filetest.Write(t, filepath.Join(dir, "measurements.json"), b)
}

// tdxQuote makes a quote with the registers; the rest is a real one's.
func tdxQuote(version uint16, registers ...string) []byte {
	q := bytes.Clone(testdata.RawQuote)
	if version == 5 {
		q = slices.Insert(q, 48, 2, 0, 0x48, 2, 0, 0)
		binary.LittleEndian.PutUint16(q, 5)
	}
	body := q[48:]
	if version == 5 {
		body = body[6:]
	}
	for i, at := range []int{136, 376, 424} {
		if i < len(registers) {
			b, _ := hex.DecodeString(registers[i])
			copy(body[at:], b)
		}
	}
	return q
}

func TestCompareNamesTheRow(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	table := writeTable(t, dir, rows())
	for name, test := range map[string]struct {
		report []byte
		want   string // row, or what is said instead
		ok     bool
	}{
		"SNP, known":              {snpReport(unhex(t, digestOf(2))), "direct boot in key profile snp, firmware/OVMF.amdsev.fd, 8 virtual processors, EPYC-Milan, guest features 0x21", true},
		"SNP, unknown":            {snpReport(unhex(t, digestOf(3))), "another number of virtual processors", false},
		"TDX, known":              {tdxQuote(4, digestOf(0x10), digestOf(0x11), digestOf(0x12)), "row 1, direct boot", true},
		"TDX, version 5":          {tdxQuote(5, digestOf(0x10), digestOf(0x31), digestOf(0x32)), "row 3, disk boot with Secure Boot in key profile attested", true},
		"TDX, other firmware":     {tdxQuote(4, digestOf(0x40), digestOf(0x11), digestOf(0x12)), "mrtd: another build of the firmware", false},
		"TDX, other image":        {tdxQuote(4, digestOf(0x10), digestOf(0x41), digestOf(0x12)), "rtmr1: another boot image", false},
		"TDX, other command line": {tdxQuote(4, digestOf(0x10), digestOf(0x11), digestOf(0x42)), "rtmr2: another command line", false},
		"TDX, mixed rows":         {tdxQuote(4, digestOf(0x10), digestOf(0x21), digestOf(0x32)), "not all of them in one row", false},
		"TDX, none of it":         {tdxQuote(4), "mrtd: another build", false},
	} {
		file := filetest.Write(t, filepath.Join(dir, "report"), test.report)
		a, out := program()
		err := a.compare(t.Context(), []string{"--report", file, "--measurements", table})
		if (err == nil) != test.ok || err != nil && !errors.Is(err, errSilent) {
			t.Errorf("%s: %v", name, err)
		}
		if !strings.Contains(out.String(), test.want) {
			t.Errorf("%s: it does not say %q:\n%s", name, test.want, out)
		}
		if !strings.Contains(out.String(), "signature was not checked") {
			t.Errorf("%s: it hides that the signature was not checked", name)
		}
	}
}

func TestCompareAsJSON(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	raw, err := json.Marshal(evidence.Evidence{Kind: evidence.SNP, Report: snpReport(unhex(t, digestOf(1)))})
	if err != nil {
		t.Fatal(err)
	}
	a, out := program()
	err = a.compare(t.Context(), []string{"--report", filetest.Write(t, filepath.Join(dir, "report.json"), raw), "--measurements", writeTable(t, dir, rows()), "--json"})
	if err != nil {
		t.Fatal(err)
	}
	var c comparison
	if err := json.Unmarshal(out.Bytes(), &c); err != nil {
		t.Fatal(err)
	}
	if c.Kind != "snp" || len(c.Matches) != 1 || c.Claims[0].Name != "measurement" || c.Claims[0].Value != digestOf(1) || len(c.Advice) != 0 {
		t.Errorf("%+v", c)
	}
	for name, want := range map[string]string{"policy": "0x30000", "host data": "d2" + strings.Repeat("00", 31), "report data": "d1" + strings.Repeat("00", 63)} {
		if !slices.ContainsFunc(c.Claims, func(m claim) bool { return m.Name == name && m.Value == want }) {
			t.Errorf("no %s %s", name, want)
		}
	}
}

// go-tdx-guest reads the same fields of the same real quote.
func TestQuoteFieldsAreWhereGoTDXGuestFindsThem(t *testing.T) {
	t.Parallel()
	parsed, err := tdxabi.QuoteToProto(testdata.RawQuote)
	if err != nil {
		t.Fatal(err)
	}
	body := parsed.(*tdxpb.QuoteV4).GetTdQuoteBody()
	claims, err := tdxClaims(testdata.RawQuote)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"mrtd": hex.EncodeToString(body.GetMrTd()), "mrconfigid": hex.EncodeToString(body.GetMrConfigId()),
		"report data": hex.EncodeToString(body.GetReportData()), "tee tcb svn": hex.EncodeToString(body.GetTeeTcbSvn()),
		"attributes": fmt.Sprintf("%#x", binary.LittleEndian.Uint64(body.GetTdAttributes())),
	}
	for i, r := range body.GetRtmrs() {
		want[fmt.Sprintf("rtmr%d", i)] = hex.EncodeToString(r)
	}
	for _, c := range claims {
		if want[c.Name] != c.Value {
			t.Errorf("%s: %s, want %s", c.Name, c.Value, want[c.Name])
		}
		delete(want, c.Name)
	}
	if len(want) != 0 {
		t.Errorf("missing: %v", want)
	}
}

func TestNeighboursAreComputedFromTheFirmware(t *testing.T) {
	t.Parallel()
	tools, dir := lab.Tools(t)
	firmware := filepath.Join(tools.Dir, "usr/share/ovmf/OVMF.fd")
	image := filetest.Read(t, firmware)
	for _, want := range []snp.Options{
		{VCPUs: 1, Model: "EPYC", Features: 1}, {VCPUs: 300, Model: "EPYC-Genoa", Features: 0x21},
	} {
		d, err := snp.Launch(image, want)
		if err != nil {
			t.Fatal(err)
		}
		report := filetest.Write(t, filepath.Join(dir, "report"), snpReport(d[:]))
		kernel := filetest.Write(t, filepath.Join(dir, "kernel"), []byte("kernel"))
		a, out := program()
		err = a.compare(t.Context(), []string{"--report", report, "--measurements", writeTable(t, dir, rows()), "--firmware", firmware, "--kernel", kernel})
		faulttest.Want(t, err, fault.Damaged)
		line := fmt.Sprintf("close to it: no kernel hashes, %s, %s, guest features %#x", processors(want.VCPUs), want.Model, want.Features)
		if !strings.Contains(out.String(), line) {
			t.Errorf("it does not say %q:\n%s", line, out)
		}
	}
}

// What measure, told the machine, computes is a row of what an installer holds.
func TestCompareFindsWhatMeasureComputesInTheInstallersTable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := installertest.New()
	f.CommandLine += " cc.keys=snp"
	f.Manifest.CommandLine, f.Manifest.CommandLines = f.CommandLine, map[string]string{"snp": f.CommandLine}
	f.Machines = measurements.Machines{TEE: "sev-snp", VCPUs: []int{2, 6}, CPUModels: []string{"EPYC-Genoa"}, GuestFeatures: []uint64{1, 0x21}}
	f.Files[measurements.SNPFirmware] = ovmftest.SNP().Image()
	if err := f.Write(dir); err != nil {
		t.Fatal(err)
	}
	uki, err := boot.Sections(filetest.Read(t, filepath.Join(dir, measurements.UKI)))
	if err != nil {
		t.Fatal(err)
	}
	kernel := filetest.Write(t, filepath.Join(dir, "kernel"), uki[".linux"])
	initrd := filetest.Write(t, filepath.Join(dir, "initrd"), uki[".initrd"])
	for vcpus, known := range map[string]bool{"6": true, "7": false} {
		a, out := program()
		err := a.measure(t.Context(), []string{"snp", "--firmware", filepath.Join(dir, measurements.SNPFirmware), "--vcpus", vcpus,
			"--cpu-model", "Genoa", "--guest-features", "0x21", "--kernel", kernel, "--initrd", initrd, "--append", f.CommandLine})
		if err != nil {
			t.Fatal(err)
		}
		report := filetest.Write(t, filepath.Join(dir, "report"), snpReport(unhex(t, strings.TrimSpace(out.String()))))
		a, out = program()
		err = a.compare(t.Context(), []string{"--report", report, "--measurements", filepath.Join(dir, measurements.File)})
		if (err == nil) != known {
			t.Errorf("%s processors: %v\n%s", vcpus, err, out)
		}
		if row := "direct boot in key profile snp, firmware/OVMF.amdsev.fd, 6 virtual processors, EPYC-Genoa, guest features 0x21"; strings.Contains(out.String(), row) != known {
			t.Errorf("%s processors:\n%s", vcpus, out)
		}
	}
}

func TestTheDebugBitIsShown(t *testing.T) {
	t.Parallel()
	r := snpReport(make([]byte, 48))
	binary.LittleEndian.PutUint64(r[8:], 0xb0000)
	q := tdxQuote(4)
	q[48+120] |= 1
	for _, e := range []evidence.Evidence{{Kind: evidence.SNP, Report: r}, {Kind: evidence.TDX, Report: q}} {
		table := rows()
		c, err := judge(e, &table)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(c.Claims, func(m claim) bool { return strings.HasPrefix(m.Note, "DEBUGGING ALLOWED") }) {
			t.Errorf("%s: %+v", e.Kind, c.Claims)
		}
	}
}

func TestCompareRefusesWhatItCannotRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string { return filetest.Write(t, filepath.Join(dir, name), []byte(text)) }
	good := writeTable(t, dir, rows())
	report := filetest.Write(t, filepath.Join(dir, "report"), snpReport(make([]byte, 48)))
	invalid := snpReport(make([]byte, 48))
	binary.LittleEndian.PutUint64(invalid[8:], 3) // a legacy policy
	old := tdxQuote(4)
	old[0] = 3
	none, short := rows(), rows()
	none.SNP, none.TDX, none.NotComputed = nil, nil, []measurements.NotComputed{{What: "snp", Why: "TEE_TYPE is none"}}
	short.SNP[1].Digest = digestOf(1)[1:]
	for name, test := range map[string]struct {
		args []string
		code fault.Code
		says string
	}{
		"nothing":               {nil, fault.Usage, "--report"},
		"no table":              {[]string{"--report", report}, fault.Usage, "--measurements"},
		"a word":                {[]string{"--report", report, "--measurements", good, "x"}, fault.Usage, `"x"`},
		"a kernel alone":        {[]string{"--report", report, "--measurements", good, "--kernel", "k"}, fault.Usage, "--firmware"},
		"a command line alone":  {[]string{"--report", report, "--measurements", good, "--firmware", "f", "--cmdline", "c"}, fault.Usage, "--kernel"},
		"no such report":        {[]string{"--report", dir + "/no", "--measurements", good}, fault.Usage, "no such file"},
		"no such firmware":      {[]string{"--report", report, "--measurements", good, "--firmware", dir + "/no"}, fault.Usage, "no such file"},
		"firmware that is none": {[]string{"--report", report, "--measurements", good, "--firmware", report}, fault.Usage, "report"},
		"no JSON":               {[]string{"--report", report, "--measurements", write("a", "{")}, fault.Damaged, "a"},
		"a table of nothing":    {[]string{"--report", report, "--measurements", writeTable(t, t.TempDir(), none)}, fault.Damaged, "no measurements of a TEE; snp: TEE_TYPE is none"},
		"another schema":        {[]string{"--report", report, "--measurements", write("b", "{}")}, fault.Damaged, "schema 0"},
		"a digest of 95 digits": {[]string{"--report", report, "--measurements", writeTable(t, t.TempDir(), short)}, fault.Damaged, "launch digest"},
		"a report of text":      {[]string{"--report", write("f", "report"), "--measurements", good}, fault.Usage, "evidence"},
		"an invalid policy":     {[]string{"--report", filetest.Write(t, dir+"/g", invalid), "--measurements", good}, fault.Usage, "policy"},
		"a quote of version 3":  {[]string{"--report", filetest.Write(t, dir+"/h", old), "--measurements", good}, fault.Usage, "version 3"},
		"evidence of a test":    {[]string{"--report", write("i", `{"kind":"fake","report":"AAAA"}`), "--measurements", good}, fault.Usage, "fake"},
	} {
		a, out := program()
		err := a.compare(t.Context(), test.args)
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		faulttest.Want(t, err, test.code, test.says)
		if out.Len() > 0 {
			t.Errorf("%s: it printed %q", name, out)
		}
	}
	if _, err := os.Stat(good); err != nil {
		t.Error(err)
	}
}

func FuzzCompare(f *testing.F) {
	f.Add(snpReport(make([]byte, 48)))
	f.Add(tdxQuote(4))
	f.Add(tdxQuote(5))
	table := rows()
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := evidence.Parse(raw)
		if err != nil {
			return
		}
		if c, err := judge(e, &table); err == nil && (len(c.Matches) == 0) == (len(c.Advice) == 0) {
			t.Errorf("%+v", c)
		}
	})
}

// The nonce is another one each time, so an answer that was kept is none to it.
func TestCompareAsksARunningVM(t *testing.T) {
	d := newDesk(t)
	var nonces []string
	report := snpReport(unhex(t, digestOf(2)))
	answering(t, d.path("s"), func(_ context.Context, data json.RawMessage) (any, error) {
		var q struct{ Nonce string }
		if err := json.Unmarshal(data, &q); err != nil {
			return nil, err
		}
		nonces = append(nonces, q.Nonce)
		return evidence.Attestation{Evidence: evidence.Evidence{Kind: evidence.SNP, Report: report}, Identity: keyOf(t, d.identity(t))}, nil
	})
	table := writeTable(t, t.TempDir(), rows())
	for range 2 {
		a, out := program()
		if err := a.compare(t.Context(), []string{"--live", d.path("s"), "--measurements", table}); err != nil || !strings.Contains(out.String(), "8 virtual processors, EPYC-Milan") {
			t.Errorf("%v\n%s", err, out)
		}
	}
	if len(nonces) != 2 || nonces[0] == nonces[1] || len(nonces[0]) != 2*evidence.MaxNonce {
		t.Errorf("nonces %q", nonces)
	}
	a, _ := program()
	faulttest.Want(t, a.compare(t.Context(), []string{"--live", "none-of-this-name", "--measurements", table}), fault.Machine, "/run/cc-base/none-of-this-name/control.sock")
	faulttest.Want(t, a.compare(t.Context(), []string{"--live", "x", "--report", "y", "--measurements", table}), fault.Usage, "one of --report and --live")
}
