package facts

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"cc-base/tasks/hw"
	"cc-base/tasks/sh"
)

// TEE is the trusted execution environment that the host offers to guests.
type TEE struct {
	Kind hw.TEE `json:"kind"`
	By   string `json:"by"`  // domcapabilities or sysfs
	Why  string `json:"why"` // the facts that it was told by

	// SecTypes are libvirt's words for what it can launch (sev, sev-snp,
	// tdx); nil when libvirt was not asked, gave no answer or is older than
	// 10.5 and has no word for it.
	SecTypes []string `json:"secTypes,omitempty"`

	SNPParameter string `json:"kvmAMDSEVSNP,omitempty"` // kvm_amd's sev_snp: Y, N or empty for no module
	SEVParameter string `json:"kvmAMDSEV,omitempty"`
	TDXParameter string `json:"kvmIntelTDX,omitempty"` // kvm_intel's tdx
	DevSEV       bool   `json:"devSEV"`                // /dev/sev: the firmware's driver is loaded
	DevKVM       bool   `json:"devKVM"`
	SNPAPI       string `json:"snpAPI,omitempty"` // ABI of the SNP firmware, from the kernel's log: 1.55
	// Guests is how many confidential guests the processor can tell apart, by
	// kind, as the cgroup controller misc says: sev, sev_es (SNP's too), tdx.
	Guests map[string]int `json:"guests,omitempty"`

	QuoteSocket bool   `json:"quoteSocket,omitempty"` // TDX's quote generation service listens on its socket
	QuotePort   string `json:"quotePort,omitempty"`   // port in /etc/qgs.conf
}

// tee asks libvirt first, since it alone knows whether the whole chain of
// kernel, QEMU and itself can launch such a guest, and the kernel where libvirt
// gives no answer.
func (r reader) tee(ctx context.Context, run sh.Runner, log []string) TEE {
	t := TEE{
		SNPParameter: r.text("sys/module/kvm_amd/parameters/sev_snp"),
		SEVParameter: r.text("sys/module/kvm_amd/parameters/sev"),
		TDXParameter: r.text("sys/module/kvm_intel/parameters/tdx"),
		DevSEV:       r.exists("dev/sev"), DevKVM: r.exists("dev/kvm"),
		SNPAPI:      snpAPI(log),
		Guests:      r.guests(),
		QuoteSocket: r.exists("run/tdx-qgs/qgs.socket") || r.exists("var/run/tdx-qgs/qgs.socket"),
		QuotePort:   quotePort(r.text("etc/qgs.conf")),
	}
	t.SecTypes = secTypes(ctx, run)
	switch {
	case slices.Contains(t.SecTypes, "sev-snp"):
		t.Kind, t.By, t.Why = hw.SEVSNP, "domcapabilities", "libvirt can launch sev-snp guests"
	case slices.Contains(t.SecTypes, "tdx"):
		t.Kind, t.By, t.Why = hw.TDX, "domcapabilities", "libvirt can launch tdx guests"
	default:
		t.Kind, t.Why = hw.HostTEE(r.root)
		t.By = "sysfs"
	}
	return t
}

// secTypes returns the enumeration sectype of launchSecurity.
func secTypes(ctx context.Context, run sh.Runner) []string {
	if run == nil {
		return nil
	}
	text, err := ask(ctx, run, "virsh", "--connect", "qemu:///system", "domcapabilities", "--virttype", "kvm", "--arch", "x86_64", "--machine", "q35")
	if err != nil {
		return nil
	}
	var caps struct {
		Features struct {
			Launch struct {
				Supported string `xml:"supported,attr"`
				Enums     []struct {
					Name   string   `xml:"name,attr"`
					Values []string `xml:"value"`
				} `xml:"enum"`
			} `xml:"launchSecurity"`
		} `xml:"features"`
	}
	if xml.Unmarshal([]byte(text), &caps) != nil || caps.Features.Launch.Supported != "yes" {
		return nil
	}
	for _, e := range caps.Features.Launch.Enums {
		if e.Name == "sectype" {
			return e.Values
		}
	}
	return nil
}

// The driver of AMD's secure processor logs it (Linux drivers/crypto/ccp/sev-dev.c).
var snpAPIPattern = regexp.MustCompile(`SEV-SNP API:(\d+\.\d+)`)

