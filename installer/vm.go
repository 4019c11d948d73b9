package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"cc-base/installer/bridge"
	"cc-base/installer/deployment"
	"cc-base/installer/machine"
	"cc-base/installer/settings"
	"cc-base/installer/target"
	"cc-base/installer/unpacked"
	"cc-base/installer/virt"
	"cc-base/tasks/atomicfile"
	"cc-base/tasks/conf"
	"cc-base/tasks/domain"
	"cc-base/tasks/fault"
	"cc-base/tasks/gpu"
	"cc-base/tasks/hw"
	"cc-base/tasks/manifest"
	"cc-base/tasks/network"
	"cc-base/tasks/site"
)

const vmUsage = `  cc-install vm-xml NAME                       the VM's definition, as it was rendered last
  cc-install apply NAME [--dry-run] [--undo]   take edited settings over: render the VM anew from
                                               /etc/cc, show what changes and the new launch digest;
                                               --undo goes back to the former definition
  cc-install uninstall NAME [--wipe] [--yes]   remove the VM and what was made for it; the disk stays
                                               as it is unless --wipe is given
`

// vmPlan is a virtual machine that can be made.
type vmPlan struct {
	machine.Plan
	boot   map[string][]byte // files that it starts from, by name in the deployment
	config map[string][]byte // the image's configuration, to compare edits with
	notes  []string
	there  bool // it was defined by an installation that was interrupted
}

// virt is the client of this host's libvirt.
func (a *app) virt() virt.Client { return virt.Client{Run: a.programs, URI: virt.System} }

// machines is where virtual machines of this host are kept.
func (a *app) machines(o options) machine.Host {
	return machine.Host{Virt: a.virt(), Root: o.state, Digest: launch(a.root, os.ReadFile), Log: a.say}
}

// etc is the folder of the host's copy of the configuration.
func etc(o options) string {
	name := o.name
	if name == manifest.Name {
		name = "config"
	}
	return filepath.Join(o.root, "etc", "cc", name)
}

// planVM decides on the virtual machine and checks that it can be made. It
// changes nothing.
func (a *app) planVM(ctx context.Context, src *source, t target.Target, o options) (*vmPlan, error) {
	p := &vmPlan{}
	var err error
	if p.there, err = a.halfMade(ctx, o); err != nil {
		return nil, err
	}
	g := guest{name: o.name, dir: filepath.Join(o.state, o.name), manifest: src.manifest, emulate: o.emulate}
	if g.dir, err = filepath.Abs(g.dir); err != nil {
		return nil, err
	}
	path, err := filepath.Abs(t.Path)
	if err != nil {
		return nil, err
	}
	g.disk = domain.Volume{Path: path, Block: !t.File}
	if slices.ContainsFunc(src.manifest.Disk.Partitions, func(p manifest.Partition) bool { return p.Encrypted && p.ContentSize > 0 }) {
		g.enroll = filepath.Join(g.dir, deployment.EnrolmentFile)
	}
	if g.tee, err = a.protection(src.folder, o); err != nil {
		return nil, err
	}
	if err := a.newEnough(ctx, g.tee); err != nil {
		return nil, err
	}
	if o.site != "" {
		if g.site, err = readBounded(o.site, site.MaxSize); err != nil {
			return nil, err
		}
	}
	files, err := a.readSettings(&g, src.folder, p, o)
	if err != nil {
		return nil, err
	}
	if p.boot, err = g.bootFiles(func(name string) ([]byte, error) { return src.folder.Read(name, 1<<30) }); err != nil {
		return nil, err
	}
	spec, err := g.spec(a.root, p.boot)
	if err != nil {
		return nil, err
	}
	net, err := a.bridge(ctx, g.name, g.host.Network, o.uplink)
	if err != nil {
		return nil, err
	}
	p.notes = net.Notes
	spec.Network = net.Network
	h := a.machines(o)
	h.Digest = launch(a.root, func(path string) ([]byte, error) { return p.boot[filepath.Base(path)], nil })
	wanted := machine.Wanted{Spec: spec, Autostart: true, Filters: net.Filters, Networks: net.Networks, Files: files}
	if p.there {
		p.Plan = machine.Plan{Wanted: wanted}
		return p, nil
	}
	p.Plan, err = h.Plan(ctx, wanted)
	return p, err
}

