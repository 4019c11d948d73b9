// Package ovmf reads what an OVMF firmware image says about itself: the GUID
// table at its end, the pages that a launch with AMD SEV-SNP adds beside the
// image, and the sections that a launch with Intel TDX builds from it.
//
//	fw, err := ovmf.Parse(image)
//	if fw.Section(ovmf.KernelHashes) == nil { … } // cannot measure -kernel
//
// An image is foreign input: whatever is wrong with it is an [Error] that
// names the byte, and nothing is guessed. The layouts are those of edk2
// (OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm for the table,
// OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm and IntelTdxMetadata.asm for
// what it points to).
package ovmf

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
)

// PageSize is the unit, in bytes, in which a launch measures memory.
const PageSize = 4096

// MaxSize is the largest image, in bytes, that [Parse] takes: OVMF's own are 2
// or 4 MiB, and QEMU maps no more than 16 MiB below 4 GiB.
const MaxSize = 16 << 20

// Firmware is what an image says about itself.
type Firmware struct {
	Size int    // bytes
	Base uint64 // guest-physical address of the first byte: the image ends at 4 GiB

	// ResetEIP is where application processors of an SEV-ES or SNP guest
	// start; 0 when the image does not say, and then it can start one
	// processor only.
	ResetEIP uint32
	// HashTable is the guest-physical address of the table of kernel hashes,
	// 0 when the image has none.
	HashTable uint32

	SEV  []SEVSection  // in table order; empty when the image is not for SNP
	TDVF []TDVFSection // in table order; empty when the image is not for TDX
}

// SEVType is what a launch puts into a section of SEV metadata.
type SEVType uint32

// The types (edk2 OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm).
const (
	SecMemory    SEVType = 1    // zero pages for the firmware's first phase
	Secrets      SEVType = 2    // the secrets page
	CPUID        SEVType = 3    // the CPUID page
	CallingArea  SEVType = 4    // the calling area of an SVSM
	KernelHashes SEVType = 0x10 // the page with the table of kernel hashes
)

// String returns the name that edk2 gives the type.
func (t SEVType) String() string {
	switch t {
	case SecMemory:
		return "sec-mem"
	case Secrets:
		return "secrets"
	case CPUID:
		return "cpuid"
	case CallingArea:
		return "svsm-caa"
	case KernelHashes:
		return "kernel-hashes"
	}
	return fmt.Sprintf("type-%#x", uint32(t))
}

// SEVSection is a range of guest memory that an SNP launch measures. Address
// and size are multiples of [PageSize]; both are 0 for a section that a build
// of the firmware left out.
type SEVSection struct {
	Address, Size uint32
	Type          SEVType
}

// TDVFType is what a section of TDVF metadata is for.
type TDVFType uint32

// The types (Intel TDX Virtual Firmware Design Guide, 11.2).
const (
	BootVolume    TDVFType = 0 // the code; the only one that a launch extends
	ConfigVolume  TDVFType = 1 // the variables
	HandOff       TDVFType = 2 // the TD hand-off block
	TempMemory    TDVFType = 3
	PermMemory    TDVFType = 4
	Payload       TDVFType = 5
	PayloadConfig TDVFType = 6
)

// String returns the name that the design guide gives the type.
func (t TDVFType) String() string {
	names := []string{"bfv", "cfv", "td-hob", "temp-mem", "perm-mem", "payload", "payload-param"}
	if int64(t) < int64(len(names)) {
		return names[t]
	}
	return fmt.Sprintf("type-%#x", uint32(t))
}

// The attributes of a TDVF section.
const (
	MRExtend uint32 = 1 // content is measured
	PageAug  uint32 = 2 // pages are added after the launch and not measured
)

// TDVFSection is a range of guest memory that a TDX launch builds.
type TDVFSection struct {
	Offset, RawSize uint32 // bytes in the image
	Address, Size   uint64 // guest memory; multiples of [PageSize]
	Type            TDVFType
	Attributes      uint32
}

// Section returns the first section of the type, or nil.
func (f *Firmware) Section(t SEVType) *SEVSection {
	for i := range f.SEV {
		if f.SEV[i].Type == t {
			return &f.SEV[i]
		}
	}
	return nil
}

// TDVFSection returns the first section of the type, or nil.
func (f *Firmware) TDVFSection(t TDVFType) *TDVFSection {
	for i := range f.TDVF {
		if f.TDVF[i].Type == t {
			return &f.TDVF[i]
		}
	}
	return nil
}

// Error is what is wrong with an image, and where.
type Error struct {
	Offset int // byte in the image
	text   string
}

func (e *Error) Error() string {
	return fmt.Sprintf("firmware: byte %#x: %s", e.Offset, e.text)
}

