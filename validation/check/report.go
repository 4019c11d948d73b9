package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
)

// Result is a check with its verdict.
type Result struct {
	ID     string `json:"id"`
	Title  string `json:"title"`
	Area   string `json:"area"`
	Tier   Tier   `json:"tier"`
	Where  Where  `json:"where"`            // where it ran
	Remedy string `json:"remedy,omitempty"` // where the verdict is fail or error
	// Seconds is how long it took, to the millisecond, by the clock of where it ran.
	Seconds float64 `json:"seconds"`
	Verdict
}

// Schema is the version of Report's JSON. It is raised when a reader of the former
// one would misread it; a field more is no such reason.
const Schema = 1

// Report is the outcome of a run.
type Report struct {
	Schema  int            `json:"schema"`
	Results []Result       `json:"results"`
	Counts  map[Status]int `json:"counts"`
}

func empty() Report { return Report{Schema: Schema, Results: []Result{}, Counts: map[Status]int{}} }

// Run runs the checks, of one place, one after the other. A cancelled context
// makes the rest errors, not skips.
func Run(ctx context.Context, where Where, checks []Check) Report {
	r := empty()
	for _, c := range checks {
		v, began := Broken(errors.New("interrupted")), time.Now()
		if ctx.Err() == nil {
			v = c.Func(ctx)
		}
		result := Result{ID: c.ID, Title: c.Title, Area: c.Area, Tier: c.Tier, Where: where, Seconds: time.Since(began).Round(time.Millisecond).Seconds(), Verdict: v}
		if v.Status == Fail || v.Status == Error {
			result.Remedy = c.Remedy
		}
		r.add(result)
	}
	return r
}

func (r *Report) add(result Result) {
	r.Results = append(r.Results, result)
	r.Counts[result.Status]++
}

// Join returns the results of several runs as those of one.
func Join(reports ...Report) Report {
	all := empty()
	for _, r := range reports {
		for _, result := range r.Results {
			all.add(result)
		}
	}
	return all
}

// Failed tells whether any check failed or could not do its work. A report
// without any result is a failure as well: nothing was proven.
func (r Report) Failed() bool {
	return r.Counts[Fail]+r.Counts[Error] > 0 || len(r.Results) == 0
}

// printable makes text fit for one line of any format: what was found may hold
// what a damaged disk or a hostile guest put there.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, text)
}

// Text writes one line per check, with the remedy under those that need one,
// and a sum.
func (r Report) Text(w io.Writer) error {
	var b strings.Builder
	width := 22
	for _, c := range r.Results {
		width = max(width, len(c.ID))
	}
	for _, c := range r.Results {
		fmt.Fprintf(&b, "%-5s %-*s %s\n", c.Status, width, c.ID, printable(c.Title))
		if c.Detail != "" {
			fmt.Fprintf(&b, "%-*s %s\n", width+6, "", printable(c.Detail))
		}
		if c.Remedy != "" {
			fmt.Fprintf(&b, "%-*s do: %s\n", width+6, "", printable(c.Remedy))
		}
	}
	fmt.Fprintf(&b, "%d passed, %d failed, %d skipped, %d errors\n", r.Counts[Pass], r.Counts[Fail], r.Counts[Skip], r.Counts[Error])
	_, err := io.WriteString(w, b.String())
	return err
}

// TAP writes the Test Anything Protocol, version 13.
func (r Report) TAP(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "TAP version 13\n1..%d\n", len(r.Results))
	line := func(text string) string { return strings.ReplaceAll(printable(text), "#", " ") }
	for i, c := range r.Results {
		switch c.Status {
		case Pass:
			fmt.Fprintf(&b, "ok %d - %s %s\n", i+1, c.ID, line(c.Title))
		case Skip:
			fmt.Fprintf(&b, "ok %d - %s %s # SKIP %s\n", i+1, c.ID, line(c.Title), line(c.Detail))
		default:
			fmt.Fprintf(&b, "not ok %d - %s %s\n# %s: %s\n", i+1, c.ID, line(c.Title), c.Status, line(c.Detail))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
