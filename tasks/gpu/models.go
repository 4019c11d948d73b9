package gpu

import "fmt"

// Arch is a generation of NVIDIA GPUs. It decides which register holds the CC
// mode and which drivers serve the GPU.
type Arch string

// The architectures in the table. Older ones are there to be told that they
// have no confidential computing.
const (
	UnknownArch Arch = ""
	Ampere      Arch = "Ampere"
	Ada         Arch = "Ada Lovelace"
	Hopper      Arch = "Hopper"
	Blackwell   Arch = "Blackwell"
)

// Confidential tells whether GPUs of the architecture have a CC mode.
func (a Arch) Confidential() bool { return a == Hopper || a == Blackwell }

// Model is what a device id stands for. The zero Model is an unknown device.
type Model struct {
	Name string `json:"name,omitempty"`
	Arch Arch   `json:"architecture,omitempty"`
	// MemoryGiB is the nominal memory, as in the product's name; what the
	// driver reports is some percent less. Zero when the name or the public
	// device list does not say it.
	MemoryGiB int `json:"memoryGiB,omitempty"`
}

// Known tells whether the table has the device.
func (m Model) Known() bool { return m.Name != "" }

// String returns the name, or that it is unknown.
func (m Model) String() string {
	if !m.Known() {
		return "unknown model"
	}
	return "NVIDIA " + m.Name
}

// Lookup returns the model of a device id; the zero Model for an id that is
// not in the table.
func Lookup(id ID) Model {
	for _, m := range models() {
		if m.id == id {
			return m.Model
		}
	}
	return Model{}
}

type model struct {
	id ID
	Model
}

// models is the device table. The sources are NVIDIA's gpu-admin-tools
// (gpu/devid_names.py) for what has a CC mode, and the public list of PCI ids
// (pci-ids.ucw.cz, vendor 10de) for form factors and memory. An id is here
// only when a source names a product for it: "GH100" without a product is not.
func models() []model {
	gh := func(id ID, name string, gib int) model { return model{id, Model{name, Hopper, gib}} }
	gb := func(id ID, name string, gib int) model { return model{id, Model{name, Blackwell, gib}} }
	ga := func(id ID, name string, gib int) model { return model{id, Model{name, Ampere, gib}} }
	ad := func(id ID, name string) model { return model{id, Model{name, Ada, 0}} }
	return []model{
		gh(0x2313, "H100 CNX", 80),
		gh(0x2321, "H100 NVL 94GB", 94),
		gh(0x2330, "H100 SXM5 80GB", 80),
		gh(0x2331, "H100 PCIe 80GB", 80),
		gh(0x2336, "H100", 0),
		gh(0x2337, "H100 SXM5 64GB", 64),
		gh(0x2338, "H100 SXM5 96GB", 96),
		gh(0x2339, "H100 SXM5 94GB", 94),
		gh(0x233d, "H100 96GB", 96),

		gh(0x2335, "H200 SXM 141GB", 141),
		gh(0x233b, "H200 NVL 141GB", 141),

		gh(0x2322, "H800 PCIe", 0),
		gh(0x2324, "H800", 0),
		gh(0x233a, "H800L 94GB", 94),

		gh(0x2309, "H20", 0),
		gh(0x230c, "H20 NVL16", 0),
		gh(0x230e, "H20 NVL16", 0),
		gh(0x2328, "H20B", 0),
		gh(0x2329, "H20", 0),
		gh(0x232c, "H20 HBM3e", 0),

		gh(0x2342, "GH200 120GB / 480GB", 0),
		gh(0x2343, "GH200", 0),
		gh(0x2345, "GH200", 0),
		gh(0x2348, "GH200 144GB HBM3e", 144),

		gb(0x2901, "B200", 0),
		gb(0x2909, "HGX B200 168GB", 168),
		gb(0x2941, "HGX GB200", 0),
		gb(0x29bc, "B100", 0),
		gb(0x3182, "B300 SXM6 AC", 0),
		gb(0x31c2, "GB300", 0),
		gb(0x31c3, "GB300", 0),
		gb(0x2bb5, "RTX PRO 6000 Blackwell Server Edition", 96),

		ga(0x20b0, "A100 SXM4 40GB", 40),
		ga(0x20b2, "A100 SXM4 80GB", 80),
		ga(0x20b5, "A100 PCIe 80GB", 80),
		ga(0x20f1, "A100 PCIe 40GB", 40),

		ad(0x26b5, "L40"), ad(0x26b9, "L40S"), ad(0x27b8, "L4"),

		// NVSwitches, class 0680.
		{0x22a3, Model{Name: "H100 NVSwitch", Arch: Hopper}},
		{0x1af1, Model{Name: "A100 NVSwitch", Arch: Ampere}},
	}
}

// Memory returns the nominal memory in bytes, or why it is not known.
func (m Model) Memory() (uint64, error) {
	if m.MemoryGiB == 0 {
		return 0, fmt.Errorf("the memory of %s is not in the device table", m)
	}
	return uint64(m.MemoryGiB) << 30, nil
}
