package receipt

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"cc-base/tasks/fault"
	"cc-base/tasks/keyfile"
	"cc-base/validation/check"
)

// KeyFile is the host's receipt key in its state folder.
const KeyFile = "receipt.key"

// HostKey returns the receipt key in the state folder and makes folder and key
// where there are none. One that others can read is refused: it may have been
// read. The caller wipes it.
func HostKey(state string) (ed25519.PrivateKey, error) {
	path := filepath.Join(state, KeyFile)
	key, err := keyfile.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		// Of two that make it at once one wins, and both sign with the winner's.
		if err = makeKey(path); err == nil || errors.Is(err, fs.ErrExist) {
			key, err = keyfile.Read(path)
		}
	}
	if err != nil {
		return nil, fault.Newf(fault.ReceiptKey, "receipt key: %w", err).Hint("a key that is lost or was read by others: move %s away, a new one is made and must be trusted anew", path)
	}
	return key, nil
}

func makeKey(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	_, err := keyfile.Generate(path)
	return err
}

// Trusted is a key whose receipts are believed.
type Trusted struct {
	Name string
	Most check.Tier // what it may sign at most
	Key  ed25519.PublicKey
}

// Line is the key as a line of trusted-keys.
func (t Trusted) Line() string {
	return fmt.Sprintf("%s %s %s\n", t.Most, hex.EncodeToString(t.Key), t.Name)
}

// Keys are the trusted keys by their [Fingerprint].
type Keys map[string]Trusted

// ParseKeys reads trusted-keys: a key on each line, as tier, public key in 64
// hexadecimal digits and name; empty lines and those that begin with # are
// skipped. file names it in errors, of which all are reported at once.
//
// No key may sign tier silicon. That is evidence's to say.
func ParseKeys(data []byte, file string) (Keys, error) {
	keys := Keys{}
	var errs []error
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		t, err := parseTrusted(line)
		if err == nil {
			if _, twice := keys[Fingerprint(t.Key)]; twice {
				err = errors.New("this key stands above already")
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s:%d: %w", file, n, err))
			continue
		}
		keys[Fingerprint(t.Key)] = t
	}
	errs = append(errs, lines.Err())
	if err := errors.Join(errs...); err != nil {
		return nil, fault.New(fault.ReceiptKey, err)
	}
	if len(keys) == 0 {
		return nil, fault.Newf(fault.ReceiptKey, "%s: no key is trusted", file).Hint("`cc-install receipts key` prints the line of a host")
	}
	return keys, nil
}

func parseTrusted(line string) (Trusted, error) {
	fields := strings.Fields(line)
	if len(fields) < 3 {
		return Trusted{}, errors.New("not a tier, a key and a name")
	}
	t := Trusted{Most: check.Tier(fields[0]), Name: strings.Join(fields[2:], " ")}
	if rank(t.Most) == 0 {
		return Trusted{}, fmt.Errorf("no tier is called %q", fields[0])
	}
	if t.Most == check.TierSilicon {
		return Trusted{}, errors.New("no key may sign tier silicon: evidence of the processor says that")
	}
	raw, err := hex.DecodeString(fields[1])
	if err != nil || len(raw) != ed25519.PublicKeySize {
		return Trusted{}, fmt.Errorf("the key is not %d hexadecimal digits", 2*ed25519.PublicKeySize)
	}
	t.Key = raw
	return t, nil
}
