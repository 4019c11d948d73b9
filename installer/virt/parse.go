package virt

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"cc-base/tasks/fault"
)

// Number is a version such as 11.3.0.
type Number struct{ Major, Minor, Release int }

// AtLeast tells whether n is major.minor or later.
func (n Number) AtLeast(major, minor int) bool {
	return n.Major > major || n.Major == major && n.Minor >= minor
}

func (n Number) String() string { return fmt.Sprintf("%d.%d.%d", n.Major, n.Minor, n.Release) }

// Versions are those of the three parts that a domain depends on.
type Versions struct {
	Library    Number // of virsh
	Daemon     Number
	Hypervisor Number // QEMU; zero where libvirt found none
}

var versionLine = regexp.MustCompile(`(?m)^(Using library|Running hypervisor|Running against daemon): .*?([0-9]+)\.([0-9]+)\.([0-9]+)$`)

// Version returns the versions of virsh, the daemon and QEMU.
func (c Client) Version(ctx context.Context) (Versions, error) {
	out, err := c.text(ctx, "version", "--daemon")
	if err != nil {
		return Versions{}, err
	}
	return parseVersions(out)
}

func parseVersions(out string) (Versions, error) {
	var v Versions
	for _, m := range versionLine.FindAllStringSubmatch(out, -1) {
		var n Number
		for i, part := range []*int{&n.Major, &n.Minor, &n.Release} {
			var err error
			if *part, err = strconv.Atoi(m[2+i]); err != nil {
				return Versions{}, fault.Newf(fault.Libvirt, "virsh version: %w", err)
			}
		}
		switch m[1] {
		case "Using library":
			v.Library = n
		case "Running hypervisor":
			v.Hypervisor = n
		case "Running against daemon":
			v.Daemon = n
		}
	}
	if v.Library == (Number{}) || v.Daemon == (Number{}) {
		return Versions{}, fault.Newf(fault.Libvirt, "virsh version names no version: %q", out)
	}
	return v, nil
}

// Stats are a domain's counters since it was started (virsh(1), domstats).
type Stats struct {
	State       int           `json:"state"`        // virDomainState: 1 running, 5 shut off
	CPU         time.Duration `json:"cpu_ns"`       // of all virtual processors and of QEMU itself
	VCPUs       int           `json:"vcpus"`        // in use
	MemoryBytes int64         `json:"memory_bytes"` // that the guest has
	RSSBytes    int64         `json:"rss_bytes"`    // of QEMU that lie in the host's memory; zero with guest_memfd
	Blocks      []Block       `json:"blocks"`
	Nets        []Net         `json:"nets"`
}

// Block is a disk's counters.
type Block struct {
	Name       string `json:"name"` // in the domain, such as vda
	Reads      int64  `json:"reads"`
	ReadBytes  int64  `json:"read_bytes"`
	Writes     int64  `json:"writes"`
	WriteBytes int64  `json:"write_bytes"`
}

// Net is a network card's counters, as the host sees it: what the guest sends
// is received.
type Net struct {
	Name    string `json:"name"` // on the host, such as vnet0
	RxBytes int64  `json:"rx_bytes"`
	TxBytes int64  `json:"tx_bytes"`
	RxDrop  int64  `json:"rx_drop"`
	TxDrop  int64  `json:"tx_drop"`
}

// Stats returns a domain's counters.
func (c Client) Stats(ctx context.Context, name string) (Stats, error) {
	out, err := c.text(ctx, "domstats", "--state", "--cpu-total", "--vcpu", "--balloon", "--block", "--interface", name)
	if err != nil {
		return Stats{}, err
	}
	return parseStats(out)
}

const kib = 1024 // libvirt counts memory in KiB

func parseStats(out string) (Stats, error) {
	values := map[string]string{}
	for _, line := range lines(out) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			values[key] = value
		}
	}
	var bad error
	get := func(format string, args ...any) int64 {
		key := fmt.Sprintf(format, args...)
		text, ok := values[key]
		if !ok {
			return 0 // which counters there are depends on version and state
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			bad = fault.Newf(fault.Libvirt, "virsh domstats: %s=%s: %w", key, text, err)
		}
		return n
	}
	if _, ok := values["state.state"]; !ok {
		return Stats{}, fault.Newf(fault.Libvirt, "virsh domstats names no state: %q", out)
	}
	s := Stats{
		State: int(get("state.state")), CPU: time.Duration(get("cpu.time")), VCPUs: int(get("vcpu.current")),
		MemoryBytes: get("balloon.current") * kib, RSSBytes: get("balloon.rss") * kib,
	}
	for i := range get("block.count") {
		s.Blocks = append(s.Blocks, Block{
			Name:  values[fmt.Sprintf("block.%d.name", i)],
			Reads: get("block.%d.rd.reqs", i), ReadBytes: get("block.%d.rd.bytes", i),
			Writes: get("block.%d.wr.reqs", i), WriteBytes: get("block.%d.wr.bytes", i),
		})
		if bad != nil {
			return Stats{}, bad // a count without end is one, too
		}
	}
	for i := range get("net.count") {
		s.Nets = append(s.Nets, Net{
			Name:    values[fmt.Sprintf("net.%d.name", i)],
			RxBytes: get("net.%d.rx.bytes", i), TxBytes: get("net.%d.tx.bytes", i),
			RxDrop: get("net.%d.rx.drop", i), TxDrop: get("net.%d.tx.drop", i),
		})
		if bad != nil {
			return Stats{}, bad
		}
	}
	return s, bad
}

// filterNames reads `virsh nwfilter-list`: an UUID and a name in each line.
func filterNames(out string) []string {
	var names []string
	for _, line := range lines(out) {
		fields := strings.Fields(line)
		if len(fields) == 2 && strings.Count(fields[0], "-") == 4 {
			names = append(names, fields[1])
		}
	}
	return sorted(names)
}

func sorted(names []string) []string {
	for i := range names {
		names[i] = strings.TrimSpace(names[i])
	}
	slices.Sort(names)
	return names
}
