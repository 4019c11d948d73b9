// Package snp computes the launch digest of an AMD SEV-SNP guest: the number
// that the processor will put into the field MEASUREMENT of its report, from
// the firmware image, the number and model of the virtual processors and, for
// measured direct boot, kernel, initrd and command line.
//
//	hashes, err := snp.HashBoot(uki, nil, "")
//	d, err := snp.Launch(image, snp.Options{VCPUs: 4, Model: "EPYC-v4", Features: 1, Kernel: &hashes})
//
// The digest is that of QEMU with KVM, which is what libvirt starts. Other
// hypervisors start processors with other registers and get another one. What
// goes in and nobody sees: the number of processors, their model and the
// guest features, so a digest means nothing without them; [Table] makes all
// that an installation could choose from.
package snp

import (
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"

	"cc-base/tasks/tee/ovmf"
)

// Digest is a launch digest, SHA-384.
type Digest [48]byte

// String returns the digest in lower-case hexadecimal.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText makes JSON of a digest hexadecimal.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (d *Digest) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err != nil {
		return err
	}
	if len(b) != len(d) {
		return fmt.Errorf("a digest of %d bytes, want %d", len(b), len(d))
	}
	copy(d[:], b)
	return nil
}

// Limits of [Options].
const (
	MaxVCPUs = 4096 // of QEMU's machine q35 (hw/i386/pc_q35.c)
)

// Guest features (SEV_FEATURES of the VMSA, AMD APM volume 2, table B-4). The
// host's kernel decides: bit 5 is set by KVM from Linux 6.6 on where the
// processor has it and the parameter debug_swap of kvm_amd is on.
const (
	FeatureSNP       = 1 << 0
	FeatureDebugSwap = 1 << 5
)

// Options are what a digest depends on beside the firmware.
type Options struct {
	VCPUs    int           // 1 to [MaxVCPUs]
	Model    string        // CPU model as QEMU or libvirt name it; see [Models]
	Features uint64        // SEV_FEATURES; [FeatureSNP] must be in it
	Kernel   *KernelHashes // measured direct boot; nil without
}

// Row is one line of a [Table].
type Row struct {
	VCPUs    int    `json:"vcpus"`
	Model    string `json:"cpuModel"`
	Features uint64 `json:"guestFeatures"`
	Digest   Digest `json:"digest"`
}

// The types of a page (SEV-SNP ABI 56860, SNP_LAUNCH_UPDATE, PAGE_TYPE).
const (
	pageNormal  = 1
	pageVMSA    = 2
	pageZero    = 3
	pageSecrets = 5
	pageCPUID   = 6
)

// vmsaAddress is where KVM says that the page of a processor's registers lies
// (arch/x86/kvm/svm/sev.c, snp_launch_update_vmsa: the last page of a 48-bit
// address space).
const vmsaAddress = 0xFFFFFFFFF000

// update appends one page to the digest: SHA-384 of a PAGE_INFO structure that
// begins with the digest so far (SEV-SNP ABI 56860, chapter on
// SNP_LAUNCH_UPDATE). contents is the hash of a page whose content counts, nil
// for the others.
func (d Digest) update(kind byte, contents *[48]byte, address uint64) Digest {
	const size = 0x70
	var info [size]byte
	copy(info[:], d[:])
	if contents != nil {
		copy(info[48:], contents[:])
	}
	binary.LittleEndian.PutUint16(info[96:], size)
	// Bytes 99 to 103: not an initial migration image, no permissions for
	// VMPL 1 to 3, reserved.
	info[98] = kind
	binary.LittleEndian.PutUint64(info[104:], address)
	return sha512.Sum384(info[:])
}

// empty appends a range of pages without content.
func (d Digest) empty(kind byte, address, size uint32) Digest {
	for at := uint64(address); at < uint64(address)+uint64(size); at += ovmf.PageSize {
		d = d.update(kind, nil, at)
	}
	return d
}

// FirmwareDigest is the digest after the firmware's own pages and before
// everything else; others call it the OVMF hash.
func FirmwareDigest(image []byte) (Digest, error) {
	fw, err := ovmf.Parse(image)
	if err != nil {
		return Digest{}, err
	}
	return firmwarePages(image, fw), nil
}

