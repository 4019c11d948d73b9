// Command cc-guest is the part of cc-base that runs inside the guest, in the
// initrd and in the booted system. Its verbs are started by systemd units and
// by nobody else:
//
//	cc-guest unlock   initrd: opens the volumes that the command line names
//	cc-guest mounts   initrd: mounts what the booted system needs
//	cc-guest ready    checks the booted system and says so on the console
//	cc-guest readall  reads every byte of every volume (test images)
//	cc-guest refuse   stands in for the emergency shell
//
// A verb that fails prints one line on the console,
//
//	cc-base: refused: CC0803: cc-root: the image key does not open it
//
// and powers the machine off. There is no shell to fall back to.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"cc-base/overlays/cc-guest/internal/cmdline"
	"cc-base/overlays/cc-guest/internal/mounts"
	"cc-base/overlays/cc-guest/internal/ready"
	"cc-base/overlays/cc-guest/internal/unlock"
	"cc-base/overlays/cc-guest/internal/volume"
	"cc-base/overlays/cc-guest/settings"
	"cc-base/tasks/fault"
)

const (
	// bound ends a verb that waits for hardware or a tool. It is long because
	// an emulated machine is slow; a machine that is well never reaches it.
	bound = 90 * time.Second
	// cmdlineCopy is the image's own copy of its command line, which the build
	// adds to the initrd.
	cmdlineCopy = "/usr/lib/cc/cmdline"
	// initrdMark is what systemd knows an initrd by.
	initrdMark = "/etc/initrd-release"
)

func main() {
	if len(os.Args) != 2 {
		usage()
	}
	verb, known := map[string]func(context.Context) error{
		"unlock": unlockVolumes, "mounts": mountVolumes, "ready": sayReady, "readall": readAll, "refuse": refuse,
	}[os.Args[1]]
	if !known {
		usage()
	}
	if !inGuest(os.Args[1]) {
		// Started by hand on some other machine, a refusal would switch it off.
		fmt.Fprintln(os.Stderr, "cc-guest: this verb runs only inside a cc-base guest, started by its unit")
		os.Exit(fault.ExitUnsafe)
	}
	ctx := context.Background()
	if os.Args[1] != "readall" { // as long as the disks are large
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, bound)
		defer cancel()
	}
	if err := verb(ctx); err != nil {
		powerOff(refusal(err))
	}
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: cc-guest unlock|mounts|ready|readall|refuse")
	os.Exit(fault.ExitUsage)
}

// inGuest tells whether a refusal may power this machine off: a unit started
// the program, in the initrd or on an image that the build made.
func inGuest(verb string) bool {
	if os.Getenv("INVOCATION_ID") == "" {
		return false
	}
	if verb == "unlock" || verb == "mounts" {
		_, err := os.Stat(initrdMark)
		return err == nil
	}
	_, err := os.Stat(settings.Path)
	return err == nil
}

func unlockVolumes(ctx context.Context) error {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fault.New(fault.GuestCmdline, err)
	}
	expected, err := os.ReadFile(cmdlineCopy)
	if err != nil {
		return fault.New(fault.GuestCmdline, err)
	}
	sys := os.DirFS("/sys")
	u := unlock.Unlocker{Sys: sys, Runner: tools{}, Finder: volume.Finder{Sys: sys, Settled: udevIdle}}
	return u.Run(ctx, string(line), string(expected))
}

// udevIdle is what `udevadm settle` waits for, systemd's udev-util.c.
func udevIdle() bool {
	_, err := os.Lstat("/run/udev/queue")
	return errors.Is(err, os.ErrNotExist)
}

func mountVolumes(context.Context) error {
	s, err := readSettings()
	if err != nil {
		return err
	}
	if err := mounts.Apply(kernel{}, mounts.Plan(s, "/sysroot")); err != nil {
		return fault.New(fault.GuestMount, err)
	}
	return nil
}

func readSettings() (settings.Settings, error) {
	text, err := os.ReadFile(settings.Path)
	if err != nil {
		return settings.Settings{}, fault.New(fault.GuestMount, err)
	}
	s, err := settings.Decode(text)
	if err != nil {
		return settings.Settings{}, fault.Newf(fault.GuestMount, "%s: %w", settings.Path, err)
	}
	return s, nil
}

func readParams() (cmdline.Params, error) {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return cmdline.Params{}, fault.New(fault.GuestCmdline, err)
	}
	params, err := cmdline.Parse(string(line))
	if err != nil {
		return cmdline.Params{}, fault.New(fault.GuestCmdline, err)
	}
	return params, nil
}

func sayReady(ctx context.Context) error {
	params, err := readParams()
	if err != nil {
		return err
	}
	s, err := readSettings()
	if err != nil {
		return err
	}
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fault.New(fault.GuestVerity, err)
	}
	c := ready.Checker{Params: params, Settings: s, Sys: os.DirFS("/sys"), Runner: tools{}, MountInfo: string(info)}
	if err := c.Check(ctx); err != nil {
		return fault.New(fault.GuestVerity, err)
	}
	return console(ready.Keys(params) + "\n" + ready.Line + "\n")
}

func readAll(context.Context) error {
	params, err := readParams()
	if err != nil {
		return err
	}
	n, err := ready.ReadAll(params, func(path string) (io.ReadCloser, error) { return os.Open(path) })
	if err != nil {
		return fault.New(fault.GuestVerity, err)
	}
	return console(fmt.Sprintf("cc-base: readall: %d bytes match their hashes\n", n))
}

func refuse(context.Context) error {
	return fault.Newf(fault.GuestBoot, "the boot failed; there is no emergency shell")
}
