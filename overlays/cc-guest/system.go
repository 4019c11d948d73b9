package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	terminal "cc-base/overlays/cc-guest/internal/console"
	"cc-base/overlays/cc-guest/internal/keyring"
	"cc-base/tasks/fault"
)

// tools runs the programs of the initrd or the root image.
type tools struct{}

// Run implements vault.Runner. Standard error goes to the unit's, and so to
// the journal: the console gets our own line only.
func (tools) Run(ctx context.Context, secrets [][]byte, stdin []byte, program string, args ...string) (string, int, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin", "LC_ALL=C"}
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Stderr = os.Stderr
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	for _, secret := range secrets {
		end, err := pipe(secret)
		if err != nil {
			return "", -1, err
		}
		defer end.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, end)
	}
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

// pipe returns the reading end of a pipe that holds the secret and then ends.
// It is far shorter than what a pipe takes (pipe(7)), so nothing blocks.
func pipe(secret []byte) (*os.File, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	_, err = write.Write(secret)
	if err = errors.Join(err, write.Close()); err != nil {
		_ = read.Close()
		return nil, err
	}
	return read, nil
}

// partition is a block device opened for reading and writing.
type partition struct{ *os.File }

func openPartition(node string) (partition, error) {
	file, err := os.OpenFile(node, os.O_RDWR|unix.O_CLOEXEC, 0)
	return partition{file}, err
}

// Size implements unlock.Partition.
func (p partition) Size() (int64, error) { return p.Seek(0, io.SeekEnd) }

// keep holds a secret in the kernel for the running system.
func keep(name string, secret []byte) error { return keyring.Put(name, secret) }

// kept returns a secret that keep holds.
func kept(name string) ([]byte, error) { return keyring.Get(name) }

// ask shows a question on the console and returns what was typed.
func ask(ctx context.Context, question string) ([]byte, error) {
	c, err := terminal.Open("/dev/console")
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Ask(ctx, question)
}

// say prints one line on the console. Boot goes on without it.
func say(line string) { _ = console(line + "\n") }

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
