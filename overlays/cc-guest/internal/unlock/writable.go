package unlock

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"cc-base/overlays/cc-guest/internal/cmdline"
	"cc-base/overlays/cc-guest/internal/dynamic"
	"cc-base/overlays/cc-guest/internal/keystate"
	"cc-base/overlays/cc-guest/internal/renewal"
	"cc-base/overlays/cc-guest/internal/vault"
	"cc-base/tasks/fault"
	"cc-base/tasks/seal/header"
)

// writable opens cc-dynamic, or makes it.
func (u *Unlocker) writable(ctx context.Context, m Machine, profile, node string) (keystate.Volume, error) {
	one := keystate.Volume{Label: dynamic.Label, Node: node}
	p, err := u.Open(node)
	if err != nil {
		return one, fault.Newf(fault.GuestVolume, "%s: %w", dynamic.Label, err)
	}
	defer p.Close()
	blank, err := dynamic.Blank(p)
	if err != nil {
		return one, fault.New(fault.GuestVolume, err)
	}
	if blank {
		return u.make(ctx, m, profile, node, p)
	}
	w, err := u.open(ctx, m, profile, node, p)
	if err != nil {
		return one, err
	}
	defer w.key.Wipe()
	if w.renewed {
		ctx = context.WithoutCancel(ctx)
	}
	if err := dynamic.Recoverable(ctx, w.vault, w.key, u.Settings.Keys.RecoveryRecipients); err != nil {
		return one, enrolment(fmt.Errorf("%s: %w", dynamic.Label, err))
	}
	if err := dynamic.OpenMapped(ctx, u.Runner, w.vault, w.key, node); err != nil {
		return one, fault.Newf(fault.GuestVolume, "%s: %w", dynamic.Label, err)
	}
	return u.finish(m, w.vault, w.key, node, w.how)
}

// opened is cc-dynamic before it is mapped.
type opened struct {
	vault *vault.Vault
	key   *vault.Open
	how   string
	// renewed says that the volume key was changed. That took as long as the
	// disk is large, and what follows must not fail because the time of a boot
	// is over.
	renewed bool
}

func (u *Unlocker) make(ctx context.Context, m Machine, profile, node string, p Partition) (keystate.Volume, error) {
	one := keystate.Volume{Label: dynamic.Label, Node: node}
	size, err := p.Size()
	if err != nil {
		return one, fault.Newf(fault.GuestVolume, "%s: %w", dynamic.Label, err)
	}
	integrity := u.integrity(profile)
	u.Say("cc-base: " + dynamic.Label + ": making it")
	v, o, err := dynamic.Maker{
		Runner: u.Runner, Rules: u.rules(size, integrity), Integrity: integrity, Node: node, UUID: u.instance.ID, Work: u.Work,
		Recipients: u.Settings.Keys.RecoveryRecipients,
	}.Make(ctx, p, m.Source)
	if err != nil {
		return one, err
	}
	defer o.Wipe()
	return u.finish(m, v, o, node, keystate.Made)
}

// open returns the volume and what opens it, with another key where somebody
// has asked for one.
func (u *Unlocker) open(ctx context.Context, m Machine, profile, node string, p Partition) (opened, error) {
	var w opened
	c, err := u.changer(m, profile, node, p)
	if err != nil {
		return w, err
	}
	if w.renewed, err = u.resume(ctx, c); err != nil {
		return w, err
	}
	if w.renewed {
		ctx = context.WithoutCancel(ctx)
	}
	if w.vault, err = u.vault(dynamic.Label, p, u.integrity(profile)); err != nil {
		return w, err
	}
	if w.key, w.how, err = u.dynamicKey(ctx, m, w.vault, profile, c); err != nil {
		return w, err
	}
	if c == nil || w.vault.Renewal(w.key.Key) != vault.Asked {
		return w, nil
	}
	if w.vault.Waits(m.Source) {
		u.Say("cc-base: " + dynamic.Label + ": it gets another volume key after the boot image that its keys were prepared for has started")
		return w, nil
	}
	return u.change(ctx, c, w, p)
}

// changer returns what changes the volume key; nil where that is not done.
// cryptsetup works on the header on the disk, which a hostile host could change
// under it, and cannot do it with authentication codes.
func (u *Unlocker) changer(m Machine, profile, node string, p Partition) (*renewal.Changer, error) {
	if !renewal.Possible(profile, u.integrity(profile)) {
		return nil, nil
	}
	size, err := p.Size()
	if err != nil {
		return nil, fault.Newf(fault.GuestVolume, "%s: %w", dynamic.Label, err)
	}
	return &renewal.Changer{
		Runner: u.Runner, Source: m.Source, Rules: u.rules(size, false), Device: p, Label: dynamic.Label, Node: node,
	}, nil
}

