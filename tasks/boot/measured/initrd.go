package measured

import "fmt"

// Initrd returns the initrd that systemd-stub gives to Linux, and Linux
// measures: those of the UKI and archives that the stub makes itself of other
// sections, each filled up to a multiple of 4 bytes unless it is the only one
// (systemd 257 src/boot/stub.c, generate_embedded_initrds, combine_initrds; the
// enum before them is the order). It is empty where the UKI has none.
func Initrd(sections map[string][]byte) []byte {
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
			parts = append(parts, archive(extra.file, data))
		}
	}
	if len(parts) == 1 {
		return parts[0]
	}
	var all []byte
	for _, p := range parts {
		all = pad4(append(all, p...))
	}
	return all
}

// archive returns a cpio archive (newc) with the folder .extra and one file in
// it, without owner or time, byte for byte as the stub writes it (systemd 257
// src/boot/cpio.c).
func archive(file string, data []byte) []byte {
	const folder, regular = 0o40555, 0o100444
	var out []byte
	item := func(inode, mode uint32, name string, content []byte) {
		out = append(out, "070701"...)
		for _, v := range []uint32{inode, mode, 0, 0, 1, 0, uint32(len(content)), 0, 0, 0, 0, uint32(len(name) + 1), 0} {
			out = fmt.Appendf(out, "%08x", v)
		}
		out = pad4(append(append(out, name...), 0))
		out = pad4(append(out, content...))
	}
	item(1, folder, ".extra", nil)
	item(2, regular, ".extra/"+file, data)
	// The trailer is a constant of the stub's, in which the length of its name
	// has a capital letter.
	const zeros = "00000000"
	out = append(out, "070701"+zeros+zeros+zeros+zeros+"00000001"+zeros+zeros+zeros+zeros+zeros+zeros+"0000000B"+zeros+"TRAILER!!!\x00"...)
	return pad4(out)
}

func pad4(b []byte) []byte { return append(b, make([]byte, -len(b)&3)...) }
