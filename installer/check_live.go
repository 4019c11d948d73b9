package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"cc-base/installer/unpacked"
	"cc-base/overlays/cc-guest/control"
	"cc-base/tasks/domain"
	"cc-base/tasks/fault"
	"cc-base/tasks/measurements"
	"cc-base/validation/check"
)

// answerTime bounds a talk with a guest that is up; an emulated one is slow.
const answerTime = 2 * time.Minute

// socketOf returns the control socket that --live names: of an installed VM, or
// itself.
func socketOf(live string) (string, error) {
	if strings.Contains(live, "/") {
		return live, nil
	}
	return domain.ControlSocketOf(live)
}

// checkLive asks the running guest and returns its answers to these checks, and
// what is checked of it from outside.
func (a *app) checkLive(ctx context.Context, checks []check.Check, o options) (check.Report, error) {
	socket, err := socketOf(o.live)
	if err != nil {
		return check.Report{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	c, err := control.Dial(ctx, socket)
	if err != nil {
		return check.Report{}, err
	}
	defer c.Close()
	a.say("asking the guest at %s", socket)
	ask, look := parts(checks)
	var report check.Report
	if len(ask) > 0 {
		var said check.Report
		if err := c.Ask(ctx, "check", nil, &said); err != nil {
			return check.Report{}, err
		}
		report = check.Run(ctx, check.Guest, answered(ask, said))
	}
	// Those that were chosen know no guest yet.
	outside := slices.DeleteFunc(liveChecks(c, o), func(l check.Check) bool {
		return !slices.ContainsFunc(look, func(c check.Check) bool { return c.ID == l.ID })
	})
	return check.Join(report, check.Run(ctx, check.VM, outside)), nil
}

// in tells whether a check runs there.
func in(c check.Check, where check.Where) bool { return slices.Contains(c.Where, where) }

// parts are the checks that a guest is asked for, and those that look at it from
// outside.
func parts(checks []check.Check) (ask, look []check.Check) {
	for _, c := range checks {
		if in(c, check.VM) {
			look = append(look, c)
		} else {
			ask = append(ask, c)
		}
	}
	return ask, look
}

// unasked are the results of a dry run: skips that say what would be done.
func unasked(ctx context.Context, checks []check.Check, live string) check.Report {
	checks = slices.Clone(checks)
	for i := range checks {
		checks[i].Func = func(context.Context) check.Verdict { return check.Skipped("dry run: %s would be asked", live) }
	}
	ask, look := parts(checks)
	return check.Join(check.Run(ctx, check.Guest, ask), check.Run(ctx, check.VM, look))
}

// answered returns the checks with the guest's verdicts. Everything else is ours:
// the guest may be another one than it says, and what it leaves out has not
// passed.
func answered(checks []check.Check, said check.Report) []check.Check {
	verdicts := map[string]check.Verdict{}
	for _, r := range said.Results {
		verdicts[r.ID] = r.Verdict
	}
	var out []check.Check
	for _, c := range checks {
		v, ok := verdicts[c.ID]
		switch {
		case !ok:
			v = check.Broken(fmt.Errorf("the guest does not answer this; its image may be older than this program"))
		case !slices.Contains([]check.Status{check.Pass, check.Fail, check.Skip, check.Error}, v.Status):
			v = check.Broken(fmt.Errorf("the guest answers with the verdict %q", control.Printable(string(v.Status))))
		default:
			v.Detail = control.Printable(v.Detail)
		}
		c.Func = func(context.Context) check.Verdict { return v }
		out = append(out, c)
	}
	return out
}

// asker is the part of [control.Client] that the checks use.
type asker interface {
	Ask(ctx context.Context, verb string, data, result any) error
}

// liveChecks are the claims about a running guest that are tested from outside.
func liveChecks(c asker, o options) []check.Check {
	return []check.Check{{
		ID: "keys.measured", Title: "the guest has measured what measurements.json says of this image", Area: "keys",
		Where: []check.Where{check.VM}, Tier: check.TierKVM,
		Remedy: "boot the image as it was built; `cc-install measure pcr` tells which register holds what",
		Func:   func(ctx context.Context) check.Verdict { return measuredAsBuilt(ctx, c, o) },
	}}
}

// comparedPCRs are the registers that the image alone determines (4 boot image,
// 9 command line and initrd, 12 and 13 additions to them) and, after the phase
// "ready" or on the way to it, 11.
func comparedPCRs() []int { return []int{4, 9, 12, 13} }

func measuredAsBuilt(ctx context.Context, c asker, o options) check.Verdict {
	folder, err := unpacked.Open(o.dir)
	if err != nil {
		return check.Broken(err)
	}
	defer folder.Close()
	raw, err := folder.Read(measurements.File, 16<<20)
	if err != nil {
		return check.Broken(err)
	}
	var doc measurements.Document
	if err := json.Unmarshal(raw, &doc); err != nil {
		return check.Broken(err)
	}
	var values map[string]string
	if err := c.Ask(ctx, "pcrs", nil, &values); err != nil {
		if coded := fault.Of(err); coded != nil && coded.Code == fault.GuestTPM {
			return check.Skipped("the guest has no TPM; compare --live compares its report")
		}
		return check.Broken(err)
	}
	best := []string{"measurements.json has no row for a TPM"}
	for _, row := range doc.TPM {
		different := differences(row, doc.PCR11, values)
		if len(different) == 0 {
			return check.Passed("registers 4, 9, 11, 12 and 13 of the row %s, Secure Boot %s", row.BootMode, row.SecureBoot)
		}
		if best[0] == "measurements.json has no row for a TPM" || len(different) < len(best) {
			best = different
		}
	}
	return check.Judge(best, "")
}

// differences names the registers that are not those of the row.
func differences(row measurements.TPMRow, phases []measurements.PCR11, values map[string]string) []string {
	var different []string
	for _, p := range row.PCRs {
		if got := values[strconv.Itoa(p.PCR)]; slices.Contains(comparedPCRs(), p.PCR) && got != p.SHA256 {
			different = append(different, fmt.Sprintf("PCR %d is %s, not %s", p.PCR, control.Printable(got), p.SHA256))
		}
	}
	eleven := values["11"]
	if !slices.ContainsFunc(phases, func(p measurements.PCR11) bool { return p.SHA256 == eleven }) {
		different = append(different, "PCR 11 is "+control.Printable(eleven)+", of no phase of this image's boot")
	}
	return different
}
