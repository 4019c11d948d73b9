// Package machine makes, changes and removes the virtual machine of an
// installation under libvirt, with everything that belongs to it on the host:
// its networks and filters, settings files, folders.
//
//	h := machine.Host{Virt: virt.Client{Run: sh.Host{}}}
//	plan, err := h.Plan(ctx, machine.Wanted{Spec: spec})  // changes nothing
//	err = h.Define(ctx, plan)                             // all of it, or nothing
//	err = h.FirstBoot(ctx, spec.Name)                     // waits for the ready line
//
// [Host.Make] does the three. The rules:
//
//   - What is about to be made is recorded in state.json first, and made then.
//     Whatever fails, [Host.Define] takes back what stands there, in reverse; a
//     process that was killed leaves the record, and the next Define, or
//     [Host.Undefine], takes it back.
//   - Nothing is taken back that is not ours: domains, networks and filters are
//     told by their UUID, files by their content.
//   - From the first boot on nothing is taken back by itself: the guest may
//     have written to its disk.
package machine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"cc-base/installer/virt"
	"cc-base/tasks/domain"
	"cc-base/tasks/fault"
)

// DefaultRoot holds a folder for each machine.
const DefaultRoot = "/var/lib/cc-base"

// tmpfilesDir is where systemd reads of folders that each boot of the host is to
// make under /run (tmpfiles.d(5)).
const tmpfilesDir = "/etc/tmpfiles.d"

// Host is where machines are made.
type Host struct {
	Virt virt.Client
	Root string // DefaultRoot when empty

	// Digest computes the launch digest that SEV-SNP will report of exactly
	// this domain. Called for specifications with SNP; nil leaves it out.
	Digest func(domain.Spec) ([]byte, error)
	// Log gets a line for each thing that is done; nil is quiet.
	Log func(format string, args ...any)
	// Ready is how long the first boot may take; ten minutes when zero.
	Ready time.Duration
}

// Wanted is a machine to be made.
type Wanted struct {
	Spec      domain.Spec // Check must accept it; UUID and MAC address may be left to Plan
	Autostart bool        // start it with the host
	Filters   []Resource  // network filters to be made
	Networks  []Resource  // networks to be made, started, and started with the host
	Files     []File      // settings files to be written
}

// Resource is a network or filter of libvirt.
type Resource struct {
	Name string `json:"name"`
	UUID string `json:"uuid"` // as in XML
	XML  string `json:"xml"`
}

// File is a settings file.
type File struct {
	Path string // absolute
	Mode fs.FileMode
	Data []byte
}

// Plan is what Define will do.
type Plan struct {
	Wanted
	XML    string // the domain
	Digest []byte // the expected launch digest, or none
	Steps  []string
}

// String shows the plan to a person.
func (p Plan) String() string {
	var b strings.Builder
	for _, s := range p.Steps {
		fmt.Fprintf(&b, "  %s\n", s)
	}
	if len(p.Digest) > 0 {
		fmt.Fprintf(&b, "  expected launch digest: %x\n", p.Digest)
	}
	for _, r := range slices.Concat(p.Filters, p.Networks) {
		b.WriteString("\n" + r.XML)
	}
	return b.String() + "\n" + p.XML
}

// Plan checks that the machine can be made and says how. It changes nothing.
func (h Host) Plan(ctx context.Context, w Wanted) (Plan, error) {
	p := Plan{Wanted: w}
	if p.Spec.UUID == "" {
		p.Spec.UUID = uuid.NewString()
	}
	if n := &p.Spec.Network; n.MAC == "" && (n.Bridge != "" || n.Name != "") {
		// libvirt would choose another one each time the domain is rendered anew.
		n.MAC = newMAC()
	}
	var err error
	if p.XML, p.Digest, err = h.render(p.Spec); err != nil {
		return Plan{}, err
	}
	if p.Files, err = withRunFolders(p.Spec, w.Files); err != nil {
		return Plan{}, err
	}
	if err := h.free(ctx, p); err != nil {
		return Plan{}, err
	}
	add := func(format string, args ...any) { p.Steps = append(p.Steps, fmt.Sprintf(format, args...)) }
	for _, d := range h.folders(p) {
		add("make the folder %s", d)
	}
	for _, f := range p.Files {
		add("write %s", f.Path)
	}
	for _, r := range p.Filters {
		add("define the network filter %s", r.Name)
	}
	for _, r := range p.Networks {
		add("define and start the network %s", r.Name)
	}
	add("define the domain %s", p.Spec.Name)
	if p.Autostart {
		add("have it started with the host")
	}
	return p, nil
}

func (h Host) render(s domain.Spec) (xml string, digest []byte, err error) {
	if xml, err = domain.XML(s); err != nil {
		return "", nil, err
	}
	if s.SNP == nil || h.Digest == nil {
		return xml, nil, nil
	}
	if digest, err = h.Digest(s); err != nil {
		return "", nil, fmt.Errorf("the launch digest of %s: %w", s.Name, err)
	}
	return xml, digest, nil
}

