package tdx

import (
	"bytes"
	"fmt"

	"cc-base/tasks/boot"
	"cc-base/tasks/fault"
)

// measured is the order in which systemd-stub measures a UKI's sections
// (systemd 257 src/fundamental/uki.h); a test compares it with that of
// boot.PCR11.
func measured() []string {
	return []string{".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey", ".profile", ".dtbauto", ".hwids"}
}

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
	for _, name := range measured() {
		data := sections[name]
		if len(data) == 0 { // to the stub, an empty section is none
			continue
		}
		log.add([]byte(name+"\x00"), "name of section %s", name)
		log.add(data, "section %s", name)
	}
	if data := sections[".cmdline"]; len(data) > 0 {
		line := stubCommandLine(data)
		if err := ascii(line); err != nil {
			return nil, fmt.Errorf("section .cmdline: %w", err)
		}
		log.add(utf16NUL(line), "command line")
	}
	if initrd := stubInitrd(sections); len(initrd) > 0 {
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

// stubInitrd returns the initrd that the stub gives to Linux: those of the UKI
// and archives that it makes itself of other sections, each filled up to a
// multiple of 4 bytes unless it is the only one (systemd 257 src/boot/stub.c,
// generate_embedded_initrds, combine_initrds; the enum before them is the
// order).
func stubInitrd(sections map[string][]byte) []byte {
	var parts [][]byte
	for _, name := range []string{".ucode", ".initrd"} {
		if data := sections[name]; len(data) > 0 {
			parts = append(parts, data)
		}
	}
	for _, extra := range []struct{ section, file string }{
		{".pcrsig", "tpm2-pcr-signature.json"},
		{".pcrpkey", "tpm2-pcr-public-key.pem"},
		{".osrel", "os-release"},
		{".profile", "profile"},
	} {
		if data := sections[extra.section]; len(data) > 0 {
			parts = append(parts, stubArchive(extra.file, data))
		}
	}
	if len(parts) == 1 {
		return parts[0]
	}
	var out []byte
	for _, p := range parts {
		out = pad4(append(out, p...))
	}
	return out
}

// stubArchive returns a cpio archive with the folder .extra and one file in
// it, byte for byte as the stub writes it (systemd 257 src/boot/cpio.c).
func stubArchive(file string, data []byte) []byte {
	const folder, regular = 0o40555, 0o100444
	var out []byte
	item := func(inode, mode, links uint32, name string, content []byte) {
		out = append(out, "070701"...)
		for _, v := range []uint32{inode, mode, 0, 0, links, 0, uint32(len(content)), 0, 0, 0, 0, uint32(len(name) + 1), 0} {
			out = fmt.Appendf(out, "%08x", v)
		}
		out = pad4(append(append(out, name...), 0))
		out = pad4(append(out, content...))
	}
	item(1, folder, 1, ".extra", nil)
	item(2, regular, 1, ".extra/"+file, data)
	// The trailer is a constant of the stub's, in which the length of its name
	// has a capital letter.
	const zeros = "00000000"
	out = append(out, "070701"+zeros+zeros+zeros+zeros+"00000001"+zeros+zeros+zeros+zeros+zeros+zeros+"0000000B"+zeros+"TRAILER!!!\x00"...)
	return pad4(out)
}

func pad4(b []byte) []byte { return append(b, make([]byte, -len(b)&3)...) }
