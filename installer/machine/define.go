package machine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"cc-base/installer/virt"
	"cc-base/tasks/atomicfile"
	"cc-base/tasks/fault"
)

// Define makes what the plan says. When it fails, everything is as it was; what
// could not be taken back is named in the error, and Undefine tries again.
func (h Host) Define(ctx context.Context, p Plan) error {
	unlock, err := h.lock(p.Spec.Name)
	if err != nil {
		return err
	}
	defer unlock()
	if former, err := h.read(p.Spec.Name); err == nil {
		if former.Phase != Defining {
			return fault.Newf(fault.VMTaken, "%s is there already", p.Spec.Name)
		}
		h.say("%s: taking back what an interrupted run left", p.Spec.Name)
		if err := h.takeBack(ctx, former); err != nil {
			return err
		}
		if err := h.free(ctx, p); err != nil {
			return err
		}
	}
	m := &making{h: h, state: State{Phase: Defining, Now: define(p)}}
	err = m.all(ctx, p)
	if err == nil {
		m.state.Phase = Defined
		err = h.write(m.state)
	}
	if err == nil {
		return nil
	}
	// What was cut off by the context is taken back nevertheless.
	return errors.Join(err, h.takeBack(context.WithoutCancel(ctx), m.state))
}

// making is a definition under way.
type making struct {
	h     Host
	state State
}

func (m *making) all(ctx context.Context, p Plan) error {
	for _, dir := range m.h.folders(p) {
		if err := m.step(Made{Kind: Folder, Name: dir}, func() error { return os.Mkdir(dir, 0o711) }); err != nil {
			return err
		}
	}
	if c := p.Spec.ConsoleFile; c != "" {
		if _, err := os.Lstat(c); errors.Is(err, fs.ErrNotExist) {
			if err := m.step(Made{Kind: Console, Name: c}, func() error { return nil }); err != nil {
				return err
			}
		}
	}
	for _, f := range p.Files {
		if err := m.file(f); err != nil {
			return err
		}
	}
	for _, r := range p.Filters {
		if err := m.filter(ctx, r); err != nil {
			return err
		}
	}
	for _, r := range p.Networks {
		if err := m.network(ctx, r); err != nil {
			return err
		}
	}
	v, name := m.h.Virt, p.Spec.Name
	return m.step(Made{Kind: Domain, Name: name, UUID: p.Spec.UUID}, func() error {
		if err := v.Define(ctx, p.XML); err != nil {
			return err
		}
		if !p.Autostart {
			return nil
		}
		return v.Autostart(ctx, name, true)
	})
}

// step records the thing and makes it.
func (m *making) step(made Made, do func() error) error {
	m.state.Made = append(m.state.Made, made)
	if err := m.h.write(m.state); err != nil {
		return err
	}
	m.h.say("making the %s %s", made.Kind, made.Name)
	if err := do(); err != nil {
		return fmt.Errorf("the %s %s: %w", made.Kind, made.Name, err)
	}
	return nil
}

func (m *making) filter(ctx context.Context, r Resource) error {
	return m.step(Made{Kind: Filter, Name: r.Name, UUID: r.UUID}, func() error { return m.h.Virt.FilterDefine(ctx, r.XML) })
}

func (m *making) network(ctx context.Context, r Resource) error {
	v := m.h.Virt
	return m.step(Made{Kind: Network, Name: r.Name, UUID: r.UUID}, func() error {
		if err := v.NetDefine(ctx, r.XML); err != nil {
			return err
		}
		if err := v.NetAutostart(ctx, r.Name, true); err != nil {
			return err
		}
		return v.NetStart(ctx, r.Name)
	})
}

func (m *making) file(f File) error {
	made := Made{Kind: Setting, Name: f.Path, SHA256: sum(f.Data)}
	before, err := os.ReadFile(f.Path)
	switch {
	case err == nil:
		info, err := os.Lstat(f.Path)
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return fault.Newf(fault.VMTaken, "%s is no regular file", f.Path)
		}
		made.Before, made.Mode = before, info.Mode().Perm()
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return m.step(made, func() error { return atomicfile.Write(f.Path, f.Mode, f.Data) })
}

func sum(data []byte) string {
	digest := sha256.Sum256(data)
	return hex.EncodeToString(digest[:])
}

