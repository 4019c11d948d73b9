// Package mounts prepares the new root in the initrd. The root file system
// stays read-only; what systemd must be able to write lies in memory and is
// capped, so that a program that fills a directory cannot take the guest's
// memory: /etc as an overlay over the image's, /var as an empty tmpfs. Folders
// that are to survive a reboot come from the writable volume.
package mounts

import (
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"cc-base/overlays/cc-guest/settings"
)

const (
	// scratch holds the overlay's upper layer. /run moves into the new root
	// together with what is mounted below it.
	scratch = "/run/cc"
	// bytesPerInode sizes the cap on files: tmpfs does not count an inode's
	// memory in size=.
	bytesPerInode = 8192
	// identitySize is ample for a key pair, in bytes.
	identitySize = 1 << 20
	// dynamicDevice is the writable volume, kept the folder of it that holds
	// the persistent ones.
	dynamicDevice = "/dev/mapper/cc-dynamic"
	kept          = "persistent"
)

// Step is one call: a directory when Type is empty, else a mount.
type Step struct {
	Target string
	Perm   uint32 // of a directory
	Type   string
	Source string
	Flags  uintptr
	Data   string
}

// Mounter is the kernel, or a test's recorder.
type Mounter interface {
	// Mkdir makes a directory and its parents; one that exists is left alone.
	Mkdir(target string, perm uint32) error
	// Mount is mount(2).
	Mount(source, target, fstype string, flags uintptr, data string) error
}

// Plan returns the steps for the new root at root (/sysroot in the initrd).
func Plan(s settings.Settings, root string) []Step {
	etc, upper, work := path.Join(root, "etc"), scratch+"/etc/upper", scratch+"/etc/work"
	steps := []Step{
		{Target: scratch, Perm: 0o700},
		{Target: scratch + "/etc", Perm: 0o700},
		{Target: scratch + "/etc", Type: "tmpfs", Source: "cc-etc",
			Flags: unix.MS_NOSUID | unix.MS_NODEV, Data: tmpfs(s.EtcSize, 0o700)},
		// The overlay shows the upper directory's mode as that of /etc.
		{Target: upper, Perm: 0o755},
		{Target: work, Perm: 0o700},
		{Target: etc, Type: "overlay", Source: "cc-etc",
			Flags: unix.MS_NOSUID | unix.MS_NODEV,
			Data:  fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", etc, upper, work)},
		{Target: path.Join(root, "var"), Type: "tmpfs", Source: "cc-var",
			Flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, Data: tmpfs(s.VarSize, 0o755)},
	}
	for _, m := range s.Mounts {
		target := path.Join(root, m.Path)
		if writable(m.Path) {
			steps = append(steps, Step{Target: target, Perm: 0o755})
		}
		steps = append(steps, Step{Target: target, Type: "erofs", Source: m.Device, Flags: flags(m.Options)})
	}
	return append(append(steps, persistent(s, root)...), identity(s, root)...)
}

// identity mounts a small file system in memory for the guest's own key pair,
// so that it can never be on a disk, whatever lies around it.
func identity(s settings.Settings, root string) []Step {
	dir := path.Join(root, s.Keys.Identity.Dir)
	return []Step{
		{Target: dir, Perm: 0o700},
		{Target: dir, Type: "tmpfs", Source: "cc-identity",
			Flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, Data: tmpfs(identitySize, 0o700) + ",noswap"},
	}
}

// persistent mounts the writable volume and binds folders of it over those
// that are to survive a reboot.
func persistent(s settings.Settings, root string) []Step {
	volume := path.Join(root, s.Dynamic.Mount)
	steps := []Step{{Target: volume, Type: "ext4", Source: dynamicDevice, Flags: flags(s.Dynamic.Options) &^ unix.MS_RDONLY}}
	for _, p := range s.Persistent {
		source := path.Join(volume, kept, p)
		steps = append(steps, Step{Target: source, Perm: 0o755})
		target := path.Join(root, p)
		if writable(p) {
			steps = append(steps, Step{Target: target, Perm: 0o755})
		}
		// The mount's own restrictions go with the folder.
		steps = append(steps, Step{Target: target, Type: "bind", Source: source, Flags: unix.MS_BIND})
	}
	return steps
}

// Apply carries out steps and stops at the first that fails.
func Apply(m Mounter, steps []Step) error {
	for _, s := range steps {
		if s.Type == "" {
			if err := m.Mkdir(s.Target, s.Perm); err != nil {
				return fmt.Errorf("making %s: %w", s.Target, err)
			}
			continue
		}
		if err := m.Mount(s.Source, s.Target, s.Type, s.Flags, s.Data); err != nil {
			return fmt.Errorf("mounting %s on %s: %w", s.Type, s.Target, err)
		}
	}
	return nil
}

func tmpfs(size int64, mode uint32) string {
	return fmt.Sprintf("size=%d,nr_inodes=%d,mode=%04o", size, size/bytesPerInode, mode)
}

// writable tells whether a mount point can be made at boot; elsewhere the
// image must have it.
func writable(target string) bool {
	return strings.HasPrefix(target, "/etc/") || strings.HasPrefix(target, "/var/")
}

// flags translates options that settings has checked. Read-only is not left to
// the option: no volume of the image is ever mounted writable.
func flags(options []string) uintptr {
	known := map[string]uintptr{"nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC}
	all := uintptr(unix.MS_RDONLY)
	for _, option := range options {
		all |= known[option]
	}
	return all
}
