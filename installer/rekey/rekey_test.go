package rekey_test

// What green does not prove: the volumes are small files of noise. That the
// guest opens what comes out is a boot's to show (tasks/lab).

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cc-base/installer/rekey"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/lab"
	"cc-base/tasks/seal"
	"cc-base/tasks/seal/header"
	"cc-base/tasks/sh"
)

const size = 3<<20 + 5*seal.SectorSize

// secret is a passphrase of full entropy's length.
func secret(name string) []byte { return []byte(strings.Repeat(name+"-", 8)) }

func encryption() seal.Encryption {
	return seal.Encryption{Cipher: "aes-xts-plain64", KeyBits: 512, Hash: "sha512", UUID: seal.Derive("cc-root", "luks", "test").String()}
}

// shipped returns a volume as the build makes it, with a recovery key, and its
// content.
func shipped(t *testing.T, tools sh.Runner, dir string) (file string, content []byte) {
	t.Helper()
	content = filetest.Noise(7, size)
	file = filetest.Write(t, filepath.Join(dir, "volume"), content)
	e := encryption()
	if err := seal.Encrypt(t.Context(), tools, file, secret("image"), e); err != nil {
		t.Fatal(err)
	}
	if err := seal.AddRecovery(t.Context(), tools, file, secret("image"), secret("builder"), e); err != nil {
		t.Fatal(err)
	}
	return file, content
}

// opens returns the keyslots that a passphrase opens.
func opens(t *testing.T, file string, passphrase []byte) []string {
	t.Helper()
	h, err := header.Read(bytes.NewReader(filetest.Read(t, file)))
	if err != nil {
		t.Fatal(err)
	}
	var slots []string
	for slot := range h.Metadata().Keyslots {
		if _, err := h.VolumeKey(slot, passphrase); err == nil {
			slots = append(slots, slot)
		}
	}
	slices.Sort(slots)
	return slots
}

func TestAVolumeGetsKeysOfItsOwn(t *testing.T) {
	t.Parallel()
	tools, dir := lab.Tools(t)
	file, content := shipped(t, tools, dir)
	before := filetest.Read(t, file)
	s := rekey.Secrets{Image: secret("image"), Enrolment: secret("mine"), Recovery: secret("people")}
	proof, err := rekey.Volume(t.Context(), tools, file, s)
	if err != nil {
		t.Fatal(err)
	}
	after := filetest.Read(t, file)
	sum := func(b []byte) string { d := sha256.Sum256(b); return hex.EncodeToString(d[:]) }
	if proof.Plain != sum(content) || proof.Size != size {
		t.Errorf("%d bytes of content %s, want %d of %s", proof.Size, proof.Plain, size, sum(content))
	}
	if proof.Ciphertext != sum(after[seal.HeaderSize:]) || len(after) != len(before) {
		t.Error("the proof is not of the file")
	}
	same := 0
	for at := seal.HeaderSize; at < len(before); at += seal.SectorSize {
		if bytes.Equal(before[at:][:seal.SectorSize], after[at:][:seal.SectorSize]) {
			same++
		}
	}
	if same > 0 {
		t.Errorf("%d encrypted sectors are those of the shipped image", same)
	}
	for name, want := range map[string][]string{"image": nil, "builder": nil, "mine": {"0"}, "people": {"1"}} {
		if got := opens(t, file, secret(name)); !slices.Equal(got, want) {
			t.Errorf("the key %q opens the slots %q, want %q", name, got, want)
		}
	}
	// Others' tool agrees that there is one volume and that the key opens it.
	if err := tools.Run(t.Context(), sh.Cmd{
		Name: "cryptsetup", Args: []string{"open", "--test-passphrase", "--disable-locks", "--key-file=-", "--key-slot=0", file},
		Stdin: bytes.NewReader(s.Enrolment),
	}); err != nil {
		t.Error(err)
	}
}

func TestWithoutARecoveryKeyThereIsOneSlot(t *testing.T) {
	t.Parallel()
	tools, dir := lab.Tools(t)
	file, _ := shipped(t, tools, dir)
	if _, err := rekey.Volume(t.Context(), tools, file, rekey.Secrets{Image: secret("image"), Enrolment: secret("mine")}); err != nil {
		t.Fatal(err)
	}
	if got := opens(t, file, secret("builder")); len(got) > 0 {
		t.Errorf("the builder's recovery key opens %q", got)
	}
	if got := opens(t, file, secret("mine")); !slices.Equal(got, []string{"0"}) {
		t.Errorf("the installation's key opens %q", got)
	}
}

