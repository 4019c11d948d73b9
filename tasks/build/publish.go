package build

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"cc-base/tasks/oci"
	"cc-base/tasks/publish"
)

// Publish sends what was built to an OCI registry, under the tag of
// REGISTRY/REPO:TAG, and prints the digests that it has there. No build may run
// meanwhile.
func Publish(ctx context.Context, o Options, to string, plainHTTP bool, w io.Writer) error {
	if exists(o.OutDir) {
		unlock, err := lock(filepath.Join(o.OutDir, ".lock"))
		if err != nil {
			return err
		}
		defer unlock()
	}
	named, _ := o.LookupEnv(oci.PlainEnv)
	result, err := publish.Publish(ctx, publish.Options{
		Out: o.OutDir, To: to,
		Registry: oci.Options{PlainHTTP: plainHTTP, PlainHost: named},
		Say:      func(format string, args ...any) { fmt.Fprintf(o.Stderr, "publish: "+format+"\n", args...) },
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(o.Stderr, "publish: %d blobs sent, %d were there\n", result.Sent, result.Had)
	_, err = fmt.Fprintf(w, "release: %s\ncontainerDisk: %s, tag %s\n", result.Release, result.Disk, result.DiskTag)
	return err
}
