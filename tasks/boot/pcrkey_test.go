package boot_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/boot"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
)

func TestThePCRKeyIsMadeOnceAndKept(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "keys", "pcr")
	key, made, err := boot.LoadOrMakePCRKey(dir)
	if err != nil || !made {
		t.Fatal(made, err)
	}
	for name, mode := range map[string]os.FileMode{"pcr.key": 0o600, "pcr.pub": 0o644, ".": os.ModeDir | 0o700} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != mode {
			t.Errorf("%s: mode %v, want %v", name, info.Mode(), mode)
		}
	}
	block, rest := pem.Decode(filetest.Read(t, key.Public))
	if block == nil || block.Type != "PUBLIC KEY" || len(rest) != 0 {
		t.Fatalf("pcr.pub is no PEM file: %v", block)
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil || !key.Private.PublicKey.Equal(public) || key.Private.N.BitLen() != 2048 {
		t.Errorf("pcr.pub is not the public half, or not of 2048 bits: %v", err)
	}
	sum := sha256.Sum256(x509.MarshalPKCS1PublicKey(&key.Private.PublicKey))
	if key.Fingerprint() != hex.EncodeToString(sum[:]) {
		t.Errorf("fingerprint %s", key.Fingerprint())
	}
	before := filetest.Read(t, filepath.Join(dir, "pcr.key"))
	again, made, err := boot.LoadOrMakePCRKey(dir)
	if err != nil || made || !again.Private.Equal(key.Private) || string(filetest.Read(t, filepath.Join(dir, "pcr.key"))) != string(before) {
		t.Errorf("second time: made %v, %v", made, err)
	}
	// A build that was killed between the two files.
	pub := filetest.Read(t, key.Public)
	if err := os.Remove(key.Public); err != nil {
		t.Fatal(err)
	}
	if _, made, err := boot.LoadOrMakePCRKey(dir); err != nil || made || string(filetest.Read(t, key.Public)) != string(pub) {
		t.Errorf("the public half was not restored: made %v, %v", made, err)
	}
}

func TestAPCRKeyThatIsNotOneIsRefusedAndStays(t *testing.T) {
	t.Parallel()
	good := t.TempDir()
	if _, _, err := boot.LoadOrMakePCRKey(good); err != nil {
		t.Fatal(err)
	}
	other := t.TempDir()
	if _, _, err := boot.LoadOrMakePCRKey(other); err != nil {
		t.Fatal(err)
	}
	key, pub := filetest.Read(t, filepath.Join(good, "pcr.key")), filetest.Read(t, filepath.Join(good, "pcr.pub"))
	for name, tc := range map[string]struct {
		key, pub []byte
		says     string
	}{
		"no private half":      {nil, pub, "move the other away"},
		"not PEM":              {[]byte("secret"), pub, "is not PEM"},
		"cut off":              {key[:len(key)/2], pub, "is not PEM"},
		"a public key":         {pub, pub, "pcr.key"},
		"another public half":  {key, filetest.Read(t, filepath.Join(other, "pcr.pub")), "not the public half"},
		"a public half longer": {key, append(slices.Clone(pub), '\n'), "not the public half"},
	} {
		dir := t.TempDir()
		for file, text := range map[string][]byte{"pcr.key": tc.key, "pcr.pub": tc.pub} {
			if text != nil {
				filetest.Write(t, filepath.Join(dir, file), text)
			}
		}
		_, made, err := boot.LoadOrMakePCRKey(dir)
		faulttest.Want(t, err, fault.BootImage, tc.says)
		if made || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: made %v, %v", name, made, err)
		}
		if tc.key != nil && string(filetest.Read(t, filepath.Join(dir, "pcr.key"))) != string(tc.key) {
			t.Errorf("%s: the key was changed", name)
		}
	}
}

func TestTheSecureBootSetIsMadeOnceEachNameByItself(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db, _, err := boot.LoadOrMakeKey(dir, "db", time.Unix(epoch, 0).UTC())
	if err != nil {
		t.Fatal(err)
	}
	keys, made, err := boot.LoadOrMakeKeys(dir, time.Unix(epoch, 0).UTC())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"PK", "KEK"}, made); diff != "" {
		t.Errorf("made (-want +got):\n%s", diff)
	}
	if !keys["db"].Private.Equal(db.Private) || keys["PK"].Private.Equal(keys["KEK"].Private) {
		t.Error("db was made anew, or two keys are one")
	}
	if name := keys["KEK"].Cert.Subject.CommonName; !strings.HasSuffix(name, "KEK") {
		t.Errorf("KEK is called %q", name)
	}
	if _, made, err := boot.LoadOrMakeKeys(dir, time.Now()); err != nil || len(made) != 0 {
		t.Errorf("second time: made %v, %v", made, err)
	}
	if err := os.Remove(filepath.Join(dir, "KEK.crt")); err != nil {
		t.Fatal(err)
	}
	_, _, err = boot.LoadOrMakeKeys(dir, time.Now())
	faulttest.Want(t, err, fault.BootImage, "KEK: ")
}
