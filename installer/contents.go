package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"cc-base/installer/deployment"
	"cc-base/installer/rekey"
	"cc-base/installer/unpacked"
	"cc-base/tasks/atomicfile"
	"cc-base/tasks/build/recipient"
	"cc-base/tasks/digest"
	"cc-base/tasks/fault"
	"cc-base/tasks/manifest"
	"cc-base/tasks/seal"
	"cc-base/tasks/seal/header"
)

// maxKey bounds a key file, in bytes.
const maxKey = 4096

// keys are the passphrases of one installation. Wipe them.
type keys struct {
	rekey.Secrets
	person *recipient.Recipient // who gets the recovery key; nil shows it
}

func (k *keys) wipe() {
	seal.Wipe(k.Image)
	seal.Wipe(k.Enrolment)
	seal.Wipe(k.Recovery)
}

// newKeys makes the passphrases. A recovery key is made only where it can reach
// somebody: encrypted, or on a terminal.
func (a *app) newKeys(image []byte, o options) (*keys, error) {
	k := &keys{Secrets: rekey.Secrets{Image: image}}
	if o.recipient != "" {
		r, err := recipient.Read(o.recipient)
		if err != nil {
			return nil, fault.New(fault.Usage, fmt.Errorf("--recipient %s: %w", o.recipient, err))
		}
		k.person = &r
	}
	if image == nil {
		return k, nil
	}
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return nil, err
	}
	k.Enrolment = base64.StdEncoding.AppendEncode(nil, secret)
	seal.Wipe(secret)
	if k.person == nil && !a.shows {
		return k, nil
	}
	var err error
	k.Recovery, err = seal.NewRecovery()
	return k, err
}

// contents is what is written in place of the image's partitions.
type contents struct {
	disk    manifest.Disk          // with their digests
	instead map[string]io.ReaderAt // by label
	parts   []deployment.Partition // for the record
	files   []io.Closer            // of instead
	kept    bool                   // the volumes are bound already and keep their keys
}

func (c *contents) Close() {
	for _, f := range c.files {
		f.Close()
	}
}

// makeContents copies the encrypted volumes of the image into dir and gives the
// copies keys of their own.
func (a *app) makeContents(ctx context.Context, src *source, dir string, k *keys) (_ *contents, err error) {
	c := &contents{disk: src.manifest.Disk, instead: map[string]io.ReaderAt{}}
	c.disk.Partitions = slices.Clone(c.disk.Partitions)
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	for i := range c.disk.Partitions {
		p := &c.disk.Partitions[i]
		part := deployment.Partition{Label: p.Label, Start: p.Start, Size: p.ContentSize, SHA256: p.SHA256}
		switch {
		case p.ContentSize == 0:
			continue
		case p.Encrypted && !c.kept:
			a.say("%s: giving it a key of its own (%s)", p.Label, human(p.ContentSize))
			err := a.rekey(ctx, c, src, p, &part, dir, k)
			if errors.Is(err, rekey.ErrBound) && len(c.instead) == 0 {
				a.say("%s is bound to the TPM that the image was built for: the volumes keep their keys", p.Label)
				c.kept = true
			} else if err != nil {
				return nil, err
			}
		}
		c.parts = append(c.parts, part)
	}
	return c, nil
}

// rekey makes the content of one encrypted partition.
func (a *app) rekey(ctx context.Context, c *contents, src *source, p *manifest.Partition, part *deployment.Partition, dir string, k *keys) error {
	path := filepath.Join(dir, p.Label)
	if err := copyOut(path, io.NewSectionReader(src.image, p.Start, p.ContentSize)); err != nil {
		return fault.New(fault.Deployment, err)
	}
	proof, err := rekey.Volume(ctx, a.programs, path, k.Secrets)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	c.files = append(c.files, f)
	h, err := header.Read(f)
	if err != nil {
		return err
	}
	if p.SHA256, err = digest.Reader(ctx, io.NewSectionReader(f, 0, p.ContentSize)); err != nil {
		return err
	}
	part.SHA256, part.Header, part.UUID = proof.Ciphertext, seal.HeaderSize, h.UUID()
	c.instead[p.Label] = f
	a.say("%s: other key, other bytes, the same content (%.16s…)", p.Label, proof.Plain)
	return nil
}

// copyOut writes a new file that only this user may read. Blocks of zeros become
// holes.
func copyOut(path string, from *io.SectionReader) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buf := make([]byte, 1<<20)
	for at := int64(0); at < from.Size(); at += int64(len(buf)) {
		b := buf[:min(int64(len(buf)), from.Size()-at)]
		if _, err := from.ReadAt(b, at); err != nil && err != io.EOF {
			return err
		}
		if len(bytes.Trim(b, "\x00")) == 0 {
			continue
		}
		if _, err := f.WriteAt(b, at); err != nil {
			return err
		}
	}
	return f.Truncate(from.Size())
}

// room tells whether dir's file system has space for copies of the encrypted
// volumes. cryptsetup needs none beside.
func room(dir string, d manifest.Disk) error {
	need := int64(64 << 20)
	for _, p := range d.Partitions {
		if p.Encrypted {
			need += p.ContentSize
		}
	}
	for {
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		if errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
			dir = filepath.Dir(dir)
			continue
		}
		if err != nil {
			return fault.New(fault.Deployment, fmt.Errorf("%s: %w", dir, err))
		}
		if free := int64(st.Bavail) * st.Bsize; free < need {
			return fault.Newf(fault.Deployment, "%s has %s free, the volumes' copies need %s", dir, human(free), human(need)).
				Hint("free some, or name another folder with --state")
		}
		return nil
	}
}

// imageKey reads the key that opens the image's volumes: the named one, or that
// of the installer. nil without an error means that nothing is encrypted.
func imageKey(src *source, o options) ([]byte, error) {
	if o.imageKey != "" {
		key, err := atomicfile.ReadPrivate(o.imageKey, maxKey)
		if err != nil {
			return nil, fault.New(fault.Usage, fmt.Errorf("--image-key: %w", err))
		}
		return key, nil
	}
	if !slices.ContainsFunc(src.manifest.Disk.Partitions, func(p manifest.Partition) bool { return p.Encrypted && p.ContentSize > 0 }) {
		return nil, nil
	}
	key, err := src.folder.Read(unpacked.ImageKey, maxKey)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Newf(fault.ImageKeyLost, "the installer holds no %s", unpacked.ImageKey).
			Hint("--image-key FILE names it; gpg --decrypt image-key.asc makes it where there is one")
	}
	if err != nil {
		return nil, fault.New(fault.Damaged, err)
	}
	return key, nil
}

// keepKeys stores what opens the volumes until the guest has bound them, and
// the recovery key where it is for somebody's eyes alone.
func keepKeys(d *deployment.Deployment, k *keys) error {
	if len(k.Enrolment) == 0 {
		return nil
	}
	if err := d.WriteSecret(deployment.EnrolmentFile, k.Enrolment); err != nil {
		return err
	}
	if k.person == nil || len(k.Recovery) == 0 {
		return nil
	}
	var message bytes.Buffer
	if err := recipient.Encrypt(&message, k.Recovery, *k.person); err != nil {
		return fault.New(fault.Deployment, err)
	}
	return d.WriteSecret(deployment.RecoveryFile, message.Bytes())
}
