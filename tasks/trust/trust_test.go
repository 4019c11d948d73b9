package trust

// What green does not prove: that a fingerprint in a trust file is that of whom
// its owner means, that this machine's clock is right, and that nobody has stolen
// a private key.

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/sign"
)

const (
	one = "0123456789ABCDEF0123456789ABCDEF01234567"
	two = "89ABCDEF0123456789ABCDEF0123456789ABCDEF"
)

func TestRulesAreRead(t *testing.T) {
	t.Parallel()
	got, err := Parse("trust", "# ours\n\nkey "+one+" until 2027-06-30\n\tkey "+strings.ToLower(two)+"  # no end\nrevoked "+two+"\nminimum-epoch 1764115200\nallow-unsigned\n")
	if err != nil {
		t.Fatal(err)
	}
	want := Rules{
		Keys:         map[string]time.Time{one: time.Date(2027, 7, 1, 0, 0, 0, 0, time.UTC), two: {}},
		Revoked:      map[string]bool{two: true},
		MinimumEpoch: 1764115200, AllowUnsigned: true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAnEmptyFileTrustsNobody(t *testing.T) {
	t.Parallel()
	r, err := Parse("trust", "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Signed(nil, nil, strings.NewReader("x"), time.Now())
	faulttest.Want(t, err, fault.TrustUnsigned)
}

func TestEveryWrongLineIsNamed(t *testing.T) {
	t.Parallel()
	lines := []string{
		"key", "key " + one[1:], "key " + one + " until", "key " + one + " until 2027-13-01", "key " + one + " till 2027-01-01",
		"Key " + one, "revoked", "revoked xyz", "revoked " + one + " " + two, "minimum-epoch", "minimum-epoch -1", "minimum-epoch 0",
		"minimum-epoch tomorrow", "allow-unsigned yes", "allow-everything", "key " + strings.Repeat("G", 40),
	}
	for _, line := range lines {
		_, err := Parse("trust", "\n"+line)
		faulttest.Want(t, err, fault.TrustFile, "trust:2: ")
	}
	_, err := Parse("trust", strings.Join(lines, "\n"))
	faulttest.Want(t, err, fault.TrustFile, "trust:1: ", "trust:16: ")
	_, err = Parse("trust", "key "+one+"\nkey "+one+" until 2027-01-01\nminimum-epoch 1\nminimum-epoch 2")
	faulttest.Want(t, err, fault.TrustFile, "trust:2: ", "trust:4: ", "twice")
}

func TestAFileThatIsNoneIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	big := filepath.Join(dir, "big")
	filetest.Write(t, big, make([]byte, maxFile+1))
	for _, file := range []string{dir, big, filepath.Join(dir, "missing")} {
		_, err := Read(file)
		faulttest.Want(t, err, fault.TrustFile)
	}
	r, err := Read(filetest.Write(t, filepath.Join(dir, "trust"), []byte("allow-unsigned\n")))
	if err != nil || !r.AllowUnsigned {
		t.Error(r, err)
	}
}

// signer makes a key and returns it with its public half.
func signer(t *testing.T, spec sign.Spec) (*sign.Key, []byte) {
	t.Helper()
	dir := t.TempDir()
	spec.Name = "tester"
	k, err := sign.GenerateKey(dir, spec)
	if err != nil {
		t.Fatal(err)
	}
	public, err := os.ReadFile(filepath.Join(dir, sign.PublicName))
	if err != nil {
		t.Fatal(err)
	}
	return k, public
}

func TestSignaturesAreJudged(t *testing.T) {
	t.Parallel()
	now := time.Now()
	k, public := signer(t, sign.Spec{})
	_, foreign := signer(t, sign.Spec{})
	short := sign.Spec{Created: now.Truncate(time.Second), Lifetime: 2 * time.Second}
	over, overPublic := signer(t, short)
	signature := func(k *sign.Key, at time.Time) []byte {
		var b bytes.Buffer
		if err := k.Detach(&b, strings.NewReader("installer"), at); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	good, late := signature(k, time.Time{}), signature(over, time.Time{})
	time.Sleep(time.Until(short.Created.Add(short.Lifetime + time.Second)))
	today, yesterday := now.UTC().Format(time.DateOnly), now.UTC().AddDate(0, 0, -1).Format(time.DateOnly)
	both := append(bytes.Clone(foreign), public...)
	for name, tc := range map[string]struct {
		rules           string
		keys, signature []byte
		text            string
		code            fault.Code // empty for accepted
	}{
		"a trusted key":                      {"key " + k.Fingerprint(), public, good, "installer", ""},
		"on its last day":                    {"key " + k.Fingerprint() + " until " + today, public, good, "installer", ""},
		"the day after":                      {"key " + k.Fingerprint() + " until " + yesterday, public, good, "installer", fault.TrustExpired},
		"no rule for the key":                {"key " + one, public, good, "installer", fault.TrustUnknown},
		"a key that nobody gave":             {"key " + k.Fingerprint(), foreign, good, "installer", fault.TrustUnknown},
		"a revoked key":                      {"revoked " + k.Fingerprint(), public, good, "installer", fault.TrustRevoked},
		"revoked and allowed":                {"key " + k.Fingerprint() + "\nrevoked " + k.Fingerprint(), public, good, "installer", fault.TrustRevoked},
		"another text":                       {"key " + k.Fingerprint(), public, good, "installes", fault.TrustSignature},
		"a shorter text":                     {"key " + k.Fingerprint(), public, good, "install", fault.TrustSignature},
		"no signature in the file":           {"key " + k.Fingerprint(), public, []byte{}, "installer", fault.TrustSignature},
		"unsigned is allowed, this is bad":   {"allow-unsigned", public, good, "installes", fault.TrustSignature},
		"unsigned is allowed, not this key":  {"allow-unsigned", public, good, "installer", fault.TrustUnknown},
		"unsigned":                           {"key " + k.Fingerprint(), public, nil, "installer", fault.TrustUnsigned},
		"unsigned and allowed":               {"allow-unsigned", public, nil, "installer", ""},
		"a key whose own lifetime is over":   {"key " + over.Fingerprint(), overPublic, late, "installer", fault.TrustExpired},
		"something that is not a public key": {"key " + k.Fingerprint(), []byte("key"), good, "installer", fault.SigningKey},
		"the first of two blocks counts":     {"key " + k.Fingerprint(), both, good, "installer", fault.TrustUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Parse("trust", tc.rules)
			if err != nil {
				t.Fatal(err)
			}
			s, err := r.Signed(tc.keys, tc.signature, strings.NewReader(tc.text), now)
			if tc.code != "" {
				faulttest.Want(t, err, tc.code)
				return
			}
			if err != nil || tc.signature != nil && s.Fingerprint != k.Fingerprint() {
				t.Error(s, err)
			}
		})
	}
}

func TestAnOlderImageIsRefused(t *testing.T) {
	t.Parallel()
	r := Rules{MinimumEpoch: 1764115200}
	for epoch, ok := range map[int64]bool{1764115200: true, 1764115201: true, 1764115199: false, 0: false} {
		err := r.Epoch(epoch)
		if ok && err != nil {
			t.Error(epoch, err)
		}
		if !ok {
			faulttest.Want(t, err, fault.TrustOld, "2025-11-26")
		}
	}
	if err := (Rules{}).Epoch(0); err != nil {
		t.Error(err)
	}
}
