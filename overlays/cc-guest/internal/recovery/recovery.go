// Package recovery makes the recovery key of the writable volume. Nobody ever
// sees it in the guest: it is enrolled, encrypted to people, and forgotten.
package recovery

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// A key has 256 random bits in the form that systemd-cryptenroll gives them and
// that the console asks for: two letters a byte, in groups with dashes between.
const (
	letters = "cbdefghijklnrtuv"
	size    = 32 // bytes
	group   = 4  // bytes
)

// Name stands for a list of recipients, so that a change of it is noticed. It
// is empty for an empty list.
func Name(recipients []string) string {
	if len(recipients) == 0 {
		return ""
	}
	sum := sha256.Sum256([]byte(strings.Join(recipients, "\x00")))
	return hex.EncodeToString(sum[:])
}

// New returns a recovery key, which the caller wipes, and an OpenPGP message
// with it that the recipients, armoured public keys, can read.
func New(recipients []string) (key []byte, message string, err error) {
	secret := make([]byte, size)
	defer clear(secret)
	if _, err := rand.Read(secret); err != nil {
		return nil, "", err
	}
	key = make([]byte, 0, 2*size+size/group-1) // never grows: no copy is left behind
	for i, b := range secret {
		if i > 0 && i%group == 0 {
			key = append(key, '-')
		}
		key = append(key, letters[b>>4], letters[b&15])
	}
	if message, err = encrypt(key, recipients); err != nil {
		clear(key)
		return nil, "", err
	}
	return key, message, nil
}

func encrypt(secret []byte, recipients []string) (string, error) {
	var keys []*packet.PublicKey
	for i, text := range recipients {
		key, err := encryptionKey(text)
		if err != nil {
			return "", fmt.Errorf("recipient %d: %w", i+1, err)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return "", errors.New("nobody to encrypt to")
	}
	var b bytes.Buffer
	a, err := armor.Encode(&b, "PGP MESSAGE", nil)
	if err != nil {
		return "", err
	}
	if err := seal(a, secret, keys); err != nil {
		return "", err
	}
	if err := a.Close(); err != nil {
		return "", err
	}
	b.WriteByte('\n')
	return b.String(), nil
}

// encryptionKey returns the key to encrypt to. The build has seen that it is
// valid, and the image, in which it lies, is measured. The guest's clock says
// nothing: it is the host's, and may stand at any time. So the key is judged at
// the time of its newest signature.
func encryptionKey(text string) (*packet.PublicKey, error) {
	ring, err := openpgp.ReadArmoredKeyRing(strings.NewReader(text))
	if err != nil || len(ring) != 1 {
		return nil, errors.New("not one armoured OpenPGP public key")
	}
	entity := ring[0]
	at := entity.PrimaryKey.CreationTime
	newer := func(t time.Time) {
		if t.After(at) {
			at = t
		}
	}
	if self, _ := entity.PrimarySelfSignature(); self != nil {
		newer(self.CreationTime)
	}
	for _, sub := range entity.Subkeys {
		newer(sub.PublicKey.CreationTime)
		newer(sub.Sig.CreationTime)
	}
	key, ok := entity.EncryptionKey(at)
	if !ok {
		return nil, fmt.Errorf("%X has no key to encrypt to", entity.PrimaryKey.Fingerprint)
	}
	return key.PublicKey, nil
}

// seal writes a message as openpgp.Encrypt does, in the form that GnuPG 2.2
// reads (RFC 4880 section 5.13), to keys that are chosen already.
func seal(w io.Writer, secret []byte, keys []*packet.PublicKey) error {
	const cipher = packet.CipherAES256
	session := make([]byte, cipher.KeySize())
	defer clear(session)
	if _, err := rand.Read(session); err != nil {
		return err
	}
	for _, key := range keys {
		if err := packet.SerializeEncryptedKeyAEAD(w, key, cipher, false, session, nil); err != nil {
			return err
		}
	}
	body, err := packet.SerializeSymmetricallyEncrypted(w, cipher, false, packet.CipherSuite{}, session, nil)
	if err != nil {
		return err
	}
	literal, err := packet.SerializeLiteral(body, true, "", 0)
	if err != nil {
		return err
	}
	if _, err := literal.Write(secret); err != nil {
		return err
	}
	return literal.Close()
}
