// Package rotation replaces the secrets that open the volumes of a running
// system, shows the state of the keys, and prepares the volumes for another
// boot image.
package rotation

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"cc-base/overlays/cc-guest/internal/keystate"
	"cc-base/overlays/cc-guest/internal/vault"
	"cc-base/tasks/fault"
	"cc-base/tasks/seal/header"
)

// Partition is a partition opened for reading and writing.
type Partition interface {
	header.Device
	Close() error
}

// Keys is the running system's view of its volumes.
type Keys struct {
	Dir    string // keystate.Dir
	Runner vault.Runner
	Source vault.Source
	Rules  func(label string) header.Rules
	Open   func(node string) (Partition, error)
	Secret func(label string) ([]byte, error)      // from the keyring
	Keep   func(label string, secret []byte) error // to the keyring
	Now    func() time.Time
}

// Status is the state of the keys, as `cc-guest keys status --json` prints it.
type Status struct {
	Profile   string         `json:"profile"`
	Integrity bool           `json:"integrity"`
	Volumes   []VolumeStatus `json:"volumes"`
}

// VolumeStatus is one encrypted volume.
type VolumeStatus struct {
	Label   string        `json:"label"`
	UUID    string        `json:"uuid"`
	Opened  string        `json:"opened"` // how, at this boot
	Epoch   int           `json:"epoch"`
	Rotated string        `json:"rotated,omitempty"` // when the secret in force was made, RFC 3339
	Slots   []vault.Slot  `json:"slots"`
	Policy  *vault.Policy `json:"policy,omitempty"` // of the TPM

	Renewal vault.Renewal `json:"renewal,omitempty"` // asked: the next boot changes the volume key
}

// Status reads the state; it changes nothing.
func (k Keys) Status() (Status, error) {
	unlock, err := k.lock()
	if err != nil {
		return Status{}, err
	}
	defer unlock()
	state, err := keystate.Read(k.Dir)
	if err != nil {
		return Status{}, err
	}
	s := Status{Profile: state.Profile, Integrity: state.Integrity, Volumes: []VolumeStatus{}}
	for _, one := range state.Volumes {
		if one.Opened == keystate.Unencrypted {
			continue
		}
		v, err := k.load(one.Label)
		if err != nil {
			return s, err
		}
		slots, err := v.Slots()
		if err != nil {
			return s, err
		}
		status := VolumeStatus{Label: one.Label, UUID: v.Header.UUID(), Opened: one.Opened, Epoch: one.Epoch, Slots: slots, Renewal: v.Renewal(nil)}
		for _, slot := range slots {
			if slot.Slot == one.Slot {
				status.Rotated, status.Policy = slot.Made, slot.Policy
			}
		}
		s.Volumes = append(s.Volumes, status)
	}
	return s, nil
}

// Rotate gives every volume a fresh secret and takes the former ones away.
// Cut off anywhere, every volume opens at the next boot.
func (k Keys) Rotate(ctx context.Context) error {
	return k.each(ctx, func(v *vault.Vault, current *vault.Open) (*vault.Open, error) {
		return v.Bind(ctx, k.Source, current)
	})
}

// Prepare adds to every volume a secret for another boot image; s makes
// secrets for what that image will measure.
func (k Keys) Prepare(ctx context.Context, s vault.Source) error {
	return k.each(ctx, func(v *vault.Vault, current *vault.Open) (*vault.Open, error) {
		return nil, v.Prepare(ctx, s, current)
	})
}

// Due tells whether any secret is older than interval. A clock that stands
// before the last rotation is no reason to wait.
func (k Keys) Due(interval time.Duration) (bool, error) {
	status, err := k.Status()
	if err != nil {
		return false, err
	}
	for _, v := range status.Volumes {
		made, err := time.Parse(time.RFC3339, v.Rotated)
		if age := k.Now().Sub(made); err != nil || age >= interval || age < 0 {
			return true, nil
		}
	}
	return false, nil
}

// each does do for every encrypted volume and keeps what opens it afterwards.
// A volume that fails does not keep the others from theirs.
func (k Keys) each(ctx context.Context, do func(*vault.Vault, *vault.Open) (*vault.Open, error)) error {
	unlock, err := k.lock()
	if err != nil {
		return fault.New(fault.GuestRotate, err)
	}
	defer unlock()
	state, err := keystate.Read(k.Dir)
	if err != nil {
		return fault.New(fault.GuestRotate, err)
	}
	var errs []error
	for i := range state.Volumes {
		one := &state.Volumes[i]
		if one.Opened == keystate.Unencrypted {
			continue
		}
		if err := k.one(ctx, one, do); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", one.Label, err))
		}
	}
	if err := errors.Join(append(errs, keystate.Write(k.Dir, state))...); err != nil {
		return fault.New(fault.GuestRotate, err)
	}
	return nil
}

func (k Keys) one(ctx context.Context, one *keystate.Volume, do func(*vault.Vault, *vault.Open) (*vault.Open, error)) error {
	v, err := k.load(one.Label)
	if err != nil {
		return err
	}
	partition, err := k.Open(one.Node)
	if err != nil {
		return err
	}
	defer partition.Close()
	v.Device = partition
	current, err := k.current(v, *one)
	if err != nil {
		return err
	}
	defer current.Wipe()
	fresh, err := do(v, current)
	if err != nil || fresh == nil {
		return err
	}
	defer fresh.Wipe()
	one.Slot, one.Epoch = fresh.Slot, fresh.Epoch
	return k.Keep(one.Label, fresh.Passphrase)
}

// lock waits until no other process changes headers: each begins with the copy
// in memory, and would undo what another one wrote meanwhile. The kernel takes
// the lock away with the process.
func (k Keys) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(k.Dir, "lock"), os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", f.Name(), err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// load takes the header from memory, where the initrd left what it had judged:
// the disk belongs to the host.
func (k Keys) load(label string) (*vault.Vault, error) {
	area, err := os.ReadFile(filepath.Join(k.Dir, "header", label))
	if err != nil {
		return nil, err
	}
	c, err := header.Parse(area)
	if err != nil {
		return nil, err
	}
	v, err := vault.Load(label, c, k.Rules(label), filepath.Join(k.Dir, "header"))
	if err != nil {
		return nil, err
	}
	v.Runner, v.Now = k.Runner, k.Now
	return v, nil
}
