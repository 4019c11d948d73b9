package tdx

import (
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"hash"

	"cc-base/tasks/tee/ovmf"
)

// Order is the order in which a hypervisor adds a measured section's pages and
// extends MRTD by their content.
type Order int

const (
	// SinglePass adds a page and extends by it, page by page: Linux 6.16 and
	// later with QEMU 10.1 and later (KVM_TDX_INIT_MEM_REGION).
	SinglePass Order = iota
	// TwoPass adds all pages of a section, then extends by all: the stacks of
	// Intel and Canonical with QEMU 8.
	TwoPass
)

// MRTD returns the measurement of the firmware image (Intel TDX Module ABI,
// TDH.MEM.PAGE.ADD and TDH.MR.EXTEND). It depends on the image alone, not on
// processors, memory or kernel, and of the image only on the code: a variable
// store with other Secure Boot keys has the same MRTD and another RTMR 0.
func MRTD(image []byte, order Order) (Digest, error) {
	fw, err := ovmf.Parse(image)
	if err != nil {
		return Digest{}, err
	}
	if len(fw.TDVF) == 0 {
		return Digest{}, fmt.Errorf("the firmware has no TDVF metadata: it cannot start a TDX guest")
	}
	extended := false
	h := sha512.New384()
	for _, s := range fw.TDVF {
		extended = extended || s.Attributes&ovmf.MRExtend != 0
		switch order {
		case SinglePass:
			for at := uint64(0); at < s.Size; at += ovmf.PageSize {
				addPage(h, s, at)
				extendPage(h, image, s, at)
			}
		case TwoPass:
			for at := uint64(0); at < s.Size; at += ovmf.PageSize {
				addPage(h, s, at)
			}
			for at := uint64(0); at < s.Size; at += ovmf.PageSize {
				extendPage(h, image, s, at)
			}
		default:
			return Digest{}, fmt.Errorf("unknown order %d", order)
		}
	}
	if !extended {
		return Digest{}, fmt.Errorf("the firmware has no measured section")
	}
	return Digest(h.Sum(nil)), nil
}

// record is the 128-byte buffer that names an operation and its address.
func record(operation string, address uint64) []byte {
	var b [128]byte
	copy(b[:16], operation)
	binary.LittleEndian.PutUint64(b[16:], address)
	return b[:]
}

func addPage(h hash.Hash, s ovmf.TDVFSection, at uint64) {
	if s.Attributes&ovmf.PageAug == 0 {
		h.Write(record("MEM.PAGE.ADD", s.Address+at))
	}
}

func extendPage(h hash.Hash, image []byte, s ovmf.TDVFSection, at uint64) {
	if s.Attributes&ovmf.MRExtend == 0 {
		return
	}
	const chunk = 256
	for end := at + ovmf.PageSize; at < end; at += chunk {
		h.Write(record("MR.EXTEND", s.Address+at))
		h.Write(image[uint64(s.Offset)+at:][:chunk])
	}
}
