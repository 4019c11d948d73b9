package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"cc-base/tasks/fault"
	"cc-base/tasks/rootfs"
	"cc-base/tasks/sh"
)

// mkosiPackages is the tree that mkosi runs in, Debian's own.
func mkosiPackages() []string {
	return []string{
		"mkosi", "apt", "debian-archive-keyring", "ca-certificates", "systemd-ukify", "systemd-boot-efi", "systemd-repart",
		"dosfstools", "mtools", "erofs-utils", "cpio", "zstd", "kmod", "uidmap", "coreutils",
	}
}

// mkosiConf and the two below describe the image as mkosi builds it: the packages of ours and the boot
// loader's stub, which it takes from the image, its own initrd, a UKI, and a disk
// with an ESP and a root compressed as ours. It encrypts nothing, makes no hash
// tree, measures nothing, packs no installer and signs nothing.
const mkosiConf = `[Distribution]
Distribution=debian
Release=%s
[Output]
Format=disk
OutputDirectory=out
[Build]
CacheDirectory=cache
PackageCacheDirectory=packages
WorkspaceDirectory=/var/tmp
BuildSources=
Incremental=no
Environment=SOURCE_DATE_EPOCH=%d
[Content]
Bootable=yes
Bootloader=uki
Packages=%s,systemd-boot-efi
WithDocs=no
CleanPackageMetadata=yes
`

const mkosiESP = `[Partition]
Type=esp
Format=vfat
CopyFiles=/efi:/
CopyFiles=/boot:/
SizeMinBytes=128M
SizeMaxBytes=128M
`

const mkosiRoot = `[Partition]
Type=root
Format=erofs
Compression=lz4hc
CompressionLevel=9
CopyFiles=/
Minimize=best
`

// enterMkosi runs mkosi in its tree. It wants to be root, and a writable /var/tmp.
const enterMkosi = `
tree=$1 work=$2
mount --bind "$tree" "$tree"
mount -t proc proc "$tree/proc"
mount --rbind /sys "$tree/sys"
mount --rbind /dev "$tree/dev"
mount -t tmpfs tmpfs "$tree/run"
mount -t tmpfs -o mode=1777 tmpfs "$tree/tmp"
mount --bind "$work/tmp" "$tree/var/tmp"
mount --bind "$work" "$tree/mnt"
for file in resolv.conf hosts; do
	[ -e "$tree/etc/$file" ] && mount --bind "/etc/$file" "$tree/etc/$file"
done
exec chroot "$tree" env -C /mnt HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin mkosi --force build
`

// mkosi is a description of our image for it, and the tree it runs in.
type mkosi struct {
	tree, work string
	host       sh.Host
}

func (b *Build) mkosi(ctx context.Context) (mkosi, error) {
	if os.Geteuid() != 0 {
		return mkosi{}, fault.Newf(fault.Usage, "mkosi is measured in a tree, and needs root there").Hint("run it as root, on a machine for tests")
	}
	c := b.Config.OS
	d, err := rootfs.DistributionByName("debian")
	if err != nil {
		return mkosi{}, err
	}
	m := mkosi{work: b.scratch("bench", "mkosi"), host: b.Host}
	if m.tree, err = b.besideTools(ctx, "mkosi", mkosiPackages()); err != nil {
		return m, err
	}
	src, err := b.imageSource(ctx)
	if err != nil {
		return m, err
	}
	spec := src.spec
	files := map[string]string{
		"mkosi.conf":                fmt.Sprintf(mkosiConf, c.Suite, c.SourceDateEpoch, strings.Join(spec.Packages, ",")),
		"mkosi.repart/00-esp.conf":  mkosiESP,
		"mkosi.repart/10-root.conf": mkosiRoot,
		"mkosi.sandbox/etc/apt/sources.list.d/mkosi.sources": deb822(spec.Sources, d.Keyring),
		"mkosi.sandbox/etc/apt/apt.conf.d/proxy":             strings.Join(spec.AptOpts, "\n") + "\n",
	}
	for name, text := range files {
		file := filepath.Join(m.work, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
			return m, err
		}
	}
	for _, dir := range []string{"out", "cache", "packages", "tmp"} {
		if err := os.MkdirAll(filepath.Join(m.work, dir), 0o755); err != nil {
			return m, err
		}
	}
	return m, nil
}

// deb822 writes one-line sources as mkosi reads them, so that both builders take
// the same packages from the same place.
func deb822(sources []string, keyring string) string {
	var out strings.Builder
	for _, line := range sources {
		f := strings.Fields(line)
		fmt.Fprintf(&out, "Types: %s\nURIs: %s\nSuites: %s\nComponents: %s\nSigned-By: %s\n\n", f[0], f[1], f[2], strings.Join(f[3:], " "), keyring)
	}
	return out.String()
}

// forget removes what was built; the package cache stays.
func (m mkosi) forget(context.Context, int) error {
	for _, dir := range []string{"out", "cache", "tmp"} {
		if err := errors.Join(os.RemoveAll(filepath.Join(m.work, dir)), os.MkdirAll(filepath.Join(m.work, dir), 0o755)); err != nil {
			return err
		}
	}
	return nil
}

func (m mkosi) build(ctx context.Context, _ int) error {
	return sh.Do(ctx, m.host, "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", enterMkosi, "mkosi", m.tree, m.work)
}
