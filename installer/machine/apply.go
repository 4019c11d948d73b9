package machine

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/rogpeppe/go-internal/diff"

	"cc-base/tasks/fault"
)

// Change is what Apply does, or has done, to a machine. It is in force from the
// guest's next start; filters are at once.
type Change struct {
	Diff         string // unified, of the rendered XML; empty when nothing changes
	LaunchDigest string // expected from the next start on, hexadecimal; empty without SEV-SNP
	FormerDigest string
}

// Preview returns what Apply would change.
func (h Host) Preview(name string, w Wanted) (Change, error) {
	s, err := h.applicable(name)
	if err != nil {
		return Change{}, err
	}
	next, err := h.next(s, w)
	if err != nil {
		return Change{}, err
	}
	return compare(s.Now, next), nil
}

// Apply renders the machine anew and keeps the former definition for UndoApply.
// UUID, MAC address and whether there is an enrolment secret stay as they are.
// Networks and filters that w names and that are not there yet are made; those
// that are there and that w does not name stay until Undefine. When it fails,
// the definition is as it was.
func (h Host) Apply(ctx context.Context, name string, w Wanted) (Change, error) {
	s, unlock, err := h.toChange(name)
	if err != nil {
		return Change{}, err
	}
	defer unlock()
	next, err := h.next(s, w)
	if err != nil {
		return Change{}, err
	}
	change := compare(s.Now, next)
	if change.Diff == "" {
		return change, nil
	}
	m := &making{h: h, state: s}
	for _, r := range w.Networks {
		if s.has(Network, r.Name) {
			continue
		}
		if err := m.network(ctx, r); err != nil {
			made := m.state.Made[len(m.state.Made)-1]
			back := h.remove(context.WithoutCancel(ctx), made)
			if back == nil {
				m.state.Made = m.state.Made[:len(m.state.Made)-1]
			}
			return Change{}, errors.Join(err, back, h.write(m.state))
		}
	}
	return change, h.replace(ctx, m, next)
}

// UndoApply puts the definition back that was in force before the last Apply.
// The one that it replaces becomes the former one.
func (h Host) UndoApply(ctx context.Context, name string) (Change, error) {
	s, unlock, err := h.toChange(name)
	if err != nil {
		return Change{}, err
	}
	defer unlock()
	if s.Former == nil {
		return Change{}, fault.Newf(fault.VMState, "%s: nothing was applied that could be undone", name)
	}
	former := *s.Former
	return compare(s.Now, former), h.replace(ctx, &making{h: h, state: s}, former)
}

// toChange locks a machine that can be changed. The state is looked at before,
// too: a lock would make a folder for a name that is none.
func (h Host) toChange(name string) (s State, unlock func(), err error) {
	if _, err := h.applicable(name); err != nil {
		return State{}, nil, err
	}
	if unlock, err = h.lock(name); err != nil {
		return State{}, nil, err
	}
	if s, err = h.applicable(name); err != nil {
		unlock()
		return State{}, nil, err
	}
	return s, unlock, nil
}

// applicable is the state of a machine that has had its first boot: before, the
// definition holds a secret that a former one must not bring back.
func (h Host) applicable(name string) (State, error) {
	s, err := h.State(name)
	if err == nil && s.Phase != Ready {
		err = fault.Newf(fault.VMState, "%s is %s: only a machine that was ready once can be changed", name, s.Phase)
	}
	return s, err
}

func (s State) has(kind Kind, name string) bool {
	return slices.ContainsFunc(s.Made, func(m Made) bool { return m.Kind == kind && m.Name == name })
}

func (h Host) next(s State, w Wanted) (Definition, error) {
	old := s.Now.Spec
	if w.Spec.Name != old.Name {
		return Definition{}, fault.Newf(fault.Usage, "%s cannot become %s", old.Name, w.Spec.Name)
	}
	w.Spec.UUID, w.Spec.EnrollFile = old.UUID, old.EnrollFile
	if w.Spec.Network.Bridge != "" || w.Spec.Network.Name != "" {
		w.Spec.Network.MAC = old.Network.MAC
		if w.Spec.Network.MAC == "" {
			w.Spec.Network.MAC = newMAC()
		}
	}
	xml, digest, err := h.render(w.Spec)
	if err != nil {
		return Definition{}, err
	}
	return define(Plan{Wanted: w, XML: xml, Digest: digest}), nil
}

func compare(from, to Definition) Change {
	text := func(d Definition) []byte {
		all := d.XML
		for _, f := range d.Filters {
			all += f.XML
		}
		return []byte(all)
	}
	return Change{
		Diff:         string(diff.Diff("in force", text(from), "new", text(to))),
		LaunchDigest: to.LaunchDigest, FormerDigest: from.LaunchDigest,
	}
}

// replace defines the new filters and domain, or leaves the old ones.
func (h Host) replace(ctx context.Context, m *making, to Definition) error {
	from := m.state.Now
	err := h.put(ctx, m, to)
	if err == nil {
		m.state.Now, m.state.Former = to, &from
		err = h.write(m.state)
	}
	if err == nil {
		return nil
	}
	m.state.Now = from
	if back := h.put(context.WithoutCancel(ctx), m, from); back != nil {
		err = errors.Join(err, fmt.Errorf("the former definition could not be put back: %w", back))
	}
	return err
}

func (h Host) put(ctx context.Context, m *making, d Definition) error {
	for _, f := range d.Filters {
		if m.state.has(Filter, f.Name) {
			if err := h.Virt.FilterDefine(ctx, f.XML); err != nil {
				return fmt.Errorf("the filter %s: %w", f.Name, err)
			}
			continue
		}
		if err := m.filter(ctx, f); err != nil {
			return err
		}
	}
	return h.Virt.Define(ctx, d.XML)
}
