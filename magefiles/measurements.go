//go:build mage

package main

import (
	"os"

	"github.com/magefile/mage/mg"

	"cc-base/tasks/build"
)

// Measurements looks after what a genuine machine will measure.
type Measurements mg.Namespace

// Verify computes measurements.json again from the built files and names the first difference.
func (Measurements) Verify() error {
	return with(func(o build.Options) error { return build.VerifyMeasurements(o, os.Stdout) })
}
