// Package monitor looks at what a build takes of its machine while it runs.
//
// Processor, disk and network are the whole machine's: programs of a build come and
// go too fast to add up their own figures, and what else runs on the machine is part
// of why a build is slow. Memory is that of the build's programs alone.
package monitor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/shirou/gopsutil/v4/cpu"
	"github.com/shirou/gopsutil/v4/disk"
	"github.com/shirou/gopsutil/v4/net"
)

// Sample is what was seen since the last one.
type Sample struct {
	At       float64 `json:"at"`       // seconds since the monitor began
	CPU      float64 `json:"cpu"`      // processors that were busy, of all that there are
	MemoryMB float64 `json:"memory"`   // MB that the programs of the build hold
	Read     float64 `json:"read"`     // MB per second from disks
	Written  float64 `json:"written"`  // MB per second to disks
	Received float64 `json:"received"` // MB per second from networks
	Sent     float64 `json:"sent"`     // MB per second to networks
}

// String is the sample in the width that a terminal has left for it.
func (s Sample) String() string {
	return fmt.Sprintf("cpu %.1f, mem %.0f MB, disk %.0f/%.0f, net %.1f/%.1f MB/s", s.CPU, s.MemoryMB, s.Read, s.Written, s.Received, s.Sent)
}

// counters are sums since the machine started.
type counters struct {
	at                            time.Time
	busy                          float64 // seconds of all processors
	read, written, received, sent uint64  // bytes
}

// look reads the machine's counters; root is /, of which only sys is read.
func look(ctx context.Context, root string) (c counters, err error) {
	c.at = time.Now()
	times, err := cpu.TimesWithContext(ctx, false)
	if err != nil || len(times) == 0 {
		return c, fmt.Errorf("processor times: %w", err)
	}
	t := times[0]
	c.busy = t.User + t.System + t.Nice + t.Irq + t.Softirq
	disks, err := disk.IOCountersWithContext(ctx)
	if err != nil {
		return c, fmt.Errorf("disks: %w", err)
	}
	for name, d := range disks {
		if physical(root, name) {
			c.read, c.written = c.read+d.ReadBytes, c.written+d.WriteBytes
		}
	}
	cards, err := net.IOCountersWithContext(ctx, true)
	if err != nil {
		return c, fmt.Errorf("networks: %w", err)
	}
	for _, n := range cards {
		if n.Name != "lo" {
			c.received, c.sent = c.received+n.BytesRecv, c.sent+n.BytesSent
		}
	}
	return c, nil
}

// physical tells a disk from its partitions, and from what is made of disks or of
// memory: those would count the same bytes twice.
func physical(root, name string) bool {
	if strings.HasPrefix(name, "dm-") || strings.HasPrefix(name, "md") || strings.HasPrefix(name, "loop") || strings.HasPrefix(name, "ram") || strings.HasPrefix(name, "zram") {
		return false
	}
	_, err := os.Stat(filepath.Join(root, "sys/block", name))
	return err == nil
}

// since is what happened between two looks.
func (c counters) since(before counters) Sample {
	seconds := c.at.Sub(before.at).Seconds()
	if seconds <= 0 {
		return Sample{}
	}
	rate := func(now, then uint64) float64 {
		if now < then { // a disk or card has gone
			return 0
		}
		return float64(now-then) / 1e6 / seconds
	}
	return Sample{
		CPU: max(c.busy-before.busy, 0) / seconds, Read: rate(c.read, before.read), Written: rate(c.written, before.written),
		Received: rate(c.received, before.received), Sent: rate(c.sent, before.sent),
	}
}

// Monitor takes samples until it is stopped.
type Monitor struct {
	began time.Time
	stop  context.CancelFunc
	done  chan struct{}

	mu      sync.Mutex
	samples []Sample
	err     error
}

// Start takes a sample now and then, a second apart if every is 0.
func Start(ctx context.Context, every time.Duration) *Monitor {
	if every == 0 {
		every = time.Second
	}
	ctx, stop := context.WithCancel(ctx)
	m := &Monitor{began: time.Now(), stop: stop, done: make(chan struct{})}
	go m.run(ctx, every)
	return m
}

func (m *Monitor) run(ctx context.Context, every time.Duration) {
	defer close(m.done)
	tick := time.NewTicker(every)
	defer tick.Stop()
	last, err := look(ctx, "/")
	for err == nil {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var now counters
		if now, err = look(ctx, "/"); err != nil {
			break
		}
		s := now.since(last)
		s.At, s.MemoryMB = now.at.Sub(m.began).Seconds(), float64(Held(os.Getpid()))*1024/1e6
		last = now
		m.mu.Lock()
		m.samples = append(m.samples, s)
		m.mu.Unlock()
	}
	if ctx.Err() == nil {
		m.mu.Lock()
		m.err = err
		m.mu.Unlock()
	}
}

// Last is the newest sample; ok is false before the first.
func (m *Monitor) Last() (s Sample, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.samples) == 0 {
		return Sample{}, false
	}
	return m.samples[len(m.samples)-1], true
}

// Stop ends the monitor and returns all samples. An error says why there are no
// later ones.
func (m *Monitor) Stop() ([]Sample, error) {
	m.stop()
	<-m.done
	return m.samples, m.err
}

// Span sums samples up.
type Span struct {
	Samples            int
	CPU                float64 // processors, on average
	PeakMB             float64 // of memory
	ReadMB, WrittenMB  float64 // from and to disks
	ReceivedMB, SentMB float64 // from and to networks
}

// Between sums up the samples from one moment to another, in seconds since the
// monitor began.
func Between(samples []Sample, from, to float64) Span {
	var span Span
	before := 0.0
	for _, s := range samples {
		seconds := s.At - before
		before = s.At
		if s.At < from || s.At > to {
			continue
		}
		span.Samples++
		span.CPU += s.CPU
		span.PeakMB = max(span.PeakMB, s.MemoryMB)
		span.ReadMB, span.WrittenMB = span.ReadMB+s.Read*seconds, span.WrittenMB+s.Written*seconds
		span.ReceivedMB, span.SentMB = span.ReceivedMB+s.Received*seconds, span.SentMB+s.Sent*seconds
	}
	if span.Samples > 0 {
		span.CPU /= float64(span.Samples)
	}
	return span
}
