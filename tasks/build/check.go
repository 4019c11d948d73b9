package build

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"cc-base/installer/doctor"
	"cc-base/tasks/conf"
	"cc-base/tasks/facts"
	"cc-base/tasks/fault"
	"cc-base/tasks/gpu"
	"cc-base/tasks/hw"
	"cc-base/tasks/sh"
)

// CheckTEE prints what this machine, or the one whose facts are in the file,
// has and lacks of SEV-SNP and TDX. A TEE that TEE_TYPE asks for and that is
// missing is an error; with auto or none it is told what will happen instead.
func CheckTEE(ctx context.Context, o Options, file string, w io.Writer) error {
	c, err := o.config()
	if err != nil {
		return err
	}
	f, err := factsOf(ctx, file)
	if err != nil {
		return err
	}
	return judgeTEE(f, c.TEE.Type, w)
}

func judgeTEE(f facts.Facts, wanted string, w io.Writer) error {
	// Without a demand for a TEE its absence is a warning.
	demanded := demand(wanted)
	report := doctor.Examine(f, doctor.Options{AllowPlain: demanded == hw.NoTEE})
	failed, err := showFindings(report, about("tee", "snp", "tdx"), true, w)
	if err != nil {
		return err
	}
	// libvirt remembers what a former kernel offered, so that its word alone
	// is not enough.
	if demanded == f.TEE.Kind && len(failed) > 0 && demanded != hw.NoTEE {
		return fault.Newf(fault.HostUnfit, "TEE_TYPE=%s, but not all of it is in order: %s", wanted, strings.Join(failed, ", ")).
			Hint("the table above has the cause and the fix of each")
	}
	fmt.Fprintf(w, "TEE_TYPE=%s: %s\n", wanted, meaningOf(wanted, f.TEE.Kind))
	if demanded != hw.NoTEE && f.TEE.Kind != demanded {
		return fault.Newf(fault.HostUnfit, "TEE_TYPE=%s, but the machine has %s: %s", wanted, f.TEE.Kind, f.TEE.Why).
			Hint("the table above names each missing part; TEE_TYPE=auto takes what the host has")
	}
	return nil
}

// demand is the TEE that a setting insists on.
func demand(wanted string) hw.TEE {
	switch wanted {
	case "sev-snp":
		return hw.SEVSNP
	case "tdx":
		return hw.TDX
	}
	return hw.NoTEE
}

// CheckHardware prints what the doctor finds of this machine, or of the one whose
// facts are in the file: one line each, with verbose cause and fix as well. A
// failure among the findings is an error.
func CheckHardware(ctx context.Context, o Options, file string, verbose bool, w io.Writer) error {
	report, _, err := o.examine(ctx, file)
	if err != nil {
		return err
	}
	if err := doctor.WriteGPUs(w, report.GPUs); err != nil {
		return err
	}
	return unfit(showFindings(report, about(), verbose, w))
}

// CheckCompatibility holds the settings against each other and then against the
// target: this machine, or the one whose facts are in the file.
func CheckCompatibility(ctx context.Context, o Options, file string, w io.Writer) error {
	if err := ValidateConfig(o, w); err != nil {
		return err
	}
	report, c, err := o.examine(ctx, file)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "\nTEE_TYPE=%s, %d vCPUs and %d MiB for the guest, on this target:\n", c.TEE.Type, c.TEE.VCPUs, c.TEE.MemorySize>>20)
	return unfit(showFindings(report, about("kernel", "qemu", "libvirt", "tee", "snp", "tdx", "memory", "gpu", "guest", "vfio", "iommu", "network"), true, w))
}

// examine runs the doctor with what the configuration demands.
func (o Options) examine(ctx context.Context, file string) (doctor.Report, conf.Config, error) {
	c, err := o.config()
	if err != nil {
		return doctor.Report{}, c, err
	}
	f, err := factsOf(ctx, file)
	if err != nil {
		return doctor.Report{}, c, err
	}
	return doctor.Examine(f, doctor.Options{
		AllowPlain: demand(c.TEE.Type) == hw.NoTEE, AllowSmall: os.Getenv(smallHost) == "yes", GuestMiB: int(c.TEE.MemorySize >> 20),
	}), c, nil
}

// smallHost is the variable that accepts a host below [doctor.LeastMemory].
const smallHost = "CC_ALLOW_SMALL_HOST"

func unfit(failed []string, err error) error {
	if err != nil || len(failed) == 0 {
		return err
	}
	return fault.Newf(fault.HostUnfit, "%s", strings.Join(failed, ", ")).Hint("the table above has the cause and the fix of each")
}

// showFindings prints the picked findings and returns the IDs of those that fail.
func showFindings(report doctor.Report, pick func(id string) bool, verbose bool, w io.Writer) (failed []string, err error) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "CHECK\tVERDICT\tFOUND")
	for _, finding := range report.Findings {
		if !pick(finding.ID) {
			continue
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", finding.ID, finding.Severity, finding.Found)
		if finding.Severity == doctor.Fail {
			failed = append(failed, finding.ID)
		}
		if finding.Severity == doctor.OK || !verbose {
			continue
		}
		if finding.Cause != "" {
			fmt.Fprintf(table, "\tcause\t%s\n", finding.Cause)
		}
		if finding.Fix != "" {
			fmt.Fprintf(table, "\tfix\t%s\n", finding.Fix)
		}
	}
	return failed, table.Flush()
}

// about picks findings by area; none means all.
func about(areas ...string) func(id string) bool {
	return func(id string) bool {
		area, _, _ := strings.Cut(id, ".")
		return len(areas) == 0 || slices.Contains(areas, area)
	}
}

// meaningOf tells what the setting comes to on a host with that TEE.
func meaningOf(wanted string, has hw.TEE) string {
	switch {
	case wanted == "none":
		return "the guest runs without protection against its host"
	case wanted == "auto" && has == hw.NoTEE:
		return "a guest on this machine would run without protection against its host"
	case wanted == "auto":
		return "a guest on this machine would run under " + string(has)
	case wanted == string(has):
		return "the machine has it"
	}
	return "the machine lacks it"
}

// factsOf returns the facts of this machine, or those in the file.
func factsOf(ctx context.Context, file string) (facts.Facts, error) {
	if file == "" {
		return facts.Gather(ctx, facts.World{Root: os.DirFS("/"), Run: sh.Host{}, Registers: gpu.Sysfs{Root: "/"}}), nil
	}
	f, err := facts.Read(file)
	if err != nil {
		return f, fault.Newf(fault.Usage, "-facts: %w", err).Hint("`cc-install doctor --facts` on that machine writes such a file")
	}
	return f, nil
}
