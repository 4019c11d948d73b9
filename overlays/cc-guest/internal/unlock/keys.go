package unlock

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"cc-base/overlays/cc-guest/internal/cmdline"
	"cc-base/overlays/cc-guest/internal/console"
	"cc-base/overlays/cc-guest/internal/dynamic"
	"cc-base/overlays/cc-guest/internal/keystate"
	"cc-base/overlays/cc-guest/internal/vault"
	"cc-base/tasks/fault"
	"cc-base/tasks/seal/header"
)

// recoveryWait bounds the wait for somebody at the console.
const recoveryWait = 3 * time.Minute

// rules are what a header of this image may be.
func (u *Unlocker) rules(size int64, integrity bool) header.Rules {
	k := u.Settings.Keys.LUKS
	r := header.Rules{
		Cipher: k.Cipher, KeyBits: k.KeyBits, Hash: k.Hash,
		SectorSize: cmdline.BlockSize, HeaderSize: dynamic.HeaderSize, DeviceSize: size,
	}
	if integrity {
		r.Integrity = dynamic.Integrity
	}
	return r
}

// vault reads and judges the partition's header.
func (u *Unlocker) vault(label string, p Partition, integrity bool) (*vault.Vault, error) {
	size, err := p.Size()
	if err != nil {
		return nil, fault.Newf(fault.GuestVolume, "%s: %w", label, err)
	}
	c, err := header.Read(p)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", label, err)
	}
	v, err := vault.Load(label, c, u.rules(size, integrity), u.Work)
	if err != nil {
		return nil, err
	}
	v.Device, v.Runner = p, u.Runner
	return v, nil
}

// decrypt opens the LUKS2 layer of a read-only volume and binds it to the
// machine where it is not yet.
func (u *Unlocker) decrypt(ctx context.Context, m Machine, label, node string, p Partition) (keystate.Volume, error) {
	one := keystate.Volume{Label: label, Node: node}
	v, err := u.vault(label, p, false)
	if err != nil {
		return one, err
	}
	o, how, err := u.key(ctx, m, v)
	if err != nil {
		return one, err
	}
	defer o.Wipe()
	if err := u.openReadOnly(ctx, v, o, node); err != nil {
		return one, err
	}
	return u.finish(m, v, o, node, how)
}

// finish records an opened volume: its key in the TPM, its secret for later.
func (u *Unlocker) finish(m Machine, v *vault.Vault, o *vault.Open, node, how string) (keystate.Volume, error) {
	one := keystate.Volume{Label: v.Label, Node: node, Opened: how, Slot: o.Slot, Epoch: o.Epoch}
	if m.TPM != nil {
		// As systemd-cryptsetup's tpm2-measure-pcr= does, so that a volume put
		// in another one's place can be told from what was measured.
		text := "cryptsetup:" + v.Label + ":" + v.Header.UUID()
		if err := m.TPM.ExtendSecret(pcrVolumeKey, []byte(text), o.Key); err != nil {
			return one, fault.New(fault.GuestTPM, err)
		}
	}
	if err := u.Keep(v.Label, o.Passphrase); err != nil {
		return one, fault.New(fault.GuestEnrol, err)
	}
	return one, nil
}

// key returns what opens the volume from now on, and what opened it now.
func (u *Unlocker) key(ctx context.Context, m Machine, v *vault.Vault) (*vault.Open, string, error) {
	o, failed := v.ByMachine(ctx, m.Source)
	if o != nil {
		o, err := u.renew(ctx, m, v, o)
		return o, keystate.ByMachine, err
	}
	if final(failed) {
		return nil, "", failed
	}
	how := keystate.ByEnrolment
	o, err := u.byEnrolment(v)
	if o == nil && u.Settings.Keys.ConsoleRecovery {
		how = keystate.ByRecovery
		var asked error
		if o, asked = u.byRecovery(ctx, v); asked != nil {
			return nil, "", errors.Join(asked, failed, err)
		}
	}
	if o == nil {
		// What is wrong with the machine's own way matters more than that
		// there is no other.
		if failed != nil {
			return nil, "", failed
		}
		return nil, "", err
	}
	defer o.Wipe()
	u.Say("cc-base: " + v.Label + ": binding it to this machine")
	fresh, err := v.Bind(ctx, m.Source, o)
	if err != nil {
		return nil, "", enrolment(err)
	}
	return fresh, how, nil
}

