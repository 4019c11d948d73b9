package seal

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/fault"
	"cc-base/tasks/sh"
)

// A recovery key is 256 random bits in the form that systemd-cryptenroll prints
// and asks for, so that its tools take ours: 64 characters of an alphabet that
// lies in the same place on most keyboards, in 8 groups with dashes between
// (systemd src/shared/recovery-key.c). The passphrase of the keyslot is the
// text with its dashes.
const (
	modhex         = "cbdefghijklnrtuv"
	recoveryBytes  = 32
	recoveryGroup  = 8                                                 // characters
	recoveryDigits = 2 * recoveryBytes                                 // without dashes
	recoveryLength = recoveryDigits + recoveryDigits/recoveryGroup - 1 // with them
)

// RecoverySlot is the keyslot of a built volume's recovery key; slot 0 is the
// image key's.
const RecoverySlot = 1

// NewRecovery returns a new recovery key: 71 bytes, to be wiped.
func NewRecovery() ([]byte, error) {
	secret := make([]byte, recoveryBytes)
	defer Wipe(secret)
	if _, err := rand.Read(secret); err != nil {
		return nil, err
	}
	key := make([]byte, 0, recoveryLength) // never grows: no copy is left behind
	for i, b := range secret {
		if i > 0 && 2*i%recoveryGroup == 0 {
			key = append(key, '-')
		}
		key = append(key, modhex[b>>4], modhex[b&15])
	}
	return key, nil
}

// NormalizeRecovery returns a recovery key as a person types it, in the only
// form that opens a keyslot: lower case, with its dashes. All dashes may be left
// out, capitals and space around it are allowed, everything else is an error
// that does not repeat what was typed. The result is to be wiped, as is typed.
func NormalizeRecovery(typed []byte) ([]byte, error) {
	typed = bytes.TrimSpace(typed)
	dashes := len(typed) == recoveryLength
	if len(typed) != recoveryDigits && !dashes {
		return nil, fmt.Errorf("a recovery key has %d letters in groups of %d, with a dash between two groups", recoveryDigits, recoveryGroup)
	}
	key := make([]byte, 0, recoveryLength)
	fail := func(format string, args ...any) ([]byte, error) {
		Wipe(key)
		return nil, fmt.Errorf(format, args...)
	}
	for i := 0; i < recoveryDigits; i++ {
		if i > 0 && i%recoveryGroup == 0 {
			if dashes {
				if typed[0] != '-' {
					return fail("there is no dash after group %d of the recovery key", i/recoveryGroup)
				}
				typed = typed[1:]
			}
			key = append(key, '-')
		}
		c := typed[0]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if bytes.IndexByte([]byte(modhex), c) < 0 {
			return fail("character %d of group %d is none of %s", i%recoveryGroup+1, i/recoveryGroup+1, modhex)
		}
		key, typed = append(key, c), typed[1:]
	}
	return key, nil
}

// RecoveryKey returns the recovery key of the built image's volumes from file,
// or nothing where there is no such file. The caller wipes it.
func RecoveryKey(file string) ([]byte, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer Wipe(text)
	key, err := NormalizeRecovery(text)
	if err != nil {
		return nil, fault.New(fault.Sealing, fmt.Errorf("%s: %w", file, err)).Hint("move it away to have a new one made: mage keys:generate")
	}
	return key, nil
}

// MakeRecoveryKey makes the recovery key in file, mode 0600, unless there is
// one. made tells whether this call made it.
func MakeRecoveryKey(file string) (made bool, err error) {
	key, err := RecoveryKey(file)
	if key != nil || err != nil {
		Wipe(key)
		return false, err
	}
	if key, err = NewRecovery(); err != nil {
		return false, err
	}
	defer Wipe(key)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return false, err
	}
	if err := atomicfile.CreateNew(file, 0o600, key); err != nil {
		return false, err
	}
	return true, nil
}

// AddRecovery adds the recovery key to an encrypted image that key opens, in
// [RecoverySlot], with the token by which systemd-cryptsetup knows what it is.
func AddRecovery(ctx context.Context, run sh.Runner, image string, key, recovery []byte, e Encryption) error {
	if err := AddKey(ctx, run, image, RecoverySlot, key, recovery, e); err != nil {
		return err
	}
	token, err := json.Marshal(map[string]any{"type": "systemd-recovery", "keyslots": []string{strconv.Itoa(RecoverySlot)}})
	if err != nil {
		return err
	}
	return ImportToken(ctx, run, image, 0, token)
}

// AddKey adds a passphrase to an encrypted image that key opens, in the given
// keyslot, which must be free. Like the first one's, its derivation is the
// cheapest: added must have full entropy.
//
// Both passphrases go over standard input, one behind the other: their lengths
// say where the second begins.
func AddKey(ctx context.Context, run sh.Runner, image string, slot int, key, added []byte, e Encryption) error {
	if len(key) < minKey || len(added) < minKey {
		return fault.Newf(fault.Sealing, "a passphrase of %d bytes is too short; at least %d random ones are needed", min(len(key), len(added)), minKey)
	}
	both := make([]byte, 0, len(key)+len(added))
	both = append(append(both, key...), added...)
	defer Wipe(both)
	err := run.Run(ctx, sh.Cmd{
		Name: "cryptsetup",
		Args: []string{
			"luksAddKey", "--batch-mode", "--disable-locks", "--type=luks2", fmt.Sprintf("--new-key-slot=%d", slot),
			"--hash=" + e.Hash, "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000",
			"--key-file=-", fmt.Sprintf("--keyfile-size=%d", len(key)),
			"--new-keyfile=-", fmt.Sprintf("--new-keyfile-size=%d", len(added)),
			image,
		},
		Stdin: bytes.NewReader(both),
	})
	if err != nil {
		return fault.New(fault.Sealing, err)
	}
	return nil
}

// ImportToken writes a token, which holds no secret, into the header of an
// encrypted image under the given number, which must be free.
func ImportToken(ctx context.Context, run sh.Runner, image string, id int, token []byte) error {
	err := run.Run(ctx, sh.Cmd{
		Name:  "cryptsetup",
		Args:  []string{"token", "import", "--batch-mode", "--disable-locks", fmt.Sprintf("--token-id=%d", id), "--json-file=-", image},
		Stdin: bytes.NewReader(token),
	})
	if err != nil {
		return fault.New(fault.Sealing, err)
	}
	return nil
}
