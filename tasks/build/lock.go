package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"text/tabwriter"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/conf"
	"cc-base/tasks/deb"
	"cc-base/tasks/digest"
	"cc-base/tasks/fault"
	"cc-base/tasks/firmware"
	"cc-base/tasks/lockfile"
	"cc-base/tasks/rootfs"
)

// toolsSection is the section of the tools tree in the lock.
const toolsSection = "tools"

// imageSection is the section of the image that a profile makes; profiles differ
// in their packages.
func imageSection(profile string) string {
	if profile == "" {
		return "image"
	}
	return "image/" + profile
}

// packagesLock pins packages; there need not be one.
func (b *Build) packagesLock() string { return b.configFile("packages.lock") }

// useLock reads the lock where the settings ask for it. It must have the tools
// and the image: a build that is found out half-way to have no lock has
// installed what it should not.
func (b *Build) useLock() error {
	if !b.Config.OS.Locked || b.Unlocked {
		return nil
	}
	lock, err := b.readLock("LOCKED=yes")
	if err != nil {
		return err
	}
	var missing []string
	for _, name := range []string{toolsSection, imageSection(b.Config.Profile)} {
		if _, ok := lock.Section(name); !ok {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return fault.Newf(fault.NoLock, "%s has no section %s", b.packagesLock(), strings.Join(missing, " and no section ")).Hint("`mage lock` writes one for every profile")
	}
	b.lock = &lock
	return nil
}

// readLock reads the lock for somebody who cannot do without.
func (b *Build) readLock(who string) (lockfile.Lock, error) {
	lock, err := lockfile.Read(b.packagesLock())
	if errors.Is(err, fs.ErrNotExist) {
		return lock, fault.Newf(fault.NoLock, "%s needs a lock: %w", who, err).Hint("`mage lock` writes it")
	}
	return lock, err
}

// locked returns the section that binds the build, or nil without LOCKED=yes.
func (b *Build) locked(name string) *lockfile.Section {
	if b.lock == nil {
		return nil
	}
	if s, ok := b.lock.Section(name); ok {
		return &s
	}
	return nil
}

// lockDigest stands for the content of a section that binds the build; it is
// empty without one.
func (b *Build) lockDigest(section string) string {
	s := b.locked(section)
	if s == nil {
		return ""
	}
	return digest.Bytes(lockfile.Lock{Sections: []lockfile.Section{*s}}.Encode())
}

// lockFact makes the section an input of a stage that it binds.
func (b *Build) lockFact(section string) map[string]string {
	if d := b.lockDigest(section); d != "" {
		return map[string]string{"lock:" + section: d}
	}
	return nil
}

// source is where a tree's packages come from, and which section of the lock
// they are.
type source struct {
	section string
	from    string
	spec    rootfs.Spec
}

// from is a place as the lock writes it.
func from(distribution, suite string, components []string) string {
	return strings.Join(append([]string{distribution, suite}, components...), " ")
}

// WriteLock writes config/packages.lock: what the mirror has now for the tools,
// for the image of every profile and as firmware.
func WriteLock(ctx context.Context, o Options) error {
	o.Unlocked = true
	return with(ctx, o, func(ctx context.Context, b *Build) error {
		lock, err := b.resolve(ctx)
		if err != nil {
			return err
		}
		data := lock.Encode()
		if _, err := lockfile.Parse(b.packagesLock(), data); err != nil {
			return fmt.Errorf("what the mirror has makes no lock: %w", err)
		}
		if err := atomicfile.Write(b.packagesLock(), 0o644, data); err != nil {
			return err
		}
		b.log.event("lock", "wrote %s", b.packagesLock())
		return nil
	})
}

// Outdated compares config/packages.lock with what the mirror has now and
// prints the differences as a table, or as JSON. Where there are any, that is
// an error with code fault.Outdated.
func Outdated(ctx context.Context, o Options, w io.Writer, asJSON bool) error {
	o.Unlocked = true
	former, err := (&Build{Options: o}).readLock("mage outdated")
	if err != nil {
		return err
	}
	return with(ctx, o, func(ctx context.Context, b *Build) error {
		lock, err := b.resolve(ctx)
		if err != nil {
			return err
		}
		news := lock.Since(former)
		if err := writeNews(w, news, asJSON); err != nil {
			return err
		}
		if news.None() {
			return nil
		}
		return fault.Newf(fault.Outdated, "%s and %s of the lock are not what the mirror has now", count(len(news.Packages), "package"), count(len(news.Origins), "section")).
			Hint("`mage lock` takes what the mirror has")
	})
}

func writeNews(w io.Writer, news lockfile.News, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(news)
	}
	if news.None() {
		_, err := fmt.Fprintln(w, "the mirror has what is locked")
		return err
	}
	cell := func(v string) string {
		if v == "" {
			return "-"
		}
		return v
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "package\tlocked\toffered\tin")
	for _, o := range news.Origins {
		fmt.Fprintf(t, "(all)\t%s\t%s\t%s\n", cell(o.Locked), cell(o.Offered), o.Section)
	}
	for _, c := range news.Packages {
		locked, offered := cell(c.Locked), cell(c.Offered)
		if c.LockedSHA256 != "" {
			locked, offered = locked+" "+short(c.LockedSHA256), offered+" "+short(c.OfferedSHA256)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", c.Package, locked, offered, strings.Join(c.Sections, " "))
	}
	return t.Flush()
}

// resolve returns a lock of what the mirror has now.
func (b *Build) resolve(ctx context.Context) (lockfile.Lock, error) {
	sources, err := b.sources(ctx)
	if err != nil {
		return lockfile.Lock{}, err
	}
	b.log.event("lock", "asking the mirror what it would install")
	var lock lockfile.Lock
	for i, s := range sources {
		same := slices.IndexFunc(sources[:i], func(o source) bool { return reflect.DeepEqual(o.spec, s.spec) })
		var packages []deb.Package
		if same >= 0 {
			packages = lock.Sections[same].Packages
		} else if packages, err = b.resolveTree(ctx, s.spec); err != nil {
			return lock, fmt.Errorf("%s: %w", s.section, err)
		}
		b.log.event("lock", "%s: %s, %s", s.section, s.from, count(len(packages), "package"))
		lock.Sections = append(lock.Sections, lockfile.Section{Name: s.section, From: s.from, Packages: packages})
	}
	getter, err := b.firmwareGetter(ctx)
	if err != nil {
		return lock, err
	}
	defer os.RemoveAll(b.firmwareWork())
	packages, err := getter.Find(ctx, firmware.SNP(), firmware.TDX())
	if err != nil {
		return lock, err
	}
	if len(packages) > 0 {
		section := firmware.LockSection(packages)
		b.log.event("lock", "%s: %s, %s", section.Name, section.From, count(len(packages), "package"))
		lock.Sections = append(lock.Sections, section)
	}
	return lock, nil
}

// sources returns what a lock covers of trees: the tools, and the image of each
// profile, so that one lock serves every build of the configuration.
func (b *Build) sources(ctx context.Context) ([]source, error) {
	var out []source
	var errs []error
	for _, profile := range append([]string{""}, conf.Profiles(b.ConfigDir)...) {
		of := &Build{Options: b.Options, Host: b.Host, Tools: b.Tools, log: b.log}
		of.Profile = profile
		var err error
		if of.Config, err = of.Options.config(); err != nil {
			errs = append(errs, err)
			continue
		}
		if profile == "" {
			tools, err := of.toolsSource(ctx)
			errs, out = append(errs, err), append(out, tools)
		}
		image, err := of.imageSource(ctx)
		errs, out = append(errs, err), append(out, image)
	}
	return out, errors.Join(errs...)
}

// resolveTree is what bootstrapTree would install.
func (b *Build) resolveTree(ctx context.Context, spec rootfs.Spec) ([]deb.Package, error) {
	var packages []deb.Package
	err := b.withTempDir(ctx, func(dir string) (err error) {
		spec.TempDir = dir
		list := b.scratch(filepath.Base(dir) + ".list") // another tree may be resolved at once
		defer os.Remove(list)
		packages, err = rootfs.Resolve(ctx, b.Host, spec, list)
		return err
	})
	return packages, err
}