// free refuses names that are taken, all of them at once.
func (h Host) free(ctx context.Context, p Plan) error {
	var taken []error
	domains, err := h.Virt.List(ctx)
	if err != nil {
		return err
	}
	name := p.Spec.Name
	unfinished, err := h.read(name)
	switch {
	case err == nil && unfinished.Phase == Defining:
		// A former Define that was killed. Its things are taken back first.
		return nil
	case err == nil:
		taken = append(taken, fmt.Errorf("%s is there already: %s", name, h.dir(name)))
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if slices.ContainsFunc(domains, func(d virt.Domain) bool { return d.Name == name }) {
		taken = append(taken, fmt.Errorf("libvirt has a domain %s", name))
	}
	networks, err := h.Virt.Networks(ctx)
	if err != nil {
		return err
	}
	filters, err := h.Virt.Filters(ctx)
	if err != nil {
		return err
	}
	for _, k := range []struct {
		kind   string
		wanted []Resource
		have   []string
	}{{"network", p.Networks, networks}, {"network filter", p.Filters, filters}} {
		for _, r := range k.wanted {
			if slices.Contains(k.have, r.Name) {
				taken = append(taken, fmt.Errorf("libvirt has a %s %s", k.kind, r.Name))
			}
		}
	}
	if len(taken) > 0 {
		return fault.New(fault.VMTaken, errors.Join(taken...)).Hint("cc-install uninstall %s removes what it made under that name", name)
	}
	return nil
}

// newMAC is an address of those that QEMU and libvirt use for guests.
func newMAC() string {
	mac := net.HardwareAddr{0x52, 0x54, 0, 0, 0, 0}
	_, _ = rand.Read(mac[3:]) // never fails
	return mac.String()
}

// sockets are those that libvirt makes for the machine's ports.
func sockets(s domain.Spec) []string {
	return slices.DeleteFunc([]string{s.ControlSocket, s.ReleaseSocket}, func(p string) bool { return p == "" })
}

// withRunFolders adds a file for systemd when a socket is to lie in a folder
// under /run, which is empty after a reboot of the host: libvirt would not make
// the folder, and a machine that is started with the host would fail.
func withRunFolders(s domain.Spec, files []File) ([]File, error) {
	var text string
	for _, socket := range sockets(s) {
		dir := filepath.Dir(socket)
		line := fmt.Sprintf("d %s 0711 root root -\n", dir)
		if !strings.HasPrefix(dir, "/run/") || strings.Contains(text, line) {
			continue
		}
		if strings.ContainsAny(dir, "%\\\"' ") { // specifiers, quotes and blanks of tmpfiles.d(5)
			return nil, fault.Newf(fault.Config, "the folder %q cannot be written in %s", dir, tmpfilesDir)
		}
		text += line
	}
	if text == "" {
		return files, nil
	}
	return append(slices.Clone(files), File{Path: filepath.Join(tmpfilesDir, "cc-base-"+s.Name+".conf"), Mode: 0o644, Data: []byte(text)}), nil
}

// folders are those that must be there before libvirt starts the machine, with
// those above them that are not there yet, outermost first.
func (h Host) folders(p Plan) []string {
	var want []string
	for _, file := range append(sockets(p.Spec), p.Spec.ConsoleFile, p.Spec.Firmware.NVRAM) {
		if file != "" {
			want = append(want, filepath.Dir(file))
		}
	}
	for _, f := range p.Files {
		want = append(want, filepath.Dir(f.Path))
	}
	var missing []string
	own := h.dir(p.Spec.Name) // is there for the record
	for _, d := range want {
		for ; d != own && !strings.HasPrefix(own, d+"/"); d = filepath.Dir(d) {
			if _, err := os.Stat(d); !errors.Is(err, fs.ErrNotExist) {
				break
			}
			missing = append(missing, d)
		}
	}
	slices.Sort(missing)
	return slices.Compact(missing)
}

// Make plans and defines the machine, starts it for the first time and waits
// until it is ready.
func (h Host) Make(ctx context.Context, w Wanted) error {
	p, err := h.Plan(ctx, w)
	if err != nil {
		return err
	}
	if err := h.Define(ctx, p); err != nil {
		return err
	}
	return h.FirstBoot(ctx, p.Spec.Name)
}

// lock keeps two programs from working on one machine at a time.
func (h Host) lock(name string) (unlock func(), err error) {
	if err := h.makeDir(name); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(h.dir(name), "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fault.Newf(fault.VMState, "another program works on %s: %w", name, err).Hint("wait for it")
	}
	return func() { f.Close() }, nil
}

func (h Host) say(format string, args ...any) {
	if h.Log != nil {
		h.Log(format, args...)
	}
}
