package dynamic

// Green here means that a power cut while a new volume's header is written, at
// any sector, leaves a partition that is made anew or one that opens. Mapping it
// and making the file system are recorded, not done; the disk is a byte slice.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"cc-base/overlays/cc-guest/internal/vault"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/lab"
	"cc-base/tasks/seal/header"
	"cc-base/tasks/sh"
)

// fixed is a key source with one secret.
type fixed struct{}

func (fixed) TokenType() string { return "cc-base" }
func (fixed) Trusted() bool     { return false }

func (fixed) New(context.Context, string, int) ([]byte, map[string]json.RawMessage, error) {
	return []byte("a secret of the machine, with 32 bytes"), map[string]json.RawMessage{"type": json.RawMessage(`"cc-base"`)}, nil
}

func (s fixed) Passphrase(ctx context.Context, _ string, _ json.RawMessage) ([]byte, error) {
	p, _, err := s.New(ctx, "", 0)
	return p, err
}

func (fixed) Prove(context.Context, string, json.RawMessage, []byte) error { return nil }

// runner runs luksFormat and what changes the header, and records the rest.
type runner struct {
	tools sh.Runner
	node  string
	fails string
	calls []string
}

func (r *runner) Run(ctx context.Context, secrets [][]byte, stdin []byte, program string, args ...string) (string, int, error) {
	call := filepath.Base(program) + " " + strings.Join(args, " ")
	r.calls = append(r.calls, call)
	if r.fails != "" && strings.HasPrefix(call, r.fails) {
		return "", 1, nil
	}
	if args[0] == "open" || filepath.Base(program) != "cryptsetup" {
		return "", 0, nil
	}
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
	args = slices.Clone(args)
	if i := slices.Index(args, "/dev/vda5"); i >= 0 {
		args[i] = r.node
	}
	err := r.tools.Run(ctx, sh.Cmd{Name: program, Args: args, Stdin: bytes.NewReader(stdin), Files: files})
	var failed *sh.Error
	if errors.As(err, &failed) {
		return "", 1, nil
	}
	return "", 0, err
}

// disk keeps every write.
type disk struct {
	data   []byte
	writes []written
}

type written struct {
	off  int64
	data []byte
}

func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(d.data).ReadAt(p, off)
}

func (d *disk) WriteAt(p []byte, off int64) (int, error) {
	d.writes = append(d.writes, written{off, bytes.Clone(p)})
	return copy(d.data[off:], p), nil
}

func (*disk) Sync() error { return nil }

const size = 20 << 20

