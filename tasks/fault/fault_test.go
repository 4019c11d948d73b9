package fault

// What green does not prove: that a code fits the failure it is given to, or
// that a cure cures. Only form, completeness and the way of a code and its
// hints through wrapped errors are checked.

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// declared returns the Code constants of codes.go by name.
func declared(t *testing.T) map[string]Code {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "codes.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	codes := map[string]Code{}
	for _, decl := range file.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.CONST {
			continue
		}
		for _, spec := range gen.Specs {
			value := spec.(*ast.ValueSpec)
			if id, ok := value.Type.(*ast.Ident); !ok || id.Name != "Code" {
				continue
			}
			for i, name := range value.Names {
				text, err := strconv.Unquote(value.Values[i].(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				codes[name.Name] = Code(text)
			}
		}
	}
	if len(codes) == 0 {
		t.Fatal("codes.go declares no Code")
	}
	return codes
}

func TestEveryCodeIsWellFormedAndUnique(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^CC(0[1-9]|1[0-9])[0-9]{2}$`)
	names := map[Code]string{}
	for name, code := range declared(t) {
		if !form.MatchString(string(code)) {
			t.Errorf("%s: %q is not of the form CC0101", name, code)
		}
		if other, twice := names[code]; twice {
			t.Errorf("%s and %s are both %s", name, other, code)
		}
		names[code] = name
	}
}

func TestEveryCodeHasItsMeaningAndTheReverse(t *testing.T) {
	t.Parallel()
	var want, got []Code
	for _, code := range declared(t) {
		want = append(want, code)
	}
	slices.Sort(want)
	for _, m := range Meanings() {
		got = append(got, m.Code)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("declared and explained codes, in order (-declared +explained):\n%s", diff)
	}
}

func TestEveryMeaningIsComplete(t *testing.T) {
	t.Parallel()
	titles := map[string]Code{}
	for _, m := range Meanings() {
		if other, twice := titles[m.Title]; twice {
			t.Errorf("%s and %s have the same title", m.Code, other)
		}
		titles[m.Title] = m.Code
		if m.Exit < ExitFailed || m.Exit > ExitUnsafe {
			t.Errorf("%s: exit status %d", m.Code, m.Exit)
		}
		if first, _ := utf8.DecodeRuneInString(m.Title); !unicode.IsLower(first) || strings.Contains(m.Title, "\n") {
			t.Errorf("%s: the title %q is not one line in lower case", m.Code, m.Title)
		}
		for part, text := range map[string]string{"title": m.Title, "cause": m.Cause, "cure": m.Cure} {
			if strings.TrimSpace(text) != text || text == "" || strings.HasSuffix(text, ".") {
				t.Errorf("%s: the %s %q is empty, padded or ends with a period", m.Code, part, text)
			}
		}
		if Explain(m.Code) != m {
			t.Errorf("%s: Explain gives another meaning", m.Code)
		}
	}
}

func TestAnUnknownCodeIsSaidToBeUnknown(t *testing.T) {
	t.Parallel()
	if got, want := Explain("CC9999"), (Meaning{Code: "CC9999", Exit: ExitFailed, Title: "unknown code"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestACodeSurvivesWrapping(t *testing.T) {
	t.Parallel()
	cause := fs.ErrNotExist
	inner := Newf(DeviceRefused, "reading: %w", cause)
	tests := []struct {
		name string
		err  error
		code Code
		exit int
	}{
		{"no error is success", nil, "", 0},
		{"an error without a code is a failure", cause, "", ExitFailed},
		{"a code alone", inner, DeviceRefused, ExitUnsafe},
		{"a code below wrapping", fmt.Errorf("install: %w", fmt.Errorf("disk: %w", inner)), DeviceRefused, ExitUnsafe},
		{"the outermost of two codes", New(Config, inner), Config, ExitUsage},
		{"a code among joined errors", errors.Join(cause, inner), DeviceRefused, ExitUnsafe},
		{"an unknown code is a failure", New("CC9999", cause), "CC9999", ExitFailed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var code Code
			if e := Of(tt.err); e != nil {
				code = e.Code
			}
			if code != tt.code || Exit(tt.err) != tt.exit {
				t.Errorf("got %q and exit %d, want %q and %d", code, Exit(tt.err), tt.code, tt.exit)
			}
			if tt.err != nil && !errors.Is(tt.err, cause) {
				t.Errorf("%v has lost its cause", tt.err)
			}
		})
	}
}

func TestACodeWithoutAnErrorGetsItsTitle(t *testing.T) {
	t.Parallel()
	if got := New(Busy, nil).Error(); got != Explain(Busy).Title {
		t.Errorf("got %q", got)
	}
}

func TestRenderShowsChainCodeAndHints(t *testing.T) {
	t.Parallel()
	const code = "\ncode: CC0201 (explain with `mage explain CC0201`)"
	tools := func() *Error { return Newf(HostTools, "uidmap is missing").Hint("run: %s", "apt-get install uidmap") }
	space := func() *Error { return Newf(HostSpace, "the disk is full").Hint("free some") }
	tests := []struct {
		name string
		err  error
		want string
	}{
		{"no code and no hint", errors.New("plain"), "plain"},
		{"a code without a hint", New(HostTools, errors.New("plain")), "plain" + code},
		{"a hint below wrapping", fmt.Errorf("prepare: %w", tools()), "prepare: uidmap is missing" + code + "\nhint: run: apt-get install uidmap"},
		{"nested hints from the outermost to the innermost", New(HostTools, fmt.Errorf("build: %w", space())).Hint("look here first"),
			"build: the disk is full" + code + "\nhint: look here first\nhint: free some"},
		{"the hints of joined errors", New(HostTools, errors.Join(tools(), errors.New("plain"), space())),
			"uidmap is missing\nplain\nthe disk is full" + code + "\nhint: run: apt-get install uidmap\nhint: free some"},
		{"joined errors without a code above them", errors.Join(errors.New("plain"), tools(), space()),
			"plain\nuidmap is missing\nthe disk is full" + code + "\nhint: run: apt-get install uidmap\nhint: free some"},
		{"the same hint is shown once", New(HostTools, errors.Join(space(), space())),
			"the disk is full\nthe disk is full" + code + "\nhint: free some"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, Render(tt.err)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestWriteMeaningExplainsACode(t *testing.T) {
	t.Parallel()
	for _, m := range Meanings() {
		var b strings.Builder
		if err := WriteMeaning(&b, m.Code); err != nil {
			t.Error(err)
		}
		for _, part := range []string{string(m.Code), m.Title, m.Cause, m.Cure} {
			if !strings.Contains(b.String(), part) {
				t.Errorf("%s: %q is not in:\n%s", m.Code, part, b.String())
			}
		}
	}
	var b strings.Builder
	if err := WriteMeaning(&b, "CC9999"); Exit(err) != ExitUsage || b.Len() != 0 {
		t.Errorf("an unknown code: %v, %q", err, b.String())
	}
}
