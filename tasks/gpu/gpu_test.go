package gpu_test

// What green does not prove: no test here meets a GPU. Most trees and all
// register values are written by hand; those of testdata were recorded on virtual
// machines with an H100, where BAR0 could not be read. Nothing here sets a mode,
// so that nothing can be said of a switch between modes.

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"cc-base/tasks/filetest"
	"cc-base/tasks/gpu"
	"cc-base/tasks/gpu/gputest"
)

const (
	first, second = "0000:18:00.0", "0000:2a:00.0"
	h100          = 0x2330
)

func list(t *testing.T, tree gputest.Tree) []gpu.Function {
	t.Helper()
	functions, err := gpu.List(tree)
	if err != nil {
		t.Fatal(err)
	}
	return functions
}

// two returns two H100 in groups of their own.
func two() gputest.Tree {
	return gputest.New().
		Add(second, gputest.Device{ID: h100, Group: 12, NUMA: 1, Driver: "vfio-pci"}).
		Add(first, gputest.Device{ID: h100, Group: 7, Driver: "nvidia"})
}

func TestListShowsNVIDIAsGPUsAndSwitchesInOrderOfAddress(t *testing.T) {
	t.Parallel()
	tree := two().
		Add("0000:00:02.0", gputest.Device{Vendor: 0x1a03, ID: 0x2000, Class: 0x030000}). // the board's own display
		Add("0000:18:00.1", gputest.Device{ID: 0x22ba, Class: 0x040300}).                 // a GPU's sound
		Add("0000:03:00.0", gputest.Device{ID: 0x22a3, Class: 0x068000, Group: 3}).
		Add("0000:18:00.4", gputest.Device{ID: h100}). // a virtual function
		Add("0001:01:00.0", gputest.Device{ID: 0x1234, Class: 0x030000})
	tree.Link("sys/bus/pci/devices/0000:18:00.4/physfn", "../0000:18:00.0")
	got := []string{}
	for _, f := range list(t, tree) {
		got = append(got, strings.Join([]string{string(f.Kind), string(rune('0' + f.Index)), f.Address, f.ID.String(), f.Model.String(), f.Driver}, " "))
	}
	want := []string{
		"gpu 0 0000:18:00.0 2330 NVIDIA H100 SXM5 80GB nvidia",
		"gpu 1 0000:2a:00.0 2330 NVIDIA H100 SXM5 80GB vfio-pci",
		"gpu 2 0001:01:00.0 1234 unknown model ",
		"nvswitch 0 0000:03:00.0 22a3 NVIDIA H100 NVSwitch ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("functions (-want +got):\n%s", diff)
	}
}

func TestNoBusIsAnErrorAndNoDeviceIsNone(t *testing.T) {
	t.Parallel()
	if functions := list(t, gputest.New()); len(functions) != 0 {
		t.Errorf("got %v", functions)
	}
	if _, err := gpu.List(os.DirFS(t.TempDir())); err == nil {
		t.Error("a sysfs without a PCI bus gave no error")
	}
}

func TestAFunctionHasItsBARsLinkAndGroup(t *testing.T) {
	t.Parallel()
	f := list(t, two())[1]
	want := gpu.Function{
		Kind: gpu.GPU, Index: 1, Address: second, ID: h100,
		Model:  gpu.Model{Name: "H100 SXM5 80GB", Arch: gpu.Hopper, MemoryGiB: 80},
		Driver: "vfio-pci", Power: "D0", NUMA: 1,
		Link: gpu.Link{Speed: "32.0 GT/s PCIe", Width: "16", MaxSpeed: "32.0 GT/s PCIe", MaxWidth: "16"},
		BARs: []gpu.BAR{
			{Index: 0, Size: 16 << 20, Bits64: true, Prefetchable: true},
			{Index: 2, Size: 128 << 30, Bits64: true, Prefetchable: true},
			{Index: 4, Size: 32 << 20, Bits64: true, Prefetchable: true},
		},
		Group: gpu.Group{Number: 12, Type: "DMA-FQ", Members: []gpu.Member{{Address: second, Class: "0302", Driver: "vfio-pci"}}},
	}
	if diff := cmp.Diff(want, f); diff != "" {
		t.Errorf("function (-want +got):\n%s", diff)
	}
}

