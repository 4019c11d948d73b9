package settings

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"cc-base/tasks/conf/literal"
	"cc-base/tasks/gpu"
)

// GPU is gpu_settings.
type GPU struct {
	Index     string   `json:"index"`     // 0 or 0,2 or all or none
	Addresses []string `json:"addresses"` // of the GPUs that Index meant when it was written; empty is not compared
	// Memory is the least memory of each chosen GPU in bytes, 0 for any.
	Memory uint64 `json:"memory"`
}

const gpuHead = `# The GPUs of the VM. Written by cc-install detect, which never changes a line
# that is here; cc-install doctor tells whether they can be passed through.
`

// The names of the keys.
const (
	keyIndex   = "NVIDIA_GPU_INDEX"
	keyAddress = "NVIDIA_GPU_ADDRESS"
	keyMemory  = "NVIDIA_GPU_MEMORY"
)

func (g *GPU) keys() []key {
	return []key{
		{keyIndex, "Which of the host's NVIDIA GPUs the VM gets: numbers from 0 over NVIDIA display\nand 3D functions in order of PCI address. GPUs behind NVSwitches go all together.",
			"a number, a comma-separated list of numbers, all, none",
			func() string { return g.Index }, g.setIndex},
		{keyAddress, "The PCI addresses of these GPUs. An added card can change the numbers: when index\nand address do not agree, nothing is started. Empty is not compared.",
			"PCI addresses such as 0000:45:00.0, separated by blanks, or nothing",
			func() string { return strings.Join(g.Addresses, " ") }, g.setAddress},
		{keyMemory, "The least memory that each of these GPUs must have. It reserves nothing: a GPU is\npassed through as a whole, a part of its memory cannot be set aside.",
			"a size in MiB or GiB such as 81920M or 80G; 0 for any",
			func() string { return formatMemory(g.Memory) }, g.setMemory},
	}
}

var (
	indexPattern   = regexp.MustCompile(`^([0-9]{1,3}( *, *[0-9]{1,3})*|all|none)$`)
	addressPattern = regexp.MustCompile(`^[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$`)
	memoryPattern  = regexp.MustCompile(`^([0-9]{1,7})(M|MiB|G|GiB)$`)
)

func (g *GPU) setIndex(value string) error {
	if !indexPattern.MatchString(value) {
		return fmt.Errorf("%q names no GPU", value)
	}
	g.Index = value
	return nil
}

func (g *GPU) setAddress(value string) error {
	g.Addresses = strings.Fields(strings.ToLower(value))
	for _, a := range g.Addresses {
		if !addressPattern.MatchString(a) {
			return fmt.Errorf("%q is no PCI address", a)
		}
	}
	return nil
}

func (g *GPU) setMemory(value string) error {
	g.Memory = 0
	if value == "0" {
		return nil
	}
	m := memoryPattern.FindStringSubmatch(value)
	if m == nil {
		return fmt.Errorf("%q is not a size", value)
	}
	n, err := strconv.ParseUint(m[1], 10, 32)
	if err != nil {
		return err
	}
	g.Memory = n << 20
	if m[2][0] == 'G' {
		g.Memory = n << 30
	}
	return nil
}

func formatMemory(bytes uint64) string {
	switch {
	case bytes == 0:
		return "0"
	case bytes%(1<<30) == 0:
		return fmt.Sprintf("%dG", bytes>>30)
	}
	return fmt.Sprintf("%dM", bytes>>20)
}

// detectGPU proposes all GPUs where they are joined by NVSwitches, and
// otherwise the first that has a CC mode: such a GPU goes alone to one guest.
func detectGPU(functions []gpu.Function) GPU {
	gpus := gpu.Of(gpu.GPU, functions)
	g := GPU{Index: "none"}
	var chosen []gpu.Function
	switch first := slices.IndexFunc(gpus, func(f gpu.Function) bool { return f.Model.Arch.Confidential() }); {
	case len(gpus) == 0:
		return g
	case len(gpu.Of(gpu.NVSwitch, functions)) > 0:
		g.Index, chosen = "all", gpus
	case first >= 0:
		g.Index, chosen = strconv.Itoa(first), gpus[first:first+1]
	default:
		return g
	}
	g.Addresses, g.Memory = addressesAndMemory(chosen)
	return g
}

// addressesAndMemory returns what stands beside the index of these GPUs: their
// addresses and the nominal memory of the smallest, 0 where one is not known.
func addressesAndMemory(chosen []gpu.Function) (addresses []string, memory uint64) {
	for i, f := range chosen {
		addresses = append(addresses, f.Address)
		if has := uint64(f.Model.MemoryGiB) << 30; i == 0 || has < memory {
			memory = has
		}
	}
	return addresses, memory
}

// settle makes the keys that are missing beside an index of the operator's
// follow from it.
func (g *GPU) settle(p places, functions []gpu.Function) {
	chosen, err := g.Chosen(functions)
	if !p.has(keyIndex) || err != nil {
		return
	}
	addresses, memory := addressesAndMemory(chosen)
	if !p.has(keyAddress) {
		g.Addresses = addresses
	}
	if !p.has(keyMemory) {
		g.Memory = memory
	}
}

// Chosen returns the GPUs of the host that the settings name. After
// [Settings.Against] without an error it cannot fail.
func (g GPU) Chosen(functions []gpu.Function) ([]gpu.Function, error) {
	return gpu.Select(functions, strings.ReplaceAll(g.Index, " ", ""))
}

func (g GPU) judge(p places, functions []gpu.Function) literal.Problems {
	chosen, err := g.Chosen(functions)
	if err != nil {
		return literal.Problems{p.problem(keyIndex, err.Error(), "")}
	}
	var out literal.Problems
	var addresses []string
	for _, f := range chosen {
		addresses = append(addresses, f.Address)
		if what := tooSmall(f, g.Memory); what != "" {
			out = append(out, p.problem(keyMemory, what, "at most what the GPU has"))
		}
	}
	if wanted := slices.Sorted(slices.Values(g.Addresses)); len(wanted) > 0 && !slices.Equal(wanted, addresses) {
		is := "none"
		if len(addresses) > 0 {
			is = strings.Join(addresses, " ")
		}
		out = append(out, p.problem(keyAddress, fmt.Sprintf("it is %s, but %s=%q is %s on this host", strings.Join(wanted, " "), keyIndex, g.Index, is),
			"the addresses that the index means, or nothing"))
	}
	if n := len(gpu.Of(gpu.NVSwitch, functions)); n > 0 && len(chosen) > 0 && len(chosen) < len(gpu.Of(gpu.GPU, functions)) {
		out = append(out, p.problem(keyIndex, fmt.Sprintf("the GPUs are joined by %d NVSwitches and cannot be divided", n), "all, none"))
	}
	return out
}

// tooSmall compares with the nominal memory where the model is known. Of other
// GPUs only the largest BAR is known, which is never smaller than the memory.
func tooSmall(f gpu.Function, least uint64) string {
	if has, err := f.Model.Memory(); err == nil {
		if has < least {
			return fmt.Sprintf("%s, %s, has %s", f.Address, f.Model, formatMemory(has))
		}
		return ""
	}
	largest := uint64(0)
	for _, b := range f.BARs {
		largest = max(largest, b.Size)
	}
	if largest > 0 && largest < least {
		return fmt.Sprintf("%s, %s, has at most %s", f.Address, f.Model, formatMemory(largest))
	}
	return ""
}
