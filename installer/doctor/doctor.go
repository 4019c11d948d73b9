// Package doctor judges the facts of a host: whether it can run a confidential
// guest with its GPUs, and where not, why and what to do.
//
//	report := doctor.Examine(facts.Gather(ctx, world), doctor.Options{})
//	report.Text(os.Stdout)
//
// Every check is a pure function of facts and options, so that facts which
// were saved on another machine can be judged as well, and all findings come
// at once. Nothing is repaired: the fix is told.
//
// Each check guards against a trap that people were caught in. The traps, with
// the checks for them, are the table in docs/hardware.md; it is made from
// [Checks], and a test holds it against the list of traps.
package doctor

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"cc-base/tasks/facts"
	"cc-base/tasks/gpu"
	"cc-base/tasks/hw"
)

// Severity is how bad a finding is.
type Severity string

// The severities. A note is worth knowing, a warning will likely hurt, a
// failure keeps the guest from running or from being confidential.
const (
	OK   Severity = "ok"
	Note Severity = "note"
	Warn Severity = "warn"
	Fail Severity = "fail"
)

// Finding is the outcome of one check that applies to the host.
type Finding struct {
	ID       string   `json:"id"`
	Severity Severity `json:"severity"`
	Title    string   `json:"title"` // what should be so
	Found    string   `json:"found"`
	Cause    string   `json:"cause,omitempty"`
	Fix      string   `json:"fix,omitempty"`
}

// Options are what the facts are judged for.
type Options struct {
	AllowPlain  bool   // a guest that is not protected against the host will do
	AllowSmall  bool   // a host below [LeastMemory] will do
	GuestMiB    int    // memory of the guest; 0 when it is not known
	GuestDriver string // version of NVIDIA's driver in the image; empty when it is not known
	CommandLine string // kernel command line of the image; empty when it is not known
}

// LeastMemory is the memory of a host below which nothing useful runs, in
// bytes: 16 GiB, less what firmware and kernel keep of it.
const LeastMemory = 15 << 30

// Check is one thing that is looked at.
type Check struct {
	ID    string // area.name
	Title string // what should be so
	Trap  string // what happened to people, in a few words
	// Judge returns false when the check has nothing to say of this host.
	Judge func(s Subject) (Verdict, bool)
}

// Verdict is what a check says.
type Verdict struct {
	Severity          Severity
	Found, Cause, Fix string
}

// Subject is a host with what is asked of it.
type Subject struct {
	facts.Facts
	Options
}

// Checks returns all checks, in the order of their findings.
func Checks() []Check {
	return slices.Concat(hostChecks(), teeChecks(), snpChecks(), tdxChecks(), iommuChecks(), gpuChecks(), guestChecks(), placeChecks())
}

// Report is all findings.
type Report struct {
	Findings []Finding `json:"findings"`
	// Unsupported: nothing of cc-base can run here, with whatever options.
	Unsupported bool           `json:"unsupported"`
	Counts      map[string]int `json:"counts"`
	GPUs        []GPU          `json:"gpus,omitempty"`
}

// GPU is what is shown of a GPU or NVSwitch beside the findings.
type GPU struct {
	Kind    gpu.Kind `json:"kind"`
	Index   int      `json:"index"`
	Address string   `json:"address"`
	ID      gpu.ID   `json:"id"`
	Model   string   `json:"model"`
	BARs    string   `json:"bars"`       // 0:16M 2:128G 4:32M
	Group   string   `json:"iommuGroup"` // its number, or why there is none
	Driver  string   `json:"driver"`
	NUMA    int      `json:"numaNode"`
	Link    string   `json:"link"`
	Mode    string   `json:"ccMode"` // or why it was not read
}

// Examine runs every check.
func Examine(f facts.Facts, o Options) Report {
	s := Subject{f, o}
	r := Report{Counts: map[string]int{}, Unsupported: !s.TEE.DevKVM, Findings: []Finding{}}
	for _, c := range Checks() {
		v, applies := c.Judge(s)
		if !applies {
			continue
		}
		r.Findings = append(r.Findings, Finding{c.ID, v.Severity, c.Title, v.Found, v.Cause, v.Fix})
		r.Counts[string(v.Severity)]++
	}
	r.GPUs = ShowGPUs(f.NVIDIA)
	return r
}

// Failed tells whether a finding is a failure.
func (r Report) Failed() bool { return r.Counts[string(Fail)] > 0 }

// ShowGPUs returns the functions as people compare them with lspci -vvv and
// nvidia-smi.
func ShowGPUs(functions []gpu.Function) []GPU {
	var out []GPU
	for _, f := range functions {
		out = append(out, show(f))
	}
	return out
}

func show(f gpu.Function) GPU {
	var bars []string
	for _, b := range f.BARs {
		text := fmt.Sprintf("%d:%s", b.Index, gpu.Size(b.Size))
		if b.Unassigned {
			text += "(unassigned)"
		}
		bars = append(bars, text)
	}
	group := strconv.Itoa(f.Group.Number)
	if f.Group.Number < 0 {
		group = "none: " + f.Group.Reason
	}
	link := ""
	if f.Link.Speed != "" {
		link = fmt.Sprintf("%s x%s (of %s x%s)", f.Link.Speed, f.Link.Width, f.Link.MaxSpeed, f.Link.MaxWidth)
	}
	mode := f.Mode.String()
	if f.Kind == gpu.NVSwitch {
		mode = "-"
	}
	return GPU{f.Kind, f.Index, f.Address, f.ID, f.Model.String(), strings.Join(bars, " "), group,
		cmp.Or(f.Driver, "none"), f.NUMA, cmp.Or(link, "unknown"), mode}
}