func TestABARWithoutAnAddressIsToldApart(t *testing.T) {
	t.Parallel()
	tree := gputest.New().Add(first, gputest.Device{ID: h100, Resource: "0x0000000000000000 0x0000001fffffffff 0x000000002014220c\nmalformed\n0x0000000000003000 0x000000000000307f 0x0000000000040101\n"})
	want := []gpu.BAR{{Index: 0, Size: 128 << 30, Bits64: true, Prefetchable: true, Unassigned: true}}
	if diff := cmp.Diff(want, list(t, tree)[0].BARs); diff != "" {
		t.Errorf("BARs (-want +got):\n%s", diff)
	}
}

func TestSizesAreWrittenAsLspciDoes(t *testing.T) {
	t.Parallel()
	for bytes, want := range map[uint64]string{16 << 20: "16M", 128 << 30: "128G", 4096: "4K", 1 << 40: "1T", 100: "100", 0: "0"} {
		if got := gpu.Size(bytes); got != want {
			t.Errorf("%d: %s, want %s", bytes, got, want)
		}
	}
}

func TestTheReasonForNoGroupIsGiven(t *testing.T) {
	t.Parallel()
	bare := gputest.New().Add(first, gputest.Device{ID: h100})
	empty := gputest.New().Add(first, gputest.Device{ID: h100})
	empty.Dir("sys/kernel/iommu_groups")
	other := two().Add("0000:05:00.0", gputest.Device{ID: h100})
	for want, tree := range map[string]gputest.Tree{
		"the kernel has no IOMMU groups": bare, "no IOMMU is on": empty, "does not cover the device": other,
	} {
		g := list(t, tree)[0].Group
		if g.Number != -1 || !strings.Contains(g.Reason, want) {
			t.Errorf("got %+v, want %q", g, want)
		}
	}
}

func TestAGroupIsCompleteWithoutItsBridges(t *testing.T) {
	t.Parallel()
	tree := gputest.New().
		Add(first, gputest.Device{ID: h100, Group: 5}).
		Add("0000:17:00.0", gputest.Device{Vendor: 0x1022, ID: 1, Class: 0x060400, Group: 5, Driver: "pcieport"}).
		Add("0000:18:00.1", gputest.Device{ID: 0x22ba, Class: 0x040300, Group: 5, Driver: "snd_hda_intel"})
	g := list(t, tree)[0].Group
	want := []gpu.Member{{Address: "0000:18:00.1", Class: "0403", Driver: "snd_hda_intel"}}
	if diff := cmp.Diff(want, g.Foreign([]string{first})); diff != "" {
		t.Errorf("foreign members (-want +got):\n%s", diff)
	}
	if got := g.Foreign([]string{first, "0000:18:00.1"}); len(got) != 0 {
		t.Errorf("with the whole group passed: %v", got)
	}
}

func TestTheTableHasNoIDTwice(t *testing.T) {
	t.Parallel()
	for id, want := range map[gpu.ID]string{0x2335: "H200 SXM 141GB", 0x2901: "B200", 0x26b9: "L40S", 0x2329: "H20", 0xffff: ""} {
		if m := gpu.Lookup(id); m.Name != want || m.Known() != (want != "") {
			t.Errorf("%s is %+v", id, m)
		}
	}
	seen := map[string]gpu.ID{}
	known := 0
	for id := gpu.ID(1); id != 0; id++ { // all of them, until it wraps
		m := gpu.Lookup(id)
		if !m.Known() {
			continue
		}
		known++
		if m.Arch == gpu.UnknownArch {
			t.Errorf("%s has no architecture", id)
		}
		if m.MemoryGiB > 0 {
			if _, err := m.Memory(); err != nil {
				t.Error(err)
			}
		}
		seen[m.Name] = id
	}
	if known < 35 || len(seen) < 30 {
		t.Errorf("%d ids with %d names: entries are hidden by others", known, len(seen))
	}
}

