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
