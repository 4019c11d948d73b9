// Package delivery judges an installer as somebody is given it: the tarball, the
// checksum and the signature beside it, and what is in it. No program of the
// installer is run.
//
//	err := delivery.Checksum(file)
//	s, err := delivery.Signed(file, keys, rules)
//	err = delivery.Unpack(ctx, file, dir)
//	err = delivery.Check(ctx, filepath.Join(dir, delivery.Folder), rules, os.Stdout)
package delivery

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

// Folder is the folder that all of the tarball's files are below.
const Folder = "installer"

// Checksum compares the file with the line beside it, the one that `sha256sum -c`
// reads.
func Checksum(file string) error {
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

// Signed judges the signature beside the file and says on w whose it is. keys is
// the file of armoured public keys that may have signed.
func Signed(file, keys string, rules trust.Rules, w io.Writer) error {
	signature, err := os.ReadFile(file + sign.Extension)
	if errors.Is(err, fs.ErrNotExist) {
		signature, err = nil, nil
	}
	var public []byte
	if err == nil && signature != nil {
		if public, err = os.ReadFile(keys); err != nil {
			return fault.New(fault.SigningKey, err).Hint("-keys names the public keys of those who sign")
		}
	}
	if err != nil {
		return err
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	s, err := rules.Signed(public, signature, f, time.Now())
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if s.Fingerprint == "" {
		fmt.Fprintln(w, "signature: NONE, which the trust file allows")
		return nil
	}
	fmt.Fprintf(w, "signature: by %s, %s, of %s\n", s.Fingerprint, s.Identity, s.Time.UTC().Format(time.RFC3339))
	return nil
}

// Check judges the files of an unpacked installer: how old its image is, and by
// the checks that need no machine whether they belong together. The verdicts go
// to w.
func Check(ctx context.Context, dir string, rules trust.Rules, w io.Writer) error {
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
	return fault.Newf(fault.TrustContents, "%s", strings.Join(failed, ", "))
}

// Unpack unpacks the tarball below dir. It takes nothing but plain files and
// folders, each once: what two programs could unpack in two ways is an error.
func Unpack(ctx context.Context, file, dir string) error {
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
	if !fs.ValidPath(name) || name != Folder && !strings.HasPrefix(name, Folder+"/") {
		return errors.New("not below " + Folder)
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