func TestModes(t *testing.T) {
	t.Parallel()
	hopper := func(value uint32) gputest.Registers {
		return gputest.Registers{first: {0: 0x180000a1, 0x1182cc: value, 0x590: 2}}
	}
	ones := ^uint32(0)
	tests := []struct {
		name      string
		device    gputest.Device
		registers gpu.Registers
		want      gpu.Mode
		reason    string
	}{
		{"off", gputest.Device{ID: h100}, hopper(0), gpu.ModeOff, ""},
		{"on", gputest.Device{ID: h100}, hopper(1), gpu.ModeOn, ""},
		{"invalid", gputest.Device{ID: h100}, hopper(2), gpu.ModeInvalid, ""},
		{"devtools", gputest.Device{ID: h100}, hopper(3), gpu.ModeDevtools, ""},
		{"other bits mean nothing", gputest.Device{ID: h100}, hopper(0xabcdef01), gpu.ModeOn, ""},
		{"blackwell has another register", gputest.Device{ID: 0x2901}, gputest.Registers{first: {0: 1, 0x590: 1, 0x1182cc: 3}}, gpu.ModeOn, ""},
		{"nothing answers", gputest.Device{ID: h100}, gputest.Registers{first: {0: ones, 0x1182cc: ones}}, "", "no driver is bound"},
		{"the register alone does not answer", gputest.Device{ID: h100, Driver: "vfio-pci"}, hopper(ones), "", "driver vfio-pci"},
		{"the register is protected", gputest.Device{ID: h100}, hopper(0xbadf5720), "", "refuses to show the register (it answers 0xbadf5720)"},
		{"asleep", gputest.Device{ID: h100, Power: "D3cold"}, hopper(1), "", "asleep (power state D3cold)"},
		{"no BAR0", gputest.Device{ID: h100}, gputest.Registers{}, "", "no file resource0"},
		{"an older GPU", gputest.Device{ID: 0x20b2}, hopper(1), "", "Ampere GPUs have no"},
		{"an unknown GPU", gputest.Device{ID: 0x1234}, hopper(1), "", "1234 is not in the table"},
	}
	for _, test := range tests {
		functions := list(t, gputest.New().Add(first, test.device))
		gpu.ReadModes(functions, test.registers)
		got := functions[0].Mode
		if got.Mode != test.want || !strings.Contains(got.Reason, test.reason) || (got.Reason == "") != (got.Mode != "") {
			t.Errorf("%s: %+v", test.name, got)
		}
	}
}

// The register is read through a real mapping of a file that stands for BAR0.
func TestSysfsReadsThroughAMapping(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := filepath.Join(root, "sys/bus/pci/devices", first)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	bar := make([]byte, 0x1182d0)
	copy(bar[0x1182cc:], []byte{0x01, 0x02, 0x03, 0x04})
	file := filetest.Write(t, filepath.Join(dir, "resource0"), bar)
	s := gpu.Sysfs{Root: root}
	if got, err := s.Read32(first, 0x1182cc); err != nil || got != 0x04030201 {
		t.Errorf("got %#x, %v", got, err)
	}
	if _, err := s.Read32(first, 0x1182d0); err == nil || !strings.Contains(err.Error(), "BAR0 has 1147600 bytes") {
		t.Errorf("beyond the end: %v", err)
	}
	if _, err := s.Read32(second, 0); err == nil || !strings.Contains(err.Error(), "no file resource0") {
		t.Errorf("no such device: %v", err)
	}
	if err := os.Chmod(file, 0); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() != 0 {
		if _, err := s.Read32(first, 0); err == nil || !strings.Contains(err.Error(), "run as root") {
			t.Errorf("no permission: %v", err)
		}
	}
}

