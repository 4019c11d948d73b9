package sign

// What green does not prove: see sign_test.go.

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/eddsa"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/ProtonMail/go-crypto/openpgp/s2k"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestGenerateKeyWritesBothHalvesOnce(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "keys")
	k, err := GenerateKey(dir, spec())
	if err != nil {
		t.Fatal(err)
	}
	filetest.Only(t, dir, PublicName, PrivateName)
	for name, want := range map[string]os.FileMode{PrivateName: 0o600, PublicName: 0o644} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode() != want {
			t.Errorf("%s: %v %v", name, st.Mode(), err)
		}
	}
	before, err := os.ReadFile(filepath.Join(dir, PrivateName))
	if err != nil {
		t.Fatal(err)
	}
	_, err = GenerateKey(dir, spec())
	faulttest.Want(t, err, fault.SigningKey, "exists")
	if !errors.Is(err, fs.ErrExist) {
		t.Errorf("error %v is not fs.ErrExist", err)
	}
	after, err := os.ReadFile(filepath.Join(dir, PrivateName))
	if err != nil || !bytes.Equal(before, after) {
		t.Error("the key was overwritten")
	}
	filetest.Only(t, dir, PublicName, PrivateName)
	loaded, err := LoadKey(filepath.Join(dir, PrivateName), nil)
	if err != nil {
		t.Fatal(err)
	}
	if loaded.Fingerprint() != k.Fingerprint() {
		t.Error("another key came back")
	}
	pub, err := os.ReadFile(filepath.Join(dir, PublicName))
	if err != nil || bytes.Contains(pub, []byte("PRIVATE")) || !bytes.Equal(pub, public(t, loaded)) {
		t.Errorf("public half: %v\n%s", err, pub)
	}
}

func TestGenerateKeyRefusesABadSpec(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]Spec{
		"a bracket in the name": {Name: "a<b", Email: "c"},
		"a lifetime too long":   {Name: "a", Lifetime: 1 << 62},
		"a negative lifetime":   {Name: "a", Lifetime: -1},
	} {
		dir := filepath.Join(t.TempDir(), "keys")
		_, err := GenerateKey(dir, s)
		faulttest.Want(t, err, fault.SigningKey, "make a key")
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: something was written", name)
		}
	}
}

// lockedKey writes a key that pass unlocks.
func lockedKey(t *testing.T, path, pass string) {
	t.Helper()
	k := newKey(t, spec())
	quick := &packet.Config{S2KConfig: &s2k.Config{S2KMode: s2k.IteratedSaltedS2K, S2KCount: 65536}}
	if err := k.entity.EncryptPrivateKeys([]byte(pass), quick); err != nil {
		t.Fatal(err)
	}
	writeKey(t, path, k.entity)
}

