package publish

import (
	"archive/tar"
	"bytes"
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

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"cc-base/installer/delivery"
	"cc-base/tasks/fault"
	"cc-base/tasks/manifest"
	"cc-base/tasks/measurements"
	"cc-base/tasks/oci"
	"cc-base/tasks/sign"
)

// part is one blob of a release.
type part struct {
	ocispec.Descriptor
	name string
	open func() (io.ReadCloser, error)
}

// needed are the files of the output folder without which there is no release.
func needed() []string {
	return []string{oci.Installer, oci.Sums, oci.Disk, oci.UKI, oci.Manifest, measurements.File, measurements.RVPSFile}
}

// collect describes every part of the release in the output folder, sorted by
// name. All that is missing or does not belong together is named at once.
func collect(ctx context.Context, out string) (manifest.Manifest, []part, error) {
	var parts []part
	var errs []error
	for _, name := range append(needed(), optional(out)...) {
		p, err := fileOf(ctx, name, filepath.Join(out, name))
		errs = append(errs, err)
		parts = append(parts, p)
	}
	if err := errors.Join(errs...); err != nil {
		return manifest.Manifest{}, nil, incomplete(err)
	}
	installer := filepath.Join(out, oci.Installer)
	if err := delivery.Checksum(installer); err != nil {
		return manifest.Manifest{}, nil, incomplete(err)
	}
	m, packed, err := readInstaller(ctx, installer, func(name string) bool {
		bill := name == oci.CycloneDX || name == oci.SPDX
		return strings.HasPrefix(name, oci.Firmware) || bill && !has(parts, name)
	})
	if err == nil {
		err = sameAsPacked(m, parts)
	}
	if err != nil {
		return m, nil, incomplete(err)
	}
	parts = append(parts, packed...)
	slices.SortFunc(parts, func(a, b part) int { return strings.Compare(a.name, b.name) })
	return m, parts, nil
}

func incomplete(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return fault.New(fault.ReleaseIncomplete, err).Hint("`mage build`, then publish again")
}

// optional are the further files of the output folder. Signatures of the
// measurements count when the installer has one: all are made together.
func optional(out string) []string {
	names := []string{oci.CycloneDX, oci.SPDX, oci.Provenance}
	if exists(filepath.Join(out, oci.Signature)) {
		names = append(names, oci.Signature, measurements.File+sign.Extension, measurements.RVPSFile+sign.Extension)
	}
	return slices.DeleteFunc(names, func(name string) bool { return !exists(filepath.Join(out, name)) })
}

func exists(file string) bool {
	_, err := os.Lstat(file)
	return err == nil
}

func has(parts []part, name string) bool {
	return slices.ContainsFunc(parts, func(p part) bool { return p.name == name })
}

// newPart describes what open gives, which is read once.
func newPart(name, mediaType string, open func() (io.ReadCloser, error)) (p part, err error) {
	in, err := open()
	if err != nil {
		return part{}, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	sum := digest.SHA256.Digester()
	size, err := io.Copy(sum.Hash(), in)
	if err != nil {
		return part{}, err
	}
	return part{ocispec.Descriptor{MediaType: mediaType, Digest: sum.Digest(), Size: size}, name, open}, nil
}

// titled gives a part its file name, under which it is unpacked.
func (p part) titled() part {
	p.Annotations = map[string]string{ocispec.AnnotationTitle: p.name}
	return p
}

func fileOf(ctx context.Context, name, file string) (part, error) {
	if err := ctx.Err(); err != nil {
		return part{}, err
	}
	info, err := os.Stat(file)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: not a file", file)
	}
	if err != nil {
		return part{}, err
	}
	p, err := newPart(name, oci.MediaType(name), func() (io.ReadCloser, error) { return os.Open(file) })
	return p.titled(), err
}

func dataOf(name, mediaType string, data []byte) part {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	return part{d, name, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }}
}

// maxPacked bounds what is taken out of the installer into memory, per file in
// bytes: the largest firmware has 4 MiB.
const maxPacked = 64 << 20

// readInstaller takes the manifest and what is wanted out of the installer.
func readInstaller(ctx context.Context, file string, want func(name string) bool) (m manifest.Manifest, parts []part, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s: %w", file, err)
		}
	}()
	f, err := os.Open(file)
	if err != nil {
		return m, nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return m, nil, err
	}
	for in := tar.NewReader(z); ; {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return m, nil, err
		}
		name := strings.TrimPrefix(h.Name, delivery.Folder+"/")
		if h.Typeflag != tar.TypeReg || name != oci.Manifest && !want(name) {
			continue
		}
		if !fs.ValidPath(name) || h.Size > maxPacked {
			return m, nil, fmt.Errorf("%q cannot be published", h.Name)
		}
		data, err := io.ReadAll(in)
		if err != nil {
			return m, nil, err
		}
		if name != oci.Manifest {
			parts = append(parts, dataOf(name, oci.MediaType(name), data).titled())
		} else if m, err = manifest.Read(bytes.NewReader(data)); err != nil {
			return m, nil, err
		}
	}
	if m.Schema == 0 {
		return m, nil, fmt.Errorf("it has no %s", oci.Manifest)
	}
	return m, parts, nil
}

// sameAsPacked compares the files of the output folder with those of the
// installer: a release of two builds would be worse than none.
func sameAsPacked(m manifest.Manifest, parts []part) error {
	encoded, err := m.Encode()
	if err != nil {
		return err
	}
	packed := map[string]string{oci.Manifest: digest.FromBytes(encoded).Encoded()}
	for _, f := range m.Files {
		packed[f.Path] = f.SHA256
	}
	var errs []error
	for _, p := range parts {
		if sum, ok := packed[p.name]; ok && sum != p.Digest.Encoded() {
			errs = append(errs, fmt.Errorf("%s is another file than the one in the installer", p.name))
		}
	}
	return errors.Join(errs...)
}
