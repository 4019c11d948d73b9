package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cc-base/tasks/fault"
)

// tools runs the programs of the initrd or the root image.
type tools struct{}

// Run implements unlock.Runner. Standard error goes to the unit's, and so to
// the journal: the console gets our own line only.
func (tools) Run(ctx context.Context, stdin []byte, program string, args ...string) (string, int, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin", "LC_ALL=C"}
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Stderr = os.Stderr
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	err := cmd.Run()
	if ctx.Err() != nil {
		return "", -1, ctx.Err()
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return stdout.String(), exit.ExitCode(), nil
	}
	if err != nil {
		return "", -1, err
	}
	return stdout.String(), 0, nil
}

// kernel implements mounts.Mounter.
type kernel struct{}

// Mkdir implements mounts.Mounter.
func (kernel) Mkdir(target string, perm uint32) error {
	return os.MkdirAll(target, os.FileMode(perm))
}

// Mount implements mounts.Mounter.
func (kernel) Mount(source, target, fstype string, flags uintptr, data string) error {
	return unix.Mount(source, target, fstype, flags, data)
}

// refusal renders err as the one line of the console.
func refusal(err error) string {
	code := fault.GuestBoot
	if coded := fault.Of(err); coded != nil {
		code = coded.Code
	}
	// One line, whatever a tool or a disk put into the text.
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, err.Error())
	return fmt.Sprintf("cc-base: refused: %s: %s\n", code, text)
}

// console writes text to the console and waits until the line has sent it.
func console(text string) error {
	file, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.WriteString(text); err != nil {
		return err
	}
	// TCSBRK with a nonzero argument is tcdrain(3): power-off does not wait
	// for a serial line. A console that is no terminal does not need it.
	if err := unix.IoctlSetInt(int(file.Fd()), unix.TCSBRK, 1); err != nil && !errors.Is(err, unix.ENOTTY) {
		return err
	}
	return nil
}

// powerOff shows line and ends the machine. It does not return: a guest that
// cannot even be switched off must not go on booting.
func powerOff(line string) {
	// Should the console be gone, powering off matters more than saying why.
	_ = console(line)
	unix.Sync()
	err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	for {
		fmt.Fprintln(os.Stderr, "cc-guest: power off:", err)
		time.Sleep(time.Hour)
	}
}
