package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// plant puts the program into the booted system, where it runs the verb in args
// before the guest calls itself ready. /run is what moves there from the initrd.
func plant(args []string) error {
	const (
		program = "/run/probe"
		units   = "/run/systemd/system"
		unit    = "probe-planted.service"
	)
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	wants := filepath.Join(units, "multi-user.target.wants")
	text := "[Unit]\nBefore=cc-ready.service\nAfter=sysinit.target\n[Service]\nType=oneshot\nExecStart=" + program + " " + strings.Join(args, " ") + "\n"
	return errors.Join(
		os.WriteFile(program, self, 0o755), os.MkdirAll(wants, 0o755),
		os.WriteFile(filepath.Join(units, unit), []byte(text), 0o644),
		os.Symlink("../"+unit, filepath.Join(wants, unit)),
	)
}

// hardened says what the running kernel has in force.
func hardened([]string) error {
	good, bad, err := sysctls("/usr/lib/sysctl.d/90-cc-base.conf")
	if err != nil {
		return err
	}
	say("sysctls: %d as set, others: %q", good, bad)
	rules, err := exec.Command("/usr/sbin/nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		return fmt.Errorf("nft: %w: %s", err, rules)
	}
	say("firewall: %d chains drop", strings.Count(string(rules), "policy drop"))
	for _, line := range strings.Split(string(rules), "\n") {
		if strings.Contains(line, "9100") {
			say("firewall: site: %s", strings.TrimSpace(line))
		}
	}
	n, err := listeners("0016")
	if err != nil {
		return err
	}
	say("ssh: %d listeners", n)
	// The kernel looks at the signature before it looks at the rest.
	module := append([]byte("\x7fELF"), make([]byte, 4092)...)
	say("unsigned module: %v", unix.InitModule(module, ""))
	_, _, errno := unix.Syscall6(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0, 0, 0)
	say("kexec: %v", errno)
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	say("host name: %s", name)
	var core unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &core); err != nil {
		return err
	}
	say("core limit: %d", core.Cur)
	var fs unix.Statfs_t
	if err := unix.Statfs("/tmp", &fs); err != nil {
		return err
	}
	say("/tmp: noexec %t", fs.Flags&unix.ST_NOEXEC != 0)
	return nil
}

// sysctls holds the settings of a sysctl.d file against the kernel's.
func sysctls(file string) (good int, bad []string, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, nil, err
	}
	for _, line := range strings.Split(string(text), "\n") {
		key, want, ok := strings.Cut(line, "=")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		key = strings.TrimSpace(key)
		paths, err := filepath.Glob("/proc/sys/" + strings.ReplaceAll(key, ".", "/"))
		if err != nil {
			return 0, nil, err
		}
		if len(paths) == 0 {
			bad = append(bad, key+" is not there")
		}
		for _, path := range paths {
			got, err := os.ReadFile(path)
			if strings.Join(strings.Fields(string(got)), " ") != strings.TrimSpace(want) {
				bad = append(bad, fmt.Sprintf("%s=%s %v", path, strings.TrimSpace(string(got)), err))
				continue
			}
			good++
		}
	}
	return good, bad, nil
}

// listeners counts the sockets that listen on the port, which is in hexadecimal
// as in /proc/net/tcp.
func listeners(port string) (int, error) {
	const listen = "0A"
	n := 0
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		text, err := io.ReadAll(f)
		f.Close()
		if err != nil {
			return 0, err
		}
		for _, line := range strings.Split(string(text), "\n") {
			if w := strings.Fields(line); len(w) > 3 && strings.HasSuffix(w[1], ":"+port) && w[3] == listen {
				n++
			}
		}
	}
	return n, nil
}
