package lab_test

// Power cuts on real machines, at random moments while keys are changed.
//
// What green does not prove: a disk that loses what it had confirmed. QEMU gives
// every write to the host's kernel, which outlives it.

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"cc-base/overlays/cc-guest/control"
	"cc-base/tasks/lab"
	"cc-base/tasks/seal/header"
	"cc-base/tasks/vm"
)

// cut waits for a line, then for a random time, and cuts the power.
func cut(t *testing.T, i installed, g lab.Guest, line string, within time.Duration, began func(ctx context.Context)) {
	t.Helper()
	boots.Run(t, i.tools, g, func(ctx context.Context, m *vm.Machine) {
		t.Helper()
		if _, err := m.Expect(ctx, line); err != nil {
			t.Fatal(err)
		}
		if began != nil {
			began(ctx)
		}
		after := rand.N(within)
		time.Sleep(after)
		t.Logf("power cut %.2f s after %q", after.Seconds(), line)
		if err := m.Kill(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestPowerCutsWhileTheFirstBootEnrols(t *testing.T) {
	boots.LongOnly(t)
	for range 5 {
		m := install(t)
		cut(t, m, m.first(), "cc-root: binding it", 8*time.Second, nil)
		// The secret of the installation is there until the machine has come up
		// once, as libvirt's definition keeps it.
		m.boot(t, m.first(), func(ctx context.Context, c *control.Client) { oneSlotEach(ctx, t, c) })
	}
}

func TestPowerCutsWhileKeysRotate(t *testing.T) {
	boots.LongOnly(t)
	m := enrolled(t)
	for range 5 {
		cut(t, m, m.guest, ready, 6*time.Second, func(ctx context.Context) {
			c, err := control.Dial(ctx, filepath.Join(m.guest.Dir, control.PortName+".sock"))
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				defer c.Close()
				_ = c.Ask(ctx, "keys rotate", nil, nil)
			}()
		})
	}
	m.boot(t, m.guest, func(ctx context.Context, c *control.Client) { oneSlotEach(ctx, t, c) })
}

// oneSlotEach wants no keyslot but that in force.
func oneSlotEach(ctx context.Context, t *testing.T, c *control.Client) {
	t.Helper()
	var s keyStatus
	if err := c.Ask(ctx, "keys status", nil, &s); err != nil {
		t.Fatal(err)
	}
	if len(s.Volumes) != 3 {
		t.Errorf("status is %+v", s)
	}
	for _, v := range s.Volumes {
		if len(v.Slots) != 1 || v.Slots[0].State != "active" {
			t.Errorf("%s has slots %+v", v.Label, v.Slots)
		}
	}
}

// The one thing that revokes an old header. It is asked for in the running
// machine, happens at the next boot, and here that boot is cut off.
func TestTheVolumeKeyIsChangedInSpiteOfAPowerCut(t *testing.T) {
	boots.LongOnly(t)
	m := enrolled(t)
	headerOf := func() (digest string) {
		disk, start, _ := m.partition(t, "cc-dynamic")
		h, err := header.Read(io.NewSectionReader(disk, start, header.Size))
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range h.Metadata().Digests {
			digest += fmt.Sprintf("%x", d.Digest)
		}
		return digest
	}
	before := headerOf()
	m.boot(t, m.guest, func(ctx context.Context, c *control.Client) {
		if err := c.Ask(ctx, "keys renew-volume", nil, nil); err != nil {
			t.Fatal(err)
		}
	})
	if headerOf() != before {
		t.Fatal("the key was changed while the volume was in use")
	}
	cut(t, m, m.guest, "cc-dynamic: giving it another volume key", 3*time.Second, nil)
	lines := m.boot(t, m.guest, func(ctx context.Context, c *control.Client) { oneSlotEach(ctx, t, c) })
	if !contains(lines, "cc-dynamic: going on with the change of its volume key") && !contains(lines, "cc-dynamic: giving it another volume key") {
		t.Error("nobody says that the change went on")
	}
	after := headerOf()
	if after == before {
		t.Error("the volume still has its former key")
	}
	m.boot(t, m.guest, func(ctx context.Context, c *control.Client) { oneSlotEach(ctx, t, c) })
	if headerOf() != after {
		t.Error("the key was changed again although nobody had asked")
	}
}
