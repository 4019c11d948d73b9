// Package rekey gives the volumes of one installation keys of their own.
//
// The image is shipped to many, and so is the key that opens it: whoever has
// one installer could read every disk that was made from it. Volume therefore
// changes the volume key of a copy, which changes every encrypted byte, and
// leaves it with the passphrases of this installation alone.
//
// It works on a plain file, without device-mapper, and on nothing else: when it
// is interrupted, the copy is thrown away and made again.
package rekey

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"

	"golang.org/x/crypto/xts"

	"cc-base/tasks/fault"
	"cc-base/tasks/seal"
	"cc-base/tasks/seal/header"
	"cc-base/tasks/sh"
)

// ErrBound is in the chain of the error for a volume that the build bound to a
// known TPM. Its passphrase is in that TPM, and re-encryption needs it.
var ErrBound = errors.New("it was bound to a TPM when it was built")

// enrolmentSlot is the keyslot of the secret that opens a volume first: of the
// image key in a shipped image, of the installation's own afterwards.
const enrolmentSlot = 0

// Secrets are passphrases, to be wiped by whoever made them.
type Secrets struct {
	Image     []byte // of the shipped image
	Enrolment []byte // of this installation, until the guest has bound the volume to its machine
	Recovery  []byte // for people, in the form of [seal.NewRecovery]; none when empty
}

// Proof is what was seen of a volume before and after.
type Proof struct {
	Plain      string // SHA-256 of what is encrypted, before and after the same
	Ciphertext string // SHA-256 of everything behind the header, after
	Size       int64  // bytes behind the header
}

// Volume changes keys and passphrases of the LUKS2 volume in file and proves
// that they have changed and that the content has not: the volume keys differ,
// so do the encrypted bytes, the decrypted ones are equal, the header passes the
// rules that the guest has, and exactly the passphrases of this installation
// open it. run needs cryptsetup 2.4 or later.
//
// Its errors have the code fault.Sealing, or that of the header's rule.
func Volume(ctx context.Context, run sh.Runner, file string, s Secrets) (Proof, error) {
	before, err := look(ctx, file, s.Image)
	if err != nil {
		return Proof{}, fmt.Errorf("%s: %w", file, err)
	}
	defer seal.Wipe(before.key)
	for _, raw := range before.header.Metadata().Tokens {
		var token struct{ Type string }
		if err := json.Unmarshal(raw, &token); err != nil || token.Type != "systemd-recovery" {
			return Proof{}, fault.New(fault.Sealing, fmt.Errorf("%s: a token of type %q: %w", file, token.Type, ErrBound))
		}
	}
	if err := change(ctx, run, file, before, s); err != nil {
		return Proof{}, err
	}
	after, err := look(ctx, file, s.Enrolment)
	if err != nil {
		return Proof{}, fault.Newf(fault.Sealing, "%s: after its key was changed: %w", file, err)
	}
	defer seal.Wipe(after.key)
	if err := after.differs(before, s); err != nil {
		return Proof{}, fault.Newf(fault.Sealing, "%s: after its key was changed: %w", file, err)
	}
	return Proof{Plain: after.plain, Ciphertext: after.ciphertext, Size: after.size}, nil
}

// change runs cryptsetup. Secrets go over standard input.
func change(ctx context.Context, run sh.Runner, file string, v volume, s Secrets) error {
	key := []string{"--key-file=-", fmt.Sprintf("--keyfile-size=%d", len(s.Image))}
	// A re-encryption wants the passphrase of every keyslot.
	for _, slot := range v.slots() {
		if slot == v.slot {
			continue
		}
		if err := cryptsetup(ctx, run, s.Image, slices.Concat([]string{"luksKillSlot"}, key, []string{file, slot})...); err != nil {
			return err
		}
	}
	for _, id := range slices.Sorted(maps.Keys(v.header.Metadata().Tokens)) {
		if err := cryptsetup(ctx, run, nil, "token", "remove", "--token-id="+id, file); err != nil {
			return err
		}
	}
	e := v.encryption()
	// A copy that is half done is thrown away: nothing has to be kept for a resume.
	args := slices.Concat([]string{"reencrypt", "--force-offline-reencrypt", "--resilience=none"}, key,
		[]string{"--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", "--hash=" + e.Hash, file})
	if err := cryptsetup(ctx, run, s.Image, args...); err != nil {
		return err
	}
	// The new volume key has come into another keyslot.
	moved, err := slotOf(file, s.Image)
	if err != nil {
		return err
	}
	if err := seal.AddKey(ctx, run, file, enrolmentSlot, s.Image, s.Enrolment, e); err != nil {
		return err
	}
	// It wants a passphrase of a keyslot that stays.
	if err := cryptsetup(ctx, run, s.Enrolment, "luksKillSlot", "--key-file=-", fmt.Sprintf("--keyfile-size=%d", len(s.Enrolment)), file, moved); err != nil {
		return err
	}
	if len(s.Recovery) == 0 {
		return nil
	}
	return seal.AddRecovery(ctx, run, file, s.Enrolment, s.Recovery, e)
}

// slotOf returns the keyslot that a passphrase opens.
func slotOf(file string, passphrase []byte) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h, err := header.Read(f)
	if err != nil {
		return "", err
	}
	v := volume{header: h}
	err = v.open(passphrase)
	seal.Wipe(v.key)
	return v.slot, err
}

