// Command cc-guest is the part of cc-base that runs inside the guest, in the
// initrd and in the booted system. These verbs are started by systemd units
// and by nobody else:
//
//	cc-guest unlock   initrd: opens the volumes that the command line names
//	cc-guest mounts   initrd: mounts what the booted system needs
//	cc-guest driver   loads the GPU's driver and locks the kernel behind it
//	cc-guest place    loads the firewall and applies the settings of the place
//	cc-guest gpu      has the GPU's evidence checked and sets it ready
//	cc-guest ready    checks the booted system and says so on the console
//	cc-guest readall  reads every byte of every volume (test images)
//	cc-guest watch    keeps looking whether the system is still as it was then
//	cc-guest gone     stands in for that when it has ended
//	cc-guest refuse   stands in for the emergency shell
//
// One that fails prints one line on the console,
//
//	cc-base: refused: CC0803: cc-root: the image key does not open it
//
// and powers the machine off. There is no shell to fall back to. The others
// fail like any program:
//
//	cc-guest keys status [--json]     shows keyslots, epochs and policies
//	cc-guest keys rotate [--if-due]   replaces the secrets of all volumes
//	cc-guest keys prepare             binds to another boot image as well
//	cc-guest keys recovery            shows the writable volume's, encrypted
//	cc-guest keys renew-volume        changes the writable volume's own key
//	cc-guest keys generate            makes the guest's own key pair
//	cc-guest attest --nonce HEX [--json]
//	                                  has the processor vouch for the guest's key
//	cc-guest check [--json | --tap] [AREA|ID]...
//	                                  runs the checks of the guest
//	cc-guest serve                    answers the host on a virtio-serial port
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cc-base/overlays/cc-guest/gpustate"
	"cc-base/overlays/cc-guest/internal/cmdline"
	"cc-base/overlays/cc-guest/internal/keystate"
	"cc-base/overlays/cc-guest/internal/mounts"
	"cc-base/overlays/cc-guest/internal/ready"
	"cc-base/overlays/cc-guest/internal/unlock"
	"cc-base/overlays/cc-guest/internal/volume"
	"cc-base/overlays/cc-guest/settings"
	"cc-base/tasks/fault"
	"cc-base/tasks/gpu"
)

const (
	// bound ends a verb that waits for hardware or a tool. It is long because
	// an emulated machine is slow; a machine that is well never reaches it.
	bound = 90 * time.Second
	// unlockBound leaves time to enrol, to make the writable volume, and for
	// somebody to type a recovery key or to release one.
	unlockBound = 15 * time.Minute
	// cmdlineCopy holds the image's own command lines, one for each key
	// profile, which the build adds to the initrd.
	cmdlineCopy = "/usr/lib/cc/cmdline"
	// initrdMark is what systemd knows an initrd by.
	initrdMark = "/etc/initrd-release"
)

// unitVerb is a verb that a unit starts: it may power the machine off.
type unitVerb struct {
	run    func(context.Context) error
	bound  time.Duration // none when zero
	initrd bool
}

func unitVerbs() map[string]unitVerb {
	return map[string]unitVerb{
		"unlock":  {run: unlockVolumes, bound: unlockBound, initrd: true},
		"mounts":  {run: mountVolumes, bound: bound, initrd: true},
		"driver":  {run: loadDriver, bound: bound},
		"place":   {run: applyPlace, bound: bound},
		"gpu":     {run: attestGPU, bound: gpuBound},
		"ready":   {run: sayReady, bound: bound},
		"readall": {run: readAll},     // takes as long as the disks are large
		"watch":   {run: watchSystem}, // until it powers off
		"gone":    {run: gone, bound: bound},
		"refuse":  {run: refuse, bound: bound},
	}
}

func main() {
	if isShutdown() {
		endMachine()
	}
	if len(os.Args) < 2 {
		usage()
	}
	noDumps()
	if v, ok := unitVerbs()[os.Args[1]]; ok && len(os.Args) == 2 {
		v.start()
		return
	}
	verb, ok := plainVerbs()[strings.Join(os.Args[1:], " ")]
	switch os.Args[1] {
	case "attest":
		verb, ok = attestVerb(os.Args[2:])
	case "check":
		verb, ok = checkVerb(os.Args[2:])
	}
	if !ok {
		usage()
	}
	if _, err := os.Stat(settings.Path); err != nil {
		notHere()
	}
	if err := verb(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "cc-guest: "+fault.Render(err))
		os.Exit(fault.Exit(err))
	}
}

