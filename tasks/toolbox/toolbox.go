// Package toolbox runs the build's tools from a pinned tree instead of from
// the machine: the same mkfs.erofs, cryptsetup, ukify and QEMU everywhere, and
// none of them on the host.
//
// A [Tree] is an sh.Runner. A command in it sees the tree as its root, the
// folders that were bound into it at their own absolute paths, a private /run
// and /tmp, no network, and itself as root of a user namespace in which only
// the caller's own user exists: what it writes outside belongs to the caller.
package toolbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"cc-base/tasks/fault"
	"cc-base/tasks/sh"
)

// Packages is what the tree holds, by what it is for.
func Packages() []string {
	return []string{
		"erofs-utils", "cryptsetup-bin", // volumes
		"systemd-ukify", "systemd-boot-efi", "systemd", "sbsigntool", // boot image
		"mtools", "dosfstools", "gdisk", "qemu-utils", // disk
		"qemu-system-x86", "swtpm", "swtpm-tools", "ovmf", // virtual machine
		"python3-virt-firmware",                                                        // EFI variable stores with our own keys
		"systemd-cryptsetup", "libtss2-rc0t64", "libtss2-tcti-swtpm0t64", "tpm2-tools", // TPM enrolment by others' tools
		"libvirt-common", "libxml2-utils", // schemas of domains
		"gnupg", "shellcheck", "zstd", "cpio", "coreutils", // checks
	}
}

// HostPackages is what a tree holds that plays the host of virtual machines in
// tests: libvirt with the drivers that a domain of ours needs, and what the
// installer asks a host for. No libvirt is ever installed on the machine that
// runs the tests.
func HostPackages() []string {
	return []string{
		"libvirt-daemon", "libvirt-daemon-log", "libvirt-clients", // libvirtd, virtlogd, virsh
		"libvirt-daemon-driver-qemu", "libvirt-daemon-driver-network", "libvirt-daemon-driver-nwfilter", "libvirt-daemon-driver-nodedev",
		"qemu-system-x86", "qemu-utils", "swtpm", "swtpm-tools", "ovmf", // virtual machine
		"dnsmasq-base", "iptables", "nftables", "ebtables", "iproute2", "iputils-ping", "netcat-openbsd", // network
		"cryptsetup-bin", "coreutils", // installation
	}
}

// Tree is an unpacked root file system whose programs can be run.
type Tree struct {
	Dir   string    // the unpacked tree
	Host  sh.Runner // runs unshare, from util-linux
	Binds []string  // absolute folders that commands may read and write

	// Random is a file that commands read in place of /dev/urandom, each from its
	// beginning; empty is the machine's. It makes what they draw known: for tests.
	Random string
}

// With returns a tree that also sees the folders.
func (t Tree) With(dirs ...string) Tree {
	t.Binds = append(t.Binds[:len(t.Binds):len(t.Binds)], dirs...)
	return t
}

// enter is run by the host's sh inside fresh user, mount, PID and network
// namespaces. Mounts end with the namespace: nothing is ever left mounted,
// even after kill -9. $1 is the tree, $2 the working directory, $3 what stands in
// for /dev/urandom, $4 the number of folders to bind, then the folders, then the
// command. The command is not
// exec'd: as PID 1 of its namespace it would ignore SIGTERM
// (pid_namespaces(7)), and a cancelled build would have to wait for SIGKILL.
const enter = `
tree=$1 dir=$2 random=$3 binds=$4
shift 4
mount --rbind /dev "$tree/dev"
[ -z "$random" ] || mount --bind "$random" "$tree/dev/urandom"
mount -t proc proc "$tree/proc"
mount -t tmpfs -o mode=0755 tmpfs "$tree/run"
mount -t tmpfs -o mode=1777 tmpfs "$tree/tmp"
while [ "$binds" -gt 0 ]; do
	mkdir -p "$tree$1"
	mount --rbind "$1" "$tree$1"
	shift
	binds=$((binds - 1))
done
chroot "$tree" env -C "$dir" PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
`

// Argv returns the command of the host, unshare, that runs a program of the tree
// in the folder dir, as far as the program's own arguments.
func (t Tree) Argv(dir, name string) ([]string, error) {
	binds, err := t.binds()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	argv := []string{
		"unshare", "--user", "--map-root-user", "--mount", "--pid", "--net", "--ipc", "--fork", "--kill-child",
		"sh", "-euc", enter, name, t.Dir, dir, t.Random, fmt.Sprint(len(binds)),
	}
	return append(append(argv, binds...), name), nil
}

