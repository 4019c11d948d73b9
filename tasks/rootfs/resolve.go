package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/deb"
	"cc-base/tasks/fault"
	"cc-base/tasks/sh"
)

// Resolve returns the packages that [Bootstrap] would install now, and
// downloads nothing but the archive's signed indexes. listFile is scratch space
// and gone afterwards.
//
// mmdebstrap sets apt up as it does for a bootstrap, so sources, keys, options
// and pins are the same ones; its own --simulate leaves out that the essential
// packages are installed before the others are chosen, and tells no digests.
func Resolve(ctx context.Context, run sh.Runner, spec Spec, listFile string) (packages []deb.Package, err error) {
	forget, err := spec.writePins(listFile)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, forget(), os.RemoveAll(listFile)) }()
	if err := os.RemoveAll(listFile); err != nil {
		return nil, err
	}
	err = run.Run(ctx, sh.Cmd{
		Name: "mmdebstrap", Args: resolving(spec, os.Geteuid() == 0, listFile), Env: spec.environment(),
		PrivateMounts: mayMount(),
	})
	if err != nil {
		return nil, fault.New(fault.Bootstrap, err).Hint(mirrorHint)
	}
	if packages, err = ReadPackages(listFile); err != nil {
		return nil, fault.New(fault.Bootstrap, err)
	}
	return packages, nil
}

// resolving is the command line of Resolve. The variant custom without packages
// ends after apt-get update; the hook goes on as mmdebstrap 1.3.5 does for
// minbase (run_download, run_install): the suite's essential packages, then the
// wanted ones and those of priority required.
func resolving(spec Spec, root bool, listFile string) []string {
	of := fmt.Sprintf("?or(?archive(^%[1]s$),?codename(^%[1]s$))", spec.Suite)
	hook := fmt.Sprintf(choose,
		quote("?narrow("+of+",?architecture(amd64),?essential)"),
		strings.Join(spec.wanted(), " "),
		quote("?narrow("+of+",?architecture(amd64),?and(?priority(required),?not(?essential)))"),
		insideList)
	args := append(spec.apt(root, listFile), "--variant=custom", "--format=null",
		"--customize-hook="+hook,
		"--customize-hook=download "+insideList+" "+quote(listFile),
		spec.Suite, "/dev/null")
	return append(args, spec.Sources...)
}

// choose simulates both steps; the first one's result becomes what dpkg has
// installed for the second.
const choose = `set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
simulate() { apt-get --yes -oAPT::Get::Simulate=true install "$@"; }
describe() { sed -En 's/^Inst ([^ ]+) (\[[^]]*\] )?\(([^ ]+) .*/\1=\3/p' "$1" | xargs -r apt-cache show --no-all-versions; }
cd "$1/tmp"
simulate %s >essential
describe essential >list
sed 's/^Package: .*/&\nStatus: install ok installed/' list >"$1/var/lib/dpkg/status"
simulate %s %s >others
describe others >>list
mv list "$1%s"
`

// pinsInside is where apt in the new tree reads the pins.
const pinsInside = "/etc/apt/preferences.d/cc-lock"

// writePins writes the pins for apt beside listFile and returns what removes
// them.
func (s Spec) writePins(listFile string) (forget func() error, err error) {
	if len(s.Pins) == 0 {
		return func() error { return nil }, nil
	}
	file := pinsFile(listFile)
	if err := atomicfile.Write(file, 0o644, preferences(s.Pins)); err != nil {
		return nil, err
	}
	return func() error { return os.RemoveAll(file) }, nil
}

func pinsFile(listFile string) string { return listFile + ".pins" }

// preferences has apt take these versions wherever an index has them, even if
// it has newer ones (apt_preferences(5): 1000 and above).
func preferences(pins []deb.Package) []byte {
	var b strings.Builder
	for _, p := range pins {
		fmt.Fprintf(&b, "Package: %s\nPin: version %s\nPin-Priority: 1001\n\n", p.Name, p.Version)
	}
	return []byte(b.String())
}
