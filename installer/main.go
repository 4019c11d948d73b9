// Command cc-install puts a cc-base image on a disk, checks it and tells what
// it sees. It is one static binary that needs nothing of the host but the
// kernel; install.sh and validate.sh beside it only verify and start it.
//
// Exit status: 0 ok, 1 a check failed, 2 usage, 3 unsupported hardware, 4
// refused as unsafe. Results go to standard output, everything else to
// standard error.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/term"

	"cc-base/installer/deployment"
	"cc-base/tasks/fault"
	"cc-base/tasks/manifest"
	"cc-base/tasks/sh"
)

const usage = `usage:
  cc-install list-devices [--all] [--json]     disks of this host, best target first
  cc-install plan [DEV] [--json]               every write that install would do; changes nothing
  cc-install install [DEV] [--name NAME] [--yes] [--dry-run] [--recipient KEY.asc] [--site FILE]
                     [--image-key FILE] [--allow-plain] [--allow-downgrade] [--allow-debug] [--disk-only] [--emulate]
                                               write the image to DEV with keys of its own and prove
                                               that it is there; define the VM, start it and wait
                                               until it is ready
  cc-install verify DEV [--json]               compare DEV with this installer, or tell by every
                                               rule whether it would be accepted as a target
  cc-install check [AREA...] [--json | --tap | --junit] [--live NAME|SOCKET [--dry-run]] [--receipts DIR]
                                               run checks, and keep signed receipts of them below DIR;
                                               areas: bundle device keys apps partition measurements, and
                                               by name alone host gpu
  cc-install measure snp|tdx|ovmf|pcr …
                 what a guest will measure, computed from files; measure help
                 shows more
  cc-install compare --report FILE | --live NAME|SOCKET --measurements FILE [--firmware F
                 [--kernel K [--initrd I] [--cmdline L]]] [--json]
                 which expected row a report matches, or why it does not
` + vmUsage + releaseUsage + attestUsage + evidenceUsage + detectUsage + doctorUsage + topUsage + receiptsUsage + `  cc-install explain [CODE]                    what a code such as CC0701 means
  cc-install version

  --name NAME    of this installation and its VM (default: cc-base)
  --recipient F  OpenPGP key that the recovery key is encrypted to; without it the
                 key is shown once, on a terminal
  --site FILE    settings of this place for the guest (site.conf)
  --uplink IF    share this network card of the host with the VM; no other is touched
  --disk-only    make no VM
  --emulate      a VM without KVM: slow, and not protected against the host
  --root DIR     where the host's etc/cc is (default: CC_SETTINGS_ROOT, or /)
  --state DIR    what the host remembers of installations (default: CC_STATE_DIR, or
                 /var/lib/cc-base)
  --dir DIR      the unpacked installer (default: the folder of cc-install)
  --allow-plain  accept a host without SEV-SNP and TDX: the VM is then not
                 protected against the host
  --allow-debug  accept an image with a root shell on its console
  --allow-file   accept a regular file as DEV

Without DEV: AUTO_SELECT=true chooses the best free disk, NVMe before SSD before
HDD, then the larger; PREFER_NVME=true and PREFER_SSD=true do so with that class
first; DEBUG=true shows every device with every rule.

exit status: 0 ok, 1 failed, 2 usage, 3 unsupported hardware, 4 refused as unsafe
`

func main() { os.Exit(mainExit()) }

// mainExit is apart from main so that deferred calls run before the exit.
func mainExit() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := &app{
		root: os.DirFS("/"), getenv: os.Getenv, programs: sh.Host{}, stdin: os.Stdin, out: os.Stdout, err: os.Stderr,
		asks:  term.IsTerminal(int(os.Stdin.Fd())),
		shows: term.IsTerminal(int(os.Stderr.Fd())),
	}
	err := a.run(ctx, os.Args[1:])
	if err != nil && !errors.Is(err, errSilent) {
		// The codes are shared with the build, whose program is mage.
		text := strings.ReplaceAll(fault.Render(err), "mage explain", "cc-install explain")
		fmt.Fprintf(os.Stderr, "cc-install: %s\n", strings.ReplaceAll(text, "\n", "\ncc-install: "))
	}
	return fault.Exit(err)
}

// errSilent is in the chain of an error of which everything was said already.
var errSilent = errors.New("told")

// told gives an exit status to a failure that the user has seen.
func told(code fault.Code) error { return fault.New(code, errSilent) }

// app is the program with its outside world.
type app struct {
	root     fs.FS // the root folder, for probes
	getenv   func(string) string
	programs sh.Runner // of this host
	stdin    io.Reader
	out      io.Writer // results
	err      io.Writer // everything else
	asks     bool      // stdin is a terminal
	shows    bool      // err is a terminal
}

// options are all flags; each command accepts some of them.
type options struct {
	dir, state, name, imageKey, recipient                string
	json, tap, junit, yes, dryRun, all                   bool
	allowPlain, allowAnyFile, allowDowngrade, allowDebug bool
	diskOnly, emulate, undo, wipe                        bool
	site, uplink, live                                   string
	facts, allowSmall                                    bool
	root, from, receipts                                 string
}

// installFlags are the flags of plan, which install has too.
func installFlags() []string {
	return []string{"dir", "state", "name", "image-key", "recipient", "allow-plain", "allow-file", "allow-downgrade", "allow-debug", "disk-only", "emulate", "site", "uplink", "root"}
}

