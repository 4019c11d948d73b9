//go:build mage

package main

import (
	"context"
	"os"

	"cc-base/tasks/build"
)

// Publish sends what was built to an OCI registry: mage publish REGISTRY/REPO:TAG; also -plainHTTP, for a registry on this machine.
func Publish(ctx context.Context, to string, plainHTTP *bool) error {
	return with(func(o build.Options) error { return build.Publish(ctx, o, to, set(plainHTTP), os.Stdout) })
}
