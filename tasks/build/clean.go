package build

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"cc-base/tasks/sh"
)

// Clean removes what builds wrote under the output folder, with all also the
// caches (the tools tree). Keys stay: nothing can make them again, and an
// image that was given away opens with no other. What a killed build left
// elsewhere goes first, because the record of it goes, too.
func Clean(ctx context.Context, o Options, all bool) error {
	if _, err := os.Stat(o.OutDir); os.IsNotExist(err) && !all {
		return nil
	}
	if err := o.makeOut(); err != nil {
		return err
	}
	unlock, err := lock(filepath.Join(o.OutDir, ".lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if err := (&Build{Options: o}).journal().Replay(ctx, sh.Host{}); err != nil {
		return err
	}
	remove := []string{
		"scratch", "state", "log", "vm",
		"cc-base.efi", "cc-base.qcow2", "manifest.json", "measurements.json", "measurements.json.asc", "rvps.json", "rvps.json.asc", "config.resolved", reportFile,
		"nvidia-cc-installer.tar.gz", "nvidia-cc-installer.tar.gz.sha256", "nvidia-cc-installer.tar.gz.asc",
	}
	for i := range remove {
		remove[i] = filepath.Join(o.OutDir, remove[i])
	}
	if all {
		remove = append(remove, o.CacheDir)
	}
	for _, path := range remove {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	kept := filepath.Join(o.OutDir, "keys")
	if _, err := os.Stat(kept); err == nil {
		fmt.Fprintf(o.Stderr, "clean: kept %s\n", kept)
	}
	return nil
}

// Update forgets the packages that were installed and the firmware that was got,
// so that the next build takes the newest from the mirror. Without it a build keeps to what it has: the
// same settings give the same image, whatever the mirror has got since.
func Update(o Options) error {
	b := Build{Options: o}
	for _, path := range []string{filepath.Join(o.CacheDir, "stages", "bootstrap"), b.recordFile("bootstrap"), b.recordFile("firmware")} {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	if err := b.firmwareMemory("").forget(); err != nil {
		return err
	}
	what := "the newest packages"
	if config, err := o.config(); err == nil && config.OS.Locked {
		what = "what the lock names, as LOCKED=yes asks; newer ones: mage lock"
	}
	fmt.Fprintln(o.Stderr, "update: the next build installs "+what)
	return nil
}
