//go:build !cctest

package main

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"cc-base/overlays/cc-guest/internal/source"
	"cc-base/tasks/fault"
	"cc-base/tasks/tee/evidence"
	"cc-base/tasks/tee/snpkey"
)

// testBuild tells whether the program may run with devices that are not real.
// Only the file beside this one, under the build tag cctest, says yes; such a
// program boots nothing whose measured command line lacks cc.test=1.
const testBuild = false

// releaseWait bounds the wait for an operator, who may be a person.
const releaseWait = 10 * time.Minute

// snpRoot returns the SEV-SNP processor as a source of secrets.
func snpRoot() (source.Root, error) {
	device, err := snpkey.Open()
	if err != nil {
		return nil, fault.New(fault.GuestTEE, err)
	}
	return snpkey.Root{Source: device}, nil
}

// configfs is where the kernel makes attestation reports.
const configfs = "/sys/kernel/config"

// reporter returns the processor as what vouches for the guest. In the initrd
// nobody has mounted configfs.
func reporter() (evidence.Reporter, error) {
	err := unix.Mount("configfs", configfs, "configfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if err != nil && !errors.Is(err, unix.EBUSY) {
		return nil, fault.Newf(fault.GuestTEE, "mounting %s: %w", configfs, err)
	}
	return evidence.TSM{}, nil
}