// Text writes the report for people: the GPUs, then the findings, the worst
// last, where a terminal shows them.
func (r Report) Text(w io.Writer) error {
	if err := WriteGPUs(w, r.GPUs); err != nil {
		return err
	}
	order := []Severity{OK, Note, Warn, Fail}
	sorted := slices.SortedStableFunc(slices.Values(r.Findings), func(a, b Finding) int {
		return cmp.Compare(slices.Index(order, a.Severity), slices.Index(order, b.Severity))
	})
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range sorted {
		fmt.Fprintf(table, "%s\t%s\t%s\n", f.Severity, f.ID, f.Found)
		for _, more := range [][2]string{{"why", f.Cause}, {"do", f.Fix}} {
			if more[1] != "" {
				fmt.Fprintf(table, "\t\t%s: %s\n", more[0], more[1])
			}
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\nok %d, note %d, warn %d, fail %d\n",
		r.Counts[string(OK)], r.Counts[string(Note)], r.Counts[string(Warn)], r.Counts[string(Fail)])
	return err
}

// WriteGPUs writes a paragraph for each.
func WriteGPUs(w io.Writer, gpus []GPU) error {
	for _, g := range gpus {
		fmt.Fprintf(w, "%s %d  %s  %s [10de:%s]\n", g.Kind, g.Index, g.Address, g.Model, g.ID)
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, line := range [][2]string{
			{"BARs", g.BARs}, {"IOMMU group", g.Group}, {"CC mode", g.Mode}, {"driver", g.Driver}, {"NUMA node", strconv.Itoa(g.NUMA)}, {"link", g.Link},
		} {
			fmt.Fprintf(table, "    %s\t%s\n", line[0], line[1])
		}
		if err := table.Flush(); err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	return nil
}

// JSON writes the report for programs.
func (r Report) JSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// The verdicts, each with applies set.

func ok(format string, args ...any) (Verdict, bool) {
	return Verdict{Severity: OK, Found: fmt.Sprintf(format, args...)}, true
}

func note(found, cause, fix string) (Verdict, bool) { return Verdict{Note, found, cause, fix}, true }
func warn(found, cause, fix string) (Verdict, bool) { return Verdict{Warn, found, cause, fix}, true }
func fail(found, cause, fix string) (Verdict, bool) { return Verdict{Fail, found, cause, fix}, true }

// silent is for a check that has nothing to say.
func silent() (Verdict, bool) { return Verdict{}, false }

// confidential is fail where the guest must be confidential, and a note where
// a plain one will do.
func (s Subject) confidential(found, cause, fix string) (Verdict, bool) {
	if s.AllowPlain {
		return note(found, cause, fix)
	}
	return fail(found, cause, fix)
}

func (s Subject) amd() bool   { return s.CPU.Vendor == "AuthenticAMD" }
func (s Subject) intel() bool { return s.CPU.Vendor == "GenuineIntel" }

// kind is the TEE that this host has, or could have by its vendor.
func (s Subject) kind() hw.TEE {
	switch {
	case s.TEE.Kind != hw.NoTEE:
		return s.TEE.Kind
	case s.amd():
		return hw.SEVSNP
	case s.intel():
		return hw.TDX
	}
	return hw.NoTEE
}

func (s Subject) gpus() []gpu.Function     { return gpu.Of(gpu.GPU, s.NVIDIA) }
func (s Subject) switches() []gpu.Function { return gpu.Of(gpu.NVSwitch, s.NVIDIA) }

// hasGPU tells whether a GPU could go to a guest.
func (s Subject) hasGPU() bool { return len(s.gpus()) > 0 }

// atLeast compares the numbers at the beginning of two versions; what follows
// them, as -rc1 or +deb13, does not count.
func atLeast(have, least string) bool { return slices.Compare(numbers(have), numbers(least)) >= 0 }

func numbers(version string) []int {
	var out []int
	for part := range strings.SplitSeq(version, ".") {
		end := strings.IndexFunc(part, func(r rune) bool { return r < '0' || r > '9' })
		digits := part
		if end >= 0 {
			digits = part[:end]
		}
		n, err := strconv.Atoi(digits)
		if err != nil {
			break
		}
		out = append(out, n)
		if end >= 0 {
			break
		}
	}
	return out
}

// each joins what is said of several functions, those of which the same is
// said together. A function of which nothing is said is left out.
func each(functions []gpu.Function, say func(gpu.Function) string) string {
	var texts []string
	said := map[string][]string{}
	for _, f := range functions {
		text := say(f)
		if text != "" && said[text] == nil {
			texts = append(texts, text)
		}
		said[text] = append(said[text], f.Address)
	}
	for i, text := range texts {
		who := strings.Join(said[text], ", ")
		if n := len(said[text]); n > 1 && n == len(functions) {
			who = fmt.Sprintf("all %d", n)
		}
		texts[i] = who + ": " + text
	}
	return strings.Join(texts, "; ")
}

func gib(bytes uint64) string { return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30)) }
