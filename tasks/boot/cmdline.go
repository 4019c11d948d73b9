package boot

import (
	"fmt"
	"strings"

	"cc-base/tasks/manifest"
)

// Sealed is one volume as the kernel command line names it.
type Sealed struct {
	Name      string // root, app or config
	Encrypted bool
	Verity    manifest.Verity
}

// Kernel are the settings of the configuration that the command line carries.
type Kernel struct {
	Lockdown    bool  // lockdown=integrity and signed modules only
	Driver      bool  // the image has modules that the kernel's maker did not sign
	PanicOnOops bool  // oops=panic
	Debug       bool  // marks an image with a shell on its console
	SWIOTLB     int64 // bytes of the bounce buffer, a multiple of 1 MiB; 0 leaves it to the kernel
}

// swiotlbSlab is the unit of the parameter swiotlb, in bytes (Linux
// include/linux/swiotlb.h, IO_TLB_SHIFT).
const swiotlbSlab = 2 << 10

// CommandLine returns the image's kernel command line for one key profile (tpm,
// snp or attested). It is measured, so it fixes everything that the guest must
// not be talked out of, the profile among it, and holds no value that differs
// between two sites.
func CommandLine(volumes []Sealed, profile string, k Kernel) string {
	var words []string
	for _, v := range volumes {
		words = append(words, v.parameter())
	}
	words = append(words,
		"cc.keys="+profile,
		"root=/dev/mapper/cc-root", "rootfstype=erofs", "ro",
		// The host's serial port; quiet, because what the kernel prints there
		// the host can read.
		"console=ttyS0", "loglevel=4", "printk.console_no_auto_verbose=1",
		// In doubt stop: no shell, no second try.
		"panic=1", "rd.shell=0", "rd.emergency=poweroff",
		// Nothing that the host offers is taken: no credentials, no partition
		// by type, no verity or LUKS volume but those that cc-guest opens.
		"systemd.import_credentials=no", "systemd.gpt_auto=0", "rd.systemd.gpt_auto=0",
		"systemd.verity=no",
		// Every process is audited from the first, not from auditd's start.
		"audit=1", "audit_backlog_limit=8192",
		// The console belongs to the few lines that people wait for.
		"systemd.show_status=error",
		// Under emulation on a loaded machine the kernel's timer check can
		// fail and end in a panic; a TEE's timer is not checked this way.
		"no_timer_check",
	)
	if k.PanicOnOops {
		words = append(words, "oops=panic")
	}
	switch {
	case k.Lockdown && k.Driver:
		// Only with Secure Boot does this kernel take the key that our modules
		// are signed with, and then it locks itself from the first moment
		// (Debian: the keys of db, LOCK_DOWN_IN_EFI_SECURE_BOOT). Without,
		// cc-guest locks it when the driver is loaded, before any network.
		words = append(words, "cc.lockdown=late")
	case k.Lockdown:
		// Each alone would do for modules; the second holds where a kernel is
		// built without the first.
		words = append(words, "lockdown=integrity", "module.sig_enforce=1")
	}
	if k.SWIOTLB > 0 {
		words = append(words, fmt.Sprintf("swiotlb=%d", k.SWIOTLB/swiotlbSlab))
	}
	if k.Debug {
		words = append(words, manifest.DebugMark)
	}
	return strings.Join(words, " ")
}

// parameter is what cc-guest reads: cc.root=luks+verity:HASH:OFFSET.
func (v Sealed) parameter() string {
	kind := "verity"
	if v.Encrypted {
		kind = "luks+verity"
	}
	return fmt.Sprintf("cc.%s=%s:%s:%d", v.Name, kind, v.Verity.RootHash, v.Verity.HashOffset)
}
