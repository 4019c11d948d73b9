package guest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"cc-base/overlays/cc-guest/settings"
	"cc-base/validation/check"
)

func (e Env) boot() []check.Check {
	const host = "look at the VM's definition; if it is right, the host works against the guest"
	return []check.Check{
		one("boot.ready", "mounts and verified volumes are those that the measured command line names", "start the VM again; if it stays, the disk was changed",
			func(ctx context.Context) check.Verdict {
				if err := e.Ready(ctx); err != nil {
					return check.Failed("%s", err)
				}
				return check.Passed("as at the end of the boot")
			}),
		one("boot.monitor", "the monitor runs that powers off when that changes", again, e.monitor),
		one("boot.services", "the services run that keep the guest safe", "start the VM again; if it stays, the journal tells why", e.services),
		one("boot.command-line", "the command line has what fixes the boot, each word once, and nothing that opens it", host, e.commandLine),
		one("boot.production", "the image is no test or debug image", "install a production image", e.production),
		one("boot.secure-boot", "Secure Boot is on", "start the VM with firmware and variables that trust the image's key alone", e.secureBoot),
		one("boot.root-read-only", "the root file system is an erofs and read-only", again, e.rootReadOnly),
		one("boot.foreign-mounts", "nothing is mounted from a disk that the command line does not name", host, e.foreignMounts),
		one("boot.mount-options", "what can be written to can hold no device and no program of another user", again, e.mountOptions),
		one("boot.capacity", "what is written in memory is capped as the image says", again, e.capacity),
		one("boot.swap", "nothing is swapped to a disk", again, e.swap),
		one("boot.machine-id", "the machine has an identity of its own", again, e.machineID),
		one("boot.identity-key", "the guest's private key lies in memory, for root alone", again, e.identityKey),
		one("boot.host-credentials", "systemd has taken no credential from the host", host, e.credentials),
		one("boot.host-units", "no unit was added outside the image", host, e.hostUnits),
	}
}

func (e Env) monitor(context.Context) check.Verdict {
	all, err := e.processes()
	if err != nil {
		return check.Broken(err)
	}
	for _, p := range all {
		if p.line == "/usr/lib/cc/cc-guest watch" {
			return check.Passed("process %s", p.pid)
		}
	}
	return check.Failed("there is no such process")
}

// required are words that the image's command line has (tasks/boot).
func required() []string {
	return []string{
		"ro", "rootfstype=erofs", "root=/dev/mapper/cc-root", "panic=1", "rd.shell=0", "rd.emergency=poweroff",
		"systemd.import_credentials=no", "systemd.gpt_auto=0", "rd.systemd.gpt_auto=0", "systemd.verity=no", "audit=1",
	}
}

// opens are parameters that give somebody a way in (kernel-command-line(7),
// dracut.cmdline(7), Documentation/admin-guide/kernel-parameters.txt).
var opens = regexp.MustCompile(`^(init|rdinit|systemd\.unit|rd\.systemd\.unit|systemd\.debug_shell|rd\.systemd\.debug_shell|systemd\.wants|systemd\.mask|systemd\.run|systemd\.set_credential.*|rd\.break|mitigations|nokaslr|module_blacklist|kgdb.*|ekgdboc|debugfs|slub_debug|earlyprintk)(=|$)|^(single|emergency|rescue|[1-5sS])$`)

func (e Env) commandLine(context.Context) check.Verdict {
	words, err := e.words()
	if err != nil {
		return check.Broken(err)
	}
	var findings []string
	seen := map[string]int{}
	for _, w := range words {
		key, _, _ := strings.Cut(w, "=")
		seen[key]++
		if seen[key] == 2 {
			findings = append(findings, key+" is there twice")
		}
		if opens.MatchString(w) {
			findings = append(findings, w+" opens the system")
		}
	}
	for _, w := range required() {
		if !slices.Contains(words, w) {
			findings = append(findings, w+" is missing")
		}
	}
	for _, volume := range []string{"cc.root", "cc.app", "cc.config", "cc.keys"} {
		if seen[volume] == 0 {
			findings = append(findings, volume+" is missing")
		}
	}
	return check.Judge(findings, "%d words, key profile %s", len(words), e.profile())
}