// noDumps keeps what the program holds out of core files and away from
// debuggers; the first of the two holds for cryptsetup, too.
func noDumps() {
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}

func (v unitVerb) start() {
	if !v.inGuest() {
		// Started by hand on some other machine, a refusal would switch it off.
		notHere()
	}
	ctx := context.Background()
	if v.bound > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, v.bound)
		defer cancel()
	}
	if err := v.run(ctx); err != nil {
		powerOff(refusal(err))
	}
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: cc-guest unlock|mounts|driver|place|gpu|ready|readall|watch|gone|refuse|serve\n"+
		"       cc-guest keys status [--json] | rotate [--if-due] | prepare | generate | recovery | renew-volume\n"+
		"       cc-guest attest --nonce HEX [--json]\n"+
		"       cc-guest check [--json | --tap] [AREA|ID]...")
	os.Exit(fault.ExitUsage)
}

func notHere() {
	fmt.Fprintln(os.Stderr, "cc-guest: this verb runs only inside a cc-base guest, started by its unit")
	os.Exit(fault.ExitUnsafe)
}

// inGuest tells whether a refusal may power this machine off: a unit started
// the program, in the initrd or on an image that the build made.
func (v unitVerb) inGuest() bool {
	if os.Getenv("INVOCATION_ID") == "" {
		return false
	}
	mark := settings.Path
	if v.initrd {
		mark = initrdMark
	}
	_, err := os.Stat(mark)
	return err == nil
}

func unlockVolumes(ctx context.Context) error {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fault.New(fault.GuestCmdline, err)
	}
	allowed, err := os.ReadFile(cmdlineCopy)
	if err != nil {
		return fault.New(fault.GuestCmdline, err)
	}
	s, err := readSettings()
	if err != nil {
		return err
	}
	sys := os.DirFS("/sys")
	u := unlock.Unlocker{
		Sys: sys, Runner: tools{}, Finder: volume.Finder{Sys: sys, Settled: udevIdle},
		Settings: s, Work: keystate.Headers, Test: testBuild,
		Open:    func(node string) (unlock.Partition, error) { return openPartition(node) },
		Machine: initrdMachine{settings: s}.make,
		Ask:     ask, Keep: keep, Say: say,
	}
	state, err := u.Run(ctx, string(line), string(allowed))
	if err != nil {
		return err
	}
	if err := applySite(ctx); err != nil {
		return err
	}
	if err := keystate.Write(keystate.Dir, state); err != nil {
		return fault.New(fault.GuestBoot, err)
	}
	return nil
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
	if err := keepShutdown(); err != nil {
		return fault.Newf(fault.GuestMount, "keeping what ends the machine: %w", err)
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
	check, err := readyCheck()
	if err != nil {
		return err
	}
	if err := check(ctx); err != nil {
		return err
	}
	state, err := keystate.Read(keystate.Dir)
	if err != nil {
		return fault.New(fault.GuestBoot, err)
	}
	params, err := readParams()
	if err != nil {
		return err
	}
	lines := state.Lines()
	accelerator, err := gpustate.Read(os.DirFS("/"))
	if err != nil {
		return fault.New(fault.GuestGPU, err)
	}
	lines = append(lines, accelerator.Line())
	if params.Debug {
		lines = append(lines, "cc-base: DEBUG IMAGE: a root shell is on the console; whoever has it has the machine")
	}
	return console(strings.Join(append(lines, ready.Line), "\n") + "\n")
}

// readyCheck returns what has to hold for the system to be ready, and then for
// as long as it runs.
func readyCheck() (func(context.Context) error, error) {
	params, err := readParams()
	if err != nil {
		return nil, err
	}
	s, err := readSettings()
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		// Those of the first process: a unit of ours has mounts of its own.
		info, err := os.ReadFile("/proc/1/mountinfo")
		if err != nil {
			return fault.New(fault.GuestVerity, err)
		}
		c := ready.Checker{
			Params: params, Settings: s, Sys: os.DirFS("/sys"), Runner: tools{}, MountInfo: string(info),
			Lockdown: gpu.Lockdown(os.DirFS("/")),
		}
		if err := c.Check(ctx); err != nil {
			return fault.New(fault.GuestVerity, err)
		}
		return nil
	}, nil
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
