package main

import (
	"context"
	"slices"
	"strings"
	"sync"

	"cc-base/installer/doctor"
	"cc-base/tasks/facts"
	"cc-base/tasks/gpu"
	"cc-base/validation/check"
)

// hostChecks are the doctor's questions as checks, in the areas gpu and host, of
// facts that are gathered once. A note passes and says so. A warning fails: what
// the check claims is not so, even if a VM would run.
func hostChecks(gather func(context.Context) facts.Facts, o doctor.Options) []check.Check {
	var once sync.Once
	var report doctor.Report
	var found facts.Facts
	var checks []check.Check
	for _, c := range doctor.Checks() {
		area := "host"
		if group, _, _ := strings.Cut(c.ID, "."); slices.Contains([]string{"gpu", "vfio", "iommu", "guest"}, group) {
			area = "gpu"
		}
		checks = append(checks, check.Check{
			ID: area + "." + strings.TrimPrefix(c.ID, area+"."), Title: c.Title, Area: area, Where: []check.Where{check.Host}, Tier: check.TierKVM,
			Remedy: "cc-install doctor shows cause and cure",
			Func: func(ctx context.Context) check.Verdict {
				once.Do(func() {
					found = gather(ctx)
					report = doctor.Examine(found, o)
				})
				return hostVerdict(report, found, area, c.ID)
			},
		})
	}
	return checks
}

func hostVerdict(report doctor.Report, found facts.Facts, area, id string) check.Verdict {
	if area == "gpu" && len(found.NVIDIA) == 0 {
		return check.Verdict{Status: check.Skip, Detail: "this host shows no NVIDIA device"}
	}
	unread := slices.IndexFunc(found.NVIDIA, func(f gpu.Function) bool { return f.Mode.Reason != "" })
	if slices.Contains([]string{"gpu.cc-mode", "gpu.devtools", "gpu.alike"}, id) && unread >= 0 {
		return check.Verdict{Status: check.Skip, Detail: found.NVIDIA[unread].Address + ": its mode is " + found.NVIDIA[unread].Mode.String()}
	}
	i := slices.IndexFunc(report.Findings, func(f doctor.Finding) bool { return f.ID == id })
	if i < 0 {
		return check.Verdict{Status: check.Skip, Detail: "it has no meaning on this host"}
	}
	f := report.Findings[i]
	detail := f.Found
	if f.Cause != "" {
		detail += ": " + f.Cause
	}
	switch f.Severity {
	case doctor.Fail, doctor.Warn:
		return check.Verdict{Status: check.Fail, Detail: detail + "; " + f.Fix}
	case doctor.Note:
		detail = "note: " + detail
	}
	return check.Verdict{Status: check.Pass, Detail: detail}
}
