package sign

import (
	"bytes"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/fault"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/ecdsa"
	"github.com/ProtonMail/go-crypto/openpgp/ed25519"
	"github.com/ProtonMail/go-crypto/openpgp/eddsa"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// File names of the project key in its folder.
const (
	PrivateName = "signing-key.private.asc" // 0600
	PublicName  = "signing-key.asc"         // 0644, the half to give away
)

// Spec describes a key to make.
type Spec struct {
	Name, Email string // user ID; neither may contain any of ()<> or a zero byte

	// Created is the key's birth, whole seconds. A signature cannot be older,
	// so a build that signs with SOURCE_DATE_EPOCH gives that. The zero value
	// means now.
	Created time.Time

	// Lifetime of the key, whole seconds; 0 for no end.
	Lifetime time.Duration
}

// GenerateKey makes an Ed25519 key in dir (made with mode 0700 when missing):
// [PrivateName], not locked by a passphrase, mode 0600, and [PublicName] beside
// it. An existing private key is never overwritten, that is an error.
func GenerateKey(dir string, spec Spec) (*Key, error) {
	entity, err := newEntity(spec)
	if err != nil {
		return nil, fault.Newf(fault.SigningKey, "make a key: %w", err)
	}
	k := &Key{entity: entity}
	if err := k.save(dir); err != nil {
		k.Wipe()
		return nil, fault.Newf(fault.SigningKey, "keep the new key: %w", err)
	}
	return k, nil
}

func newEntity(spec Spec) (*openpgp.Entity, error) {
	if spec.Lifetime < 0 || spec.Lifetime/time.Second > math.MaxUint32 {
		return nil, fmt.Errorf("lifetime %s is outside of what a key can hold", spec.Lifetime)
	}
	created := spec.Created
	if created.IsZero() {
		created = time.Now()
	}
	entity, err := openpgp.NewEntity(spec.Name, "", spec.Email, &packet.Config{
		// EdDSA over Curve25519 is algorithm 22; the newer number for the
		// same mathematics, 27 (RFC 9580), is unknown to GnuPG 2.2.
		Algorithm:       packet.PubKeyAlgoEdDSA,
		Curve:           packet.Curve25519,
		Time:            func() time.Time { return created },
		KeyLifetimeSecs: uint32(spec.Lifetime / time.Second),
	})
	if err != nil {
		return nil, err
	}
	// NewEntity adds a subkey for encryption. Nobody shall send secrets to a
	// key whose private half lies unlocked in an output folder.
	entity.Subkeys = nil
	return entity, nil
}

// save writes both halves. A private one that is there is never overwritten.
func (k *Key) save(dir string) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var private bytes.Buffer
	err = armoured(&private, openpgp.PrivateKeyType, func(w io.Writer) error {
		return k.entity.SerializePrivateWithoutSigning(w, nil)
	})
	defer func() { wipe(private.Bytes()) }()
	if err != nil {
		return err
	}
	if err := atomicfile.CreateNew(filepath.Join(dir, PrivateName), 0o600, private.Bytes()); err != nil {
		return err
	}
	return k.savePublic(dir)
}

func (k *Key) savePublic(dir string) error {
	pub, err := k.Public()
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, PublicName), 0o644, pub)
}

// maxKeyFile is far above any key that a person exports, in bytes.
const maxKeyFile = 1 << 20

// LoadKey reads an armoured private key. passphrase is asked only when the key
// is locked; it may be nil when that is an error. What it returns is wiped.
//
// The file may be a symlink, as secret stores mount them, but what it leads to
// must be a regular file that nobody else can write and, unless the key is
// locked, nobody else can read. That is an error and no warning: a warning
// scrolls by, and a key that others could read is not ours any more.
//
// Errors have code [fault.SigningKey].
func LoadKey(path string, passphrase func() ([]byte, error)) (*Key, error) {
	k, err := loadKey(path, passphrase)
	if err == nil || fault.Of(err) != nil {
		return k, err
	}
	return nil, fault.New(fault.SigningKey, err)
}

