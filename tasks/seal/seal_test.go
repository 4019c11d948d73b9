package seal_test

// What green does not prove: no kernel opens these volumes here. cryptsetup,
// veritysetup and erofs-utils are asked in user space, on trees of a few MB;
// that dm-crypt and dm-verity read the same bytes is shown by the boots. The
// strength of ciphers and of the machine's random numbers is taken for granted,
// and wiping a secret in memory cannot be seen from outside.

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/golden"
	"cc-base/tasks/seal"
	"cc-base/tasks/sh"
)

// passphrase stands for an image key: 44 bytes that a search finds anywhere.
var passphrase = []byte("c2VjcmV0LW9mLXRoZS10ZXN0LW5ldmVyLWluLWFyZ3Y=")

// fake answers as the tools would, making the files that they would make.
func fake(t *testing.T, fail string) *sh.Recorder {
	return &sh.Recorder{Answer: func(c sh.Cmd) (string, error) {
		if c.Name == fail {
			return "", errors.New("it broke")
		}
		switch {
		case c.Name == "mkfs.erofs":
			filetest.Write(t, c.Args[len(c.Args)-2], bytes.Repeat([]byte{1}, 5000))
		case c.Name == "veritysetup" && c.Args[0] == "format":
			return "UUID:            \t6f1ff0c4\nRoot hash:      \t" + strings.Repeat("ab", 32) + "\n", nil
		}
		return "", nil
	}}
}

func TestATarThatIsCutOffNeverReachesMkfs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	whole := filetest.Read(t, writeTar(t, filepath.Join(dir, "whole.tar"), time.Unix(epoch, 0)))
	for _, size := range []int{0, 1, 511, 512, 1024, 5000, len(whole) / 2, len(whole) - 1024, len(whole) - 1025} {
		file := filetest.Write(t, filepath.Join(dir, "cut.tar"), whole[:size])
		run := &sh.Recorder{}
		err := seal.BuildErofs(t.Context(), run, file, "", epoch, filepath.Join(dir, "image"))
		faulttest.Want(t, err, fault.Sealing, "cut.tar")
		if run.Transcript() != "" {
			t.Errorf("%d bytes: it ran %q", size, run.Transcript())
		}
	}
}

func TestAnEncryptedVolumeIsMadeByTheseCommands(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	run := fake(t, "")
	v := seal.Volume{
		Label: "cc-root", Tar: filetest.Write(t, filepath.Join(dir, "root.tar"), make([]byte, 1024)), Epoch: 1767225600,
		Encrypt: true, Encryption: seal.Encryption{Cipher: "aes-xts-plain64", KeyBits: 512, Hash: "sha256"}, Key: passphrase,
	}
	verity, err := seal.Build(t.Context(), run, v, filepath.Join(dir, "root.volume"))
	if err != nil {
		t.Fatal(err)
	}
	if verity.RootHash != strings.Repeat("ab", 32) || verity.HashOffset != 8192 || len(verity.Salt) != 64 {
		t.Errorf("got %+v", verity)
	}
	golden.Compare(t, "encrypted.argv", strings.ReplaceAll(run.Transcript(), dir, "DIR"))
	if diff := cmp.Diff([]string{"root.tar", "root.volume"}, filetest.Names(t, dir)); diff != "" {
		t.Error(diff)
	}
}

func TestAFailureOfAnyToolLeavesNoOutput(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"mkfs.erofs", "fsck.erofs", "veritysetup", "cryptsetup"} {
		dir := t.TempDir()
		v := seal.Volume{
			Label: "cc-root", Tar: filetest.Write(t, filepath.Join(dir, "root.tar"), make([]byte, 1024)),
			Encrypt: true, Encryption: seal.Encryption{Cipher: "aes-xts-plain64", KeyBits: 512, Hash: "sha256"}, Key: passphrase,
		}
		_, err := seal.Build(t.Context(), fake(t, tool), v, filepath.Join(dir, "root.volume"))
		faulttest.Want(t, err, fault.Sealing, "it broke")
		if diff := cmp.Diff([]string{"root.tar"}, filetest.Names(t, dir)); diff != "" {
			t.Errorf("%s: %s", tool, diff)
		}
	}
}

func TestAnAnswerWithoutARootHashIsRefused(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{"", "Root hash:\n", "Root hash: 1234\n", "Root hash: " + strings.Repeat("AB", 32) + "\n"} {
		image := filetest.Write(t, filepath.Join(t.TempDir(), "image"), make([]byte, 4096))
		run := &sh.Recorder{Answer: func(sh.Cmd) (string, error) { return answer, nil }}
		_, err := seal.Verity(t.Context(), run, image, strings.Repeat("00", 32), "6f1ff0c4-0000-4000-8000-000000000000")
		faulttest.Want(t, err, fault.Sealing, "no root hash")
	}
}

func TestAnEmptyFileGetsNoVerityTree(t *testing.T) {
	t.Parallel()
	image := filetest.Write(t, filepath.Join(t.TempDir(), "image"), nil)
	_, err := seal.Verity(t.Context(), &sh.Recorder{}, image, "", "")
	faulttest.Want(t, err, fault.Sealing, "empty")
}

