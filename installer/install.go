package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"cc-base/installer/target"
	"cc-base/installer/unpacked"
	"cc-base/installer/write"
	"cc-base/tasks/fault"
	"cc-base/tasks/hw"
	"cc-base/tasks/layout"
	"cc-base/tasks/manifest"
)

// source is a verified installer folder with its image open.
type source struct {
	folder   *unpacked.Folder
	manifest manifest.Manifest
	image    io.ReaderAt
	table    layout.Table // of the image
	file     io.Closer
}

func (s *source) Close() {
	s.file.Close()
	s.folder.Close()
}

// open verifies the whole folder and opens the image in it.
func (a *app) open(ctx context.Context, o options) (_ *source, err error) {
	folder, err := unpacked.Open(o.dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			folder.Close()
		}
	}()
	a.say("verifying %s", folder.Path(unpacked.Sums))
	if err := folder.Verify(ctx); err != nil {
		return nil, err
	}
	m, err := folder.Manifest()
	if err != nil {
		return nil, err
	}
	image, file, err := folder.Image(m.Disk)
	if err != nil {
		return nil, err
	}
	table, err := layout.Read(image, image.Size())
	if err == nil {
		if diffs := table.AgainstManifest(m.Disk); len(diffs) > 0 {
			err = errors.New(strings.Join(diffs, "; "))
		}
	}
	if err != nil {
		file.Close()
		return nil, fault.Newf(fault.Damaged, "%s: %w", m.Disk.File, err)
	}
	return &source{folder, m, image, table, file}, nil
}

// plan is what `plan --json` writes.
type plan struct {
	Device  string       `json:"device"`
	Size    int64        `json:"size"`
	Reasons []string     `json:"reasons,omitempty"` // why this device was chosen
	TEE     hw.TEE       `json:"tee"`
	Writes  []write.Step `json:"writes"`
	Refused []hw.Refusal `json:"refused"`
}

// install writes the image to the device, or with dryRun says what it would
// do after exactly the same checks.
func (a *app) install(ctx context.Context, named []string, o options) error {
	wish, err := a.preference()
	if err != nil {
		return err
	}
	if len(named) == 0 && !wish.Auto {
		return a.noDevice(wish, o)
	}
	src, err := a.open(ctx, o)
	if err != nil {
		return err
	}
	defer src.Close()
	need := needs(src.manifest.Disk)
	need.Named, need.Files = len(named) == 1, o.allowAnyFile
	t, reasons, err := a.target(named, need, wish, o)
	if err != nil {
		return err
	}
	path := t.Path
	p := plan{Device: path, Size: t.Size, Reasons: reasons, Writes: []write.Step{}, Refused: t.Refusals(need)}
	p.TEE, _ = hw.HostTEE(a.root)
	if len(p.Refused) > 0 {
		if o.json {
			if err := a.writeJSON(p); err != nil {
				return err
			}
		}
		return refusal(path, p.Refused)
	}
	if err := a.teeAllowed(src.folder, o); err != nil {
		return err
	}
	key, err := imageKey(src.folder, o)
	if err != nil {
		return err
	}
	final, err := layout.Final(src.table, t.Size)
	if err != nil {
		return fault.New(fault.DeviceRefused, err)
	}
	job := write.Job{Image: src.image, Disk: src.manifest.Disk, Table: final, Size: t.Size}
	p.Writes = job.Steps()
	if o.json {
		return a.writeJSON(p)
	}
	a.showPlan(t, job)
	if o.dryRun {
		a.say("nothing was written")
		return nil
	}
	if err := a.confirm(t, o); err != nil {
		return err
	}
	if err := a.write(ctx, t, job); err != nil {
		return err
	}
	a.report(src, t, key)
	return nil
}

func refusal(path string, reasons []hw.Refusal) error {
	var errs []error
	for _, r := range reasons {
		errs = append(errs, fmt.Errorf("%s is refused: %s", path, r.Detail))
	}
	err := fault.New(fault.DeviceRefused, errors.Join(errs...))
	if slices.ContainsFunc(reasons, func(r hw.Refusal) bool { return r.Reason.Member() }) {
		err.Hint("if nothing needs %s any more, `wipefs --all` on it and its partitions makes it free", path)
	}
	return err
}

