package firmware

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"

	"cc-base/tasks/bundle"
	"cc-base/tasks/fault"
	"cc-base/tasks/rootfs"
)

// poolName is what the place of a package in an archive looks like.
var poolName = regexp.MustCompile(`^pool/([A-Za-z0-9][A-Za-z0-9+._~-]*/)+[A-Za-z0-9][A-Za-z0-9+._~-]*\.deb$`)

// ReadLock reads a lock: stanzas as an archive's index has them, with at least
// Package, Version, Filename, Size and SHA256. Packages of others are left out.
// A file that is not there pins nothing; a malformed one is an error with code
// fault.Config.
func ReadLock(path string) ([]bundle.Package, error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	all, err := rootfs.ReadPackages(path)
	if err != nil {
		return nil, fault.New(fault.Config, err)
	}
	pins := ours(all)
	seen := map[string]bool{}
	for _, p := range pins {
		switch {
		case seen[p.Name]:
			return nil, fault.Newf(fault.Config, "%s: %s is there twice", path, p.Name)
		case p.Size <= 0 || !poolName.MatchString(p.Filename):
			return nil, fault.Newf(fault.Config, "%s: %s has no size, or no file name below pool/", path, p.Name)
		}
		seen[p.Name] = true
	}
	return pins, nil
}

// Lock returns the report's packages as a lock.
func (r Report) Lock() []byte {
	var b bytes.Buffer
	for i, g := range r.Images {
		if i > 0 {
			b.WriteByte('\n')
		}
		p := g.Package
		fmt.Fprintf(&b, "Package: %s\nVersion: %s\nArchitecture: all\nFilename: %s\nSize: %d\nSHA256: %s\n", p.Name, p.Version, p.Filename, p.Size, p.SHA256)
	}
	return b.Bytes()
}
