package main

// What green does not prove: the guest is this process and its processor the
// test's own; see release_test.go. That a guest answers so is shown by the tests
// of overlays/cc-guest, over the same functions.

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-sev-guest/abi"
	tdxdata "github.com/google/go-tdx-guest/testing/testdata"

	"cc-base/overlays/cc-guest/control"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/site"
	"cc-base/tasks/tee/evidence"
)

const aNonce = "000102030405060708090a0b0c0d0e0f"

// identity writes a public key and returns its file.
func (d *desk) identity(t *testing.T) (file string) {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return filetest.Write(t, d.path(hex.EncodeToString(der[len(der)-4:])+".pub"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func keyOf(t *testing.T, file string) []byte {
	t.Helper()
	block, _ := pem.Decode(filetest.Read(t, file))
	return block.Bytes
}

// attests returns what a guest with the identity key answers to the nonce, after
// change has had its way with the report; the chip signs the outcome.
func (c *chip) attests(t *testing.T, nonce string, public []byte, change func(r []byte)) evidence.Attestation {
	t.Helper()
	raw, err := evidence.ParseNonce(nonce)
	if err != nil {
		t.Fatal(err)
	}
	e, err := c.Report(t.Context(), evidence.ReportData(raw, evidence.IdentityHash(public)))
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(e.Report)
		c.lock.Lock()
		defer c.lock.Unlock()
		R, S, err := c.signer.Sign(abi.SignedComponent(e.Report))
		if err == nil {
			err = abi.SetSignature(R, S, e.Report)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return evidence.Attestation{Evidence: e, Identity: public}
}

func (d *desk) write(t *testing.T, name string, v any) (file string) {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return filetest.Write(t, d.path(name), text)
}

// judged runs verify-evidence as text and as JSON, compares the two, and returns
// the names of the claims that failed.
func (d *desk) judged(t *testing.T, args ...string) (failed []string, v evidenceVerdict) {
	t.Helper()
	d.out.b.Reset()
	textErr := d.app.verifyEvidence(args)
	text := d.out.String()
	d.out.b.Reset()
	err := d.app.verifyEvidence(append(args, "--json"))
	if (err == nil) != (textErr == nil) || fault.Exit(err) != fault.Exit(textErr) {
		t.Errorf("as text: %v; as JSON: %v", textErr, err)
	}
	if json.Unmarshal([]byte(d.out.String()), &v) != nil {
		t.Fatalf("%v\n%s", err, d.out)
	}
	for _, c := range v.Claims {
		verdict := map[bool]string{true: "ok ", false: "FAILED "}[c.OK]
		if c.OK && c.Reason != "" {
			verdict = "- "
		}
		if !strings.Contains(strings.Join(strings.Fields(text), " "), verdict+c.Name) || !strings.Contains(text, c.Note) {
			t.Errorf("the text says nothing of %s%s:\n%s", verdict, c.Name, text)
		}
		if !c.OK {
			failed = append(failed, c.Name)
		}
	}
	if v.OK != (len(failed) == 0) || v.OK != (err == nil) {
		t.Errorf("ok is %v with %q failed and %v", v.OK, failed, err)
	}
	if !v.OK {
		faulttest.Want(t, err, fault.Damaged)
	}
	return failed, v
}

func TestAnAttestationIsJudgedByNonceAndIdentity(t *testing.T) {
	d, c := newDesk(t), newChip(t)
	mine, other := d.identity(t), d.identity(t)
	answer := c.attests(t, aNonce, keyOf(t, mine), nil)
	whole := d.write(t, "answer.json", answer)
	bare := d.write(t, "bare.json", answer.Evidence)
	policy := d.path("policy.json")
	for _, tc := range []struct {
		name string
		args []string
		want []string
	}{
		{"the guest's own key", []string{whole, "--nonce", aNonce}, nil},
		{"that key demanded", []string{whole, "--nonce", aNonce, "--identity", mine}, nil},
		{"the key from elsewhere", []string{bare, "--nonce", aNonce, "--identity", mine}, nil},
		{"another nonce", []string{whole, "--nonce", strings.Repeat("ab", 16)}, []string{"report data", "identity"}},
		{"another key demanded", []string{whole, "--nonce", aNonce, "--identity", other}, []string{"report data", "identity"}},
		{"another key, and the guest names none", []string{bare, "--nonce", aNonce, "--identity", other}, []string{"report data", "identity"}},
		{"nothing asked", []string{whole}, []string{"report data"}},
	} {
		failed, v := d.judged(t, append(tc.args, "--policy", policy)...)
		// The library repeats in one claim of its own what it knows to be wrong.
		failed = slices.DeleteFunc(failed, func(name string) bool { return name == "consistency" })
		if !slices.Equal(failed, tc.want) {
			t.Errorf("%s: failed %q, want %q", tc.name, failed, tc.want)
		}
		if claim, ok := v.Claims.Get("identity"); ok && tc.want == nil && claim.Value != fmt.Sprintf("%x", evidence.IdentityHash(keyOf(t, mine))) {
			t.Errorf("%s: %+v", tc.name, claim)
		}
	}
	// A key that was put in the place of the guest's.
	answer.Identity = keyOf(t, other)
	planted := d.write(t, "planted.json", answer)
	if failed, _ := d.judged(t, planted, "--nonce", aNonce, "--policy", policy); !slices.Contains(failed, "identity") {
		t.Errorf("failed: %q", failed)
	}
	// The report is for the right key, and whoever passed it on names another.
	if failed, _ := d.judged(t, planted, "--nonce", aNonce, "--policy", policy, "--identity", mine); !slices.Equal(failed, []string{"identity"}) {
		t.Errorf("failed: %q", failed)
	}
}

// Each claim fails for its own reason, in text and JSON, by policy and flags
// alone: nothing of this needs a network.
func TestEachClaimOfVerifyEvidenceCanFail(t *testing.T) {
	d, c := newDesk(t), newChip(t)
	public := keyOf(t, d.identity(t))
	settings := filetest.Write(t, d.path("site.conf"), []byte("HOSTNAME=web-1\n"))
	siteSum := sha256.Sum256(filetest.Read(t, settings))
	published := rows()
	published.SNP[1].Digest = digestOf(0x3E)
	table := writeTable(t, d.dir, published)
	list := func(name string, from, to time.Time, serials ...*big.Int) {
		crl := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: from, NextUpdate: to}
		for _, s := range serials {
			crl.RevokedCertificateEntries = append(crl.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: s, RevocationTime: from})
		}
		raw, err := x509.CreateRevocationList(rand.Reader, crl, c.signer.Ark, c.signer.Keys.Ark)
		if err != nil {
			t.Fatal(err)
		}
		filetest.Write(t, d.path(name), raw)
	}
	now, day := time.Now(), 24*time.Hour
	list("fresh.crl", now.Add(-time.Hour), now.Add(day))
	list("old.crl", now.Add(-40*day), now.Add(day))
	list("ended.crl", now.Add(-2*day), now.Add(-day))
	list("signer.crl", now.Add(-time.Hour), now.Add(day), c.signer.Ask.SerialNumber)
	list("chip.crl", now.Add(-time.Hour), now.Add(day), c.signer.Vcek.SerialNumber)
	foreign := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.signer.Asvk.Raw})
	filetest.Write(t, d.path("foreign.pem"), foreign)

	base := `"version": 1, "measurements": [{"kind": "snp", "digest": "` + strings.Repeat("3e", 48) + `"}]`
	milan, roots := `"products": ["Milan"]`, `"amdRoots": "roots.pem"`
	good := []string{base, milan, roots}
	with := func(more ...string) []string { return append(slices.Clone(good), more...) }
	put := func(at int, value uint64) func([]byte) {
		return func(r []byte) { binary.LittleEndian.PutUint64(r[at:], value) }
	}
	for _, tc := range []struct {
		name   string
		policy []string
		change func(r []byte)
		args   []string
		want   []string
	}{
		{"nothing", good, nil, nil, nil},
		{"format", good, func(r []byte) { r[0] = 1 }, nil, []string{"format"}},
		{"roots of nobody", []string{base, milan}, nil, nil, []string{"chain"}},
		{"roots that are none", []string{base, milan, `"amdRoots": "foreign.pem"`}, nil, nil, []string{"chain"}},
		{"another chip's certificate", with(`"vceks": ["foreign.pem"]`), nil, nil, []string{"chain"}},
		{"a time before the chip's certificate", good, nil, []string{"--at", "2001-01-01T00:00:00Z"}, []string{"chain"}},
		{"an unsigned report", good, func(r []byte) { r[0x34] = 0 }, nil, []string{"signature"}},
		{"Milan where it is not named", []string{base, roots}, nil, nil, []string{"product"}},
		{"another product", []string{base, roots, `"products": ["Genoa"]`}, nil, nil, []string{"product"}},
		{"old firmware", with(`"tcb": {"snp": {"Milan": {"microcode": 255}}}`), nil, nil, []string{"tcb"}},
		{"debugging", good, put(8, 0xB0000), nil, []string{"debug"}},
		{"migration", good, put(8, 0x70000), nil, []string{"policy"}},
		{"a lower privilege level", good, func(r []byte) { r[0x30] = 1 }, nil, []string{"vmpl"}},
		{"another measurement", good, func(r []byte) { r[0x90] = 0 }, nil, []string{"measurement"}},
		{"other report data", good, func(r []byte) { r[0x50]++ }, nil, []string{"report data", "identity"}},

		{"a fresh list", with(`"amdCRLs": ["fresh.crl"], "maxCRLAge": "720h"`), nil, nil, nil},
		{"no list", with(`"maxCRLAge": "720h"`), nil, nil, []string{"revocation"}},
		{"an old list", with(`"amdCRLs": ["old.crl"], "maxCRLAge": "720h"`), nil, nil, []string{"revocation"}},
		{"the same, where its age is not limited", with(`"amdCRLs": ["old.crl"]`), nil, nil, nil},
		{"a list that has ended", with(`"amdCRLs": ["ended.crl"]`), nil, nil, []string{"revocation"}},
		{"a revoked product", with(`"amdCRLs": ["signer.crl"]`), nil, nil, []string{"revocation"}},
		{"a revoked chip", with(`"amdCRLs": ["chip.crl"]`), nil, nil, []string{"revocation"}},

		{"the site's settings", good, func(r []byte) { copy(r[0xC0:], siteSum[:]) }, []string{"--site", settings}, nil},
		{"no site's settings", good, nil, []string{"--site", settings}, []string{"host data"}},
		{"another site's settings", good, func(r []byte) { copy(r[0xC0:], siteSum[:]); r[0xC0]++ }, []string{"--site", settings}, []string{"host data"}},
		{"a row of the table", good, nil, []string{"--measurements", table}, nil},
		{"no row of the table", with(), func(r []byte) { copy(r[0x90:], bytes.Repeat([]byte{0x3F}, 48)) }, []string{"--measurements", table}, []string{"measurement", "table"}},
	} {
		file := d.write(t, "answer.json", c.attests(t, aNonce, public, tc.change))
		policy := filetest.Write(t, d.path("p.json"), []byte("{"+strings.Join(tc.policy, ", ")+"}"))
		failed, v := d.judged(t, append([]string{file, "--policy", policy, "--nonce", aNonce}, tc.args...)...)
		// With an early claim failed the rest is not looked at, and one claim
		// repeats what others say.
		failed = slices.DeleteFunc(failed, func(name string) bool {
			return name == "consistency" || name == "identity" && !slices.Contains(tc.want, "identity")
		})
		if !slices.Equal(failed, tc.want) {
			t.Errorf("%s: failed %q, want %q", tc.name, failed, tc.want)
		}
		if row, ok := v.Claims.Get("table"); ok && row.OK && !strings.Contains(row.Value, "8 virtual processors") {
			t.Errorf("%s: %+v", tc.name, row)
		}
		if tc.name == "nothing" {
			product, _ := v.Claims.Get("product")
			if !strings.Contains(product.Note, "2605.12990") {
				t.Errorf("nothing is said of Milan: %+v", product)
			}
		}
	}
}

