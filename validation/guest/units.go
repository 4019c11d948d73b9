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
