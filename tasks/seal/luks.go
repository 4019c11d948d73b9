package seal

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/fault"
	"cc-base/tasks/sh"
)

// Encryption is how a LUKS2 volume is made.
type Encryption struct {
	Cipher  string // as cryptsetup names it: aes-xts-plain64
	KeyBits int    // volume key length, 512 is AES-256 in XTS
	Hash    string // of key derivation and anti-forensic split
	UUID    string // of the volume
}

// HeaderSize is the space that a LUKS2 header takes before the data, in bytes
// (cryptsetup's default: two copies of metadata and the keyslot area).
const HeaderSize = 16 << 20

// minKey is the shortest passphrase in bytes: the cheapest key derivation is
// sound only for one that cannot be guessed.
const minKey = 32

// SectorSize is the encryption sector in bytes: the file system's block, 30 %
// faster than 512 in the kernel and in cryptsetup.
const SectorSize = 4096

// Encrypt turns image into a LUKS2 volume in place, opened by the passphrase
// in key, with exactly one keyslot. image grows by HeaderSize.
//
// The volume key is random: equal content gives different bytes each time. The
// passphrase has full entropy, so the derivation is the cheapest that
// cryptsetup allows; argon2id would cost 20 seconds and a gigabyte and add
// nothing (reference: systemd's cryptsetup_set_minimal_pbkdf does the same).
//
// cryptsetup needs no device-mapper for this: it re-encrypts the file itself,
// moving the data up by the header, and wants twice the header's size free at
// the end to do so without a second file.
func Encrypt(ctx context.Context, run sh.Runner, image string, key []byte, e Encryption) error {
	if len(key) < minKey {
		return fault.Newf(fault.Sealing, "a passphrase of %d bytes is too short; at least %d random ones are needed", len(key), minKey)
	}
	info, err := os.Stat(image)
	if err != nil {
		return err
	}
	if info.Size()%SectorSize != 0 {
		return fault.Newf(fault.Sealing, "%s: %d bytes are not a multiple of the encryption sector %d", image, info.Size(), SectorSize)
	}
	if err := os.Truncate(image, info.Size()+2*HeaderSize); err != nil {
		return err
	}
	err = run.Run(ctx, sh.Cmd{
		Name: "cryptsetup",
		// It keeps the new header in a file of this folder for a moment, named
		// after the UUID. In a tools tree /tmp is the command's own: elsewhere a
		// file that a kill left behind would stop every later build of the same
		// content.
		Dir: "/tmp",
		Args: []string{
			"reencrypt", "--encrypt", "--type=luks2", "--batch-mode",
			fmt.Sprintf("--reduce-device-size=%dM", 2*HeaderSize>>20), "--force-offline-reencrypt", "--disable-locks",
			"--cipher=" + e.Cipher, fmt.Sprintf("--key-size=%d", e.KeyBits), "--hash=" + e.Hash,
			fmt.Sprintf("--sector-size=%d", SectorSize), "--uuid=" + e.UUID,
			"--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", "--key-slot=0",
			"--key-file=-", fmt.Sprintf("--keyfile-size=%d", len(key)),
			image,
		},
		Stdin: bytes.NewReader(key),
	})
	if err != nil {
		return fault.New(fault.Sealing, err)
	}
	// The header moved the data by HeaderSize; what is left of the second half
	// is not part of the volume.
	return os.Truncate(image, info.Size()+HeaderSize)
}

// ImageKey returns the passphrase of the built image's volumes from file,
// making it on first use: 32 random bytes in base64, mode 0600, never
// overwritten. made tells whether this call made it.
func ImageKey(file string) (key []byte, made bool, err error) {
	key, err = os.ReadFile(file)
	if err == nil {
		if len(key) < minKey {
			Wipe(key)
			return nil, false, fault.Newf(fault.Sealing, "%s is too short for an image key; move it away to have a new one made", file)
		}
		return key, false, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, false, err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, false, err
	}
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return nil, false, err
	}
	key = []byte(base64.StdEncoding.EncodeToString(secret))
	Wipe(secret)
	if err := atomicfile.CreateNew(file, 0o600, key); err != nil {
		Wipe(key)
		return nil, false, err
	}
	return key, true, nil
}

// Wipe overwrites a secret in memory.
func Wipe(b []byte) { clear(b) }
