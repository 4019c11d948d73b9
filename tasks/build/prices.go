package build

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"cc-base/tasks/history"
)

// outcome is what one stage came to in this build.
type outcome struct {
	stage    string
	action   string        // none, cache or run, as in [Step]
	start    time.Duration // since the build began
	took     time.Duration
	bytes    int64 // of the files that it made; 0 unless it ran
	expected history.Expectation
}

// historyFile is beside the results of stages: what is known of their cost is
// known to every output folder that shares them.
func (o Options) historyFile() string { return filepath.Join(o.CacheDir, "history.json") }

// expect returns what the next run of the stage should cost. Where the history
// has nothing, the stage's last record tells.
func (b *Build) expect(stage string, old record) history.Expectation {
	e := history.Load(b.historyFile()).Expect(stage, b.Profile)
	if e.Runs == 0 && old.Seconds > 0 {
		return history.Expectation{Runs: 1, Seconds: old.Seconds, Bytes: old.bytes()}
	}
	return e
}

// remember adds the run to the history. The build goes on without: it is made
// from nothing in there.
func (b *Build) remember(o outcome) {
	r := history.Run{Stage: o.stage, Profile: b.Profile, Seconds: o.took.Seconds(), Bytes: o.bytes}
	if err := history.Add(b.historyFile(), r); err != nil {
		b.log.event(o.stage, "its cost is not remembered: %v", err)
	}
}

// price is a sum over stages.
type price struct {
	seconds float64
	bytes   int64    // written
	fetch   int64    // downloaded
	unknown []string // stages about which nothing is known, or not what they download
}

// costs tells whether the step would spend time.
func (s Step) costs() bool { return s.Action == "run" || s.Action == "behind" }

// pricesOf sums up what the steps would cost at most: a stage behind another one
// may turn out to have nothing to do.
func pricesOf(steps []Step) price {
	var p price
	for _, s := range steps {
		if !s.costs() {
			continue
		}
		p.seconds += s.Seconds
		p.bytes += s.Bytes
		p.fetch += max(s.Fetch, 0)
		if s.Runs == 0 || s.Fetch < 0 {
			p.unknown = append(p.unknown, s.Stage)
		}
	}
	return p
}

// String is the last line of a plan.
func (p price) String() string {
	text := fmt.Sprintf("at most about %.0f s, %s to download and %s to write, by the median of former runs", p.seconds, size(p.fetch), size(p.bytes))
	if len(p.unknown) > 0 {
		text += "; not all is known of " + strings.Join(p.unknown, ", ")
	}
	return text
}

// comparison says what the stages that ran cost beside what was expected of
// them; it is empty where nothing ran or nothing was expected.
func comparison(all []outcome) string {
	var took, expected float64
	var wrote, writes int64
	ran := 0
	var unknown []string
	for _, o := range all {
		switch {
		case o.action != "run":
		case o.expected.Runs == 0:
			unknown = append(unknown, o.stage)
		default:
			ran++
			took, expected = took+o.took.Seconds(), expected+o.expected.Seconds
			wrote, writes = wrote+o.bytes, writes+o.expected.Bytes
		}
	}
	if ran == 0 {
		return ""
	}
	text := fmt.Sprintf("%s took %.1f s, %s; wrote %s, expected %s", count(ran, "stage"), took, against(took, expected), size(wrote), size(writes))
	if len(unknown) > 0 {
		text += "; nothing was known of " + strings.Join(unknown, ", ")
	}
	return text
}

// against says how far a time is from the expected one, in parts of that where
// it is long enough for that to mean something.
func against(took, expected float64) string {
	text := fmt.Sprintf("expected %.1f s", expected)
	switch off := 100 * (took - expected) / expected; {
	case expected < 1:
	case off >= 0.5:
		text += fmt.Sprintf(" (%.0f %% more)", off)
	case off <= -0.5:
		text += fmt.Sprintf(" (%.0f %% less)", -off)
	default:
		text += " (as expected)"
	}
	return text
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
