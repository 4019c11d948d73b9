package lab_test

// A machine that ran well and then does not: it must end by itself, soon, and
// say why.
//
// What green does not prove: that no attack goes unseen. The monitor looks at
// mounts, verified volumes and the writable file system, and at nothing else.

import (
	"context"
	"strings"
	"testing"
	"time"

	"cc-base/tasks/vm"
)

// soon is how long a machine may go on after what must end it. The seconds are
// the host's: under emulation the guest's pass more slowly.
const soon = 90 * time.Second

// afterwards makes the machine do something 15 s after it has called itself
// ready.
func (i installed) afterwards(t *testing.T, what string) {
	t.Helper()
	i.image.WithInitrdFiles(t, i.tools, i.guest.Disk, "", map[string][]byte{
		"usr/lib/cc/probe": i.probe(t),
		"usr/lib/systemd/system/cc-unlock.service.d/after.conf": []byte("[Unit]\nWants=after.service\nAfter=after.service\n"),
		"usr/lib/systemd/system/after.service":                  []byte("[Unit]\nDefaultDependencies=no\nIgnoreOnIsolate=yes\n[Service]\nType=exec\nExecStart=@/usr/lib/cc/probe @probe after " + what + "\nKillMode=none\n"),
	})
}

// ends boots the machine, waits for the probe to say that it has begun, lets do
// change something, and wants the machine to end soon. It returns the console's
// lines.
func (i installed) ends(t *testing.T, begin string, do func()) []string {
	t.Helper()
	var lines []string
	boots.Run(t, i.tools, i.first(), func(ctx context.Context, m *vm.Machine) {
		t.Helper()
		for _, line := range []string{ready, begin} {
			if _, err := m.Expect(ctx, line); err != nil {
				t.Fatal(err)
			}
		}
		if do != nil {
			do()
		}
		ctx, cancel := context.WithTimeout(ctx, soon)
		defer cancel()
		began := time.Now()
		if err := m.Wait(ctx); err != nil {
			t.Fatalf("it goes on: %v", err)
		}
		t.Logf("it ended after %.0f s", time.Since(began).Seconds())
		lines = m.Lines()
	})
	return lines
}

func TestAMachineWithoutItsMonitorIsSwitchedOff(t *testing.T) {
	boots.LongOnly(t)
	for _, c := range []struct{ name, signal string }{
		{"stopped", "19"}, // SIGSTOP: it is there and silent
		{"killed", "9"},
		{"ended", "15"}, // for systemd as if it had come to an end by itself
	} {
		t.Run(c.name, func(t *testing.T) {
			m := install(t)
			m.afterwards(t, "signal "+c.signal)
			lines := m.ends(t, "probe: signal", nil)
			if !contains(lines, "cc-base: refused: CC0829: the monitor has ended") {
				t.Errorf("the console does not say why:\n%s", strings.Join(lines, "\n"))
			}
		})
	}
}

// The disk is changed while the machine runs; the block comes from the disk when
// it is read next.
func TestAChangeOfTheRootWhileTheMachineRunsEndsIt(t *testing.T) {
	boots.LongOnly(t)
	m := install(t)
	m.afterwards(t, "read mapper/cc-root")
	p, ok := m.image.Manifest.Disk.Partition("cc-root")
	if !ok || p.Verity == nil {
		t.Fatal("the image has no verity root")
	}
	lines := m.ends(t, "probe: now", func() {
		disk, start, _ := m.partition(t, "cc-root")
		block := make([]byte, 1<<20)
		if _, err := disk.ReadAt(block, start+p.Verity.HashOffset/2); err != nil {
			t.Fatal(err)
		}
		for i := range block {
			block[i] ^= 0x55
		}
		if _, err := disk.WriteAt(block, start+p.Verity.HashOffset/2); err != nil {
			t.Fatal(err)
		}
	})
	if !contains(lines, "dm-verity device corrupted") {
		t.Errorf("nothing noticed the change:\n%s", strings.Join(lines, "\n"))
	}
	if contains(lines, "probe: read") {
		t.Error("the damaged volume was read to its end")
	}
}