func loadKey(path string, passphrase func() ([]byte, error)) (*Key, error) {
	data, mode, err := readKeyFile(path)
	if err != nil {
		return nil, err
	}
	defer wipe(data)
	ring, err := readArmoured(data, openpgp.PrivateKeyType)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(ring) != 1 {
		return nil, fault.Newf(fault.SigningKey, "%s: holds %d keys, one is needed", path, len(ring)).
			Hint("export one: gpg --armor --export-secret-keys FINGERPRINT")
	}
	k := &Key{entity: ring[0]}
	signing, ok := k.entity.SigningKey(time.Now())
	if !ok {
		return nil, fmt.Errorf("%s: key %s has expired, was revoked or is not for signing", path, k.Fingerprint())
	}
	if signing.PrivateKey == nil || signing.PrivateKey.Dummy() {
		return nil, fmt.Errorf("%s: the private half of %s, which signs, is not in the file", path, signing.PublicKey.KeyIdString())
	}
	locked := signing.PrivateKey.Encrypted
	if others := mode & 0o077; others&0o022 != 0 || others != 0 && !locked {
		k.Wipe()
		return nil, fault.Newf(fault.SigningKey, "%s: mode %#o lets others use the key", path, mode).
			Hint("chmod 600 %s; if others had access to this machine, make a new key", path)
	}
	if !locked {
		return k, nil
	}
	if err := unlock(signing.PrivateKey, passphrase); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

func readKeyFile(path string) ([]byte, os.FileMode, error) {
	// O_NONBLOCK, or opening a named pipe would wait for its other end.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxKeyFile {
		return nil, 0, fmt.Errorf("%s: not a file of at most %d bytes", path, maxKeyFile)
	}
	// A buffer of full size from the start: growing would leave copies of the
	// key behind that nobody wipes.
	buf := make([]byte, st.Size())
	n, err := io.ReadFull(f, buf)
	if err != nil && err != io.EOF {
		wipe(buf)
		return nil, 0, fmt.Errorf("%s: %w", path, err)
	}
	return buf[:n], st.Mode().Perm(), nil
}

// readArmoured reads the keys of a block of the given type.
func readArmoured(data []byte, kind string) (openpgp.EntityList, error) {
	block, err := armor.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("not an armoured OpenPGP key: %w", err)
	}
	if block.Type != kind {
		return nil, fmt.Errorf("a %q block, a %q block is needed", block.Type, kind)
	}
	ring, err := openpgp.ReadKeyRing(block.Body)
	if err != nil {
		return nil, fmt.Errorf("not an OpenPGP key: %w", err)
	}
	return ring, nil
}

func unlock(key *packet.PrivateKey, passphrase func() ([]byte, error)) error {
	if passphrase == nil {
		return errors.New("the key is locked and no passphrase can be asked for")
	}
	pass, err := passphrase()
	defer func() { wipe(pass) }()
	if err != nil {
		return fmt.Errorf("passphrase: %w", err)
	}
	if err := key.Decrypt(pass); err != nil {
		return errors.New("the passphrase is wrong") // the library's text says less
	}
	return nil
}

// Wipe overwrites the private numbers, as far as the library lets go of them:
// it keeps copies inside for algorithms other than EdDSA, ECDSA and RSA. The
// key cannot be used afterwards.
func (k *Key) Wipe() {
	wipePrivate(k.entity.PrivateKey)
	for _, sub := range k.entity.Subkeys {
		wipePrivate(sub.PrivateKey)
	}
	k.entity.PrivateKey = nil
	k.entity.Subkeys = nil
}

func wipePrivate(key *packet.PrivateKey) {
	if key == nil {
		return
	}
	switch p := key.PrivateKey.(type) {
	case *eddsa.PrivateKey:
		wipe(p.D)
	case *ed25519.PrivateKey:
		wipe(p.Key)
	case *ecdsa.PrivateKey:
		wipeInt(p.D)
	case *rsa.PrivateKey:
		wipeInt(p.D)
		for _, prime := range p.Primes {
			wipeInt(prime)
		}
	}
}

func wipeInt(n *big.Int) {
	if n != nil {
		clear(n.Bits())
	}
}

// wipe overwrites a secret; KeepAlive keeps the compiler from dropping it.
func wipe(b []byte) {
	clear(b)
	runtime.KeepAlive(b)
}