func (e Env) production(context.Context) check.Verdict {
	words, err := e.words()
	if err != nil {
		return check.Broken(err)
	}
	for _, w := range words {
		if strings.HasPrefix(w, "cc.test=") || strings.HasPrefix(w, "cc.debug=") || strings.HasPrefix(w, "cc.readall=") {
			return check.Failed("its measured command line has %s", w)
		}
	}
	return check.Passed("no mark of one")
}

// secureBoot reads the firmware's variable (UEFI specification, 3.3: one byte,
// behind the four of its attributes, Linux efivarfs).
func (e Env) secureBoot(context.Context) check.Verdict {
	if e.profile() == "snp" {
		return check.Skipped("kernel hashes in place of Secure Boot: the launch digest covers kernel, initrd and command line")
	}
	const name = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
	data, err := fs.ReadFile(e.Root, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return check.Skipped("the firmware has no such switch")
	case err != nil:
		return check.Broken(err)
	case len(data) != 5:
		return check.Failed("the variable has %d bytes, not 5", len(data))
	case data[4] == 1:
		return check.Passed("the firmware enforces it")
	case e.profile() == "tpm":
		return check.Skipped("it is off; the keys are bound to the boot image by the TPM's register 11 instead")
	}
	return check.Skipped("it is off; the boot image is in the launch measurement instead")
}

// mount is a line of /proc/1/mountinfo, proc_pid_mountinfo(5).
type mount struct {
	path, fstype, source string
	options, super       []string
}

func (m mount) has(options ...string) (missing []string) {
	for _, o := range options {
		if !slices.Contains(m.options, o) {
			missing = append(missing, o)
		}
	}
	return missing
}

func (e Env) mounts() ([]mount, error) {
	text, err := e.text("/proc/1/mountinfo")
	if err != nil {
		return nil, err
	}
	var all []mount
	for _, line := range strings.Split(text, "\n") {
		left, right, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(left), strings.Fields(right)
		if !ok || len(f) < 6 || len(g) < 3 {
			return nil, fmt.Errorf("mountinfo has the line %q", line)
		}
		all = append(all, mount{path: f[4], options: strings.Split(f[5], ","), fstype: g[0], source: g[1], super: strings.Split(g[2], ",")})
	}
	return all, nil
}

func (e Env) rootReadOnly(context.Context) check.Verdict {
	all, err := e.mounts()
	if err != nil {
		return check.Broken(err)
	}
	var last *mount
	for i := range all {
		if all[i].path == "/" {
			last = &all[i]
		}
	}
	switch {
	case last == nil:
		return check.Failed("nothing is mounted on /")
	case last.fstype != "erofs" || !slices.Contains(last.options, "ro") || !slices.Contains(last.super, "ro"):
		return check.Failed("%s, %s", last.fstype, strings.Join(last.options, ","))
	}
	return check.Passed("erofs, ro")
}

// ours are the mapped devices that cc-guest opens.
func ours() []string {
	return []string{"/dev/mapper/cc-root", "/dev/mapper/cc-app", "/dev/mapper/cc-config", "/dev/mapper/cc-dynamic"}
}

func (e Env) foreignMounts(context.Context) check.Verdict {
	all, err := e.mounts()
	if err != nil {
		return check.Broken(err)
	}
	var findings []string
	for _, m := range all {
		if strings.HasPrefix(m.source, "/dev/") && !slices.Contains(ours(), m.source) {
			findings = append(findings, m.source+" on "+m.path)
		}
	}
	return check.Judge(findings, "%d mounts", len(all))
}

// mountOptions looks at what can be written to: file systems in memory and the
// writable volume. A device node or another user's program there would undo
// what the rest of the system does.
func (e Env) mountOptions(context.Context) check.Verdict {
	all, err := e.mounts()
	if err != nil {
		return check.Broken(err)
	}
	var findings []string
	looked := 0
	for _, m := range all {
		var want []string
		switch {
		case m.path == "/dev": // holds the devices
			want = []string{"nosuid"}
		case m.fstype == "tmpfs" || m.fstype == "ramfs" || m.fstype == "overlay":
			want = []string{"nosuid", "nodev"}
		case m.fstype == "ext4":
			want = []string{"nosuid", "nodev", "noexec"}
		default:
			continue
		}
		if slices.Contains(m.options, "ro") && m.fstype != "overlay" {
			continue // such as the empty folder that holds a unit's credentials
		}
		if m.path == "/var" {
			want = append(want, "noexec")
		}
		looked++
		if missing := m.has(want...); len(missing) > 0 {
			findings = append(findings, m.path+" lacks "+strings.Join(missing, ","))
		}
	}
	return check.Judge(findings, "%d mounts", looked)
}

