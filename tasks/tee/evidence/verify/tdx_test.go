package verify_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	tdxtest "github.com/google/go-tdx-guest/testing"
	tdxdata "github.com/google/go-tdx-guest/testing/testdata"

	"cc-base/tasks/tee/evidence"
	"cc-base/tasks/tee/evidence/verify"
)

var tdxNow = time.Date(2023, time.July, 1, 1, 0, 0, 0, time.UTC)

// Regions of a quote (Intel TDX DCAP quoting library API, version 4).
const (
	quoteBody      = 48
	quoteAuth      = 636
	quoteCertChain = quoteAuth + 64 + 64 + 6 + 384 + 64 + 2 + 32 + 6 // with 32 bytes of QE authentication data
)

func tdxQuote() []byte { return bytes.Clone(tdxdata.RawQuote) }

func unhex(text string) []byte {
	b, err := hex.DecodeString(text)
	if err != nil {
		panic(err)
	}
	return b
}

// tdxOptions are right for the sample: a quote of 2023, ATTRIBUTES PKS.
func tdxOptions() verify.Options {
	body := tdxdata.RawQuote[quoteBody:]
	return verify.Options{
		Now: tdxNow, ReportData: body[520:584], MRConfigID: make([]byte, 48), TDXAttributes: []uint64{1 << 30},
		Measurements: []verify.Measurement{{
			Kind: evidence.TDX,
			MRTD: unhex("6363b8043668a3ad953278e10389574d326c6749fb78aa810ecd9336923db86f22fc00b8dcd404bc10d5e119d7215cbb"),
			RTMR: [4][]byte{
				unhex("2927da70461cd63266f43230cc1849c03ef25ebe490062a801d8fcc80af42976823adf08f833c1e50b51779c6593f32a"),
				unhex("2c700b8ba9b85783f8be9fb9443647bdc0bb3c50747f06297cc6538c25a5f589c4b56d035c59107c6bc5800db2cacb61"),
				unhex("8652f0caaba7e215ea442dc36a4499d8fec3362f3a0b2ca151cbe4b3e6466fe59c7368b3c2287fc7c3bf5c924eb4424e"),
				nil,
			},
		}},
		Products: []string{"50806f000000"}, TDXMinTCB: unhex("03000400000000000000000000000000"),
	}
}

func tdxEvidence() evidence.Evidence {
	return evidence.Evidence{Kind: evidence.TDX, Report: tdxQuote()}
}

// collateral is the libraries' sample of Intel's answers.
func collateral(t *testing.T) *verify.Collateral {
	t.Helper()
	chain := func(header map[string][]string, name string) []byte {
		text, err := url.QueryUnescape(header[name][0])
		if err != nil {
			t.Fatal(err)
		}
		return []byte(text)
	}
	return &verify.Collateral{
		TCBInfo: tdxdata.TcbInfoBody, TCBInfoChain: chain(tdxtest.TcbInfoHeader, "Tcb-Info-Issuer-Chain"),
		QEIdentity: tdxdata.QeIdentityBody, QEIdentityChain: chain(tdxtest.QeIdentityHeader, "Sgx-Enclave-Identity-Issuer-Chain"),
		PCKCRL: tdxdata.PckCrlBody, PCKCRLChain: chain(tdxtest.PckCrlHeader, "Sgx-Pck-Crl-Issuer-Chain"),
		RootCRL: tdxdata.RootCrlBody,
	}
}

func TestARealQuoteHolds(t *testing.T) {
	t.Parallel()
	claims, err := verify.Evidence(tdxEvidence(), tdxOptions())
	want(t, claims, err)
	if c, _ := claims.Get("collateral"); c.Reason == "" {
		t.Error("it is not said that collateral was not looked at")
	}
}

