package snp

import (
	"encoding/binary"

	"cc-base/tasks/tee/ovmf"
)

// bootEIP is where the boot processor of an x86 machine starts.
const bootEIP = 0xfffffff0

// Offsets in a VMSA (AMD APM volume 2, table B-4).
const (
	atES       = 0x000 // ES, CS, SS, DS, FS, GS, GDTR, LDTR, IDTR, TR: 16 bytes each
	atEFER     = 0x0D0
	atCR4      = 0x148
	atCR0      = 0x158
	atDR7      = 0x160
	atDR6      = 0x168
	atRFLAGS   = 0x170
	atRIP      = 0x178
	atPAT      = 0x268
	atRDX      = 0x310
	atFeatures = 0x3B0
	atXCR0     = 0x3E8
	atMXCSR    = 0x408
	atFCW      = 0x410
)

// vmsa returns the page that holds a processor's registers at launch, as QEMU
// sets them at reset and KVM completes them (QEMU target/i386/cpu.c,
// x86_cpu_reset_hold; Linux arch/x86/kvm/svm/sev.c, sev_es_sync_vmsa).
func vmsa(eip, signature uint32, features uint64) [ovmf.PageSize]byte {
	var p [ovmf.PageSize]byte
	segments := []struct {
		selector, attributes uint16
		limit                uint32
		base                 uint64
	}{
		{0, 0x93, 0xffff, 0},                             // ES
		{0xf000, 0x9b, 0xffff, uint64(eip & 0xffff0000)}, // CS
		{0, 0x93, 0xffff, 0},                             // SS
		{0, 0x93, 0xffff, 0},                             // DS
		{0, 0x93, 0xffff, 0},                             // FS
		{0, 0x93, 0xffff, 0},                             // GS
		{0, 0, 0xffff, 0},                                // GDTR
		{0, 0x82, 0xffff, 0},                             // LDTR
		{0, 0, 0xffff, 0},                                // IDTR
		{0, 0x8b, 0xffff, 0},                             // TR
	}
	for i, s := range segments {
		at := p[atES+16*i:]
		binary.LittleEndian.PutUint16(at, s.selector)
		binary.LittleEndian.PutUint16(at[2:], s.attributes)
		binary.LittleEndian.PutUint32(at[4:], s.limit)
		binary.LittleEndian.PutUint64(at[8:], s.base)
	}
	for offset, value := range map[int]uint64{
		atEFER:     0x1000, // SVME, set by KVM
		atCR4:      0x40,   // MCE, set by KVM
		atCR0:      0x10,   // ET
		atDR7:      0x400,
		atDR6:      0xffff0ff0,
		atRFLAGS:   0x2,
		atRIP:      uint64(eip & 0xffff),
		atPAT:      0x0007040600070406, // the power-on value
		atRDX:      uint64(signature),  // what CPUID leaf 1 returns in EAX
		atFeatures: features,
		atXCR0:     0x1,
	} {
		binary.LittleEndian.PutUint64(p[offset:], value)
	}
	binary.LittleEndian.PutUint32(p[atMXCSR:], 0x1f80)
	binary.LittleEndian.PutUint16(p[atFCW:], 0x37f)
	return p
}
