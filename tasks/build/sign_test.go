package build

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cc-base/tasks/filetest"
	"cc-base/tasks/sign"
)

// signingBuild returns a build whose files to sign hold their own name, each with
// an old signature beside it.
func signingBuild(t *testing.T, env map[string]string) (*Build, *bytes.Buffer) {
	t.Helper()
	var shown bytes.Buffer
	b := &Build{Options: Options{OutDir: t.TempDir(), LookupEnv: func(k string) (string, bool) { v, ok := env[k]; return v, ok }}}
	b.log = newLog(&shown, &bytes.Buffer{})
	for _, file := range b.signed() {
		filetest.Write(t, file, []byte(filepath.Base(file)))
		filetest.Write(t, file+sign.Extension, []byte("of other bytes"))
	}
	return b, &shown
}

func TestInCIWithoutAKeyTheInstallerIsUnsignedAndAStaleSignatureGoes(t *testing.T) {
	b, shown := signingBuild(t, map[string]string{"CI": "true"})
	if err := signInstaller(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	filetest.Only(t, b.OutDir, "measurements.json", "nvidia-cc-installer.tar.gz", "rvps.json")
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
	for _, name := range []string{"nvidia-cc-installer.tar.gz", "measurements.json", "rvps.json"} {
		if _, err := sign.Verify(public, strings.NewReader(name), filetest.Read(t, b.out(name+".asc"))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