// The sample's collateral is genuine, and of the sample's platform family, but
// knows no such old firmware: its chains, signatures, revocation lists and dates
// are in order, and the last comparison is what refuses.
func TestCollateralIsJudgedToItsEnd(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*verify.Options)
		reason string
	}{
		"as it is": {func(*verify.Options) {}, "no matching TCB level"},
		"too old":  {func(o *verify.Options) { o.MaxCRLAge = time.Hour }, "h0m0s old, at most 1h"},
		"ended":    {func(o *verify.Options) { o.Now = tdxNow.AddDate(0, 6, 0) }, "expired"},
		"changed": {func(o *verify.Options) {
			o.Collateral.TCBInfo = bytes.Replace(o.Collateral.TCBInfo, []byte(`"pcesvn":11`), []byte(`"pcesvn":10`), 1)
		}, "tcbInfo response verification failed"},
		"changed identity": {func(o *verify.Options) {
			o.Collateral.QEIdentity = bytes.Replace(o.Collateral.QEIdentity, []byte(`"isvsvn":4`), []byte(`"isvsvn":3`), 1)
		}, "QeIdentity response verification failed"},
		"no root list":    {func(o *verify.Options) { o.Collateral.RootCRL = nil }, "root CRL"},
		"no chain's list": {func(o *verify.Options) { o.Collateral.PCKCRL = nil }, "PCK CRL"},
		"another's chain": {func(o *verify.Options) { o.Collateral.TCBInfoChain = o.Collateral.PCKCRLChain }, "tcbInfo"},
		"empty":           {func(o *verify.Options) { o.Collateral = &verify.Collateral{} }, "tcbInfo"},
	} {
		o := tdxOptions()
		o.Collateral, o.MaxCRLAge = collateral(t), 365*24*time.Hour
		tc.change(&o)
		claims, err := verify.Evidence(tdxEvidence(), o)
		want(t, claims, err, "collateral")
		if c, _ := claims.Get("collateral"); !strings.Contains(c.Reason, tc.reason) {
			t.Errorf("%s: %q does not say %q", name, c.Reason, tc.reason)
		}
	}
}

func TestEachWrongPropertyOfAQuoteHasItsVerdict(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		option func(*verify.Options)
		want   []string
	}{
		{"other nonce", func(o *verify.Options) { o.ReportData = make([]byte, 64) }, []string{"report data"}},
		{"no nonce expected", func(o *verify.Options) { o.ReportData = nil }, []string{"report data"}},
		{"other MRTD", func(o *verify.Options) { o.Measurements[0].MRTD = make([]byte, 48) }, []string{"measurement"}},
		{"other RTMR0", func(o *verify.Options) { o.Measurements[0].RTMR[0] = make([]byte, 48) }, []string{"measurement"}},
		{"other RTMR2", func(o *verify.Options) { o.Measurements[0].RTMR[2] = make([]byte, 48) }, []string{"measurement"}},
		{"RTMR3 compared", func(o *verify.Options) { o.Measurements[0].RTMR[3] = make([]byte, 48) }, nil},
		{"RTMR0 not compared", func(o *verify.Options) { o.Measurements[0].RTMR[0] = nil }, nil},
		{"no measurement expected", func(o *verify.Options) { o.Measurements = nil }, []string{"measurement"}},
		{"other MRCONFIGID", func(o *verify.Options) { o.MRConfigID = bytes.Repeat([]byte{1}, 48) }, []string{"mrConfigId"}},
		{"MRCONFIGID not compared", func(o *verify.Options) { o.MRConfigID = nil }, nil},
		{"old module by one", func(o *verify.Options) { o.TDXMinTCB[0]++ }, []string{"tcb"}},
		{"old component by one", func(o *verify.Options) { o.TDXMinTCB[2]++ }, []string{"tcb"}},
		{"another platform demanded", func(o *verify.Options) { o.Products = []string{"Genoa"} }, []string{"product"}},
		{"default attributes", func(o *verify.Options) { o.TDXAttributes = nil }, []string{"attributes"}},
		{"after the certificates ended", func(o *verify.Options) { o.Now = tdxNow.AddDate(30, 0, 0) }, []string{"signature"}},
		{"before the certificates begin", func(o *verify.Options) { o.Now = tdxNow.AddDate(-30, 0, 0) }, []string{"signature"}},
		{"chain of another maker", func(o *verify.Options) { o.IntelRoots = onePlatform().roots() }, []string{"signature"}},
		{"roots that are none", func(o *verify.Options) { o.IntelRoots = []byte("x") }, []string{"signature"}},
		{"no collateral where it is demanded", func(o *verify.Options) { o.MaxCRLAge = time.Hour }, []string{"collateral"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := tdxOptions()
			tc.option(&o)
			claims, err := verify.Evidence(tdxEvidence(), o)
			want(t, claims, err, tc.want...)
		})
	}
}

