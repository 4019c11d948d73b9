// Package unpacked is the installer's folder as it was unpacked: SHA256SUMS, the
// manifest and the files that they list.
//
// Trust goes one way. SHA256SUMS is the root (its signature is checked by
// install.sh or by hand), it vouches for manifest.json, and the manifest for
// what is on the disk. Files are opened through [os.Root], so no path in a list
// and no link in the folder leads out of it.
package unpacked

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"cc-base/tasks/digest"
	"cc-base/tasks/fault"
	"cc-base/tasks/manifest"
	"cc-base/tasks/qcow2"
)

// The names that this program opens.
const (
	Sums     = "SHA256SUMS"
	Manifest = "manifest.json"
	ImageKey = "image.key"
	UKI      = "cc-base.efi"
)

// Folder is an open installer folder.
type Folder struct {
	Dir  string            // as given
	root *os.Root          //
	sums map[string]string // path to digest, as SHA256SUMS has it
}

// Open opens dir and reads its SHA256SUMS. It verifies nothing yet.
func Open(dir string) (*Folder, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fault.Newf(fault.Usage, "installer folder: %w", err)
	}
	f := &Folder{Dir: dir, root: root}
	raw, err := f.Read(Sums, 1<<20)
	if err == nil {
		f.sums, err = parseSums(raw)
	}
	if err != nil {
		root.Close()
		return nil, fault.Newf(fault.Damaged, "%s: %w", filepath.Join(dir, Sums), err).
			Hint("unpack the tarball again, or name its folder with --dir")
	}
	return f, nil
}

// Close closes the folder.
func (f *Folder) Close() error { return f.root.Close() }

// Path returns where name is, for messages and for other programs.
func (f *Folder) Path(name string) string { return filepath.Join(f.Dir, filepath.FromSlash(name)) }

// File opens a regular file of the folder.
func (f *Folder) File(name string) (*os.File, error) {
	file, err := f.root.Open(filepath.FromSlash(name))
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", name)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// Stat tells about name itself, not about what a link points to.
func (f *Folder) Stat(name string) (fs.FileInfo, error) {
	return f.root.Lstat(filepath.FromSlash(name))
}

// Read returns a file of at most limit bytes.
func (f *Folder) Read(name string, limit int64) ([]byte, error) {
	file, err := f.File(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", name, limit)
	}
	return b, err
}

// Names returns the files under a sub-folder ("." for all), sorted, with
// slashes.
func (f *Folder) Names(under string) ([]string, error) {
	var names []string
	err := fs.WalkDir(f.root.FS(), under, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, p)
		}
		return err
	})
	slices.Sort(names)
	return names, err
}

// Verify compares every file that SHA256SUMS lists with its digest and returns
// all differences in one error.
func (f *Folder) Verify(ctx context.Context) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(f.sums)) {
		got, err := f.digest(ctx, name)
		switch {
		case ctx.Err() != nil:
			return fault.New(fault.Damaged, ctx.Err())
		case err != nil:
			errs = append(errs, err)
		case got != f.sums[name]:
			errs = append(errs, fmt.Errorf("%s: its checksum differs from %s", name, Sums))
		}
	}
	if _, ok := f.sums[Manifest]; !ok {
		errs = append(errs, fmt.Errorf("%s does not list %s", Sums, Manifest))
	}
	if err := errors.Join(errs...); err != nil {
		return fault.New(fault.Damaged, err).Hint("the installer is not the one that was built; nothing was written")
	}
	return nil
}

// Unlisted returns the files that SHA256SUMS says nothing about. Detached
// signatures are not among them: they are made after the list.
func (f *Folder) Unlisted() ([]string, error) {
	names, err := f.Names(".")
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(names, func(name string) bool {
		_, listed := f.sums[name]
		return listed || name == Sums || path.Ext(name) == ".asc"
	}), nil
}

// Manifest returns the manifest; the bytes that are parsed are the bytes whose
// digest is compared, whatever happens to the file meanwhile.
func (f *Folder) Manifest() (manifest.Manifest, error) {
	raw, err := f.Read(Manifest, 16<<20)
	if err != nil {
		return manifest.Manifest{}, fault.New(fault.Damaged, err)
	}
	if digest.Bytes(raw) != f.sums[Manifest] {
		return manifest.Manifest{}, fault.Newf(fault.Damaged, "%s: its checksum differs from %s", Manifest, Sums)
	}
	m, err := manifest.Read(bytes.NewReader(raw))
	if err != nil {
		return manifest.Manifest{}, fault.New(fault.Damaged, err)
	}
	return m, nil
}

// Image opens the disk image that the manifest names. The caller closes the
// file when it is done with the image.
func (f *Folder) Image(d manifest.Disk) (*qcow2.Image, io.Closer, error) {
	file, err := f.File(d.File)
	if err != nil {
		return nil, nil, fault.New(fault.Damaged, err)
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, nil, err
	}
	image, err := qcow2.Open(file, info.Size())
	if err == nil && image.Size() != d.VirtualSize {
		err = fmt.Errorf("a disk of %d bytes, the manifest says %d", image.Size(), d.VirtualSize)
	}
	if err != nil {
		file.Close()
		return nil, nil, fault.Newf(fault.Damaged, "%s: %w", d.File, err)
	}
	return image, file, nil
}

func (f *Folder) digest(ctx context.Context, name string) (string, error) {
	file, err := f.File(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	return digest.Reader(ctx, file)
}

// parseSums reads the format of sha256sum: digest, blank, blank or asterisk,
// path. What sha256sum -c would merely warn about is an error here.
func parseSums(raw []byte) (map[string]string, error) {
	line := regexp.MustCompile(`^([0-9a-f]{64}) [ *](\./)?(.+)$`)
	sums := map[string]string{}
	in := bufio.NewScanner(bytes.NewReader(raw))
	for n := 1; in.Scan(); n++ {
		m := line.FindStringSubmatch(in.Text())
		if m == nil {
			return nil, fmt.Errorf("line %d is not a checksum", n)
		}
		name := m[3]
		if !filepath.IsLocal(name) || path.Clean(name) != name || strings.Contains(name, `\`) {
			return nil, fmt.Errorf("line %d: path %q leads out of the folder or is not plain", n, name)
		}
		if _, twice := sums[name]; twice {
			return nil, fmt.Errorf("line %d: %s is there twice", n, name)
		}
		sums[name] = m[1]
	}
	if err := in.Err(); err != nil {
		return nil, err
	}
	if len(sums) == 0 {
		return nil, errors.New("it is empty")
	}
	return sums, nil
}

// Listed returns the digest that SHA256SUMS has for name.
func (f *Folder) Listed(name string) (digest string, ok bool) {
	digest, ok = f.sums[name]
	return digest, ok
}
