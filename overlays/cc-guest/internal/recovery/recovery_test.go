package recovery_test

// What green does not prove: that the people whose keys these are can still use
// them. GnuPG decrypts here with a key that it made itself, in the version of the
// tools tree.

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

	"cc-base/overlays/cc-guest/internal/recovery"
	"cc-base/tasks/lab"
	"cc-base/tasks/seal"
	"cc-base/tasks/sh"
)

// person makes a key and its armoured public half.
func person(t *testing.T, config packet.Config) (*openpgp.Entity, string) {
	t.Helper()
	if config.Algorithm == 0 {
		config.Algorithm = packet.PubKeyAlgoEdDSA
	}
	e, err := openpgp.NewEntity("Operator", "", "operator@site.invalid", &config)
	if err != nil {
		t.Fatal(err)
	}
	return e, public(t, e)
}

func public(t *testing.T, entities ...*openpgp.Entity) string {
	t.Helper()
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entities {
		if err := e.Serialize(w); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String() + "\n"
}

func read(e *openpgp.Entity, message string) (string, error) {
	raw, err := armor.Decode(strings.NewReader(message))
	if err != nil {
		return "", err
	}
	md, err := openpgp.ReadMessage(raw.Body, openpgp.EntityList{e}, nil, nil)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	_, err = b.ReadFrom(md.UnverifiedBody)
	return b.String(), err
}

func TestOnlyTheRecipientsReadTheKey(t *testing.T) {
	t.Parallel()
	a, first := person(t, packet.Config{})
	b, second := person(t, packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 2048})
	stranger, _ := person(t, packet.Config{})
	key, message, err := recovery.New([]string{first, second})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(message, "-----BEGIN PGP MESSAGE-----\n") || !strings.HasSuffix(message, "-----END PGP MESSAGE-----\n") || strings.Contains(message, string(key[:8])) {
		t.Errorf("not an armoured message:\n%s", message)
	}
	for name, e := range map[string]*openpgp.Entity{"a": a, "b": b} {
		if got, err := read(e, message); err != nil || got != string(key) {
			t.Errorf("%s reads %q, %v", name, got, err)
		}
	}
	if got, err := read(stranger, message); err == nil {
		t.Errorf("a stranger reads %q", got)
	}
	// The form is the one that people type and the build's tools take.
	if same, err := seal.NormalizeRecovery(key); err != nil || !bytes.Equal(same, key) {
		t.Errorf("%q: %v", key, err)
	}
	if again, other, err := recovery.New([]string{first, second}); err != nil || bytes.Equal(again, key) || other == message {
		t.Errorf("a second one is the same, %v", err)
	}
}

// The clock of a guest is the host's.
func TestTheClockDoesNotMatter(t *testing.T) {
	t.Parallel()
	past := func() time.Time { return time.Now().Add(-1000 * time.Hour) }
	future := func() time.Time { return time.Now().Add(1000 * time.Hour) }
	for name, config := range map[string]packet.Config{
		"expired":     {KeyLifetimeSecs: 3600, Time: past},
		"of tomorrow": {Time: future},
	} {
		e, text := person(t, config)
		key, message, err := recovery.New([]string{text})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		// Its holder can read it, whatever the date.
		for _, sub := range e.Subkeys {
			sub.Sig.KeyLifetimeSecs = nil
		}
		if got, err := read(e, message); err != nil || got != string(key) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestWhatIsNoRecipientIsAnError(t *testing.T) {
	t.Parallel()
	e, good := person(t, packet.Config{})
	signing, _ := person(t, packet.Config{})
	signing.Subkeys = nil
	for name, list := range map[string][]string{
		"nobody":                {},
		"not a key":             {"x"},
		"two in one":            {public(t, e, signing)},
		"one good, one not":     {good, ""},
		"for signing only":      {public(t, signing)},
		"a message of somebody": {"-----BEGIN PGP MESSAGE-----\n\nAAAA\n-----END PGP MESSAGE-----\n"},
	} {
		if key, message, err := recovery.New(list); err == nil || key != nil || message != "" {
			t.Errorf("%s: %q, %v", name, message, err)
		}
	}
}

func TestAListHasAName(t *testing.T) {
	t.Parallel()
	if recovery.Name(nil) != "" || recovery.Name([]string{}) != "" {
		t.Error("an empty list has a name")
	}
	names := map[string]bool{recovery.Name([]string{"a", "b"}): true, recovery.Name([]string{"ab"}): true, recovery.Name([]string{"b", "a"}): true, recovery.Name([]string{"a"}): true}
	if len(names) != 4 || recovery.Name([]string{"a", "b"}) != recovery.Name([]string{"a", "b"}) {
		t.Errorf("names are %v", names)
	}
}

func TestGnuPGReadsTheKey(t *testing.T) {
	t.Parallel()
	run, dir := lab.Tools(t)
	home := filepath.Join(dir, "h")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	gpg := func(stdin string, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		err := run.Run(t.Context(), sh.Cmd{
			Name: "gpg", Args: append([]string{"--batch", "--quiet", "--pinentry-mode=loopback", "--passphrase="}, args...),
			Env: []string{"GNUPGHOME=" + home}, Stdin: strings.NewReader(stdin), Stdout: &out,
		})
		if err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	gpg("", "--quick-gen-key", "Operator <operator@site.invalid>", "future-default", "default", "never")
	_, other := person(t, packet.Config{})
	key, message, err := recovery.New([]string{other, gpg("", "--armor", "--export")})
	if err != nil {
		t.Fatal(err)
	}
	if got := gpg(message, "--decrypt"); got != string(key) {
		t.Errorf("GnuPG reads %d bytes", len(got))
	}
}
