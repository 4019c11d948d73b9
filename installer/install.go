package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"cc-base/installer/deployment"
	"cc-base/installer/target"
	"cc-base/installer/unpacked"
	"cc-base/installer/write"
	"cc-base/tasks/boot/measured"
	"cc-base/tasks/fault"
	"cc-base/tasks/hw"
	"cc-base/tasks/layout"
	"cc-base/tasks/manifest"
	"cc-base/tasks/seal"
	"cc-base/tasks/tee/tdx"
	"cc-base/tasks/tpm/pcr"
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
	Files   []string     `json:"files"` // that are made on the host
	VM      *plannedVM   `json:"vm,omitempty"`
	Refused []hw.Refusal `json:"refused"`
}

// plannedVM is the virtual machine of a plan.
type plannedVM struct {
	Steps        []string `json:"steps"`
	XML          string   `json:"xml"`
	LaunchDigest string   `json:"launchDigest,omitempty"` // expected; SEV-SNP
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
	p := plan{Device: path, Size: t.Size, Reasons: reasons, Writes: []write.Step{}, Files: []string{}, Refused: t.Refusals(need)}
	p.TEE, _ = hw.HostTEE(a.root)
	if len(p.Refused) > 0 {
		if o.json {
			if err := a.writeJSON(p); err != nil {
				return err
			}
		}
		return refusal(path, p.Refused)
	}
	j, err := a.prepare(ctx, src, t, o)
	if err != nil {
		return err
	}
	defer j.keys.wipe()
	p.Writes, p.Files = j.write.Steps(), j.files(o)
	if j.vm != nil {
		p.VM = &plannedVM{Steps: append(j.vm.Steps, j.vm.notes...), XML: j.vm.XML, LaunchDigest: hex.EncodeToString(j.vm.Digest)}
	}
	if o.json {
		return a.writeJSON(p)
	}
	a.showPlan(t, p)
	if o.dryRun {
		a.say("nothing was written")
		return nil
	}
	if err := a.confirm(t, o); err != nil {
		return err
	}
	return a.carryOut(ctx, src, t, j, o)
}

// job is an installation that nothing speaks against.
type job struct {
	write  write.Job
	keys   *keys
	record deployment.Record
	vm     *vmPlan // nil for the disk alone
}

// prepare makes every check that is made before the first write.
func (a *app) prepare(ctx context.Context, src *source, t target.Target, o options) (job, error) {
	if err := deployment.CheckName(o.name); err != nil {
		return job{}, err
	}
	if err := a.teeAllowed(src.folder, o); err != nil {
		return job{}, err
	}
	if err := a.notDebug(src.manifest, o); err != nil {
		return job{}, err
	}
	if err := a.notOlder(src, t, o); err != nil {
		return job{}, err
	}
	key, err := imageKey(src, o)
	if err != nil {
		return job{}, err
	}
	k, err := a.newKeys(key, o)
	if err != nil {
		seal.Wipe(key)
		return job{}, err
	}
	final, err := layout.Final(src.table, t.Size)
	if err != nil {
		return job{}, fault.New(fault.DeviceRefused, err)
	}
	if err := room(filepath.Join(o.state, o.name), src.manifest.Disk); err != nil {
		return job{}, err
	}
	var vm *vmPlan
	if !o.diskOnly {
		if vm, err = a.planVM(ctx, src, t, o); err != nil {
			k.wipe()
			return job{}, err
		}
	}
	sum, _ := src.folder.Listed(unpacked.Manifest)
	dynamic, _ := src.manifest.Disk.Partition("cc-dynamic")
	return job{
		vm:    vm,
		write: write.Job{Image: src.image, Disk: src.manifest.Disk, Table: final, Size: t.Size},
		keys:  k,
		record: deployment.Record{
			Name: o.name, State: deployment.Started, Device: t.Path, Number: t.Device.Number, Size: t.Size,
			Disk: src.manifest.Disk.GUID, Profile: src.manifest.Profile, Epoch: src.manifest.SourceDateEpoch, Manifest: sum,
			Dynamic: dynamic.Start, Uplink: o.uplink,
		},
	}, nil
}

// files are what carryOut makes beside the disk.
func (j job) files(o options) []string {
	names := []string{deployment.RecordFile}
	if len(j.keys.Enrolment) > 0 {
		names = append(names, deployment.EnrolmentFile)
	}
	if j.keys.person != nil && len(j.keys.Recovery) > 0 {
		names = append(names, deployment.RecoveryFile)
	}
	for i, n := range names {
		names[i] = filepath.Join(o.state, o.name, n)
	}
	return names
}

// notOlder refuses an image that is older than what the deployment has, and a
// device that belongs to another deployment.
func (a *app) notOlder(src *source, t target.Target, o options) error {
	all, err := deployment.All(o.state)
	if err != nil {
		return err
	}
	for _, r := range all {
		own := r.Name == o.name
		switch {
		case !own && !t.File && r.Number == t.Device.Number:
			return fault.Newf(fault.DeviceRefused, "%s belongs to the deployment %s", t.Path, r.Name).
				Hint("--name %s installs it anew, cc-install uninstall %s gives it free", r.Name, r.Name)
		case own && src.manifest.SourceDateEpoch < r.Epoch && !o.allowDowngrade:
			return fault.Newf(fault.OlderImage, "%s has an image of %s, this one is of %s", r.Name, day(r.Epoch), day(src.manifest.SourceDateEpoch)).
				Hint("--allow-downgrade installs it all the same")
		case own && r.State == deployment.Started:
			a.say("an installation of %s on %s was not finished; it begins anew", r.Name, r.Device)
		}
	}
	return nil
}

