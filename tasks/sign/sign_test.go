package sign

// What green does not prove: signatures are checked by this package and by the
// GnuPG of the machine that runs the tests, not by every version in the field.
// Wiping is tested for the numbers that the library shows; copies that the
// library or the garbage collector made are out of reach. The prompt at a
// terminal is not exercised.

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/google/go-cmp/cmp"
)

func spec() Spec {
	return Spec{Name: "cc-base project", Email: "build@cc-base.invalid", Created: time.Unix(1735689600, 0)}
}

func newKey(t *testing.T, s Spec) *Key {
	t.Helper()
	e, err := newEntity(s)
	if err != nil {
		t.Fatal(err)
	}
	return &Key{entity: e}
}

func public(t *testing.T, k *Key) []byte {
	t.Helper()
	pub, err := k.Public()
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

func detach(t *testing.T, k *Key, data []byte, at time.Time) []byte {
	t.Helper()
	var sig bytes.Buffer
	if err := k.Detach(&sig, bytes.NewReader(data), at); err != nil {
		t.Fatal(err)
	}
	return sig.Bytes()
}

func TestSignatureOfItsOwnVerifies(t *testing.T) {
	t.Parallel()
	k := newKey(t, spec())
	got, err := Verify(public(t, k), strings.NewReader("data"), detach(t, k, []byte("data"), time.Unix(1740000000, 0)))
	if err != nil {
		t.Fatal(err)
	}
	want := Signature{Fingerprint: k.Fingerprint(), Identity: "cc-base project <build@cc-base.invalid>", Time: time.Unix(1740000000, 0)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("signature (-want +got):\n%s", diff)
	}
	if len(got.Fingerprint) != 40 {
		t.Errorf("fingerprint %s is not of a version 4 key", got.Fingerprint)
	}
}

func TestSameTimeGivesTheSameSignatureAndNowDoesNot(t *testing.T) {
	t.Parallel()
	k := newKey(t, spec())
	at := spec().Created
	if !bytes.Equal(detach(t, k, []byte("data"), at), detach(t, k, []byte("data"), at)) {
		t.Error("with a given time two signatures differ")
	}
	if bytes.Equal(detach(t, k, []byte("data"), time.Time{}), detach(t, k, []byte("data"), time.Time{})) {
		t.Error("without one, nothing random is in them")
	}
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	k, other := newKey(t, spec()), newKey(t, spec())
	pub, data := public(t, k), []byte("data")
	sig := detach(t, k, data, time.Time{})
	broken := bytes.Clone(sig)
	broken[len(broken)/2] ^= 0x80
	block, err := armor.Decode(bytes.NewReader(sig))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(block.Body)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)-1] ^= 1 // the last byte of the signature's second number
	var flipped bytes.Buffer
	if err := armoured(&flipped, openpgp.SignatureType, func(w io.Writer) error { _, err := w.Write(raw); return err }); err != nil {
		t.Fatal(err)
	}
	text := func() []byte {
		var b bytes.Buffer
		err := openpgp.ArmoredDetachSignText(&b, k.entity, bytes.NewReader(data), &packet.Config{DefaultHash: crypto.SHA256})
		if err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	short := spec()
	short.Lifetime = time.Hour
	expired := newKey(t, short)
	var old bytes.Buffer
	at := short.Created.Add(time.Minute)
	err = openpgp.ArmoredDetachSign(&old, expired.entity, bytes.NewReader(data), &packet.Config{Time: func() time.Time { return at }})
	if err != nil {
		t.Fatal(err)
	}
	var private bytes.Buffer
	if err := armoured(&private, openpgp.PrivateKeyType, func(w io.Writer) error { return k.entity.SerializePrivateWithoutSigning(w, nil) }); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		pub, data, sig []byte
		code           fault.Code
		text           string
	}{
		"another key's signature":     {public(t, other), data, sig, fault.Damaged, "another key"},
		"a flipped bit in the data":   {pub, []byte("dat`"), sig, fault.Damaged, "signature"},
		"data that goes on":           {pub, []byte("data\n"), sig, fault.Damaged, "signature"},
		"no data":                     {pub, nil, sig, fault.Damaged, "signature"},
		"a flipped bit in the armour": {pub, data, broken, fault.Damaged, "signature"},
		"a flipped bit inside":        {pub, data, flipped.Bytes(), fault.Damaged, "verification failure"},
		"half a signature":            {pub, data, sig[:len(sig)/2], fault.Damaged, "signature"},
		"an empty signature":          {pub, data, nil, fault.Damaged, "not armoured"},
		"a key as signature":          {pub, data, pub, fault.Damaged, "block"},
		"a text signature":            {pub, data, text(), fault.Damaged, "not a binary document"},
		"an expired key":              {public(t, expired), data, old.Bytes(), fault.Damaged, "expired"},
		"a private key as public":     {private.Bytes(), data, sig, fault.SigningKey, "block"},
		"no key":                      {nil, data, sig, fault.SigningKey, "public key"},
	} {
		got, err := Verify(tc.pub, bytes.NewReader(tc.data), tc.sig)
		if err == nil || got != (Signature{}) {
			t.Errorf("%s: accepted", name)
			continue
		}
		faulttest.Want(t, err, tc.code, tc.text)
	}
}

