package tdx

import (
	"crypto/sha512"
	"errors"
	"fmt"
	"strings"

	"cc-base/tasks/boot/measured"
)

// Boot is what the guest boots: either a UKI, or a kernel with or without
// initrd and command line.
type Boot struct {
	UKI []byte // a unified kernel image with systemd-stub 257

	Kernel      []byte // a plain kernel with EFI stub, Linux 6.9 or later
	Initrd      []byte // empty when there is none
	CommandLine string // QEMU's -append; printable ASCII

	// GPT is what firmware measures of the partition table (see
	// [measured.PartitionTable]) when it starts the UKI from a disk, and nil when
	// QEMU hands the UKI over (-kernel).
	GPT []byte
	// SecureBoot tells whether the firmware enforces it.
	SecureBoot bool
}

func (b Boot) check() error {
	switch {
	case (b.UKI == nil) == (b.Kernel == nil):
		return errors.New("give either a UKI or a kernel")
	case b.UKI != nil && (b.Initrd != nil || b.CommandLine != ""):
		return errors.New("a UKI brings its own initrd and command line: another one would replace what is measured here")
	case b.Kernel != nil && b.GPT != nil:
		return errors.New("a plain kernel cannot be started from a disk: its command line would be the firmware's")
	}
	return ascii(b.CommandLine)
}

// RTMR1 returns what is measured of the programs that boot (PCRs 2 to 6 of a
// TPM). For a boot by QEMU the kernel comes before the boot attempt's events,
// because QEMU's file is loaded first (OvmfPkg/Library/PlatformBootManagerLib,
// TryRunningQemuKernel); for one from disk the partition table is measured when
// the first program is loaded from it, after them.
//
// Without Secure Boot the UKI's inner kernel is measured too: systemd-stub
// hands it to the firmware's LoadImage. With Secure Boot the stub answers the
// firmware's question itself and the measurement falls away with the check
// (systemd 257 src/boot/linux.c, secure-boot.c); later versions of systemd
// load the kernel without the firmware.
func RTMR1(b Boot) (Log, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	var log Log
	program, name := b.Kernel, "kernel"
	if b.UKI != nil {
		program, name = b.UKI, "UKI"
	}
	started, err := loaded(name, program)
	if err != nil {
		return nil, err
	}
	calling := func() {
		log.add([]byte(measured.CallingApplication), "calling EFI application")
		log.separator()
	}
	if b.GPT != nil {
		calling()
		log.add(b.GPT, "partition table")
		log = append(log, started)
	} else {
		log = append(log, started)
		calling()
	}
	if b.UKI != nil {
		sections, err := sections(b.UKI)
		if err != nil {
			return nil, err
		}
		inner, err := loaded("kernel in the UKI", sections[".linux"])
		if err != nil {
			return nil, err
		}
		if !b.SecureBoot {
			log = append(log, inner)
		}
	}
	log.add([]byte(measured.ExitingBootServices), "exit boot services")
	log.add([]byte(measured.ExitedBootServices), "exit boot services succeeded")
	return log, nil
}

// loaded is the event of a program that firmware loads.
func loaded(name string, program []byte) (Event, error) {
	p, err := measured.ReadProgram(program)
	if err != nil {
		return Event{}, fmt.Errorf("%s: %w", name, err)
	}
	return Event{Name: name, Digest: Digest(p.Sum(sha512.New384()))}, nil
}

// RTMR2 returns what is measured of the system that boots (PCRs 8 to 15 of a
// TPM): the sections of a UKI by systemd-stub, then, by Linux's EFI stub, the
// command line and the initrd. Linux measures to TDX since 6.9 (efistub,
// efi_measure_tagged_event); the command line is in UTF-16 with its final NUL.
// For a boot by QEMU with an initrd, the firmware adds " initrd=initrd" to the
// command line (OvmfPkg/Library/X86QemuLoadImageLib and
// GenericQemuLoadImageLib); with neither, Linux measures no command line.
//
// Assumed for a UKI: no addons, credentials or extensions beside it, nothing
// from SMBIOS, the default profile. Any of them shows as a difference.
func RTMR2(b Boot) (Log, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	if b.UKI != nil {
		return ukiLog(b.UKI)
	}
	line := b.CommandLine
	if len(b.Initrd) > 0 {
		line += " initrd=initrd"
	}
	var log Log
	if line != "" {
		log.add(measured.LoadOptions(line), "command line")
	}
	if len(b.Initrd) > 0 {
		log.add(b.Initrd, "initrd")
	}
	return log, nil
}

// ascii refuses a command line that firmware, stub and kernel might not turn
// into UTF-16 in the same way.
func ascii(line string) error {
	if i := strings.IndexFunc(line, func(r rune) bool { return r < ' ' || r > '~' }); i >= 0 {
		return fmt.Errorf("the command line has something other than printable ASCII at byte %d", i)
	}
	return nil
}