func maker(t *testing.T) (Maker, *runner) {
	t.Helper()
	tools, dir := lab.Tools(t)
	r := &runner{tools: tools, node: filepath.Join(dir, "node")}
	if err := os.WriteFile(r.node, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	return Maker{
		Runner: r, Node: "/dev/vda5", Work: filepath.Join(dir, "work"),
		Rules: header.Rules{Cipher: "aes-xts-plain64", KeyBits: 512, Hash: "sha512", SectorSize: 4096, HeaderSize: HeaderSize, DeviceSize: size},
	}, r
}

func TestAPowerCutLeavesABlankPartitionOrAWholeVolume(t *testing.T) {
	t.Parallel()
	m, r := maker(t)
	if err := os.MkdirAll(m.Work, 0o700); err != nil {
		t.Fatal(err)
	}
	// What lay there before must not matter, but for the places that are looked at.
	before := bytes.Repeat([]byte("x"), size)
	clear(before[copySize : copySize+sector])
	d := &disk{data: bytes.Clone(before)}
	if blank, err := Blank(d); err != nil || !blank {
		t.Fatalf("blank %v, %v", blank, err)
	}
	v, o, err := m.Make(t.Context(), d, fixed{})
	if err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(r.calls, func(c string) bool { return strings.HasPrefix(c, "mkfs.ext4") }); i < 0 || len(d.writes) != 3 {
		t.Errorf("%d writes; calls\n%s", len(d.writes), strings.Join(r.calls, "\n"))
	}
	opens, blanks := 0, 0
	now := &disk{data: bytes.Clone(before)}
	for _, w := range d.writes {
		for at := 0; at <= len(w.data); at += sector {
			if at > 4*copySize && at%(1<<20) != 0 {
				continue // keyslot areas
			}
			copy(now.data[w.off:], w.data[:at])
			blank, err := Blank(now)
			if err != nil {
				t.Fatal(err)
			}
			if blank {
				blanks++
				continue
			}
			opens++
			c, err := header.Read(now)
			if err != nil {
				t.Fatalf("after %d bytes at %d: neither blank nor a volume: %v", at, w.off, err)
			}
			if at > 8*sector && at%(16*sector) != 0 {
				continue
			}
			u, err := vault.Load(Label, c, m.Rules, m.Work)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := u.ByMachine(t.Context(), fixed{}); err != nil || again == nil || !bytes.Equal(again.Key, o.Key) {
				t.Fatalf("after %d bytes at %d: it does not open, %v", at, w.off, err)
			}
		}
	}
	if opens < 100 || blanks < 100 || v.Header.Damage() != nil {
		t.Errorf("%d states open, %d are blank, damage %v", opens, blanks, v.Header.Damage())
	}
}

func TestAVolumeIsNotTakenForBlank(t *testing.T) {
	t.Parallel()
	m, r := maker(t)
	if err := os.MkdirAll(m.Work, 0o700); err != nil {
		t.Fatal(err)
	}
	d := &disk{data: make([]byte, size)}
	if _, _, err := m.Make(t.Context(), d, fixed{}); err != nil {
		t.Fatal(err)
	}
	// As cryptsetup formats by itself: with copies of 16 KiB.
	_, status, err := r.Run(t.Context(), [][]byte{[]byte("some passphrase")}, nil, "/usr/sbin/cryptsetup", "luksFormat", "--batch-mode", "--disable-locks",
		"--type=luks2", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", "--key-file=/proc/self/fd/3", m.Node)
	if err != nil || status != 0 {
		t.Fatal(status, err)
	}
	small, err := os.ReadFile(r.node)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		of    []byte
		spoil []int // sectors that become zeros
		blank bool
	}{
		"whole":                          {d.data, nil, false},
		"without a beginning":            {d.data, []int{0}, false},
		"without a second copy":          {d.data, []int{copySize / sector}, false},
		"without either":                 {d.data, []int{0, copySize / sector}, true},
		"of another size":                {small, []int{copySize / sector}, false},
		"of another size, with one copy": {small, []int{0, copySize / sector}, false},
	} {
		data := bytes.Clone(tc.of)
		for _, n := range tc.spoil {
			clear(data[n*sector : (n+1)*sector])
		}
		if blank, err := Blank(&disk{data: data}); err != nil || blank != tc.blank {
			t.Errorf("%s: blank %v, %v", name, blank, err)
		}
	}
	if _, err := Blank(&disk{data: make([]byte, copySize)}); err == nil {
		t.Error("a partition that is too small is blank")
	}
}

func TestWhatFailsWritesNothing(t *testing.T) {
	t.Parallel()
	for _, call := range []string{"cryptsetup luksFormat", "cryptsetup luksAddKey", "cryptsetup open", "mkfs.ext4"} {
		m, r := maker(t)
		if err := os.MkdirAll(m.Work, 0o700); err != nil {
			t.Fatal(err)
		}
		r.fails = call
		d := &disk{data: make([]byte, size)}
		_, _, err := m.Make(t.Context(), d, fixed{})
		faulttest.Want(t, err, fault.GuestDynamic, "exit status 1")
		if len(d.writes) > 0 {
			t.Errorf("%s fails, and %d writes were done", call, len(d.writes))
		}
	}
	m, _ := maker(t)
	if err := os.MkdirAll(m.Work, 0o700); err != nil {
		t.Fatal(err)
	}
	m.Recipients = []string{"not a key"}
	_, _, err := m.Make(t.Context(), &disk{data: make([]byte, size)}, fixed{})
	faulttest.Want(t, err, fault.GuestDynamic, "recovery key")
}

// The settings allow 16 recipients; keys of 4096 bits make the longest messages
// that are common.
func TestTheHeaderHoldsARecoveryKeyForManyPeople(t *testing.T) {
	t.Parallel()
	m, _ := maker(t)
	if err := os.MkdirAll(m.Work, 0o700); err != nil {
		t.Fatal(err)
	}
	e, err := openpgp.NewEntity("Operator", "", "operator@site.invalid", &packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 4096})
	if err != nil {
		t.Fatal(err)
	}
	var public bytes.Buffer
	w, err := armor.Encode(&public, openpgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(e.Serialize(w), w.Close()); err != nil {
		t.Fatal(err)
	}
	m.Recipients = slices.Repeat([]string{public.String()}, 16)
	v, o, err := m.Make(t.Context(), &disk{data: make([]byte, size)}, fixed{})
	if err != nil {
		t.Fatal(err)
	}
	if message, _ := v.Recovery(o.Key); len(message) < 16*512 {
		t.Errorf("a message of %d bytes", len(message))
	}
	if err := v.Prepare(t.Context(), fixed{}, o); err != nil {
		t.Errorf("a rotation has no room beside it: %v", err)
	}
}
