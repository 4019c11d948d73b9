package seal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/golden"
	"cc-base/tasks/lab"
	"cc-base/tasks/seal"
	"cc-base/tasks/sh"
)

const recovery = "cbdefghi-jklnrtuv-cccccccc-vvvvvvvv-cbcbcbcb-hijklnrt-ulkjihgf-edbcvutr"

func TestARecoveryKeyHasSystemdsForm(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^[cbdefghijklnrtuv]{8}(-[cbdefghijklnrtuv]{8}){7}$`)
	seen, letters := map[string]bool{}, map[rune]int{}
	for range 64 {
		key, err := seal.NewRecovery()
		if err != nil {
			t.Fatal(err)
		}
		if !form.Match(key) || seen[string(key)] {
			t.Fatalf("%d bytes, not in the form, or seen before", len(key))
		}
		seen[string(key)] = true
		for _, c := range string(key) {
			letters[c]++
		}
		normal, err := seal.NormalizeRecovery(key)
		if err != nil || !bytes.Equal(normal, key) {
			t.Fatalf("it is not its own normal form: %v", err)
		}
	}
	// 64 keys of 64 letters: each of 16 letters 256 times on average, so that
	// one which is missing or half as frequent is a mistake, not chance.
	if len(letters) != 17 {
		t.Errorf("%d different characters", len(letters))
	}
	for c, n := range letters {
		if c != '-' && (n < 160 || n > 370) {
			t.Errorf("%c occurs %d times, want about 256", c, n)
		}
	}
}

func TestATypedRecoveryKeyHasOneMeaning(t *testing.T) {
	t.Parallel()
	bare := strings.ReplaceAll(recovery, "-", "")
	for name, typed := range map[string]string{
		"as shown": recovery, "no dashes": bare, "capitals": strings.ToUpper(recovery), "capitals, no dashes": strings.ToUpper(bare),
		"a line end": recovery + "\n", "spaces around": "  " + bare + " \r\n",
	} {
		in := []byte(typed)
		got, err := seal.NormalizeRecovery(in)
		if err != nil || string(got) != recovery {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if string(in) != typed {
			t.Errorf("%s: what was typed is changed", name)
		}
	}
	for name, typed := range map[string]string{
		"nothing": "", "one letter short": recovery[:70], "one too many": recovery + "c", "one dash missing": strings.Replace(recovery, "-", "", 1),
		"another letter": "a" + recovery[1:], "a digit": recovery[:70] + "1", "a dash for a letter": "-" + recovery[1:], "a letter for a dash": strings.Replace(recovery, "-", "c", 1),
		"spaces for dashes": strings.ReplaceAll(recovery, "-", " "), "dashes elsewhere": bare[:4] + "-" + bare[4:60] + "------" + bare[60:],
		"not ASCII": strings.Replace(bare, "c", "ć", 1)[:64], "a zero byte": bare[:63] + "\x00",
	} {
		got, err := seal.NormalizeRecovery([]byte(typed))
		if err == nil || got != nil {
			t.Errorf("%s: accepted as %q", name, got)
		} else if strings.Contains(err.Error(), "hijklnrt-") || strings.Contains(err.Error(), "ulkj") {
			t.Errorf("%s: the error repeats what was typed: %v", name, err)
		}
	}
}

func FuzzNormalizeRecovery(f *testing.F) {
	f.Add([]byte(recovery))
	f.Add([]byte(strings.ReplaceAll(recovery, "-", "")))
	f.Add([]byte(strings.Repeat("-", 71)))
	f.Fuzz(func(t *testing.T, typed []byte) {
		key, err := seal.NormalizeRecovery(typed)
		if err != nil {
			return
		}
		again, err := seal.NormalizeRecovery(key)
		if err != nil || !bytes.Equal(again, key) || len(key) != len(recovery) {
			t.Errorf("%q is not a normal form: %v", key, err)
		}
		if !bytes.Equal(bytes.ReplaceAll(bytes.ToLower(bytes.TrimSpace(typed)), []byte("-"), nil), bytes.ReplaceAll(key, []byte("-"), nil)) {
			t.Errorf("%q became %q", typed, key)
		}
	})
}

func TestTheRecoveryKeyIsMadeOnceAndKept(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "keys", "recovery.key")
	if key, err := seal.RecoveryKey(file); key != nil || err != nil {
		t.Fatalf("before it is made: %q, %v", key, err)
	}
	for i, want := range []bool{true, false} {
		made, err := seal.MakeRecoveryKey(file)
		if err != nil || made != want {
			t.Fatalf("call %d: made %v, %v", i, made, err)
		}
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	key, err := seal.RecoveryKey(file)
	if err != nil || !bytes.Equal(key, filetest.Read(t, file)) {
		t.Errorf("read back: %v, %v", bytes.Equal(key, filetest.Read(t, file)), err)
	}
	bad := filetest.Write(t, filepath.Join(t.TempDir(), "recovery.key"), []byte("hunter2"))
	made, err := seal.MakeRecoveryKey(bad)
	faulttest.Want(t, err, fault.Sealing, bad)
	if made || string(filetest.Read(t, bad)) != "hunter2" || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("made %v, or changed, or repeated: %v", made, err)
	}
}

func TestFurtherKeysAreAddedByTheseCommands(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	run, stdin := fake(t, ""), []string{}
	answer := run.Answer
	run.Answer = func(c sh.Cmd) (string, error) {
		if c.Stdin != nil {
			var b bytes.Buffer
			if _, err := b.ReadFrom(c.Stdin); err != nil {
				t.Error(err)
			}
			stdin = append(stdin, b.String())
		}
		return answer(c)
	}
	bound := []byte("passphrase-that-a-tpm-keeps-0123456789abcdef")
	v := seal.Volume{
		Label: "cc-root", Tar: filetest.Write(t, filepath.Join(dir, "root.tar"), make([]byte, 1024)), Epoch: epoch,
		Encrypt: true, Encryption: seal.Encryption{Cipher: "aes-xts-plain64", KeyBits: 512, Hash: "sha256"}, Key: passphrase, Recovery: []byte(recovery),
		Bound: []seal.BoundKey{{Passphrase: bound, Token: func(slot int) ([]byte, error) { return json.Marshal(slot) }}},
	}
	if _, err := seal.Build(t.Context(), run, v, filepath.Join(dir, "root.volume")); err != nil {
		t.Fatal(err)
	}
	golden.Compare(t, "recovery.argv", strings.ReplaceAll(run.Transcript(), dir, "DIR"))
	want := []string{
		string(passphrase), string(passphrase) + recovery, `{"keyslots":["1"],"type":"systemd-recovery"}`,
		string(passphrase) + string(bound), "2",
	}
	if diff := cmp.Diff(want, stdin); diff != "" {
		t.Errorf("standard inputs (-want +got):\n%s", diff)
	}
}

func TestAFurtherKeyThatFailsLeavesNoOutput(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"luksAddKey", "token"} {
		dir := t.TempDir()
		run := fake(t, "")
		answer := run.Answer
		run.Answer = func(c sh.Cmd) (string, error) {
			if c.Name == "cryptsetup" && c.Args[0] == verb {
				return "", errors.New("it broke")
			}
			return answer(c)
		}
		v := seal.Volume{
			Label: "cc-root", Tar: filetest.Write(t, filepath.Join(dir, "root.tar"), make([]byte, 1024)),
			Encrypt: true, Encryption: seal.Encryption{Cipher: "aes-xts-plain64", KeyBits: 512, Hash: "sha256"}, Key: passphrase, Recovery: []byte(recovery),
		}
		_, err := seal.Build(t.Context(), run, v, filepath.Join(dir, "root.volume"))
		faulttest.Want(t, err, fault.Sealing, "it broke")
		if diff := cmp.Diff([]string{"root.tar"}, filetest.Names(t, dir)); diff != "" {
			t.Errorf("%s: %s", verb, diff)
		}
	}
}

func TestAKeyThatCanBeGuessedIsNotAdded(t *testing.T) {
	t.Parallel()
	run := &sh.Recorder{}
	for _, pair := range [][2]string{{"short", recovery}, {string(passphrase), "short"}, {string(passphrase), ""}} {
		err := seal.AddKey(t.Context(), run, "image", 1, []byte(pair[0]), []byte(pair[1]), seal.Encryption{})
		faulttest.Want(t, err, fault.Sealing, "too short")
	}
	if run.Transcript() != "" {
		t.Errorf("it ran %q", run.Transcript())
	}
}

func TestTheRecoveryKeyOpensTheVolumeInItsOwnSlot(t *testing.T) {
	t.Parallel()
	tree, dir := lab.Tools(t)
	run := &witness{Runner: &witness{Runner: tree, t: t, secret: []byte(recovery)}, t: t, secret: passphrase}
	v := plain(t, dir)
	v.Encrypt, v.Key, v.Recovery = true, passphrase, []byte(recovery)
	v.Encryption = seal.Encryption{Cipher: "aes-xts-plain64", KeyBits: 512, Hash: "sha512"}
	bound := []byte("passphrase-that-a-tpm-keeps-0123456789abcdef")
	v.Bound = []seal.BoundKey{{Passphrase: bound, Token: func(int) ([]byte, error) { return []byte(`{"type":"cc-test","keyslots":["2"]}`), nil }}}
	image := filepath.Join(dir, "image")
	build(t, run, v, image)
	for slot, key := range map[string][]byte{"0": passphrase, "1": []byte(recovery), "2": bound} {
		if _, err := luks(t, tree, key, "open", "--test-passphrase", "--key-file=-", "--key-slot="+slot, image); err != nil {
			t.Errorf("slot %s: %v", slot, err)
		}
	}
	for name, wrong := range map[string]string{"no dashes": strings.ReplaceAll(recovery, "-", ""), "another": strings.Replace(recovery, "c", "v", 1), "both": string(passphrase) + recovery} {
		if _, err := luks(t, tree, []byte(wrong), "open", "--test-passphrase", "--key-file=-", image); err == nil {
			t.Errorf("%s: it opens", name)
		}
	}
	dump, err := luks(t, tree, nil, "luksDump", "--dump-json-metadata", image)
	if err != nil {
		t.Fatal(err)
	}
	var h header
	if err := json.Unmarshal([]byte(dump), &h); err != nil {
		t.Fatal(err)
	}
	if len(h.Keyslots) != 3 || len(h.Digests) != 1 || len(h.Segments) != 1 {
		t.Fatalf("not three keyslots with one digest: %s", dump)
	}
	if diff := cmp.Diff(h.Keyslots["0"], h.Keyslots["1"]) + cmp.Diff(h.Keyslots["1"], h.Keyslots["2"]); diff != "" {
		t.Errorf("the slots are made differently:\n%s", diff)
	}
	tokens := map[string]any{
		"0": map[string]any{"type": "systemd-recovery", "keyslots": []any{"1"}},
		"1": map[string]any{"type": "cc-test", "keyslots": []any{"2"}},
	}
	if diff := cmp.Diff(tokens, h.Tokens); diff != "" {
		t.Errorf("tokens (-want +got):\n%s", diff)
	}
}
