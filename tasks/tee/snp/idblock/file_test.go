package idblock_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/tee/snp/idblock"
)

func TestAKeyFileIsMadeOnceAndReadBack(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "id.key")
	public, err := idblock.CreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	key, err := idblock.ReadKey(path)
	if err != nil || !key.PublicKey.Equal(public) {
		t.Errorf("another key, or %v", err)
	}
	before := filetest.Read(t, path)
	_, err = idblock.CreateKey(path)
	if !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second time: %v", err)
	}
	faulttest.Want(t, err, fault.SigningKey)
	if string(filetest.Read(t, path)) != string(before) {
		t.Error("the key was overwritten")
	}
	filetest.Only(t, filepath.Dir(path), "id.key")
}

func TestReadKeyRefusals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if _, err := idblock.CreateKey(path("key")); err != nil {
		t.Fatal(err)
	}
	good := filetest.Read(t, path("key"))
	for name, data := range map[string][]byte{"open": good, "text": []byte("text"), "empty": nil, "long": make([]byte, 20<<10)} {
		filetest.Write(t, path(name), data)
		if name == "open" {
			continue
		}
		if err := os.Chmod(path(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("key", path("link")), syscall.Mkfifo(path("pipe"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"open": "others may read it", "text": "no private key", "empty": "no private key", "long": "not a file of at most", "link": "symbolic links",
		"pipe": "not a file of at most", "none": "no such file",
	} {
		_, err := idblock.ReadKey(path(name))
		faulttest.Want(t, err, fault.SigningKey, text, name)
		if strings.Contains(err.Error(), "PRIVATE KEY") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
