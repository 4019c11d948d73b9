package seal

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/google/uuid"

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
}

// Build writes the volume to image: erofs, the verity tree behind it, and
// LUKS2 around both where it is to be encrypted. The identifiers and the
// verity salt are derived from label and content, so that equal inputs give
// equal bytes up to the encryption.
func Build(ctx context.Context, run sh.Runner, v Volume, image string) (manifest.Verity, error) {
	content, err := digest(v.Tar)
	if err != nil {
		return manifest.Verity{}, err
	}
	part := image + ".part"
	defer os.Remove(part)
	if err := BuildErofs(ctx, run, v.Tar, Derive(v.Label, "erofs", content).String(), v.Epoch, part); err != nil {
		return manifest.Verity{}, err
	}
	salt := sha256.Sum256([]byte("cc-base verity salt/" + v.Label + "/" + content))
	verity, err := Verity(ctx, run, part, hex.EncodeToString(salt[:]), Derive(v.Label, "verity", content).String())
	if err != nil {
		return manifest.Verity{}, err
	}
	if v.Encrypt {
		e := v.Encryption
		e.UUID = Derive(v.Label, "luks", content).String()
		if err := Encrypt(ctx, run, part, v.Key, e); err != nil {
			return manifest.Verity{}, err
		}
	}
	if err := flush(part); err != nil {
		return manifest.Verity{}, err
	}
	if err := os.Rename(part, image); err != nil {
		return manifest.Verity{}, err
	}
	return verity, nil
}

// flush writes file to the medium, so that a rename never names bytes that a
// power cut loses.
func flush(file string) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// namespace is the root of every identifier that a build derives: the UUID of
// version 5 for org.cc-base in the DNS namespace (RFC 9562 section 5.5).
func namespace() uuid.UUID { return uuid.NewSHA1(uuid.NameSpaceDNS, []byte("org.cc-base")) }

// Derive returns the identifier for one use of one volume with one content.
func Derive(label, use, content string) uuid.UUID {
	return uuid.NewSHA1(namespace(), []byte(fmt.Sprintf("%s/%s/%s", label, use, content)))
}

func digest(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
