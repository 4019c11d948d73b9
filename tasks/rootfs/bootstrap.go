// Package rootfs makes root file systems: it lets mmdebstrap install a
// distribution's authenticated packages into a tar, and lays overlays and
// settings over that tar. A tree stays a tar from the first step to
// mkfs.erofs, so that owners, modes, links and capabilities need neither root
// nor a file system that can hold them.
package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/deb"
	"cc-base/tasks/fault"
	"cc-base/tasks/sh"
)

// Spec says which packages of which distribution go into a tree.
type Spec struct {
	Suite    string   // trixie, noble, …
	Sources  []string // deb lines; empty lets mmdebstrap choose its default mirror
	Keyring  string   // file that the sources' signatures must verify with; empty is mmdebstrap's choice
	Packages []string // beyond the suite's essential ones
	Epoch    int64    // SOURCE_DATE_EPOCH, seconds since 1970
	Exclude  []string // dpkg path-exclude patterns: files that no image needs
	Include  []string // dpkg path-include patterns: exceptions from Exclude
	AptOpts  []string // apt.conf lines, such as the host's proxy
	TempDir  string   // where mmdebstrap puts the tree together; empty is the system's place
	Locale   string   // to be generated in the tree; empty and the C ones need nothing

	Pins []deb.Package // versions that are taken wherever the archive still has them
}

const mirrorHint = "the mirror comes from the host's apt configuration unless MIRROR is set in config/os.conf"

// Bootstrap writes the tree that spec describes to tarFile and returns every
// package in it with the digest that the signed index gives for it. listFile
// keeps that part of the index as text.
//
// mmdebstrap runs in its unshare mode for an ordinary user (it needs uidmap
// and a range in /etc/subuid) and in its root mode for root, who usually has no
// such range. Both write the same bytes. The tar goes through our own
// descriptor: in unshare mode the writer is a user who may not enter the
// output folder.
//
// tarFile appears whole or not at all.
func Bootstrap(ctx context.Context, run sh.Runner, spec Spec, tarFile, listFile string) (packages []deb.Package, err error) {
	forget, err := spec.writePins(listFile)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, forget()) }()
	// A list of an earlier run must not pass for this one's.
	if err := os.RemoveAll(listFile); err != nil {
		return nil, err
	}
	err = atomicfile.Fill(tarFile, 0o644, func(out io.Writer) error {
		err := run.Run(ctx, sh.Cmd{
			Name:   "mmdebstrap",
			Args:   arguments(spec, os.Geteuid() == 0, listFile),
			Env:    spec.environment(),
			Stdout: out,

			PrivateMounts: mayMount(),
		})
		if err != nil {
			return fault.New(fault.Bootstrap, err).Hint(mirrorHint)
		}
		if packages, err = ReadPackages(listFile); err != nil {
			return fault.New(fault.Bootstrap, err)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(listFile))
	}
	return packages, nil
}

// mayMount tells whether this process may mount. In its root mode mmdebstrap
// mounts parts of the machine's /dev in the tree and, killed, leaves them so;
// without the capability it mounts nothing.
func mayMount() bool {
	var data [2]unix.CapUserData
	err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0])
	return err == nil && data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// The customize hooks save what the signed index says of every installed
// package, before mmdebstrap removes the index from the tree.
const (
	insideList  = "/var/cache/cc-packages"
	packageList = `chroot "$1" sh -c 'dpkg-query -W -f "\${binary:Package}=\${Version}\n" | xargs apt-cache show --no-all-versions' > "$1` + insideList + `"`
)

func arguments(spec Spec, root bool, listFile string) []string {
	args := append(spec.apt(root, listFile),
		"--variant=minbase",
		"--format=tar",
		"--include="+strings.Join(spec.wanted(), ","),
		"--customize-hook="+packageList,
		"--customize-hook=download "+insideList+" "+quote(listFile),
		`--customize-hook=rm "$1`+insideList+`"`,
	)
	if len(spec.Pins) > 0 {
		args = append(args, `--customize-hook=rm "$1`+pinsInside+`"`)
	}
	if spec.Locale != "" && NeedsLocale(spec.Locale) {
		args = append(args, localeHook(spec.Locale))
	}
	for _, p := range spec.Exclude {
		args = append(args, "--dpkgopt=path-exclude="+p)
	}
	for _, p := range spec.Include {
		args = append(args, "--dpkgopt=path-include="+p)
	}
	args = append(args, spec.Suite, "-")
	return append(args, spec.Sources...)
}

// apt is what decides which packages apt finds and chooses.
func (s Spec) apt(root bool, listFile string) []string {
	mode := "unshare"
	if root {
		mode = "root"
	}
	args := []string{
		"--mode=" + mode,
		// A half-read index would silently give older packages.
		`--aptopt=APT::Update::Error-Mode "any"`,
		`--aptopt=Acquire::Retries "3"`,
	}
	for _, o := range s.AptOpts {
		args = append(args, "--aptopt="+o)
	}
	if s.Keyring != "" {
		args = append(args, "--keyring="+s.Keyring)
	}
	if len(s.Pins) > 0 {
		args = append(args, "--setup-hook=upload "+quote(pinsFile(listFile))+" "+pinsInside)
	}
	return args
}

// wanted is the packages in an order that does not depend on the caller's.
func (s Spec) wanted() []string { return slices.Sorted(slices.Values(s.Packages)) }

func (s Spec) environment() []string {
	env := []string{fmt.Sprintf("SOURCE_DATE_EPOCH=%d", s.Epoch), "INITRD=No"}
	if s.TempDir != "" {
		env = append(env, "TMPDIR="+s.TempDir)
	}
	return env
}

// quote makes one word both of a shell and of mmdebstrap's own hooks, which
// Text::ParseWords splits. The latter lets a backslash hide the closing quote
// (perl 5.36 Text/ParseWords.pm), so neither stands inside quotes.
func quote(s string) string {
	return "'" + strings.NewReplacer("'", `'\''`, `\`, `'\\'`).Replace(s) + "'"
}
