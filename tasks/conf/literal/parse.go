// Package literal reads files of shell assignments without executing them.
//
//	assignments, problems := literal.Parse("config/os.conf", text)
//
// Only assignments of literal text are accepted, KEY="value" and
// KEY=( value value ); everything that a shell would execute or expand is a
// [Problem] with its place. What a key means is its caller's business.
package literal

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"mvdan.cc/sh/v3/syntax"
)

// MaxFile bounds a configuration file, in bytes. Ours are a few thousand; the
// shell parser's positions overflow silently far above this.
const MaxFile = 256 << 10

// maxSyntaxErrors bounds how often reading is resumed in one file.
const maxSyntaxErrors = 50

// Pos is a place in a file, line and column from 1.
type Pos struct{ Line, Col int }

// Word is one literal, unquoted, and where it begins.
type Word struct {
	Text string
	At   Pos
}

// Assignment is KEY=word or KEY=( words ), as written.
type Assignment struct {
	Key   string
	At    Pos
	Array bool
	Words []Word // exactly one unless Array
}

// resume finds the line where reading goes on after a syntax error: the next
// one that begins an assignment.
var resume = regexp.MustCompile(`(?m)^[A-Za-z_][A-Za-z0-9_]*=`)

// Parse reads a file as shell syntax and executes nothing. It accepts
// assignments of literals only. After a syntax error it goes on at the next
// assignment, so that one forgotten quote does not hide the other problems.
func Parse(file string, text []byte) ([]Assignment, Problems) {
	if len(text) > MaxFile {
		return nil, Problems{{File: file, Line: 1, Col: 1, What: fmt.Sprintf(
			"the file has %d bytes", len(text)), Allowed: fmt.Sprintf("at most %d", MaxFile)}}
	}
	if p, ok := firstUnprintable(file, text); ok {
		return nil, Problems{p}
	}
	r := reader{file: file}
	// Reading anew costs the rest of the file each time, hence the limit.
	for start, errs := 0, 0; start < len(text) && errs < maxSyntaxErrors; errs++ {
		next, failed := r.read(text, start)
		if !failed {
			break
		}
		// next is the offset of the error; step over at least one line.
		next = max(next, start)
		eol := bytes.IndexByte(text[next:], '\n')
		if eol < 0 {
			break
		}
		next += eol + 1
		loc := resume.FindIndex(text[next:])
		if loc == nil {
			break
		}
		start = next + loc[0]
	}
	return r.out, r.problems
}

// firstUnprintable reports bytes that an editor would not show, which the
// shell parser would partly drop: a value must be what it looks like.
func firstUnprintable(file string, text []byte) (Problem, bool) {
	line, col := 1, 1
	for i := 0; i < len(text); {
		c, n := utf8.DecodeRune(text[i:])
		bad := c == utf8.RuneError && n == 1 || c < ' ' && c != '\n' && c != '\t' || c == 0x7f
		if bad {
			what := fmt.Sprintf("the byte 0x%02x is not text", text[i])
			if c == '\r' {
				what = "the line ends in a carriage return (Windows line ends)"
			}
			return Problem{File: file, Line: line, Col: col, What: what,
				Allowed: "UTF-8 text with Unix line ends"}, true
		}
		i, col = i+n, col+n
		if c == '\n' {
			line, col = line+1, 1
		}
	}
	return Problem{}, false
}

type reader struct {
	file     string
	out      []Assignment
	problems Problems
}

func (r *reader) problem(at Pos, key, what, allowed string) {
	r.problems = append(r.problems, Problem{File: r.file, Line: at.Line, Col: at.Col,
		Key: key, What: what, Allowed: allowed})
}

// read parses text from offset start to the end or the first syntax error,
// whose offset it returns.
func (r *reader) read(text []byte, start int) (offset int, failed bool) {
	// Blank lines stand for what was read before, so that positions stay true.
	lines := bytes.Count(text[:start], []byte("\n"))
	rest := append(bytes.Repeat([]byte("\n"), lines), text[start:]...)
	p := syntax.NewParser(syntax.Variant(syntax.LangBash))
	err := p.Stmts(bytes.NewReader(rest), func(s *syntax.Stmt) bool {
		r.stmt(s)
		return true
	})
	if err == nil {
		return 0, false
	}
	what, at := syntaxError(err)
	if !at.IsValid() {
		r.problem(Pos{lines + 1, 1}, "", what, "")
		return len(text), true
	}
	r.problem(place(at), "", what, `KEY="value" or KEY=( value value )`)
	return start + max(0, int(at.Offset())-lines), true
}

func syntaxError(err error) (string, syntax.Pos) {
	var perr syntax.ParseError
	if errors.As(err, &perr) {
		return "not valid shell syntax: " + perr.Text, perr.Pos
	}
	var lerr syntax.LangError
	if errors.As(err, &lerr) {
		return "not valid shell syntax: " + lerr.Feature, lerr.Pos
	}
	return err.Error(), syntax.Pos{}
}