func TestADebugBitIsRefusedEvenWhenListed(t *testing.T) {
	t.Parallel()
	for bit := range 8 {
		e, o := tdxEvidence(), tdxOptions()
		attributes := uint64(1<<30 | 1<<bit)
		binary.LittleEndian.PutUint64(e.Report[quoteBody+120:], attributes)
		o.TDXAttributes = []uint64{attributes}
		claims, err := verify.Evidence(e, o)
		want(t, claims, err, "signature", "debug")
	}
}

// Every region of a quote, byte by byte. What follows the signed data, and the
// line ends of PEM, belong to nobody and are not in the list.
func TestNoByteOfAQuoteCanBeChanged(t *testing.T) {
	t.Parallel()
	quote := tdxQuote()
	signed := int(binary.LittleEndian.Uint32(quote[632:]))
	const step = 29
	var at []int
	for i := 0; i < quoteCertChain; i += step {
		at = append(at, i)
	}
	rest := quote[quoteCertChain : quoteAuth+signed]
	offset := quoteCertChain
	for {
		block, next := pem.Decode(rest)
		if block == nil {
			break
		}
		// Content of the certificate, away from armour and line ends.
		begin := offset + bytes.Index(rest, []byte("-----\n")) + 6
		for i := begin + 10; i < begin+600; i += 65 {
			at = append(at, i)
		}
		offset += len(rest) - len(next)
		rest = next
	}
	if len(at) < 40 {
		t.Fatalf("only %d places", len(at))
	}
	for _, i := range at {
		e := tdxEvidence()
		e.Report[i] ^= 0x04
		if _, err := verify.Evidence(e, tdxOptions()); err == nil {
			t.Errorf("byte %d can be changed", i)
		}
	}
}

// The regions whose length is named in the quote, each with wrong lengths: the
// library panics at many of them.
func TestQuotesOfWrongLengths(t *testing.T) {
	t.Parallel()
	lengths := map[string]int{"signed data": 632, "certification data": quoteAuth + 130, "PCK chain": quoteCertChain - 4, "QE authentication": quoteAuth + 128 + 6 + 384 + 64}
	for _, name := range slices.Sorted(maps.Keys(lengths)) {
		for _, n := range []uint32{0, 1, 63, 64, 128, 500, 0x7FFFFFFF, 0xFFFFFFFF} {
			e := tdxEvidence()
			at := lengths[name]
			if name == "QE authentication" {
				binary.LittleEndian.PutUint16(e.Report[at:], uint16(n))
			} else {
				binary.LittleEndian.PutUint32(e.Report[at:], n)
			}
			if _, err := verify.Evidence(e, tdxOptions()); err == nil {
				t.Errorf("%s of %d bytes passes", name, n)
			}
		}
	}
	for _, n := range []int{1, 4, 47, 48, 632, 636, 700, 1020, 1100, quoteCertChain, 4000} {
		e := tdxEvidence()
		e.Report = e.Report[:n]
		claims, err := verify.Evidence(e, tdxOptions())
		want(t, claims, err, "format")
	}
	for name, change := range map[string]func([]byte){
		"version 3": func(q []byte) { q[0] = 3 },
		"version 5": func(q []byte) { q[0] = 5 },
		"SGX":       func(q []byte) { q[4] = 0 },
	} {
		e := tdxEvidence()
		change(e.Report)
		claims, err := verify.Evidence(e, tdxOptions())
		t.Log(name)
		want(t, claims, err, "format")
	}
}
