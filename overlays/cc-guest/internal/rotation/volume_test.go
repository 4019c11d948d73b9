package rotation

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cc-base/overlays/cc-guest/internal/keystate"
	"cc-base/overlays/cc-guest/internal/vault"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/seal/header"
)

// onDisk reads the header as the next boot does.
func onDisk(t *testing.T, k Keys, disk string) *vault.Vault {
	t.Helper()
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c, err := header.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	v, err := vault.Load("cc-dynamic", c, k.Rules("cc-dynamic"), filepath.Join(filepath.Dir(disk), "work"))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestARequestForAnotherVolumeKeyOutlivesRotations(t *testing.T) {
	t.Parallel()
	k, source, ring, disk := runningWith(t, "cc-dynamic")
	for range 2 { // asking twice is asking once
		if err := k.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []func() error{
		func() error { return nil },
		func() error { return k.Rotate(t.Context()) },
		func() error { return k.Prepare(t.Context(), source) },
		func() error { return k.Rotate(t.Context()) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
		s, err := k.Status()
		if err != nil || s.Volumes[0].Renewal != vault.Asked {
			t.Fatalf("status %+v, %v", s, err)
		}
		v := onDisk(t, k, disk)
		o, err := v.ByPassphrase(ring["cc-dynamic"], []string{slotInForce(t, k)})
		if err != nil || o == nil {
			t.Fatal(err)
		}
		notes := 0
		for _, raw := range v.Header.Metadata().Tokens {
			notes += strings.Count(string(raw), "cc-renewal")
		}
		if v.Renewal(o.Key) != vault.Asked || notes != 1 {
			t.Errorf("on the disk: %q, %d notes", v.Renewal(o.Key), notes)
		}
	}
}

func slotInForce(t *testing.T, k Keys) string {
	t.Helper()
	state, err := keystate.Read(k.Dir)
	if err != nil {
		t.Fatal(err)
	}
	return state.Volumes[0].Slot
}

func TestAnotherVolumeKeyIsRefusedWhereItCannotBe(t *testing.T) {
	t.Parallel()
	k, _, _, disk := runningWith(t, "cc-dynamic")
	before, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	state, err := keystate.Read(k.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		profile   string
		integrity bool
		want      string
	}{
		{"snp", false, "in key profile snp the host could change the header"},
		{"attested", false, "in key profile attested"},
		{"snp", true, "authentication codes"},
		{"tpm", true, "authentication codes"},
	} {
		state.Profile, state.Integrity = tc.profile, tc.integrity
		if err := keystate.Write(k.Dir, state); err != nil {
			t.Fatal(err)
		}
		faulttest.Want(t, k.Renew(t.Context()), fault.GuestRenew, tc.want)
		faulttest.Want(t, k.Renew(t.Context()), fault.GuestRenew, "erase the partition")
	}
	state.Profile, state.Integrity, state.Volumes = "tpm", false, nil
	if err := keystate.Write(k.Dir, state); err != nil {
		t.Fatal(err)
	}
	faulttest.Want(t, k.Renew(t.Context()), fault.GuestRenew, "not opened")
	if after, err := os.ReadFile(disk); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the disk changed, %v", err)
	}
}

func TestTheEncryptedRecoveryKeyCanBeHadAtAnyTime(t *testing.T) {
	t.Parallel()
	k, _, ring, disk := runningWith(t, "cc-dynamic")
	_, err := k.Recovery()
	faulttest.Want(t, err, fault.GuestNoKey)

	// What the initrd leaves: the slot on the disk, and in the header's copy.
	v := onDisk(t, k, disk)
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	v.Device, v.Runner = f, k.Runner
	o, err := v.ByPassphrase(ring["cc-dynamic"], []string{"0"})
	if err != nil || o == nil {
		t.Fatal(err)
	}
	const message = "-----BEGIN PGP MESSAGE-----\n\nAAAA\n=AAAA\n-----END PGP MESSAGE-----\n"
	if err := v.SetRecovery(t.Context(), o, []byte("a recovery key with full entropy"), message, "somebody"); err != nil {
		t.Fatal(err)
	}
	keep := func(area []byte) {
		if err := os.WriteFile(filepath.Join(k.Dir, "header", "cc-dynamic"), area, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	keep(v.Header.Bytes())
	for range 2 {
		if got, err := k.Recovery(); err != nil || got != message {
			t.Errorf("%q, %v", got, err)
		}
		if err := k.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}

	// A message that is not the guest's is not given out for one.
	h := onDisk(t, k, disk).Header
	for id, raw := range h.Metadata().Tokens {
		if !bytes.Contains(raw, []byte("systemd-recovery")) {
			continue
		}
		forged, err := h.WithToken(id, bytes.Replace(raw, []byte("AAAA"), []byte("BBBB"), 1))
		if err != nil {
			t.Fatal(err)
		}
		keep(forged.Bytes())
	}
	_, err = k.Recovery()
	faulttest.Want(t, err, fault.GuestNoKey)
}

// The timer and the host's request can come at once.
func TestTwoRotationsAtOnceFollowEachOther(t *testing.T) {
	t.Parallel()
	k, _, ring, disk := runningWith(t, "cc-dynamic")
	var mu sync.Mutex
	secret, keep := k.Secret, k.Keep
	k.Secret = func(label string) ([]byte, error) { mu.Lock(); defer mu.Unlock(); return secret(label) }
	k.Keep = func(label string, s []byte) error { mu.Lock(); defer mu.Unlock(); return keep(label, s) }
	k.Now = time.Now
	errs := make(chan error, 2)
	for range 2 {
		go func() { errs <- k.Rotate(t.Context()) }()
	}
	for range 2 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	v := onDisk(t, k, disk)
	slots, err := v.Slots()
	if err != nil || len(slots) != 1 || slots[0].Epoch != 2 {
		t.Fatalf("slots %+v, %v", slots, err)
	}
	if o, err := v.ByPassphrase(ring["cc-dynamic"], []string{slots[0].Slot}); o == nil || err != nil {
		t.Errorf("the keyring does not open the disk: %v", err)
	}
}
