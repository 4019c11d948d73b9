package gpu

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Kind is what an NVIDIA function is to a guest.
type Kind string

// The kinds.
const (
	GPU      Kind = "gpu"      // display controller (class 0300) or 3D controller (0302)
	NVSwitch Kind = "nvswitch" // bridge of no other kind (class 0680)
)

// PCI ids (PCI Code and ID Assignment Specification, sections 1.4 and 1.7).
const (
	vendorNVIDIA  = 0x10de
	classVGA      = 0x0300
	class3D       = 0x0302
	classBridge   = 0x06 // base class
	classNVSwitch = 0x0680
)

// ID is the device id of a PCI function, such as 0x2330.
type ID uint16

// String returns four hexadecimal digits, as lspci -n prints them.
func (id ID) String() string { return fmt.Sprintf("%04x", uint16(id)) }

// MarshalText makes JSON hold the digits.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what [ID.MarshalText] wrote.
func (id *ID) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 16, 16)
	*id = ID(n)
	return err
}

// Function is one NVIDIA GPU or NVSwitch as the host's kernel knows it.
type Function struct {
	Kind    Kind   `json:"kind"`
	Index   int    `json:"index"`   // from 0 among the functions of its kind, in order of address
	Address string `json:"address"` // 0000:45:00.0
	ID      ID     `json:"id"`
	Model   Model  `json:"model"`
	Driver  string `json:"driver,omitempty"` // of the host; empty when none is bound
	Power   string `json:"power,omitempty"`  // D0, D3hot, D3cold …; empty when the kernel does not tell
	NUMA    int    `json:"numaNode"`         // -1 when the firmware names none
	Link    Link   `json:"link"`
	BARs    []BAR  `json:"bars"`
	Group   Group  `json:"iommuGroup"`
	// Mode is zero until [ReadModes] was asked for it, and for NVSwitches.
	Mode ModeReading `json:"ccMode,omitzero"`
}

// Link is the PCIe link as negotiated and as possible, in the kernel's words
// ("32.0 GT/s PCIe", "16"). Empty fields are unknown.
type Link struct {
	Speed    string `json:"speed,omitempty"`
	Width    string `json:"width,omitempty"`
	MaxSpeed string `json:"maxSpeed,omitempty"`
	MaxWidth string `json:"maxWidth,omitempty"`
}

// BAR is one memory region of a function.
type BAR struct {
	Index        int    `json:"index"` // 0 to 5, as lspci counts regions
	Size         uint64 `json:"size"`  // bytes, a power of two
	Bits64       bool   `json:"bits64"`
	Prefetchable bool   `json:"prefetchable"`
	Unassigned   bool   `json:"unassigned,omitempty"` // the firmware or kernel found no address for it
}

// List returns the NVIDIA GPUs and NVSwitches of the host, GPUs first, each in
// order of PCI address. A host without any gives an empty list; a host whose
// sysfs shows no PCI bus at all gives an error.
func List(root fs.FS) ([]Function, error) {
	entries, err := fs.ReadDir(root, devicesDir)
	if err != nil {
		return nil, fmt.Errorf("listing PCI devices: %w", err)
	}
	var out []Function
	for _, e := range entries {
		s := sysfs{root, path.Join(devicesDir, e.Name())}
		if vendor, ok := s.hex("vendor"); !ok || vendor != vendorNVIDIA {
			continue
		}
		class, _ := s.hex("class")
		kind, ok := kindOf(class >> 8) // the lowest byte is the programming interface
		if !ok || s.link("physfn") != "" {
			continue // a virtual function is a part of a GPU that is listed itself
		}
		out = append(out, s.function(kind, e.Name()))
	}
	slices.SortFunc(out, func(a, b Function) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), strings.Compare(a.Address, b.Address))
	})
	count := map[Kind]int{}
	for i := range out {
		out[i].Index = count[out[i].Kind]
		count[out[i].Kind]++
	}
	return out, nil
}

const devicesDir = "sys/bus/pci/devices"

// Of returns the functions of a kind.
func Of(kind Kind, functions []Function) []Function {
	return slices.DeleteFunc(slices.Clone(functions), func(f Function) bool { return f.Kind != kind })
}

func kindOf(class uint64) (Kind, bool) {
	switch class {
	case classVGA, class3D:
		return GPU, true
	case classNVSwitch:
		return NVSwitch, true
	}
	return "", false
}

// sysfs is the folder of one PCI function.
type sysfs struct {
	root fs.FS
	dir  string
}

func (s sysfs) function(kind Kind, address string) Function {
	id, _ := s.hex("device")
	numa, err := strconv.Atoi(s.text("numa_node"))
	if err != nil {
		numa = -1
	}
	return Function{
		Kind: kind, Address: address, ID: ID(id), Model: Lookup(ID(id)),
		Driver: s.link("driver"), Power: s.text("power_state"), NUMA: numa,
		Link: Link{
			Speed: s.text("current_link_speed"), Width: s.text("current_link_width"),
			MaxSpeed: s.text("max_link_speed"), MaxWidth: s.text("max_link_width"),
		},
		BARs:  parseBARs(s.text("resource")),
		Group: readGroup(s.root, address),
	}
}

func (s sysfs) text(name string) string {
	b, err := fs.ReadFile(s.root, path.Join(s.dir, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (s sysfs) hex(name string) (uint64, bool) {
	n, err := strconv.ParseUint(s.text(name), 0, 32)
	return n, err == nil
}

// link returns the last element of what a symbolic link points to, or "".
func (s sysfs) link(name string) string {
	target, err := fs.ReadLink(s.root, path.Join(s.dir, name))
	if err != nil {
		return ""
	}
	return path.Base(target)
}

// Flags of a resource (Linux include/linux/ioport.h).
const (
	resourceMemory   = 0x00000200
	resourcePrefetch = 0x00002000
	resource64       = 0x00100000
	resourceUnset    = 0x20000000
)

// parseBARs reads the file resource: a line of start, end and flags for each
// region, of which the first six are the BARs; expansion ROM, SR-IOV and
// bridge windows follow.
func parseBARs(text string) []BAR {
	var out []BAR
	lines := bufio.NewScanner(bytes.NewReader([]byte(text)))
	for i := 0; i < 6 && lines.Scan(); i++ {
		var start, end, flags uint64
		if n, err := fmt.Sscanf(lines.Text(), "0x%x 0x%x 0x%x", &start, &end, &flags); n != 3 || err != nil {
			continue
		}
		if flags&resourceMemory == 0 || end <= start {
			continue
		}
		out = append(out, BAR{
			Index: i, Size: end - start + 1,
			Bits64: flags&resource64 != 0, Prefetchable: flags&resourcePrefetch != 0,
			Unassigned: flags&resourceUnset != 0 || start == 0,
		})
	}
	return out
}

// Size writes a number of bytes as lspci does: 16M, 128G.
func Size(bytes uint64) string {
	for i, unit := range []string{"T", "G", "M", "K"} {
		if n := uint64(1) << (40 - 10*i); bytes >= n && bytes%n == 0 {
			return fmt.Sprintf("%d%s", bytes/n, unit)
		}
	}
	return strconv.FormatUint(bytes, 10)
}