func TestBreaches(t *testing.T) {
	t.Parallel()
	withSwitch := two().Add("0000:03:00.0", gputest.Device{ID: 0x22a3, Class: 0x068000})
	tests := []struct {
		name  string
		tree  gputest.Tree
		modes map[string]string
		want  []gpu.Rule
	}{
		{"all on", two(), map[string]string{first: "on", second: "on"}, nil},
		{"none could be read", two(), nil, nil},
		{"all off", two(), map[string]string{first: "off", second: "off"}, []gpu.Rule{gpu.RuleMode}},
		{"one off", two(), map[string]string{first: "on", second: "off"}, []gpu.Rule{gpu.RuleMode, gpu.RuleAlike}},
		{"one in devtools", two(), map[string]string{first: "on", second: "devtools"}, []gpu.Rule{gpu.RuleDevtools, gpu.RuleAlike}},
		{"invalid", gputest.New().Add(first, gputest.Device{ID: h100}), map[string]string{first: "invalid"}, []gpu.Rule{gpu.RuleMode}},
		{"switches", withSwitch, map[string]string{first: "on", second: "on"}, []gpu.Rule{gpu.RuleSwitches}},
		{"a GPU without a mode and one that is unknown", gputest.New().Add(first, gputest.Device{ID: 0x26b9}).Add(second, gputest.Device{ID: 0x1234}), nil,
			[]gpu.Rule{gpu.RuleUnknown, gpu.RuleArchitecture}},
		{"no GPU", gputest.New(), nil, nil},
	}
	for _, test := range tests {
		functions := list(t, test.tree)
		gpu.ReadModes(functions, gputest.Modes(test.modes))
		var got []gpu.Rule
		for _, b := range gpu.Breaches(functions) {
			got = append(got, b.Rule)
			if b.What == "" || len(b.Addresses) == 0 {
				t.Errorf("%s: %+v says nothing", test.name, b)
			}
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: rules (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestServes(t *testing.T) {
	t.Parallel()
	hopper, blackwell := gpu.Lookup(h100), gpu.Lookup(0x2901)
	tests := []struct {
		version string
		model   gpu.Model
		use     gpu.Use
		want    string // "" is served
	}{
		{"550.163.01", hopper, gpu.Single, ""},
		{"550.54.15", hopper, gpu.Single, ""},
		{"550.163.01-2~deb13u1", hopper, gpu.Single, ""},
		{"550.54.14", hopper, gpu.Single, "needs 550.54.15"},
		{"535.183.01", hopper, gpu.Single, "needs 550.54.15"},
		{"550.163.01", hopper, gpu.KeyRotation, "needs 575.57.08"},
		{"575.57.08", hopper, gpu.KeyRotation, ""},
		{"550.163.01", hopper, gpu.Protected, "needs 580.65.06"},
		{"580.65.06", hopper, gpu.Protected, ""},
		{"550.163.01", blackwell, gpu.Single, "needs 580.65.06"},
		{"580.159.04", blackwell, gpu.Single, ""},
		{"580.159.04", blackwell, gpu.Protected, "no driver is known"},
		{"580.159.04", gpu.Lookup(0x26b9), gpu.Single, "no driver is known"},
		{"580.159.04", gpu.Model{}, gpu.Single, "not in the device table"},
		{"new", hopper, gpu.Single, "not the version"},
	}
	for _, test := range tests {
		err := gpu.Serves(test.version, test.model, test.use)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s for %s, %s: %v", test.version, test.model, test.use, err)
		}
	}
	if got := gpu.UseOf(list(t, two())); got != gpu.Protected {
		t.Errorf("two GPUs: %s", got)
	}
	if got := gpu.UseOf(list(t, two())[:1]); got != gpu.Single {
		t.Errorf("one GPU: %s", got)
	}
}

func TestSelect(t *testing.T) {
	t.Parallel()
	functions := list(t, two().Add("0000:03:00.0", gputest.Device{ID: 0x22a3, Class: 0x068000}))
	for index, want := range map[string]string{
		"0": first, "1": second, "1,0": first + " " + second, " 0 , 1": first + " " + second, "all": first + " " + second, "none": "",
		"2": "there is no GPU 2: this host has 2", "-1": "no GPU -1", "0,0": "named twice", "": `"" is not a number`, "0,": `"" is not a number`, "ALL": "not a number",
	} {
		got, err := gpu.Select(functions, index)
		var text []string
		for _, f := range got {
			text = append(text, f.Address)
		}
		if err != nil && !strings.Contains(err.Error(), want) || err == nil && strings.Join(text, " ") != want {
			t.Errorf("%q: %v, %v", index, text, err)
		}
	}
}

func TestApertureFollowsTheBARs(t *testing.T) {
	t.Parallel()
	one := list(t, two())[0]
	bars := func(sizes ...uint64) gpu.Function {
		f := gpu.Function{Kind: gpu.GPU, Address: first}
		for i, s := range sizes {
			f.BARs = append(f.BARs, gpu.BAR{Index: i, Size: s, Bits64: true})
		}
		return f
	}
	many := func(n int, f gpu.Function) []gpu.Function {
		var out []gpu.Function
		for range n {
			out = append(out, f)
		}
		return out
	}
	for _, test := range []struct {
		name      string
		functions []gpu.Function
		want      int
	}{
		{"none", nil, 0},
		// 262144 is what NVIDIA's sample has for one such GPU.
		{"one H100", many(1, one), 262144},
		{"two", many(2, one), 524288},
		{"three", many(3, one), 1048576},
		{"eight, as 8 × 256 GiB", many(8, one), 2097152},
		{"an H200: 256 GiB and two small ones", many(1, bars(16<<20, 256<<30, 32<<20)), 524288},
		{"exactly a power of two", many(1, bars(1<<30)), 1024},
		{"an NVSwitch below 4 GiB adds nothing", append(many(1, one), gpu.Function{Kind: gpu.NVSwitch, BARs: []gpu.BAR{{Size: 32 << 20}}}), 262144},
	} {
		if got, err := gpu.ApertureMiB(test.functions); err != nil || got != test.want {
			t.Errorf("%s: %d, %v; want %d", test.name, got, err, test.want)
		}
	}
	for want, functions := range map[string][]gpu.Function{
		"no 64-bit BAR":        {{Kind: gpu.GPU, Address: first}},
		"the firmware accepts": many(64, bars(256<<30, 32<<20)),
	} {
		if _, err := gpu.ApertureMiB(functions); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	ready := gpu.Passthrough{VFIOPCI: true, IOMMUFD: true}
	functions := list(t, two().
		Add("0000:03:00.0", gputest.Device{ID: 0x22a3, Class: 0x068000, Group: 3, Driver: "vfio-pci"}).
		Add("0000:2a:00.1", gputest.Device{Vendor: 0x15b3, Class: 0x020000, Group: 12, Driver: "mlx5_core"}))
	p := gpu.PlanFor(functions[:1], functions, ready)
	want := gpu.Plan{Functions: []string{first}, Bind: []gpu.Binding{{Address: first, From: "nvidia"}}, ApertureMiB: 262144, IOMMUFD: true}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Errorf("one GPU (-want +got):\n%s", diff)
	}
	p = gpu.PlanFor(gpu.Of(gpu.GPU, functions), functions, gpu.Passthrough{VFIOPCI: true, DMAEntryLimit: 65535})
	want = gpu.Plan{
		Functions: []string{"0000:03:00.0", first, second}, Bind: []gpu.Binding{{Address: first, From: "nvidia"}},
		ApertureMiB:   1048576, // the switch has an H100's BARs here
		DMAEntryLimit: gpu.EnoughDMAEntries,
		Problems:      []string{"0000:2a:00.0: 0000:2a:00.1 (class 0200) is in the same IOMMU group 12 and stays with the host"},
	}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Errorf("all GPUs (-want +got):\n%s", diff)
	}
	bare := list(t, gputest.New().Add(first, gputest.Device{ID: h100, Resource: "\n"}))
	p = gpu.PlanFor(bare, bare, gpu.Passthrough{})
	for _, want := range []string{"no IOMMU groups", "no 64-bit BAR", "vfio-pci is not there"} {
		if !strings.Contains(strings.Join(p.Problems, "\n"), want) {
			t.Errorf("%q is missing in %q", want, p.Problems)
		}
	}
	if diff := cmp.Diff(gpu.Plan{}, gpu.PlanFor(nil, bare, ready)); diff != "" {
		t.Errorf("no GPU (-want +got):\n%s", diff)
	}
}

func TestReadPassthrough(t *testing.T) {
	t.Parallel()
	tree := gputest.New()
	if got := gpu.ReadPassthrough(tree, "6.12"); got != (gpu.Passthrough{}) {
		t.Errorf("nothing there: %+v", got)
	}
	tree.Put("lib/modules/6.12/modules.dep", "kernel/drivers/vfio/pci/vfio-pci-core.ko.xz:\nkernel/drivers/vfio/pci/vfio-pci.ko.xz: kernel/drivers/vfio/vfio.ko.xz\n")
	tree.Put("dev/iommu", "")
	tree.Put("sys/module/vfio_iommu_type1/parameters/dma_entry_limit", "65535\n")
	tree.Put("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n")
	want := gpu.Passthrough{VFIOPCI: true, IOMMUFD: true, DMAEntryLimit: 65535, UnsafeNoIOMMU: true}
	if got := gpu.ReadPassthrough(tree, "6.12"); got != want {
		t.Errorf("got %+v", got)
	}
	if got := gpu.ReadPassthrough(tree, "6.13"); got.VFIOPCI {
		t.Error("the module of another kernel counts")
	}
}

func TestLockdown(t *testing.T) {
	t.Parallel()
	tree := gputest.New()
	for text, want := range map[string]string{"none [integrity] confidentiality\n": "integrity", "[none] integrity confidentiality\n": "none", "": ""} {
		tree.Put("sys/kernel/security/lockdown", text)
		if got := gpu.Lockdown(tree); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
}

// failing is a BAR0 that fails in the middle.
type failing struct{ gputest.Registers }

func (f failing) Read32(address string, offset int64) (uint32, error) {
	if offset != 0 {
		return 0, errors.New("reading BAR0 raised a bus error")
	}
	return f.Registers.Read32(address, offset)
}

func TestADeviceThatVanishesCostsItsAnswerOnly(t *testing.T) {
	t.Parallel()
	functions := list(t, two())
	got := gpu.ReadMode(functions[0], failing{gputest.Modes(map[string]string{first: "on"})})
	if got.Mode != gpu.ModeUnread || got.Reason != "reading BAR0 raised a bus error" {
		t.Errorf("got %+v", got)
	}
}

// What nvidia-smi -q and lspci -vvv say of the recorded hosts: device id 10de:2330, bus ids
// 00:06.0 and 07.0, 32 GT/s and 16 lanes, regions 0, 2 and 4 of 16 MiB, 128 GiB
// and 32 MiB. nvidia-smi also has a NUMA affinity of 0, which sysfs does not tell.
func TestRecordedHostsAreReadAsNvidiaSmiDoes(t *testing.T) {
	t.Parallel()
	for name, addresses := range map[string][]string{"h100-one": {"0000:00:06.0"}, "h100-two": {"0000:00:06.0", "0000:00:07.0"}} {
		archive, err := txtar.ParseFile(filepath.Join("testdata", name+".txtar"))
		if err != nil {
			t.Fatal(err)
		}
		tree := gputest.New()
		for _, f := range archive.Files {
			if link, ok := strings.CutSuffix(f.Name, ".link"); ok {
				tree.Link(link, strings.TrimSpace(string(f.Data)))
				continue
			}
			tree.Put(f.Name, string(f.Data))
		}
		tree.Dir("sys/bus/pci/drivers/nvidia")
		tree.Dir("sys/kernel/iommu_groups")
		var got []string
		for _, f := range list(t, tree) {
			got = append(got, f.Address)
			if f.Kind != gpu.GPU || f.ID.String() != "2330" || f.Model.Arch != gpu.Hopper || f.Driver != "nvidia" || f.NUMA != -1 {
				t.Errorf("%s: %+v", name, f)
			}
			if f.Link.Width != "16" || !strings.HasPrefix(f.Link.Speed, "32.0") {
				t.Errorf("%s: link %+v", name, f.Link)
			}
			var bars []uint64
			for _, b := range f.BARs {
				bars = append(bars, b.Size>>20)
			}
			if diff := cmp.Diff([]uint64{16, 131072, 32}, bars); diff != "" {
				t.Errorf("%s: BARs in MiB: %s", name, diff)
			}
			if f.Group.Number != -1 || !strings.Contains(f.Group.Reason, "no IOMMU is on") {
				t.Errorf("%s: group %+v", name, f.Group)
			}
		}
		if diff := cmp.Diff(addresses, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
