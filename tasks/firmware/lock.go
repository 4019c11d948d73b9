package firmware

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"cc-base/tasks/bundle"
	"cc-base/tasks/fetch"
	"cc-base/tasks/lockfile"
)

// Section is the name of the images' section in a lock.
const Section = "firmware"

// ReadLock reads the images' packages from a lock. A file that is not there, or
// that has no section for them, pins nothing; a malformed one is an error with
// code fault.Config.
func ReadLock(path string) ([]bundle.Package, error) {
	lock, err := lockfile.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	section, _ := lock.Section(Section)
	return section.Packages, nil
}

// LockSection returns the section of a lock that has the packages.
func LockSection(packages []bundle.Package) lockfile.Section {
	return lockfile.Section{Name: Section, From: "debian " + strings.Join(Suites(), " "), Packages: packages}
}

// Lock returns the report's packages as a lock.
func (r Report) Lock() []byte {
	var l lockfile.Lock
	var packages []bundle.Package
	for _, g := range r.Images {
		packages = append(packages, g.Package.bundle())
	}
	if len(packages) > 0 {
		l.Sections = append(l.Sections, LockSection(packages))
	}
	return l.Encode()
}

// Find returns the newest packages of the images, which it does not fetch, and
// says why it has not found one. Its error is one of this machine, or ctx's.
func (g Getter) Find(ctx context.Context, images ...Image) ([]bundle.Package, error) {
	s := session{Getter: g, suites: map[string]reading{}, scratch: fetch.New(g.Work, g.Fetch)}
	defer s.scratch.Close()
	var packages []bundle.Package
	for _, image := range images {
		found, err := choice{}, s.usable()
		if err == nil {
			found, err = s.find(ctx, image)
		}
		var no *unavailable
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.As(err, &no):
			g.Say("without %s: %v", image.File, err)
		case err != nil:
			return nil, err
		default:
			packages = append(packages, found.Package)
		}
	}
	return packages, nil
}
