package bench_test

// What green does not prove: that a figure is right to the percent; a loaded
// machine has its own.

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"cc-base/tasks/bench"
	"cc-base/tasks/golden"
	"cc-base/tasks/sh"
)

func shell(script string) func(context.Context, int) error {
	return func(ctx context.Context, _ int) error { return sh.Do(ctx, sh.Host{}, "sh", "-c", script) }
}

func TestTheProgramsOfAWayAreMeasured(t *testing.T) {
	var said bytes.Buffer
	var order []string
	note := func(name string) func(context.Context, int) error {
		return func(context.Context, int) error { order = append(order, name); return nil }
	}
	table, err := bench.Measure(t.Context(), []bench.Way{
		{Name: "idle", Before: note("idle"), Do: shell("sleep 0.3")},
		// 64 MiB in a grandchild, long enough to be seen, and work for the processor.
		{Name: "busy", Before: note("busy"), Do: shell(`sh -c 'x=$(head -c 67108864 /dev/zero | tr "\0" x); sleep 0.5; :'`)},
	}, 2, true, &said)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(order, " "); got != "idle busy idle busy idle busy" {
		t.Errorf("order: %s", got)
	}
	idle, busy := table[0], table[1]
	if len(idle.Samples) != 2 || len(busy.Samples) != 2 {
		t.Fatalf("%+v", table)
	}
	for i := range idle.Samples {
		if idle.Samples[i].Wall < 300*time.Millisecond || idle.Samples[i].PeakMiB > 30 {
			t.Errorf("idle: %+v", idle.Samples[i])
		}
		if busy.Samples[i].PeakMiB < 60 || busy.Samples[i].CPU < 10*time.Millisecond {
			t.Errorf("busy: %+v", busy.Samples[i])
		}
	}
	if n := strings.Count(said.String(), "\n"); n != 6 {
		t.Errorf("%d lines of progress:\n%s", n, said.String())
	}
}

func TestAFailureNamesTheWay(t *testing.T) {
	broken := errors.New("broken")
	_, err := bench.Measure(t.Context(), []bench.Way{{Name: "ours", Do: func(context.Context, int) error { return broken }}}, 1, false, io.Discard)
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "ours, round 1") {
		t.Error(err)
	}
}

func TestTheTable(t *testing.T) {
	s := func(seconds ...float64) (all []bench.Sample) {
		for i, x := range seconds {
			d := time.Duration(x * float64(time.Second))
			all = append(all, bench.Sample{Wall: d, CPU: 2 * d, PeakMiB: 100 + i})
		}
		return all
	}
	table := bench.Table{{Name: "cc-base", Samples: s(42, 40, 41)}, {Name: "mkosi", Samples: s(80, 82, 81.5)}, {Name: "nothing"}}
	var b bytes.Buffer
	if err := table.Markdown(&b, "mkosi", "nothing"); err != nil {
		t.Fatal(err)
	}
	golden.Compare(t, "table.md", b.String())
}
