package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"cc-base/installer/deployment"
	"cc-base/installer/target"
	"cc-base/installer/unpacked"
)

// report says what was done, what was not, and how to start the machine.
func (a *app) report(src *source, t target.Target, j job, dir, secret string) {
	m := src.manifest
	fmt.Fprintf(a.out, `
installed: %s %s (%s) as %s, %d partitions, every byte read back and compared
           the partition table fills the device; cc-dynamic is formatted by the guest at its first boot
this disk: PCR 5 (SHA-256) %s
           RTMR1 (TDX, disk boot) %s
`, m.Distribution, m.Suite, m.Profile, j.record.Name, len(m.Disk.Partitions), j.record.PCR5, j.record.RTMR1)
	switch {
	case secret == "" && len(j.keys.Enrolment) == 0:
		fmt.Fprintln(a.out, "keys:      nothing in the image is encrypted; cc-dynamic gets its key in the guest")
	case j.keys.person != nil && len(j.keys.Recovery) > 0:
		fmt.Fprintf(a.out, "recovery:  the key of root and app is in %s, encrypted to %s\n", filepath.Join(dir, deployment.RecoveryFile), j.keys.person.Fingerprint())
	case len(j.keys.Recovery) > 0:
		// To the terminal and nowhere else: standard output may be a log.
		fmt.Fprintf(a.err, "recovery:  key of root and app, shown this once: %s\n", j.keys.Recovery)
	default:
		fmt.Fprintln(a.out, "recovery:  no key was made: there is no terminal, and --recipient names nobody")
	}
	if secret != "" {
		fmt.Fprintf(a.out, "keys:      root and app have keys of their own; until the guest's first boot, %s opens them\n", secret)
	}
	if j.vm != nil {
		fmt.Fprintf(a.out, `the VM:    %s is defined and ready; it starts with the host, and needs no secret any more
           virsh list --all shows it, virsh console %s is closed: it has no shell
`, j.record.Name, j.record.Name)
		return
	}
	fmt.Fprintf(a.out, "check it:  %s verify %s\nboot it:   %s\n", quote(src.folder.Path("cc-install")), quote(t.Path),
		strings.Join(bootCommand(src.folder, t, secret), " \\\n             "))
}

// bootCommand returns the QEMU command that boots t as a plain machine, one
// option with its value per element, quoted for a shell.
func bootCommand(folder *unpacked.Folder, t target.Target, key string) []string {
	path, err := filepath.Abs(t.Path)
	if err != nil {
		path = t.Path
	}
	command := []string{
		"qemu-system-x86_64", "-machine q35,accel=kvm:tcg", "-cpu max", "-smp 2", "-m 2G", "-nodefaults -display none -serial stdio",
	}
	command = append(command, firmware(folder)...)
	command = append(command, "-drive "+quote("if=virtio,format=raw,cache=none,file="+comma(path)))
	if key != "" {
		command = append(command, "-fw_cfg "+quote("name=opt/org.cc-base/enroll,file="+comma(key)))
	}
	return command
}

// firmware finds the plain OVMF of the installer: a pair of code and variables,
// of which the variables are only ever changed in a snapshot, or one file.
func firmware(folder *unpacked.Folder) []string {
	var code, vars, whole string
	names, _ := folder.Names("firmware") // an absent folder has no firmware to offer
	for _, name := range names {
		switch base := filepath.Base(name); {
		case filepath.Ext(base) != ".fd" || strings.Contains(base, "amdsev") || strings.Contains(base, "inteltdx"):
		case strings.Contains(base, "CODE"):
			code = name
		case strings.Contains(base, "VARS"):
			vars = name
		default:
			whole = name
		}
	}
	abs := func(name string) string {
		p, err := filepath.Abs(folder.Path(name))
		if err != nil {
			return comma(folder.Path(name))
		}
		return comma(p)
	}
	switch {
	case code != "" && vars != "":
		return []string{
			"-drive " + quote("if=pflash,unit=0,format=raw,readonly=on,file="+abs(code)),
			"-drive " + quote("if=pflash,unit=1,format=raw,snapshot=on,file="+abs(vars)),
		}
	case whole != "":
		return []string{"-bios " + quote(abs(whole))}
	case code != "":
		return []string{"-bios " + quote(abs(code))}
	}
	return []string{"-bios /usr/share/ovmf/OVMF.fd"}
}

// comma doubles commas, which end a value in QEMU's option syntax.
func comma(path string) string { return strings.ReplaceAll(path, ",", ",,") }

// quote quotes text for a POSIX shell where that is needed.
func quote(text string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-=,:+@", r)
	}
	if text != "" && strings.IndexFunc(text, func(r rune) bool { return !plain(r) }) < 0 {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