// settings are those that the build left for the guest.
func (e Env) settings() (settings.Settings, error) {
	data, err := fs.ReadFile(e.Root, strings.TrimPrefix(settings.Path, "/"))
	if err != nil {
		return settings.Settings{}, err
	}
	return settings.Decode(data)
}

func (e Env) capacity(context.Context) check.Verdict {
	s, err := e.settings()
	if err != nil {
		return check.Broken(err)
	}
	all, err := e.mounts()
	if err != nil {
		return check.Broken(err)
	}
	want := "size=" + strconv.FormatInt(s.VarSize>>10, 10) + "k"
	for _, m := range all {
		if m.path != "/var" {
			continue
		}
		if m.fstype != "tmpfs" || !slices.Contains(m.super, want) {
			return check.Failed("/var is %s with %s, not %s", m.fstype, strings.Join(m.super, ","), want)
		}
		return check.Passed("/var %s", want)
	}
	return check.Failed("/var is no mount of its own")
}

func (e Env) swap(context.Context) check.Verdict {
	text, err := e.text("/proc/swaps")
	if err != nil {
		return check.Broken(err)
	}
	if lines := strings.Split(text, "\n"); len(lines) > 1 {
		return check.Failed("%s", strings.Join(lines[1:], "; "))
	}
	return check.Passed("no swap")
}

var machineID = regexp.MustCompile(`^[0-9a-f]{32}$`)

func (e Env) machineID(context.Context) check.Verdict {
	id, err := e.text("/etc/machine-id")
	switch {
	case err != nil:
		return check.Failed("%s", err)
	case !machineID.MatchString(id) || strings.Trim(id, "0") == "":
		return check.Failed("/etc/machine-id holds %q", id)
	}
	return check.Passed("%s", id)
}

func (e Env) identityKey(context.Context) check.Verdict {
	s, err := e.settings()
	if err != nil {
		return check.Broken(err)
	}
	dir := s.Keys.Identity.Dir
	info, err := fs.Stat(e.Root, strings.TrimPrefix(path.Join(dir, "identity.key"), "/"))
	if err != nil {
		return check.Failed("%s", err)
	}
	if info.Mode().Perm() != 0o600 {
		return check.Failed("its mode is %#o", info.Mode().Perm())
	}
	public, err := fs.ReadFile(e.Root, strings.TrimPrefix(path.Join(dir, "identity.pub"), "/"))
	if err != nil {
		return check.Failed("%s", err)
	}
	all, err := e.mounts()
	if err != nil {
		return check.Broken(err)
	}
	for _, m := range all {
		if m.path == dir && m.fstype == "tmpfs" {
			return check.Passed("mode 0600, on a tmpfs of its own; SHA-256 of the public half's file %x", sha256.Sum256(public))
		}
	}
	return check.Failed("%s is no tmpfs of its own", dir)
}

func (e Env) credentials(context.Context) check.Verdict {
	var findings []string
	for _, dir := range []string{"/run/credentials/@system", "/run/credentials/@encrypted"} {
		for _, name := range e.names(dir) {
			findings = append(findings, name)
		}
	}
	return check.Judge(findings, "none")
}

// hostUnits looks where units come from that are in no image
// (systemd.unit(5), UNIT FILE LOAD PATH).
func (e Env) hostUnits(context.Context) check.Verdict {
	var findings []string
	for _, dir := range []string{"/run/systemd/system", "/run/systemd/system.control", "/run/systemd/transient", "/etc/systemd/system.control"} {
		for _, name := range e.names(dir) {
			findings = append(findings, dir+"/"+name)
		}
	}
	return check.Judge(findings, "none")
}
