package build

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/boot"
	"cc-base/tasks/boot/varstore"
	"cc-base/tasks/manifest"
	"cc-base/tasks/measurements"
	"cc-base/tasks/sh"
)

func (b *Build) secureBootDir() string { return b.keysDir("secureboot") }

func (b *Build) pcrKeyDir() string { return b.keysDir("pcr") }

// certificate returns where the certificate of a Secure Boot key lies.
func (b *Build) certificate(key string) string { return filepath.Join(b.secureBootDir(), key+".crt") }

// commandLines are all that the guest accepts, in the order of their profiles.
func (b *Build) commandLines(m manifest.Manifest) []string {
	var lines []string
	for _, p := range b.Config.KeyProfiles() {
		lines = append(lines, m.CommandLines[p])
	}
	return lines
}

// bootKeys are what a boot image is signed with, and its measurements.
type bootKeys struct {
	secureBoot map[string]boot.Key
	pcr        boot.PCRKey
}

// bootKeys makes the keys that are missing.
func (b *Build) bootKeys(m manifest.Manifest) (k bootKeys, err error) {
	var made []string
	if k.secureBoot, made, err = boot.LoadOrMakeKeys(b.secureBootDir(), time.Unix(m.SourceDateEpoch, 0).UTC()); err != nil {
		return k, err
	}
	if len(made) > 0 {
		b.log.event("package", "made Secure Boot keys in %s: %s", b.secureBootDir(), strings.Join(made, " "))
	}
	k.pcr, err = b.pcrKey("package")
	return k, err
}

func (b *Build) buildUKI(ctx context.Context, m manifest.Manifest, keys bootKeys) error {
	b.log.event("package", "building and signing the boot image")
	image, err := boot.BuildMeasured(ctx, b.Tools, boot.UKI{
		Kernel: b.scratch("vmlinuz"), Release: m.Kernel, Initrd: b.scratch("initrd.img"), OSRelease: b.scratch("os-release"),
		CommandLine: m.CommandLine, Allowed: b.commandLines(m), Epoch: m.SourceDateEpoch,
	}, keys.pcr, b.scratch("unsigned.efi"))
	if err != nil {
		return err
	}
	if image, err = boot.Sign(image, keys.secureBoot["db"]); err != nil {
		return err
	}
	return atomicfile.Write(b.out("cc-base.efi"), 0o644, image)
}

// secureBootCode and secureBootVars are the firmware for plain machines with
// Secure Boot, as named in the installer: OVMF's build that enforces it, and a
// variable store with our keys.
const (
	secureBootCode = "firmware/OVMF_CODE_4M.secboot.fd"
	secureBootVars = "firmware/OVMF_VARS_4M.cc-base.fd"
)

// enrolment is a firmware file with our Secure Boot keys in it.
type enrolment struct {
	name     string // in the installer
	file     string // that is made
	template string // as the programs of the tools tree see it
	enrol    func(ctx context.Context, run sh.Runner, template, out string, keys varstore.Keys) error
}

// enrolments are what gets our keys. The firmware for TDX is among them where
// it is there: its own keys are Microsoft's, by which it refuses our boot image
// (DESIGN D5).
func (b *Build) enrolments() []enrolment {
	made := func(name string) string { return b.scratch("enrolled", path.Base(name)) }
	all := []enrolment{{secureBootVars, made(secureBootVars), "/usr/share/OVMF/OVMF_VARS_4M.fd", varstore.Enrol}}
	if image := b.scratch(filepath.FromSlash(measurements.TDXFirmware)); exists(image) {
		all = append(all, enrolment{measurements.TDXEnrolled, made(measurements.TDXEnrolled), image, varstore.Bake})
	}
	return all
}

// enrolKeys makes the firmware files with our keys, which are there.
func (b *Build) enrolKeys(ctx context.Context) error {
	dir := b.scratch("enrolled")
	// What a former run made is of other keys or another template.
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	keys := varstore.Keys{PK: b.certificate("PK"), KEK: b.certificate("KEK"), DB: b.certificate("db")}
	for _, e := range b.enrolments() {
		b.log.event("package", "enrolling the Secure Boot keys in %s", e.name)
		if err := e.enrol(ctx, b.Tools, e.template, e.file, keys); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
	}
	return nil
}
