// Package check is what a check is: a claim with a function that tests it and
// the remedy for a failure; its verdicts, and the reports that a run of checks
// makes.
//
// A check has one of four verdicts. Skip means that the claim could not be
// tested here and says why; it is never counted as a pass. Error means that
// the test itself went wrong, which is no better than a failure.
//
// The package knows nothing of what is checked, so that the guest's program and
// the host's share it.
package check

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Where is a place where a check can run.
type Where string

// The places.
const (
	Host     Where = "host"     // on the machine that will run the VM
	Artefact Where = "artefact" // on the unpacked installer alone
	Guest    Where = "guest"    // inside the VM
	VM       Where = "vm"       // from outside, on a VM that runs
)

// Tier is what kind of machine a verdict comes from; a claim about silicon is
// not proven by a file.
type Tier string

// The tiers, weakest first.
const (
	TierArtefact Tier = "artefact" // files only
	TierTCG      Tier = "tcg"      // an emulated machine
	TierKVM      Tier = "kvm"      // a virtual machine
	TierSilicon  Tier = "silicon"  // hardware that attests
)

// Status is the outcome of a check.
type Status string

// The outcomes.
const (
	Pass  Status = "pass"
	Fail  Status = "fail"
	Skip  Status = "skip"
	Error Status = "error"
)

// Verdict is an outcome with what was found; a pass says what was looked at.
type Verdict struct {
	Status Status `json:"status"`
	Detail string `json:"detail"`
}

// Check is one claim.
type Check struct {
	ID     string  // area and name: partition.order
	Title  string  // the claim, as a sentence without a period
	Area   string  // what test_0N_*.sh is about
	Where  []Where // the places where it can run
	Tier   Tier    // what a pass proves at most
	Remedy string  // what to do when it fails
	Func   func(ctx context.Context) Verdict
}

// Areas returns the areas of checks in their order.
func Areas(checks []Check) []string {
	var areas []string
	for _, c := range checks {
		if !slices.Contains(areas, c.Area) {
			areas = append(areas, c.Area)
		}
	}
	return areas
}

// Select returns the checks of the named areas or with the named IDs; no name
// means all. An unknown name is an error: a misspelt check must not pass.
func Select(checks []Check, names []string) ([]Check, error) {
	if len(names) == 0 {
		return checks, nil
	}
	wanted := map[int]bool{}
	for _, name := range names {
		found := false
		for i, c := range checks {
			if c.Area == name || c.ID == name {
				wanted[i], found = true, true
			}
		}
		if !found {
			return nil, fmt.Errorf("no area or check is called %q; areas: %s", name, strings.Join(Areas(checks), ", "))
		}
	}
	var out []Check
	for i, c := range checks {
		if wanted[i] {
			out = append(out, c)
		}
	}
	return out, nil
}

// Passed is a pass with what was looked at.
func Passed(format string, args ...any) Verdict { return Verdict{Pass, fmt.Sprintf(format, args...)} }

// Failed is a failure with what was found instead.
func Failed(format string, args ...any) Verdict { return Verdict{Fail, fmt.Sprintf(format, args...)} }

// Skipped says why the claim could not be tested here.
func Skipped(format string, args ...any) Verdict { return Verdict{Skip, fmt.Sprintf(format, args...)} }

// Broken says what went wrong with the test itself.
func Broken(err error) Verdict { return Verdict{Error, err.Error()} }

// Judge is a failure with all findings, or a pass.
func Judge(findings []string, format string, args ...any) Verdict {
	if len(findings) > 0 {
		return Verdict{Fail, strings.Join(findings, "; ")}
	}
	return Passed(format, args...)
}