func TestAnotherKeyChangesNothing(t *testing.T) {
	t.Parallel()
	tools, dir := lab.Tools(t)
	file, _ := shipped(t, tools, dir)
	before := filetest.Read(t, file)
	_, err := rekey.Volume(t.Context(), tools, file, rekey.Secrets{Image: secret("wrong"), Enrolment: secret("mine")})
	faulttest.Want(t, err, fault.Sealing, "opens none of its keyslots")
	if !bytes.Equal(filetest.Read(t, file), before) {
		t.Error("the volume was changed")
	}
}

func TestAVolumeThatIsBoundToATPMIsLeftAlone(t *testing.T) {
	t.Parallel()
	tools, dir := lab.Tools(t)
	file, _ := shipped(t, tools, dir)
	if err := seal.AddKey(t.Context(), tools, file, 2, secret("image"), secret("sealed"), encryption()); err != nil {
		t.Fatal(err)
	}
	tokens := filetest.Read(t, "../../tasks/tpm/token/testdata/systemd-tpm2-tokens.v257.json")
	var all map[string]json.RawMessage
	if err := json.Unmarshal(tokens, &all); err != nil {
		t.Fatal(err)
	}
	if err := seal.ImportToken(t.Context(), tools, file, 1, all["1"]); err != nil {
		t.Fatal(err)
	}
	before := filetest.Read(t, file)
	_, err := rekey.Volume(t.Context(), tools, file, rekey.Secrets{Image: secret("image"), Enrolment: secret("mine")})
	if !errors.Is(err, rekey.ErrBound) {
		t.Errorf("got %v", err)
	}
	if !bytes.Equal(filetest.Read(t, file), before) {
		t.Error("the volume was changed")
	}
}

// cheat does in place of the tool what its function does, where that is
// something.
type cheat struct {
	sh.Runner
	do func(c sh.Cmd) (done bool, err error)
}

func (r cheat) Run(ctx context.Context, c sh.Cmd) error {
	if done, err := r.do(c); done {
		return err
	}
	return r.Runner.Run(ctx, c)
}

// Whatever a tool leaves out although it says that all went well is found.
func TestWhatWasNotDoneIsSeen(t *testing.T) {
	t.Parallel()
	s := rekey.Secrets{Image: secret("image"), Enrolment: secret("mine")}
	for name, tt := range map[string]struct {
		do   func(tools sh.Runner, file string, c sh.Cmd) (bool, error)
		want []string
	}{
		"the same volume key in another slot": {func(tools sh.Runner, file string, c sh.Cmd) (bool, error) {
			if c.Args[0] != "reencrypt" {
				return false, nil
			}
			err := seal.AddKey(t.Context(), tools, file, 5, s.Image, s.Image, encryption())
			return true, errors.Join(err, tools.Run(t.Context(), sh.Cmd{
				Name: "cryptsetup", Args: []string{"luksKillSlot", "--batch-mode", "--disable-locks", "--key-file=-", file, "0"}, Stdin: bytes.NewReader(s.Image),
			}))
		}, []string{"the volume key is still that of the shipped image", "its encrypted bytes are still"}},
		"the image key stays": {func(_ sh.Runner, _ string, c sh.Cmd) (bool, error) {
			return c.Args[0] == "luksKillSlot" && bytes.Equal(stdin(t, c), s.Enrolment), nil
		}, []string{"opens with the key of the shipped image"}},
		"one byte of the content": {func(tools sh.Runner, file string, c sh.Cmd) (bool, error) {
			if c.Args[0] == "reencrypt" {
				if err := tools.Run(t.Context(), c); err != nil {
					return true, err
				}
				lab.Flip(t, file, seal.HeaderSize+seal.SectorSize+17)
				return true, nil
			}
			return false, nil
		}, []string{"its content is another one"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tools, dir := lab.Tools(t)
			file, _ := shipped(t, tools, dir)
			_, err := rekey.Volume(t.Context(), cheat{tools, func(c sh.Cmd) (bool, error) { return tt.do(tools, file, c) }}, file, s)
			for _, want := range tt.want {
				faulttest.Want(t, err, fault.Sealing, want)
			}
		})
	}
}

// stdin returns what a command reads, and leaves it there.
func stdin(t *testing.T, c sh.Cmd) []byte {
	t.Helper()
	r, ok := c.Stdin.(*bytes.Reader)
	if !ok {
		t.Fatalf("%s reads from a %T", c.Args[0], c.Stdin)
	}
	data := make([]byte, r.Len())
	if _, err := r.ReadAt(data, 0); err != nil && len(data) > 0 {
		t.Fatal(err)
	}
	return data
}
