// Package program compiles the project's own Go programs that are shipped: the
// guest's and the installer's. They are static, so that they run in an initrd
// and on any host, and the same source gives the same bytes.
package program

import (
	"context"
	"os"
	"strings"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/sh"
)

// Build compiles the main package pkg (as in ./installer) of the module at repo
// with the build tags and writes the program to out.
func Build(ctx context.Context, run sh.Runner, repo, pkg, out string, tags ...string) error {
	part := out + atomicfile.Extension
	defer os.Remove(part)
	args := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", part}
	if len(tags) > 0 {
		args = append(args, "-tags="+strings.Join(tags, ","))
	}
	err := run.Run(ctx, sh.Cmd{
		Name: "go",
		Args: append(args, pkg),
		Dir:  repo,
		// An empty GOFLAGS would let the one of `go env -w` through
		// (go1.26 cmd/go/internal/cfg Getenv).
		Env: append(moduleEnv(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1", "GOFLAGS=-trimpath"),
	})
	if err != nil {
		return err
	}
	return atomicfile.Publish(part, out)
}

// moduleEnv returns what decides where modules come from, which differs between
// machines and not between results: go.sum fixes their content.
func moduleEnv() []string {
	var env []string
	for _, key := range []string{"GOPROXY", "GONOPROXY", "GOPRIVATE", "GOSUMDB", "GONOSUMDB", "GOINSECURE", "GOPATH", "GOMODCACHE", "GOCACHE", "GOTOOLCHAIN", "GOENV", "GOROOT"} {
		if v, ok := os.LookupEnv(key); ok {
			env = append(env, key+"="+v)
		}
	}
	return env
}
