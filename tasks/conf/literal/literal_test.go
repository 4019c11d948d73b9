// What green does not prove here: that a shell would read an accepted file the
// same way. Every form that a shell treats specially is refused instead; the
// list of those forms is what these tests and the fuzz target rest on.
package literal

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAssignmentsAreReadAsWritten(t *testing.T) {
	t.Parallel()
	text := "# comment\nA=plain B='single $x' ; C=\"double 'x'\" # after\nD=\nE=( one 'two three'\n  K=\"v\" )\nF=( )\nG=a\"b\"'c'"
	got, problems := Parse("x.conf", []byte(text))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	want := []Assignment{
		{Key: "A", At: Pos{2, 1}, Words: []Word{{"plain", Pos{2, 3}}}},
		{Key: "B", At: Pos{2, 9}, Words: []Word{{"single $x", Pos{2, 11}}}},
		{Key: "C", At: Pos{2, 25}, Words: []Word{{"double 'x'", Pos{2, 27}}}},
		{Key: "D", At: Pos{3, 1}, Words: []Word{{"", Pos{3, 1}}}},
		{Key: "E", At: Pos{4, 1}, Array: true, Words: []Word{
			{"one", Pos{4, 5}}, {"two three", Pos{4, 9}}, {"K=v", Pos{5, 3}}}},
		{Key: "F", At: Pos{6, 1}, Array: true},
		{Key: "G", At: Pos{7, 1}, Words: []Word{{"abc", Pos{7, 3}}}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestManySyntaxErrorsEndInTime(t *testing.T) {
	t.Parallel()
	_, problems := Parse("x.conf", []byte(strings.Repeat("A=(\n", 50000)))
	if len(problems) == 0 || len(problems) > 2*maxSyntaxErrors {
		t.Errorf("%d problems", len(problems))
	}
}

func TestProblemIsOneLine(t *testing.T) {
	t.Parallel()
	p := Problem{File: "a.conf", Line: 3, Col: 7, Key: "K", What: "wrong", Allowed: "x, y", Suggest: "x"}
	if got, want := p.String(), "a.conf:3:7: K: wrong; allowed: x, y; did you mean x"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := (Problem{File: "a.conf", What: "missing"}).String(), "a.conf: missing"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestProblemsAreSortedByNumberNotByText(t *testing.T) {
	t.Parallel()
	ps := Problems{{File: "b", Line: 1}, {File: "a", Line: 10, Col: 1}, {File: "a", Line: 9, Col: 12}, {File: "a", Line: 9, Col: 3}}
	ps.Sort()
	want := Problems{{File: "a", Line: 9, Col: 3}, {File: "a", Line: 9, Col: 12}, {File: "a", Line: 10, Col: 1}, {File: "b", Line: 1}}
	if diff := cmp.Diff(want, ps); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDistanceCountsTypingErrors(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"suite", "suite", 0}, {"siute", "suite", 1}, {"suit", "suite", 1}, {"sweet", "suite", 3}, {"", "abc", 3}} {
		if got := distance(tc.a, tc.b); got != tc.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tc.a, tc.b, got, tc.want)
		}
	}
}
