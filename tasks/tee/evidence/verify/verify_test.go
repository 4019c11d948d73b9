package verify_test

// What green does not prove: the evidence is recorded (one Milan report, one
// Sapphire Rapids quote, both from the libraries' public samples) or signed by
// test keys under AMD's format. Reports of other products and versions, the
// collateral of today, and Turin, whose certificates the library cannot read
// yet, are met on hardware only. The sample of collateral fits no sample of a
// quote to the end, so a platform that is up to date was never seen.
//
// Tests that make AMD-like certificates run one after the other: the library
// signs them with a source of randomness that is shared without a lock.

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/kds"
	sevtest "github.com/google/go-sev-guest/testing"
	snpdata "github.com/google/go-sev-guest/verify/testdata"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/tee/evidence"
	"cc-base/tasks/tee/evidence/verify"
)

var snpNow = time.Date(2024, time.June, 1, 0, 0, 0, 0, time.UTC)

// platform is an SNP platform of the test's own.
type platform struct {
	signer *sevtest.AmdSigner
	tcb    kds.TCBParts
	hwid   [64]byte
}

var onePlatform = sync.OnceValue(func() *platform {
	p := &platform{tcb: kds.TCBParts{BlSpl: 4, TeeSpl: 1, SnpSpl: 21, UcodeSpl: 72}, hwid: [64]byte{0: 7, 63: 9}}
	b := &sevtest.AmdSignerBuilder{
		ProductName: "Milan-B1", ArkCreationTime: snpNow.Add(-time.Hour), AskCreationTime: snpNow.Add(-time.Hour),
		AsvkCreationTime: snpNow, VcekCreationTime: snpNow, VlekCreationTime: snpNow,
		VcekCustom: sevtest.CertOverride{SerialNumber: big.NewInt(77), Extensions: sevtest.CustomExtensions(p.tcb, p.hwid[:], "", "Milan-B1")},
	}
	signer, err := b.TestOnlyCertChain()
	if err != nil {
		panic(err)
	}
	p.signer = signer
	return p
})

func (p *platform) roots() []byte {
	var out []byte
	for _, c := range []*x509.Certificate{p.signer.Ask, p.signer.Ark} {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// report is a good report, after change has had its way with it; the platform
// signs the outcome.
func (p *platform) report(t testing.TB, change func(r []byte)) evidence.Evidence {
	t.Helper()
	raw := sevtest.CreateRawReport(&sevtest.TestReportOptions{ReportData: bytes.Repeat([]byte{0xDA}, 64), Version: 3, FMS: 0x00a00f11})
	r := raw[:abi.ReportSize]
	binary.LittleEndian.PutUint64(r[0x08:], 0x30000)
	tcb, err := kds.ComposeTCBParts(p.tcb)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0x38, 0x180, 0x1E0, 0x1F0} { // current, reported, committed, launch
		binary.LittleEndian.PutUint64(r[at:], uint64(tcb))
	}
	copy(r[0x90:0xC0], bytes.Repeat([]byte{0x3E}, 48)) // measurement
	copy(r[0xC0:0xE0], bytes.Repeat([]byte{0x40}, 32)) // host data
	copy(r[0x1A0:0x1E0], p.hwid[:])
	if change != nil {
		change(r)
	}
	R, S, err := p.signer.Sign(abi.SignedComponent(r))
	if err != nil {
		t.Fatal(err)
	}
	if err := abi.SetSignature(R, S, r); err != nil {
		t.Fatal(err)
	}
	table, err := p.signer.CertTableBytes()
	if err != nil {
		t.Fatal(err)
	}
	return evidence.Evidence{Kind: evidence.SNP, Report: r, Certs: table}
}

func (p *platform) options() verify.Options {
	return verify.Options{
		Now: snpNow, AMDRoots: p.roots(), ReportData: bytes.Repeat([]byte{0xDA}, 64), HostData: bytes.Repeat([]byte{0x40}, 32),
		Measurements: []verify.Measurement{
			{Kind: evidence.SNP, Digest: make([]byte, 48)},
			{Kind: evidence.SNP, Digest: bytes.Repeat([]byte{0x3E}, 48)},
		},
		Products: []string{"Milan"}, SNPMinTCB: map[string]verify.SNPTCB{"Milan": {Bootloader: 4, TEE: 1, SNP: 21, Microcode: 72}},
	}
}

// failed are the names of the claims that do not hold.
func failed(c verify.Claims) []string {
	var names []string
	for _, claim := range c {
		if !claim.OK {
			names = append(names, claim.Name)
		}
	}
	return names
}

func want(t *testing.T, claims verify.Claims, err error, names ...string) {
	t.Helper()
	if got := failed(claims); !slices.Equal(got, names) {
		t.Errorf("failed claims %q, want %q (%v)", got, names, err)
	}
	if len(names) == 0 {
		if err != nil {
			t.Errorf("refused: %v", err)
		}
		return
	}
	faulttest.Want(t, err, fault.Damaged, names...)
}

func TestAGoodReportHolds(t *testing.T) {
	p := onePlatform()
	claims, err := verify.Evidence(p.report(t, nil), p.options())
	want(t, claims, err)
	for _, name := range []string{"chain", "signature", "product", "tcb", "debug", "measurement", "report data", "host data"} {
		if c, ok := claims.Get(name); !ok || c.Reason != "" {
			t.Errorf("claim %s: %+v", name, c)
		}
	}
}

func TestTheVCEKMayComeFromAFile(t *testing.T) {
	p := onePlatform()
	e, o := p.report(t, nil), p.options()
	e.Certs = nil
	claims, err := verify.Evidence(e, o)
	want(t, claims, err, "chain")
	o.VCEKs = [][]byte{snpdata.VcekBytes} // of another chip
	claims, err = verify.Evidence(e, o)
	want(t, claims, err, "chain")
	o.VCEKs = append(o.VCEKs, p.signer.Vcek.Raw)
	claims, err = verify.Evidence(e, o)
	want(t, claims, err)
	o.VCEKs[1] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.signer.Vcek.Raw})
	claims, err = verify.Evidence(e, o)
	want(t, claims, err)
}

