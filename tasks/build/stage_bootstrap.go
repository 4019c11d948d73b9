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
		keys:    []string{"DISTRIBUTION", "SUITE", "MIRROR", "SNAPSHOT", "COMPONENTS", "PACKAGES", "KERNEL", "LOCALE", "TIMEZONE", "SOURCE_DATE_EPOCH"},
		cached:  true,
		outputs: func(b *Build) []string { return []string{b.scratch("base.tar"), b.scratch("packages.json")} },
		run:     bootstrap,
	}
}

func bootstrap(ctx context.Context, b *Build) error {
	os := b.Config.OS
	d, err := rootfs.DistributionByName(os.Distribution)
	if err != nil {
		return err
	}
	mirror, err := b.mirror(ctx, d)
	if err != nil {
		return err
	}
	spec, err := b.bootstrapSpec(ctx, d, mirror, os.Suite, os.Components, imagePackages(d, os.Kernel, os.Timezone, os.Locale, os.Packages))
	if err != nil {
		return err
	}
	spec.Locale = os.Locale
	b.log.event("bootstrap", "%s %s with %d packages and what they need", os.Distribution, os.Suite, len(spec.Packages))
	packages, err := b.bootstrapTree(ctx, spec, b.scratch("base.tar"), b.scratch("packages.list"))
	if err != nil {
		return err
	}
	b.log.event("bootstrap", "%d packages, %s", len(packages), fileSize(b.scratch("base.tar")))
	return b.keep("packages.json", packages)
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
