package bundle

import "cc-base/tasks/deb"

// Package is the name that lock files and firmware know [deb.Package] by.
type Package = deb.Package
