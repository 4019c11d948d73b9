// Package ready decides whether the booted system may call itself ready. It
// trusts no step before it: it reads the mounts and the device-mapper tables
// of the running kernel and holds them against the measured command line.
package ready

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"cc-base/overlays/cc-guest/internal/cmdline"
	"cc-base/overlays/cc-guest/internal/dm"
	"cc-base/overlays/cc-guest/internal/dynamic"
	"cc-base/overlays/cc-guest/internal/unlock"
	"cc-base/overlays/cc-guest/internal/vault"
	"cc-base/overlays/cc-guest/settings"
)

// Line is what the console shows, once, when every check has passed.
const Line = "cc-base: ready"

// Checker looks at the running system.
type Checker struct {
	Params    cmdline.Params
	Settings  settings.Settings
	Sys       fs.FS // the root of sysfs
	Runner    vault.Runner
	MountInfo string // content of /proc/self/mountinfo
	Lockdown  string // the kernel's mode; it matters where it was not locked from the start
}

// Check returns nil when root and volumes are the verified ones, mounted
// read-only, and the writable parts are the capped ones.
func (c Checker) Check(ctx context.Context) error {
	numbers, err := dm.Numbers(c.Sys)
	if err != nil {
		return err
	}
	for _, v := range c.Params.Volumes() {
		table, err := unlock.Table(ctx, c.Runner, v.Name)
		if err != nil {
			return fmt.Errorf("%s: %w", v.Name, err)
		}
		if err := dm.CheckTable(v, table); err != nil {
			return fmt.Errorf("%s: %w", v.Name, err)
		}
	}
	mounts, err := parseMounts(c.MountInfo)
	if err != nil {
		return err
	}
	expected := []settings.Mount{{Device: "/dev/mapper/" + c.Params.Root.Name, Path: "/", Options: []string{"ro"}}}
	for _, m := range append(expected, c.Settings.Mounts...) {
		if err := checkVolume(m, mounts, numbers); err != nil {
			return fmt.Errorf("%s: %w", m.Path, err)
		}
	}
	if err := checkDynamic(c.Settings.Dynamic, mounts, numbers); err != nil {
		return fmt.Errorf("%s: %w", c.Settings.Dynamic.Mount, err)
	}
	if c.Params.LateLockdown && !slices.Contains([]string{"integrity", "confidentiality"}, c.Lockdown) {
		return fmt.Errorf("the kernel's lockdown is %q", c.Lockdown)
	}
	return checkWritable(mounts)
}

// checkDynamic makes sure that what the guest writes goes to the encrypted
// volume, and that nothing on it can become a device or another user.
func checkDynamic(want settings.Dynamic, mounts map[string]mount, numbers map[string]string) error {
	got, ok := mounts[want.Mount]
	if !ok {
		return errors.New("it is not mounted")
	}
	if number := numbers[dynamic.Label]; number == "" || got.number != number || got.fstype != "ext4" {
		return fmt.Errorf("it is not the ext4 of %s", dynamic.Label)
	}
	for _, option := range want.Options {
		if !slices.Contains(got.options, option) {
			return fmt.Errorf("it is not mounted %s", option)
		}
	}
	return nil
}

// ReadAll reads every byte of every volume. A block that does not match its
// hash stops the kernel in the middle of it.
func ReadAll(p cmdline.Params, open func(path string) (io.ReadCloser, error)) (int64, error) {
	var total int64
	for _, v := range p.Volumes() {
		n, err := readOne("/dev/mapper/"+v.Name, open)
		total += n
		if err != nil {
			return total, fmt.Errorf("reading %s: %w", v.Name, err)
		}
	}
	return total, nil
}

func readOne(path string, open func(string) (io.ReadCloser, error)) (int64, error) {
	file, err := open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{file}, make([]byte, 1<<20))
	if err == nil && n == 0 {
		return 0, errors.New("it is empty")
	}
	return n, err
}

// mount is one line of mountinfo.
type mount struct {
	number  string // major:minor
	path    string
	fstype  string
	options []string // of the mount
	super   []string // of the file system
}

// parseMounts reads mountinfo, proc_pid_mountinfo(5). Of mounts on the same
// path the last one is the one that is seen.
func parseMounts(text string) (map[string]mount, error) {
	mounts := make(map[string]mount)
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		left, right, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(left), strings.Fields(right)
		if !ok || len(f) < 6 || len(g) < 3 {
			return nil, errors.New("mountinfo has a line of unknown form")
		}
		mounts[f[4]] = mount{
			number: f[2], path: f[4], options: strings.Split(f[5], ","),
			fstype: g[0], super: strings.Split(g[2], ","),
		}
	}
	return mounts, nil
}

func checkVolume(want settings.Mount, mounts map[string]mount, numbers map[string]string) error {
	got, ok := mounts[want.Path]
	if !ok {
		return errors.New("it is not mounted")
	}
	name := strings.TrimPrefix(want.Device, "/dev/mapper/")
	if number := numbers[name]; number == "" || got.number != number {
		return fmt.Errorf("it is not on %s", name)
	}
	if got.fstype != "erofs" {
		return fmt.Errorf("it is %s, not erofs", got.fstype)
	}
	for _, option := range want.Options {
		if !slices.Contains(got.options, option) {
			return fmt.Errorf("it is not mounted %s", option)
		}
	}
	if !slices.Contains(got.super, "ro") {
		return errors.New("its file system is writable")
	}
	return nil
}

// checkWritable makes sure that the parts in memory are there with their caps,
// and that nothing covers /usr.
func checkWritable(mounts map[string]mount) error {
	for path, fstype := range map[string]string{"/etc": "overlay", "/var": "tmpfs"} {
		if got := mounts[path].fstype; got != fstype {
			return fmt.Errorf("%s: it is not a separate %s", path, fstype)
		}
	}
	for _, option := range []string{"nosuid", "nodev", "noexec"} {
		if !slices.Contains(mounts["/var"].options, option) {
			return fmt.Errorf("/var: it is not mounted %s", option)
		}
	}
	for path := range mounts {
		if path == "/usr" || strings.HasPrefix(path, "/usr/") {
			return fmt.Errorf("%s: something is mounted over it", path)
		}
	}
	return nil
}
