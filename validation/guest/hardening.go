package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"cc-base/validation/check"
)

// kernelSettings are the values that the running kernel must have: those of
// overlays/base/tree/usr/lib/sysctl.d/90-cc-base.conf, which a test compares.
func kernelSettings() map[string]string {
	return map[string]string{
		"kernel.core_pattern": "/dev/null", "kernel.core_uses_pid": "0", "fs.suid_dumpable": "0",
		"kernel.kexec_load_disabled": "1", "kernel.sysrq": "0", "kernel.dmesg_restrict": "1", "kernel.kptr_restrict": "2",
		"kernel.printk": "3 4 1 3", "kernel.perf_event_paranoid": "3", "kernel.unprivileged_bpf_disabled": "1",
		"net.core.bpf_jit_harden": "2", "vm.unprivileged_userfaultfd": "0", "dev.tty.ldisc_autoload": "0", "dev.tty.legacy_tiocsti": "0",
		"kernel.yama.ptrace_scope": "1",
		"fs.protected_symlinks":    "1", "fs.protected_hardlinks": "1", "fs.protected_fifos": "2", "fs.protected_regular": "2",
		"net.ipv4.ip_forward": "0", "net.ipv6.conf.all.forwarding": "0",
		"net.ipv4.conf.all.rp_filter": "1", "net.ipv4.conf.default.rp_filter": "1",
		"net.ipv4.conf.all.accept_redirects": "0", "net.ipv4.conf.default.accept_redirects": "0",
		"net.ipv6.conf.all.accept_redirects": "0", "net.ipv6.conf.default.accept_redirects": "0",
		"net.ipv4.conf.all.send_redirects": "0", "net.ipv4.conf.default.send_redirects": "0",
		"net.ipv4.conf.all.accept_source_route": "0", "net.ipv4.conf.default.accept_source_route": "0",
		"net.ipv6.conf.all.accept_source_route": "0", "net.ipv6.conf.default.accept_source_route": "0",
		"net.ipv4.icmp_echo_ignore_broadcasts": "1", "net.ipv4.tcp_syncookies": "1",
	}
}

func (e Env) sysctls() []check.Check {
	values := kernelSettings()
	var checks []check.Check
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		checks = append(checks, one("hardening.sysctl."+name, name+" is "+values[name], again,
			e.equals("/proc/sys/"+strings.ReplaceAll(name, ".", "/"), values[name])))
	}
	return checks
}

func (e Env) hardening() []check.Check {
	return []check.Check{
		one("hardening.lockdown", "the kernel is locked down: not even root changes it while it runs", "set LOCKDOWN=yes in security.conf and build again", e.lockdown),
		one("hardening.module-signatures", "the kernel takes signed modules alone", again, e.equals("/sys/module/module/parameters/sig_enforce", "Y")),
		one("hardening.taint", "no module was forced, unsigned or taken out by force, and nothing has oopsed", "see which module does it; only signed ones belong into the image", e.taint),
		one("hardening.kexec", "no other kernel waits to be started", again, e.equals("/sys/kernel/kexec_loaded", "0")),
		one("hardening.mitigations", "no hole of this processor is left open that the kernel can close", "update the host's microcode, or give the VM the processor features that the kernel misses", e.mitigations),
		one("hardening.masked-units", "logins, emergency shells and units that read the host's wishes are masked", again, e.masked),
		one("hardening.no-shell", "no shell and no login runs", again, e.noShell),
		one("hardening.units", "the running units are those of the list", "add a unit that belongs there to validation/guest/units.txt, and remove any other from the image", e.units),
		one("hardening.core-limit", "services can leave no core file", again, e.coreLimit),
		one("hardening.journal", "the journal is in memory alone", again, e.journal),
		one("hardening.audit", "the kernel audits, and its rules are fixed until the next boot", again, e.audit),
	}
}

func (e Env) lockdown(context.Context) check.Verdict {
	text, err := e.text("/sys/kernel/security/lockdown")
	if errors.Is(err, fs.ErrNotExist) {
		return check.Failed("this kernel has no lockdown")
	}
	if err != nil {
		return check.Broken(err)
	}
	for _, w := range strings.Fields(text) {
		if w == "[integrity]" || w == "[confidentiality]" {
			return check.Passed("%s", strings.Trim(w, "[]"))
		}
	}
	return check.Failed("it is %q", text)
}

// taint reads the kernel's own word on what was done to it
// (Documentation/admin-guide/tainted-kernels.rst).
func (e Env) taint(context.Context) check.Verdict {
	text, err := e.text("/proc/sys/kernel/tainted")
	if err != nil {
		return check.Broken(err)
	}
	bits, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return check.Broken(err)
	}
	var findings []string
	for bit, what := range map[uint]string{
		1: "a module was loaded by force", 3: "a module was unloaded by force", 4: "a processor reported an error",
		5: "a page was bad", 7: "the kernel has oopsed", 8: "an ACPI table was replaced",
	} {
		if bits&(1<<bit) != 0 {
			findings = append(findings, what)
		}
	}
	if bits&(1<<13) != 0 {
		unsigned, err := e.unsignedModules()
		if err != nil {
			return check.Broken(err)
		}
		if unsigned != "" {
			findings = append(findings, "an unsigned module was loaded: "+unsigned)
		}
	}
	slices.Sort(findings)
	return check.Judge(findings, "%d", bits)
}

