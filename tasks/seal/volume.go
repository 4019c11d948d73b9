package seal

import (
	"context"
	"fmt"
	"os"

	"github.com/google/uuid"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/digest"
	"cc-base/tasks/manifest"
	"cc-base/tasks/sh"
)

// Volume is a read-only volume to be built from a tar tree.
type Volume struct {
	Label string // partition label; part of every derived identifier
	Tar   string // the tree
	Epoch int64  // every time stamp, seconds since 1970

	Encrypt    bool
	Encryption Encryption // UUID is filled in
	Key        []byte     // passphrase; only with Encrypt
	Recovery   []byte     // second passphrase for people; none when empty
	Bound      []BoundKey // further passphrases that a machine opens by itself
}

// BoundKey is a passphrase with the token by which a machine finds it. Keyslots
// follow [RecoverySlot], tokens the number 0, which is the recovery key's.
type BoundKey struct {
	Passphrase []byte
	Token      func(slot int) ([]byte, error)
}

// Build writes the volume to image: erofs, the verity tree behind it, and
// LUKS2 around both where it is to be encrypted. The identifiers and the
// verity salt are derived from label and content, so that equal inputs give
// equal bytes up to the encryption.
func Build(ctx context.Context, run sh.Runner, v Volume, image string) (manifest.Verity, error) {
	content, err := digest.File(v.Tar)
	if err != nil {
		return manifest.Verity{}, err
	}
	part := image + atomicfile.Extension
	defer os.Remove(part)
	if err := BuildErofs(ctx, run, v.Tar, Derive(v.Label, "erofs", content).String(), v.Epoch, part); err != nil {
		return manifest.Verity{}, err
	}
	salt := digest.Bytes([]byte("cc-base verity salt/" + v.Label + "/" + content))
	verity, err := Verity(ctx, run, part, salt, Derive(v.Label, "verity", content).String())
	if err != nil {
		return manifest.Verity{}, err
	}
	if v.Encrypt {
		e := v.Encryption
		e.UUID = Derive(v.Label, "luks", content).String()
		if err := Encrypt(ctx, run, part, v.Key, e); err != nil {
			return manifest.Verity{}, err
		}
		if err := v.addKeys(ctx, run, part, e); err != nil {
			return manifest.Verity{}, err
		}
	}
	if err := atomicfile.Publish(part, image); err != nil {
		return manifest.Verity{}, err
	}
	return verity, nil
}

// addKeys adds what opens the volume beside its key. The recovery key is always
// in [RecoverySlot], whether or not there is one.
func (v Volume) addKeys(ctx context.Context, run sh.Runner, image string, e Encryption) error {
	if len(v.Recovery) > 0 {
		if err := AddRecovery(ctx, run, image, v.Key, v.Recovery, e); err != nil {
			return err
		}
	}
	for i, bound := range v.Bound {
		slot := RecoverySlot + 1 + i
		if err := AddKey(ctx, run, image, slot, v.Key, bound.Passphrase, e); err != nil {
			return err
		}
		token, err := bound.Token(slot)
		if err != nil {
			return err
		}
		if err := ImportToken(ctx, run, image, 1+i, token); err != nil {
			return err
		}
	}
	return nil
}

// namespace is the root of every identifier that a build derives: the UUID of
// version 5 for org.cc-base in the DNS namespace (RFC 9562 section 5.5).
func namespace() uuid.UUID { return uuid.NewSHA1(uuid.NameSpaceDNS, []byte("org.cc-base")) }

// Derive returns the identifier for one use of one volume with one content.
func Derive(label, use, content string) uuid.UUID {
	return uuid.NewSHA1(namespace(), []byte(fmt.Sprintf("%s/%s/%s", label, use, content)))
}
