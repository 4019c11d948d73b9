package tdx

import (
	"bytes"
	"fmt"

	"cc-base/tasks/boot"
	"cc-base/tasks/boot/measured"
	"cc-base/tasks/fault"
)

// sections returns a UKI's sections by name.
func sections(uki []byte) (map[string][]byte, error) {
	all, err := boot.Sections(uki)
	if err != nil {
		return nil, err
	}
	if len(all[".linux"]) == 0 {
		return nil, fault.Newf(fault.BootImage, "not a UKI: it has no section .linux")
	}
	return all, nil
}

// ukiLog is the log of what systemd-stub and then Linux measure of a UKI
// (systemd 257 src/boot/stub.c, measure_sections and run).
func ukiLog(uki []byte) (Log, error) {
	sections, err := sections(uki)
	if err != nil {
		return nil, err
	}
	var log Log
	for _, s := range boot.MeasuredSections(sections) {
		log.add([]byte(s.Name+"\x00"), "name of section %s", s.Name)
		log.add(s.Data, "section %s", s.Name)
	}
	if data := sections[".cmdline"]; len(data) > 0 {
		line := stubCommandLine(data)
		if err := ascii(line); err != nil {
			return nil, fmt.Errorf("section .cmdline: %w", err)
		}
		log.add(measured.LoadOptions(line), "command line")
	}
	if initrd := measured.Initrd(sections); len(initrd) > 0 {
		log.add(initrd, "initrd")
	}
	return log, nil
}

// stubCommandLine returns what the stub makes of its section: up to a NUL,
// without white space at the ends, with every control character a space
// (systemd 257 src/boot/util.c, mangle_stub_cmdline).
func stubCommandLine(section []byte) string {
	line, _, _ := bytes.Cut(section, []byte{0})
	line = bytes.Map(func(r rune) rune {
		if r <= ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, line)
	return string(bytes.Trim(line, " "))
}
