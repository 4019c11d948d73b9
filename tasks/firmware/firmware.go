// Package firmware gets the firmware of confidential guests, which no stable
// release of Debian has: OVMF for SEV-SNP with a page for kernel hashes, and
// OVMF for TDX.
//
//	report, err := firmware.Getter{Mirror: uri, Keyring: file, …}.Get(ctx, dir, firmware.SNP(), firmware.TDX())
//
// Each step vouches for the next: a key of the archive signs the suite's
// InRelease, that names the digest of the index, which names that of the
// package. A lock ([ReadLock]) names the package's digest itself and needs no
// suite.
//
// What cannot be had is not an error, because an image without it is a good one
// for hosts of another kind; the report says why, in words that programs can
// read. Nothing that failed a check is ever used.
package firmware

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/bundle"
	"cc-base/tasks/digest"
	"cc-base/tasks/fault"
	"cc-base/tasks/fetch"
	"cc-base/tasks/sh"
	"cc-base/tasks/tee/ovmf"
)

// Image is a firmware file and the package that brings it.
type Image struct {
	File    string // OVMF.amdsev.fd
	Package string // ovmf-amdsev

	path  string // in the package
	check func(ovmf.Firmware) error
}

// SNP is the firmware of SEV-SNP guests: of all that Debian builds, the one
// whose launch digest covers a kernel that is given to QEMU.
func SNP() Image {
	return Image{File: "OVMF.amdsev.fd", Package: "ovmf-amdsev", path: "usr/share/ovmf/OVMF.amdsev.fd", check: func(f ovmf.Firmware) error {
		if f.Section(ovmf.KernelHashes) == nil {
			return errors.New("it has no page for kernel hashes, so a launch would not measure what is booted")
		}
		return nil
	}}
}

// TDX is the firmware of TDX guests.
func TDX() Image {
	return Image{File: "OVMF.inteltdx.ms.fd", Package: "ovmf-inteltdx", path: "usr/share/ovmf/OVMF.inteltdx.ms.fd", check: func(f ovmf.Firmware) error {
		if f.TDVFSection(ovmf.BootVolume) == nil {
			return errors.New("it has no TDX metadata")
		}
		return nil
	}}
}

// Suites is where the packages are looked for, in this order.
func Suites() []string { return []string{"testing", "unstable"} }

// Getter gets images.
type Getter struct {
	Mirror  string           // base URI of a Debian archive, http or https
	Keyring string           // file with the public keys that may sign a suite
	Locked  []bundle.Package // taken as they are, or not at all
	Strict  bool             // take nothing that Locked does not name
	Known   []Got            // what an earlier run got: taken while it can be had
	Cache   string           // of package fetch, for the packages
	Work    string           // folder for what is not kept
	Tools   sh.Runner        // runs dpkg-deb and sees Cache
	Fetch   fetch.Options
	Now     func() time.Time
	Say     func(format string, args ...any) // one line each
}

// Get puts the images into the folder dir, and tells which it got and why not
// the others. Its error is one of this machine, such as a full disk, or ctx's.
func (g Getter) Get(ctx context.Context, dir string, images ...Image) (Report, error) {
	report := Report{Schema: Schema, Images: []Got{}, Missing: []Missing{}}
	s := session{Getter: g, suites: map[string]reading{}, packages: fetch.New(g.Cache, g.Fetch), scratch: fetch.New(g.Work, g.Fetch)}
	defer s.packages.Close()
	defer s.scratch.Close()
	for _, image := range images {
		got, err := s.get(ctx, dir, image)
		var no *unavailable
		switch {
		case ctx.Err() != nil:
			return report, ctx.Err()
		case errors.As(err, &no):
			g.Say("without %s: %v", image.File, err)
			report.Missing = append(report.Missing, Missing{File: image.File, Package: image.Package, Reason: no.reason, Meaning: no.reason.Meaning()})
		case err != nil:
			return report, fmt.Errorf("%s: %w", image.File, err)
		default:
			report.Images = append(report.Images, got)
		}
	}
	return report, nil
}