func (a *app) run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		fmt.Fprint(a.err, usage)
		return fault.Newf(fault.Usage, "no command given")
	}
	name, rest := args[0], args[1:]
	var o options
	command := func(run func() error, positional *[]string, least, most int, flags ...string) error {
		pos, err := o.parse(a.getenv, name, rest, flags)
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(a.out, usage)
			return nil
		}
		if err == nil && (len(pos) < least || most >= 0 && len(pos) > most) {
			err = fmt.Errorf("%s: %d arguments given", name, len(pos))
		}
		if err != nil {
			return fault.New(fault.Usage, err).Hint("cc-install help shows the usage")
		}
		*positional = pos
		return run()
	}
	var pos []string
	switch name {
	case "list-devices":
		return command(func() error { return a.listDevices(o) }, &pos, 0, 0, "dir", "json", "all")
	case "plan":
		return command(func() error { o.dryRun = true; return a.install(ctx, pos, o) }, &pos, 0, 1, append(installFlags(), "json")...)
	case "install":
		return command(func() error { return a.install(ctx, pos, o) }, &pos, 0, 1, append(installFlags(), "yes", "dry-run")...)
	case "verify":
		return command(func() error { return a.verify(ctx, pos[0], o) }, &pos, 1, 1, "dir", "state", "json", "allow-file")
	case "check":
		return command(func() error { return a.check(ctx, pos, o) }, &pos, 0, -1, "dir", "json", "tap", "junit", "live", "dry-run", "receipts", "state")
	case "receipts":
		return a.receipts(rest)
	case "explain":
		return command(func() error { return a.explain(pos) }, &pos, 0, 1)
	case "version":
		return command(func() error { return a.version(o) }, &pos, 0, 0, "dir")
	case "doctor":
		return command(func() error { return a.doctor(ctx, a.world(), o) }, &pos, 0, 0, "dir", "json", "facts", "from", "allow-plain", "allow-small")
	case "detect":
		return command(func() error { return a.detect(a.world(), o) }, &pos, 0, 0, "dry-run", "root", "json")
	case "measure":
		return a.measure(ctx, rest)
	case "compare":
		return a.compare(ctx, rest)
	case "release":
		return a.release(ctx, rest)
	case "attest":
		return a.attest(ctx, rest)
	case "vm-xml":
		return command(func() error { return a.vmXML(pos[0], o) }, &pos, 1, 1, "dir", "state")
	case "apply":
		return command(func() error { return a.apply(ctx, pos[0], o) }, &pos, 1, 1, "dir", "state", "root", "uplink", "dry-run", "undo")
	case "uninstall":
		return command(func() error { return a.uninstall(ctx, pos[0], o) }, &pos, 1, 1, "dir", "state", "root", "yes", "wipe")
	case "top":
		return a.top(ctx, rest)
	case "verify-evidence":
		return a.verifyEvidence(rest)
	case "help", "-h", "-help", "--help":
		fmt.Fprint(a.out, usage)
		return nil
	}
	return fault.Newf(fault.Usage, "unknown command %q", name).Hint("cc-install help shows the usage")
}

// parse reads flags and arguments in any order, as people type them.
func (o *options) parse(getenv func(string) string, name string, args, accepted []string) ([]string, error) {
	set := flag.NewFlagSet(name, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	for _, f := range accepted {
		switch f {
		case "dir":
			set.StringVar(&o.dir, f, "", "")
		case "disk-only":
			set.BoolVar(&o.diskOnly, f, false, "")
		case "emulate":
			set.BoolVar(&o.emulate, f, false, "")
		case "undo":
			set.BoolVar(&o.undo, f, false, "")
		case "wipe":
			set.BoolVar(&o.wipe, f, false, "")
		case "uplink":
			set.StringVar(&o.uplink, f, "", "")
		case "site":
			set.StringVar(&o.site, f, "", "")
		case "state":
			set.StringVar(&o.state, f, cmp.Or(getenv("CC_STATE_DIR"), deployment.Root), "")
		case "name":
			set.StringVar(&o.name, f, manifest.Name, "")
		case "recipient":
			set.StringVar(&o.recipient, f, "", "")
		case "allow-downgrade":
			set.BoolVar(&o.allowDowngrade, f, false, "")
		case "image-key":
			set.StringVar(&o.imageKey, f, "", "")
		case "json":
			set.BoolVar(&o.json, f, false, "")
		case "tap":
			set.BoolVar(&o.tap, f, false, "")
		case "junit":
			set.BoolVar(&o.junit, f, false, "")
		case "live":
			set.StringVar(&o.live, f, "", "")
		case "yes":
			set.BoolVar(&o.yes, f, false, "")
		case "dry-run":
			set.BoolVar(&o.dryRun, f, false, "")
		case "all":
			set.BoolVar(&o.all, f, false, "")
		case "allow-plain":
			set.BoolVar(&o.allowPlain, f, false, "")
		case "root":
			set.StringVar(&o.root, f, cmp.Or(getenv("CC_SETTINGS_ROOT"), "/"), "")
		case "receipts":
			set.StringVar(&o.receipts, f, "", "")
		case "from":
			set.StringVar(&o.from, f, "", "")
		case "facts":
			set.BoolVar(&o.facts, f, false, "")
		case "allow-small":
			set.BoolVar(&o.allowSmall, f, false, "")
		case "allow-debug":
			set.BoolVar(&o.allowDebug, f, false, "")
		case "allow-file":
			set.BoolVar(&o.allowAnyFile, f, false, "")
		}
	}
	var positional []string
	for {
		if err := set.Parse(args); err != nil {
			return nil, err
		}
		if set.NArg() == 0 {
			break
		}
		positional = append(positional, set.Arg(0))
		args = set.Args()[1:]
	}
	if o.dir != "" {
		return positional, nil
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if exe, err = filepath.EvalSymlinks(exe); err != nil {
		return nil, err
	}
	o.dir = filepath.Dir(exe)
	return positional, nil
}

// say writes one line of the log.
func (a *app) say(format string, args ...any) { fmt.Fprintf(a.err, format+"\n", args...) }
