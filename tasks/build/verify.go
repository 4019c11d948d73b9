package build

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cc-base/installer/unpacked"
	"cc-base/tasks/digest"
	"cc-base/tasks/fault"
	"cc-base/tasks/sign"
	"cc-base/tasks/trust"
	"cc-base/validation"
	"cc-base/validation/check"
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
	if err := compareChecksum(d.File); err != nil {
		return err
	}
	fmt.Fprintf(w, "checksum: as in %s\n", filepath.Base(d.File)+".sha256")
	s, err := d.signed(rules)
	if err != nil {
		return err
	}
	if s.Fingerprint == "" {
		fmt.Fprintln(w, "signature: NONE, which the trust file allows")
	} else {
		fmt.Fprintf(w, "signature: by %s, %s, of %s\n", s.Fingerprint, s.Identity, s.Time.UTC().Format(time.RFC3339))
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

// compareChecksum compares the file with the line that `sha256sum -c` reads.
func compareChecksum(file string) error {
	line, err := os.ReadFile(file + ".sha256")
	if err != nil {
		return fault.New(fault.TrustContents, err)
	}
	sum, err := digest.File(file)
	if err != nil {
		return err
	}
	if string(line) != sum+"  "+filepath.Base(file)+"\n" {
		return fault.Newf(fault.TrustContents, "%s: its checksum and name are not those in %s", file, filepath.Base(file)+".sha256")
	}
	return nil
}

func (d Delivery) signed(rules trust.Rules) (sign.Signature, error) {
	signature, err := os.ReadFile(d.File + sign.Extension)
	if errors.Is(err, fs.ErrNotExist) {
		signature, err = nil, nil
	}
	var keys []byte
	if err == nil && signature != nil {
		if keys, err = os.ReadFile(d.Keys); err != nil {
			return sign.Signature{}, fault.New(fault.SigningKey, err).Hint("-keys=FILE names the public keys of those who sign")
		}
	}
	if err != nil {
		return sign.Signature{}, err
	}
	f, err := os.Open(d.File)
	if err != nil {
		return sign.Signature{}, err
	}
	defer f.Close()
	s, err := rules.Signed(keys, signature, f, time.Now())
	if err != nil {
		return s, fmt.Errorf("%s: %w", d.File, err)
	}
	return s, nil
}

// contents unpacks the installer and has its artefacts checked.
func (d Delivery) contents(ctx context.Context, o Options, rules trust.Rules, w io.Writer) error {
	if err := o.makeOut(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.OutDir, "verify")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := unpackInstaller(ctx, d.File, dir); err != nil {
		return fault.Newf(fault.TrustContents, "%s: %w", d.File, err)
	}
	dir = filepath.Join(dir, installerFolder)
	folder, err := unpacked.Open(dir)
	if err != nil {
		return fault.New(fault.TrustContents, err)
	}
	defer folder.Close()
	m, err := folder.Manifest()
	if err != nil {
		return fault.New(fault.TrustContents, err)
	}
	if err := rules.Epoch(m.SourceDateEpoch); err != nil {
		return err
	}
	env := &validation.Env{Root: os.DirFS("/"), Dir: dir}
	defer env.Close()
	checks := slices.DeleteFunc(validation.All(env), func(c check.Check) bool { return !slices.Contains(c.Where, check.Artefact) })
	report := check.Run(ctx, check.Artefact, checks)
	if err := report.Text(w); err != nil {
		return err
	}
	if !report.Failed() {
		return nil
	}
	var failed []string
	for _, r := range report.Results {
		if r.Status == check.Fail || r.Status == check.Error {
			failed = append(failed, r.ID)
		}
	}
	return fault.Newf(fault.TrustContents, "%s: %s", d.File, strings.Join(failed, ", "))
}

const (
	installerName   = "nvidia-cc-installer.tar.gz"
	installerFolder = "installer" // all that is in the tarball is below it
)

// unpackInstaller takes nothing but plain files and folders, each once: what two
// programs could unpack in two ways is an error.
func unpackInstaller(ctx context.Context, file, dir string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if err == io.EOF {
			// What follows the end of the archive is read for gzip's checksum.
			_, err = io.Copy(io.Discard, z)
			return err
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if err := unpackMember(root, h, t); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

func unpackMember(root *os.Root, h *tar.Header, content io.Reader) (err error) {
	name := strings.TrimSuffix(h.Name, "/")
	if !fs.ValidPath(name) || name != installerFolder && !strings.HasPrefix(name, installerFolder+"/") {
		return errors.New("not below " + installerFolder)
	}
	if h.Typeflag == tar.TypeDir {
		return root.Mkdir(name, 0o755)
	}
	if h.Typeflag != tar.TypeReg {
		return errors.New("neither a file nor a folder")
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, h.FileInfo().Mode().Perm())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = io.Copy(f, content)
	return err
}
