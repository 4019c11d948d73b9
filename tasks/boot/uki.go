// Package boot makes what the firmware starts: the initrd, the unified kernel
// image (UKI) with its exact command line, its Secure Boot signature, and the
// TPM measurement that follows from it.
package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"cc-base/tasks/fault"
	"cc-base/tasks/sh"
)

// stub is the EFI program that measures and starts the sections; the tools
// tree carries it (systemd-boot-efi).
const stub = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"

// maxCommandLine is what an x86 kernel keeps; it cuts the rest off without a
// word (COMMAND_LINE_SIZE in arch/x86/include/asm/setup.h, less the final NUL).
const maxCommandLine = 2047

// UKI is what goes into a unified kernel image.
type UKI struct {
	Kernel      string // vmlinuz
	Release     string // uname -r of it
	Initrd      string
	OSRelease   string // file
	CommandLine string // exact; one line
	Epoch       int64  // SOURCE_DATE_EPOCH

	// Allowed are the command lines that the guest accepts, CommandLine among
	// them: also those that a host gives when it starts kernel and initrd
	// itself. Nil means CommandLine alone.
	Allowed []string

	// PCRPublicKey is a PEM file for .pcrpkey, PCRSignature the JSON text for
	// .pcrsig; empty leaves the section out. systemd-stub hands them to the
	// initrd as /.extra/tpm2-pcr-public-key.pem and
	// /.extra/tpm2-pcr-signature.json. The key is measured; the signature, which
	// speaks of the measurement, is not.
	PCRPublicKey string
	PCRSignature []byte
}

// BuildUKI assembles the image with ukify and writes it, unsigned, to out.
// The sections are in ukify's fixed order, so equal inputs give equal bytes.
func BuildUKI(ctx context.Context, run sh.Runner, u UKI, out string) error {
	allowed := u.Allowed
	if allowed == nil {
		allowed = []string{u.CommandLine}
	}
	if !slices.Contains(allowed, u.CommandLine) {
		return fault.Newf(fault.BootImage, "the command line is not among those that the guest would accept")
	}
	for _, line := range allowed {
		if err := checkCommandLine(line); err != nil {
			return fault.New(fault.BootImage, err)
		}
	}
	// ukify takes "@file" for what would otherwise be subject to its own
	// interpretation; the file has no line end, because the section's bytes
	// are what is measured.
	cmdline := out + ".cmdline"
	if err := os.WriteFile(cmdline, []byte(u.CommandLine), 0o644); err != nil {
		return err
	}
	defer os.Remove(cmdline)
	copied := out + ".cpio"
	if err := commandLineArchive(allowed, u.Epoch, copied); err != nil {
		return err
	}
	defer os.Remove(copied)
	args := []string{
		"build", "--stub=" + stub,
		"--linux=" + u.Kernel, "--initrd=" + u.Initrd, "--initrd=" + copied, "--uname=" + u.Release,
		"--os-release=@" + u.OSRelease, "--cmdline=@" + cmdline,
	}
	if u.PCRPublicKey != "" {
		args = append(args, "--pcrpkey="+u.PCRPublicKey)
	}
	if len(u.PCRSignature) > 0 {
		// As a section, because ukify's own way would want the private key; by
		// its name alone, because ukify takes a colon in a path for a separator.
		signature := out + ".pcrsig"
		if err := os.WriteFile(signature, u.PCRSignature, 0o644); err != nil {
			return err
		}
		defer os.Remove(signature)
		args = append(args, "--section=.pcrsig:@"+filepath.Base(signature))
	}
	err := run.Run(ctx, sh.Cmd{
		Name: "ukify", Args: append(args, "--output="+out),
		Dir: filepath.Dir(out),
		Env: []string{fmt.Sprintf("SOURCE_DATE_EPOCH=%d", u.Epoch)},
	})
	if err != nil {
		return fault.New(fault.BootImage, err)
	}
	return nil
}

// checkCommandLine refuses what would not reach the kernel as it is written.
func checkCommandLine(line string) error {
	if line == "" || strings.ContainsAny(line, "\n\x00") || line != strings.TrimSpace(line) {
		return errors.New("the command line is not one trimmed line")
	}
	if len(line) > maxCommandLine {
		return fmt.Errorf("the command line of %d bytes is longer than the %d that the kernel keeps", len(line), maxCommandLine)
	}
	return nil
}

// Initrd makes the initrd by running the image's own dracut in its unpacked
// tree: tree is a runner that enters it. out must be visible there.
func Initrd(ctx context.Context, tree sh.Runner, release, out string, epoch int64) error {
	err := tree.Run(ctx, sh.Cmd{
		Name: "dracut",
		Args: []string{"--force", "--no-hostonly", "--reproducible", "--kver", release, out},
		Env:  []string{fmt.Sprintf("SOURCE_DATE_EPOCH=%d", epoch), "TMPDIR=/tmp"},
	})
	if err != nil {
		return fault.New(fault.BootImage, err)
	}
	return nil
}