func writeKey(t *testing.T, path string, entities ...*openpgp.Entity) {
	t.Helper()
	var b bytes.Buffer
	err := armoured(&b, openpgp.PrivateKeyType, func(w io.Writer) error {
		for _, e := range entities {
			if err := e.SerializePrivateWithoutSigning(w, nil); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLoadKeyAsksOnceAndWipesThePassphrase(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	lockedKey(t, path, "secret")
	pass, asked := []byte("secret"), 0
	k, err := LoadKey(path, func() ([]byte, error) { asked++; return pass, nil })
	if err != nil {
		t.Fatal(err)
	}
	if asked != 1 || !bytes.Equal(pass, make([]byte, 6)) {
		t.Errorf("asked %d times, passphrase now %q", asked, pass)
	}
	detach(t, k, []byte("x"), time.Time{})
	d := k.entity.PrivateKey.PrivateKey.(*eddsa.PrivateKey).D
	k.Wipe()
	if len(d) == 0 || !bytes.Equal(d, make([]byte, len(d))) {
		t.Error("the private number is still there")
	}
}

func TestLoadKeyRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	put := func(name string, data []byte) {
		if err := os.WriteFile(path(name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	lockedKey(t, path("locked"), "secret")
	lockedKey(t, path("locked, others write"), "secret")
	writeKey(t, path("world-readable"), newKey(t, spec()).entity)
	writeKey(t, path("group-readable"), newKey(t, spec()).entity)
	writeKey(t, path("two keys"), newKey(t, spec()).entity, newKey(t, spec()).entity)
	short := spec()
	short.Lifetime = time.Hour
	writeKey(t, path("expired"), newKey(t, short).entity)
	put("public", public(t, newKey(t, spec())))
	put("text", []byte("not a key\n"))
	put("empty", nil)
	put("big", make([]byte, maxKeyFile+1))
	for name, mode := range map[string]os.FileMode{"world-readable": 0o604, "group-readable": 0o640, "locked, others write": 0o602} {
		if err := os.Chmod(path(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(path("fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	give := func(s string) func() ([]byte, error) { return func() ([]byte, error) { return []byte(s), nil } }
	for _, tc := range []struct {
		name string
		pass func() ([]byte, error)
		text string
	}{
		{"missing", nil, "no such file"},
		{"locked", nil, "no passphrase can be asked"},
		{"locked", give("wrong"), "passphrase is wrong"},
		{"locked", give(""), "passphrase is wrong"},
		{"locked", func() ([]byte, error) { return nil, io.ErrUnexpectedEOF }, "passphrase: unexpected EOF"},
		{"locked, others write", give("secret"), "lets others use the key"},
		{"world-readable", nil, "lets others use the key"},
		{"group-readable", nil, "lets others use the key"},
		{"two keys", nil, "holds 2 keys"},
		{"expired", nil, "has expired"},
		{"public", nil, "PUBLIC KEY BLOCK"},
		{"text", nil, "not an armoured"},
		{"empty", nil, "not an armoured"},
		{"big", nil, "not a file of at most"},
		{"fifo", nil, "not a file of at most"},
		{".", nil, "not a file of at most"},
	} {
		k, err := LoadKey(path(tc.name), tc.pass)
		if err == nil || k != nil {
			t.Errorf("%s: accepted", tc.name)
			continue
		}
		faulttest.Want(t, err, fault.SigningKey, tc.text)
	}
}

func TestALockedKeyMayBeReadable(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	lockedKey(t, path, "secret")
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	link := path + ".link" // as secret stores mount files
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKey(link, func() ([]byte, error) { return []byte("secret"), nil }); err != nil {
		t.Error(err)
	}
}

func env(pairs ...string) Lookup {
	return func(name string) (string, bool) {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1], true
			}
		}
		return "", false
	}
}

func TestChoose(t *testing.T) {
	t.Parallel()
	fresh, used := t.TempDir(), t.TempDir()
	if _, err := GenerateKey(used, spec()); err != nil {
		t.Fatal(err)
	}
	given := filepath.Join(used, PrivateName)
	project := func(dir string) string { return filepath.Join(dir, PrivateName) }
	for name, tc := range map[string]struct {
		env  Lookup
		dir  string
		want Choice
		why  string
		err  string
	}{
		"developer, first time": {env(), fresh, Choice{Source: ProjectKey, Path: project(fresh), Create: true}, "making a project signing key", ""},
		"developer, later":      {env("CI", "false"), used, Choice{Source: ProjectKey, Path: project(used)}, "with the project key", ""},
		"a given key":           {env(KeyFileEnv, given), fresh, Choice{Source: GivenKey, Path: given}, KeyFileEnv, ""},
		"a given key in CI":     {env("CI", "true", KeyFileEnv, given), fresh, Choice{Source: GivenKey, Path: given}, KeyFileEnv, ""},
		"CI":                    {env("CI", "true"), fresh, Choice{Source: Unsigned}, "not signed", ""},
		"CI, other spelling":    {env("CI", "1"), fresh, Choice{Source: Unsigned}, "not signed", ""},
		"CI, project key there": {env("CI", "true"), used, Choice{Source: Unsigned}, "not signed", ""},
		"CI, empty setting":     {env("CI", "true", KeyFileEnv, ""), fresh, Choice{Source: Unsigned}, "is empty", ""},
		"a missing key":         {env(KeyFileEnv, given+"x"), used, Choice{}, "", "no such file"},
		"a folder as key":       {env(KeyFileEnv, used), used, Choice{}, "", "not a regular file"},
		"a secret in the open":  {env("CC_SIGNING_PASSPHRASE", "hunter2"), used, Choice{}, "", "does not belong"},
	} {
		got, err := Choose(tc.env, tc.dir)
		if tc.err != "" {
			faulttest.Want(t, err, fault.SigningKey, tc.err)
			if strings.Contains(fault.Render(err), "hunter2") {
				t.Errorf("%s: the secret is repeated", name)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !strings.Contains(got.Why, tc.why) {
			t.Errorf("%s: why %q", name, got.Why)
		}
		got.Why = ""
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	filetest.Only(t, fresh) // choosing writes nothing
}

func TestChoiceKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	choice, err := Choose(env(), dir)
	if err != nil {
		t.Fatal(err)
	}
	one, err := choice.Key(nil, spec())
	if err != nil {
		t.Fatal(err)
	}
	// The choice is stale now, as if another build had been faster; and the
	// public half was lost.
	if err := os.Remove(filepath.Join(dir, PublicName)); err != nil {
		t.Fatal(err)
	}
	two, err := choice.Key(nil, spec())
	if err != nil {
		t.Fatal(err)
	}
	if one.Fingerprint() != two.Fingerprint() {
		t.Error("a second project key was made")
	}
	filetest.Only(t, dir, PublicName, PrivateName)
	if k, err := (Choice{Source: Unsigned}).Key(nil, spec()); k != nil || err != nil {
		t.Errorf("unsigned: %v, %v", k, err)
	}
}

// inherited makes a pipe as a shell's redirection does, without close-on-exec.
func inherited(t *testing.T, data string) (fd int) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], 0); err != nil {
		t.Fatal(err)
	}
	w := os.NewFile(uintptr(p[1]), "w")
	if _, err := w.WriteString(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return p[0]
}

// Not parallel, with its neighbour: descriptors without close-on-exec would be
// inherited by children that other tests start.
func TestPassphraseFromADescriptor(t *testing.T) {
	for data, want := range map[string]string{
		"secret":                         "secret",
		"secret\n":                       "secret",
		"secret\r\nmore\n":               "secret",
		" two words \n":                  " two words ",
		strings.Repeat("x", 4096) + "\n": strings.Repeat("x", 4096),
	} {
		fd := inherited(t, data)
		got, err := Passphrase(context.Background(), env(PassphraseFDEnv, strconv.Itoa(fd)))()
		if err != nil || string(got) != want {
			t.Errorf("%.20q: got %.20q, %v", data, got, err)
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			t.Errorf("%.20q: the descriptor is still open", data)
		}
	}
}

func TestPassphraseRefusesADescriptor(t *testing.T) {
	own, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	for value, want := range map[string]string{
		"hunter2":                        "not the number",
		"-1":                             "not the number",
		"1":                              "not the number",
		"2":                              "not the number",
		"3 ":                             "not the number",
		"99999":                          "not inherited",
		strconv.Itoa(int(own.Fd())):      "not inherited",
		strconv.Itoa(inherited(t, "")):   "empty",
		strconv.Itoa(inherited(t, "\n")): "empty",
		strconv.Itoa(inherited(t, strings.Repeat("x", 4099))): "longer than",
	} {
		got, err := Passphrase(context.Background(), env(PassphraseFDEnv, value))()
		if err == nil || got != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %q, %v, want %q", value, got, err, want)
			continue
		}
		if strings.Contains(fault.Render(err), "hunter2") {
			t.Error("the value is repeated")
		}
	}
}