// renew puts in order what an interrupted rotation left, and derives the
// secret anew where the platform's security version has risen.
func (u *Unlocker) renew(ctx context.Context, m Machine, v *vault.Vault, o *vault.Open) (*vault.Open, error) {
	if s, ok := m.Source.(interface {
		Stale(context.Context, json.RawMessage) (bool, error)
	}); ok {
		stale, err := s.Stale(ctx, v.Header.Metadata().Tokens[o.Token])
		if err != nil {
			o.Wipe()
			return nil, err
		}
		if stale {
			defer o.Wipe()
			fresh, err := v.Bind(ctx, m.Source, o)
			return fresh, enrolment(err)
		}
	}
	if err := v.Settle(ctx, m.Source, o); err != nil {
		o.Wipe()
		return nil, enrolment(fmt.Errorf("%s: %w", v.Label, err))
	}
	return o, nil
}

// final tells whether a failure says that the disk was tampered with, so that
// no other way is tried.
func final(err error) bool {
	coded := fault.Of(err)
	if coded == nil {
		return false
	}
	switch coded.Code {
	case fault.GuestSwapped, fault.HeaderMAC, fault.HeaderToken, fault.GuestBank:
		return true
	}
	return false
}

// enrolment gives an error its code unless it has one that says more.
func enrolment(err error) error {
	if err == nil || fault.Of(err) != nil {
		return err
	}
	return fault.New(fault.GuestEnrol, err)
}

// byEnrolment tries the secret of the installation on the slots that no token
// accounts for.
func (u *Unlocker) byEnrolment(v *vault.Vault) (*vault.Open, error) {
	buffer := make([]byte, maxKey+1)
	defer clear(buffer)
	n, err := readKey(u.Sys, buffer)
	if err != nil {
		return nil, fault.Newf(fault.GuestKey, "%s: %w", v.Label, err)
	}
	o, err := v.ByPassphrase(buffer[:n], v.Header.Unbound())
	if o == nil && err == nil {
		err = fault.Newf(fault.GuestKey, "%s: the image key does not open it", v.Label)
	}
	return o, err
}

// byRecovery asks for the recovery key; nil and no error when the volume has
// no recovery slot. A key that opened one volume is tried on the next before
// anybody is asked again.
func (u *Unlocker) byRecovery(ctx context.Context, v *vault.Vault) (*vault.Open, error) {
	slots, err := v.RecoverySlots()
	if err != nil || len(slots) == 0 {
		return nil, err
	}
	if u.typed != nil {
		if o, err := v.ByPassphrase(u.typed, slots); o != nil || err != nil {
			return o, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, recoveryWait)
	defer cancel()
	for try := 1; try <= maxTries; try++ {
		typed, err := u.Ask(ctx, "cc-base: "+v.Label+": recovery key ("+strconv.Itoa(try)+" of "+strconv.Itoa(maxTries)+"): \r\n")
		if err != nil {
			return nil, fault.Newf(fault.GuestRecovery, "%s: %w", v.Label, err)
		}
		key := console.Normalize(typed)
		o, err := v.ByPassphrase(key, slots)
		if err != nil {
			clear(key)
			return nil, err
		}
		if o != nil {
			u.typed = key
			return o, nil
		}
		clear(key)
		clear(typed)
		u.Say("cc-base: " + v.Label + ": that is not its recovery key")
	}
	return nil, fault.Newf(fault.GuestRecovery, "%s: no recovery key in %d tries", v.Label, maxTries)
}

// openReadOnly maps a volume with its header from the copy that was judged.
// The secret goes through a pipe: an argument or an environment variable can
// be read by others.
func (u *Unlocker) openReadOnly(ctx context.Context, v *vault.Vault, o *vault.Open, node string) error {
	_, status, err := u.Runner.Run(ctx, [][]byte{o.Passphrase}, nil, "/usr/sbin/cryptsetup", "open", "--type=luks2",
		"--readonly", "--disable-locks", "--header="+v.File, "--key-slot="+o.Slot, "--tries=1",
		"--key-file=/proc/self/fd/3", "--keyfile-size="+strconv.Itoa(len(o.Passphrase)), node, v.Label+"-luks")
	if err != nil {
		return fault.Newf(fault.GuestVolume, "%s: running cryptsetup: %w", v.Label, err)
	}
	if status != 0 {
		return fault.Newf(fault.GuestVolume, "%s: cryptsetup cannot open it (exit status %d)", v.Label, status)
	}
	return nil
}
