package build

import (
	"context"
	"strings"

	"cc-base/tasks/rootfs"
)

func bootstrapStage() stage {
	return stage{
		name:    "bootstrap",
		title:   "installing the distribution's packages",
		keys:    []string{"DISTRIBUTION", "SUITE", "MIRROR", "SNAPSHOT", "LOCKED", "COMPONENTS", "PACKAGES", "KERNEL", "LOCALE", "TIMEZONE", "SOURCE_DATE_EPOCH"},
		facts:   func(b *Build) (map[string]string, error) { return b.lockFact(imageSection(b.Config.Profile)), nil },
		cached:  true,
		outputs: func(b *Build) []string { return []string{b.scratch("base.tar"), b.scratch("packages.json")} },
		run:     bootstrap,
	}
}

func bootstrap(ctx context.Context, b *Build) error {
	src, err := b.imageSource(ctx)
	if err != nil {
		return err
	}
	b.log.event("bootstrap", "%s %s with %d packages and what they need", b.Config.OS.Distribution, src.spec.Suite, len(src.spec.Packages))
	packages, err := b.bootstrapTree(ctx, src, b.scratch("base.tar"), b.scratch("packages.list"))
	if err != nil {
		return err
	}
	b.log.event("bootstrap", "%d packages, %s", len(packages), fileSize(b.scratch("base.tar")))
	return b.keep("packages.json", packages)
}

// imageSource is where the image's packages come from.
func (b *Build) imageSource(ctx context.Context) (source, error) {
	os := b.Config.OS
	d, err := rootfs.DistributionByName(os.Distribution)
	if err != nil {
		return source{}, err
	}
	mirror, err := b.mirror(ctx, d)
	if err != nil {
		return source{}, err
	}
	src, err := b.source(ctx, imageSection(b.Config.Profile), d, mirror, os.Suite, os.Components, imagePackages(d, os.Kernel, os.Timezone, os.Locale, os.Packages))
	src.spec.Locale = os.Locale
	return src, err
}

// mirror returns where the image's packages come from: os.conf where it says,
// else the machine's own configuration.
func (b *Build) mirror(ctx context.Context, d rootfs.Distribution) (rootfs.Mirror, error) {
	os := b.Config.OS
	switch {
	case os.Snapshot != "":
		return rootfs.Mirror{Main: strings.TrimRight(os.Mirror, "/") + "/" + os.Snapshot, Snapshot: true}, nil
	case os.Mirror != "":
		return rootfs.Mirror{Main: strings.TrimRight(os.Mirror, "/")}, nil
	}
	return rootfs.HostMirror(ctx, b.Host, d)
}

// imagePackages is the base set, the kernel, what the settings call for, and
// the user's own.
func imagePackages(d rootfs.Distribution, kernel, timezone, locale string, extra []string) []string {
	packages := append([]string{d.Kernels[kernel]}, d.Base...)
	if timezone != "UTC" {
		packages = append(packages, "tzdata")
	}
	if rootfs.NeedsLocale(locale) {
		packages = append(packages, "locales")
	}
	return append(packages, extra...)
}
