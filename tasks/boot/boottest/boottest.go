// Package boottest makes small boot images for tests.
package boottest

import "encoding/binary"

// Section is one section of an image.
type Section struct{ Name, Data string }

// PE returns a PE32+ file of the sections, in order, each padded to 512 bytes
// as linkers do. Nothing starts it; it can be measured and signed.
func PE(sections ...Section) []byte {
	const unit, peStart, table = 512, 64, 64 + 4 + 20 + 240
	le := binary.LittleEndian
	up := func(n int) int { return (n + unit - 1) / unit * unit }
	headers := up(table + 40*len(sections))
	b := make([]byte, headers)
	copy(b, "MZ")
	le.PutUint32(b[60:], peStart)
	copy(b[peStart:], "PE\x00\x00")
	coff := b[peStart+4:]
	le.PutUint16(coff, 0x8664)
	le.PutUint16(coff[2:], uint16(len(sections)))
	le.PutUint16(coff[16:], 240)
	opt := coff[20:]
	le.PutUint16(opt, 0x20b)
	le.PutUint32(opt[60:], uint32(headers))
	le.PutUint32(opt[64:], 0x12345678) // checksum, which is not measured
	le.PutUint32(opt[108:], 16)
	for i, s := range sections {
		h := b[table+40*i:]
		copy(h[:8], s.Name)
		le.PutUint32(h[8:], uint32(len(s.Data)))
		le.PutUint32(h[16:], uint32(up(len(s.Data))))
		le.PutUint32(h[20:], uint32(len(b)))
		b = append(b, s.Data...)
		b = append(b, make([]byte, up(len(s.Data))-len(s.Data))...)
	}
	return b
}

// Kernel returns a section .linux with something that can be measured as a
// kernel.
func Kernel() Section { return Section{".linux", string(PE(Section{".text", "kernel"}))} }

// UKI returns an unsigned boot image with the command line.
func UKI(commandLine string) []byte {
	return PE(Kernel(), Section{".osrel", "ID=debian\n"}, Section{".cmdline", commandLine}, Section{".initrd", "initrd"})
}
