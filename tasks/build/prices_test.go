package build

// What green does not prove: the stages here write a few bytes and take no time
// worth mentioning. How well former runs tell the next one is what each build
// says of itself; what a full build says is looked at by nobody but its reader.

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"cc-base/tasks/history"
)

// writingStage writes n bytes, from inputs that change with every round.
func writingStage(b *Build, n *int) stage {
	return stage{
		name: "sign", title: "writing", outputs: func(*Build) []string { return []string{b.scratch("written")} },
		facts: func(*Build) (map[string]string, error) { return map[string]string{"n": strings.Repeat("x", *n)}, nil },
		run: func(context.Context, *Build) error {
			return os.WriteFile(b.scratch("written"), bytes.Repeat([]byte("x"), *n), 0o644)
		},
	}
}

func TestEveryRunOfAStageIsRememberedAndExpectedTheNextTime(t *testing.T) {
	b := testBuild(t)
	b.Repo, b.Profile = repo(t), "minimal"
	n := 0
	s := writingStage(b, &n)
	for round, want := range []history.Expectation{{}, {Runs: 1, Bytes: 100}, {Runs: 2, Bytes: 150}, {Runs: 3, Bytes: 200}} {
		n = 100 * (round + 1)
		o, err := b.one(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		o.expected.Seconds = 0
		if o.action != "run" || o.bytes != int64(n) || o.expected != want {
			t.Errorf("round %d: %+v, want %+v expected", round, o, want)
		}
	}
	if o, err := b.one(t.Context(), s); err != nil || o.action != "none" || o.bytes != 0 {
		t.Errorf("nothing changed: %+v, %v", o, err)
	}
	if e := history.Load(b.historyFile()).Expect("sign", "minimal"); e.Runs != 4 {
		t.Errorf("%d runs are remembered, want 4: one with nothing to do is none", e.Runs)
	}
}

func TestABuildGoesOnWhenItsCostCannotBeRemembered(t *testing.T) {
	b := testBuild(t)
	b.Repo = repo(t)
	if err := os.MkdirAll(b.historyFile(), 0o755); err != nil { // a folder in its place
		t.Fatal(err)
	}
	n := 1
	if o, err := b.one(t.Context(), writingStage(b, &n)); err != nil || o.action != "run" {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestAStageWithoutHistoryIsExpectedToTakeWhatItsRecordSays(t *testing.T) {
	b := testBuild(t)
	old := record{Seconds: 12, Outputs: []output{{Size: 5}, {Size: 7}}}
	if got, want := b.expect("tee", old), (history.Expectation{Runs: 1, Seconds: 12, Bytes: 12}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := b.expect("tee", record{}); got != (history.Expectation{}) {
		t.Errorf("with no record either: %+v", got)
	}
}

func TestABuildSaysHowFarOffTheExpectationWas(t *testing.T) {
	run := func(stage string, took, expected float64, bytes, writes int64) outcome {
		return outcome{
			stage: stage, action: "run", took: time.Duration(took * float64(time.Second)), bytes: bytes,
			expected: history.Expectation{Runs: 2, Seconds: expected, Bytes: writes},
		}
	}
	unknown := outcome{stage: "firmware", action: "run", took: time.Minute}
	for _, c := range []struct {
		name string
		all  []outcome
		want string
	}{
		{"more", []outcome{run("tee", 33, 30, 2e6, 1e6), run("apps", 11, 10, 1e6, 1e6)}, "2 stages took 44.0 s, expected 40.0 s (10 % more); wrote 3 MB, expected 2 MB"},
		{"less", []outcome{run("tee", 15, 30, 1e6, 1e6)}, "1 stage took 15.0 s, expected 30.0 s (50 % less); wrote 1 MB, expected 1 MB"},
		{"as much", []outcome{run("tee", 30.01, 30, 0, 0)}, "1 stage took 30.0 s, expected 30.0 s (as expected); wrote 0 kB, expected 0 kB"},
		{"too short for parts", []outcome{run("sign", 0.6, 0.2, 0, 0)}, "1 stage took 0.6 s, expected 0.2 s; wrote 0 kB, expected 0 kB"},
		{"one unknown", []outcome{unknown, run("tee", 15, 30, 0, 0)}, "1 stage took 15.0 s, expected 30.0 s (50 % less); wrote 0 kB, expected 0 kB; nothing was known of firmware"},
		{"all unknown", []outcome{unknown}, ""},
		{"nothing ran", []outcome{{stage: "tee", action: "cache"}, {stage: "apps", action: "none"}}, ""},
	} {
		if got := comparison(c.all); got != c.want {
			t.Errorf("%s:\n got %q\nwant %q", c.name, got, c.want)
		}
	}
}

func TestThePlansSumCountsOnlyWhatWouldRunAndNamesWhatNobodyKnows(t *testing.T) {
	got := pricesOf([]Step{
		{Stage: "prepare", Action: "none", Runs: 3, Seconds: 100, Bytes: 1e9},
		{Stage: "bootstrap", Action: "run", Fetch: 3e8, Runs: 3, Seconds: 40, Bytes: 5e8},
		{Stage: "tee", Action: "behind", Runs: 1, Seconds: 20, Bytes: 1e8},
		{Stage: "apps", Action: "cache", Runs: 1, Seconds: 70, Bytes: 1e8},
		{Stage: "firmware", Action: "run", Fetch: -1, Runs: 1, Seconds: 5, Bytes: 1e7},
		{Stage: "sign", Action: "run"},
	}).String()
	want := "at most about 65 s, 300 MB to download and 610 MB to write, by the median of former runs; not all is known of firmware, sign"
	if got != want {
		t.Errorf("\n got %q\nwant %q", got, want)
	}
}
