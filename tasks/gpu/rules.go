package gpu

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Rule names one condition under which GPUs can go to a confidential guest.
type Rule string

// The rules.
const (
	RuleArchitecture Rule = "architecture" // the GPU has a CC mode at all
	RuleUnknown      Rule = "unknown"      // the device table has the GPU
	RuleMode         Rule = "mode"         // its mode is on
	RuleDevtools     Rule = "devtools"     // its mode is not devtools, which no verifier accepts
	RuleAlike        Rule = "alike"        // all GPUs are in the same mode
	RuleSwitches     Rule = "switches"     // NVSwitches go with their GPUs, under protected PCIe
)

// Breach is a rule that is not kept.
type Breach struct {
	Rule      Rule     `json:"rule"`
	Addresses []string `json:"addresses"` // of the functions concerned
	What      string   `json:"what"`
}

// Breaches returns every rule that a host's functions do not keep. A mode that
// could not be read breaks no rule; the reading has the reason.
//
// NVIDIA supports a host only with all of its GPUs in the same mode, and GPUs
// behind NVSwitches only when all GPUs and all switches go to one guest, with
// protected PCIe (docs.nvidia.com confidential-computing, supported platforms;
// github.com/NVIDIA/nvtrust issues 35 and 153).
func Breaches(functions []Function) []Breach {
	var out []Breach
	gpus, switches := Of(GPU, functions), Of(NVSwitch, functions)
	add := func(rule Rule, concerned []Function, format string, args ...any) {
		if len(concerned) > 0 {
			out = append(out, Breach{rule, addresses(concerned), fmt.Sprintf(format, args...)})
		}
	}
	only := func(want func(Function) bool) []Function {
		return slices.DeleteFunc(slices.Clone(gpus), func(f Function) bool { return !want(f) })
	}
	add(RuleUnknown, only(func(f Function) bool { return !f.Model.Known() }),
		"the device id is not in the table of models")
	add(RuleArchitecture, only(func(f Function) bool { return f.Model.Known() && !f.Model.Arch.Confidential() }),
		"the GPU has no confidential-computing mode")
	add(RuleMode, only(func(f Function) bool { return f.Mode.Mode == ModeOff || f.Mode.Mode == ModeInvalid }),
		"the confidential-computing mode is not on")
	add(RuleDevtools, only(func(f Function) bool { return f.Mode.Mode == ModeDevtools }),
		"devtools mode leaves the GPU open to debuggers, and its attestation fails")
	if modes := modesOf(gpus); len(modes) > 1 {
		add(RuleAlike, gpus, "the GPUs are in different modes: %s", strings.Join(modes, ", "))
	}
	if len(gpus) > 0 {
		add(RuleSwitches, switches, "there are %d NVSwitches: all of them and all %d GPUs go to one guest, with protected PCIe", len(switches), len(gpus))
	}
	return out
}

// modesOf returns the different modes that were read, sorted.
func modesOf(gpus []Function) []string {
	var out []string
	for _, f := range gpus {
		if m := string(f.Mode.Mode); m != "" && !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	slices.Sort(out)
	return out
}

func addresses(functions []Function) []string {
	var out []string
	for _, f := range functions {
		out = append(out, f.Address)
	}
	return out
}

// Use is how GPUs serve a confidential guest.
type Use string

// The uses.
const (
	Single      Use = "single"       // one GPU, no NVSwitch
	Protected   Use = "ppcie"        // all GPUs and NVSwitches of a Hopper board
	KeyRotation Use = "key rotation" // Single, and the session keys of the GPU are renewed at run time
)

// Driver is the least version of NVIDIA's guest driver for a use.
type Driver struct {
	Arch  Arch
	Use   Use
	Least string // 550.54.15
	Note  string
}

// Drivers is the driver-to-GPU matrix, from NVIDIA's release notes of its
// trusted-computing releases R550 TRD1 and TRD3, R575 TRD1 and R580 TRD1. The
// driver must be the open kernel module in every case.
func Drivers() []Driver {
	return []Driver{
		{Hopper, Single, "550.54.15", "Debian's 550 series serves it; the session key is not renewed: restart the VM before the AES-GCM limit"},
		{Hopper, KeyRotation, "575.57.08", ""},
		{Hopper, Protected, "580.65.06", ""},
		{Blackwell, Single, "580.65.06", "575.57.08 had B200 as early access"},
	}
}

// Serves returns nil when the guest driver of that version serves the GPU for
// the use, and otherwise what is missing.
func Serves(version string, m Model, use Use) error {
	if !m.Known() {
		return fmt.Errorf("the GPU is not in the device table, so the driver it needs is not known")
	}
	have, err := parseVersion(version)
	if err != nil {
		return err
	}
	for _, d := range Drivers() {
		if d.Arch != m.Arch || d.Use != use {
			continue
		}
		least, err := parseVersion(d.Least)
		if err != nil {
			return err
		}
		if slices.Compare(have, least) < 0 {
			return fmt.Errorf("driver %s is too old for %s (%s): it needs %s", version, m, use, d.Least)
		}
		return nil
	}
	return fmt.Errorf("no driver is known for %s (%s)", m, use)
}

// UseOf returns how the functions would serve a guest that gets all of them.
func UseOf(functions []Function) Use {
	if len(Of(NVSwitch, functions)) > 0 || len(Of(GPU, functions)) > 1 {
		return Protected
	}
	return Single
}

// parseVersion reads 550.163.01, also with a package's revision behind it.
func parseVersion(text string) ([]int, error) {
	var out []int
	upstream, _, _ := strings.Cut(text, "-")
	for part := range strings.SplitSeq(upstream, ".") {
		n, err := strconv.Atoi(part)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("%q is not the version of a driver", text)
		}
		out = append(out, n)
	}
	return out, nil
}

// Select returns the GPUs that an index names: a comma-separated list of
// numbers, counted from 0 over all GPUs in order of PCI address, or all, or
// none. Order and repetition of the list mean nothing.
func Select(functions []Function, index string) ([]Function, error) {
	gpus := Of(GPU, functions)
	switch index {
	case "none":
		return nil, nil
	case "all":
		return gpus, nil
	}
	var out []Function
	for part := range strings.SplitSeq(index, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(part))
		switch {
		case err != nil:
			return nil, fmt.Errorf("%q is not a number, all or none", strings.TrimSpace(part))
		case n < 0 || n >= len(gpus):
			return nil, fmt.Errorf("there is no GPU %d: this host has %d, counted from 0", n, len(gpus))
		case slices.ContainsFunc(out, func(f Function) bool { return f.Index == n }):
			return nil, fmt.Errorf("GPU %d is named twice", n)
		}
		out = append(out, gpus[n])
	}
	slices.SortFunc(out, func(a, b Function) int { return cmp.Compare(a.Index, b.Index) })
	return out, nil
}