func TestSiteSettingsThatPolicyAndFlagNameDifferently(t *testing.T) {
	d, c := newDesk(t), newChip(t)
	file := d.write(t, "answer.json", c.attests(t, aNonce, keyOf(t, d.identity(t)), nil))
	settings := filetest.Write(t, d.path("site.conf"), []byte("a"))
	policy := `{"version": 1, "hostData": "` + strings.Repeat("40", 32) + `", "measurements": [{"kind": "snp", "digest": "` + strings.Repeat("3e", 48) + `"}]}`
	err := d.app.verifyEvidence([]string{file, "--nonce", aNonce, "--policy", filetest.Write(t, d.path("p.json"), []byte(policy)), "--site", settings})
	faulttest.Want(t, err, fault.Usage, "other site settings")
}

// The sample quote is of a guest without site settings and of another question.
func TestSiteSettingsAreLookedForInAQuote(t *testing.T) {
	d := newDesk(t)
	body := tdxdata.RawQuote[48:]
	hex48 := func(at int) string { return hex.EncodeToString(body[at : at+48]) }
	quote := filetest.Write(t, d.path("quote"), tdxdata.RawQuote)
	policy := filetest.Write(t, d.path("tdx.json"), []byte(`{"version": 1, "measurements": [{"kind": "tdx", "mrtd": "`+hex48(136)+`", "rtmr": ["any", "any", "any"]}], "tdAttributes": ["0x40000000"]}`))
	args := []string{quote, "--policy", policy, "--report-data", hex.EncodeToString(body[520:584]), "--at", "2023-07-01T00:00:00Z"}
	if failed, _ := d.judged(t, args...); failed != nil {
		t.Errorf("failed: %q", failed)
	}
	settings := filetest.Write(t, d.path("site.conf"), []byte("a"))
	failed, v := d.judged(t, append(args, "--site", settings)...)
	id := site.MRConfigID([]byte("a"))
	if claim, _ := v.Claims.Get("mrConfigId"); !slices.Equal(failed, []string{"mrConfigId"}) || claim.Want != hex.EncodeToString(id[:]) {
		t.Errorf("failed: %q, %+v", failed, claim)
	}
	for _, tc := range []struct {
		mrtd string
		want []string
	}{{hex48(136), nil}, {strings.Repeat("00", 48), []string{"table"}}} {
		published := rows()
		row := &published.TDX[1]
		row.MRTD, row.RTMR1, row.RTMR2 = tc.mrtd, hex48(376), hex48(424)
		table := writeTable(t, d.dir, published)
		if failed, _ := d.judged(t, append(args, "--measurements", table)...); !slices.Equal(failed, tc.want) {
			t.Errorf("failed: %q, want %q", failed, tc.want)
		}
	}
}