// Undefine removes the machine with everything that was made for it, and
// nothing else. A running guest is ended. Its disk stays as it is. A network
// that other domains use stays, and is named in kept; another machine that was
// made here takes it over.
func (h Host) Undefine(ctx context.Context, name string) (kept []string, err error) {
	if _, err := h.State(name); err != nil {
		return nil, err // before a folder is made for the lock
	}
	unlock, err := h.lock(name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	s, err := h.State(name)
	if err != nil {
		return nil, err
	}
	if kept, err = h.handOver(ctx, &s); err != nil {
		return nil, err
	}
	if err := h.takeBack(ctx, s); err != nil {
		return kept, err
	}
	return kept, wipe(s.Now.Spec.EnrollFile)
}

// takeBack undoes what is recorded, the last first, and then the record. It
// goes on after a failure, and keeps the record of what is still there. The
// enrolment secret was not made here, and stays.
func (h Host) takeBack(ctx context.Context, s State) error {
	var left []Made
	var errs []error
	for _, m := range slices.Backward(s.Made) {
		h.say("removing the %s %s", m.Kind, m.Name)
		if err := h.remove(ctx, m); err != nil {
			left, errs = append(left, m), append(errs, fmt.Errorf("the %s %s could not be removed: %w", m.Kind, m.Name, err))
			continue
		}
		if m.Kind == Folder {
			errs = append(errs, h.bequeath(s.Now.Spec.Name, m))
		}
	}
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	name := s.Now.Spec.Name
	if len(errs) > 0 {
		slices.Reverse(left)
		s.Made = left
		return errors.Join(append(errs, h.write(s))...)
	}
	err := errors.Join(atomicfile.Remove(filepath.Join(h.dir(name), stateFile)), atomicfile.Remove(filepath.Join(h.dir(name), "lock")))
	if err != nil {
		return err
	}
	// Somebody else's files keep the folders.
	_ = os.Remove(h.dir(name))
	_ = os.Remove(h.root())
	return nil
}

func (h Host) remove(ctx context.Context, m Made) error {
	v := h.Virt
	var err error
	switch m.Kind {
	case Folder:
		err = emptyFolder(m.Name)
	case Console:
		err = removeConsole(m.Name)
	case Setting:
		err = restore(m)
	case Filter:
		if ours(m, v.FilterXML, ctx, &err) {
			err = v.FilterUndefine(ctx, m.Name)
		}
	case Network:
		if ours(m, v.NetXML, ctx, &err) {
			err = h.removeNetwork(ctx, m.Name)
		}
	case Domain:
		if ours(m, v.XML, ctx, &err) {
			err = h.removeDomain(ctx, m.Name)
		}
	default:
		return fault.Newf(fault.VMState, "nothing is known of a %q", m.Kind)
	}
	if errors.Is(err, virt.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

var uuidElement = regexp.MustCompile(`<uuid>([0-9a-f-]+)</uuid>`)

// ours tells whether what libvirt has under the name is what was made.
func ours(m Made, xml func(context.Context, string) (string, error), ctx context.Context, err *error) bool {
	var text string
	if text, *err = xml(ctx, m.Name); *err != nil {
		return false
	}
	found := uuidElement.FindStringSubmatch(text)
	return found != nil && found[1] == m.UUID
}

func (h Host) removeNetwork(ctx context.Context, name string) error {
	running, err := h.Virt.RunningNetworks(ctx)
	if err != nil {
		return err
	}
	if slices.Contains(running, name) {
		if err := h.Virt.NetDestroy(ctx, name); err != nil {
			return err
		}
	}
	return h.Virt.NetUndefine(ctx, name)
}

func (h Host) removeDomain(ctx context.Context, name string) error {
	state, err := h.Virt.State(ctx, name)
	if err != nil {
		return err
	}
	if state != virt.ShutOff && state != virt.Crashed {
		if err := h.Virt.Destroy(ctx, name); err != nil {
			return err
		}
	}
	return h.Virt.Undefine(ctx, name)
}

// emptyFolder removes a folder of ours with the sockets that libvirt left in it.
// With anything else in it, it stays.
func emptyFolder(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Type()&fs.ModeSocket != 0 {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	_ = os.Remove(dir)
	return nil
}

// removeConsole removes the console's file and those that virtlogd has rolled
// over to: it keeps max_backups of them, 3 unless virtlogd.conf says more.
func removeConsole(file string) error {
	errs := []error{atomicfile.Remove(file)}
	for n := range 10 {
		errs = append(errs, atomicfile.Remove(fmt.Sprintf("%s.%d", file, n)))
	}
	return errors.Join(errs...)
}

// restore puts back what was there before a settings file was written. One that
// was edited since belongs to whoever edited it, and stays.
func restore(m Made) error {
	now, err := os.ReadFile(m.Name)
	if err != nil || sum(now) != m.SHA256 {
		return err
	}
	if m.Mode == 0 {
		return os.Remove(m.Name)
	}
	return atomicfile.Write(m.Name, m.Mode, m.Before)
}

// handOver keeps networks that other domains use: it takes them out of the
// state and puts them into that of another machine that was made here, if one
// uses them.
func (h Host) handOver(ctx context.Context, s *State) (kept []string, err error) {
	domains, err := h.Virt.List(ctx)
	if err != nil {
		return nil, err
	}
	var rest []Made
	for _, m := range s.Made {
		if m.Kind != Network {
			rest = append(rest, m)
			continue
		}
		used := false
		for _, d := range domains {
			if d.Name == s.Now.Spec.Name {
				continue
			}
			text, err := h.Virt.XML(ctx, d.Name)
			if err != nil {
				return nil, err
			}
			if !uses(text, m.Name) {
				continue
			}
			used = true
			if heir, err := h.read(d.Name); err == nil {
				heir.Made = slices.Insert(heir.Made, 0, m)
				if err := h.write(heir); err != nil {
					return nil, err
				}
				break
			}
		}
		if used {
			kept = append(kept, m.Name)
			continue
		}
		rest = append(rest, m)
	}
	if len(kept) > 0 {
		s.Made = rest
		return kept, h.write(*s)
	}
	return nil, nil
}

// bequeath hands a folder that is not empty to another machine that has
// something in it, so that the last one of them removes it.
func (h Host) bequeath(from string, folder Made) error {
	if _, err := os.Stat(folder.Name); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	names, err := h.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		heir, err := h.read(name)
		if err != nil || name == from {
			continue // what cannot be read is its own owner's affair
		}
		below := func(file string) bool { return strings.HasPrefix(file, folder.Name+"/") }
		s := heir.Now.Spec
		if slices.ContainsFunc(append(sockets(s), s.ConsoleFile, s.Firmware.NVRAM), below) {
			heir.Made = slices.Insert(heir.Made, 0, folder)
			return h.write(heir)
		}
	}
	return nil
}

// uses tells whether a domain has a network card on the network, or on a bridge
// of the same name.
func uses(xml, network string) bool {
	for _, attribute := range []string{"network", "bridge"} {
		for _, quote := range []string{`'`, `"`} {
			if strings.Contains(xml, attribute+"="+quote+network+quote) {
				return true
			}
		}
	}
	return false
}
