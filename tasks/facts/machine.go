package facts

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"cc-base/tasks/gpu"
	"cc-base/tasks/sh"
)

// Kernel is the running kernel.
type Kernel struct {
	Release     string            `json:"release"`
	Options     []string          `json:"options,omitempty"` // of its command line, those that matter here
	Lockdown    string            `json:"lockdown,omitempty"`
	Hibernation bool              `json:"hibernation"`      // suspend to disk is possible
	Config      map[string]string `json:"config,omitempty"` // y, m or n; empty when the file is not there
	Log         []string          `json:"log,omitempty"`    // lines about SEV, TDX, the IOMMU and VFIO; without their time
}

// optionPrefixes are the kernel options that are shown. The rest of a command
// line names disks and hosts.
func optionPrefixes() []string {
	return []string{"iommu", "intel_iommu", "amd_iommu", "nohibernate", "kvm", "mem_encrypt", "hugepages", "default_hugepagesz", "hugepagesz",
		"transparent_hugepage", "vfio", "pci=", "isolcpus", "nosmt", "lockdown", "module_blacklist", "modprobe.blacklist", "rd.driver.blacklist", "tdx", "swiotlb"}
}

// configKeys are the options of the kernel's build that decide something here.
func configKeys() []string {
	return []string{"KVM_AMD_SEV", "KVM_INTEL_TDX", "INTEL_TDX_HOST", "IOMMUFD", "VFIO_PCI", "VFIO_DEVICE_CDEV", "IO_STRICT_DEVMEM"}
}

// logWords choose lines of the kernel's log.
func logWords() []string {
	return []string{"SEV", "SNP", "RMP", "tdx", "TDX", "DMAR", "AMD-Vi", "iommu", "vfio"}
}

// logNoise are lines that say nothing here, or name disks of the host.
func logNoise() []string { return []string{"ommand line", "UUID", "Adding to iommu group"} }

const maxLogLines = 60

func (r reader) kernel(ctx context.Context, run sh.Runner) Kernel {
	k := Kernel{
		Release: Release(r.root), Lockdown: gpu.Lockdown(r.root),
		Hibernation: slices.Contains(strings.Fields(r.text("sys/power/state")), "disk"),
	}
	for word := range strings.FieldsSeq(r.text("proc/cmdline")) {
		if slices.ContainsFunc(optionPrefixes(), func(p string) bool { return strings.HasPrefix(word, p) }) {
			k.Options = append(k.Options, word)
		}
	}
	k.Config = r.config(k.Release)
	k.Log = kernelLog(ctx, run)
	return k
}

// Release returns the release of the running kernel, as uname -r prints it.
func Release(root fs.FS) string { return reader{root}.text("proc/sys/kernel/osrelease") }

// Option returns the value of a kernel option and whether it is there; the
// last one counts, as it does for the kernel.
func (k Kernel) Option(name string) (string, bool) {
	for _, word := range slices.Backward(k.Options) {
		if key, value, _ := strings.Cut(word, "="); key == name {
			return value, true
		}
	}
	return "", false
}

// Logged returns the first line of the log that holds the text.
func (k Kernel) Logged(text string) (string, bool) {
	for _, line := range k.Log {
		if strings.Contains(line, text) {
			return line, true
		}
	}
	return "", false
}

// config reads the options of the kernel's build, of which distributions keep
// a copy; nil when there is none.
func (r reader) config(release string) map[string]string {
	text := r.text("boot/config-" + release)
	if text == "" {
		text = r.text("lib/modules/" + release + "/config")
	}
	if text == "" {
		text = r.gunzip("proc/config.gz")
	}
	if text == "" {
		return nil
	}
	out := map[string]string{}
	for _, key := range configKeys() {
		out[key] = "n"
	}
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if key = strings.TrimPrefix(key, "CONFIG_"); ok && out[key] != "" {
			out[key] = value
		}
	}
	return out
}

func (r reader) gunzip(name string) string {
	b, err := fs.ReadFile(r.root, name)
	if err != nil {
		return ""
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return ""
	}
	text, err := io.ReadAll(io.LimitReader(z, 4<<20))
	if err != nil {
		return ""
	}
	return string(text)
}

// patience is how long one program may take: virsh waits for its daemon for
// ever.
const patience = 15 * time.Second

// ask runs a program and returns what it printed.
func ask(ctx context.Context, run sh.Runner, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return sh.Text(ctx, run, name, args...).String()
}

func kernelLog(ctx context.Context, run sh.Runner) []string {
	if run == nil {
		return nil
	}
	text, err := ask(ctx, run, "dmesg", "--notime")
	if err != nil {
		return nil // an ordinary user may not read it
	}
	var out []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		in := func(word string) bool { return strings.Contains(line, word) }
		if slices.ContainsFunc(logWords(), in) && !slices.ContainsFunc(logNoise(), in) {
			out = append(out, line)
		}
	}
	return out[:min(len(out), maxLogLines)]
}

