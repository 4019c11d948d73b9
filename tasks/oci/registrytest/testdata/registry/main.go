// Command registry is the registry that the tests publish to: distribution's own
// server, with storage in files and passwords from a file, and nothing else of
// it. It is a module of its own, so that what a server needs is not among what
// cc-base needs.
package main

import (
	"os"

	"github.com/distribution/distribution/v3/registry"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
)

func main() {
	if err := registry.RootCmd.Execute(); err != nil {
		os.Exit(1)
	}
}
