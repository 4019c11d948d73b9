package build

import (
	"context"
	"fmt"
	"os"

	"cc-base/tasks/conf"
	"cc-base/tasks/host"
	"cc-base/tasks/rootfs"
	"cc-base/tasks/sh"
)

// What a build was measured to need on disk and in memory, with room to spare
// (README, table of sizes).
const (
	needSpace  = 4e9
	needMemory = 2e9
)

// preflight checks this machine before anything is written, and as root
// installs the packages that it lacks.
func preflight(ctx context.Context, o Options, c conf.Config) error {
	tools, err := rootfs.DistributionByName("debian")
	if err != nil {
		return err
	}
	guest, err := rootfs.DistributionByName(c.OS.Distribution)
	if err != nil {
		return err
	}
	needs := host.Needs{
		Keyrings: map[string]string{tools.Keyring: tools.KeyringPkg, guest.Keyring: guest.KeyringPkg},
		Dir:      o.OutDir, Space: needSpace, Memory: needMemory,
	}
	if built := (&Build{Options: o}).out("cc-base.qcow2"); exists(built) {
		needs.Space = needSpace / 2 // most of it is there already
	}
	run := sh.Host{}
	if o.Verbose {
		run.Verbose = o.Stderr
	}
	err = host.Check(ctx, run, needs, func(format string, args ...any) {
		fmt.Fprintf(o.Stderr, "prepare: "+format+"\n", args...)
	})
	if err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