// Run implements sh.Runner.
func (t Tree) Run(ctx context.Context, c sh.Cmd) error {
	dir := c.Dir
	if dir == "" {
		dir = "/"
	}
	args, err := t.Argv(dir, c.Name)
	if err != nil {
		return err
	}
	args = append(args, c.Args...)
	// The machine's TMPDIR and HOME are not in the tree, or would be another
	// folder of the same name that keeps state from run to run.
	env := append([]string{"TMPDIR=/tmp", "HOME=/tmp"}, c.Env...)
	err = t.Host.Run(ctx, sh.Cmd{Name: args[0], Args: args[1:], Env: env, Stdin: c.Stdin, Stdout: c.Stdout, Files: c.Files})
	var failed *sh.Error
	if errors.As(err, &failed) {
		// The user wants to know that mkfs.erofs failed, not unshare.
		failed.Name = c.Name
	}
	if full := fullFolder(t.Binds); failed != nil && full != "" {
		// Not every tool says so: mkfs.erofs 1.8.6 calls it a bad checksum.
		return fmt.Errorf("%w\n  %s: %w", err, full, syscall.ENOSPC)
	}
	return err
}

// leastSpace is what a disk has left, in bytes, when a failed command is put
// down to that.
const leastSpace = 1 << 20

// fullFolder returns the first folder whose file system has no space left, or
// nothing.
func fullFolder(dirs []string) string {
	for _, dir := range dirs {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err == nil && int64(st.Bavail)*st.Bsize < leastSpace {
			return dir
		}
	}
	return ""
}

// binds returns the folders to bind as absolute paths, so that the path inside
// equals the one outside. Each must be there: mkdir below a folder that is
// already bound would make it on the machine.
func (t Tree) binds() ([]string, error) {
	var out []string
	for _, b := range t.Binds {
		abs, err := filepath.Abs(b)
		if err != nil {
			return nil, err
		}
		info, err := os.Stat(abs)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			return nil, fmt.Errorf("%s: not a folder", abs)
		}
		out = append(out, abs)
	}
	return out, nil
}

// Unpack extracts tarFile to dir with every file owned by the caller, which is
// all that running programs needs and all that an ordinary user can do. Device
// nodes are left out: a tree's /dev is the machine's. dir appears whole or not
// at all.
func Unpack(ctx context.Context, host sh.Runner, tarFile, dir string) error {
	if err := whole(tarFile); err != nil {
		return err
	}
	part := dir + ".part"
	if err := remove(part); err != nil {
		return err
	}
	if err := os.MkdirAll(part, 0o755); err != nil {
		return err
	}
	defer remove(part)
	err := sh.Do(ctx, host, "tar", "-C", part, "--no-same-owner", "--no-same-permissions", "--delay-directory-restore",
		// Unanchored, the patterns would drop every folder named dev.
		"--anchored", "--exclude=./dev/*", "--exclude=dev/*", "-xf", tarFile)
	if err != nil {
		return err
	}
	for _, d := range []string{"dev", "proc", "run", "tmp", "sys"} {
		if err := os.MkdirAll(filepath.Join(part, d), 0o755); err != nil {
			return err
		}
	}
	if err := errors.Join(open(part), remove(dir)); err != nil {
		return err
	}
	return os.Rename(part, dir)
}

// open gives the owner of a tree access to every folder in it: a user who is
// not root could neither use nor remove one with mode 0555.
func open(dir string) error {
	return filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Mode()&0o700 == 0o700 {
			return err
		}
		return os.Chmod(file, info.Mode()|0o700)
	})
}

// remove is os.RemoveAll for a tree that was not opened to the end.
func remove(dir string) error {
	if err := open(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(dir)
}

// whole checks that a tar ends with the two blocks of zeros that POSIX asks
// for: GNU tar takes one that was cut off between two files for a smaller one.
func whole(tarFile string) error {
	f, err := os.Open(tarFile)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	var end [1024]byte
	if info.Size()%512 == 0 && info.Size() >= int64(len(end)) {
		if _, err := f.ReadAt(end[:], info.Size()-int64(len(end))); err != nil {
			return err
		}
		if end == [1024]byte{} {
			return nil
		}
	}
	return fmt.Errorf("%s: not a whole tar archive", tarFile)
}

// Probe checks that this machine can enter a tree at all, and names the cure
// when it cannot.
func Probe(ctx context.Context, host sh.Runner) error {
	err := sh.Do(ctx, host, "unshare", "--user", "--map-root-user", "--mount", "--pid", "--net", "--ipc", "--fork", "true")
	if err == nil || ctx.Err() != nil {
		return err
	}
	f := fault.New(fault.UserNamespace, err)
	if data, readErr := os.ReadFile("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"); readErr == nil && len(data) > 0 && data[0] == '1' {
		return f.Hint("AppArmor restricts user namespaces here (Ubuntu 23.10 and later); until the next reboot: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0")
	}
	if data, readErr := os.ReadFile("/proc/sys/user/max_user_namespaces"); readErr == nil && string(data) == "0\n" {
		return f.Hint("user namespaces are turned off: sudo sysctl user.max_user_namespaces=15000")
	}
	return f.Hint("build as root, or in a container that allows user namespaces")
}