// resume ends a change of the volume key that was cut off, if there is one.
// Without a changer the header is left to the rules, which refuse it.
func (u *Unlocker) resume(ctx context.Context, c *renewal.Changer) (bool, error) {
	if c == nil {
		return false, nil
	}
	h, err := header.Read(c.Device)
	if err != nil {
		return false, fmt.Errorf("%s: %w", dynamic.Label, err)
	}
	if !h.Renewing() {
		return false, nil
	}
	u.Say("cc-base: " + dynamic.Label + ": going on with the change of its volume key")
	return true, c.Resume(ctx, h)
}

// change gives the volume another key. A failure before anything was changed
// does not keep the volume from being used.
func (u *Unlocker) change(ctx context.Context, c *renewal.Changer, w opened, p Partition) (opened, error) {
	u.Say("cc-base: " + dynamic.Label + ": giving it another volume key; that takes as long as writing all of it, and goes on if it is cut off")
	err := c.Start(ctx, w.vault, w.key)
	if err != nil && !errors.Is(err, renewal.ErrBegun) {
		u.Say("cc-base: " + dynamic.Label + ": it keeps its volume key; the next boot tries again: " + err.Error())
		return w, nil
	}
	w.key.Wipe()
	if err != nil {
		return w, err
	}
	w.renewed = true
	if w.vault, err = u.vault(dynamic.Label, p, false); err != nil {
		return w, err
	}
	if w.key, err = c.Adopt(context.WithoutCancel(ctx), w.vault); w.key == nil {
		return w, errors.Join(fault.Newf(fault.GuestRenew, "%s: it does not open with its new volume key", dynamic.Label), err)
	}
	u.Say("cc-base: " + dynamic.Label + ": it has another volume key")
	return w, nil
}

// dynamicKey returns what opens cc-dynamic. Where the host must not be able to
// read what the guest writes, nothing but the guest's own secret may: a host
// could plant a volume that it can open, too.
func (u *Unlocker) dynamicKey(ctx context.Context, m Machine, v *vault.Vault, profile string, c *renewal.Changer) (*vault.Open, string, error) {
	if profile != cmdline.TPM {
		if err := u.planted(m, v); err != nil {
			return nil, "", err
		}
	}
	if c != nil {
		if o, err := c.Adopt(ctx, v); o != nil || err != nil {
			return o, keystate.ByMachine, err
		}
	}
	o, failed := v.ByMachine(ctx, m.Source)
	if o != nil {
		o, err := u.renew(ctx, m, v, o)
		return o, keystate.ByMachine, err
	}
	if failed == nil {
		failed = fault.Newf(fault.GuestPlanted, "%s: no token of this guest is in its header", v.Label)
	}
	if profile != cmdline.TPM || final(failed) || !u.Settings.Keys.ConsoleRecovery {
		return nil, "", failed
	}
	o, err := u.byRecovery(ctx, v)
	if o == nil {
		return nil, "", errors.Join(failed, err)
	}
	defer o.Wipe()
	fresh, err := v.Bind(ctx, m.Source, o)
	return fresh, keystate.ByRecovery, enrolment(err)
}

// planted refuses a header that offers any way in but the guest's own tokens
// and a recovery slot, which is never tried here.
//
// A recovery slot needs no check of its own, because the volume must then open
// with a token of the guest's, and that settles what the volume key is: the
// token's code, keyed by a secret that only this guest derives, covers the
// digest, and the digest fits one key. The code leaves out which slots there
// are, so a host may add one. But a slot is of use only if it yields that key,
// which the host does not know, and of a slot that yields another one the
// digest says so. A host that makes the volume, and so knows its key, cannot
// make the code.
func (u *Unlocker) planted(m Machine, v *vault.Vault) error {
	own := false
	for id, raw := range v.Header.Metadata().Tokens {
		var t struct {
			Type     string   `json:"type"`
			Keyslots []string `json:"keyslots"`
		}
		if err := json.Unmarshal(raw, &t); err != nil {
			return fault.New(fault.HeaderToken, err)
		}
		switch t.Type {
		case m.Source.TokenType():
			own = own || len(t.Keyslots) > 0
		case vault.RecoveryToken:
		default:
			return fault.Newf(fault.GuestPlanted, "%s: token %s is of type %s, which the host could have made", v.Label, id, t.Type)
		}
	}
	if !own {
		return fault.Newf(fault.GuestPlanted, "%s: it opens with a passphrase or a recovery key, which the host could know", v.Label)
	}
	return nil
}
