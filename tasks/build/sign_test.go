package build

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"cc-base/tasks/sign"
)

// signing returns a build whose tarball is a few bytes, with an old signature
// beside it.
func signingBuild(t *testing.T, env map[string]string) (*Build, *bytes.Buffer) {
	t.Helper()
	var shown bytes.Buffer
	b := &Build{Options: Options{OutDir: t.TempDir(), LookupEnv: func(k string) (string, bool) { v, ok := env[k]; return v, ok }}}
	b.log = newLog(&shown, &bytes.Buffer{})
	for file, text := range map[string]string{b.installer(): "tarball", b.installer() + ".asc": "of other bytes"} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return b, &shown
}

func TestInCIWithoutAKeyTheInstallerIsUnsignedAndAStaleSignatureGoes(t *testing.T) {
	b, shown := signingBuild(t, map[string]string{"CI": "true"})
	if err := signInstaller(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(b.installer() + ".asc"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the stale signature is there: %v", err)
	}
	if !strings.Contains(shown.String(), "UNSIGNED") {
		t.Errorf("it was not said: %q", shown)
	}
}

func TestOnADevelopersMachineAProjectKeyIsMadeOnceAndSigns(t *testing.T) {
	b, shown := signingBuild(t, nil)
	for range 2 {
		if err := signInstaller(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(shown.String(), "making a project signing key"); n != 1 {
		t.Errorf("the key was made %d times:\n%s", n, shown)
	}
	public, err := os.ReadFile(b.out("keys", sign.PublicName))
	if err != nil {
		t.Fatal(err)
	}
	signature, err := os.ReadFile(b.installer() + sign.Extension)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sign.Verify(public, strings.NewReader("tarball"), signature); err != nil {
		t.Error(err)
	}
}