func cryptsetup(ctx context.Context, run sh.Runner, stdin []byte, args ...string) error {
	args = append(args, "--batch-mode", "--disable-locks")
	if err := run.Run(ctx, sh.Cmd{Name: "cryptsetup", Args: args, Stdin: bytes.NewReader(stdin)}); err != nil {
		return fault.New(fault.Sealing, err)
	}
	return nil
}

// volume is a LUKS2 volume that was opened with one passphrase.
type volume struct {
	header     *header.Copy
	slot       string // that the passphrase opens
	key        []byte // the volume key
	plain      string // SHA-256 of the decrypted content
	ciphertext string // SHA-256 of the encrypted content
	size       int64  // of either, bytes
}

// look judges the header, opens it and reads the whole volume.
func look(ctx context.Context, file string, passphrase []byte) (volume, error) {
	f, err := os.Open(file)
	if err != nil {
		return volume{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return volume{}, err
	}
	h, err := header.Read(f)
	if err != nil {
		return volume{}, err
	}
	rules := header.Rules{Cipher: "aes-xts-plain64", SectorSize: seal.SectorSize, HeaderSize: seal.HeaderSize, DeviceSize: info.Size()}
	if err := h.Check(rules); err != nil {
		return volume{}, err
	}
	v := volume{header: h, size: info.Size() - seal.HeaderSize}
	if err := v.open(passphrase); err != nil {
		return volume{}, err
	}
	if err := v.read(ctx, io.NewSectionReader(f, seal.HeaderSize, v.size)); err != nil {
		seal.Wipe(v.key)
		return volume{}, err
	}
	return v, nil
}

func (v *volume) slots() []string { return slices.Sorted(maps.Keys(v.header.Metadata().Keyslots)) }

// open finds the one keyslot that the passphrase opens.
func (v *volume) open(passphrase []byte) error {
	for _, slot := range v.slots() {
		key, err := v.header.VolumeKey(slot, passphrase)
		if err == nil {
			v.slot, v.key = slot, key
			return nil
		}
		if !errors.Is(err, header.ErrPassphrase) {
			return err
		}
	}
	return fault.Newf(fault.Sealing, "the key opens none of its keyslots").Hint("is it the key of another build?")
}

// encryption is how the volume is encrypted, for new keyslots.
func (v *volume) encryption() seal.Encryption {
	e := seal.Encryption{Cipher: v.header.Metadata().Segments["0"].Encryption, KeyBits: len(v.key) * 8, UUID: v.header.UUID()}
	for _, d := range v.header.Metadata().Digests {
		e.Hash = d.Hash
	}
	return e
}

// read decrypts everything. dm-crypt counts sectors for the tweak in units of
// 512 bytes, whatever the sectors' size (kernel, dm-crypt.rst,
// iv_large_sectors).
func (v *volume) read(ctx context.Context, data io.Reader) error {
	c, err := xts.NewCipher(aes.NewCipher, v.key)
	if err != nil {
		return fault.New(fault.Sealing, err)
	}
	plain, encrypted := sha256.New(), sha256.New()
	buf := make([]byte, 256*seal.SectorSize)
	defer seal.Wipe(buf)
	for at := int64(0); at < v.size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := buf[:min(int64(len(buf)), v.size-at)]
		if _, err := io.ReadFull(data, b); err != nil {
			return err
		}
		encrypted.Write(b)
		for n := 0; n < len(b); n += seal.SectorSize {
			sector := b[n:][:seal.SectorSize]
			c.Decrypt(sector, sector, uint64(at+int64(n))/512)
		}
		plain.Write(b)
		at += int64(len(b))
	}
	v.plain, v.ciphertext = hex.EncodeToString(plain.Sum(nil)), hex.EncodeToString(encrypted.Sum(nil))
	return nil
}

// differs tells what has not become as it should.
func (v *volume) differs(before volume, s Secrets) error {
	var wrong []error
	add := func(bad bool, format string, args ...any) {
		if bad {
			wrong = append(wrong, fmt.Errorf(format, args...))
		}
	}
	add(subtle.ConstantTimeCompare(v.key, before.key) == 1, "the volume key is still that of the shipped image")
	add(v.ciphertext == before.ciphertext, "its encrypted bytes are still those of the shipped image")
	add(v.plain != before.plain, "its content is another one")
	add(v.size != before.size, "it has %d bytes, not %d", v.size, before.size)
	want := []string{strconv.Itoa(enrolmentSlot)}
	if len(s.Recovery) > 0 {
		want = append(want, strconv.Itoa(seal.RecoverySlot))
	}
	slices.Sort(want)
	add(!slices.Equal(v.slots(), want), "it has the keyslots %q, not %q", v.slots(), want)
	for _, slot := range v.slots() {
		key, err := v.header.VolumeKey(slot, s.Image)
		seal.Wipe(key)
		add(err == nil, "keyslot %s opens with the key of the shipped image", slot)
	}
	if len(s.Recovery) > 0 {
		key, err := v.header.VolumeKey(strconv.Itoa(seal.RecoverySlot), s.Recovery)
		seal.Wipe(key)
		add(err != nil, "the recovery key does not open it: %v", err)
	}
	return errors.Join(wrong...)
}
