// Package recipient encrypts a small secret, such as a recovery key, to the
// OpenPGP keys of people.
//
//	r, err := recipient.Read("config/operator.asc")
//	err = recipient.Encrypt(w, secret, r)    // they run: gpg --decrypt
//
// Messages are in the form that GnuPG 2.2 reads (RFC 4880, AES-256 with
// integrity protection), because that is what operators have.
package recipient

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// messageType is the armour of an encrypted message (RFC 4880 section 6.2).
const messageType = "PGP MESSAGE"

// maxFile is far above any key that a person exports, in bytes.
const maxFile = 1 << 20

// Recipient is a public key that something can be encrypted to.
type Recipient struct {
	entity *openpgp.Entity
}

// Read reads the file of one armoured public key.
func Read(path string) (Recipient, error) {
	f, err := os.Open(path)
	if err != nil {
		return Recipient{}, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Recipient{}, err
	}
	if len(text) > maxFile {
		return Recipient{}, fmt.Errorf("larger than %d bytes", maxFile)
	}
	return Parse(text)
}

// Parse reads one armoured public key. It must be one that something can be
// encrypted to today: neither expired nor revoked, with an encryption key of
// its own. A private key is refused: it has no business beside a configuration.
func Parse(text []byte) (Recipient, error) {
	block, err := armor.Decode(bytes.NewReader(text))
	if err != nil {
		return Recipient{}, errors.New("not an armoured OpenPGP key")
	}
	if block.Type == openpgp.PrivateKeyType {
		return Recipient{}, errors.New("a private key; give the public half: gpg --armor --export FINGERPRINT")
	}
	if block.Type != openpgp.PublicKeyType {
		return Recipient{}, fmt.Errorf("a %q block, not an OpenPGP public key", block.Type)
	}
	ring, err := openpgp.ReadKeyRing(block.Body)
	if err != nil {
		return Recipient{}, errors.New("not an OpenPGP public key")
	}
	if len(ring) != 1 {
		return Recipient{}, fmt.Errorf("holds %d keys; one file, one key", len(ring))
	}
	r := Recipient{entity: ring[0]}
	if _, ok := r.entity.EncryptionKey(time.Now()); !ok {
		return Recipient{}, fmt.Errorf("nothing can be encrypted to %s: it has expired, was revoked, or is for signing only", r.Fingerprint())
	}
	return r, nil
}

// Fingerprint is of the primary key: upper-case hexadecimal, 40 digits for a
// version 4 key, as `gpg --fingerprint` prints it without the blanks.
func (r Recipient) Fingerprint() string { return fmt.Sprintf("%X", r.entity.PrimaryKey.Fingerprint) }

// Identity is the primary user ID, such as "Name <mail@host>", or empty.
func (r Recipient) Identity() string {
	if id := r.entity.PrimaryIdentity(); id != nil {
		return id.Name
	}
	return ""
}

// Armoured returns the key without whatever stood around it in its file, the
// same bytes for the same key, with a final line end.
func (r Recipient) Armoured() (string, error) {
	var b bytes.Buffer
	if err := armoured(&b, openpgp.PublicKeyType, r.entity.Serialize); err != nil {
		return "", fmt.Errorf("%s: %w", r.Fingerprint(), err)
	}
	return b.String(), nil
}

// Encrypt writes the secret to w as an armoured message that each of the
// recipients can read. There must be at least one. What w has got when it
// fails is of no use.
func Encrypt(w io.Writer, secret []byte, to ...Recipient) error {
	if len(to) == 0 {
		return errors.New("nobody to encrypt to")
	}
	var entities openpgp.EntityList
	for _, r := range to {
		entities = append(entities, r.entity)
	}
	config := &packet.Config{DefaultCipher: packet.CipherAES256, DefaultHash: crypto.SHA256}
	return armoured(w, messageType, func(w io.Writer) error {
		plain, err := openpgp.Encrypt(w, entities, nil, &openpgp.FileHints{IsBinary: true}, config)
		if err != nil {
			return err
		}
		if _, err := plain.Write(secret); err != nil {
			return err
		}
		return plain.Close()
	})
}

// armoured writes what fill produces as an armoured block with a final line end.
func armoured(w io.Writer, kind string, fill func(io.Writer) error) error {
	a, err := armor.Encode(w, kind, nil)
	if err != nil {
		return err
	}
	if err := fill(a); err != nil {
		return err
	}
	if err := a.Close(); err != nil {
		return err
	}
	_, err = w.Write([]byte("\n"))
	return err
}
