// Package unlock opens the volumes in the initrd: LUKS2 with the image key
// where the command line says so, then dm-verity with the root hash of the
// command line. Whatever is doubtful is an error with one of the guest's
// codes; the caller powers the machine off.
package unlock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"strconv"
	"strings"

	"cc-base/overlays/cc-guest/internal/cmdline"
	"cc-base/overlays/cc-guest/internal/dm"
	"cc-base/overlays/cc-guest/internal/volume"
	"cc-base/tasks/fault"
)

// KeyFile is the image key in sysfs: QEMU's
// -fw_cfg name=opt/org.cc-base/enroll,file=PATH.
const KeyFile = "firmware/qemu_fw_cfg/by_name/opt/org.cc-base/enroll/raw"

// maxKey bounds the key; cryptsetup takes no passphrase above 512 bytes from a
// terminal, and key files of ours are far shorter.
const maxKey = 4096

// Runner runs one of the tools in the initrd.
type Runner interface {
	// Run starts the program at an absolute path with stdin, waits, and
	// returns its standard output and exit status. The error is for a program
	// that did not run or was killed.
	Run(ctx context.Context, stdin []byte, program string, args ...string) (stdout string, status int, err error)
}

// Unlocker opens the volumes.
type Unlocker struct {
	Sys    fs.FS         // the root of sysfs
	Finder volume.Finder // finds the partitions
	Runner Runner        // runs cryptsetup, veritysetup, dmsetup
}

// Run opens every volume that line, the content of /proc/cmdline, names. The
// image's own copy of the line is in expected: a line that differs from it in a
// single byte is refused, because firmware tables can add to it without
// changing the image. An image without a copy is refused, too.
func (u Unlocker) Run(ctx context.Context, line, expected string) error {
	if expected == "" {
		return fault.Newf(fault.GuestCmdline, "the image holds no copy of its command line")
	}
	if strings.TrimSuffix(line, "\n") != strings.TrimSuffix(expected, "\n") {
		return fault.Newf(fault.GuestCmdline, "the command line is not the one of the image")
	}
	params, err := cmdline.Parse(line)
	if err != nil {
		return fault.New(fault.GuestCmdline, err)
	}
	var labels []string
	for _, v := range params.Volumes() {
		labels = append(labels, v.Name)
	}
	nodes, err := u.Finder.Find(ctx, labels)
	if err != nil {
		return fault.New(fault.GuestVolume, err)
	}

	var key []byte
	if params.Encrypted() {
		buffer := make([]byte, maxKey+1)
		defer wipe(buffer)
		n, err := readKey(u.Sys, buffer)
		if err != nil {
			return fault.New(fault.GuestKey, err)
		}
		key = buffer[:n]
	}
	for _, v := range params.Volumes() {
		device := "/dev/" + nodes[v.Name]
		if v.Encrypted {
			if err := u.decrypt(ctx, v, device, key); err != nil {
				return err
			}
			device = "/dev/mapper/" + v.Name + "-luks"
		}
		if err := u.verify(ctx, v, device); err != nil {
			return fault.Newf(fault.GuestVerity, "%s: %w", v.Name, err)
		}
	}
	return nil
}

// decrypt opens the LUKS2 layer of v. The key goes over standard input: an
// argument or an environment variable can be read by others.
func (u Unlocker) decrypt(ctx context.Context, v cmdline.Volume, device string, key []byte) error {
	_, status, err := u.Runner.Run(ctx, key, "/usr/sbin/cryptsetup", "open", "--type", "luks2", "--readonly",
		"--tries", "1", "--key-file", "-", device, v.Name+"-luks")
	switch {
	case err != nil:
		return fault.Newf(fault.GuestVolume, "%s: running cryptsetup: %w", v.Name, err)
	case status == 2: // cryptsetup(8), RETURN CODES: no permission (bad passphrase)
		return fault.Newf(fault.GuestKey, "%s: the image key does not open it", v.Name)
	case status != 0:
		return fault.Newf(fault.GuestVolume, "%s: cryptsetup cannot open it (exit status %d)", v.Name, status)
	}
	return nil
}

// verify opens the verity layer of v and looks at what the kernel made of it.
func (u Unlocker) verify(ctx context.Context, v cmdline.Volume, device string) error {
	_, status, err := u.Runner.Run(ctx, nil, "/usr/sbin/veritysetup", "open", "--panic-on-corruption",
		"--hash-offset="+strconv.FormatInt(v.HashOffset, 10), device, v.Name, device, v.RootHash)
	if err != nil {
		return fmt.Errorf("running veritysetup: %w", err)
	}
	if status != 0 {
		return fmt.Errorf("veritysetup cannot open it (exit status %d)", status)
	}
	table, err := Table(ctx, u.Runner, v.Name)
	if err != nil {
		return err
	}
	return dm.CheckTable(v, table)
}

// Table returns the device-mapper table of a mapped device.
func Table(ctx context.Context, r Runner, name string) (string, error) {
	table, status, err := r.Run(ctx, nil, "/usr/sbin/dmsetup", "table", name)
	if err != nil {
		return "", fmt.Errorf("running dmsetup: %w", err)
	}
	if status != 0 {
		return "", fmt.Errorf("dmsetup does not know it (exit status %d)", status)
	}
	return table, nil
}

// readKey fills buffer with the image key and returns its length. It reads
// into the caller's buffer so that no copy is left that nobody wipes.
func readKey(sys fs.FS, buffer []byte) (int, error) {
	file, err := sys.Open(KeyFile)
	if err != nil {
		return 0, errors.New("no image key was given through fw_cfg opt/org.cc-base/enroll")
	}
	defer file.Close()
	n, err := io.ReadFull(file, buffer)
	switch {
	case err == nil:
		return 0, fmt.Errorf("the image key is longer than %d bytes", maxKey)
	case errors.Is(err, io.EOF):
		return 0, errors.New("the image key is empty")
	case !errors.Is(err, io.ErrUnexpectedEOF):
		return 0, fmt.Errorf("reading the image key: %w", err)
	}
	return n, nil
}

func wipe(buffer []byte) {
	clear(buffer)
	// Without this the compiler may drop writes to memory that nobody reads.
	runtime.KeepAlive(&buffer[0])
}
