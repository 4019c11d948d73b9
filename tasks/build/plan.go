package build

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"cc-base/tasks/deb"
	"cc-base/tasks/fault"
)

// Step is what a build would do with one stage.
type Step struct {
	Stage string `json:"stage"`
	// Action is "none" (nothing has changed), "cache" (taken from the cache),
	// "run", "refused" (it would write over an image that was changed), or
	// "behind" (decided when the stages that it reads have run: equal
	// outputs of theirs leave it alone).
	Action  string   `json:"action"`
	Changes []Change `json:"changes,omitempty"`
	Reason  string   `json:"reason,omitempty"` // where no input is to blame
	// Fetch is how many bytes it would download, from the last time; -1 when
	// it downloads and nobody knows how much.
	Fetch   int64   `json:"fetchBytes"`
	Runs    int     `json:"runs"`    // former runs that the next two are the medians of; 0 when it never ran
	Seconds float64 `json:"seconds"` // what a run of it takes
	Bytes   int64   `json:"bytes"`   // what a run of it writes
}

// Change is one input that differs from the last run.
type Change struct {
	Input string `json:"input"`
	From  string `json:"from"` // empty: there was none
	To    string `json:"to"`   // empty: there is none
}

// Plan returns what a build of everything would do, and changes nothing: it
// takes no lock and makes no folder.
func Plan(o Options) ([]Step, error) {
	b, err := look(o)
	if err != nil {
		return nil, err
	}
	var steps []Step
	moved := map[string]bool{} // stages whose outputs may change
	for _, s := range stages() {
		step, err := b.step(s, moved)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		if s.name == "package" && step.Action != "none" && o.keeps() {
			step.Action, step.Changes, step.Reason = "refused", nil, diskImage+" was changed and is kept: mage explain "+string(fault.ImageKept)
		}
		moved[s.name] = step.Action != "none"
		steps = append(steps, step)
	}
	return steps, nil
}

// look opens the build for reading.
func look(o Options) (*Build, error) {
	config, err := o.config()
	if err != nil {
		return nil, err
	}
	b := &Build{Options: o, Config: config, log: newLog(io.Discard, io.Discard)}
	if err := b.useLock(); err != nil {
		return nil, err
	}
	b.Tools.Dir = b.toolsDir()
	return b, nil
}

func (b *Build) step(s stage, moved map[string]bool) (Step, error) {
	step := Step{Stage: s.name, Action: "none"}
	old, err := b.load(s.name)
	if err != nil {
		step.Reason = "it has no finished result here"
	}
	e := b.expect(s.name, old)
	step.Runs, step.Seconds, step.Bytes = e.Runs, e.Seconds, e.Bytes
	step.Fetch = b.fetchBytes(s)
	for _, r := range s.reads {
		if moved[r] {
			step.Action, step.Reason = "behind", "after "+r
			return step, nil
		}
	}
	in, err := b.inputs(s)
	if err != nil {
		return step, err
	}
	if _, fresh := b.fresh(s, in); fresh {
		step.Fetch, step.Reason = 0, ""
		return step, nil
	}
	step.Action = "run"
	if s.cached && b.cache().has(s.name, key(in)) {
		step.Action, step.Fetch = "cache", 0
	}
	if old.Key == "" {
		return step, nil
	}
	step.Changes = changes(old.Inputs, in)
	if len(step.Changes) == 0 {
		step.Reason = "its results are missing or were changed"
	}
	return step, nil
}

// changes lists what differs, by name.
func changes(from, to map[string]string) []Change {
	names := slices.Collect(maps.Keys(from))
	for n := range to {
		if _, ok := from[n]; !ok {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	var out []Change
	for _, n := range names {
		if from[n] != to[n] {
			out = append(out, Change{Input: n, From: from[n], To: to[n]})
		}
	}
	return out
}

// fetchBytes is what the stage downloads when it runs.
func (b *Build) fetchBytes(s stage) int64 {
	switch s.name {
	case "prepare":
		if exists(b.toolsList()) {
			return 0
		}
		return -1
	case "firmware":
		for _, image := range b.firmwareWanted() {
			if !b.firmwareMemory("").any(image) {
				return -1
			}
		}
		return 0
	case "bootstrap":
		var packages []deb.Package
		if err := b.kept("packages.json", &packages); err != nil {
			return -1
		}
		var sum int64
		for _, p := range packages {
			sum += p.Size
		}
		return sum
	}
	return 0
}

// WritePlan prints the plan as a table, or as JSON.
func WritePlan(o Options, w io.Writer, asJSON bool) error {
	steps, err := Plan(o)
	if err != nil {
		return err
	}
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(steps)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "stage\taction\tdownload\ttime\twrites\twhy")
	for _, s := range steps {
		fetch, took, writes := "-", "-", "-"
		if s.costs() {
			switch {
			case s.Fetch > 0:
				fetch = size(s.Fetch)
			case s.Fetch < 0:
				fetch = "unknown"
			}
			took, writes = "unknown", "unknown"
			if s.Runs > 0 {
				took, writes = fmt.Sprintf("%.1f s", s.Seconds), size(s.Bytes)
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", s.Stage, s.Action, fetch, took, writes, s.why())
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, pricesOf(steps))
	return err
}

// why is the reason in one line.
func (s Step) why() string {
	if len(s.Changes) == 0 {
		return s.Reason
	}
	first := s.Changes[0].String()
	if n := len(s.Changes) - 1; n > 0 {
		return fmt.Sprintf("%s, and %d more: mage why -stage=%s", first, n, s.Stage)
	}
	return first
}

// String renders a change: NAME: from → to, digests cut to 12 digits.
func (c Change) String() string {
	return fmt.Sprintf("%s: %s → %s", c.Input, short(c.From), short(c.To))
}

func short(v string) string {
	switch {
	case v == "":
		return "(none)"
	case len(v) == 64 && strings.Trim(v, "0123456789abcdef") == "":
		return v[:12] + "…"
	default:
		return fmt.Sprintf("%q", v)
	}
}

// Why prints everything that makes a stage run, or that nothing does.
func Why(o Options, w io.Writer, name string) error {
	steps, err := Plan(o)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(steps, func(s Step) bool { return s.Stage == name })
	if i < 0 {
		var names []string
		for _, s := range steps {
			names = append(names, s.Stage)
		}
		return fault.Newf(fault.Usage, "no stage is called %q", name).Hint("stages: %s", strings.Join(names, ", "))
	}
	s := steps[i]
	switch s.Action {
	case "none":
		fmt.Fprintf(w, "%s would not run: nothing that it was made from has changed\n", name)
	case "behind":
		fmt.Fprintf(w, "%s comes %s, which runs first; it runs when that gives another result\n", name, s.Reason)
	case "refused":
		fmt.Fprintf(w, "%s would be refused: %s\n", name, s.Reason)
	default:
		fmt.Fprintf(w, "%s would run%s\n", name, map[bool]string{true: ", but its result is in the cache"}[s.Action == "cache"])
		if s.Reason != "" {
			fmt.Fprintf(w, "  %s\n", s.Reason)
		}
		for _, c := range s.Changes {
			fmt.Fprintf(w, "  %s\n", c)
		}
	}
	return nil
}
