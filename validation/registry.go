// Package validation is the registry of checks of an installer, a disk and a
// host: what is claimed about them, each claim with a function that tests it.
//
//	env := &validation.Env{Root: os.DirFS("/"), Dir: "installer"}
//	report := check.Run(ctx, check.Host, validation.All(env))
//	os.Exit(map[bool]int{true: 1}[report.Failed()])
//
// The checks reach the outside world through [Env] alone.
package validation

import (
	"context"
	"slices"

	"cc-base/validation/check"
)

// All returns every check in the order in which they are run: an area whose
// files are damaged makes the findings of the later ones worthless.
func All(env *Env) []check.Check {
	return slices.Concat(env.bundleChecks(), env.deviceChecks(), env.keysChecks(), env.appsChecks(), env.partitionChecks(), env.measurementsChecks())
}

// on makes a check's function of one that works on the outside world.
func (e *Env) on(f func(context.Context, *Env) check.Verdict) func(context.Context) check.Verdict {
	return func(ctx context.Context) check.Verdict { return f(ctx, e) }
}
