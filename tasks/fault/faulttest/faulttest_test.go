package faulttest_test

import (
	"errors"
	"fmt"
	"testing"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
)

// probe is a test that notes its failure instead of failing.
type probe struct {
	testing.TB
	failed, ended bool
}

func (p *probe) Helper()               {}
func (p *probe) Errorf(string, ...any) { p.failed = true }
func (p *probe) Fatalf(string, ...any) { p.ended = true; panic(p) }

func TestWantHoldsAnErrorToItsCodeAndWords(t *testing.T) {
	t.Parallel()
	sealing := fmt.Errorf("root: %w", fault.Newf(fault.Sealing, "the key is too short"))
	for name, tt := range map[string]struct {
		err           error
		words         []string
		failed, ended bool
	}{
		"code and words":   {sealing, []string{"root", "too short"}, false, false},
		"no words":         {sealing, nil, false, false},
		"one word missing": {sealing, []string{"root", "too long"}, true, false},
		"another code":     {fault.Newf(fault.Signing, "root: too short"), []string{"root"}, false, true},
		"no code":          {errors.New("root: too short"), []string{"root"}, false, true},
		"no error":         {nil, nil, false, true},
	} {
		p := &probe{TB: t}
		func() {
			defer func() {
				if r := recover(); r != nil && r != any(p) {
					panic(r)
				}
			}()
			faulttest.Want(p, tt.err, fault.Sealing, tt.words...)
		}()
		if p.failed != tt.failed || p.ended != tt.ended {
			t.Errorf("%s: failed %v, ended %v", name, p.failed, p.ended)
		}
	}
}
