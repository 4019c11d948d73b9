package unpacked_test

// What green does not prove: that SHA256SUMS itself is the one that was signed;
// install.sh asks gpg, which the scripts of cc-install test.

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cc-base/installer/installertest"
	"cc-base/installer/unpacked"
	"cc-base/tasks/digest"
	"cc-base/tasks/fault"
)

func write(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := installertest.New().Write(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// verify opens and verifies dir as every command does.
func verify(t *testing.T, dir string) error {
	t.Helper()
	f, err := unpacked.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Verify(t.Context()); err != nil {
		return err
	}
	m, err := f.Manifest()
	if err != nil {
		return err
	}
	_, image, err := f.Image(m.Disk)
	if err != nil {
		return err
	}
	return image.Close()
}

func TestAWholeFolder(t *testing.T) {
	t.Parallel()
	dir := write(t)
	if err := verify(t, dir); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, "extra"), "x")
	put(t, filepath.Join(dir, "SHA256SUMS.asc"), "x")
	f, err := unpacked.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if names, err := f.Unlisted(); err != nil || strings.Join(names, " ") != "extra" {
		t.Errorf("unlisted %v, error %v", names, err)
	}
}

func TestADamagedFolder(t *testing.T) {
	t.Parallel()
	outside := filepath.Join(t.TempDir(), "secret")
	put(t, outside, "outside")
	line := func(name string) string { return digest.Bytes([]byte("outside")) + "  " + name + "\n" }
	tests := []struct {
		name  string
		spoil func(dir string)
		want  string
	}{
		{"a file changed", func(dir string) { put(t, filepath.Join(dir, "config/tee.conf"), "TEE_TYPE=x\n") }, "config/tee.conf: its checksum differs"},
		{"a file missing", func(dir string) { os.Remove(filepath.Join(dir, "image.key")) }, "image.key"},
		{"the list missing", func(dir string) { os.Remove(filepath.Join(dir, "SHA256SUMS")) }, "SHA256SUMS"},
		{"the list empty", func(dir string) { put(t, filepath.Join(dir, "SHA256SUMS"), "") }, "it is empty"},
		{"the list without the manifest", func(dir string) {
			put(t, filepath.Join(dir, "x"), "outside")
			put(t, filepath.Join(dir, "SHA256SUMS"), line("x"))
		}, "does not list manifest.json"},
		{"a line that is no checksum", func(dir string) { put(t, filepath.Join(dir, "SHA256SUMS"), "hello\n") }, "line 1 is not a checksum"},
		{"a path upwards", func(dir string) { put(t, filepath.Join(dir, "SHA256SUMS"), line("../secret")) }, "leads out"},
		{"an absolute path", func(dir string) { put(t, filepath.Join(dir, "SHA256SUMS"), line(outside)) }, "leads out"},
		{"a path twice", func(dir string) { put(t, filepath.Join(dir, "SHA256SUMS"), line("x")+line("./x")) }, "there twice"},
		{"a link out of the folder", func(dir string) {
			if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
				t.Error(err)
			}
			put(t, filepath.Join(dir, "SHA256SUMS"), line("link"))
		}, "link"},
		{"a folder in place of a file", func(dir string) {
			os.Remove(filepath.Join(dir, "image.key"))
			os.Mkdir(filepath.Join(dir, "image.key"), 0o700)
		}, "not a regular file"},
	}
	for _, test := range tests {
		dir := write(t)
		test.spoil(dir)
		err := verify(t, dir)
		if err == nil || !strings.Contains(err.Error(), test.want) || fault.Exit(err) != fault.ExitFailed {
			t.Errorf("%s: error %v, want one with %q and exit status 1", test.name, err, test.want)
		}
	}
}

func TestAnImageOfAnotherSize(t *testing.T) {
	t.Parallel()
	f := installertest.New()
	dir := t.TempDir()
	if err := f.Write(dir); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, "cc-base.qcow2"), string(installertest.Qcow2(make([]byte, 4<<20), 16)))
	folder, err := unpacked.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	if _, _, err := folder.Image(f.Manifest.Disk); err == nil || !strings.Contains(err.Error(), "the manifest says") {
		t.Errorf("error %v", err)
	}
}
