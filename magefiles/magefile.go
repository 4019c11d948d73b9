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

// Default is what plain `mage` runs. Mage cannot compile a default target that has
// arguments (mage v1.17.2 mage/template.go), and Build has some.
var Default = All

// All is build without any flag, which plain mage runs.
func All(ctx context.Context) error { return Build(ctx, nil) }

// Build makes everything: image, installer, signature; -monitor shows and keeps what it takes of the machine.
func Build(ctx context.Context, monitor *bool) error {
	return with(func(o build.Options) error {
		o.Monitor = monitor != nil && *monitor
		return build.Run(ctx, o, "sign")
	})
}

// Prepare checks configuration and machine and builds the tools tree.
func Prepare(ctx context.Context) error { return through(ctx, "prepare") }

// BaseOS installs the distribution's packages and lays the overlays over them.
func BaseOS(ctx context.Context) error { return through(ctx, "baseos") }

// TEE adds the guest program, the TEE modules and the initrd.
func TEE(ctx context.Context) error { return through(ctx, "initrd") }

// Encrypt seals the root volume: erofs and verity in LUKS2.
func Encrypt(ctx context.Context) error { return through(ctx, "encrypt") }

// Apps seals the application and the configuration volume.
func Apps(ctx context.Context) error { return through(ctx, "apps") }

// Package makes the boot image, the disk image and the installer, and signs it when CC_SIGNING_KEY_FILE or CC_SIGN_COMMAND is set; -force writes over an image that was changed.
func Package(ctx context.Context, force *bool) error {
	if os.Getenv("CC_SIGNING_KEY_FILE") != "" || os.Getenv("CC_SIGN_COMMAND") != "" {
		return Sign(ctx, force)
	}
	return forced(force, func(o build.Options) error { return build.Run(ctx, o, "package") })
}

// Sign signs the installer, or signs it again; -force writes over an image that was changed.
func Sign(ctx context.Context, force *bool) error {
	return forced(force, func(o build.Options) error { return build.Run(ctx, o, "sign") })
}

// Plan prints each stage, whether it would run, why, and what it would cost by former runs; -json for programs.
func Plan(json *bool) error {
	return with(func(o build.Options) error { return build.WritePlan(o, os.Stdout, json != nil && *json) })
}

// Why prints every input that makes a stage run: -stage=NAME.
func Why(stage *string) error {
	if stage == nil {
		return fail(fault.Newf(fault.Usage, "which stage?").Hint("mage why -stage=encrypt"))
	}
	return with(func(o build.Options) error { return build.Why(o, os.Stdout, *stage) })
}

// VM boots the built image with OVMF and swtpm and shows its serial console; -secureBoot has OVMF demand our signature.
func VM(ctx context.Context, secureBoot *bool) error {
	return with(func(o build.Options) error {
		return build.RunVM(ctx, o, secureBoot != nil && *secureBoot, os.Stdin, os.Stdout)
	})
}

// Test builds the minimal image and runs all tests on it; CC_LONG=1 runs the long series too.
func Test(ctx context.Context) error {
	return with(func(o build.Options) error { return build.Test(ctx, o) })
}

// Lock writes config/packages.lock: the packages that the mirror has now, for builds with LOCKED=yes.
func Lock(ctx context.Context) error {
	return with(func(o build.Options) error { return build.WriteLock(ctx, o) })
}

// Outdated tells what the mirror has other than config/packages.lock; -json for programs.
func Outdated(ctx context.Context, json *bool) error {
	return with(func(o build.Options) error { return build.Outdated(ctx, o, os.Stdout, json != nil && *json) })
}

// Update makes the next build install the newest packages of the mirror.
func Update() error { return with(build.Update) }

// Clean removes what was built, with -all also the caches; keys stay.
func Clean(ctx context.Context, all *bool) error {
	return with(func(o build.Options) error { return build.Clean(ctx, o, all != nil && *all) })
}

// Explain prints what an error code means and what to do.
func Explain(code string) error {
	return fail(fault.WriteMeaning(os.Stdout, fault.Code(code)))
}

// Config checks and shows the configuration.
type Config mg.Namespace

// Validate reports every error of every file at once.
func (Config) Validate() error {
	return with(func(o build.Options) error { return build.ValidateConfig(o, os.Stdout) })
}

// Show prints every setting in force, with -verbose its origin and meaning.
func (Config) Show(verbose *bool) error {
	return with(func(o build.Options) error { return build.ShowConfig(o, os.Stdout, verbose != nil && *verbose) })
}

// Estimate tells what a build of the configuration would cost in time, download, disk and memory.
func (Config) Estimate() error {
	return with(func(o build.Options) error { return build.Estimate(o, os.Stdout) })
}

// Reproduce builds the image that a manifest describes again and names the first difference: -manifest=FILE.
func Reproduce(ctx context.Context, manifest *string) error {
	return with(func(o build.Options) error { return build.Reproduce(ctx, o, text(manifest), os.Stdout) })
}

// Keys makes and shows the build's keys; DEBUG=true tells more, never a secret.
type Keys mg.Namespace

// Generate makes every key that is missing and overwrites none.
func (Keys) Generate() error {
	return with(func(o build.Options) error { return build.GenerateKeys(o, os.Stdout) })
}

// Show prints which keys there are, with fingerprints and no secrets.
func (Keys) Show() error {
	return with(func(o build.Options) error { return build.ShowKeys(o, os.Stdout) })
}

// SecureBoot makes the Secure Boot keys PK, KEK and db, once each.
func (Keys) SecureBoot() error {
	return with(func(o build.Options) error { return build.GenerateSecureBootKeys(o, os.Stdout) })
}

// Recovery encrypts the recovery key to an OpenPGP key: -recipient=FILE, without it KEY_RECIPIENTS.
func (Keys) Recovery(recipient *string) error {
	file := ""
	if recipient != nil {
		file = *recipient
	}
	return with(func(o build.Options) error { return build.WriteRecovery(o, file) })
}

// Signing makes the project's OpenPGP key, once.
func (Keys) Signing() error {
	return with(func(o build.Options) error { return build.MakeSigningKey(o) })
}

func through(ctx context.Context, stage string) error {
	return with(func(o build.Options) error { return build.Run(ctx, o, stage) })
}

// with hands the process's options to do.
func with(do func(build.Options) error) error {
	options, err := build.FromEnvironment(mg.Verbose())
	if err != nil {
		return fail(err)
	}
	return fail(do(options))
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
