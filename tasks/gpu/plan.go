package gpu

import (
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"path"
	"slices"
	"strconv"
	"strings"
)

// MaxApertureMiB is the largest 64-bit PCI window that OVMF accepts: 16 TiB.
const MaxApertureMiB = 1 << 24

// ApertureMiB returns the 64-bit PCI address space in MiB that the firmware of
// a guest with these functions must reserve, computed from their BARs, for
// OVMF's fw_cfg entry opt/ovmf/X-PciMmio64Mb. Zero for no functions.
//
// Each function sits behind a root port of its own, whose window is aligned to
// the largest BAR in it, and OVMF aligns the whole to its own size, a power of
// two. One H100 with a BAR of 128 GiB and two small ones needs 256 GiB that
// way, the value of NVIDIA's own sample.
func ApertureMiB(functions []Function) (int, error) {
	var wrong []error
	end := uint64(0) // of what is placed so far
	for _, f := range functions {
		largest, sum := uint64(0), uint64(0)
		for _, b := range f.BARs {
			if b.Bits64 {
				largest, sum = max(largest, b.Size), sum+b.Size
			}
		}
		if largest == 0 && f.Kind == NVSwitch {
			continue // its BAR is below 4 GiB
		}
		if largest == 0 {
			wrong = append(wrong, fmt.Errorf("%s: the kernel shows no 64-bit BAR", f.Address))
			continue
		}
		end = roundUp(end, largest) + sum
	}
	if err := errors.Join(wrong...); err != nil || end == 0 {
		return 0, err
	}
	mib := 1 << bits.Len64((roundUp(end, 1<<20)>>20)-1)
	if mib > MaxApertureMiB {
		return 0, fmt.Errorf("%d devices need %d MiB of PCI address space, the firmware accepts %d", len(functions), mib, MaxApertureMiB)
	}
	return mib, nil
}

// roundUp rounds to a multiple of unit, a power of two.
func roundUp(n, unit uint64) uint64 { return (n + unit - 1) &^ (unit - 1) }

// Passthrough is what the host offers for giving devices to guests.
type Passthrough struct {
	VFIOPCI       bool `json:"vfioPCI"`                 // vfio-pci is loaded or can be
	IOMMUFD       bool `json:"iommufd"`                 // /dev/iommu is there
	UnsafeNoIOMMU bool `json:"unsafeNoIOMMU,omitempty"` // VFIO works without an IOMMU: no isolation
	// DMAEntryLimit is vfio_iommu_type1's limit of DMA mappings a container,
	// 65535 by default; zero when the module is not loaded.
	DMAEntryLimit int `json:"dmaEntryLimit,omitempty"`
}

// EnoughDMAEntries is the limit that GPU guests are known to run with
// (github.com/NVIDIA/nvtrust issue 54).
const EnoughDMAEntries = 1048576

// ReadPassthrough reads what the host offers. release is of the running kernel;
// vfio-pci that is a module and not loaded is looked up in its index.
func ReadPassthrough(root fs.FS, release string) Passthrough {
	s := sysfs{root, "sys/module"}
	_, loaded := fs.Stat(root, "sys/bus/pci/drivers/vfio-pci")
	_, fd := fs.Stat(root, "dev/iommu")
	limit, _ := strconv.Atoi(s.text("vfio_iommu_type1/parameters/dma_entry_limit"))
	return Passthrough{
		VFIOPCI: loaded == nil || hasModule(root, release, "vfio-pci"), IOMMUFD: fd == nil,
		UnsafeNoIOMMU: s.text("vfio/parameters/enable_unsafe_noiommu_mode") == "Y",
		DMAEntryLimit: limit,
	}
}

// hasModule looks for NAME.ko, compressed or not, in the indexes that depmod
// and the kernel's build write.
func hasModule(root fs.FS, release, name string) bool {
	for _, index := range []string{"modules.dep", "modules.builtin"} {
		b, _ := fs.ReadFile(root, path.Join("lib/modules", release, index))
		for line := range strings.Lines(string(b)) {
			file, _, _ := strings.Cut(strings.TrimSpace(line), ":")
			if base, _, _ := strings.Cut(path.Base(file), ".ko"); base == name {
				return true
			}
		}
	}
	return false
}

// Plan is what giving functions to a guest takes on this host. It is a
// description: nothing here carries it out.
type Plan struct {
	Functions   []string  `json:"functions"`      // of the guest, in order of address
	Bind        []Binding `json:"bind,omitempty"` // functions that are not on vfio-pci yet
	ApertureMiB int       `json:"apertureMiB"`
	// IOMMUFD: the guest's devices go through /dev/iommu. Otherwise through
	// VFIO's type 1, whose limit of DMA mappings must then be DMAEntryLimit.
	IOMMUFD       bool     `json:"iommufd"`
	DMAEntryLimit int      `json:"dmaEntryLimit,omitempty"` // to be set, zero when it suffices
	Problems      []string `json:"problems,omitempty"`      // why it cannot be done
}

// Binding is a function that must change its driver to vfio-pci; libvirt's
// managed='yes' does it when the guest starts.
type Binding struct {
	Address string `json:"address"`
	From    string `json:"from,omitempty"` // its driver now, empty for none
}

// PlanFor plans for the chosen GPUs, of all the host's functions. NVSwitches go
// with them when all GPUs are chosen. Any other member of their IOMMU groups
// that is not a bridge is a problem.
func PlanFor(chosen, all []Function, host Passthrough) Plan {
	passed := slices.Clone(chosen)
	if len(chosen) == len(Of(GPU, all)) {
		passed = append(passed, Of(NVSwitch, all)...)
	}
	slices.SortFunc(passed, func(a, b Function) int { return strings.Compare(a.Address, b.Address) })
	p := Plan{Functions: addresses(passed), IOMMUFD: host.IOMMUFD}
	if len(passed) == 0 {
		return Plan{}
	}
	problem := func(format string, args ...any) { p.Problems = append(p.Problems, fmt.Sprintf(format, args...)) }
	for _, f := range passed {
		if f.Group.Number < 0 {
			problem("%s: %s", f.Address, f.Group.Reason)
		}
		for _, m := range f.Group.Foreign(p.Functions) {
			problem("%s: %s (class %s) is in the same IOMMU group %d and stays with the host", f.Address, m.Address, m.Class, f.Group.Number)
		}
		if f.Driver != "vfio-pci" {
			p.Bind = append(p.Bind, Binding{f.Address, f.Driver})
		}
	}
	var err error
	if p.ApertureMiB, err = ApertureMiB(passed); err != nil {
		problem("%s", err)
	}
	if !host.VFIOPCI {
		problem("the driver vfio-pci is not there")
	}
	if !host.IOMMUFD && host.DMAEntryLimit < EnoughDMAEntries {
		p.DMAEntryLimit = EnoughDMAEntries
	}
	return p
}
