package rotation

import (
	"context"
	"errors"
	"fmt"

	"cc-base/overlays/cc-guest/internal/dynamic"
	"cc-base/overlays/cc-guest/internal/keystate"
	"cc-base/overlays/cc-guest/internal/renewal"
	"cc-base/overlays/cc-guest/internal/vault"
	"cc-base/tasks/fault"
)

// Renew asks for another key of the writable volume. The next boot changes it:
// that rewrites the volume, which must not be in use.
func (k Keys) Renew(ctx context.Context) error {
	unlock, err := k.lock()
	if err != nil {
		return fault.New(fault.GuestRenew, err)
	}
	defer unlock()
	state, one, err := k.writable()
	if err != nil {
		return fault.New(fault.GuestRenew, err)
	}
	if !renewal.Possible(state.Profile, state.Integrity) {
		return fault.Newf(fault.GuestRenew, "the volume key of %s cannot be changed in place: %s; copy away what you need and erase the partition, the next boot makes it anew with another key",
			dynamic.Label, reason(state))
	}
	err = k.one(ctx, &one, func(v *vault.Vault, current *vault.Open) (*vault.Open, error) {
		return nil, v.Ask(ctx, current)
	})
	if err != nil {
		return fault.New(fault.GuestRenew, fmt.Errorf("%s: %w", one.Label, err))
	}
	return nil
}

// reason says why the key cannot be changed.
func reason(state keystate.State) string {
	if state.Integrity {
		return "cryptsetup cannot re-encrypt a volume with authentication codes (DYNAMIC_INTEGRITY)"
	}
	return "in key profile " + state.Profile + " the host could change the header on the disk meanwhile"
}

// Recovery returns the recovery key of the writable volume, encrypted to its
// recipients: an armoured OpenPGP message.
func (k Keys) Recovery() (string, error) {
	unlock, err := k.lock()
	if err != nil {
		return "", fault.New(fault.GuestNoKey, err)
	}
	defer unlock()
	_, one, err := k.writable()
	if err != nil {
		return "", fault.New(fault.GuestNoKey, err)
	}
	v, err := k.load(one.Label)
	if err != nil {
		return "", err
	}
	current, err := k.current(v, one)
	if err != nil {
		return "", fault.New(fault.GuestNoKey, fmt.Errorf("%s: %w", one.Label, err))
	}
	defer current.Wipe()
	message, _ := v.Recovery(current.Key)
	if message == "" {
		return "", fault.Newf(fault.GuestNoKey, "%s has no recovery key of this guest's", one.Label)
	}
	return message, nil
}

// writable returns the state and in it the writable volume.
func (k Keys) writable() (keystate.State, keystate.Volume, error) {
	state, err := keystate.Read(k.Dir)
	if err != nil {
		return state, keystate.Volume{}, err
	}
	for _, one := range state.Volumes {
		if one.Label == dynamic.Label {
			return state, one, nil
		}
	}
	return state, keystate.Volume{}, fmt.Errorf("%s was not opened at this boot", dynamic.Label)
}

// current opens the volume with the secret in the keyring.
func (k Keys) current(v *vault.Vault, one keystate.Volume) (*vault.Open, error) {
	secret, err := k.Secret(one.Label)
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	current, err := v.ByPassphrase(secret, []string{one.Slot})
	if err != nil || current == nil {
		return nil, errors.Join(errors.New("the secret in the keyring does not open it"), err)
	}
	return current, nil
}