func snpAPI(log []string) string {
	for _, line := range log {
		if m := snpAPIPattern.FindStringSubmatch(line); m != nil {
			return m[1]
		}
	}
	return ""
}

func (r reader) guests() map[string]int {
	var out map[string]int
	for line := range strings.Lines(r.text("sys/fs/cgroup/misc.capacity")) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.Atoi(value); err == nil {
			if out == nil {
				out = map[string]int{}
			}
			out[name] = n
		}
	}
	return out
}

// quotePort reads qgs.conf, which has no section header and by default only a
// comment in the place of the port.
func quotePort(text string) string {
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, "="); ok && strings.TrimSpace(key) == "port" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// Firmware is one descriptor of QEMU's (docs/interop/firmware.json).
type Firmware struct {
	Descriptor string   `json:"descriptor"` // 60-edk2-ovmf-x64-amdsev.json
	File       string   `json:"file"`       // the firmware it describes
	Exists     bool     `json:"exists"`     // the file is there
	Device     string   `json:"device"`     // memory, flash or kernel
	Features   []string `json:"features,omitempty"`
}

// Has tells whether the firmware claims a feature, such as amd-sev-snp or
// intel-tdx.
func (f Firmware) Has(feature string) bool { return slices.Contains(f.Features, feature) }

// firmware reads the descriptors; one in /etc hides one of the same name in
// /usr/share, and an empty one hides without a replacement.
func (r reader) firmware() []Firmware {
	found := map[string]Firmware{}
	for _, dir := range []string{"usr/share/qemu/firmware", "etc/qemu/firmware"} {
		for _, name := range r.names(dir) {
			if strings.HasSuffix(name, ".json") {
				delete(found, name)
				if f, ok := r.descriptor(path.Join(dir, name)); ok {
					found[name] = f
				}
			}
		}
	}
	var out []Firmware
	for _, f := range found {
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b Firmware) int { return strings.Compare(a.Descriptor, b.Descriptor) })
	return out
}

func (r reader) descriptor(name string) (Firmware, bool) {
	var d struct {
		Mapping struct {
			Device     string
			Filename   string
			Executable struct{ Filename string }
		}
		Targets  []struct{ Architecture string }
		Features []string
	}
	b, err := fs.ReadFile(r.root, name)
	if err != nil || json.Unmarshal(b, &d) != nil {
		return Firmware{}, false
	}
	for _, t := range d.Targets {
		if t.Architecture != "x86_64" {
			continue
		}
		file := d.Mapping.Filename + d.Mapping.Executable.Filename // one of them is empty
		return Firmware{path.Base(name), file, r.exists(strings.TrimPrefix(file, "/")), d.Mapping.Device, d.Features}, true
	}
	return Firmware{}, false
}

// Program is a program that installation or guests need.
type Program struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"` // empty when it is not there or tells none
	Problem string `json:"problem,omitempty"` // why there is no version
}

var versionPattern = regexp.MustCompile(`\d+\.\d+(\.\d+)*`)

// asked are the programs, each with the names under which it may be installed;
// all of them tell their version by --version.
func asked() [][]string {
	return [][]string{
		{"qemu-system-x86_64", "/usr/libexec/qemu-kvm"}, // the latter on Red Hat's systems
		{"qemu-img"}, {"virsh"}, {"swtpm"}, {"cryptsetup"},
	}
}

// programs asks each for its version.
func programs(ctx context.Context, run sh.Runner) []Program {
	var out []Program
	for _, names := range asked() {
		p := Program{Name: names[0], Problem: "not asked"}
		for _, name := range names {
			if run == nil || p.Version != "" {
				continue
			}
			text, err := ask(ctx, run, name, "--version")
			switch version := versionPattern.FindString(text); {
			case err == nil && version != "":
				p.Version, p.Problem = version, ""
			case err == nil:
				p.Problem = "it tells no version"
			case name == names[0]:
				p.Problem, _, _ = strings.Cut(err.Error(), "\n")
			}
		}
		out = append(out, p)
	}
	return out
}

// Program returns what is known of the program.
func (f Facts) Program(name string) Program {
	for _, p := range f.Programs {
		if p.Name == name {
			return p
		}
	}
	return Program{Name: name, Problem: "not asked"}
}