func place(p syntax.Pos) Pos { return Pos{int(p.Line()), int(p.Col())} }

const onlyAssignments = "assignments only: the file is read, never executed"

func (r *reader) stmt(s *syntax.Stmt) {
	at := place(s.Pos())
	call, ok := s.Cmd.(*syntax.CallExpr)
	switch {
	case s.Negated || s.Background || s.Coprocess || len(s.Redirs) > 0:
		r.problem(at, "", "a command is not allowed", onlyAssignments)
		return
	case !ok:
		what := "a command is not allowed"
		if d, isDecl := s.Cmd.(*syntax.DeclClause); isDecl {
			what = fmt.Sprintf("%s is not allowed", d.Variant.Value)
		}
		r.problem(at, "", what, onlyAssignments)
		return
	case len(call.Args) > 0:
		what := "a command is not allowed"
		if name := call.Args[0].Lit(); name != "" && len(name) < 40 {
			what = fmt.Sprintf("the command %q is not allowed", name)
		}
		switch { // the usual slips behind this
		case len(call.Assigns) > 0: // KEY= value, KEY=a b
			what += fmt.Sprintf(" (after %s=: no space around =, and quotes around a value with spaces)",
				call.Assigns[0].Name.Value)
		case len(call.Args) > 1 && startsWithEquals(call.Args[1]): // KEY = value, KEY =value
			what += " (no space around =)"
		}
		r.problem(at, "", what, onlyAssignments)
		return
	}
	for _, a := range call.Assigns {
		r.assign(a)
	}
}

func startsWithEquals(w *syntax.Word) bool {
	lit, ok := w.Parts[0].(*syntax.Lit)
	return ok && strings.HasPrefix(lit.Value, "=")
}

func (r *reader) assign(a *syntax.Assign) {
	key, at := a.Name.Value, place(a.Pos())
	switch {
	case a.Append:
		r.problem(at, key, "+= is not allowed", "= with the whole value")
		return
	case a.Index != nil:
		r.problem(at, key, "setting one element is not allowed", "KEY=( value value ) with the whole array")
		return
	}
	out := Assignment{Key: key, At: at}
	switch {
	case a.Array != nil:
		out.Array = true
		for _, e := range a.Array.Elems {
			if e.Index != nil || e.Value == nil {
				r.problem(place(e.Pos()), key, "an array index is not allowed", "KEY=( value value )")
				return
			}
			w, ok := r.literal(key, e.Value)
			if !ok {
				return
			}
			out.Words = append(out.Words, w)
		}
	case a.Value == nil:
		out.Words = []Word{{"", at}}
	default:
		w, ok := r.literal(key, a.Value)
		if !ok {
			return
		}
		out.Words = []Word{w}
	}
	r.out = append(r.out, out)
}

// literal joins the parts of w when all of them are plain text.
func (r *reader) literal(key string, w *syntax.Word) (Word, bool) {
	var b strings.Builder
	for _, part := range w.Parts {
		if what, at := addPart(&b, part); what != "" {
			r.problem(place(at), key, what, "literal text only: the file is read, never executed")
			return Word{}, false
		}
	}
	text := b.String()
	if strings.ContainsAny(text, "\n\t") {
		r.problem(place(w.Pos()), key, "the value has a line break or a tab in it", "one line of text; is a closing quote missing?")
		return Word{}, false
	}
	return Word{text, place(w.Pos())}, true
}

// addPart appends the text of part to b, or says what in it is not
// plain text, and where.
func addPart(b *strings.Builder, part syntax.WordPart) (what string, at syntax.Pos) {
	at = part.Pos()
	switch x := part.(type) {
	case *syntax.Lit:
		// A shell would expand these outside quotes; here they would stay.
		// Refusing them keeps one meaning for both.
		if i := strings.IndexAny(x.Value, `\*?[]{}~!`); i >= 0 {
			return fmt.Sprintf("%q is special to a shell and must be quoted", x.Value[i:i+1]), at
		}
		b.WriteString(x.Value)
	case *syntax.SglQuoted:
		if x.Dollar {
			return "$'…' quoting is not allowed", at
		}
		if strings.Contains(x.Value, `\`) {
			return "a backslash is not allowed", at
		}
		b.WriteString(x.Value)
	case *syntax.DblQuoted:
		if x.Dollar {
			return `$"…" quoting is not allowed`, at
		}
		for _, inner := range x.Parts {
			lit, ok := inner.(*syntax.Lit)
			if !ok {
				return addPart(b, inner)
			}
			if strings.Contains(lit.Value, `\`) {
				return "a backslash is not allowed", lit.Pos()
			}
			b.WriteString(lit.Value)
		}
	case *syntax.CmdSubst:
		return "command substitution is not allowed", at
	case *syntax.ParamExp, *syntax.ArithmExp:
		return "$ expansion is not allowed", at
	case *syntax.ProcSubst:
		return "process substitution is not allowed", at
	default:
		return "a pattern is not allowed", at
	}
	return "", at
}
