package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"cc-base/tasks/compare"
	"cc-base/tasks/fault"
	"cc-base/tasks/manifest"
	"cc-base/tasks/sh"
)

// Reproduce builds the image that the manifest at file describes again, from this
// checkout and its configuration with no result of an earlier build, and compares.
// Where the files that the manifest names lie beside it, as in an unpacked
// installer, the first difference is looked for inside them.
//
// Everything is compared but what differs with the keys: encrypted bytes,
// signatures, certificates and the measurements of them. Those are listed.
func Reproduce(ctx context.Context, o Options, file string, w io.Writer) error {
	if file == "" {
		return fault.Newf(fault.Usage, "what is to be reproduced?").Hint("mage reproduce -manifest=FILE, such as installer/manifest.json")
	}
	want, err := readManifest(file)
	if err != nil {
		return fault.New(fault.Differs, err)
	}
	if o.Profile = want.Profile; o.Profile == "default" {
		o.Profile = ""
	}
	again := o
	again.OutDir = filepath.Join(o.OutDir, "scratch", "reproduce")
	again.CacheDir = filepath.Join(again.OutDir, "cache")
	err = with(ctx, o, func(ctx context.Context, b *Build) error {
		if err := errors.Join(os.RemoveAll(again.OutDir), os.MkdirAll(again.CacheDir, 0o755)); err != nil {
			return err
		}
		return b.shareDownloads(ctx, again.CacheDir)
	})
	if err != nil {
		return err
	}
	if err := Run(ctx, again, "package"); err != nil {
		return err
	}
	got, err := readManifest(filepath.Join(again.OutDir, "manifest.json"))
	if err != nil {
		return err
	}
	all, err := compare.Manifests(want, got, within(filepath.Dir(file)), within(again.OutDir, filepath.Join(again.OutDir, "scratch"), o.Repo, filepath.Join(o.Repo, "installer")))
	if err != nil {
		return fault.New(fault.Differs, err)
	}
	if err := reproduced(all, w); err != nil {
		return fmt.Errorf("%w; what was built is in %s", err, again.OutDir)
	}
	return os.RemoveAll(again.OutDir)
}

func readManifest(file string) (manifest.Manifest, error) {
	f, err := os.Open(file)
	if err != nil {
		return manifest.Manifest{}, err
	}
	defer f.Close()
	m, err := manifest.Read(f)
	if err != nil {
		return m, fmt.Errorf("%s: %w", file, err)
	}
	return m, nil
}

// within finds a file in the first of the folders that has it.
func within(dirs ...string) compare.Find {
	return func(name string) string {
		for _, dir := range dirs {
			if file := filepath.Join(dir, filepath.FromSlash(name)); exists(file) {
				return file
			}
		}
		return ""
	}
}

// reproduced tells how the builds compare; any difference is an error.
func reproduced(all compare.Builds, w io.Writer) error {
	fmt.Fprintf(w, "same: %s: %s\n", count(len(all.Same), "file"), strings.Join(all.Same, " "))
	fmt.Fprintf(w, "not compared, because it differs with the keys: %s; of cc-base.efi all sections but .pcrsig and .pcrpkey where both are there\n", strings.Join(all.Keyed, " "))
	if len(all.Differences) == 0 {
		_, err := fmt.Fprintln(w, "the image is reproduced")
		return err
	}
	var lines []string
	for _, d := range all.Differences {
		lines = append(lines, d.String())
	}
	return fault.Newf(fault.Differs, "the image is not reproduced; the first difference is in %s", strings.Join(lines, "\n")).
		Hint("other packages? `mage outdated` compares with a package lock, which the image's maker can give you; another configuration or checkout?")
}

// shareDownloads lends the tools tree and the downloaded firmware to another cache.
func (b *Build) shareDownloads(ctx context.Context, cache string) error {
	if err := os.Symlink(filepath.Join(b.CacheDir, "tools"), filepath.Join(cache, "tools")); err != nil {
		return err
	}
	// Tools see these under their own path: no link.
	if downloads := filepath.Join(b.CacheDir, "firmware"); exists(downloads) {
		return sh.Do(ctx, b.Host, "cp", "-a", downloads, cache)
	}
	return nil
}
