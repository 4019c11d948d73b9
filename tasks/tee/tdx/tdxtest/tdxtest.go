// Package tdxtest makes small EFI programs for tests.
package tdxtest

import "encoding/binary"

// Section is one section of a program.
type Section struct{ Name, Data string }

// Program makes a PE32+ file of the sections in the given order, each padded
// to 512 bytes as linkers do, and after them the bytes of a certificate table.
func Program(certificates string, sections ...Section) []byte {
	const (
		pe       = 64
		optional = pe + 24
		table    = optional + 240
		align    = 512
	)
	le := binary.LittleEndian
	headers := (table + 40*len(sections) + align - 1) / align * align
	b := make([]byte, headers)
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], pe)
	copy(b[pe:], "PE\x00\x00")
	le.PutUint16(b[pe+4:], 0x8664)
	le.PutUint16(b[pe+6:], uint16(len(sections)))
	le.PutUint16(b[pe+20:], 240)
	le.PutUint16(b[optional:], 0x20b)
	le.PutUint32(b[optional+32:], 4096)
	le.PutUint32(b[optional+36:], align)
	le.PutUint32(b[optional+60:], uint32(headers))
	le.PutUint32(b[optional+64:], 0x12345678) // checksum
	le.PutUint16(b[optional+68:], 10)         // EFI application
	le.PutUint32(b[optional+108:], 16)
	address := 4096
	for i, s := range sections {
		h := b[table+40*i:]
		raw := (len(s.Data) + align - 1) / align * align
		copy(h[:8], s.Name)
		le.PutUint32(h[8:], uint32(len(s.Data)))
		le.PutUint32(h[12:], uint32(address))
		le.PutUint32(h[16:], uint32(raw))
		le.PutUint32(h[20:], uint32(len(b)))
		b = append(append(b, s.Data...), make([]byte, raw-len(s.Data))...)
		address += (raw + 4095) / 4096 * 4096
	}
	if certificates != "" {
		le.PutUint32(b[optional+112+4*8:], uint32(len(b)))
		le.PutUint32(b[optional+112+4*8+4:], uint32(len(certificates)))
		b = append(b, certificates...)
	}
	return b
}

// Kernel is a program without anything of interest in it.
func Kernel() []byte { return Program("", Section{".text", "kernel"}) }

// UKI is a unified kernel image with the sections that cc-base's have.
func UKI(line string) []byte {
	return Program("",
		Section{".text", "stub"}, Section{".osrel", "ID=debian\n"}, Section{".cmdline", line},
		Section{".initrd", "initrd of odd length"[:19]}, Section{".uname", "6.12.0"}, Section{".linux", string(Kernel())},
		Section{".sbat", "sbat,1\n"},
	)
}
