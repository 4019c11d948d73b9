package rotation

// Green here means that the secrets of real LUKS2 headers are replaced by the
// real cryptsetup and that the next boot's header is the new one. The key source
// and the keyring are maps in memory.

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"cc-base/overlays/cc-guest/internal/keystate"
	"cc-base/overlays/cc-guest/internal/vault"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/lab"
	"cc-base/tasks/seal/header"
	"cc-base/tasks/sh"
)

// counted gives the n-th secret, and the token that names it.
type counted struct{ n int }

func (*counted) TokenType() string { return "cc-base" }
func (*counted) Trusted() bool     { return false }

func secret(n int) []byte {
	return []byte(base64.StdEncoding.EncodeToString([]byte(fmt.Sprintf("%032d", n))))
}

func (c *counted) New(context.Context, string, int) ([]byte, map[string]json.RawMessage, error) {
	c.n++
	return secret(c.n), map[string]json.RawMessage{"type": json.RawMessage(`"cc-base"`), "n": json.RawMessage(fmt.Sprint(c.n))}, nil
}

func (*counted) Passphrase(_ context.Context, _ string, raw json.RawMessage) ([]byte, error) {
	var t struct{ N int }
	err := json.Unmarshal(raw, &t)
	return secret(t.N), err
}

func (*counted) Prove(context.Context, string, json.RawMessage, []byte) error { return nil }

type runner struct{ tools sh.Runner }

func (r runner) Run(ctx context.Context, secrets [][]byte, stdin []byte, program string, args ...string) (string, int, error) {
	var files []*os.File
	for _, s := range secrets {
		read, write, err := os.Pipe()
		if err != nil {
			return "", -1, err
		}
		defer read.Close()
		if _, err := write.Write(s); err != nil {
			return "", -1, err
		}
		write.Close()
		files = append(files, read)
	}
	err := r.tools.Run(ctx, sh.Cmd{Name: program, Args: args, Stdin: bytes.NewReader(stdin), Files: files})
	var failed *sh.Error
	if errors.As(err, &failed) {
		return "", 1, nil
	}
	return "", 0, err
}

const first = "the secret that the initrd found, 32 bytes"

// running returns a system whose cc-root was opened by the first secret.
func running(t *testing.T) (Keys, *counted, map[string][]byte, string) {
	t.Helper()
	return runningWith(t, "cc-root")
}

// runningWith returns one with another volume.
func runningWith(t *testing.T, label string) (Keys, *counted, map[string][]byte, string) {
	t.Helper()
	tools, dir := lab.Tools(t)
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, make([]byte, 17<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	r := runner{tools}
	_, status, err := r.Run(t.Context(), [][]byte{[]byte(first)}, nil, "cryptsetup", "luksFormat", "--batch-mode", "--disable-locks", "--type=luks2",
		"--cipher=aes-xts-plain64", "--key-size=512", "--hash=sha512", "--sector-size=4096", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000",
		"--key-file=/proc/self/fd/3", disk)
	if err != nil || status != 0 {
		t.Fatalf("luksFormat: %d, %v", status, err)
	}
	area, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	keysDir := filepath.Join(dir, "keys")
	if err := os.MkdirAll(filepath.Join(keysDir, "header"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(keysDir, "header", label), area[:16<<20], 0o600); err != nil {
		t.Fatal(err)
	}
	state := keystate.State{Profile: "tpm", Volumes: []keystate.Volume{
		{Label: label, Node: disk, Opened: keystate.ByMachine, Slot: "0"},
		{Label: "cc-config", Opened: keystate.Unencrypted},
	}}
	if err := keystate.Write(keysDir, state); err != nil {
		t.Fatal(err)
	}
	ring := map[string][]byte{label: []byte(first)}
	source := &counted{}
	return Keys{
		Dir: keysDir, Runner: r, Source: source, Now: time.Now,
		Rules: func(string) header.Rules {
			return header.Rules{Cipher: "aes-xts-plain64", KeyBits: 512, Hash: "sha512", SectorSize: 4096, HeaderSize: 16 << 20}
		},
		Open: func(node string) (Partition, error) { return os.OpenFile(node, os.O_RDWR, 0) },
		Secret: func(label string) ([]byte, error) {
			if s, ok := ring[label]; ok {
				return slices.Clone(s), nil
			}
			return nil, errors.New("no such key")
		},
		Keep: func(label string, s []byte) error { ring[label] = slices.Clone(s); return nil },
	}, source, ring, disk
}

func TestRotateReplacesTheSecretOnTheDiskAndInTheKeyring(t *testing.T) {
	t.Parallel()
	k, _, ring, disk := running(t)
	if due, err := k.Due(time.Hour); err != nil || !due {
		t.Errorf("a secret of unknown age: due %v, %v", due, err)
	}
	for epoch := 1; epoch <= 2; epoch++ {
		if err := k.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		s, err := k.Status()
		if err != nil || len(s.Volumes) != 1 {
			t.Fatalf("%+v, %v", s, err)
		}
		v := s.Volumes[0]
		if v.Epoch != epoch || len(v.Slots) != 1 || v.Slots[0].State != vault.Active || v.Rotated == "" {
			t.Errorf("status is %+v", v)
		}
	}
	if !bytes.Equal(ring["cc-root"], secret(2)) {
		t.Error("the keyring does not hold the new secret")
	}
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c, err := header.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	for slot := range c.Metadata().Keyslots {
		if _, err := c.VolumeKey(slot, secret(2)); err != nil {
			t.Errorf("the disk's slot %s: %v", slot, err)
		}
		if _, err := c.VolumeKey(slot, []byte(first)); !errors.Is(err, header.ErrPassphrase) {
			t.Errorf("the former secret: %v", err)
		}
	}
	if due, err := k.Due(time.Hour); err != nil || due {
		t.Errorf("just rotated: due %v, %v", due, err)
	}
	k.Now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	if due, err := k.Due(time.Hour); err != nil || !due {
		t.Errorf("two hours later: due %v, %v", due, err)
	}
}

func TestPrepareKeepsThePresentSecret(t *testing.T) {
	t.Parallel()
	k, source, ring, _ := running(t)
	if err := k.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := k.Prepare(t.Context(), source); err != nil {
		t.Fatal(err)
	}
	s, err := k.Status()
	if err != nil || len(s.Volumes[0].Slots) != 2 || !bytes.Equal(ring["cc-root"], secret(1)) {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestRotateWithoutTheSecretChangesNothing(t *testing.T) {
	t.Parallel()
	k, _, ring, disk := running(t)
	before, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	for _, held := range [][]byte{nil, []byte("another one")} {
		delete(ring, "cc-root")
		if held != nil {
			ring["cc-root"] = held
		}
		faulttest.Want(t, k.Rotate(t.Context()), fault.GuestRotate, "cc-root")
	}
	after, err := os.ReadFile(disk)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the disk changed, %v", err)
	}
}
