package literal

import (
	"fmt"
	"sort"
	"strings"
)

// Problem is one thing wrong with the configuration, and where.
type Problem struct {
	File    string // path as given
	Line    int    // from 1; 0 when the file as a whole is meant
	Col     int    // from 1, in bytes
	Key     string // "" when the problem is not about one key
	What    string // what is wrong
	Allowed string // what would be right, "" when What says it
	Suggest string // the nearest name or value that exists, "" for none
}

// String returns the problem as users see it, on one line:
//
//	config/os.conf:12:1: SUITE: what; allowed: …; did you mean …
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File + ": ")
	if p.Line > 0 {
		b.Reset()
		fmt.Fprintf(&b, "%s:%d:%d: ", p.File, p.Line, p.Col)
	}
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.What)
	if p.Allowed != "" {
		b.WriteString("; allowed: " + p.Allowed)
	}
	if p.Suggest != "" {
		b.WriteString("; did you mean " + p.Suggest)
	}
	return b.String()
}

// Problems is an error of one line per problem, in order of file, line and
// column once [Problems.Sort] has run.
type Problems []Problem

// Error returns one line per problem.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Sort orders the problems by file, line and column.
func (ps Problems) Sort() {
	sort.SliceStable(ps, func(i, j int) bool {
		a, b := ps[i], ps[j]
		switch {
		case a.File != b.File:
			return a.File < b.File
		case a.Line != b.Line:
			return a.Line < b.Line
		default:
			return a.Col < b.Col
		}
	})
}

// Nearest returns the candidate that is within a few typing errors of word, or
// "". A third of the word may be wrong: more would suggest anything.
func Nearest(word string, candidates []string) string {
	if word == "" || len(word) > 64 {
		return ""
	}
	best, limit := "", len(word)/3
	if limit < 1 {
		limit = 1
	}
	for _, c := range candidates {
		if d := distance(strings.ToLower(word), strings.ToLower(c)); d <= limit {
			best, limit = c, d-1
		}
	}
	return best
}

// distance is the number of inserted, dropped, changed or swapped neighbouring
// bytes between a and b.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
