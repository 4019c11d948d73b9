package build

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
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

// signer writes a program that stands in for the one of a hardware module.
func signer(t *testing.T, script string) string {
	t.Helper()
	file := filetest.Write(t, filepath.Join(t.TempDir(), "signer"), []byte("#!/bin/sh\n"+script+"\n"))
	if err := os.Chmod(file, 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestAProgramSignsAndIsNotBelievedUnverified(t *testing.T) {
	ready := t.TempDir() // a signature of each file, by its content
	key, err := sign.GenerateKey(ready, sign.Spec{Name: "module"})
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"nvidia-cc-installer.tar.gz", "measurements.json", "rvps.json"}
	for _, name := range names {
		if err := key.SignFile(t.Context(), filetest.Write(t, filepath.Join(ready, name), []byte(name)), time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	public := filepath.Join(ready, sign.PublicName)
	for what, tc := range map[string]struct {
		script string
		text   string // of the refusal; empty for none
	}{
		"it signs":           {`exec cat "` + ready + `/$(cat).asc"`, ""},
		"it signs the wrong": {`exec cat "` + ready + `/rvps.json.asc"`, "does not verify"},
		"it says nothing":    {"cat > /dev/null", "does not verify"},
		"it fails":           {`cat "` + ready + `/$(cat).asc"; exit 3`, "CC_SIGN_COMMAND"},
		"it does not end":    {"exec cat /dev/zero", "CC_SIGN_COMMAND"},
	} {
		t.Run(what, func(t *testing.T) {
			b, shown := signingBuild(t, map[string]string{"CI": "true", sign.CommandEnv: signer(t, tc.script), sign.CommandKeyEnv: public})
			err := signInstaller(t.Context(), b)
			if tc.text != "" {
				faulttest.Want(t, err, fault.Signing, tc.text)
				if _, err := os.Stat(b.installer() + sign.Extension); err == nil {
					t.Error("a signature is left")
				}
				return
			}
			if err != nil || !strings.Contains(shown.String(), key.Fingerprint()) {
				t.Fatal(err, shown)
			}
			for _, name := range names {
				if _, err := sign.Verify(filetest.Read(t, public), strings.NewReader(name), filetest.Read(t, b.out(name+".asc"))); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
	for what, env := range map[string]map[string]string{
		"no public key":      {sign.CommandEnv: "true"},
		"one that is gone":   {sign.CommandEnv: "true", sign.CommandKeyEnv: "/missing"},
		"a key file as well": {sign.CommandEnv: "true", sign.CommandKeyEnv: public, sign.KeyFileEnv: public},
	} {
		b, _ := signingBuild(t, env)
		if err := signInstaller(t.Context(), b); fault.Of(err) == nil || fault.Of(err).Code != fault.SigningKey {
			t.Errorf("%s: %v", what, err)
		}
	}
}
