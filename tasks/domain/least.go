package domain

import "cc-base/tasks/hw"

// Versions are those of the programs that a guest needs on its host, as they
// print them: major and minor.
type Versions struct{ QEMU, Libvirt string }

// LeastFor returns the first versions that can start a guest of the kind (the
// release notes of QEMU and libvirt): sev-snp-guest and its launch security; the
// object tdx-guest, and tdx as a kind of launch security; for a plain guest, a
// pvpanic device on PCI.
func LeastFor(kind hw.TEE) Versions {
	switch kind {
	case hw.SEVSNP:
		return Versions{QEMU: "9.1", Libvirt: "10.5"}
	case hw.TDX:
		return Versions{QEMU: "10.1", Libvirt: "11.6"}
	}
	return Versions{QEMU: "7.2", Libvirt: "9.1"}
}