// halfMade tells whether a machine of the name was defined and never came up.
func (a *app) halfMade(ctx context.Context, o options) (bool, error) {
	if _, err := a.virt().List(ctx); err != nil {
		return false, err
	}
	s, err := a.machines(o).State(o.name)
	switch {
	case hasCode(err, fault.NoVM):
		return false, nil
	case err != nil:
		return false, err
	case s.Phase == machine.Ready:
		return false, fault.Newf(fault.VMTaken, "%s is installed already, and its guest has bound the disk to itself", o.name).
			Hint("cc-install uninstall %s, or another --name", o.name)
	}
	return s.Phase != machine.Defining, nil
}

// newEnough refuses a libvirt or QEMU that does not know what the machine needs:
// libvirt would say so in words that nobody finds in a manual.
func (a *app) newEnough(ctx context.Context, kind hw.TEE) error {
	have, err := a.virt().Version(ctx)
	if err != nil {
		return err
	}
	least := domain.LeastFor(kind)
	var old []error
	for _, p := range []struct {
		name, least string
		have        virt.Number
	}{{"libvirt", least.Libvirt, have.Daemon}, {"QEMU", least.QEMU, have.Hypervisor}} {
		var want virt.Number
		if _, err := fmt.Sscanf(p.least, "%d.%d", &want.Major, &want.Minor); err != nil {
			return err
		}
		if p.have.Major < want.Major || p.have.Major == want.Major && p.have.Minor < want.Minor {
			old = append(old, fmt.Errorf("%s %d.%d is older than %s, which a guest of the kind %s needs", p.name, p.have.Major, p.have.Minor, p.least, kind))
		}
	}
	if len(old) > 0 {
		return fault.New(fault.NoLibvirt, errors.Join(old...)).Hint("cc-install doctor shows what else this host lacks")
	}
	return nil
}

// protection is the TEE that the machine gets on this host.
func (a *app) protection(folder *unpacked.Folder, o options) (hw.TEE, error) {
	if o.emulate {
		return hw.NoTEE, nil
	}
	kind, _ := hw.HostTEE(a.root)
	want := teeType(folder)
	if want != "auto" && want != string(kind) {
		return hw.NoTEE, nil // teeAllowed has asked
	}
	return kind, nil
}

// readSettings reads what the host's settings say, and returns the files that are
// to be made because they are not there yet.
func (a *app) readSettings(g *guest, folder *unpacked.Folder, p *vmPlan, o options) ([]machine.File, error) {
	image, err := conf.Load(conf.Options{Dir: folder.Path("config")})
	if err != nil {
		return nil, err
	}
	p.config = map[string][]byte{}
	var files []machine.File
	dir := etc(o)
	for _, name := range conf.Files() {
		text, err := folder.Read("config/"+name, 1<<20)
		if err != nil {
			return nil, fault.New(fault.Damaged, err)
		}
		p.config[name] = text
		path := filepath.Join(dir, name)
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			files = append(files, machine.File{Path: path, Mode: 0o644, Data: text})
		}
	}
	g.config = image
	if len(files) < len(p.config) {
		if len(files) > 0 {
			return nil, fault.Newf(fault.HostSettings, "%s holds some files of a configuration and not all", dir).Hint("remove the folder, or put the others back")
		}
		if g.config, err = edited(dir, image, conf.AtInstall, conf.AtRun); err != nil {
			return nil, err
		}
	}
	change, functions, err := a.hostSettings(o)
	if err != nil {
		return nil, err
	}
	for _, f := range change.Files {
		if f.State != settings.Kept {
			files = append(files, machine.File{Path: f.Path, Mode: 0o644, Data: []byte(f.Text)})
		}
	}
	g.host, g.gpus = change.Settings, functions
	return files, nil
}

