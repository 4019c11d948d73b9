//go:build mage

// Builds the base image of a confidential VM and its signed installer.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/magefile/mage/mg"

	"cc-base/tasks/build"
	"cc-base/tasks/fault"
)

// Default is what plain `mage` runs.
var Default = Build

// Build makes everything: image, installer, signature.
func Build(ctx context.Context) error { return through(ctx, "sign") }

// Prepare checks configuration and machine and builds the tools tree.
func Prepare(ctx context.Context) error { return through(ctx, "prepare") }

// BaseOS installs the distribution's packages and lays the overlays over them.
func BaseOS(ctx context.Context) error { return through(ctx, "baseos") }

// TEE adds the guest program, the TEE modules and the initrd.
func TEE(ctx context.Context) error { return through(ctx, "tee") }

// Encrypt seals the root volume: erofs and verity in LUKS2.
func Encrypt(ctx context.Context) error { return through(ctx, "encrypt") }

// Apps seals the application and the configuration volume.
func Apps(ctx context.Context) error { return through(ctx, "apps") }

// Package makes the boot image, the disk image and the installer, and signs it when a key is configured.
func Package(ctx context.Context) error {
	if os.Getenv("CC_SIGNING_KEY_FILE") != "" {
		return through(ctx, "sign")
	}
	return through(ctx, "package")
}

// Sign signs the installer, or signs it again.
func Sign(ctx context.Context) error { return through(ctx, "sign") }

func through(ctx context.Context, stage string) error {
	options, err := build.FromEnvironment(mg.Verbose())
	if err != nil {
		return fail(err)
	}
	return fail(build.Run(ctx, options, stage))
}

// fail shows the whole error and gives Mage its exit status: Mage prints the
// returned error alone and finds the status only in an error that is not
// wrapped (mage v1.17.2 mage/template.go).
func fail(err error) error {
	if err == nil {
		return nil
	}
	return mg.Fatal(fault.Exit(err), fmt.Sprintf("cc-base: %s", fault.Render(err)))
}
