package hw

import (
	"io/fs"
	"strings"
)

// TEE is the kind of trusted execution environment that a host offers to its
// guests.
type TEE string

// The kinds, as TEE_TYPE in tee.conf names them.
const (
	NoTEE  TEE = "none"
	SEVSNP TEE = "sev-snp"
	TDX    TEE = "tdx"
)

// HostTEE returns what KVM on this host offers and the facts it was told by.
// The parameters of the KVM modules decide, not the flags of the CPU: a module
// may keep the feature off on a CPU that has it, and the parameter reads N
// then. SNP needs the firmware's device node as well.
func HostTEE(root fs.FS) (TEE, string) {
	snp := module(root, "sys/module/kvm_amd/parameters/sev_snp")
	tdx := module(root, "sys/module/kvm_intel/parameters/tdx")
	_, err := fs.Stat(root, "dev/sev")
	switch {
	case snp && err == nil:
		return SEVSNP, "kvm_amd has sev_snp on and /dev/sev is there"
	case snp:
		return NoTEE, "kvm_amd has sev_snp on, but /dev/sev is missing: the firmware's driver (ccp) is not loaded"
	case tdx:
		return TDX, "kvm_intel has tdx on"
	}
	return NoTEE, "neither kvm_amd's sev_snp nor kvm_intel's tdx is on"
}

func module(root fs.FS, parameter string) bool {
	b, err := fs.ReadFile(root, parameter)
	value := strings.TrimSpace(string(b))
	return err == nil && (value == "Y" || value == "1")
}