// edited reads the host's copy of the configuration, in which only keys that are
// read at one of the times may differ from the image's.
func edited(dir string, image conf.Config, open ...conf.When) (conf.Config, error) {
	c, err := conf.Load(conf.Options{Dir: dir})
	if err != nil {
		return c, err
	}
	if wrong := c.Fixed(image, open...); len(wrong) > 0 {
		return c, fault.New(fault.HostSettings, wrong).Hint("undo these edits, or build the image with them")
	}
	return c, nil
}

// hostSettings are gpu_settings and network_settings, as they are or would be.
func (a *app) hostSettings(o options) (settings.Change, []gpu.Function, error) {
	// A host without PCI or network has none; the settings say so.
	functions, _ := gpu.List(a.root)
	net, _ := network.Read(a.root)
	change, err := settings.Detect(functions, net).Against(os.DirFS(o.root), o.root, functions, net)
	return change, functions, err
}

// bridge decides on the machine's network.
func (a *app) bridge(ctx context.Context, name string, n settings.Network, uplink string) (bridge.Net, error) {
	if uplink == "" && n.Type == settings.TypeNone {
		return bridge.Net{Notes: []string{"the guest has no network card"}}, nil
	}
	found, err := bridge.Look(ctx, a.programs, a.virt())
	if err != nil {
		return bridge.Net{}, err
	}
	w := bridge.Wanted{VM: name, Isolated: n.Isolation, NAT: uplink == "" && n.Type == settings.TypeNAT, Uplink: uplink}
	if !w.NAT && uplink == "" {
		w.Bridge = n.Bridge
	}
	return bridge.Plan(w, found)
}

// makeVM defines the machine, starts it for the first time and takes the
// enrolment secret back from it. When it cannot be defined or started, nothing
// of it stays.
func (a *app) makeVM(ctx context.Context, d *deployment.Deployment, p *vmPlan, o options) error {
	for name, data := range p.boot {
		if err := atomicfile.Write(d.Path(name), 0o644, data); err != nil {
			return fault.New(fault.Deployment, err)
		}
	}
	if err := os.MkdirAll(d.Path(imageConfig), 0o755); err != nil {
		return fault.New(fault.Deployment, err)
	}
	for name, data := range p.config {
		if err := atomicfile.Write(filepath.Join(d.Path(imageConfig), name), 0o644, data); err != nil {
			return fault.New(fault.Deployment, err)
		}
	}
	h := a.machines(o)
	if !p.there {
		if err := h.Define(ctx, p.Plan); err != nil {
			return err
		}
	}
	if socket := p.Spec.ReleaseSocket; socket != "" {
		a.say("%s: its guest asks for its keys at %s and waits; where the operator trusts the machine: cc-install release --connect unix:%s …", o.name, socket, socket)
	}
	return h.FirstBoot(ctx, o.name)
}

// imageConfig is the configuration in a deployment, as the image has it.
const imageConfig = "config"

// apply renders the machine anew from the settings of the host.
func (a *app) apply(ctx context.Context, name string, o options) error {
	o.name = name
	h := a.machines(o)
	if o.undo {
		change, err := h.UndoApply(ctx, name)
		if err != nil {
			return err
		}
		return a.showChange(name, change)
	}
	state, err := h.State(name)
	if err != nil {
		return err
	}
	record, _, err := deployment.Load(o.state, name)
	if err != nil {
		return err
	}
	image, err := conf.Load(conf.Options{Dir: filepath.Join(o.state, name, imageConfig)})
	if err != nil {
		return fault.New(fault.Deployment, err)
	}
	g := guest{name: name}
	if g.config, err = edited(etc(o), image, conf.AtRun); err != nil {
		return err
	}
	change, functions, err := a.hostSettings(o)
	if err != nil {
		return err
	}
	g.host, g.gpus = change.Settings, functions
	wanted := machine.Wanted{Spec: state.Now.Spec, Autostart: true}
	if err := g.settle(&wanted.Spec, a.root, os.ReadFile); err != nil {
		return err
	}
	net, err := a.bridge(ctx, name, g.host.Network, cmp.Or(o.uplink, record.Uplink))
	if err != nil {
		return err
	}
	wanted.Spec.Network, wanted.Filters, wanted.Networks = net.Network, net.Filters, net.Networks
	do := h.Apply
	if o.dryRun {
		do = func(_ context.Context, name string, w machine.Wanted) (machine.Change, error) {
			return h.Preview(name, w)
		}
	}
	result, err := do(ctx, name, wanted)
	if err != nil {
		return err
	}
	return a.showChange(name, result)
}

