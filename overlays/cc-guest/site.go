package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"cc-base/overlays/cc-guest/internal/cmdline"
	"cc-base/overlays/cc-guest/internal/launchdata"
	"cc-base/tasks/atomicfile"
	"cc-base/tasks/fault"
	"cc-base/tasks/site"
)

const (
	// siteInput is site.conf in sysfs, siteOutput where it lies for the running
	// system.
	siteInput  = "firmware/qemu_fw_cfg/by_name/" + site.FWCfg + "/raw"
	siteOutput = "/run/cc/site.conf"
)

// applySite checks the settings of the place that the host gave and leaves them
// for the running system. It is for the initrd, after the volumes are open and
// before anything uses the settings.
func applySite(ctx context.Context) error {
	params, err := readParams()
	if err != nil {
		return err
	}
	p := place{sys: os.DirFS("/sys"), launch: launchdata.System().Read, profile: params.Keys, file: siteOutput, say: say}
	if testBuild && params.Test {
		// A test machine claims a profile and has no such processor.
		p.launch, p.profile = plain, cmdline.TPM
	}
	return p.apply(ctx)
}

func plain(context.Context) (site.Launch, error) { return site.Launch{}, nil }

// place is a site.conf and the machine that it is for.
type place struct {
	sys     fs.FS // the root of sysfs
	launch  func(context.Context) (site.Launch, error)
	profile string // key profile, from the measured command line
	file    string // where the checked settings go
	say     func(line string)
}

func (p place) apply(ctx context.Context) error {
	text, err := p.read()
	if err != nil {
		return fault.Newf(fault.SiteInvalid, "reading site.conf: %w", err)
	}
	launch, err := p.launch(ctx)
	if err != nil {
		return err
	}
	if launch.Plain() && p.profile != cmdline.TPM {
		// Without its processor's device a confidential guest would pass for a
		// plain one, which takes every file.
		return fault.Newf(fault.GuestTEE, "in key profile %s there is no device to ask what the launch was bound to", p.profile)
	}
	// The digest first: what nobody vouches for is not even parsed.
	if err := launch.Check(text); err != nil {
		return err
	}
	if text == nil {
		return nil
	}
	settings, err := site.Parse(text)
	if err != nil {
		return err
	}
	if err := p.write(settings.Text()); err != nil {
		return fault.New(fault.GuestBoot, err)
	}
	p.say(launch.Say(text))
	return nil
}

// read returns the file, or nil where there is none. One that is too long is cut
// off behind the limit, for others to refuse.
func (p place) read() ([]byte, error) {
	f, err := p.sys.Open(siteInput)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, site.MaxSize+1))
}

func (p place) write(text []byte) error { return writeShared(p.file, string(text)) }

// writeShared writes a file that everybody may read, and its folder.
func writeShared(file, text string) error {
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// The folder of the keys in it, which is closed to others, may have made it
	// closed, too.
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	return atomicfile.Write(file, 0o644, []byte(text))
}
