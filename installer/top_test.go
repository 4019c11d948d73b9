package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cc-base/installer/virt"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/sh"
)

func TestLoadIsTheDifferenceOfTwoLooks(t *testing.T) {
	t.Parallel()
	from := virt.Stats{CPU: time.Second, Blocks: []virt.Block{{ReadBytes: 100, WriteBytes: 9000}}, Nets: []virt.Net{{RxBytes: 10, TxBytes: 20}}}
	to := virt.Stats{
		CPU: 4 * time.Second, VCPUs: 2, MemoryBytes: 1 << 30,
		Blocks: []virt.Block{{ReadBytes: 2100, WriteBytes: 1000}}, Nets: []virt.Net{{RxBytes: 4010, TxBytes: 20}, {TxBytes: 600}},
	}
	want := load{Name: "n", CPUPercent: 150, VCPUs: 2, Memory: 1 << 30, Read: 1000, Written: 500, Received: 2000, Sent: 300}
	if diff := cmp.Diff(want, between("n", from, to, 2*time.Second)); diff != "" {
		t.Error(diff)
	}
}

func TestTopShowsALineAndNamesWhatDoesNotRun(t *testing.T) {
	t.Parallel()
	look := 0
	c := virt.Client{Run: &sh.Recorder{Answer: func(sh.Cmd) (string, error) {
		look++
		return map[bool]string{true: "state.state=1\ncpu.time=0\n", false: "state.state=1\ncpu.time=1\nballoon.current=2097152\n"}[look == 1], nil
	}}}
	var out bytes.Buffer
	if err := showLoad(t.Context(), &out, c, "n", true, false, time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(out.String(), "\n"); len(lines) != 3 || !strings.Contains(lines[1], "2 GiB") {
		t.Errorf("%q", out.String())
	}
	off := virt.Client{Run: &sh.Recorder{Answer: func(sh.Cmd) (string, error) { return "state.state=5\n", nil }}}
	faulttest.Want(t, showLoad(t.Context(), &out, off, "n", true, false, time.Millisecond), fault.Machine, "does not run")
	ended, end := context.WithCancel(t.Context())
	end()
	if err := showLoad(ended, &out, c, "n", false, true, time.Hour); err != nil {
		t.Errorf("Ctrl-C is an error: %v", err)
	}
}

func TestTopWantsOneName(t *testing.T) {
	t.Parallel()
	a := &app{}
	for _, args := range [][]string{nil, {"a", "b"}, {"a", "--frobnicate"}} {
		faulttest.Want(t, a.top(t.Context(), args), fault.Usage, "top")
	}
}
