package tpm_test

// What green does not prove: digests here are computed with no TPM. They are
// held against tokens that systemd 252 and 257 enrolled with an emulated one;
// no hardware TPM is here, and some may not take an RSA key with its exponent
// written out.

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"

	"cc-base/tasks/tpm"
)

// samplePublic is the tpm2_srk of the recorded tokens from its TPM2B_PUBLIC on,
// sampleName its name there.
const (
	samplePublic = "AFoAIwALAAMEcgAAAAYAgABDABAAAwAQACBLdozmOsQ0fKMczREnKk0IdpspCQTocRIkNHM9/0c7xQAgWKBsdPNVhVwa5M6lqEfXuRhMkCx4tb7NMDdiM0XAW10="
	sampleName   = "000b703f886833bad0b0a402e9eaa1c949f8824d672c4d229015997a622807ce878d"
)

func fromBase64(t testing.TB, text string) []byte {
	t.Helper()
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func newKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func publicPEM(t testing.TB, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// The recorded v252 token was enrolled with --tpm2-pcrs=7 on a TPM whose PCR 7
// nothing had extended.
func TestALiteralPolicyIsThatOfSystemd(t *testing.T) {
	t.Parallel()
	digest, err := tpm.Policy{Literal: tpm.PCRs{7: {}}}.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := hex.EncodeToString(digest[:]), "8b5682d81b29435d08d79278150611dc7e5923b2fefcce684a09577b40130a8b"; got != want {
		t.Errorf("got %s, systemd 252 wrote %s", got, want)
	}
	if tpm.PCRPolicy(tpm.PCRs{7: {}}) != digest {
		t.Error("what is signed is not the policy of the same values alone")
	}
}

func TestEveryPartOfAPolicyCounts(t *testing.T) {
	t.Parallel()
	one, two := newKey(t), newKey(t)
	policies := []tpm.Policy{
		{Literal: tpm.PCRs{7: {}}},
		{Literal: tpm.PCRs{7: {1}}},
		{Literal: tpm.PCRs{8: {}}},
		{Literal: tpm.PCRs{7: {}, 8: {}}},
		{Literal: tpm.PCRs{7: {1}, 8: {}}},
		{Literal: tpm.PCRs{7: {}, 8: {1}}},
		{Key: &one.PublicKey, SignedPCRs: []int{11}},
		{Key: &two.PublicKey, SignedPCRs: []int{11}},
		{Key: &one.PublicKey, SignedPCRs: []int{11}, Literal: tpm.PCRs{7: {}}},
	}
	seen := map[[32]byte]int{}
	for i, p := range policies {
		digest, err := p.Digest()
		if err != nil {
			t.Fatal(err)
		}
		if j, twice := seen[digest]; twice {
			t.Errorf("policies %d and %d have one digest", j, i)
		}
		seen[digest] = i
	}
}

func TestAPolicyThatBindsNothingIsRefused(t *testing.T) {
	t.Parallel()
	key := &newKey(t).PublicKey
	for name, p := range map[string]tpm.Policy{
		"empty":                {},
		"key signs nothing":    {Key: key, Literal: tpm.PCRs{7: {}}},
		"signed by nobody":     {SignedPCRs: []int{11}, Literal: tpm.PCRs{7: {}}},
		"no such PCR":          {Literal: tpm.PCRs{24: {}}},
		"negative PCR":         {Literal: tpm.PCRs{-1: {}}},
		"no such signed PCR":   {Key: key, SignedPCRs: []int{24}},
		"another exponent":     {Key: &rsa.PublicKey{N: key.N, E: 3}, SignedPCRs: []int{11}},
		"a key that is short":  {Key: &rsa.PublicKey{N: new(big.Int).Rsh(key.N, 1024), E: 65537}, SignedPCRs: []int{11}},
		"a key with no number": {Key: &rsa.PublicKey{}, SignedPCRs: []int{11}},
	} {
		if digest, err := p.Digest(); err == nil {
			t.Errorf("%s: %x", name, digest)
		}
	}
}

func TestAnUnmeasuredBankIsNotSane(t *testing.T) {
	t.Parallel()
	var ones [32]byte
	for i := range ones {
		ones[i] = 0xff
	}
	for name, tt := range map[string]struct {
		pcrs tpm.PCRs
		sane bool
	}{
		"measured":              {tpm.PCRs{0: {1}, 7: {2}}, true},
		"PCR 0 zero":            {tpm.PCRs{0: {}, 7: {2}}, false},
		"PCR 7 zero":            {tpm.PCRs{0: {1}, 7: {}}, false},
		"PCR 4 ones":            {tpm.PCRs{0: {1}, 4: ones}, false},
		"nobody need write 12":  {tpm.PCRs{0: {1}, 12: {}}, true},
		"17 is ones on its own": {tpm.PCRs{0: {1}, 17: ones}, true},
		"only the last bit":     {tpm.PCRs{0: {31: 1}}, true},
	} {
		if err := tt.pcrs.Sane(); (err == nil) != tt.sane || err != nil && !errors.Is(err, tpm.ErrBank) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSignaturesAreDeterministicAndSurviveARound(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	sigs, err := tpm.SignPCR11(key, [32]byte{1}, [32]byte{2}, [32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(sigs["sha256"]); n != 2 {
		t.Errorf("%d signatures of two values", n)
	}
	text, err := sigs.Encode()
	if err != nil {
		t.Fatal(err)
	}
	read, err := tpm.ParseSignatures(text)
	if err != nil {
		t.Fatal(err)
	}
	again, err := read.Encode()
	if err != nil || string(again) != string(text) {
		t.Errorf("%v\n%s\n%s", err, text, again)
	}
	other, err := tpm.SignPCR11(key, [32]byte{1}, [32]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	if same, _ := other.Encode(); string(same) != string(text) {
		t.Error("the same key and values give other bytes")
	}
	if _, err := tpm.SignPCR11(key); err == nil {
		t.Error("nothing was signed")
	}
	var none tpm.Signatures
	if empty, err := none.Encode(); err != nil || string(empty) != "{}" {
		t.Errorf("%s, %v", empty, err)
	}
}

const someSignature = `{"sha256":[{"pcrs":[11],"pkfp":"8b5682d81b29435d08d79278150611dc7e5923b2fefcce684a09577b40130a8b",` +
	`"pol":"8b5682d81b29435d08d79278150611dc7e5923b2fefcce684a09577b40130a8b","sig":"AAEC"}]}`

func TestMalformedSignaturesAreRefused(t *testing.T) {
	t.Parallel()
	if _, err := tpm.ParseSignatures([]byte(someSignature)); err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{
		{`[11]`, `[24]`}, {`[11]`, `[-1]`}, {`[11]`, `[]`}, {`[11]`, `"11"`},
		{`"pkfp":"8b`, `"pkfp":"`}, {`"pkfp":"8b`, `"pkfp":"zz`}, {`"pol"`, `"x"`}, {`"sig":"AAEC"`, `"sig":""`}, {`"AAEC"`, `"!"`},
		{`{"sha256"`, `[{"sha256"`}, {someSignature, `null`}, {someSignature, ``}, {someSignature, strings.Repeat(" ", 2<<20)},
	} {
		text := strings.Replace(someSignature, change[0], change[1], 1)
		if text == someSignature {
			t.Fatalf("%v changes nothing", change)
		}
		if _, err := tpm.ParseSignatures([]byte(text)); err == nil {
			t.Errorf("%s became %s and was read", change[0], change[1])
		}
	}
}

func TestAStorageRootKeyIsReadInBothForms(t *testing.T) {
	t.Parallel()
	public := fromBase64(t, samplePublic)
	got, err := tpm.ParseSRKPublic(public)
	if err != nil || string(got) != string(public) {
		t.Fatalf("%x, %v", got, err)
	}
	x, y := new(big.Int).SetBytes(public[26:58]), new(big.Int).SetBytes(public[60:])
	text := publicPEM(t, &ecdsa.PublicKey{Curve: elliptic.P256(), X: x, Y: y})
	if got, err := tpm.ParseSRKPublic(append([]byte("\n"), text...)); err != nil || string(got) != string(public) {
		t.Errorf("from PEM: %x, %v", got, err)
	}

	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	change := func(at int, to byte) []byte {
		data := append([]byte(nil), public...)
		data[at] = to
		return data
	}
	for name, file := range map[string][]byte{
		"empty":            {},
		"too short":        public[:len(public)-1],
		"too long":         append(append([]byte(nil), public...), 0),
		"other attributes": change(8, 0x52),
		"other algorithm":  change(3, 0x01),
		"length of x":      change(25, 0x1f),
		"off the curve":    change(91, public[91]^1),
		"RSA in PEM":       publicPEM(t, &newKey(t).PublicKey),
		"P-384 in PEM":     publicPEM(t, &p384.PublicKey),
		"two keys in PEM":  append(append([]byte(nil), text...), text...),
		"cut PEM":          text[:60],
		"no PEM":           []byte("-----BEGIN"),
	} {
		if got, err := tpm.ParseSRKPublic(file); err == nil {
			t.Errorf("%s: read as %x", name, got)
		}
	}
}

func TestSealingForATPMElsewhereIsRandomAndHidesTheSecret(t *testing.T) {
	t.Parallel()
	public := fromBase64(t, samplePublic)
	secret := []byte("a secret of 32 bytes, no more...")
	one, err := tpm.SealTo(public, secret, [32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	two, err := tpm.SealTo(public, secret, [32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	if string(one.Public) == string(two.Public) || string(one.Private) == string(two.Private) || string(one.Seed) == string(two.Seed) {
		t.Error("sealed twice, a part is the same")
	}
	if all := string(one.Private) + string(one.Public) + string(one.Seed); strings.Contains(all, string(secret)) {
		t.Error("the secret is in the object")
	}
	for name, err := range map[string]error{
		"no policy":  second(tpm.SealTo(public, secret, [32]byte{})),
		"no secret":  second(tpm.SealTo(public, nil, [32]byte{1})),
		"too long":   second(tpm.SealTo(public, make([]byte, 129), [32]byte{1})),
		"not an SRK": second(tpm.SealTo(public[:90], secret, [32]byte{1})),
	} {
		if err == nil || strings.Contains(err.Error(), string(secret)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestTheResourceManagerIsPreferred(t *testing.T) {
	t.Parallel()
	there := func(names ...string) func(string) bool {
		return func(name string) bool { return strings.Contains(strings.Join(names, " ")+" ", name+" ") }
	}
	for _, tt := range []struct {
		device string
		exists func(string) bool
		want   string
	}{
		{"/dev/tpm0", there("/dev/tpm0", "/dev/tpmrm0"), "/dev/tpmrm0"},
		{"/dev/tpm0", there("/dev/tpm0"), "/dev/tpm0"},
		{"/dev/tpm1", there("/dev/tpm1", "/dev/tpmrm0"), "/dev/tpm1"},
		{"/dev/tpmrm0", there("/dev/tpmrm0", "/dev/tpmrmrm0"), "/dev/tpmrm0"},
		{"/dev/tpm", there("/dev/tpmrm"), "/dev/tpm"},
		{"/srv/tpm0", there("/dev/tpmrm0"), "/srv/tpm0"},
	} {
		if got := tpm.Managed(tt.device, tt.exists); got != tt.want {
			t.Errorf("%s: %s, not %s", tt.device, got, tt.want)
		}
	}
}

func FuzzParseSignatures(f *testing.F) {
	f.Add([]byte(someSignature))
	f.Add([]byte(`{"sha1":[],"sha256":null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		sigs, err := tpm.ParseSignatures(text)
		if err != nil {
			return
		}
		once, err := sigs.Encode()
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		again, err := tpm.ParseSignatures(once)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v\n%s", err, once)
		}
		if twice, err := again.Encode(); err != nil || string(twice) != string(once) {
			t.Fatalf("%v\n%s\n%s", err, once, twice)
		}
	})
}

func FuzzParseSRKPublic(f *testing.F) {
	public := fromBase64(f, samplePublic)
	f.Add(public)
	f.Add(publicPEM(f, &newKey(f).PublicKey))
	f.Fuzz(func(t *testing.T, file []byte) {
		got, err := tpm.ParseSRKPublic(file)
		if err != nil {
			return
		}
		if again, err := tpm.ParseSRKPublic(got); err != nil || string(again) != string(got) {
			t.Fatalf("%x is read as %x, %v", got, again, err)
		}
		if _, err := tpm.SealTo(got, []byte("x"), [32]byte{1}); err != nil {
			t.Fatalf("nothing can be sealed to %x: %v", got, err)
		}
	})
}
