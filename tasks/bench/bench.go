// Package bench measures what is done in different ways beside each other: in
// turn, in the same run, on the same machine. It is for figures that people
// quote, never for a test that fails on a slow machine.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"cc-base/tasks/monitor"
)

// Way is one of the ways.
type Way struct {
	Name   string
	Before func(ctx context.Context, round int) error // not measured; nil does nothing
	Do     func(ctx context.Context, round int) error // by programs that it starts and waits for
}

// Sample is what one way took once.
type Sample struct {
	Wall    time.Duration
	CPU     time.Duration // of all programs that it started, user and system
	PeakMiB int           // what they held at once, as [monitor.Held] counts
}

// Figures are the samples of a way, in the order of the rounds.
type Figures struct {
	Name    string
	Samples []Sample
}

// Table holds what was measured, in the order of the ways.
type Table []Figures

// Measure does the ways in turn, as often as there are rounds, after one that does
// not count if warmUp: it fills caches. Round 0 is that one. The programs that the
// ways start must be the only ones that this process has.
func Measure(ctx context.Context, ways []Way, rounds int, warmUp bool, progress io.Writer) (Table, error) {
	table := make(Table, len(ways))
	for i, w := range ways {
		table[i].Name = w.Name
	}
	first := 1
	if warmUp {
		first = 0
	}
	for round := first; round <= rounds; round++ {
		for i, w := range ways {
			s, err := one(ctx, w, round)
			if err != nil {
				return nil, fmt.Errorf("%s, round %d: %w", w.Name, round, err)
			}
			fmt.Fprintf(progress, "bench: round %d of %d: %s: %.1f s, %d MiB\n", round, rounds, w.Name, s.Wall.Seconds(), s.PeakMiB)
			if round > 0 {
				table[i].Samples = append(table[i].Samples, s)
			}
		}
	}
	return table, nil
}

func one(ctx context.Context, w Way, round int) (Sample, error) {
	if w.Before != nil {
		if err := w.Before(ctx, round); err != nil {
			return Sample{}, err
		}
	}
	before, err := childrenCPU()
	if err != nil {
		return Sample{}, err
	}
	peak := watchMemory()
	began := time.Now()
	err = w.Do(ctx, round)
	s := Sample{Wall: time.Since(began), PeakMiB: peak()}
	after, cpuErr := childrenCPU()
	s.CPU = after - before
	return s, errors.Join(err, cpuErr)
}

// pace is how often memory is looked at. A peak that is shorter is missed.
const pace = 100 * time.Millisecond

// watchMemory follows what the programs that this process has started hold, until
// peak is called.
func watchMemory() (peak func() (mib int)) {
	stop, result := make(chan struct{}), make(chan int)
	go func() {
		tick := time.NewTicker(pace)
		defer tick.Stop()
		kib := 0
		for {
			select {
			case <-stop:
				result <- (kib + 1023) / 1024
				return
			case <-tick.C:
				kib = max(kib, monitor.Held(os.Getpid()))
			}
		}
	}()
	return func() int { close(stop); return <-result }
}

// childrenCPU is what all children that were waited for, and theirs, have used.
func childrenCPU() (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &u); err != nil {
		return 0, fmt.Errorf("getrusage: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// Wall returns the least, the middle and the longest time. Of an even number the
// middle is the lower one.
func (f Figures) Wall() (least, middle, most time.Duration) {
	all := make([]time.Duration, len(f.Samples))
	for i, s := range f.Samples {
		all[i] = s.Wall
	}
	if len(all) == 0 {
		return 0, 0, 0
	}
	slices.Sort(all)
	return all[0], all[(len(all)-1)/2], all[len(all)-1]
}

func (f Figures) peak() (mib int) {
	for _, s := range f.Samples {
		mib = max(mib, s.PeakMiB)
	}
	return mib
}

func (f Figures) cpu() time.Duration {
	var all []time.Duration
	for _, s := range f.Samples {
		all = append(all, s.CPU)
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[(len(all)-1)/2]
}

// Markdown writes the table as README shows it. Each way is set beside the ones
// named: the ratio of the middle times.
func (t Table) Markdown(w io.Writer, beside ...string) error {
	var b strings.Builder
	b.WriteString("| | min s | median s | max s | CPU s | peak MiB |")
	rule := "|---|---:|---:|---:|---:|---:|"
	for _, name := range beside {
		fmt.Fprintf(&b, " ÷ %s |", name)
		rule += "---:|"
	}
	b.WriteString("\n" + rule + "\n")
	for _, f := range t {
		least, middle, most := f.Wall()
		fmt.Fprintf(&b, "| %s | %.1f | %.1f | %.1f | %.1f | %d |", f.Name, least.Seconds(), middle.Seconds(), most.Seconds(), f.cpu().Seconds(), f.peak())
		for _, name := range beside {
			b.WriteString(" " + t.ratio(middle, name) + " |")
		}
		b.WriteString("\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (t Table) ratio(of time.Duration, name string) string {
	for _, f := range t {
		if _, middle, _ := f.Wall(); f.Name == name && middle > 0 {
			return fmt.Sprintf("%.2f", of.Seconds()/middle.Seconds())
		}
	}
	return "–"
}
