package guest

import (
	"context"
	_ "embed"
	"path"
	"slices"
	"strings"

	"cc-base/validation/check"
)

// allowed is the list of units that may run, one pattern a line (path.Match),
// each with a reason.
//
//go:embed units.txt
var allowed string

// allowedUnits returns the patterns of the list.
func allowedUnits() []string {
	var patterns []string
	for _, line := range strings.Split(allowed, "\n") {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line != "" {
			patterns = append(patterns, line)
		}
	}
	return patterns
}

// units compares what runs with the list. systemd keeps a link for every unit
// that it has started and that has not ended (src/core/unit.c,
// unit_export_invocation_id).
func (e Env) units(context.Context) check.Verdict {
	var running, findings []string
	for _, name := range e.names("/run/systemd/units") {
		unit, ok := strings.CutPrefix(name, "invocation:")
		if !ok {
			continue
		}
		running = append(running, unit)
		if !slices.ContainsFunc(allowedUnits(), func(p string) bool { ok, _ := path.Match(p, unit); return ok }) {
			findings = append(findings, unit)
		}
	}
	if len(running) == 0 {
		return check.Failed("systemd shows no unit that runs")
	}
	return check.Judge(findings, "%d run", len(running))
}

// needed are services without which the guest is not what it should be, and
// which nothing else misses.
func needed() []string {
	return []string{"cc-identity.service", "cc-monitor.service", "cc-site.service", "auditd.service", "systemd-resolved.service", "systemd-timesyncd.service"}
}

func (e Env) services(context.Context) check.Verdict {
	running := e.names("/run/systemd/units")
	var findings []string
	for _, unit := range needed() {
		if !slices.Contains(running, "invocation:"+unit) {
			findings = append(findings, unit+" does not run")
		}
	}
	return check.Judge(findings, "%s", strings.Join(needed(), ", "))
}