// session is one run of Get.
type session struct {
	Getter
	suites            map[string]reading // each is asked for once
	packages, scratch *fetch.Fetcher
}

// reading is a suite, or why there is none.
type reading struct {
	*suite
	err error
}

// choice is a package and how it was chosen.
type choice struct {
	bundle.Package
	from   string // FromLock or the suite
	suite  *Suite // as it was when the package was found in it
	pinned bool   // nobody asked a suite just now
}

func (s *session) get(ctx context.Context, dir string, image Image) (Got, error) {
	if err := s.usable(); err != nil {
		return Got{}, err
	}
	if i := slices.IndexFunc(s.Locked, func(p bundle.Package) bool { return p.Name == image.Package }); i >= 0 {
		return s.take(ctx, dir, image, choice{s.Locked[i], FromLock, nil, true})
	}
	if s.Strict {
		return Got{}, no(NotLocked, nil)
	}
	if i := slices.IndexFunc(s.Known, func(g Got) bool { return g.Package.Name == image.Package }); i >= 0 {
		known := s.Known[i]
		got, err := s.take(ctx, dir, image, choice{known.Package.bundle(), known.From, known.Suite, true})
		var u *unavailable
		if !errors.As(err, &u) || u.reason != Vanished {
			return got, err
		}
	}
	found, err := s.find(ctx, image)
	if err != nil {
		return Got{}, err
	}
	return s.take(ctx, dir, image, found)
}

// usable says whether anything can be fetched from the mirror at all.
func (s *session) usable() error {
	u, err := url.Parse(s.Mirror)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return no(NoMirror, nil)
	}
	return nil
}

// take fetches the package and writes the image.
func (s *session) take(ctx context.Context, dir string, image Image, c choice) (Got, error) {
	deb, err := s.packages.Fetch(ctx, fetch.Request{URL: s.address(c.Filename), Size: c.Size, SHA256: c.SHA256})
	if err != nil {
		reason := remote(err)
		if fetch.Gone(err) && c.pinned {
			reason = Vanished
		}
		return Got{}, unlessLocal(reason, fmt.Errorf("%s %s: %w", c.Name, c.Version, err))
	}
	data, err := s.extract(ctx, deb, image.path)
	if err != nil {
		return Got{}, err
	}
	parsed, err := ovmf.Parse(data)
	if err == nil {
		err = image.check(parsed)
	}
	if err != nil {
		return Got{}, no(Unusable, fmt.Errorf("%s %s: %w", c.Name, c.Version, err))
	}
	if err := atomicfile.Write(filepath.Join(dir, image.File), 0o644, data); err != nil {
		return Got{}, err
	}
	got := Got{
		File: image.File, SHA256: digest.Bytes(data), Size: int64(len(data)), From: c.from, Suite: c.suite,
		Package: Package{Name: c.Name, Version: c.Version, Source: c.Source, Filename: c.Filename, SHA256: c.SHA256, Size: c.Size},
	}
	s.Say("%s of %s %s, from %s, sha256 %s", got.File, c.Name, c.Version, c.from, got.SHA256)
	return got, nil
}

func (s *session) address(name string) string {
	return strings.TrimRight(s.Mirror, "/") + "/" + name
}

// remote is the reason for a failure of the network or the server.
func remote(err error) Reason {
	if f := fault.Of(err); f != nil && f.Code == fault.Damaged {
		return WrongContent
	}
	return Unreachable
}

// unlessLocal is err as the reason why an image cannot be had, or err itself
// where it is this machine's fault.
func unlessLocal(reason Reason, err error) error {
	var file *fs.PathError
	var link *os.LinkError
	if errors.As(err, &file) || errors.As(err, &link) {
		return err
	}
	return no(reason, err)
}
