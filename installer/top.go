package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"cc-base/installer/virt"
	"cc-base/tasks/fault"
)

const topUsage = `  cc-install top NAME [--once] [--json]        processor, memory, disk and network of a running VM, a
                                               line every two seconds, as libvirt counts them
`

// topEvery is the time between two looks at the counters.
const topEvery = 2 * time.Second

// load is what a VM did between two looks.
type load struct {
	Name       string  `json:"name"`
	CPUPercent float64 `json:"cpu_percent"` // of one processor: two busy ones are 200
	VCPUs      int     `json:"vcpus"`
	Memory     int64   `json:"memory_bytes"`
	Read       int64   `json:"disk_read_bytes_per_second"`
	Written    int64   `json:"disk_written_bytes_per_second"`
	Received   int64   `json:"net_received_bytes_per_second"` // by the guest
	Sent       int64   `json:"net_sent_bytes_per_second"`
}

// between is the load from one look to the next. Counters that went back are
// those of a VM that was started anew, and count from zero.
func between(name string, from, to virt.Stats, passed time.Duration) load {
	l := load{Name: name, VCPUs: to.VCPUs, Memory: to.MemoryBytes}
	seconds := passed.Seconds()
	rate := func(from, to int64) int64 {
		if to < from {
			from = 0
		}
		return int64(float64(to-from) / seconds)
	}
	l.CPUPercent = float64(rate(int64(from.CPU), int64(to.CPU))) / float64(time.Second) * 100
	sum := func(s virt.Stats) (read, written, received, sent int64) {
		for _, b := range s.Blocks {
			read, written = read+b.ReadBytes, written+b.WriteBytes
		}
		for _, n := range s.Nets {
			// libvirt shows them from the guest's side (virsh(1), domifstat).
			received, sent = received+n.RxBytes, sent+n.TxBytes
		}
		return read, written, received, sent
	}
	r0, w0, in0, out0 := sum(from)
	r1, w1, in1, out1 := sum(to)
	l.Read, l.Written, l.Received, l.Sent = rate(r0, r1), rate(w0, w1), rate(in0, in1), rate(out0, out1)
	return l
}

// top shows the load of a VM until it ends or the user has seen enough.
func (a *app) top(ctx context.Context, args []string) error {
	set := flag.NewFlagSet("top", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	once := set.Bool("once", false, "")
	asJSON := set.Bool("json", false, "")
	var names []string
	for rest := args; ; {
		if err := set.Parse(rest); err != nil {
			return fault.New(fault.Usage, fmt.Errorf("top: %w", err)).Hint("cc-install help shows the usage")
		}
		if set.NArg() == 0 {
			break
		}
		names, rest = append(names, set.Arg(0)), set.Args()[1:]
	}
	if len(names) != 1 {
		return fault.Newf(fault.Usage, "top: %d names given", len(names)).Hint("cc-install help shows the usage")
	}
	return showLoad(ctx, a.out, a.virt(), names[0], *once, *asJSON, topEvery)
}

func showLoad(ctx context.Context, out io.Writer, c virt.Client, name string, once, asJSON bool, every time.Duration) error {
	last, at, err := lookAt(ctx, c, name)
	if err != nil {
		return err
	}
	if !asJSON {
		fmt.Fprintf(out, "%8s %6s %9s %11s %11s %11s %11s\n", "CPU", "VCPUS", "MEMORY", "READ/S", "WRITTEN/S", "RECEIVED/S", "SENT/S")
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil // the user has seen enough
		case <-tick.C:
		}
		now, then, err := lookAt(ctx, c, name)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		l := between(name, last, now, then.Sub(at))
		last, at = now, then
		if asJSON {
			if err := json.NewEncoder(out).Encode(l); err != nil {
				return err
			}
		} else {
			fmt.Fprintf(out, "%7.1f%% %6d %9s %11s %11s %11s %11s\n", l.CPUPercent, l.VCPUs, size(l.Memory), size(l.Read), size(l.Written), size(l.Received), size(l.Sent))
		}
		if once {
			return nil
		}
	}
}

// running is virDomainState's VIR_DOMAIN_RUNNING (libvirt-domain.h).
const running = 1

func lookAt(ctx context.Context, c virt.Client, name string) (virt.Stats, time.Time, error) {
	s, err := c.Stats(ctx, name)
	if err == nil && s.State != running {
		err = fault.Newf(fault.Machine, "%s does not run", name).Hint("start it: virsh start %s", name)
	}
	return s, time.Now(), err
}

// size shows bytes with the unit that leaves one to four digits.
func size(bytes int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	n := float64(bytes)
	for len(units) > 1 && n >= 1024 {
		n, units = n/1024, units[1:]
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", n), ".0") + " " + units[0]
}
