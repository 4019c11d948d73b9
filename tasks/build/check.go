package build

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"cc-base/installer/doctor"
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
	demanded := map[string]hw.TEE{"sev-snp": hw.SEVSNP, "tdx": hw.TDX}[wanted]
	report := doctor.Examine(f, doctor.Options{AllowPlain: demanded == ""})

	var failed []string
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "CHECK\tVERDICT\tFOUND")
	for _, finding := range report.Findings {
		if !aboutTEE(finding.ID) {
			continue
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", finding.ID, finding.Severity, finding.Found)
		if finding.Severity == doctor.Fail {
			failed = append(failed, finding.ID)
		}
		if finding.Severity == doctor.OK {
			continue
		}
		if finding.Cause != "" {
			fmt.Fprintf(table, "\tcause\t%s\n", finding.Cause)
		}
		if finding.Fix != "" {
			fmt.Fprintf(table, "\tfix\t%s\n", finding.Fix)
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	// libvirt remembers what a former kernel offered, so that its word alone
	// is not enough.
	if demanded == f.TEE.Kind && len(failed) > 0 && demanded != "" {
		return fault.Newf(fault.HostUnfit, "TEE_TYPE=%s, but not all of it is in order: %s", wanted, strings.Join(failed, ", ")).
			Hint("the table above has the cause and the fix of each")
	}
	fmt.Fprintf(w, "TEE_TYPE=%s: %s\n", wanted, meaningOf(wanted, f.TEE.Kind))
	if demanded != "" && f.TEE.Kind != demanded {
		return fault.Newf(fault.HostUnfit, "TEE_TYPE=%s, but the machine has %s: %s", wanted, f.TEE.Kind, f.TEE.Why).
			Hint("the table above names each missing part; TEE_TYPE=auto takes what the host has")
	}
	return nil
}

func aboutTEE(id string) bool {
	area, _, _ := strings.Cut(id, ".")
	return area == "tee" || area == "snp" || area == "tdx"
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
	var f facts.Facts
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &f)
	}
	if err != nil {
		return f, fault.Newf(fault.Usage, "-facts: %w", err)
	}
	if f.Schema != facts.Schema {
		return f, fault.Newf(fault.Usage, "-facts: %s has schema %d, this program knows %d", file, f.Schema, facts.Schema).
			Hint("`cc-install doctor --facts` on that machine writes them")
	}
	return f, nil
}
