package tdx

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"cc-base/tasks/tee/ovmf"
)

// HandOffBlock returns the TD hand-off block that QEMU writes for a guest with
// that much memory, in bytes, without its end marker: what the firmware
// measures first (edk2 OvmfPkg/IntelTdx/TdxHelperLib/SecTdxHelper.c,
// TdxHelperMeasureTdHob). It lists the memory: what a launch has accepted for
// the firmware, and the rest. The layout of the list is QEMU's
// (hw/i386/tdvf-hob.c, target/i386/kvm/tdx.c, 10.1 and later) and so is the
// split of the memory of a machine q35 (hw/i386/pc_q35.c): below 2816 MiB in one
// piece, from there on 2 GiB below 4 GiB and the rest above.
//
// Assumed: no max-ram-below-4g, no hot-plugged memory, one NUMA node. Not
// proven on hardware.
func HandOffBlock(image []byte, memory uint64) ([]byte, error) {
	fw, err := ovmf.Parse(image)
	if err != nil {
		return nil, err
	}
	home := fw.TDVFSection(ovmf.HandOff)
	if home == nil {
		return nil, fmt.Errorf("the firmware has no section for a hand-off block")
	}
	if memory == 0 || memory%ovmf.PageSize != 0 || memory > 1<<46 {
		return nil, fmt.Errorf("memory of %d bytes: want whole pages, at most 64 TiB", memory)
	}
	ranges := ram(memory)
	for _, s := range fw.TDVF {
		switch s.Type {
		case ovmf.HandOff, ovmf.TempMemory, ovmf.PermMemory:
			if ranges, err = accept(ranges, s); err != nil {
				return nil, err
			}
		}
	}
	slices.SortFunc(ranges, func(a, b span) int { return cmp.Compare(a.start, b.start) })

	const infoSize, resourceSize, endSize = 56, 48, 8
	size := infoSize + resourceSize*len(ranges)
	if uint64(size+endSize) > home.Size {
		return nil, fmt.Errorf("the hand-off block of %d bytes does not fit its section of %d", size+endSize, home.Size)
	}
	le := binary.LittleEndian
	header := func(b []byte, kind, length uint16) []byte {
		b = le.AppendUint16(b, kind)
		b = le.AppendUint16(b, length)
		return le.AppendUint32(b, 0)
	}
	// EFI_HOB_HANDOFF_INFO_TABLE (PI 1.8, volume 3, 5.3): of its fields QEMU
	// fills in version and end alone.
	out := header(nil, 0x0001, infoSize)
	out = le.AppendUint32(out, 9)
	out = append(out, make([]byte, 4+4*8)...)
	out = le.AppendUint64(out, home.Address+uint64(size+endSize))
	for _, r := range ranges {
		// EFI_HOB_RESOURCE_DESCRIPTOR: system memory, or memory that the
		// guest has yet to accept; present, initialized, tested.
		kind := uint32(7)
		if r.accepted {
			kind = 0
		}
		out = header(out, 0x0003, resourceSize)
		out = append(out, make([]byte, 16)...) // owner
		out = le.AppendUint32(out, kind)
		out = le.AppendUint32(out, 7)
		out = le.AppendUint64(out, r.start)
		out = le.AppendUint64(out, r.end-r.start)
	}
	return out, nil
}

// span is a range of guest memory.
type span struct {
	start, end uint64
	accepted   bool
}

// ram returns the memory of a machine q35.
func ram(memory uint64) []span {
	const most, split, above = 0xb0000000, 0x80000000, 1 << 32
	if memory < most {
		return []span{{end: memory}}
	}
	return []span{{end: split}, {start: above, end: above + memory - split}}
}

// accept cuts a section out of the memory that is not yet accepted.
func accept(ranges []span, s ovmf.TDVFSection) ([]span, error) {
	if s.Size == 0 {
		return ranges, nil
	}
	start, end := s.Address, s.Address+s.Size
	for i, r := range ranges {
		if r.accepted || start < r.start || end > r.end {
			continue
		}
		ranges = slices.Delete(ranges, i, i+1)
		if r.start < start {
			ranges = append(ranges, span{start: r.start, end: start})
		}
		ranges = append(ranges, span{start: start, end: end, accepted: true})
		if end < r.end {
			ranges = append(ranges, span{start: end, end: r.end})
		}
		return ranges, nil
	}
	return nil, fmt.Errorf("section %s at %#x of %#x bytes is not in free memory", s.Type, s.Address, s.Size)
}
