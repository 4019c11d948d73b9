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

// Build measures builds beside mkosi's and mmdebstrap's of the same packages, in turn: -rounds=N; mkosi needs root.
func (Bench) Build(ctx context.Context, rounds *int) error {
	return with(func(o build.Options) error {
		n := build.BenchRounds
		if rounds != nil {
			n = *rounds
		}
		return build.BenchBuild(ctx, o, n, os.Stdout)
	})
}

// Scaling measures builds of images with more and more content: -mib=512,1024,2048,4096.
func (Bench) Scaling(ctx context.Context, mib *string) error {
	return with(func(o build.Options) error { return build.BenchScaling(ctx, o, text(mib), os.Stdout) })
}
