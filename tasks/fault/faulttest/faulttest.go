// Package faulttest checks failures in tests.
package faulttest

import (
	"strings"
	"testing"

	"cc-base/tasks/fault"
)

// Want ends the test unless err is a failure with the code, and fails it unless
// its text has every one of the words: the code says what went wrong and the
// words where, and users are promised both.
func Want(t testing.TB, err error, code fault.Code, words ...string) {
	t.Helper()
	if f := fault.Of(err); f == nil || f.Code != code {
		t.Fatalf("got %v, want a failure %s", err, code)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}