func TestEachWrongPropertyOfAReportHasItsVerdict(t *testing.T) {
	p := onePlatform()
	policy := func(bits uint64) func([]byte) {
		return func(r []byte) { binary.LittleEndian.PutUint64(r[0x08:], bits) }
	}
	for _, tc := range []struct {
		name   string
		report func([]byte)
		option func(*verify.Options)
		want   []string
	}{
		{"debugging allowed", policy(0xB0000), nil, []string{"debug", "consistency"}},
		{"migration allowed", policy(0x70000), nil, []string{"policy", "consistency"}},
		{"CXL allowed", policy(0x230000), nil, []string{"policy", "consistency"}},
		{"SMT off is stricter", policy(0x20000), nil, nil},
		{"other measurement", func(r []byte) { r[0x90]++ }, nil, []string{"measurement"}},
		{"no measurement expected", nil, func(o *verify.Options) { o.Measurements = nil }, []string{"measurement"}},
		{"a measurement of the other kind", nil, func(o *verify.Options) {
			o.Measurements = []verify.Measurement{{Kind: evidence.TDX, MRTD: bytes.Repeat([]byte{0x3E}, 48)}}
		}, []string{"measurement"}},
		{"other nonce", func(r []byte) { r[0x8F]++ }, nil, []string{"report data", "consistency"}},
		{"no nonce expected", nil, func(o *verify.Options) { o.ReportData = nil }, []string{"report data"}},
		{"other host data", func(r []byte) { r[0xC0]++ }, nil, []string{"host data", "consistency"}},
		{"host data not compared", func(r []byte) { r[0xC0]++ }, func(o *verify.Options) { o.HostData = nil }, nil},
		{"lower privilege level", func(r []byte) { r[0x30] = 1 }, nil, []string{"vmpl", "consistency"}},
		{"old microcode by one", nil, func(o *verify.Options) {
			o.SNPMinTCB = map[string]verify.SNPTCB{"Milan": {Microcode: 73}}
		}, []string{"tcb"}},
		{"old SNP firmware by one", nil, func(o *verify.Options) { o.SNPMinTCB = map[string]verify.SNPTCB{"Milan": {SNP: 22}} }, []string{"tcb"}},
		{"old boot loader by one", nil, func(o *verify.Options) { o.SNPMinTCB = map[string]verify.SNPTCB{"Milan": {Bootloader: 5}} }, []string{"tcb"}},
		{"old TEE by one", nil, func(o *verify.Options) { o.SNPMinTCB = map[string]verify.SNPTCB{"Milan": {TEE: 2}} }, []string{"tcb"}},
		{"a minimum for another product", nil, func(o *verify.Options) { o.SNPMinTCB = map[string]verify.SNPTCB{"Genoa": {SNP: 99}} }, nil},
		{"may go back to old firmware", func(r []byte) { r[0x1E0+7]-- }, nil, []string{"tcb"}},
		{"reported above the certificate", func(r []byte) { r[0x180+7]++ }, nil, []string{"consistency"}},
		{"another chip", func(r []byte) { r[0x1A0]++ }, nil, []string{"consistency"}},
		{"a Milan where Genoa is demanded", nil, func(o *verify.Options) { o.Products = []string{"Genoa", "Turin"} }, []string{"product"}},
		{"a Milan chain that calls itself Genoa", func(r []byte) { r[0x189] = 0x11 }, func(o *verify.Options) { o.Products = []string{"Genoa"} }, []string{"chain", "product"}},
		{"chain of another maker", nil, func(o *verify.Options) { o.AMDRoots = nil }, []string{"chain"}},
		{"before the roots begin", nil, func(o *verify.Options) { o.Now = snpNow.Add(-2 * time.Hour) }, []string{"chain"}},
		{"after the chip's certificate ended", nil, func(o *verify.Options) { o.Now = snpNow.AddDate(8, 0, 0) }, []string{"chain"}},
		{"no revocation list where one is demanded", nil, func(o *verify.Options) { o.MaxCRLAge = time.Hour }, []string{"revocation"}},
		{"version 1", func(r []byte) { r[0] = 1 }, nil, []string{"format"}},
		{"version 6", func(r []byte) { r[0] = 6 }, nil, []string{"format"}},
		{"signed by a VLEK", func(r []byte) { r[0x48] = 1 << 2 }, nil, []string{"format"}},
		{"not signed", func(r []byte) { r[0x34] = 0 }, nil, []string{"signature"}},
		{"policy bit 17 missing, as in 0x03", policy(0x10003), nil, []string{"format"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := p.options()
			if tc.option != nil {
				tc.option(&o)
			}
			claims, err := verify.Evidence(p.report(t, tc.report), o)
			want(t, claims, err, tc.want...)
		})
	}
}

