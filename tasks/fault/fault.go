// Package fault gives a failure a stable code, an exit status and a hint.
//
// A caller wraps the error it has and loses nothing of it:
//
//	return fault.New(fault.Config, err).Hint("set ROOT_SIZE=2G")
//
// The code survives any further wrapping with %w; [Of] finds it again at the
// top, where the only exit of the program is. Codes are never reused: a user
// who searches for one must find one meaning.
package fault

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Exit statuses of cc-base's programs, the same for mage targets and
// cc-install.
const (
	ExitFailed      = 1 // a stage or a check failed
	ExitUsage       = 2 // bad configuration, overlay or command line
	ExitUnsupported = 3 // this machine cannot do it
	ExitUnsafe      = 4 // refused because it could destroy something
)

// Code names one kind of failure, for ever.
type Code string

// Error is a failure with its code and, where one is known, the way out.
type Error struct {
	Code Code
	err  error
	hint string
}

// New gives err the code. A nil err stays nil-safe for callers that build the
// text elsewhere: it is replaced by the code's title.
func New(code Code, err error) *Error {
	if err == nil {
		err = errors.New(Explain(code).Title)
	}
	return &Error{Code: code, err: err}
}

// Newf is New over a formatted error; %w works.
func Newf(code Code, format string, args ...any) *Error {
	return New(code, fmt.Errorf(format, args...))
}

// Hint adds the line that tells the user what to do.
func (e *Error) Hint(format string, args ...any) *Error {
	e.hint = fmt.Sprintf(format, args...)
	return e
}

// Error returns the text of the wrapped error alone: code and hint are shown
// by [Render], once, at the end.
func (e *Error) Error() string { return e.err.Error() }

// Unwrap returns the wrapped error.
func (e *Error) Unwrap() error { return e.err }

// ExitStatus returns the program's exit status for this failure.
func (e *Error) ExitStatus() int { return Explain(e.Code).Exit }

// Of returns the outermost coded error in err's chain, or nil.
func Of(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return nil
}

// Exit returns the exit status that err calls for: 0 for nil, 1 for an error
// without a code.
func Exit(err error) int {
	if err == nil {
		return 0
	}
	if e := Of(err); e != nil {
		return e.ExitStatus()
	}
	return ExitFailed
}

// Render writes err as users see it: the chain, then the code, then the hints
// from the outermost to the innermost.
func Render(err error) string {
	var b strings.Builder
	b.WriteString(err.Error())
	e := Of(err)
	if e == nil {
		return b.String()
	}
	fmt.Fprintf(&b, "\ncode: %s (explain with `mage explain %s`)", e.Code, e.Code)
	for _, hint := range hints(err, nil) {
		fmt.Fprintf(&b, "\nhint: %s", hint)
	}
	return b.String()
}

// hints collects the hints of err's whole tree, joined errors included, each
// once.
func hints(err error, found []string) []string {
	if f, ok := err.(*Error); ok && f.hint != "" && !slices.Contains(found, f.hint) {
		found = append(found, f.hint)
	}
	switch wrapper := err.(type) {
	case interface{ Unwrap() error }:
		if inner := wrapper.Unwrap(); inner != nil {
			found = hints(inner, found)
		}
	case interface{ Unwrap() []error }:
		for _, inner := range wrapper.Unwrap() {
			found = hints(inner, found)
		}
	}
	return found
}
