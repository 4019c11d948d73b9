package header_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cc-base/tasks/filetest"
	"cc-base/tasks/lab"
	"cc-base/tasks/seal"
	"cc-base/tasks/seal/header"
	"cc-base/tasks/sh"
)

// tool is cryptsetup of the tools tree in a folder with both passphrases.
type tool struct {
	t   *testing.T
	run sh.Runner
	dir string
}

func newTool(t *testing.T) tool {
	t.Helper()
	run, dir := lab.Tools(t)
	filetest.Write(t, filepath.Join(dir, "first"), first)
	filetest.Write(t, filepath.Join(dir, "second"), second)
	return tool{t, run, dir}
}

func (c tool) file(name string) string { return filepath.Join(c.dir, name) }

func (c tool) try(args ...string) (string, error) {
	var out bytes.Buffer
	err := c.run.Run(c.t.Context(), sh.Cmd{Name: "cryptsetup", Dir: c.dir, Args: append(args, "--disable-locks", "--batch-mode"), Stdout: &out})
	return out.String(), err
}

func (c tool) do(args ...string) string {
	c.t.Helper()
	out, err := c.try(args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

const cheap = "--pbkdf=pbkdf2 --pbkdf-force-iterations=1000"

// format makes a volume of 20 MiB with one keyslot.
func (c tool) format(name string, bits int, hash string) string {
	c.t.Helper()
	file := filetest.Write(c.t, c.file(name), nil)
	if err := os.Truncate(file, 20<<20); err != nil {
		c.t.Fatal(err)
	}
	c.do(append(strings.Fields(cheap), "luksFormat", "--type=luks2", "--cipher=aes-xts-plain64", fmt.Sprintf("--key-size=%d", bits),
		"--hash="+hash, "--sector-size=4096", "--key-slot=0", "--key-file=first", name)...)
	return name
}

// volumeKey asks cryptsetup.
func (c tool) volumeKey(name, passphrase string) []byte {
	c.t.Helper()
	_, dump, ok := strings.Cut(c.do("luksDump", "--dump-volume-key", "--key-file="+passphrase, name), "MK dump:")
	if !ok {
		c.t.Fatal("no volume key in the dump")
	}
	key, err := hex.DecodeString(strings.Join(strings.Fields(dump), ""))
	if err != nil {
		c.t.Fatal(err)
	}
	return key
}

func (c tool) read(name string) *header.Copy {
	c.t.Helper()
	f, err := os.Open(c.file(name))
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	h, err := header.Read(f)
	if err != nil {
		c.t.Fatal(err)
	}
	return h
}

func (c tool) addToken(name, id string, token object) {
	c.t.Helper()
	file := filetest.Write(c.t, c.file("token.json"), must(json.Marshal(token)))
	c.do("token", "import", "--token-replace", "--token-id="+id, "--json-file="+file, name)
}

func TestHeadersOfCryptsetupPassAndOpenTheSame(t *testing.T) {
	t.Parallel()
	c := newTool(t)
	add := func(name string, more ...string) string {
		c.do(append(more, "luksAddKey", "--key-file=first", "--new-keyfile=second", name)...)
		return name
	}
	sealed := func(name string) string {
		file := filetest.Write(t, c.file(name), filetest.Noise(3, 1<<20))
		e := seal.Encryption{Cipher: "aes-xts-plain64", KeyBits: 512, Hash: "sha256", UUID: uuid}
		if err := seal.Encrypt(t.Context(), c.run, file, first, e); err != nil {
			t.Fatal(err)
		}
		return name
	}
	// As the guest formats: into a file, for a device that is elsewhere.
	detached := func(name string) string {
		file := filetest.Write(t, c.file("device"), nil)
		if err := os.Truncate(file, 20<<20); err != nil {
			t.Fatal(err)
		}
		filetest.Write(t, c.file(name), make([]byte, header.Size))
		c.do(append(strings.Fields(cheap), "luksFormat", "--type=luks2", "--header="+name, fmt.Sprintf("--offset=%d", header.Size/512),
			"--cipher=aes-xts-plain64", "--key-size=512", "--hash=sha256", "--sector-size=4096", "--key-slot=0", "--key-file=first", "device")...)
		return name
	}
	renewed := func(name string) string {
		c.do(append(strings.Fields(cheap), "reencrypt", "--force-offline-reencrypt", "--hash=sha256", "--key-file=first", sealed(name))...)
		return name
	}
	for _, tt := range []struct {
		file   string
		bits   int
		hash   string
		second bool
	}{
		{c.format("sha256-256", 256, "sha256"), 256, "sha256", false},
		{c.format("sha256-512", 512, "sha256"), 512, "sha256", false},
		{c.format("sha512-256", 256, "sha512"), 256, "sha512", false},
		{c.format("sha512-512", 512, "sha512"), 512, "sha512", false},
		{add(c.format("argon2id", 512, "sha256"), "--pbkdf=argon2id", "--pbkdf-force-iterations=4", "--pbkdf-memory=8192", "--pbkdf-parallel=2"), 512, "sha256", true},
		// Without --hash the second slot is of sha256, whatever the first is.
		{add(c.format("mixed", 512, "sha512"), strings.Fields(cheap)...), 512, "sha512", true},
		{add(c.format("timed", 512, "sha256"), "--pbkdf=pbkdf2", "--iter-time=100"), 512, "sha256", true},
		{sealed("sealed"), 512, "sha256", false},
		{renewed("renewed"), 512, "sha256", false},
		{detached("detached"), 512, "sha256", false},
	} {
		h := c.read(tt.file)
		r := rules()
		r.KeyBits, r.Hash, r.DeviceSize = tt.bits, tt.hash, 0
		if err := h.Check(r); err != nil {
			t.Errorf("%s: %v", tt.file, err)
		}
		if h.Damage() != nil || h.UUID() != strings.TrimSpace(c.do("luksUUID", tt.file)) {
			t.Errorf("%s: UUID %s, damage %v", tt.file, h.UUID(), h.Damage())
		}
		want := c.volumeKey(tt.file, "first")
		opened := 0
		for id := range h.Metadata().Keyslots {
			for _, passphrase := range [][]byte{first, second} {
				key, err := h.VolumeKey(id, passphrase)
				switch {
				case errors.Is(err, header.ErrPassphrase):
				case err != nil || !bytes.Equal(key, want):
					t.Errorf("%s: slot %s: %x, not %x; %v", tt.file, id, key, want, err)
				default:
					opened++
				}
			}
		}
		if wanted := map[bool]int{false: 1, true: 2}[tt.second]; opened != wanted || len(h.Unbound()) != wanted {
			t.Errorf("%s: %d opened, unbound %q", tt.file, opened, h.Unbound())
		}
	}
}

func TestEveryMutationOfARealHeaderIsFound(t *testing.T) {
	t.Parallel()
	c := newTool(t)
	c.format("volume", 512, "sha256")
	c.addToken("volume", "0", object{"type": "cc-base", "keyslots": []string{"0"}})
	area := filetest.Read(t, c.file("volume"))[:2<<20]
	try(t, area, rules(), append(append(inJSON(), inText()...), inBinary()...))
}

// What the tests make must be what cryptsetup takes for LUKS2, or the other
// tests prove little: above all the header with integrity, which cryptsetup
// cannot make here.
func TestCryptsetupOpensWhatTheTestsMake(t *testing.T) {
	t.Parallel()
	c := newTool(t)
	integrity := newFixture(96, "sha256").slot("0", 0, first, nil).token("0", "cc-base", "0")
	at(integrity.json, "segments.0")["integrity"] = object{"type": "hmac(sha256)", "journal_encryption": "none", "journal_integrity": "none"}
	argon := newFixture(64, "sha512").slot("0", 0, first, object{"type": "argon2id", "time": 4, "memory": 1024, "cpus": 1})
	for name, f := range map[string]*fixture{"plain": sample(), "integrity": integrity, "argon2id": argon} {
		c.place(name, f.bytes())
		if key := c.volumeKey(name, "first"); !bytes.Equal(key, f.key) {
			t.Errorf("%s: %x, not %x", name, key, f.key)
		}
		if dump := c.do("luksDump", name); strings.Contains(dump, "integrity: hmac(sha256)") != (name == "integrity") {
			t.Errorf("%s:\n%s", name, dump)
		}
	}
}

// place writes the area to a file of a volume's size.
func (c tool) place(name string, area []byte) {
	c.t.Helper()
	file := filetest.Write(c.t, c.file(name), area)
	if err := os.Truncate(file, 20<<20); err != nil {
		c.t.Fatal(err)
	}
}

func TestTheMACOutlivesARotationByCryptsetup(t *testing.T) {
	t.Parallel()
	c := newTool(t)
	c.format("volume", 512, "sha256")
	token := object{"type": "cc-base", "keyslots": []string{"0"}, "cc-volume": "cc-root", "cc-epoch": 1, "text": "a/b <é>"}
	c.addToken("volume", "0", token)
	key := bytes.Repeat([]byte{7}, 32)
	mac := func() []byte { return must(c.read("volume").MAC(key, "cc-root", "0")) }
	want := mac()
	for _, step := range []func(){
		func() {
			c.do(append(strings.Fields(cheap), "luksAddKey", "--key-slot=5", "--key-file=first", "--new-keyfile=second", "volume")...)
		},
		func() {
			c.addToken("volume", "1", object{"type": "systemd-recovery", "keyslots": []string{"5"}})
		},
		func() {
			token["cc-mac"], token["cc-state"] = want, "active"
			c.addToken("volume", "0", token)
		},
		func() { c.do("luksKillSlot", "--key-file=first", "volume", "5") },
		func() { c.do("token", "remove", "--token-id=1", "volume") },
	} {
		before := c.read("volume").SeqID()
		step()
		if !bytes.Equal(mac(), want) || c.read("volume").SeqID() <= before {
			t.Errorf("number %d: another code", c.read("volume").SeqID())
		}
		if err := c.read("volume").Check(rules()); err != nil {
			t.Error(err)
		}
	}
	token["cc-epoch"] = 2
	c.addToken("volume", "0", token)
	if bytes.Equal(mac(), want) {
		t.Error("another token has the same code")
	}
}

// A rotation by cryptsetup on a copy is written back, cut off everywhere;
// cryptsetup must open what is left with the passphrase of one of the two
// headers, both as it is and as Bytes gives it.
func TestCryptsetupOpensWhatACutLeaves(t *testing.T) {
	t.Parallel()
	c := newTool(t)
	c.format("volume", 256, "sha256")
	c.addToken("volume", "0", object{"type": "cc-base", "keyslots": []string{"0"}})
	before := c.read("volume")
	filetest.Write(t, c.file("copy"), before.Bytes())
	c.do(append(strings.Fields(cheap), "luksAddKey", "--key-file=first", "--new-keyfile=second", "copy")...)
	c.do("luksKillSlot", "--key-file=second", "copy", "0")
	c.addToken("copy", "0", object{"type": "cc-base", "keyslots": []string{"1"}})
	after := c.read("copy")
	r := newRecorder()
	if err := header.Store(r, before, after); err != nil {
		t.Fatal(err)
	}
	// Everything that is used lies in the first MiB.
	disk := before.Bytes()[:1<<20]
	for _, writes := range r.steps {
		for _, w := range writes {
			if w.off+int64(len(w.data)) > 1<<20 {
				t.Fatalf("%d bytes are written at %d", len(w.data), w.off)
			}
		}
	}
	n, tried := 0, map[string]int{}
	r.crashes(disk, func(left []byte, where string) {
		if n++; n%50 != 0 && where != "between steps" && where != "at the end" {
			return
		}
		h, err := header.Parse(left)
		if err != nil {
			t.Fatal(err)
		}
		passphrase := "first"
		if h.SeqID() == after.SeqID() {
			passphrase = "second"
		}
		tried[passphrase]++
		for _, area := range [][]byte{left, h.Bytes()} {
			c.place("left", area)
			if _, err := c.try("open", "--test-passphrase", "--key-file="+passphrase, "left"); err != nil {
				t.Errorf("cut %d, %s, with the %s: %v", n, where, passphrase, err)
			}
		}
		c.do("luksDump", "left")
	})
	if tried["first"] < 2 || tried["second"] < 2 {
		t.Errorf("tried %v", tried)
	}
	if n < 60 {
		t.Errorf("only %d cuts", n)
	}
}