// answering is a guest whose port has the socket.
func answering(t *testing.T, socket string, verb control.Verb) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = control.Serve(context.Background(), conn, map[string]control.Verb{"attest": verb})
			conn.Close()
		}
	}()
}

func TestAttestBringsAnAnswerThatVerifyEvidenceAccepts(t *testing.T) {
	d, c := newDesk(t), newChip(t)
	public := keyOf(t, d.identity(t))
	answering(t, d.path("s"), func(_ context.Context, data json.RawMessage) (any, error) {
		var q struct{ Nonce string }
		if err := json.Unmarshal(data, &q); err != nil {
			return nil, err
		}
		return c.attests(t, q.Nonce, public, nil), nil
	})
	if err := d.app.run(t.Context(), []string{"attest", "--socket", d.path("s"), "--nonce", aNonce}); err != nil {
		t.Fatal(err)
	}
	if strings.Count(d.out.String(), "\n") != 1 {
		t.Errorf("not one line: %s", d.out)
	}
	file := filetest.Write(t, d.path("answer.json"), []byte(d.out.String()))
	if failed, _ := d.judged(t, file, "--policy", d.path("policy.json"), "--nonce", aNonce); failed != nil {
		t.Errorf("failed: %q", failed)
	}
}

func TestAttestRefusesWhatIsNoAnswer(t *testing.T) {
	d := newDesk(t)
	var answer any
	var fails error
	answering(t, d.path("s"), func(context.Context, json.RawMessage) (any, error) { return answer, fails })
	ask := func(args ...string) error {
		return d.app.run(t.Context(), append([]string{"attest"}, args...))
	}
	for _, answer = range []any{nil, "x", map[string]any{"kind": "fake"}, map[string]any{"kind": "snp", "report": "AA==", "extra": 1}} {
		faulttest.Want(t, ask("--socket", d.path("s"), "--nonce", aNonce), fault.Machine, "guest's answer")
	}
	fails = fault.New(fault.GuestTEE, errors.New("not a confidential guest"))
	faulttest.Want(t, ask("--socket", d.path("s"), "--nonce", aNonce), fault.GuestTEE, "not a confidential guest")
	faulttest.Want(t, ask("--socket", d.path("none"), "--nonce", aNonce), fault.Machine, "none")
	faulttest.Want(t, ask("--name", "none-of-this-name", "--nonce", aNonce), fault.Machine, "/run/cc-base/none-of-this-name/control.sock")
	for word, args := range map[string][]string{
		"one of --name and --socket": {"--nonce", aNonce},
		"one of":                     {"--name", "a", "--socket", "/s", "--nonce", aNonce},
		"--nonce is needed":          {"--name", "a"},
		"bytes":                      {"--name", "a", "--nonce", "00"},
		"no name of":                 {"--name", "../a", "--nonce", aNonce},
		"is no flag":                 {"a", "--nonce", aNonce},
		"not defined":                {"--key", "a"},
	} {
		faulttest.Want(t, ask(args...), fault.Usage, word)
	}
	if d.out.String() != "" {
		t.Errorf("an answer of nothing: %s", d.out)
	}
	if err := ask("-h"); err != nil || !strings.Contains(d.out.String(), "cc-install attest") {
		t.Errorf("%v, %s", err, d.out)
	}
}