func TestEncryptRefusesBeforeItTouchesTheFile(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, says string
		size       int
		key        []byte
	}{
		{"no key", "too short", 4096, nil},
		{"a key that can be guessed", "too short", 4096, []byte("hunter2")},
		{"half a sector", "multiple", 4095, passphrase},
	}
	for _, test := range tests {
		image := filetest.Write(t, filepath.Join(t.TempDir(), "image"), make([]byte, test.size))
		run := &sh.Recorder{}
		err := seal.Encrypt(t.Context(), run, image, test.key, seal.Encryption{})
		faulttest.Want(t, err, fault.Sealing, test.says)
		if got := len(filetest.Read(t, image)); got != test.size || run.Transcript() != "" {
			t.Errorf("%s: file of %d bytes, commands %q", test.name, got, run.Transcript())
		}
	}
}

func TestDerivedIdentifiersNeverChange(t *testing.T) {
	t.Parallel()
	// An identifier that changed would give every image new bytes.
	want := map[[3]string]string{
		{"cc-root", "erofs", "00"}:    "eaa58780-f222-5306-af3a-0495fa95cf4d",
		{"cc-root", "luks", "00"}:     "db82f9f3-599f-53d6-87ef-b34e1e709820",
		{"cc-root", "luks", "01"}:     "9401b78b-2a03-5104-8a84-51efcf488981",
		{"cc-app", "luks", "00"}:      "3827d0a9-e6a5-5bf1-975a-4f93c784eacd",
		{"cc-dynamic", "type", "1"}:   "6229e8d9-6d18-5389-a180-e8461ac96685",
		{"cc-config", "verity", "ff"}: "556a5eda-1ee4-5e78-811e-fe7df5d7cdd2",
	}
	seen := map[string]bool{}
	for in, id := range want {
		got := seal.Derive(in[0], in[1], in[2])
		if got.String() != id {
			t.Errorf("%v: got %s, want %s", in, got, id)
		}
		if seen[got.String()] || got.Version() != 5 {
			t.Errorf("%v: %s is not a new version 5 identifier", in, got)
		}
		seen[got.String()] = true
	}
}

func TestTheImageKeyIsMadeOnceAndKept(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "keys", "image.key")
	key, made, err := seal.ImageKey(file)
	if err != nil || !made {
		t.Fatal(made, err)
	}
	if raw, err := base64.StdEncoding.DecodeString(string(key)); err != nil || len(raw) != 32 {
		t.Errorf("the key is not 32 bytes in base64: %v", err)
	}
	for path, mode := range map[string]os.FileMode{file: 0o600, filepath.Dir(file): os.ModeDir | 0o700} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != mode {
			t.Errorf("%s: mode %v, want %v", filepath.Base(path), info.Mode(), mode)
		}
	}
	if !bytes.Equal(filetest.Read(t, file), key) {
		t.Error("the file holds something else")
	}
	again, made, err := seal.ImageKey(file)
	if err != nil || made || !bytes.Equal(again, key) {
		t.Errorf("second time: made %v, %v, equal %v", made, err, bytes.Equal(again, key))
	}
	other, _, err := seal.ImageKey(file + "2")
	if err != nil || bytes.Equal(other, key) {
		t.Errorf("two keys are equal, %v", err)
	}
}

func TestAnImageKeyThatIsThereIsNeverOverwritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, content := range map[string]string{"empty": "", "short": strings.Repeat("x", 31)} {
		file := filetest.Write(t, filepath.Join(dir, name), []byte(content))
		_, made, err := seal.ImageKey(file)
		faulttest.Want(t, err, fault.Sealing, file, "too short")
		if made || string(filetest.Read(t, file)) != content {
			t.Errorf("%s: it was changed", name)
		}
	}
	// A link to nowhere reads as "not there"; O_EXCL does not follow it.
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "elsewhere"), link); err != nil {
		t.Fatal(err)
	}
	if key, made, err := seal.ImageKey(link); err == nil || made || key != nil {
		t.Errorf("a dangling link was followed: made %v, %v", made, err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "elsewhere")); err == nil {
		t.Error("a key was written through the link")
	}
}

func TestOfManyAtOnceOnlyOneMakesTheImageKey(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "image.key")
	const n = 8
	made := make(chan bool, n)
	for range n {
		go func() {
			_, m, _ := seal.ImageKey(file)
			made <- m
		}()
	}
	count := 0
	for range n {
		if <-made {
			count++
		}
	}
	if count != 1 || len(filetest.Read(t, file)) != 44 {
		t.Errorf("%d made it, %d bytes", count, len(filetest.Read(t, file)))
	}
}

func TestWipeLeavesZeros(t *testing.T) {
	t.Parallel()
	b := []byte("secret")
	seal.Wipe(b)
	if !bytes.Equal(b, make([]byte, 6)) {
		t.Errorf("%q is left", b)
	}
}

// witness runs commands and fails the test for one that carries a secret where
// other users of the machine could see it.
type witness struct {
	sh.Runner
	t      *testing.T
	secret []byte
	count  int
}

func (w *witness) Run(ctx context.Context, c sh.Cmd) error {
	w.count++
	for _, word := range append(append([]string{c.Name, c.Dir}, c.Args...), c.Env...) {
		if strings.Contains(word, string(w.secret)) {
			w.t.Errorf("%s has the key in its arguments or environment", c.Name)
		}
	}
	return w.Runner.Run(ctx, c)
}
