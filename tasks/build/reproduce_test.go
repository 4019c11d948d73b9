package build_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cc-base/tasks/filetest"
	"cc-base/tasks/lab"
)

// What green does not prove: that it goes on another distribution or processor, or
// as another user; that the mirror still has the packages tomorrow.

// thirdParty runs mage reproduce in a folder with keys of its own.
func thirdParty(t *testing.T, manifest string) (string, error) {
	t.Helper()
	cmd := exec.Command("go", "tool", "mage", "reproduce", "-manifest="+manifest)
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CC_OUT_DIR="+t.TempDir(), "CC_PROFILE=")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestAnybodyReproducesTheImage(t *testing.T) {
	if !lab.Long() {
		t.Skip("only in the long mode: it builds from packages; the short one compares two builds with the same keys")
	}
	dir := unpack(t, lab.Built(t))
	out, err := thirdParty(t, filepath.Join(dir, "manifest.json"))
	if err != nil || !strings.Contains(out, "the image is reproduced") {
		t.Errorf("%v\n%s", err, out)
	}
	// The manifest alone, of an image whose root is another one.
	text := string(filetest.Read(t, filepath.Join(dir, "manifest.json")))
	i := strings.Index(text, `"rootHash": "`) + len(`"rootHash": "`)
	other := filetest.Write(t, filepath.Join(t.TempDir(), "manifest.json"), []byte(text[:i]+"0000"+text[i+4:]))
	if out, err = thirdParty(t, other); err == nil || !strings.Contains(out, "rootHash: value") || !strings.Contains(out, "CC0412") {
		t.Errorf("%v\n%s", err, out)
	}
}
