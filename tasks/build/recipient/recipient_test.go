package recipient_test

// What green does not prove: that the person who holds the key can still use
// it, or is who the user ID says. GnuPG decrypts here with keys that it made
// itself, in the version of the tools tree.

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"cc-base/overlays/cc-guest/settings"
	"cc-base/tasks/build/recipient"
	"cc-base/tasks/filetest"
	"cc-base/tasks/lab"
	"cc-base/tasks/sh"
)

var secret = []byte("cbdefghi-jklnrtuv-cccccccc-vvvvvvvv-cbcbcbcb-hijklnrt-ulkjihgf-edbcvutr")

// entity makes a key; change may spoil it before it is signed.
func entity(t testing.TB, config packet.Config) *openpgp.Entity {
	t.Helper()
	config.Algorithm = packet.PubKeyAlgoEdDSA
	e, err := openpgp.NewEntity("Operator", "", "operator@site.invalid", &config)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func public(t testing.TB, entities ...*openpgp.Entity) []byte {
	t.Helper()
	return block(t, openpgp.PublicKeyType, func(b *bytes.Buffer) error {
		for _, e := range entities {
			if err := e.Serialize(b); err != nil {
				return err
			}
		}
		return nil
	})
}

func block(t testing.TB, kind string, fill func(*bytes.Buffer) error) []byte {
	t.Helper()
	var raw, text bytes.Buffer
	if err := fill(&raw); err != nil {
		t.Fatal(err)
	}
	w, err := armor.Encode(&text, kind, map[string]string{"Comment": "exported by hand"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(raw.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return append(text.Bytes(), '\n')
}

func TestOnlyTheRecipientsReadTheMessage(t *testing.T) {
	t.Parallel()
	a, b, c := entity(t, packet.Config{}), entity(t, packet.Config{}), entity(t, packet.Config{})
	var to []recipient.Recipient
	for _, e := range []*openpgp.Entity{a, b} {
		r, err := recipient.Parse(public(t, e))
		if err != nil {
			t.Fatal(err)
		}
		to = append(to, r)
	}
	if to[0].Identity() != "Operator <operator@site.invalid>" || len(to[0].Fingerprint()) != 40 {
		t.Errorf("%s, %s", to[0].Identity(), to[0].Fingerprint())
	}
	var message bytes.Buffer
	if err := recipient.Encrypt(&message, secret, to...); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(message.String(), "-----BEGIN PGP MESSAGE-----\n") || !strings.HasSuffix(message.String(), "-----END PGP MESSAGE-----\n") || bytes.Contains(message.Bytes(), secret[:8]) {
		t.Errorf("not an armoured message:\n%s", message.String())
	}
	for name, e := range map[string]*openpgp.Entity{"a": a, "b": b, "c": c} {
		raw, err := armor.Decode(bytes.NewReader(message.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		md, err := openpgp.ReadMessage(raw.Body, openpgp.EntityList{e}, nil, nil)
		if name == "c" {
			if err == nil {
				t.Error("a stranger reads it")
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got bytes.Buffer
		if _, err := got.ReadFrom(md.UnverifiedBody); err != nil || !bytes.Equal(got.Bytes(), secret) {
			t.Errorf("%s reads %d bytes, %v", name, got.Len(), err)
		}
	}
	if err := recipient.Encrypt(&message, secret); err == nil {
		t.Error("nobody is a recipient, too")
	}
}

func TestTheArmouredFormIsOneAndTheGuestTakesIt(t *testing.T) {
	t.Parallel()
	text := public(t, entity(t, packet.Config{}))
	r, err := recipient.Parse(append([]byte("my key, of last year:\r\n\r\n"), text...))
	if err != nil {
		t.Fatal(err)
	}
	one, err := r.Armoured()
	if err != nil {
		t.Fatal(err)
	}
	again, err := recipient.Parse([]byte(one))
	if err != nil {
		t.Fatal(err)
	}
	if two, err := again.Armoured(); err != nil || two != one || strings.Contains(one, "by hand") {
		t.Errorf("read back it is another text, %v:\n%s", err, one)
	}
	s := settings.Default()
	s.Keys.RecoveryRecipients = []string{one}
	if _, err := settings.Encode(s); err != nil {
		t.Error(err)
	}
}

func TestAKeyThatNothingCanBeEncryptedToIsRefused(t *testing.T) {
	t.Parallel()
	signing := entity(t, packet.Config{})
	signing.Subkeys = nil
	expired := entity(t, packet.Config{KeyLifetimeSecs: 60, Time: func() time.Time { return time.Now().Add(-time.Hour) }})
	revoked := entity(t, packet.Config{})
	if err := revoked.RevokeKey(packet.KeyCompromised, "lost", nil); err != nil {
		t.Fatal(err)
	}
	good := entity(t, packet.Config{})
	text := public(t, good)
	for name, tc := range map[string]struct {
		text []byte
		says string
	}{
		"for signing only": {public(t, signing), "signing only"},
		"expired":          {public(t, expired), "expired"},
		"revoked":          {public(t, revoked), "revoked"},
		"two keys":         {public(t, good, entity(t, packet.Config{})), "holds 2 keys"},
		"a private key":    {block(t, openpgp.PrivateKeyType, func(b *bytes.Buffer) error { return good.SerializePrivate(b, nil) }), "a private key"},
		"a message":        {block(t, "PGP MESSAGE", func(b *bytes.Buffer) error { return good.Serialize(b) }), "not an OpenPGP public key"},
		"nothing":          {nil, "not an armoured"},
		"not armoured":     {[]byte("ssh-ed25519 AAAA"), "not an armoured"},
		"cut off":          {text[:len(text)/2], "not an"},
		"no key in it":     {block(t, openpgp.PublicKeyType, func(*bytes.Buffer) error { return nil }), ""},
	} {
		if _, err := recipient.Parse(tc.text); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	big := filetest.Write(t, filepath.Join(t.TempDir(), "big.asc"), bytes.Repeat([]byte("x"), 1<<20+1))
	if _, err := recipient.Read(big); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("a huge file: %v", err)
	}
	if _, err := recipient.Read(filepath.Join(t.TempDir(), "none.asc")); !os.IsNotExist(err) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	good := public(f, entity(f, packet.Config{}))
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n-----END PGP PUBLIC KEY BLOCK-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := recipient.Parse(text)
		if err != nil {
			return
		}
		one, err := r.Armoured()
		if err != nil {
			t.Fatal(err)
		}
		again, err := recipient.Parse([]byte(one))
		if err != nil || again.Fingerprint() != r.Fingerprint() {
			t.Fatalf("its own form is another key: %v", err)
		}
	})
}

func TestGnuPGReadsTheMessageWithAKeyOfItsOwn(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"rsa3072", "future-default"} {
		run, dir := lab.Tools(t)
		home := filepath.Join(dir, "h")
		if err := os.Mkdir(home, 0o700); err != nil {
			t.Fatal(err)
		}
		gpg := func(stdin []byte, args ...string) []byte {
			t.Helper()
			var out bytes.Buffer
			err := run.Run(t.Context(), sh.Cmd{
				Name: "gpg", Args: append([]string{"--batch", "--quiet", "--pinentry-mode=loopback", "--passphrase="}, args...),
				Env: []string{"GNUPGHOME=" + home}, Stdin: bytes.NewReader(stdin), Stdout: &out,
			})
			if err != nil {
				t.Fatalf("%s: %v", kind, err)
			}
			return out.Bytes()
		}
		gpg(nil, "--quick-gen-key", "Operator <operator@site.invalid>", kind, "default", "never")
		if kind == "rsa3072" {
			// --quick-gen-key with one algorithm makes a key for signing only.
			list := string(gpg(nil, "--with-colons", "--list-keys"))
			_, rest, _ := strings.Cut(list, "\nfpr:")
			gpg(nil, "--quick-add-key", strings.Trim(strings.SplitN(rest, "\n", 2)[0], ":"), kind, "encr", "never")
		}
		r, err := recipient.Parse(gpg(nil, "--armor", "--export"))
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		var message bytes.Buffer
		if err := recipient.Encrypt(&message, secret, r); err != nil {
			t.Fatal(err)
		}
		if got := gpg(message.Bytes(), "--decrypt"); !bytes.Equal(got, secret) {
			t.Errorf("%s: GnuPG reads %d bytes", kind, len(got))
		}
	}
}