// unsignedModules names the modules that no key of the kernel's has signed, but
// for the GPU's driver where the kernel had to be locked after it: there the
// verified root alone vouches for it. One that is gone again is "(gone)".
func (e Env) unsignedModules() (string, error) {
	words, err := e.words()
	if err != nil {
		return "", err
	}
	var found []string
	seen := false
	for _, m := range e.names("/sys/module") {
		taint, _ := e.text("/sys/module/" + m + "/taint") // built in ones have none
		if !strings.Contains(taint, "E") {
			continue
		}
		seen = true
		if !slices.Contains(words, "cc.lockdown=late") || m != "nvidia" && m != "nvidia_uvm" {
			found = append(found, m)
		}
	}
	if !seen {
		found = append(found, "(gone)")
	}
	return strings.Join(found, ", "), nil
}

// mitigations reads what the kernel says of the processor
// (Documentation/ABI/testing/sysfs-devices-system-cpu).
func (e Env) mitigations(context.Context) check.Verdict {
	files, err := fs.Glob(e.Root, "sys/devices/system/cpu/vulnerabilities/*")
	if err != nil {
		return check.Broken(err)
	}
	if len(files) == 0 {
		return check.Skipped("this kernel does not tell")
	}
	var findings []string
	for _, f := range files {
		text, err := e.text(f)
		if err != nil {
			return check.Broken(err)
		}
		if strings.HasPrefix(text, "Vulnerable") {
			findings = append(findings, path.Base(f)+": "+text)
		}
	}
	if len(findings) > 0 && e.emulated() {
		return check.Skipped("an emulated processor: %s", strings.Join(findings, "; "))
	}
	return check.Judge(findings, "%d kinds", len(files))
}

// emulated tells whether QEMU executes the instructions by itself: such a
// processor has a name of QEMU's.
func (e Env) emulated() bool {
	text, _ := e.text("/proc/cpuinfo")
	return strings.Contains(text, "QEMU TCG CPU") || strings.Contains(text, "QEMU Virtual CPU")
}

// maskedUnits must be links to /dev/null, or to the unit that powers off.
func maskedUnits() map[string]string {
	const null, off = "/dev/null", "emergency.service"
	return map[string]string{
		"rescue.service": off, "ssh.service": null, "ssh.socket": null, "debug-shell.service": null, "getty@.service": null, "serial-getty@.service": null, "console-getty.service": null,
		"container-getty@.service": null, "getty.target": null, "systemd-firstboot.service": null, "systemd-sysext.service": null,
		"systemd-confext.service": null, "systemd-ask-password-console.path": null, "systemd-ask-password-wall.path": null,
		"systemd-creds.socket": null, "apt-daily.timer": null, "apt-daily-upgrade.timer": null, "systemd-pstore.service": null,
	}
}

func (e Env) masked(context.Context) check.Verdict {
	var findings []string
	for unit, want := range maskedUnits() {
		got, err := fs.ReadLink(e.Root, "etc/systemd/system/"+unit)
		if err != nil || got != want {
			findings = append(findings, unit)
		}
	}
	slices.Sort(findings)
	return check.Judge(findings, "%d units", len(maskedUnits()))
}

func (e Env) noShell(context.Context) check.Verdict {
	all, err := e.processes()
	if err != nil {
		return check.Broken(err)
	}
	var findings []string
	for _, p := range all {
		switch strings.TrimPrefix(p.name, "-") {
		case "sh", "bash", "dash", "busybox", "ash", "zsh", "agetty", "getty", "login", "sulogin", "sshd", "su", "sudo", "telnetd", "gdbserver":
			findings = append(findings, p.String())
		}
	}
	return check.Judge(findings, "%d processes", len(all))
}

// coreLimit looks at what systemd gives to a service: its own process's limit is
// another matter.
func (e Env) coreLimit(context.Context) check.Verdict {
	all, err := e.processes()
	if err != nil {
		return check.Broken(err)
	}
	var findings []string
	looked := 0
	for _, p := range all {
		if p.line == "" || p.pid == "1" || strings.HasPrefix(p.name, "(") {
			continue // of the kernel, systemd itself, or not yet started
		}
		text, err := e.text("/proc/" + p.pid + "/limits")
		if err != nil {
			continue
		}
		for _, line := range strings.Split(text, "\n") {
			if rest, ok := strings.CutPrefix(line, "Max core file size"); ok {
				looked++
				if f := strings.Fields(rest); len(f) < 2 || f[0] != "0" {
					findings = append(findings, p.String())
				}
			}
		}
	}
	if looked == 0 {
		return check.Broken(fmt.Errorf("no process shows its limits"))
	}
	return check.Judge(findings, "%d processes", looked)
}

func (e Env) journal(context.Context) check.Verdict {
	if names := e.names("/var/log/journal"); len(names) > 0 {
		return check.Failed("/var/log/journal has %s", strings.Join(names, ", "))
	}
	if len(e.names("/run/log/journal")) == 0 {
		return check.Failed("there is none in /run/log/journal")
	}
	return check.Passed("in /run/log/journal")
}

// audit reads `auditctl -s`: enabled 2 is on and fixed (auditctl(8), -e).
func (e Env) audit(ctx context.Context) check.Verdict {
	text, err := e.Audit(ctx)
	if err != nil {
		return check.Broken(err)
	}
	values := map[string]string{}
	for _, line := range strings.Split(text, "\n") {
		if f := strings.Fields(line); len(f) == 2 {
			values[f[0]] = f[1]
		}
	}
	var findings []string
	if values["enabled"] != "2" {
		findings = append(findings, "enabled is "+strconv.Quote(values["enabled"])+", not 2")
	}
	if pid := values["pid"]; pid == "" || pid == "0" {
		findings = append(findings, "no daemon takes the records")
	}
	if lost := values["lost"]; lost != "0" {
		findings = append(findings, "records were lost: "+lost)
	}
	return check.Judge(findings, "on and fixed, no record lost")
}
