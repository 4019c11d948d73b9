// Package gputest makes the sysfs of hosts with NVIDIA devices, for the tests
// of everything that reads it.
//
// The trees are written after Linux's documentation and drivers and after lspci
// listings of such hosts; they are no recordings. What they hold beyond what
// the probes read is not modelled.
package gputest

import (
	"errors"
	"fmt"
	"io/fs"
	"testing/fstest"
)

// Tree is a root folder.
type Tree struct{ fstest.MapFS }

// New returns a root folder with an empty PCI bus.
func New() Tree {
	t := Tree{fstest.MapFS{}}
	t.Dir("sys/bus/pci/devices")
	return t
}

// Put writes a file.
func (t Tree) Put(name, text string) {
	t.MapFS[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
}

// Dir makes a folder.
func (t Tree) Dir(name string) { t.MapFS[name] = &fstest.MapFile{Mode: fs.ModeDir | 0o755} }

// Link makes a symbolic link.
func (t Tree) Link(name, target string) {
	t.MapFS[name] = &fstest.MapFile{Data: []byte(target), Mode: fs.ModeSymlink | 0o777}
}

// Device is a PCI function.
type Device struct {
	Vendor, ID uint16 // Vendor 0 is NVIDIA's
	Class      uint32 // 24 bits; 0 is a 3D controller
	Driver     string
	Group      int // of the IOMMU; 0 is none
	NUMA       int
	Power      string // D0 when empty
	Resource   string // the file resource; the BARs of an H100 when empty
}

// BARsH100 is the file resource of an H100 with 80 GB: 16 MiB, 128 GiB and
// 32 MiB, all of 64 bits and prefetchable.
const BARsH100 = `0x0000380000000000 0x0000380000ffffff 0x000000000014220c
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000382000000000 0x0000383fffffffff 0x000000000014220c
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000384000000000 0x0000384001ffffff 0x000000000014220c
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000385000000000 0x0000385000bfffff 0x000000000014220c
`

// Add puts a function on the bus.
func (t Tree) Add(address string, d Device) Tree {
	if d.Vendor == 0 {
		d.Vendor = 0x10de
	}
	if d.Class == 0 {
		d.Class = 0x030200
	}
	if d.Power == "" {
		d.Power = "D0"
	}
	if d.Resource == "" {
		d.Resource = BARsH100
	}
	dir := "sys/bus/pci/devices/" + address
	t.Put(dir+"/vendor", fmt.Sprintf("0x%04x\n", d.Vendor))
	t.Put(dir+"/device", fmt.Sprintf("0x%04x\n", d.ID))
	t.Put(dir+"/class", fmt.Sprintf("0x%06x\n", d.Class))
	t.Put(dir+"/numa_node", fmt.Sprintf("%d\n", d.NUMA))
	t.Put(dir+"/power_state", d.Power+"\n")
	t.Put(dir+"/resource", d.Resource)
	t.Put(dir+"/current_link_speed", "32.0 GT/s PCIe\n")
	t.Put(dir+"/current_link_width", "16\n")
	t.Put(dir+"/max_link_speed", "32.0 GT/s PCIe\n")
	t.Put(dir+"/max_link_width", "16\n")
	if d.Driver != "" {
		t.Link(dir+"/driver", "../../../bus/pci/drivers/"+d.Driver)
		t.Dir("sys/bus/pci/drivers/" + d.Driver)
	}
	if d.Group != 0 {
		group := fmt.Sprintf("sys/kernel/iommu_groups/%d", d.Group)
		t.Link(dir+"/iommu_group", "../../../../kernel/iommu_groups/"+fmt.Sprint(d.Group))
		t.Put(group+"/type", "DMA-FQ\n")
		t.Dir(group + "/devices/" + address)
	}
	return t
}

// Registers are those of devices, by address and offset. A device that is not
// there has no BAR0; a register that is not there reads as zero.
type Registers map[string]map[int64]uint32

// Read32 returns the register.
func (r Registers) Read32(address string, offset int64) (uint32, error) {
	device, ok := r[address]
	if !ok {
		return 0, errors.New("the kernel offers no file resource0 for it")
	}
	return device[offset], nil
}

// Modes returns registers in which each device, an H100 or its kin, has the
// mode: off, on, invalid or devtools. Any other word is a device that refuses.
func Modes(modes map[string]string) Registers {
	values := map[string]uint32{"off": 0, "on": 1, "invalid": 2, "devtools": 3}
	r := Registers{}
	for address, mode := range modes {
		value, ok := values[mode]
		if !ok {
			value = 0xbadf0000
		}
		r[address] = map[int64]uint32{0: 0x180000a1, 0x1182cc: value}
	}
	return r
}
