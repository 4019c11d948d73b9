// Package target is the device that is installed to: found by its number,
// judged by every rule of [hw.Refusals], opened once and exclusively.
package target

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"cc-base/tasks/fault"
	"cc-base/tasks/hw"
)

// Target is a device, or in tests a regular file, that a user named.
type Target struct {
	Path   string    // as named
	File   bool      // a regular file
	Device hw.Device // of a file as if it were one
	Size   int64     // bytes
}

// Find returns the target at path. Links such as /dev/disk/by-id are followed;
// the device is then looked up in root (see [hw.Devices]) by its number.
func Find(root fs.FS, path string) (Target, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Target{}, fault.New(fault.NoDevice, err).Hint("cc-install list-devices shows what there is")
	}
	if info.Mode().IsRegular() {
		return file(path, info.Size())
	}
	number, ok := numberOf(info)
	if !ok {
		return Target{}, fault.Newf(fault.NoDevice, "%s is not a block device", path).Hint("cc-install list-devices shows what there is")
	}
	devices, err := hw.Devices(root)
	if err != nil {
		return Target{}, fault.New(fault.DeviceRefused, err)
	}
	d, ok := hw.Lookup(devices, number)
	if !ok {
		return Target{}, fault.Newf(fault.DeviceRefused, "%s: the kernel lists no device with the number %s", path, number)
	}
	return Target{Path: path, Device: d, Size: d.Size}, nil
}

func file(path string, size int64) (Target, error) {
	f, err := os.Open(path)
	if err != nil {
		return Target{}, fault.New(fault.NoDevice, err)
	}
	defer f.Close()
	return Target{Path: path, File: true, Size: size, Device: hw.RegularFile(path, size, f)}, nil
}

// Judge returns the verdict of every rule of [hw.Judge] on t. It also asks the
// kernel for exclusive use, which finds mounts of other namespaces and imported
// ZFS pools; the device is opened for reading and closed at once.
func (t Target) Judge(need hw.Need) []hw.Verdict {
	verdicts := hw.Judge(t.Device, need)
	if t.File {
		return verdicts
	}
	f, err := os.OpenFile(t.Path, os.O_RDONLY|unix.O_EXCL, 0)
	if err == nil {
		f.Close()
		return verdicts
	}
	refused := slices.ContainsFunc(verdicts, func(v hw.Verdict) bool { return v.Refused })
	detail := "it cannot be had for exclusive use: " + bare(err)
	switch {
	case errors.Is(err, fs.ErrPermission):
		detail = "this user may not open it (" + bare(err) + "); run as root"
	case refused && errors.Is(err, unix.EBUSY):
		return verdicts // the same fact as the mount or holder that was found
	}
	for i, v := range verdicts {
		if v.Rule == hw.InUse && !v.Refused {
			verdicts[i].Refused, verdicts[i].Detail = true, detail
		}
	}
	return verdicts
}

// Refusals returns every reason not to install to t.
func (t Target) Refusals(need hw.Need) []hw.Refusal { return hw.Refused(t.Judge(need)) }

// Open opens the target for writing and checks that the node still stands for
// the device that was judged. Nothing else can open it exclusively, mount it
// or a partition of it until the file is closed.
func (t Target) Open() (*os.File, error) {
	flags := os.O_RDWR
	if !t.File {
		flags |= unix.O_EXCL
	}
	f, err := os.OpenFile(t.Path, flags, 0)
	if err != nil {
		return nil, fault.Newf(fault.DeviceRefused, "%s: %s", t.Path, bare(err))
	}
	if err := t.same(f); err != nil {
		f.Close()
		return nil, fault.Newf(fault.DeviceRefused, "%s: %w", t.Path, err)
	}
	return f, nil
}

// OpenRead opens the target for reading, shared with whoever uses it.
func (t Target) OpenRead() (*os.File, error) {
	f, err := os.Open(t.Path)
	if err != nil {
		return nil, fault.New(fault.NoDevice, err)
	}
	if err := t.same(f); err != nil {
		f.Close()
		return nil, fault.Newf(fault.DeviceRefused, "%s: %w", t.Path, err)
	}
	return f, nil
}

func (t Target) same(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	number, isBlock := numberOf(info)
	if isBlock == t.File || isBlock && number != t.Device.Number {
		return fmt.Errorf("it is no longer the device that was judged (%s)", t.Device.Number)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if size != t.Size {
		return fmt.Errorf("its size changed from %d to %d bytes", t.Size, size)
	}
	return nil
}

// Reread asks the kernel to read the partition table again. It fails where the
// kernel knows no GPT or the device has no partitions by design; nobody needs
// the partition nodes for a virtual machine to boot.
func Reread(f *os.File) error { return unix.IoctlSetInt(int(f.Fd()), unix.BLKRRPART, 0) }

func numberOf(info fs.FileInfo) (hw.Number, bool) {
	if info.Mode()&(fs.ModeDevice|fs.ModeCharDevice) != fs.ModeDevice {
		return hw.Number{}, false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return hw.Number{}, false
	}
	rdev := uint64(stat.Rdev)
	return hw.Number{Major: unix.Major(rdev), Minor: unix.Minor(rdev)}, true
}

// bare returns the cause without the path, which the caller has named already.
func bare(err error) string {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err.Error()
	}
	return err.Error()
}
