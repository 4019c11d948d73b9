//go:build mage

package main

import (
	"context"
	"os"

	"github.com/magefile/mage/mg"

	"cc-base/tasks/build"
)

// Check holds a machine against what is configured.
type Check mg.Namespace

// Tee tells what this machine, or that of -facts=FILE, has and lacks of SEV-SNP and TDX.
func (Check) Tee(ctx context.Context, facts *string) error {
	return with(func(o build.Options) error { return build.CheckTEE(ctx, o, text(facts), os.Stdout) })
}

// Hardware shows what the doctor finds of this machine, or that of -facts=FILE; -verbose with cause and fix.
func (Check) Hardware(ctx context.Context, facts *string, verbose *bool) error {
	return with(func(o build.Options) error { return build.CheckHardware(ctx, o, text(facts), set(verbose), os.Stdout) })
}

// Resources tells what a build needs of this machine and a VM of its host, this machine or that of -facts=FILE.
func (Check) Resources(ctx context.Context, facts *string) error {
	return with(func(o build.Options) error { return build.CheckResources(ctx, o, text(facts), os.Stdout) })
}

// Compatibility holds the settings against each other and against this machine, or that of -facts=FILE.
func (Check) Compatibility(ctx context.Context, facts *string) error {
	return with(func(o build.Options) error { return build.CheckCompatibility(ctx, o, text(facts), os.Stdout) })
}

// TEEConfig shows the definitions of SEV-SNP and TDX guests that follow from the settings, checked, with their policies decoded and what they will measure.
func (Check) TEEConfig(ctx context.Context) error {
	return with(func(o build.Options) error { return build.CheckTEEConfig(ctx, o, os.Stdout) })
}
