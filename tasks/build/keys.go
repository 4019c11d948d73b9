package build

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/boot"
	"cc-base/tasks/build/recipient"
	"cc-base/tasks/fault"
	"cc-base/tasks/seal"
	"cc-base/tasks/sign"
)

// buildKey is one key that a build works with. A private half is never read to
// show it.
type buildKey struct {
	name   string
	file   string // the private half, or the whole of it
	public string // the half to give away, empty where there is none
	kind   string

	make   func() (made bool, err error)
	print  func(public []byte) (fingerprint string, err error)
	detail func(public []byte) ([]string, error) // nil: nothing more to tell
}

// buildKeys are all of them, in the order of the table. epoch is the time that
// certificates begin at.
func (b *Build) buildKeys(epoch int64) []buildKey {
	keys := []buildKey{{
		name: "signing", file: b.keysDir(sign.PrivateName), public: b.keysDir(sign.PublicName), kind: "OpenPGP, Ed25519",
		make: b.makeSigningKey, print: openPGPFingerprint, detail: openPGPDetail,
	}}
	for _, name := range boot.KeyNames() {
		base := filepath.Join(b.secureBootDir(), name)
		keys = append(keys, buildKey{
			name: "secure boot " + name, file: base + ".key", public: base + ".crt", kind: "RSA-2048, X.509",
			make: func() (bool, error) {
				_, made, err := boot.LoadOrMakeKey(b.secureBootDir(), name, time.Unix(epoch, 0).UTC())
				return made, err
			},
			print: certificateFingerprint, detail: certificateDetail,
		})
	}
	return append(keys,
		buildKey{
			name: "PCR signing", file: filepath.Join(b.pcrKeyDir(), "pcr.key"), public: filepath.Join(b.pcrKeyDir(), "pcr.pub"), kind: "RSA-2048",
			make: func() (bool, error) {
				_, made, err := boot.LoadOrMakePCRKey(b.pcrKeyDir())
				return made, err
			},
			print: pcrFingerprint,
		},
		buildKey{
			name: "image", file: b.imageKeyFile(), kind: "passphrase, 256 bits",
			make: func() (bool, error) {
				key, made, err := seal.ImageKey(b.imageKeyFile())
				seal.Wipe(key)
				return made, err
			},
		},
		buildKey{
			name: "recovery", file: b.recoveryKeyFile(), kind: "recovery key, 256 bits",
			make: func() (bool, error) { return seal.MakeRecoveryKey(b.recoveryKeyFile()) },
		})
}

// GenerateKeys makes every key of a build that is missing and prints a table of
// them all. A key that is there stays: what it signed or sealed is in other
// hands.
func GenerateKeys(o Options, w io.Writer) error {
	return generate(o, w, func(buildKey) bool { return true })
}

// GenerateSecureBootKeys is [GenerateKeys] for the Secure Boot set alone.
func GenerateSecureBootKeys(o Options, w io.Writer) error {
	return generate(o, w, func(k buildKey) bool { return strings.HasPrefix(k.name, "secure boot") })
}

func generate(o Options, w io.Writer, which func(buildKey) bool) error {
	config, err := o.config()
	if err != nil {
		return err
	}
	if err := o.makeOut(); err != nil {
		return err
	}
	b := &Build{Options: o, Config: config}
	keys := slices.DeleteFunc(b.buildKeys(config.OS.SourceDateEpoch), func(k buildKey) bool { return !which(k) })
	what := map[string]string{}
	var failed error
	for _, k := range keys {
		made, err := k.make()
		switch {
		case err != nil:
			failed = errors.Join(failed, fmt.Errorf("%s: %w", k.name, err))
			what[k.name] = "FAILED"
		case made:
			what[k.name] = "made"
		default:
			what[k.name] = "kept"
		}
	}
	if err := b.writeKeys(w, keys, "now", what); err != nil {
		return errors.Join(failed, err)
	}
	if what["recovery"] == "made" {
		fmt.Fprintln(o.Stderr, "keys: the next build adds the recovery key to the encrypted volumes; `mage keys:recovery -recipient=FILE` encrypts it to somebody who keeps it")
	}
	return failed
}