func TestNoChangeOfTheArmourMakesOtherDataPass(t *testing.T) {
	t.Parallel()
	k := newKey(t, spec())
	pub, sig := public(t, k), detach(t, k, []byte("data"), time.Time{})
	for i := range sig {
		bad := bytes.Clone(sig)
		bad[i] ^= 1
		// Some changes only touch the dress (line ends, checksum): what must
		// never pass is other data.
		if _, err := Verify(pub, strings.NewReader("datb"), bad); err == nil {
			t.Errorf("byte %d: other data accepted", i)
		}
	}
}

func TestDetachRefusesAKeyOutsideItsTime(t *testing.T) {
	t.Parallel()
	short := spec()
	short.Lifetime = time.Hour
	var sink bytes.Buffer
	err := newKey(t, short).Detach(&sink, strings.NewReader("x"), short.Created.Add(time.Minute))
	faulttest.Want(t, err, fault.Signing, "cannot sign today")
	err = newKey(t, spec()).Detach(&sink, strings.NewReader("x"), spec().Created.Add(-time.Second))
	faulttest.Want(t, err, fault.Signing, "not valid at the time")
	k := newKey(t, spec())
	k.Wipe()
	faulttest.Want(t, k.Detach(&sink, strings.NewReader("x"), time.Time{}), fault.Signing, "")
	if sink.Len() > 0 && strings.Contains(sink.String(), "END PGP") {
		t.Error("a whole signature was written all the same")
	}
}

func TestSignFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "b.tar.gz")
	if err := os.WriteFile(path, []byte("data"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".asc", []byte("stale"), 0o644); err != nil {
		t.Fatal(err)
	}
	k := newKey(t, spec())
	ctx, cancel := context.WithCancel(context.Background())
	if err := k.SignFile(ctx, path, time.Time{}); err != nil {
		t.Fatal(err)
	}
	sig, err := os.ReadFile(path + ".asc")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(public(t, k), strings.NewReader("data"), sig); err != nil {
		t.Error(err)
	}
	filetest.Only(t, dir, "b.tar.gz", "b.tar.gz.asc")
	cancel()
	if err := k.SignFile(ctx, path, time.Time{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	filetest.Only(t, dir, "b.tar.gz")
	faulttest.Want(t, k.SignFile(context.Background(), path+"x", time.Time{}), fault.Signing, "no such file")
	for want := range 2 {
		if want == 0 {
			if err := os.WriteFile(path+".asc", nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if removed, err := Unsign(path); err != nil || removed != (want == 0) {
			t.Errorf("Unsign: %v, %v", removed, err)
		}
	}
}

// gpg runs GnuPG with a home folder of the test's own.
func gpg(t *testing.T, home string, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath("gpg"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	cmd := exec.Command("gpg", append([]string{"--homedir", home, "--batch", "--no-tty", "--status-fd", "1"}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// gpgHome makes a home folder; its path must be short, because the agent's
// socket lies in it and a socket's path has 107 bytes at most.
func gpgHome(t *testing.T) string {
	t.Helper()
	home, err := os.MkdirTemp(t.TempDir(), "g")
	if err != nil {
		t.Fatal(err)
	}
	// Or the agent stretches passphrases for as long as this machine can bear.
	if err := os.WriteFile(filepath.Join(home, "gpg-agent.conf"), []byte("s2k-count 65536\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run() })
	return home
}

func TestGnuPGAcceptsOurSignatureAndNoOther(t *testing.T) {
	t.Parallel()
	dir, home := t.TempDir(), gpgHome(t)
	k, err := GenerateKey(filepath.Join(dir, "keys"), spec())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "b.tar.gz")
	if err := os.WriteFile(path, bytes.Repeat([]byte("data"), 1<<18), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := gpg(t, home, "--import", filepath.Join(dir, "keys", PublicName)); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, at := range map[string]time.Time{"now": {}, "then": spec().Created} {
		if err := k.SignFile(context.Background(), path, at); err != nil {
			t.Fatal(err)
		}
		out, err := gpg(t, home, "--verify", path+".asc", path)
		if err != nil || !strings.Contains(out, "[GNUPG:] VALIDSIG "+k.Fingerprint()) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		if strings.Contains(strings.ToLower(out), "time warp") || strings.Contains(out, "future") {
			t.Errorf("%s: %s", name, out)
		}
	}
	if err := os.WriteFile(path, []byte("other"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := gpg(t, home, "--verify", path+".asc", path); err == nil || !strings.Contains(out, "BADSIG") {
		t.Errorf("other data: %v\n%s", err, out)
	}
}

// Keys that people have come out of GnuPG: locked, with an RSA or Ed25519
// primary, or with a signing subkey only.
func TestKeysMadeByGnuPGSign(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ algo, usage, sub string }{
		"ed25519":             {"ed25519", "sign", ""},
		"rsa":                 {"rsa3072", "sign", ""},
		"with signing subkey": {"ed25519", "cert", "ed25519"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			home, dir := gpgHome(t), t.TempDir()
			const pass = "correct horse"
			loopback := []string{"--pinentry-mode", "loopback", "--passphrase", pass}
			run := func(args ...string) string {
				t.Helper()
				out, err := gpg(t, home, append(append([]string{}, loopback...), args...)...)
				if err != nil {
					t.Fatalf("%v: %v\n%s", args, err, out)
				}
				return out
			}
			out := run("--quick-generate-key", "Release <release@cc-base.invalid>", tc.algo, tc.usage, "never")
			_, rest, ok := strings.Cut(out, "KEY_CREATED P ")
			if !ok {
				t.Fatal(out)
			}
			fingerprint := rest[:40]
			export := "--export-secret-keys"
			if tc.sub != "" {
				run("--quick-add-key", fingerprint, tc.sub, "sign", "never")
				export = "--export-secret-subkeys" // the primary's private half stays home
			}
			key, pub := filepath.Join(dir, "key.asc"), filepath.Join(dir, "pub.asc")
			run("--armor", "--output", key, export, fingerprint)
			run("--armor", "--output", pub, "--export", fingerprint)
			k, err := LoadKey(key, func() ([]byte, error) { return []byte(pass), nil })
			if err != nil {
				t.Fatal(err)
			}
			defer k.Wipe()
			if k.Fingerprint() != fingerprint {
				t.Errorf("fingerprint %s, want %s", k.Fingerprint(), fingerprint)
			}
			path := filepath.Join(dir, "data")
			if err := os.WriteFile(path, []byte("data"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := k.SignFile(context.Background(), path, time.Time{}); err != nil {
				t.Fatal(err)
			}
			if out := run("--verify", path+".asc", path); !strings.Contains(out, "VALIDSIG") {
				t.Error(out)
			}
			_, err = LoadKey(key, func() ([]byte, error) { return []byte("wrong"), nil })
			faulttest.Want(t, err, fault.SigningKey, "passphrase is wrong")
			_, err = LoadKey(pub, nil)
			faulttest.Want(t, err, fault.SigningKey, "PUBLIC KEY BLOCK")
		})
	}
}