// First, middle and last byte of every field of the ABI, and every place where
// the reserved bytes and the signature lie: none may pass when changed.
func TestNoByteOfAReportCanBeChanged(t *testing.T) {
	p := onePlatform()
	e, o := p.report(t, nil), p.options()
	good := bytes.Clone(e.Report)
	// Offsets at which fields begin (AMD publication 56860, ATTESTATION_REPORT).
	fields := []int{0, 4, 8, 0x10, 0x20, 0x30, 0x34, 0x38, 0x40, 0x48, 0x4C, 0x50, 0x90, 0xC0, 0xE0, 0x110, 0x140, 0x160, 0x180, 0x188, 0x189, 0x18A, 0x18B,
		0x1A0, 0x1E0, 0x1E8, 0x1E9, 0x1EA, 0x1EB, 0x1EC, 0x1F0, 0x1F8, 0x200, 0x208, 0x2A0, 0x2A0 + 72, 0x2A0 + 144, abi.ReportSize}
	var places []int
	for i, begin := range fields[:len(fields)-1] {
		end := fields[i+1]
		places = append(places, begin, (begin+end)/2, end-1)
	}
	for _, at := range slices.Compact(places) {
		e.Report = bytes.Clone(good)
		e.Report[at] ^= 0x10
		if _, err := verify.Evidence(e, o); err == nil {
			t.Errorf("byte %#x can be changed", at)
		}
	}
}

func TestReportOfAnotherLengthIsRefused(t *testing.T) {
	p := onePlatform()
	good := p.report(t, nil)
	for _, n := range []int{1, 4, 0x2A0, abi.ReportSize - 1, abi.ReportSize + 1} {
		e := good
		e.Report = append(bytes.Clone(good.Report), 0)[:n]
		claims, err := verify.Evidence(e, p.options())
		want(t, claims, err, "format")
	}
}

func TestCertificateTables(t *testing.T) {
	p := onePlatform()
	good := p.report(t, nil)
	entry := func(offset, length uint32) []byte {
		b := bytes.Clone(good.Certs[48:72]) // the VCEK's
		binary.LittleEndian.PutUint32(b[16:], offset)
		binary.LittleEndian.PutUint32(b[20:], length)
		return append(b, make([]byte, 100)...)
	}
	for name, table := range map[string][]byte{
		"truncated":           good.Certs[:len(good.Certs)/2],
		"end before VCEK":     make([]byte, 200),
		"outside":             entry(100, 100),
		"wraps to the inside": entry(0xFFFFFFFF, 2),
		"four gigabytes":      entry(0x30, 0xFFFFFFFF),
		"empty":               entry(30, 0),
		"garbage":             entry(30, 90),
	} {
		e := good
		e.Certs = table
		claims, err := verify.Evidence(e, p.options())
		t.Log(name)
		want(t, claims, err, "chain")
	}
	// A certificate of the same chain that is no VCEK.
	o := p.options()
	o.VCEKs = [][]byte{p.signer.Ask.Raw}
	claims, err := verify.Evidence(good, o)
	want(t, claims, err, "chain")
}