func bad(offset int, format string, args ...any) error {
	return &Error{Offset: offset, text: fmt.Sprintf(format, args...)}
}

// The GUIDs of the table's entries, as they are written in edk2's sources.
const (
	footerGUID    = "96b582de-1fb2-45f7-baea-a366c55a082d"
	sevGUID       = "dc886566-984a-4798-a75e-5585a7bf67cc"
	resetGUID     = "00f771de-1a7e-4fcb-890e-68c77e2fb44e"
	hashTableGUID = "7255371f-3a3b-4b04-927b-1da6efa8d454"
	tdvfGUID      = "e47a6535-984a-4798-865e-4685a7bf8ec2"
)

// Sizes in bytes.
const (
	tailSize   = 32 // from the end of the table to the end of the image: the reset vector
	entrySize  = 18 // of an entry without data: u16 length, GUID
	headerSize = 16 // of either metadata: signature, length, version, count
	sevSize    = 12 // of a section of SEV metadata
	tdvfSize   = 32 // of a section of TDVF metadata
	mostParts  = 64 // sections; real images have fewer than ten
)

// Parse reads an image. One without a GUID table is an error; one without SEV
// or TDVF metadata is not, its sections are just empty. Every error is an
// [*Error].
func Parse(image []byte) (Firmware, error) {
	fw := Firmware{Size: len(image), Base: 1<<32 - uint64(len(image))}
	switch {
	case len(image) == 0 || len(image)%PageSize != 0:
		return Firmware{}, bad(len(image), "the image has %d bytes, not a multiple of %d", len(image), PageSize)
	case len(image) > MaxSize:
		return Firmware{}, bad(MaxSize, "the image has %d bytes, more than %d", len(image), MaxSize)
	}
	entries, err := table(image)
	if err != nil {
		return Firmware{}, err
	}
	for _, e := range entries {
		switch e.guid {
		case resetGUID:
			fw.ResetEIP, err = e.word(4, 4)
		case hashTableGUID:
			// Base and size of the table (edk2 OvmfPkg/AmdSev); older builds
			// gave the base alone.
			fw.HashTable, err = e.word(4, 8)
		case sevGUID:
			fw.SEV, err = sevSections(image, e)
		case tdvfGUID:
			fw.TDVF, err = tdvfSections(image, e)
		}
		if err != nil {
			return Firmware{}, err
		}
	}
	return fw, nil
}

// entry is one item of the GUID table.
type entry struct {
	guid   string
	offset int // of the data
	data   []byte
}

// word returns the entry's first four bytes; the data has least to most bytes.
func (e entry) word(least, most int) (uint32, error) {
	if len(e.data) < least || len(e.data) > most {
		return 0, bad(e.offset, "entry %s has %d bytes of data", e.guid, len(e.data))
	}
	return binary.LittleEndian.Uint32(e.data), nil
}

// table walks the GUID table from its footer backwards: each entry is data,
// u16 length of the whole entry, GUID.
func table(image []byte) ([]entry, error) {
	end := len(image) - tailSize
	footer := end - entrySize
	if guidText(image[footer+2:end]) != footerGUID {
		return nil, bad(footer+2, "there is no GUID table: not an OVMF image, or one from before 2021")
	}
	size := int(binary.LittleEndian.Uint16(image[footer:]))
	if size < entrySize || size > end {
		return nil, bad(footer, "the GUID table says that it has %d bytes", size)
	}
	start := end - size
	var out []entry
	seen := map[string]bool{}
	for at := footer; at > start; {
		head := at - entrySize
		if head < start {
			return nil, bad(start, "%d bytes before the first entry of the GUID table", at-start)
		}
		guid := guidText(image[head+2 : at])
		length := int(binary.LittleEndian.Uint16(image[head:]))
		if length < entrySize || length > at-start {
			return nil, bad(head, "entry %s says that it has %d bytes", guid, length)
		}
		if seen[guid] {
			return nil, bad(head, "entry %s is there twice", guid)
		}
		seen[guid] = true
		data := at - length
		out = append(out, entry{guid: guid, offset: data, data: image[data:head]})
		at = data
	}
	return out, nil
}