// teeAllowed resolves TEE_TYPE on this host: auto wants one of the two, a named
// one wants just that. The file was verified; only this one word is of
// interest here, the build has checked the rest.
func (a *app) teeAllowed(folder *unpacked.Folder, o options) error {
	want := "auto"
	if raw, err := folder.Read("config/tee.conf", 1<<20); err == nil {
		if m := regexp.MustCompile(`(?m)^\s*TEE_TYPE=["']?([a-z-]+)["']?\s*(#.*)?$`).FindSubmatch(raw); m != nil {
			want = string(m[1])
		}
	}
	kind, why := hw.HostTEE(a.root)
	switch {
	case want == string(hw.NoTEE), want == string(kind), want == "auto" && kind != hw.NoTEE:
		return nil
	case o.allowPlain:
		a.say("warning: TEE_TYPE is %s and this host offers %s (%s); the VM will NOT be protected against the host", want, kind, why)
		return nil
	}
	return fault.Newf(fault.NoTEE, "TEE_TYPE is %s and this host offers %s: %s", want, kind, why).
		Hint("--allow-plain installs all the same, without protection against the host")
}

// imageKey returns the path of the key that opens the volumes, or empty when
// it does not travel in the installer and was not named.
func imageKey(folder *unpacked.Folder, o options) (string, error) {
	if o.imageKey != "" {
		info, err := os.Stat(o.imageKey)
		if err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
			return "", fault.Newf(fault.Usage, "--image-key: %s is not a file with a key in it", o.imageKey)
		}
		return filepath.Abs(o.imageKey)
	}
	if _, err := folder.Stat(unpacked.ImageKey); err != nil {
		return "", nil
	}
	return filepath.Abs(folder.Path(unpacked.ImageKey))
}

func (a *app) showPlan(t target.Target, job write.Job) {
	what := human(t.Size)
	if !t.File {
		what = strings.TrimSpace(fmt.Sprintf("%s %s %s %s", human(t.Size), t.Device.Class, t.Device.Model, t.Device.Serial))
	}
	fmt.Fprintf(a.out, "%s (%s) will be overwritten:\n", t.Path, what)
	for _, s := range job.Steps() {
		fmt.Fprintf(a.out, "  %-5s %14d +%-12d %s\n", s.Action, s.Offset, s.Length, s.What)
	}
}

// confirm has the name of the device typed back.
func (a *app) confirm(t target.Target, o options) error {
	if o.yes {
		return nil
	}
	if !a.asks {
		return fault.Newf(fault.Usage, "there is no terminal to ask; nothing was written").Hint("--yes skips the question")
	}
	name := filepath.Base(t.Path)
	fmt.Fprintf(a.err, "everything on %s will be lost; type %s to go on: ", t.Path, name)
	line, err := bufio.NewReader(a.stdin).ReadString('\n')
	if answer := strings.TrimSpace(line); err != nil || answer != name && answer != t.Path {
		return fault.Newf(fault.Usage, "not confirmed; nothing was written")
	}
	return nil
}

func (a *app) write(ctx context.Context, t target.Target, job write.Job) error {
	dev, err := t.Open()
	if err != nil {
		return err
	}
	defer dev.Close()
	job.Progress = a.progress("writing " + t.Path)
	err = job.Run(ctx, dev, func() error { return target.Forget(dev) })
	switch {
	case errors.Is(err, write.ErrUntouched):
		return fault.New(fault.InstallWrite, err)
	case err != nil:
		return fault.Newf(fault.InstallWrite, "%s: %w", t.Path, err).
			Hint("%s holds no valid installation now; run the installer again", t.Path)
	}
	if !t.File && target.Reread(dev) != nil {
		a.say("the kernel did not read the new partition table; a virtual machine does not need it to")
	}
	return dev.Close()
}

// progress returns a function that shows a line that is written over on a
// terminal, and one line per tenth elsewhere.
func (a *app) progress(title string) func(done, all int64) {
	last := int64(-1)
	return func(done, all int64) {
		percent := done * 100 / max(all, 1)
		switch {
		case percent == last || !a.shows && percent/10 == last/10 && last >= 0:
			return
		case a.shows:
			fmt.Fprintf(a.err, "\r%s: %3d%% of %s", title, percent, human(all))
			if done == all {
				fmt.Fprintf(a.err, "\nreading it back\n")
			}
		default:
			a.say("%s: %d%% of %s", title, percent/10*10, human(all))
		}
		last = percent
	}
}
