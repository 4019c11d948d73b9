package monitor

// What green does not prove: that the kernel's counters are right, or that what is
// seen is the build's doing: the rest of the machine is in it.

import (
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestASampleIsWhatHappenedBetweenTwoLooks(t *testing.T) {
	at := time.Unix(1000, 0)
	before := counters{at: at, busy: 10, read: 1e6, written: 5e6, received: 7e6, sent: 9e6}
	now := counters{at: at.Add(2 * time.Second), busy: 13, read: 5e6, written: 5e6, received: 8e6, sent: 1e6}
	want := Sample{CPU: 1.5, Read: 2, Received: 0.5} // a card that sent has gone
	if diff := cmp.Diff(want, now.since(before)); diff != "" {
		t.Error(diff)
	}
	if s := before.since(before); s != (Sample{}) {
		t.Errorf("at the same moment: %+v", s)
	}
	if got, want := (Sample{CPU: 1.44, MemoryMB: 512.3, Read: 12, Written: 90, Received: 3.14}).String(), "cpu 1.4, mem 512 MB, disk 12/90, net 3.1/0.0 MB/s"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestPartitionsAndWhatIsMadeOfDisksAreNotCountedTwice(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"sda", "nvme0n1", "dm-0", "loop3", "md127"} {
		if err := os.MkdirAll(filepath.Join(root, "sys/block", name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]bool{"sda": true, "sda1": false, "nvme0n1": true, "nvme0n1p2": false, "dm-0": false, "loop3": false, "md127": false} {
		if physical(root, name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
}

func TestSamplesAreSummedUpOverASpan(t *testing.T) {
	samples := []Sample{
		{At: 1, CPU: 2, MemoryMB: 900, Read: 100},
		{At: 2, CPU: 1, MemoryMB: 100, Read: 10, Written: 1},
		{At: 4, CPU: 2, MemoryMB: 300, Read: 20, Received: 3}, // the machine was too busy for one at 3
		{At: 5, CPU: 2, MemoryMB: 800, Sent: 4},
	}
	want := Span{Samples: 2, CPU: 1.5, PeakMB: 300, ReadMB: 50, WrittenMB: 1, ReceivedMB: 6}
	if diff := cmp.Diff(want, Between(samples, 1.5, 4.5), cmpopts.EquateApprox(0, 1e-9)); diff != "" {
		t.Error(diff)
	}
	if got := Between(samples, 5.5, 6); got != (Span{}) {
		t.Errorf("of nothing: %+v", got)
	}
}

func TestABusyMachineIsSeen(t *testing.T) {
	m := Start(t.Context(), 100*time.Millisecond)
	// Work for a processor, and 64 MiB in a child's child.
	cmd := exec.Command("sh", "-c", `sh -c 'x=$(head -c 67108864 /dev/zero | tr "\0" x); i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; :'`)
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if _, ok := m.Last(); !ok {
		t.Error("there is no sample yet")
	}
	samples, err := m.Stop()
	if err != nil || len(samples) < 2 {
		t.Fatalf("%d samples, %v", len(samples), err)
	}
	all := Between(samples, 0, math.Inf(1))
	if all.CPU < 0.3 || all.PeakMB < 60 {
		t.Errorf("%+v", all)
	}
	for i := 1; i < len(samples); i++ {
		if samples[i].At <= samples[i-1].At {
			t.Errorf("sample %d is not after the one before it", i)
		}
	}
}
