package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"cc-base/installer/delivery"
	"cc-base/tasks/fault"
	"cc-base/tasks/sign"
	"cc-base/tasks/trust"
)

// Delivery is an installer that somebody was given, and whom to believe.
type Delivery struct {
	File  string // the tarball, beside its .sha256 and .asc; the built one when empty
	Trust string // trust file; empty, for the built one only, trusts the keys in Keys
	Keys  string // armoured public keys that may have signed; out/keys/signing-key.asc when empty
}

// VerifyInstaller refuses an installer that the rules do not accept, or whose
// checksum, files, manifest, disk and measurements do not agree with each other.
// No program of the installer is run.
func VerifyInstaller(ctx context.Context, o Options, d Delivery, w io.Writer) error {
	if d.File != "" && d.Trust == "" {
		return fault.Newf(fault.Usage, "whose installers are accepted?").Hint("mage verify -file=FILE -trust=FILE; docs/trust.md shows the rules")
	}
	if d.File == "" {
		d.File = filepath.Join(o.OutDir, installerName)
	}
	if d.Keys == "" {
		d.Keys = filepath.Join(o.OutDir, "keys", sign.PublicName)
	}
	if _, err := os.Stat(d.File); err != nil {
		return fault.New(fault.Usage, err).Hint("`mage build` makes it")
	}
	rules, err := d.rules()
	if err != nil {
		return err
	}
	if err := delivery.Checksum(d.File); err != nil {
		return err
	}
	fmt.Fprintf(w, "checksum: as in %s\n", filepath.Base(d.File)+".sha256")
	if err := delivery.Signed(d.File, d.Keys, rules, w); err != nil {
		return err
	}
	return d.contents(ctx, o, rules, w)
}

func (d Delivery) rules() (trust.Rules, error) {
	if d.Trust != "" {
		return trust.Read(d.Trust)
	}
	public, err := os.ReadFile(d.Keys)
	if errors.Is(err, fs.ErrNotExist) {
		return trust.Rules{}, nil // without a key nothing can have been signed by it
	}
	if err != nil {
		return trust.Rules{}, fault.New(fault.SigningKey, err)
	}
	own, err := sign.Fingerprints(public)
	r := trust.Rules{Keys: map[string]time.Time{}}
	for _, fingerprint := range own {
		r.Keys[fingerprint] = time.Time{}
	}
	return r, err
}

// contents unpacks the installer and has its files judged.
func (d Delivery) contents(ctx context.Context, o Options, rules trust.Rules, w io.Writer) error {
	if err := o.makeOut(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.OutDir, "verify")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := delivery.Unpack(ctx, d.File, dir); err != nil {
		return fault.Newf(fault.TrustContents, "%s: %w", d.File, err)
	}
	if err := delivery.Check(ctx, filepath.Join(dir, delivery.Folder), rules, w); err != nil {
		return fmt.Errorf("%s: %w", d.File, err)
	}
	return nil
}

const installerName = "nvidia-cc-installer.tar.gz"
