package operator_test

// What green does not prove: what a file system keeps over a power cut, and who
// else has root on the operator's machine. The dialogue with a guest is tested
// in package release.

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/release/operator"
)

const instance = "2c1f0f5e-0d1c-4b43-9a58-55a3a4f5f3e1"

func TestOperatorKeyFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "operator.pem")
	public, err := operator.GenerateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Lstat(path)
	if err != nil || st.Mode() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	key, err := operator.ReadKey(path)
	if err != nil || !public.Equal(key.Public()) {
		t.Fatalf("read back: %v", err)
	}
	before, err := os.ReadFile(path)
	if err != nil || !strings.HasPrefix(string(before), "-----BEGIN PRIVATE KEY-----\n") {
		t.Fatalf("%.30q, %v", before, err)
	}
	if _, err := operator.GenerateKey(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("an existing key: %v", err)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("the existing key was changed")
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

func TestOperatorKeysThatAreRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good := filepath.Join(dir, "good.pem")
	if _, err := operator.GenerateKey(good); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, mode fs.FileMode, data []byte) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, data, mode), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecDER, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	link, pipe := filepath.Join(dir, "link"), filepath.Join(dir, "pipe")
	if err := errors.Join(os.Symlink(good, link), syscall.Mkfifo(pipe, 0o600)); err != nil {
		t.Fatal(err)
	}
	for path, word := range map[string]string{
		write("group", 0o640, text):                 "others may read",
		write("world", 0o604, text):                 "others may read",
		write("text", 0o600, []byte("no key")):      "no PEM",
		write("huge", 0o600, make([]byte, 5000)):    "at most",
		write("empty", 0o600, nil):                  "no PEM",
		write("cut", 0o600, text[:len(text)-40]):    "no PEM",
		write("garbage", 0o600, pemOf([]byte("x"))): "PKCS #8",
		write("ecdsa", 0o600, pemOf(ecDER)):         "not Ed25519",
		link:                                        "link",
		pipe:                                        "not a file",
		filepath.Join(dir, "missing"):               "missing",
	} {
		key, err := operator.ReadKey(path)
		faulttest.Want(t, err, fault.SigningKey, word)
		if key != nil {
			t.Errorf("%s: a key came with the error", path)
		}
	}
}

func pemOf(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func store(t *testing.T) (*operator.Folder, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	f, err := operator.OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	return f, dir
}

func TestStoreKeepsOneKeyForAnInstance(t *testing.T) {
	t.Parallel()
	f, dir := store(t)
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("the folder's mode: %v, %v", st.Mode(), err)
	}
	if _, err := f.Key(instance); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unknown instance: %v", err)
	}
	// Many at once, as when a machine connects twice.
	keys := make([][]byte, 16)
	var all sync.WaitGroup
	for i := range keys {
		all.Go(func() {
			var err error
			if keys[i], err = f.Enrol(instance); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	kept, err := f.Key(instance)
	if err != nil || len(kept) != 32 {
		t.Fatalf("%d bytes, %v", len(kept), err)
	}
	for _, k := range keys {
		if !bytes.Equal(k, kept) {
			t.Error("two keys for one instance")
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != instance+".key" {
		t.Fatalf("files: %v, %v", left, err)
	}
	if info, err := left[0].Info(); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestStoreRefusals(t *testing.T) {
	t.Parallel()
	f, dir := store(t)
	for _, id := range []string{"", "../x", "..", "/etc/passwd", instance + "/x", instance + "\x00", strings.ToUpper(instance), instance[1:], instance + "\n"} {
		if _, err := f.Enrol(id); err == nil {
			t.Errorf("instance %q is enrolled", id)
		}
		if _, err := f.Key(id); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("instance %q: %v", id, err)
		}
	}
	path := filepath.Join(dir, instance+".key")
	for name, plant := range map[string]func() error{
		"short":    func() error { return os.WriteFile(path, make([]byte, 31), 0o600) },
		"long":     func() error { return os.WriteFile(path, make([]byte, 33), 0o600) },
		"of zeros": func() error { return os.WriteFile(path, make([]byte, 32), 0o600) },
		"open": func() error {
			return errors.Join(os.WriteFile(path, bytes.Repeat([]byte{1}, 32), 0o600), os.Chmod(path, 0o644))
		},
		"a link":   func() error { return os.Symlink("/dev/zero", path) },
		"a folder": func() error { return os.Mkdir(path, 0o700) },
	} {
		if err := errors.Join(os.RemoveAll(path), plant()); err != nil {
			t.Fatal(err)
		}
		if key, err := f.Key(instance); err == nil || key != nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
		if key, err := f.Enrol(instance); err == nil || key != nil {
			t.Errorf("%s: enrolled over it", name)
		}
	}

	open := filepath.Join(t.TempDir(), "open")
	file := filepath.Join(t.TempDir(), "file")
	if err := errors.Join(os.Mkdir(open, 0o755), os.WriteFile(file, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for path, word := range map[string]string{open: "others may enter", file: "no folder", filepath.Join(file, "x"): "store", filepath.Join(open, "a/b"): "store"} {
		_, err := operator.OpenFolder(path)
		faulttest.Want(t, err, fault.Usage, word)
	}
}

func TestAuditLinesAreWhole(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	audit := operator.AuditTo(&out)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if err := audit(operator.Decision{Reason: strings.Repeat("a\nb", 50), Instance: instance}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 50 {
		t.Errorf("%d lines", len(lines))
	}
	for _, l := range lines {
		if !json.Valid([]byte(l)) {
			t.Errorf("%q", l)
		}
	}
}