// ShowKeys prints a table of the build's keys, those that are not there too. It
// makes nothing and reads nothing secret.
func ShowKeys(o Options, w io.Writer) error {
	config, err := o.config()
	if err != nil {
		return err
	}
	b := &Build{Options: o, Config: config}
	return b.writeKeys(w, b.buildKeys(0), "", nil)
}

// writeKeys prints the table: what each key is and the fingerprint of its public
// half, with a last column of its own where last is not empty.
func (b *Build) writeKeys(w io.Writer, keys []buildKey, last string, value map[string]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(cells ...string) { fmt.Fprintln(t, strings.TrimRight(strings.Join(cells, "\t"), "\t")) }
	row("key", "file", "kind", "made", "fingerprint", last)
	var notes []string
	var failed error
	for _, k := range keys {
		made, fingerprint, public, err := k.look()
		failed = errors.Join(failed, err)
		row(k.name, b.relative(k.file), k.kind, made, fingerprint, value[k.name])
		notes = append(notes, b.notes(k, public)...)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, n := range notes {
		if _, err := fmt.Fprintln(w, n); err != nil {
			return err
		}
	}
	return failed
}

// look returns when the key was made, the fingerprint of its public half, and
// that half; "-" for what there is not.
func (k buildKey) look() (made, fingerprint string, public []byte, err error) {
	info, err := os.Stat(k.file)
	if errors.Is(err, fs.ErrNotExist) {
		return "missing", "-", nil, nil
	}
	if err != nil {
		return "?", "-", nil, err
	}
	made = info.ModTime().UTC().Format("2006-01-02 15:04")
	if k.public == "" {
		return made, "-", nil, nil
	}
	if public, err = os.ReadFile(k.public); err != nil {
		return made, "-", nil, err
	}
	if fingerprint, err = k.print(public); err != nil {
		return made, "-", nil, fault.New(fault.SigningKey, fmt.Errorf("%s: %w", k.public, err))
	}
	return made, fingerprint, public, nil
}

// notes are what is wrong with a key's files and, with DEBUG=true, what else is
// known of it.
func (b *Build) notes(k buildKey, public []byte) []string {
	info, err := os.Stat(k.file)
	if err != nil {
		return nil
	}
	var notes []string
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		notes = append(notes, fmt.Sprintf("warning: %s has mode %#o: others can use the key; chmod 600 it, or make a new one if they did", k.file, mode))
	}
	if !b.Debug {
		return notes
	}
	notes = append(notes, fmt.Sprintf("%s: %s, mode %#o, %d bytes", k.name, k.file, info.Mode().Perm(), info.Size()))
	if k.public != "" {
		notes = append(notes, fmt.Sprintf("%s: public half %s, sha256 %s", k.name, k.public, hexSum(public)))
	}
	if k.detail == nil || public == nil {
		return notes
	}
	more, err := k.detail(public)
	if err != nil {
		return append(notes, fmt.Sprintf("%s: %v", k.name, err))
	}
	for _, m := range more {
		notes = append(notes, k.name+": "+m)
	}
	return notes
}

func hexSum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func (b *Build) makeSigningKey() (made bool, err error) {
	if exists(b.keysDir(sign.PrivateName)) {
		return false, nil
	}
	key, err := sign.GenerateKey(b.keysDir(), b.projectKey())
	if err != nil {
		return false, err
	}
	key.Wipe()
	return true, nil
}

func openPGP(public []byte) (*openpgp.Entity, error) {
	ring, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(public))
	if err != nil || len(ring) != 1 {
		return nil, errors.New("not one armoured OpenPGP key")
	}
	return ring[0], nil
}

func openPGPFingerprint(public []byte) (string, error) {
	e, err := openPGP(public)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%X", e.PrimaryKey.Fingerprint), nil
}

