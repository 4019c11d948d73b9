//go:build mage

package main

import (
	"context"
	"os"
	"strings"

	"github.com/magefile/mage/mg"

	"cc-base/tasks/build"
)

// Rotate replaces the secrets of the volumes of the VM that `mage vm` runs, or of -socket=PATH or -name=DOMAIN.
func (Keys) Rotate(ctx context.Context, socket, name *string) error {
	return with(func(o build.Options) error { return build.RotateKeys(ctx, o, guest(socket, name), os.Stdout) })
}

// Prepare binds the volumes of a running VM to what was built as well, ahead of an update: -socket=PATH or -name=DOMAIN.
func (Keys) Prepare(ctx context.Context, socket, name *string) error {
	return with(func(o build.Options) error { return build.PrepareKeys(ctx, o, guest(socket, name), os.Stdout) })
}

// TPM tells what a TPM measures.
type TPM mg.Namespace

// Pcrs prints what the image will measure, with -socket=PATH or -name=DOMAIN beside what a VM has; -json, -secureboot, -disk=DEV.
func (TPM) Pcrs(ctx context.Context, json, secureboot *bool, disk, socket, name *string) error {
	// Mage would list PCRs as pcRs.
	p := build.PCRs{JSON: json != nil && *json, SecureBoot: secureboot != nil && *secureboot, Disk: text(disk)}
	if g := guest(socket, name); g != (build.Guest{}) {
		p.Guest = &g
	}
	return with(func(o build.Options) error { return build.ShowPCRs(ctx, o, p, os.Stdout) })
}

// Validate checks the installer, this machine and the built image, booted for it: -name=NAME an installed VM instead, -noBoot no VM, -format=json|junit|tap, -areas=A,B, -receipts=DIR.
func Validate(ctx context.Context, name, format, areas, receipts *string, noBoot *bool) error {
	v := build.Validation{Name: text(name), Format: text(format), NoBoot: set(noBoot), Receipts: text(receipts)}
	if list := text(areas); list != "" {
		v.Areas = strings.Split(list, ",")
	}
	return with(func(o build.Options) error { return build.Validate(ctx, o, v, os.Stdout) })
}

func guest(socket, name *string) build.Guest {
	return build.Guest{Socket: text(socket), Name: text(name)}
}

// text is an optional flag's value.
func text(flag *string) string {
	if flag == nil {
		return ""
	}
	return *flag
}