func (a *app) showChange(name string, c machine.Change) error {
	if c.Diff == "" {
		a.say("%s: nothing changes", name)
		return nil
	}
	fmt.Fprint(a.out, c.Diff)
	if c.LaunchDigest != "" {
		fmt.Fprintf(a.out, "expected launch digest: %s (it was %s)\n", c.LaunchDigest, c.FormerDigest)
	}
	a.say("%s: it counts from the next start of the VM", name)
	return nil
}

// uninstall removes the machine and the record. The disk is wiped only when that
// is asked for.
func (a *app) uninstall(ctx context.Context, name string, o options) error {
	h := a.machines(o)
	record, found, err := deployment.Load(o.state, name)
	if err != nil {
		return err
	}
	var disk *target.Target
	if o.wipe && found {
		// Whoever says no keeps the VM, too.
		if disk, err = a.toWipe(record, o); err != nil {
			return err
		}
	}
	_, err = h.State(name)
	if noVM := hasCode(err, fault.NoVM); err != nil && !noVM {
		return err
	} else if noVM && !found {
		return err
	} else if !noVM {
		kept, err := h.Undefine(ctx, name)
		if err != nil {
			return err
		}
		for _, k := range kept {
			a.say("%s stays: another VM uses it", k)
		}
		a.say("%s: the VM and what was made for it are removed", name)
	}
	if disk != nil {
		if err := a.wipeDisk(record, *disk); err != nil {
			return err
		}
	}
	d, err := deployment.Open(o.state, name)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Remove(); err != nil {
		return err
	}
	if found && !o.wipe {
		a.say("%s still holds the installation; cc-install install writes another over it", record.Device)
	}
	return nil
}

// toWipe finds the disk of a record and has its name typed.
func (a *app) toWipe(r deployment.Record, o options) (*target.Target, error) {
	t, err := target.Find(a.root, r.Device)
	if err != nil {
		return nil, err
	}
	if t.Size != r.Size || !t.File && t.Device.Number != r.Number {
		return nil, fault.Newf(fault.DeviceRefused, "%s is no longer the device that was installed to; nothing was wiped", r.Device)
	}
	return &t, a.confirm(t, o)
}

// wipeDisk destroys the headers of the encrypted volumes, without which nobody
// can read them, and the partition table.
func (a *app) wipeDisk(r deployment.Record, t target.Target) error {
	dev, err := t.Open()
	if err != nil {
		return err
	}
	defer dev.Close()
	const edge = 1 << 20
	zeros := make([]byte, edge)
	wipe := func(from, to int64) error {
		for at := from; at < to; at += edge {
			if _, err := dev.WriteAt(zeros[:min(edge, to-at)], at); err != nil {
				return fault.New(fault.InstallWrite, err)
			}
		}
		return nil
	}
	errs := []error{wipe(0, edge), wipe(t.Size-edge, t.Size)}
	for _, p := range r.Partitions {
		errs = append(errs, wipe(p.Start, p.Start+p.Header))
	}
	if r.Dynamic > 0 {
		errs = append(errs, wipe(r.Dynamic, r.Dynamic+16<<20))
	}
	if err := errors.Join(append(errs, dev.Sync())...); err != nil {
		return err
	}
	a.say("%s: the headers of its volumes and its partition table are destroyed", r.Device)
	return dev.Close()
}

func (a *app) vmXML(name string, o options) error {
	text, err := a.machines(o).VMXML(name)
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(a.out, strings.TrimRight(text, "\n")+"\n")
	return err
}

func hasCode(err error, code fault.Code) bool {
	f := fault.Of(err)
	return f != nil && f.Code == code
}
