// Package sign makes and checks OpenPGP signatures of what the build ships, and
// decides which key makes them.
//
//	choice, err := sign.Choose(os.LookupEnv, "out/keys")
//	…                                   // print choice.Why
//	key, err := choice.Key(sign.Passphrase(ctx, os.LookupEnv), spec)
//	defer key.Wipe()
//	err = key.SignFile(ctx, "out/nvidia-cc-installer.tar.gz", time.Time{})
//
// Keys and signatures are OpenPGP version 4 (RFC 4880, EdDSA as in RFC 9580
// section 9.2.1), because GnuPG 2.2, which operators have, reads nothing newer.
//
// Secrets: a private key is read from a file, its passphrase from an inherited
// descriptor or the terminal, neither ever from an environment variable or the
// command line, which other processes can read.
package sign

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/fault"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// Extension is appended to a file's name for its detached signature.
const Extension = ".asc"

// Key is an unlocked private key that can sign.
type Key struct {
	entity *openpgp.Entity
}

// Fingerprint is of the primary key: upper-case hexadecimal, 40 digits for a
// version 4 key, as `gpg --fingerprint` prints it without the blanks.
func (k *Key) Fingerprint() string { return fmt.Sprintf("%X", k.entity.PrimaryKey.Fingerprint) }

// Identity is the primary user ID, such as "Name <mail@host>", or empty.
func (k *Key) Identity() string {
	if id := k.entity.PrimaryIdentity(); id != nil {
		return id.Name
	}
	return ""
}

// Public returns the armoured public half.
func (k *Key) Public() ([]byte, error) {
	var b bytes.Buffer
	err := armoured(&b, openpgp.PublicKeyType, k.entity.Serialize)
	if err != nil {
		return nil, fault.Newf(fault.SigningKey, "public key: %w", err)
	}
	return b.Bytes(), nil
}

// armoured writes what fill produces as an armoured block with a final line
// end, without which `cat` of two of them is not readable.
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

// Detach writes the armoured detached signature of r to w: type binary
// document (RFC 9580 section 5.2.1.1), SHA-256.
//
// The zero at means now, and the signature then also holds a random notation,
// which protects an EdDSA key from leaking through a faulty computation; two
// signatures of the same data differ. With at given, a signature by an Ed25519
// or RSA key depends on nothing else and comes out the same every time; the
// key must not be younger than that.
//
// A key that has expired, was revoked or cannot sign is an error with code
// [fault.Signing].
func (k *Key) Detach(w io.Writer, r io.Reader, at time.Time) error {
	now := time.Now()
	if _, ok := k.entity.SigningKey(now); !ok {
		return fault.Newf(fault.Signing, "key %s cannot sign today: it has expired, was revoked or is not for signing", k.Fingerprint())
	}
	salt := at.IsZero()
	if salt {
		at = now
	}
	config := &packet.Config{
		DefaultHash:                           crypto.SHA256,
		Time:                                  func() time.Time { return at },
		NonDeterministicSignaturesViaNotation: &salt,
	}
	key, ok := k.entity.SigningKey(at)
	if !ok {
		return fault.Newf(fault.Signing, "key %s was not valid at the time of the signature, %s", k.Fingerprint(), at.UTC().Format(time.RFC3339)).
			Hint("a signature cannot be older than its key: sign with the time of day, or use an older key")
	}
	config.SigningKeyId = key.PublicKey.KeyId
	err := armoured(w, openpgp.SignatureType, func(w io.Writer) error {
		return openpgp.DetachSign(w, k.entity, r, config)
	})
	if err != nil {
		return fault.New(fault.Signing, err)
	}
	return nil
}

// SignFile writes path.asc, replacing an older one by rename, after it has
// verified the signature against the file once more: a signature that nobody
// checked is found wrong by the operator, not by us. On error or cancellation
// no .asc is left, an old one included, because it speaks of other bytes.
func (k *Key) SignFile(ctx context.Context, path string, at time.Time) (err error) {
	defer func() {
		if err != nil {
			// A part that a killed build left goes too, however early this fails.
			_, rerr := Unsign(path)
			err = errors.Join(err, atomicfile.Remove(path+Extension+atomicfile.Extension), rerr)
		}
	}()
	f, err := os.Open(path)
	if err != nil {
		return fault.New(fault.Signing, err)
	}
	defer f.Close()
	var sig bytes.Buffer
	if err := k.Detach(&sig, &ctxReader{ctx, f}, at); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fault.New(fault.Signing, err)
	}
	pub, err := k.Public()
	if err != nil {
		return err
	}
	if _, err := Verify(pub, &ctxReader{ctx, f}, sig.Bytes()); err != nil {
		return fault.Newf(fault.Signing, "the new signature does not verify: %w", err)
	}
	if err := atomicfile.Write(path+Extension, 0o644, sig.Bytes()); err != nil {
		return fault.New(fault.Signing, err)
	}
	return nil
}

// Unsign removes path.asc and reports whether there was one: an unsigned build
// must not lie beside the signature of an earlier one.
func Unsign(path string) (removed bool, err error) {
	err = os.Remove(path + Extension)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Signature is a signature that verified.
type Signature struct {
	Fingerprint string // of the signer's primary key, as [Key.Fingerprint]
	Identity    string // primary user ID, may be empty
	Time        time.Time
}

// Verify checks the armoured detached signature sig over r against the armoured
// public key pub. Only binary signatures with SHA-256 or stronger count.
//
// A pub that is not a public key gives code [fault.SigningKey]; everything
// else, a foreign or expired key and data that is not what was signed
// included, gives [fault.Damaged].
func Verify(pub []byte, r io.Reader, sig []byte) (Signature, error) {
	ring, err := readArmoured(pub, openpgp.PublicKeyType)
	if err != nil {
		return Signature{}, fault.Newf(fault.SigningKey, "public key: %w", err)
	}
	block, err := armor.Decode(bytes.NewReader(sig))
	if err != nil {
		return Signature{}, fault.Newf(fault.Damaged, "signature: not armoured: %w", err)
	}
	if block.Type != openpgp.SignatureType {
		return Signature{}, fault.Newf(fault.Damaged, "signature: a %q block", block.Type)
	}
	// The list of hashes keeps out SHA-1 and MD5, which the library still
	// accepts for old mail.
	strong := []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512}
	s, who, err := openpgp.VerifyDetachedSignatureAndHash(ring, r, block.Body, strong, nil)
	if errors.Is(err, pgperrors.ErrUnknownIssuer) {
		return Signature{}, fault.Newf(fault.Damaged, "signature: made by another key: %w", err)
	}
	if err != nil {
		return Signature{}, fault.Newf(fault.Damaged, "signature: %w", err)
	}
	if s.SigType != packet.SigTypeBinary {
		return Signature{}, fault.Newf(fault.Damaged, "signature: type %#x is not a binary document", int(s.SigType))
	}
	k := Key{entity: who}
	return Signature{Fingerprint: k.Fingerprint(), Identity: k.Identity(), Time: s.CreationTime}, nil
}

// Fingerprints returns those of the keys in the armoured block pub, as
// [Key.Fingerprint]. What is not a block of public keys gives code
// [fault.SigningKey].
func Fingerprints(pub []byte) ([]string, error) {
	ring, err := readArmoured(pub, openpgp.PublicKeyType)
	if err != nil {
		return nil, fault.Newf(fault.SigningKey, "public key: %w", err)
	}
	var all []string
	for _, entity := range ring {
		k := Key{entity: entity}
		all = append(all, k.Fingerprint())
	}
	return all, nil
}

// ctxReader ends a long read when the build is cancelled.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(b)
}
