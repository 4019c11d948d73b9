package lab_test

// The life of a machine's keys, on one disk that keeps what the guest writes
// and one emulated TPM. Green does not prove anything of a TPM that is out of
// the host's reach: this one is not.

import (
	"context"
	"testing"

	"cc-base/overlays/cc-guest/control"
	"cc-base/tasks/lab"
	"cc-base/tasks/tpm/pcr"
)

type keyStatus struct {
	Profile string
	Volumes []struct {
		Label string
		Epoch int
		Slots []struct{ Slot, Kind, State string }
	}
}

// status asks for the keys and holds them against the epoch and one slot each.
func status(ctx context.Context, t *testing.T, c *control.Client, epoch int) {
	t.Helper()
	var s keyStatus
	if err := c.Ask(ctx, "keys status", nil, &s); err != nil {
		t.Fatal(err)
	}
	if s.Profile != "tpm" || len(s.Volumes) != 3 {
		t.Errorf("status is %+v", s)
	}
	for _, v := range s.Volumes {
		if v.Epoch != epoch || len(v.Slots) != 1 || v.Slots[0].Kind != "systemd-tpm2" || v.Slots[0].State != "active" {
			t.Errorf("%s is %+v, want epoch %d and one slot of the TPM", v.Label, v, epoch)
		}
	}
}

func TestAMachineEnrolsRebootsRotatesAndKnowsItsOwnDisk(t *testing.T) {
	m := enrolled(t)
	for _, part := range []string{"profile tpm: cc-root enrolment, cc-app enrolment, cc-config none, cc-dynamic made", "not against the host"} {
		if !contains(enrolment.lines, part) {
			t.Errorf("the first boot's console has no %q", part)
		}
	}
	lines := m.boot(t, m.guest, func(ctx context.Context, c *control.Client) {
		status(ctx, t, c, 1)
		if err := c.Ask(ctx, "keys rotate", nil, nil); err != nil {
			t.Fatal(err)
		}
		var s keyStatus
		if err := c.Ask(ctx, "keys status", nil, &s); err != nil || len(s.Volumes) == 0 || s.Volumes[0].Epoch < 2 {
			t.Errorf("after a rotation: %+v, %v", s, err)
		}
	})
	if !contains(lines, "cc-root machine, cc-app machine, cc-config none, cc-dynamic machine") {
		t.Error("the second boot did not unlock by itself")
	}
	m.boot(t, m.guest, func(ctx context.Context, c *control.Client) { m.samePCRs(ctx, t, c, pcr.SecureBoot{}) })

	// The disk in another machine, which has never seen it; the secret of the
	// installation, which was destroyed, does not help.
	other := m.first()
	other.Dir = lab.ShortDir(t)
	m.refused(t, other, "cc-base: refused: CC0808")
}