// metadata finds what an entry points to by its distance from the image's end
// and returns its sections, each of size bytes, and their offset.
func metadata(image []byte, e entry, signature string, size int) (int, []byte, error) {
	distance, err := e.word(4, 4)
	if err != nil {
		return 0, nil, err
	}
	if int64(distance) > int64(len(image)) || distance < headerSize {
		return 0, nil, bad(e.offset, "%s metadata lies %#x bytes before the end", signature, distance)
	}
	at := len(image) - int(distance)
	header := image[at : at+headerSize]
	if string(header[:4]) != signature {
		return 0, nil, bad(at, "%s metadata begins with %q", signature, header[:4])
	}
	if v := binary.LittleEndian.Uint32(header[8:]); v != 1 {
		return 0, nil, bad(at+8, "%s metadata has version %d, want 1", signature, v)
	}
	count := int64(binary.LittleEndian.Uint32(header[12:]))
	if count < 1 || count > mostParts {
		return 0, nil, bad(at+12, "%s metadata has %d sections", signature, count)
	}
	length := int64(binary.LittleEndian.Uint32(header[4:]))
	if length != headerSize+count*int64(size) || length > int64(distance) {
		return 0, nil, bad(at+4, "%s metadata of %d sections says that it has %d bytes", signature, count, length)
	}
	return at + headerSize, image[at+headerSize : at+int(length)], nil
}

func sevSections(image []byte, e entry) ([]SEVSection, error) {
	at, data, err := metadata(image, e, "ASEV", sevSize)
	if err != nil {
		return nil, err
	}
	var out []SEVSection
	for ; len(data) > 0; at, data = at+sevSize, data[sevSize:] {
		s := SEVSection{
			Address: binary.LittleEndian.Uint32(data),
			Size:    binary.LittleEndian.Uint32(data[4:]),
			Type:    SEVType(binary.LittleEndian.Uint32(data[8:])),
		}
		switch {
		case s.Address%PageSize != 0 || s.Size%PageSize != 0:
			return nil, bad(at, "section %s at %#x of %#x bytes is not of whole pages", s.Type, s.Address, s.Size)
		case uint64(s.Address)+uint64(s.Size) > 1<<32:
			return nil, bad(at, "section %s at %#x of %#x bytes ends above 4 GiB", s.Type, s.Address, s.Size)
		case strings.HasPrefix(s.Type.String(), "type-"):
			return nil, bad(at+8, "section at %#x has the unknown type %#x", s.Address, uint32(s.Type))
		}
		out = append(out, s)
	}
	return out, nil
}

func tdvfSections(image []byte, e entry) ([]TDVFSection, error) {
	at, data, err := metadata(image, e, "TDVF", tdvfSize)
	if err != nil {
		return nil, err
	}
	var out []TDVFSection
	for ; len(data) > 0; at, data = at+tdvfSize, data[tdvfSize:] {
		s := TDVFSection{
			Offset:     binary.LittleEndian.Uint32(data),
			RawSize:    binary.LittleEndian.Uint32(data[4:]),
			Address:    binary.LittleEndian.Uint64(data[8:]),
			Size:       binary.LittleEndian.Uint64(data[16:]),
			Type:       TDVFType(binary.LittleEndian.Uint32(data[24:])),
			Attributes: binary.LittleEndian.Uint32(data[28:]),
		}
		switch {
		case uint64(s.Offset)+uint64(s.RawSize) > uint64(len(image)):
			return nil, bad(at, "section %s takes %#x bytes at %#x of the image", s.Type, s.RawSize, s.Offset)
		case s.Address%PageSize != 0 || s.Size%PageSize != 0:
			return nil, bad(at+8, "section %s at %#x of %#x bytes is not of whole pages", s.Type, s.Address, s.Size)
		case s.Address > 1<<32 || s.Size > 1<<32-s.Address:
			return nil, bad(at+8, "section %s at %#x of %#x bytes ends above 4 GiB", s.Type, s.Address, s.Size)
		case uint64(s.RawSize) > s.Size:
			return nil, bad(at+4, "section %s has %#x bytes for %#x bytes of memory", s.Type, s.RawSize, s.Size)
		case strings.HasPrefix(s.Type.String(), "type-"):
			return nil, bad(at+24, "section at %#x has the unknown type %#x", s.Address, uint32(s.Type))
		case s.Attributes&^(MRExtend|PageAug) != 0:
			return nil, bad(at+28, "section %s has the unknown attributes %#x", s.Type, s.Attributes)
		case s.Attributes&MRExtend != 0 && uint64(s.RawSize) != s.Size:
			// Nothing says what the rest of the memory would hold.
			return nil, bad(at+4, "section %s is measured and has %#x bytes for %#x bytes of memory", s.Type, s.RawSize, s.Size)
		}
		out = append(out, s)
	}
	return out, nil
}

// GUIDBytes returns a GUID as it lies in memory: the first three fields are
// little-endian (UEFI 2.10, appendix A). It is its own inverse.
func GUIDBytes(g uuid.UUID) [16]byte {
	for _, field := range [][]byte{g[:4], g[4:6], g[6:8]} {
		slices.Reverse(field)
	}
	return g
}

// guidText renders the 16 bytes of a GUID in memory.
func guidText(b []byte) string {
	return uuid.UUID(GUIDBytes(uuid.UUID(b[:16]))).String()
}
