package build_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cc-base/tasks/compare"
	"cc-base/tasks/filetest"
	"cc-base/tasks/lab"
	"cc-base/tasks/sh"
)

// What green does not prove: that volumes without a seed have random keys; the
// comparison of two builds without one does.

// sealedBy makes the installer in a new folder with the seed and the same keys.
func sealedBy(t *testing.T, image lab.Image, seed string) checkout {
	t.Helper()
	c := newCheckout(t, image)
	// The stages before sealing are those of the image under test.
	if err := os.Symlink(filepath.Join(os.Getenv("CC_CACHE_DIR"), "stages"), filepath.Join(c.cache, "stages")); err != nil {
		t.Fatal(err)
	}
	c.env = append(c.env, "CC_SEED_FILE="+seed)
	out, err := c.mage("package").CombinedOutput()
	if err != nil || strings.Count(string(out), "WARNING: its key comes from CC_SEED_FILE") > 2 {
		t.Fatalf("%v\n%s", err, out)
	}
	left, err := filepath.Glob(filepath.Join(c.out, "scratch", "*.random"))
	if err != nil || len(left) > 0 {
		t.Errorf("what was drawn is left behind: %q, %v", left, err)
	}
	return c
}

func TestASeedMakesTheSameDiskAndInstaller(t *testing.T) {
	image := lab.Built(t)
	seed := func(fill byte) string {
		return filetest.Write(t, filepath.Join(t.TempDir(), "seed"), filetest.Noise(fill, 64))
	}
	one := seed(1)
	a, b := sealedBy(t, image, one), sealedBy(t, image, one)
	for _, f := range []string{"scratch/root.volume", "scratch/app.volume", "cc-base.qcow2", "nvidia-cc-installer.tar.gz"} {
		d, err := compare.Files(filepath.Join(a.out, f), filepath.Join(b.out, f))
		if err != nil || d != nil {
			t.Errorf("two builds with one seed differ: %s: %v, %v", f, d, err)
		}
	}
	if root, app := filetest.Read(t, filepath.Join(a.out, "scratch/root.volume")), filetest.Read(t, filepath.Join(a.out, "scratch/app.volume")); string(root[4096:8192]) == string(app[4096:8192]) {
		t.Error("both volumes have one header")
	}
	if lab.Long() {
		c := sealedBy(t, image, seed(2))
		if same(t, filepath.Join(a.out, "scratch/root.volume"), filepath.Join(c.out, "scratch/root.volume")) {
			t.Error("another seed gives the same volume")
		}
	}
	// What the seed made is a volume like any other: the shipped key opens it.
	tools, _ := lab.Tools(t, a.out)
	for _, name := range []string{"root", "app"} {
		err := sh.Do(t.Context(), tools, "cryptsetup", "open", "--test-passphrase", "--disable-locks", "--type=luks2",
			"--key-file="+filepath.Join(a.out, "keys", "image.key"), filepath.Join(a.out, "scratch", name+".volume"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