func openPGPDetail(public []byte) ([]string, error) {
	e, err := openPGP(public)
	if err != nil {
		return nil, err
	}
	who := ""
	if id := e.PrimaryIdentity(); id != nil {
		who = id.Name
	}
	return []string{fmt.Sprintf("of %s, version %d, born %s", who, e.PrimaryKey.Version, e.PrimaryKey.CreationTime.UTC().Format(time.RFC3339))}, nil
}

func certificate(public []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(public)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("not a certificate in PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

// certificateFingerprint is what `openssl x509 -fingerprint -sha256` prints,
// without the colons and in lower case.
func certificateFingerprint(public []byte) (string, error) {
	cert, err := certificate(public)
	if err != nil {
		return "", err
	}
	return "sha256:" + hexSum(cert.Raw), nil
}

func certificateDetail(public []byte) ([]string, error) {
	cert, err := certificate(public)
	if err != nil {
		return nil, err
	}
	return []string{fmt.Sprintf("%s, serial %x, %s to %s", cert.Subject, cert.SerialNumber, cert.NotBefore.UTC().Format(time.DateOnly), cert.NotAfter.UTC().Format(time.DateOnly))}, nil
}

// pcrFingerprint is the one by which a signature in the boot image names the
// key, see [boot.PCRKey.Fingerprint].
func pcrFingerprint(public []byte) (string, error) {
	fingerprint, err := boot.PCRFingerprint(public)
	if err != nil {
		return "", err
	}
	return "sha256:" + fingerprint, nil
}

// WriteRecovery encrypts the recovery key to the OpenPGP public key in the file
// recipient, or to KEY_RECIPIENTS of the configuration where it is empty, and
// writes out/keys/recovery.asc in place of an older one.
func WriteRecovery(o Options, recipientFile string) error {
	config, err := o.config()
	if err != nil {
		return err
	}
	b := &Build{Options: o, Config: config}
	to, err := b.recipients(recipientFile)
	if err != nil {
		return err
	}
	key, err := seal.RecoveryKey(b.recoveryKeyFile())
	if err != nil {
		return err
	}
	if key == nil {
		return fault.Newf(fault.Sealing, "there is no recovery key: %s", b.recoveryKeyFile()).Hint("mage keys:generate makes it, and the next build adds it to the volumes")
	}
	defer seal.Wipe(key)
	var message bytes.Buffer
	if err := recipient.Encrypt(&message, key, to...); err != nil {
		return fault.New(fault.SigningKey, fmt.Errorf("encrypting the recovery key: %w", err))
	}
	file := b.keysDir("recovery.asc")
	if err := atomicfile.Write(file, 0o644, message.Bytes()); err != nil {
		return err
	}
	for _, r := range to {
		fmt.Fprintf(o.Stderr, "keys: encrypted to %s, %s\n", r.Identity(), r.Fingerprint())
	}
	fmt.Fprintf(o.Stderr, "keys: wrote %s; they read it with gpg --decrypt\n", file)
	return nil
}

func (b *Build) recipients(file string) ([]recipient.Recipient, error) {
	files := []string{file}
	if file == "" {
		files = nil
		for _, name := range b.Config.Security.KeyRecipients {
			files = append(files, filepath.Join(b.ConfigDir, name))
		}
		if len(files) == 0 {
			return nil, fault.Newf(fault.Usage, "to whom?").Hint("mage keys:recovery -recipient=FILE, or KEY_RECIPIENTS in config/security.conf")
		}
	}
	var to []recipient.Recipient
	for _, f := range files {
		r, err := recipient.Read(f)
		var path *fs.PathError
		if err != nil && !errors.As(err, &path) {
			err = fmt.Errorf("%s: %w", f, err)
		}
		if err != nil {
			return nil, fault.New(fault.SigningKey, err).Hint("the public key that gpg --armor --export FINGERPRINT prints")
		}
		to = append(to, r)
	}
	return to, nil
}