func (p *platform) crl(t *testing.T, from, to time.Time, serials ...*big.Int) []byte {
	t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: from, NextUpdate: to}
	for _, s := range serials {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: s, RevocationTime: from})
	}
	raw, err := x509.CreateRevocationList(rand.Reader, list, p.signer.Ark, p.signer.Keys.Ark)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestRevocationLists(t *testing.T) {
	p := onePlatform()
	e := p.report(t, nil)
	day := 24 * time.Hour
	for name, tc := range map[string]struct {
		crl  []byte
		age  time.Duration
		fail bool
	}{
		"nothing revoked":     {p.crl(t, snpNow.Add(-day), snpNow.Add(day)), 2 * day, false},
		"as PEM":              {pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: p.crl(t, snpNow.Add(-day), snpNow.Add(day))}), 0, false},
		"signing key revoked": {p.crl(t, snpNow.Add(-day), snpNow.Add(day), p.signer.Ask.SerialNumber), 0, true},
		"chip revoked":        {p.crl(t, snpNow.Add(-day), snpNow.Add(day), big.NewInt(77)), 0, true},
		"another one revoked": {p.crl(t, snpNow.Add(-day), snpNow.Add(day), big.NewInt(5)), 0, false},
		"ended":               {p.crl(t, snpNow.Add(-2*day), snpNow.Add(-day)), 0, true},
		"not yet begun":       {p.crl(t, snpNow.Add(day), snpNow.Add(2*day)), 0, true},
		"too old":             {p.crl(t, snpNow.Add(-3*day), snpNow.Add(day)), 2 * day, true},
		"no list":             {[]byte("no list"), 0, true},
	} {
		o := p.options()
		o.AMDCRLs, o.MaxCRLAge = [][]byte{tc.crl}, tc.age
		claims, err := verify.Evidence(e, o)
		t.Log(name)
		if tc.fail {
			want(t, claims, err, "revocation")
		} else {
			want(t, claims, err)
		}
	}
	// Which list it was, and how old one may be, stands in the verdict.
	o := p.options()
	o.AMDCRLs, o.MaxCRLAge = [][]byte{p.crl(t, snpNow.Add(-day), snpNow.Add(day))}, 2*day
	claims, err := verify.Evidence(e, o)
	want(t, claims, err)
	if c, _ := claims.Get("revocation"); c.Value != "list of 2024-05-31, until 2024-06-02" || !strings.HasSuffix(c.Want, ", list at most 48h0m0s old") {
		t.Errorf("%+v", c)
	}
	// A list of AMD's real key says nothing about the test's.
	o = p.options()
	o.AMDCRLs = [][]byte{p.crl(t, snpNow.Add(-day), snpNow.Add(day))}
	o.AMDCRLs[0][len(o.AMDCRLs[0])-1] ^= 1
	claims, err = verify.Evidence(e, o)
	want(t, claims, err, "revocation")
}

func TestARealMilanReportHoldsButForItsDebugPolicy(t *testing.T) {
	measurement, err := hex.DecodeString("b07af9620f3b839b47996422ddec6058338951d984e312115131ea82705eaf5b6bdf8a9ece31a5a608eb0cf2e4872b01")
	if err != nil {
		t.Fatal(err)
	}
	o := verify.Options{
		Now: snpNow, VCEKs: [][]byte{snpdata.VcekBytes}, ReportData: append([]byte{1, 2, 3, 4, 5}, make([]byte, 59)...),
		Measurements: []verify.Measurement{{Kind: evidence.SNP, Digest: measurement}}, Products: []string{"Milan"},
	}
	e := evidence.Evidence{Kind: evidence.SNP, Report: snpdata.AttestationBytes}
	claims, err := verify.Evidence(e, o)
	want(t, claims, err, "debug", "consistency")
	o.Now = time.Date(2030, time.January, 1, 0, 0, 0, 0, time.UTC)
	claims, err = verify.Evidence(e, o)
	want(t, claims, err, "chain", "debug", "consistency")
}

