//go:build mage

package main

import (
	"context"
	"os"

	"cc-base/tasks/build"
)

// Verify refuses an installer that is not signed by whom you trust, or whose files do not belong together: -file=FILE, -trust=FILE, -keys=FILE.
func Verify(ctx context.Context, file, trust, keys *string) error {
	d := build.Delivery{File: text(file), Trust: text(trust), Keys: text(keys)}
	return with(func(o build.Options) error { return build.VerifyInstaller(ctx, o, d, os.Stdout) })
}