func firmwarePages(image []byte, fw ovmf.Firmware) Digest {
	var d Digest
	for at := 0; at < len(image); at += ovmf.PageSize {
		page := sha512.Sum384(image[at : at+ovmf.PageSize])
		d = d.update(pageNormal, &page, fw.Base+uint64(at))
	}
	return d
}

// sections appends what the firmware's SEV metadata asks for, in its order.
func (d Digest) sections(fw ovmf.Firmware, kernel *KernelHashes) (Digest, error) {
	if len(fw.SEV) == 0 {
		return Digest{}, fmt.Errorf("the firmware has no SEV metadata: it cannot start an SNP guest")
	}
	if kernel != nil && fw.Section(ovmf.KernelHashes) == nil {
		// QEMU refuses kernel-hashes=on here; a digest without the kernel
		// would be one that anything boots with.
		return Digest{}, fmt.Errorf("the firmware has no page for kernel hashes: it cannot measure a kernel given to QEMU")
	}
	hashed := false
	for _, s := range fw.SEV {
		switch s.Type {
		case ovmf.SecMemory, ovmf.CallingArea:
			d = d.empty(pageZero, s.Address, s.Size)
		case ovmf.Secrets:
			d = d.empty(pageSecrets, s.Address, s.Size)
		case ovmf.CPUID:
			d = d.empty(pageCPUID, s.Address, s.Size)
		case ovmf.KernelHashes:
			if kernel == nil {
				d = d.empty(pageZero, s.Address, s.Size)
				continue
			}
			if hashed {
				return Digest{}, fmt.Errorf("the firmware has two pages for kernel hashes")
			}
			hashed = true
			page, err := kernel.page(fw, s)
			if err != nil {
				return Digest{}, err
			}
			sum := sha512.Sum384(page[:])
			d = d.update(pageNormal, &sum, uint64(s.Address))
		default:
			return Digest{}, fmt.Errorf("the firmware has a section of type %s", s.Type)
		}
	}
	return d, nil
}

// Launch returns the launch digest of one guest.
func Launch(image []byte, o Options) (Digest, error) {
	rows, err := Table(image, o.Kernel, []int{o.VCPUs}, []string{o.Model}, []uint64{o.Features})
	if err != nil {
		return Digest{}, err
	}
	return rows[0].Digest, nil
}

// Table returns the digests of all combinations, by model, then features, then
// number of processors, each in the order given. The firmware, by far the most
// of the work, is measured once.
func Table(image []byte, kernel *KernelHashes, vcpus []int, models []string, features []uint64) ([]Row, error) {
	fw, err := ovmf.Parse(image)
	if err != nil {
		return nil, err
	}
	most := 0
	for _, n := range vcpus {
		if n < 1 || n > MaxVCPUs {
			return nil, fmt.Errorf("%d virtual processors: want 1 to %d", n, MaxVCPUs)
		}
		most = max(most, n)
	}
	if most > 1 && fw.ResetEIP == 0 {
		return nil, fmt.Errorf("the firmware has no reset vector for more than one processor")
	}
	base, err := firmwarePages(image, fw).sections(fw, kernel)
	if err != nil {
		return nil, err
	}
	var rows []Row
	for _, model := range models {
		signature, err := Signature(model)
		if err != nil {
			return nil, err
		}
		for _, f := range features {
			if f&FeatureSNP == 0 {
				return nil, fmt.Errorf("guest features %#x: bit 0, SNP, is not set", f)
			}
			chain := processors(base, most, fw.ResetEIP, signature, f)
			for _, n := range vcpus {
				rows = append(rows, Row{VCPUs: n, Model: model, Features: f, Digest: chain[n-1]})
			}
		}
	}
	return slices.Clip(rows), nil
}

// processors returns the digests with one processor, two and so on up to most:
// the boot processor first, then the others, which are all alike.
func processors(d Digest, most int, resetEIP, signature uint32, features uint64) []Digest {
	page := vmsa(bootEIP, signature, features)
	sum := sha512.Sum384(page[:])
	chain := make([]Digest, most)
	for n := range chain {
		d = d.update(pageVMSA, &sum, vmsaAddress)
		chain[n] = d
		if n == 0 {
			page = vmsa(resetEIP, signature, features)
			sum = sha512.Sum384(page[:])
		}
	}
	return chain
}
