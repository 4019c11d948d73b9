package main

// Green here means that a refusal is one clean line and that the program does
// nothing outside a guest. Powering off is proven by the negative boots.

import (
	"errors"
	"fmt"
	"testing"

	"cc-base/tasks/fault"
)

func TestRefusalIsOneLineWithACode(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		"cc-base: refused: CC0803: no key\n":            fault.Newf(fault.GuestKey, "no key"),
		"cc-base: refused: CC0801: outer: cc.x  bad?\n": fmt.Errorf("outer: %w", fault.Newf(fault.GuestCmdline, "cc.x\r\nbad?")),
		"cc-base: refused: CC0806: plain\n":             errors.New("plain"),
		"cc-base: refused: CC0804:  [2J \n":             fault.Newf(fault.GuestVerity, "\x1b[2J\u00e9"),
	} {
		if got := refusal(err); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestNothingRunsOutsideAGuest(t *testing.T) {
	for _, invocation := range []string{"", "0123456789abcdef0123456789abcdef"} {
		// A unit of another system does not make it a guest of ours.
		t.Setenv("INVOCATION_ID", invocation)
		for name, verb := range unitVerbs() {
			if verb.inGuest() {
				t.Errorf("%s would run here (unit %q)", name, invocation)
			}
		}
	}
}