func TestMilanVouchesOnlyWhereItIsNamedAndIsNeverTakenAtFaceValue(t *testing.T) {
	p := onePlatform()
	e, o := p.report(t, nil), p.options()
	claims, err := verify.Evidence(e, o)
	want(t, claims, err)
	c, _ := claims.Get("product")
	if !strings.Contains(c.Note, "arXiv 2605.12990") || !strings.Contains(c.Note, "minimal TCB") || c.Reason != "" {
		t.Errorf("named: %+v", c)
	}
	for _, tc := range []struct {
		products []string
		reason   string
	}{{nil, "arXiv 2605.12990"}, {[]string{}, "arXiv 2605.12990"}, {[]string{"Genoa"}, "not an accepted product"}} {
		o.Products = tc.products
		claims, err = verify.Evidence(e, o)
		want(t, claims, err, "product")
		if c, _ := claims.Get("product"); !strings.Contains(c.Reason, tc.reason) || c.Note != "" {
			t.Errorf("products %q: %+v", tc.products, c)
		}
	}
	// Nothing of the kind is known of TDX platforms.
	claims, err = verify.Evidence(tdxEvidence(), tdxOptions())
	want(t, claims, err)
	if c, _ := claims.Get("product"); c.Note != "" {
		t.Errorf("%+v", c)
	}
}

func TestFakeEvidenceIsAlwaysRefused(t *testing.T) {
	p := onePlatform()
	e := p.report(t, nil)
	for _, kind := range []string{evidence.Fake, "", "sev"} {
		e.Kind = kind
		claims, err := verify.Evidence(e, p.options())
		want(t, claims, err, "format")
	}
	// And no other kind's report passes for one.
	e.Kind = evidence.TDX
	claims, err := verify.Evidence(e, p.options())
	want(t, claims, err, "format")
}

func TestOptionsThatMakeNoSense(t *testing.T) {
	p := onePlatform()
	e := p.report(t, nil)
	for word, change := range map[string]func(*verify.Options){
		"time":          func(o *verify.Options) { o.Now = time.Time{} },
		"report data":   func(o *verify.Options) { o.ReportData = make([]byte, 63) },
		"host data":     func(o *verify.Options) { o.HostData = make([]byte, 48) },
		"MRCONFIGID":    func(o *verify.Options) { o.MRConfigID = make([]byte, 32) },
		"TCB":           func(o *verify.Options) { o.TDXMinTCB = make([]byte, 15) },
		"launch digest": func(o *verify.Options) { o.Measurements = []verify.Measurement{{Kind: evidence.SNP}} },
		"MRTD":          func(o *verify.Options) { o.Measurements = []verify.Measurement{{Kind: evidence.TDX}} },
		"kind":          func(o *verify.Options) { o.Measurements = []verify.Measurement{{Kind: evidence.Fake}} },
		"RTMR2": func(o *verify.Options) {
			o.Measurements = []verify.Measurement{{Kind: evidence.TDX, MRTD: make([]byte, 48), RTMR: [4][]byte{2: {1}}}}
		},
	} {
		o := p.options()
		change(&o)
		claims, err := verify.Evidence(e, o)
		faulttest.Want(t, err, fault.Usage, word)
		if claims != nil {
			t.Errorf("%s: claims were made", word)
		}
	}
	for word, roots := range map[string]string{
		"no PEM": "x", "neither": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.signer.Vcek.Raw})),
		"both": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.signer.Ark.Raw})),
	} {
		o := p.options()
		o.AMDRoots = []byte(roots)
		_, err := verify.Evidence(e, o)
		faulttest.Want(t, err, fault.Damaged, "chain", word)
	}
}

func TestReasonsAreOneCleanLine(t *testing.T) {
	p := onePlatform()
	e := p.report(t, nil)
	e.Kind = "x\x1b[31m\n" + strings.Repeat("é", 400)
	claims, _ := verify.Evidence(e, p.options())
	if r := claims[0].Reason; strings.ContainsAny(r, "\x1b\n") || len(r) > 310 {
		t.Errorf("%q", r)
	}
}

func FuzzEvidence(f *testing.F) {
	p := onePlatform()
	e := p.report(f, nil)
	f.Add(true, e.Report, e.Certs)
	f.Add(false, tdxQuote(), []byte{})
	o := p.options()
	// What is signed, not the signature: ECDSA has more than one for a message,
	// and each process of the fuzzer makes its own.
	const signed = 0x2A0
	good := bytes.Clone(e.Report[:signed])
	f.Fuzz(func(t *testing.T, isSNP bool, report, certs []byte) {
		kind := evidence.TDX
		if isSNP {
			kind = evidence.SNP
		}
		_, err := verify.Evidence(evidence.Evidence{Kind: kind, Report: report, Certs: certs}, o)
		if err == nil && (!isSNP || !bytes.Equal(report[:signed], good)) {
			t.Errorf("a forged report passes")
		}
	})
}