// CPU is the processors of the host.
type CPU struct {
	Vendor  string   `json:"vendor"` // AuthenticAMD, GenuineIntel
	Model   string   `json:"model"`
	Threads int      `json:"threads"`
	Sockets int      `json:"sockets"`
	SMT     bool     `json:"smt"`             // two threads a core run
	Flags   []string `json:"flags,omitempty"` // of those that matter here
}

// cpuFlags are the flags that are shown.
func cpuFlags() []string {
	return []string{"vmx", "svm", "hypervisor", "sme", "sev", "sev_es", "sev_snp", "tdx_host_platform", "avic", "x2apic"}
}

func (r reader) cpu() CPU {
	c := CPU{SMT: r.text("sys/devices/system/cpu/smt/active") == "1"}
	sockets := map[string]bool{}
	for line := range strings.Lines(r.text("proc/cpuinfo")) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "processor":
			c.Threads++
		case "vendor_id":
			c.Vendor = value
		case "model name":
			c.Model = value
		case "physical id":
			sockets[value] = true
		case "flags":
			if c.Flags == nil {
				c.Flags = slices.DeleteFunc(strings.Fields(value), func(f string) bool { return !slices.Contains(cpuFlags(), f) })
			}
		}
	}
	c.Sockets = max(len(sockets), 1)
	return c
}

// Has tells whether the processor has the flag.
func (c CPU) Has(flag string) bool { return slices.Contains(c.Flags, flag) }

// Memory is the memory of the host.
type Memory struct {
	Total     uint64         `json:"total"`     // bytes
	Available uint64         `json:"available"` // bytes that a guest could get now
	HugePages map[string]int `json:"hugePages,omitempty"`
	Huge      string         `json:"transparentHugePages,omitempty"` // always, madvise or never
	Nodes     []Node         `json:"nodes,omitempty"`
}

// Node is one NUMA node.
type Node struct {
	ID     int    `json:"id"`
	CPUs   string `json:"cpus"`   // as a list of ranges: 0-63,128-191
	Memory uint64 `json:"memory"` // bytes
	Free   uint64 `json:"free"`   // bytes
}

// AvailableMemory is what programs of the machine whose / is root could get now,
// in bytes (proc_meminfo(5), MemAvailable); 0 where it does not say.
func AvailableMemory(root fs.FS) uint64 {
	return kilobytes(reader{root: root}.text("proc/meminfo"), "MemAvailable")
}

func (r reader) memory() Memory {
	info := r.text("proc/meminfo")
	m := Memory{Total: kilobytes(info, "MemTotal"), Available: kilobytes(info, "MemAvailable")}
	const huge = "sys/kernel/mm/hugepages"
	for _, name := range r.names(huge) {
		n, err := strconv.Atoi(r.text(path.Join(huge, name, "nr_hugepages")))
		if err == nil {
			if m.HugePages == nil {
				m.HugePages = map[string]int{}
			}
			m.HugePages[strings.TrimPrefix(name, "hugepages-")] = n
		}
	}
	_, rest, _ := strings.Cut(r.text("sys/kernel/mm/transparent_hugepage/enabled"), "[")
	m.Huge, _, _ = strings.Cut(rest, "]")
	const nodes = "sys/devices/system/node"
	for _, name := range r.names(nodes) {
		id, err := strconv.Atoi(strings.TrimPrefix(name, "node"))
		if err != nil || !strings.HasPrefix(name, "node") {
			continue
		}
		info := r.text(path.Join(nodes, name, "meminfo"))
		m.Nodes = append(m.Nodes, Node{id, r.text(path.Join(nodes, name, "cpulist")), kilobytes(info, "MemTotal"), kilobytes(info, "MemFree")})
	}
	slices.SortFunc(m.Nodes, func(a, b Node) int { return a.ID - b.ID })
	return m
}

// kilobytes finds "KEY: N kB", with "Node 0" before it in a node's file, and
// returns bytes.
func kilobytes(text, key string) uint64 {
	for line := range strings.Lines(text) {
		before, after, ok := strings.Cut(line, ":")
		words := strings.Fields(before)
		if !ok || len(words) == 0 || words[len(words)-1] != key {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(after), "kB")), 10, 54)
		if err == nil {
			return n << 10
		}
	}
	return 0
}

// IOMMU is what keeps devices apart.
type IOMMU struct {
	Units  []string       `json:"units,omitempty"` // dmar0, ivhd0 …
	Groups int            `json:"groups"`
	Types  map[string]int `json:"types,omitempty"` // default domains: DMA, DMA-FQ, identity
}

func (r reader) iommu() IOMMU {
	i := IOMMU{Units: r.names("sys/class/iommu")}
	const dir = "sys/kernel/iommu_groups"
	for _, group := range r.names(dir) {
		i.Groups++
		if t := r.text(path.Join(dir, group, "type")); t != "" {
			if i.Types == nil {
				i.Types = map[string]int{}
			}
			i.Types[t]++
		}
	}
	return i
}
