package evidence_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"

	snpdata "github.com/google/go-sev-guest/verify/testdata"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/tee/evidence"
)

// The numbers of docs/attestation.md, so that others can check their own code:
// written out by hand, field by field.
func TestReportDataIsWhatIsDocumented(t *testing.T) {
	t.Parallel()
	nonce, _ := hex.DecodeString("000102030405060708090a0b0c0d0e0f")
	identity := sha512.Sum512([]byte("a public key in DER"))
	var by bytes.Buffer
	by.WriteString("\x00\x00\x00\x00\x00\x00\x00\x11cc-base/attest/v1")
	by.WriteString("\x00\x00\x00\x00\x00\x00\x00\x10")
	by.Write(nonce)
	by.WriteString("\x00\x00\x00\x00\x00\x00\x00\x40")
	by.Write(identity[:])
	got := evidence.ReportData(nonce, evidence.IdentityHash([]byte("a public key in DER")))
	if got != sha512.Sum512(by.Bytes()) {
		t.Errorf("%x", got)
	}
	const documented = "093489e316d1b4c5bf882bf9d9baf91a54f057f61a1d483b3668a9569527031106a00f271653ded5be38b71c650f4f74e29d85a19716bee5d363ebcb68b1d016"
	if hex.EncodeToString(got[:]) != documented || !strings.Contains(string(filetest.Read(t, "../../../docs/attestation.md")), documented) {
		t.Errorf("docs/attestation.md says otherwise: %x", got)
	}
}

func TestNoTwoQuestionsHaveTheSameReportData(t *testing.T) {
	t.Parallel()
	a, b := sha512.Sum512([]byte("a")), sha512.Sum512([]byte("b"))
	seen := map[[64]byte]string{}
	for name, data := range map[string][64]byte{
		"a":              evidence.ReportData([]byte("nonce"), a),
		"another key":    evidence.ReportData([]byte("nonce"), b),
		"another nonce":  evidence.ReportData([]byte("nonc"), a),
		"a longer nonce": evidence.ReportData(append([]byte("nonce"), a[:]...), a),
		"no nonce":       evidence.ReportData(nil, a),
	} {
		if other, twice := seen[data]; twice {
			t.Errorf("%s and %s are the same", name, other)
		}
		seen[data] = name
	}
}

func TestNonces(t *testing.T) {
	t.Parallel()
	for _, n := range []int{evidence.MinNonce, 32, evidence.MaxNonce} {
		if nonce, err := evidence.ParseNonce(strings.Repeat("aB", n)); err != nil || len(nonce) != n {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	for _, text := range []string{"", "00", strings.Repeat("00", evidence.MinNonce-1), strings.Repeat("00", evidence.MaxNonce+1), strings.Repeat("0", 33), strings.Repeat("xy", 16)} {
		_, err := evidence.ParseNonce(text)
		faulttest.Want(t, err, fault.Usage, "nonce")
	}
}

func TestParseAttestation(t *testing.T) {
	t.Parallel()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(a evidence.Attestation) []byte {
		text, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	whole := evidence.Attestation{Evidence: evidence.Evidence{Kind: evidence.SNP, Report: []byte{1}, Certs: []byte{2}}, Identity: der}
	got, err := evidence.ParseAttestation(append([]byte("\n"), encode(whole)...))
	if err != nil || !bytes.Equal(got.Identity, der) || got.Certs[0] != 2 || got.Kind != evidence.SNP {
		t.Errorf("%+v, %v", got, err)
	}
	// Whatever Parse reads has no identity.
	for name, data := range map[string][]byte{"JSON": encode(evidence.Attestation{Evidence: whole.Evidence}), "report": snpdata.AttestationBytes} {
		if got, err := evidence.ParseAttestation(data); err != nil || got.Identity != nil || got.Kind != evidence.SNP {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	// The protocol of key release has its own place for an identity.
	if _, err := evidence.Parse(encode(whole)); err == nil {
		t.Error("Parse reads more than evidence")
	}
	wrong := func(identity []byte) []byte {
		return encode(evidence.Attestation{Evidence: whole.Evidence, Identity: identity})
	}
	for name, data := range map[string][]byte{
		"nothing":             nil,
		"truncated":           encode(whole)[:40],
		"two objects":         append(encode(whole), '{', '}'),
		"an unknown key":      []byte(`{"kind":"snp","report":"AA==","nonce":"AA=="}`),
		"no report":           []byte(`{"kind":"snp","identity":"AA=="}`),
		"an empty identity":   []byte(`{"kind":"snp","report":"AA==","identity":""}`),
		"no key":              wrong([]byte("x")),
		"something behind it": wrong(append(bytes.Clone(der), 0)),
		"a large key":         wrong(make([]byte, 5000)),
		"a large file":        append([]byte("{"), make([]byte, 3*evidence.MaxSize)...),
	} {
		_, err := evidence.ParseAttestation(data)
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		faulttest.Want(t, err, fault.Usage, "evidence")
	}
}

func FuzzParseAttestation(f *testing.F) {
	f.Add([]byte(`{"kind":"snp","report":"AA==","identity":"MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE="}`))
	f.Add(snpdata.AttestationBytes)
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := evidence.ParseAttestation(data)
		if err != nil {
			return
		}
		if err := a.Check(); err != nil {
			t.Errorf("accepted, but %v", err)
		}
		if _, err := x509.ParsePKIXPublicKey(a.Identity); a.Identity != nil && err != nil {
			t.Errorf("accepted, but %v", err)
		}
	})
}
