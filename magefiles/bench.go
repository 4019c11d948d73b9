//go:build mage

package main

import (
	"context"
	"os"

	"github.com/magefile/mage/mg"

	"cc-base/installer/write/bench"
	"cc-base/tasks/build"
	"cc-base/tasks/sh"
)

// Bench measures; a slow machine is never an error.
type Bench mg.Namespace

// Install measures the installer's writing against dd on a scratch file: -mib=N of generated content, -device=DEV (all on it is lost).
func (Bench) Install(ctx context.Context, device *string, mib *int) error {
	return with(func(o build.Options) error {
		b := bench.Options{Out: o.OutDir, Device: text(device), Runs: bench.Runs, Root: os.DirFS("/"), Tools: sh.Host{}}
		if mib != nil {
			b.MiB = *mib
		}
		return bench.Run(ctx, b, os.Stdout)
	})
}
