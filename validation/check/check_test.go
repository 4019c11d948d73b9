package check_test

// What green does not prove: that every reader of these formats agrees with
// ours on corners that the formats leave open.

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"cc-base/tasks/golden"
	"cc-base/validation/check"
)

// hostile is what a guest that was taken over might answer.
const hostile = "a \x1b[31mred\x1b[0m <b>&\"word\"</b> # SKIP not\nok 99 - planted\x00"

func checks() []check.Check {
	is := func(id string, v check.Verdict) check.Check {
		area, _, _ := strings.Cut(id, ".")
		return check.Check{ID: id, Title: "the claim " + id, Area: area, Where: []check.Where{check.Host}, Tier: check.TierArtefact,
			Remedy: "do something", Func: func(context.Context) check.Verdict { return v }}
	}
	return []check.Check{
		is("keys.good", check.Passed("%d of %d", 2, 2)),
		is("keys.bad", check.Judge([]string{"one", "two"}, "")),
		is("gpu.absent", check.Skipped("no GPU")),
		is("gpu.broken", check.Broken(errors.New("cannot look"))),
		is("boot.hostile", check.Failed("%s", hostile)),
	}
}

func TestEveryFormatSaysTheSame(t *testing.T) {
	report := check.Join(check.Run(t.Context(), check.Host, checks()[:2]), check.Run(t.Context(), check.Guest, checks()[2:]))
	for i := range report.Results {
		report.Results[i].Seconds = float64(i) * 0.25 // in place of what they took
	}
	for name, write := range map[string]func(io.Writer) error{
		"report.txt": report.Text, "report.tap": report.TAP, "report.xml": report.JUnit,
		"report.json": func(w io.Writer) error {
			e := json.NewEncoder(w)
			e.SetIndent("", "  ")
			return e.Encode(report)
		},
	} {
		var b bytes.Buffer
		if err := write(&b); err != nil {
			t.Fatal(err)
		}
		golden.Compare(t, name, b.String())
	}
}

func TestEachResultSaysHowLongItTook(t *testing.T) {
	slow := checks()[0]
	slow.Func = func(context.Context) check.Verdict { time.Sleep(20 * time.Millisecond); return check.Passed("") }
	r := check.Run(t.Context(), check.Host, []check.Check{slow}).Results[0]
	if r.Seconds < 0.02 || r.Seconds > 60 {
		t.Errorf("%v s", r.Seconds)
	}
}

func TestJUnitIsXMLWhateverAGuestAnswers(t *testing.T) {
	var b bytes.Buffer
	if err := check.Run(t.Context(), check.Guest, checks()).JUnit(&b); err != nil {
		t.Fatal(err)
	}
	decoder := xml.NewDecoder(&b)
	for {
		_, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestTAPHasOneLineForEachCheckWhateverAGuestAnswers(t *testing.T) {
	var b bytes.Buffer
	if err := check.Run(t.Context(), check.Guest, checks()).TAP(&b); err != nil {
		t.Fatal(err)
	}
	tests := 0
	for _, line := range strings.Split(b.String(), "\n") {
		if strings.HasPrefix(line, "ok ") || strings.HasPrefix(line, "not ok ") {
			tests++
		}
	}
	if tests != len(checks()) {
		t.Errorf("%d lines for %d checks:\n%s", tests, len(checks()), b.String())
	}
}

func TestOnlyPassesAndSkipsAreNoFailure(t *testing.T) {
	for name, c := range map[string]struct {
		checks []check.Check
		failed bool
	}{
		"nothing was checked": {nil, true}, "a pass": {checks()[:1], false}, "a failure": {checks()[:2], true},
		"a skip": {checks()[2:3], false}, "an error": {checks()[3:4], true},
	} {
		if got := check.Run(t.Context(), check.Host, c.checks).Failed(); got != c.failed {
			t.Errorf("%s: failed is %v", name, got)
		}
	}
}

func TestAnInterruptedRunIsNoPass(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	report := check.Run(ctx, check.Host, checks()[:1])
	if report.Counts[check.Error] != 1 {
		t.Errorf("%+v", report)
	}
}
