// Package boot makes what the firmware starts: the initrd, the unified kernel
// image (UKI) with its exact command line, its Secure Boot signature, and the
// TPM measurement that follows from it.
package boot

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
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
}

// BuildUKI assembles the image with ukify and writes it, unsigned, to out.
// The sections are in ukify's fixed order, so equal inputs give equal bytes.
func BuildUKI(ctx context.Context, run sh.Runner, u UKI, out string) error {
	if strings.ContainsAny(u.CommandLine, "\n\x00") || u.CommandLine != strings.TrimSpace(u.CommandLine) {
		return fault.Newf(fault.BootImage, "the command line is not one trimmed line")
	}
	if len(u.CommandLine) > maxCommandLine {
		return fault.Newf(fault.BootImage, "the command line of %d bytes is longer than the %d that the kernel keeps", len(u.CommandLine), maxCommandLine)
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
	if err := commandLineArchive(u.CommandLine, u.Epoch, copied); err != nil {
		return err
	}
	defer os.Remove(copied)
	err := run.Run(ctx, sh.Cmd{
		Name: "ukify",
		Args: []string{
			"build", "--stub=" + stub,
			"--linux=" + u.Kernel, "--initrd=" + u.Initrd, "--initrd=" + copied, "--uname=" + u.Release,
			"--os-release=@" + u.OSRelease, "--cmdline=@" + cmdline,
			"--output=" + out,
		},
		Dir: filepath.Dir(out),
		Env: []string{fmt.Sprintf("SOURCE_DATE_EPOCH=%d", u.Epoch)},
	})
	if err != nil {
		return fault.New(fault.BootImage, err)
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
