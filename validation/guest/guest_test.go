package guest_test

// What green does not prove: that a guest tells the truth about itself, and
// that the files here are those of every kernel. They were taken from a boot of
// the minimal image under emulation; each boot of the test suite runs the same
// checks on the real ones.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"cc-base/overlays/cc-guest/settings"
	"cc-base/validation/check"
	"cc-base/validation/guest"
)

const (
	mountInfo = `24 1 254:0 / / ro,relatime shared:1 - erofs /dev/mapper/cc-root ro,user_xattr,acl
25 24 0:6 / /dev rw,nosuid shared:2 - devtmpfs devtmpfs rw,size=480000k
26 24 0:22 / /proc rw,nosuid,nodev,noexec shared:3 - proc proc rw
27 24 0:23 / /run rw,nosuid,nodev shared:4 - tmpfs tmpfs rw,size=198000k,mode=755
28 24 0:30 / /etc rw,nosuid,nodev shared:5 - overlay cc-etc rw,lowerdir=/sysroot/etc
29 24 0:31 / /var rw,nosuid,nodev,noexec shared:6 - tmpfs cc-var rw,size=262144k,nr_inodes=32768
30 24 254:1 / /opt/cc ro,nosuid,nodev shared:7 - erofs /dev/mapper/cc-app ro
31 28 254:2 / /etc/cc/config ro,nosuid,nodev,noexec shared:8 - erofs /dev/mapper/cc-config ro
32 24 254:3 / /mnt/dynamic rw,nosuid,nodev,noexec shared:9 - ext4 /dev/mapper/cc-dynamic rw
33 28 0:32 / /etc/cc/keys rw,nosuid,nodev,noexec shared:10 - tmpfs cc-identity rw,size=1024k
34 27 0:33 / /run/credentials/systemd-resolved.service ro,nosuid,nodev,noexec - tmpfs none rw
`
	commandLine = "cc.root=luks+verity:ab:1 cc.app=luks+verity:cd:1 cc.config=verity:ef:1 cc.keys=tpm root=/dev/mapper/cc-root rootfstype=erofs ro " +
		"console=ttyS0 loglevel=4 printk.console_no_auto_verbose=1 panic=1 rd.shell=0 rd.emergency=poweroff systemd.import_credentials=no " +
		"systemd.gpt_auto=0 rd.systemd.gpt_auto=0 systemd.verity=no audit=1 audit_backlog_limit=8192 systemd.show_status=error no_timer_check " +
		"oops=panic lockdown=integrity module.sig_enforce=1\n"
	sockets = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 3500007F:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000   991        0 2412 1
`
	datagrams = `   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  100: 3600007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000   991        0 2413 2 0 0
  101: 0F02000A:0044 00000000:0000 07 00000000:00000000 00:00000000 00000000   998        0 2500 2 0 0
`
	auditStatus = "enabled 2\nfailure 1\npid 412\nrate_limit 0\nbacklog_limit 8192\nlost 0\nbacklog 0\n"
	limits      = "Limit                     Soft Limit           Hard Limit           Units\nMax core file size        0                    0                    bytes\n"
)

// system is a running guest as the checks see it.
type system struct {
	files          fstest.MapFS
	ready          error
	rules, audited string
}

func (s *system) write(name, text string) { s.files[name] = &fstest.MapFile{Data: []byte(text)} }

func (s *system) link(name, to string) {
	s.files[name] = &fstest.MapFile{Data: []byte(to), Mode: fs.ModeSymlink | 0o777}
}

// replace changes a file's text; the old one must be there.
func (s *system) replace(t *testing.T, name, old, new string) {
	t.Helper()
	text := string(s.files[name].Data)
	if !strings.Contains(text, old) {
		t.Fatalf("%s has no %q", name, old)
	}
	s.write(name, strings.Replace(text, old, new, 1))
}

func (s *system) process(pid, name, line string) {
	s.write("proc/"+pid+"/comm", name+"\n")
	s.write("proc/"+pid+"/cmdline", strings.ReplaceAll(line, " ", "\x00")+"\x00")
	s.write("proc/"+pid+"/limits", limits)
}

// good is a guest in which everything passes that can.
func good(t *testing.T) *system {
	t.Helper()
	rules, err := os.ReadFile("testdata/ruleset.json")
	if err != nil {
		t.Fatal(err)
	}
	s := &system{files: fstest.MapFS{}, rules: string(rules), audited: auditStatus}
	text, err := settings.Encode(settings.Default())
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"usr/lib/cc/guest.json": string(text), "proc/cmdline": commandLine, "proc/1/mountinfo": mountInfo,
		"proc/1/net/tcp": sockets, "proc/1/net/udp": datagrams, "proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n",
		"proc/sys/kernel/tainted": "0\n", "proc/cpuinfo": "model name\t: AMD EPYC 9004\n",
		"sys/kernel/security/lockdown": "none [integrity] confidentiality\n", "sys/module/module/parameters/sig_enforce": "Y\n",
		"sys/kernel/kexec_loaded": "0\n", "sys/devices/system/cpu/vulnerabilities/spectre_v2": "Mitigation: Retpolines\n",
		"sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c": "\x06\x00\x00\x00\x01",
		"run/cc/gpu.json": `{"state": "ready", "gpus": ["NVIDIA H100 PCIe at 0000:01:00.0"]}`,
		"etc/machine-id":  "0123456789abcdef0123456789abcdef\n", "run/log/journal/0123/system.journal": "x",
		"run/systemd/units/invocation:cc-ready.service": "1", "run/systemd/units/invocation:dbus.service": "2",
		"dev/sev-guest": "", "sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n", "sys/bus/pci/devices/0000:01:00.0/class": "0x030200\n",
	} {
		s.write(name, content)
	}
	s.files["etc/cc/keys/identity.key"] = &fstest.MapFile{Data: []byte("x"), Mode: 0o600}
	s.write("etc/cc/keys/identity.pub", "y")
	s.link("sys/bus/pci/devices/0000:01:00.0/driver", "../../../../bus/pci/drivers/nvidia")
	for _, unit := range guest.Needed() {
		s.write("run/systemd/units/invocation:"+unit, "x")
	}
	s.process("1", "systemd", "/usr/lib/systemd/systemd")
	s.process("77", "cc-guest", "/usr/lib/cc/cc-guest watch")
	s.process("80", "dbus-daemon", "/usr/bin/dbus-daemon --system")
	for unit, to := range guest.MaskedUnits() {
		s.link("etc/systemd/system/"+unit, to)
	}
	for name, value := range guest.KernelSettings() {
		s.write("proc/sys/"+strings.ReplaceAll(name, ".", "/"), strings.ReplaceAll(value, " ", "\t")+"\n")
	}
	return s
}

func (s *system) checks() []check.Check {
	return guest.All(guest.Env{
		Root: s.files, Ready: func(context.Context) error { return s.ready },
		Ruleset: func(context.Context) (string, error) { return s.rules, nil },
		Audit:   func(context.Context) (string, error) { return s.audited, nil },
	})
}

func TestAGoodGuestPassesEveryCheck(t *testing.T) {
	report := check.Run(t.Context(), check.Guest, good(t).checks())
	for _, r := range report.Results {
		if r.Status != check.Pass || r.Detail == "" {
			t.Errorf("%s: %s: %s", r.ID, r.Status, r.Detail)
		}
	}
}

// mutant is one thing that is wrong, and the check that has to find it.
type mutant struct {
	id, name string
	change   func(t *testing.T, s *system)
	status   check.Status
	detail   string
}

func mutants() []mutant {
	fails := func(id, name, detail string, change func(t *testing.T, s *system)) mutant {
		return mutant{id, name, change, check.Fail, detail}
	}
	skips := func(id, name, detail string, change func(t *testing.T, s *system)) mutant {
		return mutant{id, name, change, check.Skip, detail}
	}
	writes := func(file, text string) func(*testing.T, *system) {
		return func(_ *testing.T, s *system) { s.write(file, text) }
	}
	line := func(old, new string) func(*testing.T, *system) {
		return func(t *testing.T, s *system) { s.replace(t, "proc/cmdline", old, new) }
	}
	mounts := func(old, new string) func(*testing.T, *system) {
		return func(t *testing.T, s *system) { s.replace(t, "proc/1/mountinfo", old, new) }
	}
	rules := func(old, new string) func(*testing.T, *system) {
		return func(t *testing.T, s *system) {
			t.Helper()
			if !strings.Contains(s.rules, old) {
				t.Fatalf("the rules have no %s", old)
			}
			s.rules = strings.Replace(s.rules, old, new, 1)
		}
	}
	const secureBoot = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
	all := []mutant{
		fails("boot.ready", "another table under the root", "cc-root", func(_ *testing.T, s *system) { s.ready = errors.New("cc-root: it is not a verity device") }),
		fails("boot.monitor", "the monitor was ended", "no such process", func(_ *testing.T, s *system) { delete(s.files, "proc/77/comm") }),
		fails("boot.services", "no key was made", "cc-identity.service does not run", func(_ *testing.T, s *system) { delete(s.files, "run/systemd/units/invocation:cc-identity.service") }),
		fails("boot.command-line", "an init of the host's", "init=/bin/sh opens", line("console=", "init=/bin/sh console=")),
		fails("boot.command-line", "a debug shell", "systemd.debug_shell opens", line("console=", "systemd.debug_shell console=")),
		fails("boot.command-line", "single user mode", "single opens", line("console=", "single console=")),
		fails("boot.command-line", "a stop in the initrd", "rd.break=mount opens", line("console=", "rd.break=mount console=")),
		fails("boot.command-line", "mitigations off", "mitigations=off opens", line("console=", "mitigations=off console=")),
		fails("boot.command-line", "a second root hash", "cc.root is there twice", line("cc.app=", "cc.root=luks+verity:00:1 cc.app=")),
		fails("boot.command-line", "no root hash", "cc.root is missing", line("cc.root=luks+verity:ab:1 ", "")),
		fails("boot.command-line", "credentials taken", "systemd.import_credentials=no is missing", line("systemd.import_credentials=no ", "")),
		fails("boot.command-line", "partitions found by type", "rd.systemd.gpt_auto=0 is missing", line(" rd.systemd.gpt_auto=0", "")),
		fails("boot.production", "a test build", "cc.test=1", line("console=", "cc.test=1 console=")),
		fails("boot.production", "a debug image", "cc.debug=1", line("console=", "cc.debug=1 console=")),
		skips("boot.secure-boot", "Secure Boot off", "register 11 instead", writes(secureBoot, "\x06\x00\x00\x00\x00")),
		skips("boot.secure-boot", "direct boot on SEV-SNP", "kernel hashes in place of Secure Boot", line("cc.keys=tpm", "cc.keys=snp")),
		skips("boot.secure-boot", "firmware without it", "no such switch", func(_ *testing.T, s *system) { delete(s.files, secureBoot) }),
		fails("boot.secure-boot", "a variable cut short", "1 bytes", writes(secureBoot, "\x06")),
		fails("boot.root-read-only", "a writable root", "rw", mounts("/ / ro,relatime", "/ / rw,relatime")),
		fails("boot.root-read-only", "another file system over it", "tmpfs", mounts("34 27", "35 24 0:40 / / rw - tmpfs x rw\n34 27")),
		fails("boot.foreign-mounts", "a disk of the host", "/dev/vdb1 on /mnt", mounts("34 27", "35 24 253:17 / /mnt rw,nosuid,nodev,noexec - ext4 /dev/vdb1 rw\n34 27")),
		fails("boot.mount-options", "programs on the writable volume", "/mnt/dynamic lacks noexec", mounts("/mnt/dynamic rw,nosuid,nodev,noexec", "/mnt/dynamic rw,nosuid,nodev")),
		fails("boot.mount-options", "devices under /var", "/var lacks nodev", mounts("/var rw,nosuid,nodev,noexec", "/var rw,nosuid,noexec")),
		fails("boot.mount-options", "set-user-ID programs under /etc", "/etc lacks nosuid", mounts("/etc rw,nosuid,nodev", "/etc rw,nodev")),
		fails("boot.capacity", "a larger /var", "not size=262144k", mounts("size=262144k", "size=1048576k")),
		fails("boot.capacity", "no /var of its own", "no mount of its own", mounts("/var rw", "/other rw")),
		fails("boot.swap", "swap on a disk", "/dev/vdb", writes("proc/swaps", "Filename\tType\n/dev/vdb partition 1 0 -2\n")),
		fails("boot.machine-id", "none yet", "uninitialized", writes("etc/machine-id", "uninitialized\n")),
		fails("boot.machine-id", "zeros", "0000", writes("etc/machine-id", strings.Repeat("0", 32)+"\n")),
		fails("boot.identity-key", "a key that others read", "0644", func(_ *testing.T, s *system) { s.files["etc/cc/keys/identity.key"].Mode = 0o644 }),
		fails("boot.identity-key", "no key", "identity.key", func(_ *testing.T, s *system) { delete(s.files, "etc/cc/keys/identity.key") }),
		fails("boot.identity-key", "half a key", "identity.pub", func(_ *testing.T, s *system) { delete(s.files, "etc/cc/keys/identity.pub") }),
		fails("boot.identity-key", "a key on a disk", "no tmpfs of its own", mounts("/etc/cc/keys rw", "/elsewhere rw")),
		fails("boot.host-credentials", "a password from SMBIOS", "passwd.hashed-password.root", writes("run/credentials/@system/passwd.hashed-password.root", "x")),
		fails("boot.host-units", "a unit from a credential", "planted.service", writes("run/systemd/system/planted.service", "[Service]")),
		fails("boot.host-units", "a transient unit", "run-1.service", writes("run/systemd/transient/run-1.service", "[Service]")),
		fails("hardening.lockdown", "none", "[none]", writes("sys/kernel/security/lockdown", "[none] integrity confidentiality\n")),
		fails("hardening.lockdown", "a kernel without it", "has no lockdown", func(_ *testing.T, s *system) { delete(s.files, "sys/kernel/security/lockdown") }),
		fails("hardening.module-signatures", "not enforced", `"N"`, writes("sys/module/module/parameters/sig_enforce", "N\n")),
		fails("hardening.taint", "an unsigned module", "unsigned module was loaded: (gone)", writes("proc/sys/kernel/tainted", "8192\n")),
		fails("hardening.taint", "an unsigned driver in a kernel that was locked", "unsigned module was loaded: nvidia", func(_ *testing.T, s *system) {
			s.write("proc/sys/kernel/tainted", "8192\n")
			s.write("sys/module/nvidia/taint", "OE\n")
		}),
		fails("hardening.taint", "an unsigned module beside the driver", "unsigned module was loaded: evil", func(t *testing.T, s *system) {
			s.write("proc/sys/kernel/tainted", "8192\n")
			s.write("sys/module/nvidia/taint", "OE\n")
			s.write("sys/module/evil/taint", "E\n")
			s.replace(t, "proc/cmdline", "lockdown=integrity module.sig_enforce=1", "cc.lockdown=late")
		}),
		fails("hardening.taint", "an oops", "oopsed", writes("proc/sys/kernel/tainted", "128\n")),
		fails("hardening.kexec", "another kernel waits", `"1"`, writes("sys/kernel/kexec_loaded", "1\n")),
		fails("hardening.mitigations", "an open hole", "spectre_v2: Vulnerable", writes("sys/devices/system/cpu/vulnerabilities/spectre_v2", "Vulnerable\n")),
		skips("hardening.mitigations", "an emulated processor", "an emulated processor", func(_ *testing.T, s *system) {
			s.write("sys/devices/system/cpu/vulnerabilities/spectre_v2", "Vulnerable\n")
			s.write("proc/cpuinfo", "model name\t: QEMU TCG CPU version 2.5+\n")
		}),
		fails("hardening.masked-units", "a getty that may run", "getty@.service", func(_ *testing.T, s *system) { delete(s.files, "etc/systemd/system/getty@.service") }),
		fails("hardening.masked-units", "an emergency shell", "rescue.service", func(_ *testing.T, s *system) {
			s.link("etc/systemd/system/rescue.service", "/usr/lib/systemd/system/rescue.service")
		}),
		fails("hardening.no-shell", "a shell", "bash (90)", func(_ *testing.T, s *system) { s.process("90", "bash", "bash") }),
		fails("hardening.no-shell", "a login shell", "-sh (90)", func(_ *testing.T, s *system) { s.process("90", "-sh", "-sh") }),
		fails("hardening.no-shell", "a getty", "agetty (90)", func(_ *testing.T, s *system) { s.process("90", "agetty", "/sbin/agetty ttyS0") }),
		fails("hardening.units", "a unit that is not on the list", "telnet.service", writes("run/systemd/units/invocation:telnet.service", "x")),
		fails("hardening.core-limit", "a service that may dump", "dbus-daemon (80)", writes("proc/80/limits", strings.Replace(limits, "0     ", "unlimited", 1))),
		fails("hardening.journal", "a journal on a disk", "/var/log/journal has", writes("var/log/journal/0123/system.journal", "x")),
		fails("hardening.journal", "no journal", "none in /run", func(_ *testing.T, s *system) { delete(s.files, "run/log/journal/0123/system.journal") }),
		fails("hardening.audit", "rules that may change", `"1", not 2`, func(_ *testing.T, s *system) { s.audited = strings.Replace(auditStatus, "enabled 2", "enabled 1", 1) }),
		fails("hardening.audit", "no daemon", "no daemon", func(_ *testing.T, s *system) { s.audited = strings.Replace(auditStatus, "pid 412", "pid 0", 1) }),
		fails("hardening.audit", "lost records", "lost: 5", func(_ *testing.T, s *system) { s.audited = strings.Replace(auditStatus, "lost 0", "lost 5", 1) }),
		fails("network.firewall", "no rules", "input", func(_ *testing.T, s *system) { s.rules = `{"nftables": []}` }),
		fails("network.firewall", "all goes out", "output", rules(`"hook": "output", "prio": 0, "policy": "drop"`, `"hook": "output", "prio": 0, "policy": "accept"`)),
		fails("network.firewall", "IPv6 is left open", "input", func(_ *testing.T, s *system) {
			s.rules = strings.ReplaceAll(s.rules, `"family": "inet"`, `"family": "ip"`)
		}),
		fails("network.firewall", "a rule that takes everything", "everything: input", rules(`"nftables": [`,
			`"nftables": [{"rule": {"family": "inet", "table": "cc_base", "chain": "input", "expr": [{"counter": {}}, {"accept": null}]}},`)),
		mutant{"network.firewall", "no answer that can be read", func(_ *testing.T, s *system) { s.rules = "table inet" }, check.Error, "nft"},
		fails("network.port-22", "sshd", "tcp 0.0.0.0:22", writes("proc/1/net/tcp", sockets+"   1: 00000000:0016 00000000:0000 0A 0:0 0:0 0 0 0 1 1\n")),
		fails("network.port-22", "sshd on IPv6", "tcp6 [::]:22", writes("proc/1/net/tcp6", strings.Split(sockets, "\n")[0]+"\n   1: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 1 1\n")),
		fails("network.listeners", "a server for all", "tcp 10.0.2.15:8080", writes("proc/1/net/tcp", sockets+"   1: 0F02000A:1F90 00000000:0000 0A 0:0 0:0 0 0 0 1 1\n")),
		fails("network.listeners", "a datagram server", "udp 0.0.0.0:5355", writes("proc/1/net/udp", datagrams+"  102: 00000000:14EB 00000000:0000 07 0:0 0:0 0 0 0 1 1\n")),
		fails("attestation.device", "no device in profile snp", "no device", func(t *testing.T, s *system) {
			delete(s.files, "dev/sev-guest")
			s.replace(t, "proc/cmdline", "cc.keys=tpm", "cc.keys=snp")
		}),
		skips("attestation.device", "a plain machine", "plain machine", func(_ *testing.T, s *system) { delete(s.files, "dev/sev-guest") }),
		fails("gpu.assigned", "a GPU without its driver", "0000:01:00.0 has no driver", func(_ *testing.T, s *system) { delete(s.files, "sys/bus/pci/devices/0000:01:00.0/driver") }),
		fails("gpu.state", "no word of it", "has not told", func(_ *testing.T, s *system) { delete(s.files, "run/cc/gpu.json") }),
		fails("gpu.state", "devtools", "DEVTOOLS", writes("run/cc/gpu.json", `{"state": "devtools"}`)),
		fails("gpu.state", "nobody checked it", "not attested", writes("run/cc/gpu.json", `{"state": "unattested"}`)),
		fails("gpu.state", "off in a confidential machine", "computing is off", func(t *testing.T, s *system) {
			s.write("run/cc/gpu.json", `{"state": "cc-off"}`)
			s.replace(t, "proc/cmdline", "cc.keys=tpm", "cc.keys=snp")
		}),
		mutant{"gpu.state", "half a file", writes("run/cc/gpu.json", "{"), check.Error, "gpu.json"},
		skips("gpu.state", "off in a plain machine", "a plain machine", writes("run/cc/gpu.json", `{"state": "cc-off"}`)),
		skips("gpu.state", "none", "no GPU", writes("run/cc/gpu.json", `{"state": "none"}`)),
		skips("gpu.assigned", "none", "no GPU", writes("sys/bus/pci/devices/0000:01:00.0/vendor", "0x1af4\n")),
	}
	for _, name := range slices.Sorted(maps.Keys(guest.KernelSettings())) {
		all = append(all, fails("hardening.sysctl."+name, "another value", `"9"`, writes("proc/sys/"+strings.ReplaceAll(name, ".", "/"), "9\n")))
	}
	return all
}

func TestEachMutantIsFoundByItsCheck(t *testing.T) {
	for _, m := range mutants() {
		t.Run(m.id+" "+m.name, func(t *testing.T) {
			s := good(t)
			m.change(t, s)
			checks, err := check.Select(s.checks(), []string{m.id})
			if err != nil {
				t.Fatal(err)
			}
			v := checks[0].Func(t.Context())
			if v.Status != m.status || !strings.Contains(v.Detail, m.detail) {
				t.Errorf("%s: %s; want %s with %q", v.Status, v.Detail, m.status, m.detail)
			}
		})
	}
}

func TestEveryCheckHasAMutantAndARemedy(t *testing.T) {
	found := map[string]bool{}
	for _, m := range mutants() {
		found[m.id] = found[m.id] || m.status == check.Fail
	}
	seen := map[string]bool{}
	for _, c := range good(t).checks() {
		if !found[c.ID] {
			t.Errorf("%s: nothing makes it fail", c.ID)
		}
		if seen[c.ID] || c.Remedy == "" || c.Title == "" || strings.HasSuffix(c.Title, ".") {
			t.Errorf("%s is there twice, or lacks a title or a remedy", c.ID)
		}
		seen[c.ID] = true
	}
	t.Logf("%d checks, %d mutants", len(seen), len(mutants()))
}

// What the image sets and what is read back must be the same list.
func TestTheKernelSettingsAreThoseOfTheImage(t *testing.T) {
	text, err := os.ReadFile("../../overlays/base/tree/usr/lib/sysctl.d/90-cc-base.conf")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, line := range strings.Split(string(text), "\n") {
		if name, value, ok := strings.Cut(line, " = "); ok && !strings.HasPrefix(line, "#") {
			got[name] = value
		}
	}
	if !maps.Equal(got, guest.KernelSettings()) {
		t.Errorf("the image sets\n%v\nand the checks read\n%v", got, guest.KernelSettings())
	}
}

// A wish for a unit is a link to it; a file with the link's text is none, and
// nothing says so.
func TestEveryUnitThatIsWantedIsALink(t *testing.T) {
	const system = "../../overlays/base/tree/usr/lib/systemd/system"
	wishes, err := filepath.Glob(system + "/*.wants/*")
	if err != nil || len(wishes) == 0 {
		t.Fatal(wishes, err)
	}
	for _, w := range wishes {
		if to, err := os.Readlink(w); err != nil || to != "../"+filepath.Base(w) {
			t.Errorf("%s: %q, %v", w, to, err)
		}
	}
}

func TestTheGPUsDriverMayBeUnsignedWhereTheKernelWasLockedBehindIt(t *testing.T) {
	s := good(t)
	s.write("proc/sys/kernel/tainted", "12288\n")
	s.write("sys/module/nvidia/taint", "OE\n")
	s.write("sys/module/nvidia_uvm/taint", "OE\n")
	s.replace(t, "proc/cmdline", "lockdown=integrity module.sig_enforce=1", "cc.lockdown=late")
	checks, err := check.Select(s.checks(), []string{"hardening.taint"})
	if err != nil {
		t.Fatal(err)
	}
	if v := checks[0].Func(t.Context()); v.Status != check.Pass {
		t.Errorf("%s: %s", v.Status, v.Detail)
	}
}

// A guest without the files is one where nothing can be shown to be well.
func TestAnEmptyGuestPassesNothingThatMatters(t *testing.T) {
	s := &system{files: fstest.MapFS{}, ready: fmt.Errorf("no such file")}
	for _, r := range check.Run(t.Context(), check.Guest, s.checks()).Results {
		if r.Status == check.Pass && r.ID != "boot.host-credentials" && r.ID != "boot.host-units" {
			t.Errorf("%s passes: %s", r.ID, r.Detail)
		}
	}
}