func day(epoch int64) string { return time.Unix(epoch, 0).UTC().Format(time.DateTime) + " UTC" }

// carryOut makes the installation. What the record says is true at every
// moment: the disk may hold anything until it was read back.
func (a *app) carryOut(ctx context.Context, src *source, t target.Target, j job, o options) error {
	d, err := deployment.Open(o.state, o.name)
	if err != nil {
		return err
	}
	defer d.Close()
	scratch, remove, err := d.Scratch()
	if err != nil {
		return err
	}
	defer remove() // it holds copies that only this installation's keys open
	c, err := a.makeContents(ctx, src, scratch, j.keys)
	if err != nil {
		return err
	}
	defer c.Close()
	if c.kept {
		j.keys.Enrolment, j.keys.Recovery = j.keys.Image, nil
	}
	if err := d.Save(j.record); err != nil {
		return err
	}
	// Before the disk: a disk that nothing opens is of no use.
	if err := keepKeys(d, j.keys); err != nil {
		return err
	}
	j.write.Disk, j.write.Instead = c.disk, c.instead
	if err := a.write(ctx, t, j.write); err != nil {
		return err
	}
	j.record.State, j.record.Partitions = deployment.Written, c.parts
	if err := a.measureDisk(&j.record, src, t); err != nil {
		return err
	}
	if err := d.Save(j.record); err != nil {
		return err
	}
	if j.vm != nil {
		if err := a.makeVM(ctx, d, j.vm, o); err != nil {
			return err
		}
	}
	secret := ""
	if j.vm == nil && len(j.keys.Enrolment) > 0 {
		secret = d.Path(deployment.EnrolmentFile)
	}
	a.report(src, t, j, d.Path("."), secret)
	return nil
}

// measureDisk computes what depends on this disk's partition table.
func (a *app) measureDisk(r *deployment.Record, src *source, t target.Target) error {
	uki, err := src.folder.Read(unpacked.UKI, 1<<30)
	if err != nil {
		return fault.New(fault.Damaged, err)
	}
	disk, err := t.OpenRead()
	if err != nil {
		return err
	}
	defer disk.Close()
	table, err := measured.PartitionTable(io.NewSectionReader(disk, 0, 1<<20))
	if err != nil {
		return err
	}
	image, err := pcr.ReadUKI(uki)
	if err != nil {
		return err
	}
	log, err := pcr.Predict(pcr.Boot{Image: image, GPT: table})
	if err != nil {
		return err
	}
	values, err := log.Replay(pcr.SHA256)
	if err != nil {
		return err
	}
	one, err := tdx.RTMR1(tdx.Boot{UKI: uki, GPT: table, SecureBoot: true})
	if err != nil {
		return err
	}
	r.PCR5, r.RTMR1 = hex.EncodeToString(values[5]), one.Register().String()
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

// teeType is TEE_TYPE of the image.
func teeType(folder *unpacked.Folder) string {
	if raw, err := folder.Read("config/tee.conf", 1<<20); err == nil {
		if m := regexp.MustCompile(`(?m)^\s*TEE_TYPE=["']?([a-z-]+)["']?\s*(#.*)?$`).FindSubmatch(raw); m != nil {
			return string(m[1])
		}
	}
	return "auto"
}

// teeAllowed resolves TEE_TYPE on this host: auto wants one of the two, a named
// one wants just that. The file was verified; only this one word is of
// interest here, the build has checked the rest.
func (a *app) teeAllowed(folder *unpacked.Folder, o options) error {
	want := teeType(folder)
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

// notDebug refuses an image with a shell on its console unless that is wanted.
func (a *app) notDebug(m manifest.Manifest, o options) error {
	switch {
	case !m.Debug():
		return nil
	case o.allowDebug:
		a.say("warning: this is a DEBUG IMAGE: whoever has the VM's console has a root shell")
		return nil
	}
	return fault.Newf(fault.DebugImage, "this is a debug image, with a root shell on its console").
		Hint("--allow-debug installs it all the same, on a machine for tests")
}

func (a *app) showPlan(t target.Target, p plan) {
	what := human(t.Size)
	if !t.File {
		what = strings.TrimSpace(fmt.Sprintf("%s %s %s %s", human(t.Size), t.Device.Class, t.Device.Model, t.Device.Serial))
	}
	fmt.Fprintf(a.out, "%s (%s) will be overwritten:\n", t.Path, what)
	for _, s := range p.Writes {
		fmt.Fprintf(a.out, "  %-5s %14d +%-12d %s\n", s.Action, s.Offset, s.Length, s.What)
	}
	fmt.Fprintln(a.out, "on this host will be made:")
	for _, f := range p.Files {
		fmt.Fprintf(a.out, "  %s\n", f)
	}
	if p.VM == nil {
		return
	}
	for _, s := range p.VM.Steps {
		fmt.Fprintf(a.out, "  %s\n", s)
	}
	if p.VM.LaunchDigest != "" {
		fmt.Fprintf(a.out, "  expected launch digest: %s\n", p.VM.LaunchDigest)
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
	disk := target.Direct(dev)
	defer disk.Close()
	job.Progress = a.progress("writing " + t.Path)
	err = job.Run(ctx, disk, disk.Forget)
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
