package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// shutdownCopy is what systemd-shutdown hands the end of the machine to, in
	// memory, for a root that lies on mapped devices cannot be let go of by what
	// runs from it (systemd, src/shutdown/shutdown.c, switch_root_initramfs).
	shutdownCopy = "/run/initramfs/shutdown"
	// oldRoot is where the root has gone by then.
	oldRoot = "/oldroot"
)

// keepShutdown leaves a copy of this program for the end.
func keepShutdown() error {
	in, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(shutdownCopy), 0o700); err != nil {
		return err
	}
	out, err := os.OpenFile(shutdownCopy, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o700)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// isShutdown tells whether systemd-shutdown has started the program, as process
// 1, with what is to be done: poweroff, reboot or halt.
func isShutdown() bool { return os.Getpid() == 1 && filepath.Base(os.Args[0]) == "shutdown" }

// endMachine lets go of the root and of the devices under it, and ends the
// machine. It does not return: whatever stays busy, the machine ends.
func endMachine() {
	for range 10 {
		if unmountAll() == 0 {
			break
		}
	}
	if err := removeMappedDevices(); err != nil {
		say("cc-base: shutdown: mapped devices: " + err.Error())
	}
	unix.Sync()
	how := unix.LINUX_REBOOT_CMD_POWER_OFF
	if len(os.Args) > 1 && os.Args[1] == "reboot" {
		how = unix.LINUX_REBOOT_CMD_RESTART
	}
	err := unix.Reboot(how)
	say(fmt.Sprintf("cc-base: shutdown: %v", err))
	os.Exit(1) // the kernel panics, and panic=1 ends the machine
}

// unmountAll unmounts what lies below the old root, what was mounted last first,
// and returns how much stays.
func unmountAll() (left int) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return 0
	}
	lines := strings.Split(strings.TrimSpace(string(info)), "\n")
	slices.Reverse(lines)
	for _, line := range lines {
		f := strings.Fields(line)
		if len(f) < 5 || f[4] != oldRoot && !strings.HasPrefix(f[4], oldRoot+"/") {
			continue
		}
		if err := unix.Unmount(f[4], 0); err != nil {
			left++
		}
	}
	return left
}

// dmIoctl is struct dm_ioctl (include/uapi/linux/dm-ioctl.h) for a command that
// needs no more than its head.
type dmIoctl struct {
	version     [3]uint32
	dataSize    uint32
	dataStart   uint32
	targetCount uint32
	openCount   int32
	flags       uint32
	eventNumber uint32
	_           uint32
	dev         uint64
	name        [128]byte
	uuid        [129]byte
	data        [7]byte
}

// dmRemoveAll is DM_REMOVE_ALL: _IOWR(0xfd, 1, struct dm_ioctl).
const dmRemoveAll = 0xc138fd01

// removeMappedDevices removes every mapped device that nothing uses any more,
// the lower ones after the upper ones: the kernel begins again after each.
func removeMappedDevices() error {
	control, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer control.Close()
	request := dmIoctl{version: [3]uint32{4, 0, 0}}
	request.dataSize = uint32(unsafe.Sizeof(request))
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, control.Fd(), dmRemoveAll, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return errno
	}
	return nil
}
