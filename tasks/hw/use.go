package hw

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// uses fills mounts and swaps from /proc/self/mountinfo, /proc/swaps and, for
// btrfs, whose mounts bear an anonymous device number, /sys/fs/btrfs.
func (s *scan) uses() error {
	byNumber := map[Number]string{}
	for name, d := range s.nodes {
		byNumber[d.Number] = name
	}
	s.mounts, s.swaps = map[string][]string{}, map[string]bool{}

	info, err := fs.ReadFile(s.root, "proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("reading what is mounted: %w", err)
	}
	// A service or a container has mounts of its own; those of the host are
	// process 1's. An ordinary user may not read them, and has no use for them.
	first, err := fs.ReadFile(s.root, "proc/1/mountinfo")
	if err == nil {
		info = append(info, first...)
	}
	for line := range strings.Lines(string(info)) {
		m, err := parseMount(line)
		if err != nil {
			return fmt.Errorf("proc/self/mountinfo: %w", err)
		}
		names := []string{byNumber[m.number]}
		if m.number.Major == 0 {
			names = s.sources(m.source)
		}
		for _, name := range names {
			if name != "" {
				s.mounts[name] = append(s.mounts[name], m.point)
			}
		}
	}

	swaps, err := fs.ReadFile(s.root, "proc/swaps")
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel without swap has no such file
		return fmt.Errorf("reading what is swap: %w", err)
	}
	for line := range strings.Lines(string(swaps)) {
		fields := strings.Fields(line)
		if len(fields) >= 2 && fields[1] == "partition" {
			if name := s.byPath(unescape(fields[0])); name != "" {
				s.swaps[name] = true
			}
		}
	}
	return nil
}

// sources returns the nodes behind a mount without a device number of its own:
// its source, and with it all members of a btrfs that spans several devices.
func (s *scan) sources(source string) []string {
	name := s.byPath(source)
	if name == "" {
		return nil
	}
	for _, uuid := range s.list("sys/fs/btrfs") {
		if members := s.list("sys/fs/btrfs/" + uuid + "/devices"); slices.Contains(members, name) {
			return members
		}
	}
	return []string{name}
}

// byPath returns the kernel name of a /dev path: the path itself, or for
// /dev/mapper/NAME the device whose dm/name that is.
func (s *scan) byPath(p string) string {
	if !strings.HasPrefix(p, "/dev/") {
		return ""
	}
	for name, d := range s.nodes {
		mapped := s.text("sys/block/" + name + "/dm/name")
		if d.Path == p || mapped != "" && p == "/dev/mapper/"+mapped {
			return name
		}
	}
	return ""
}

// collect gathers in d the uses of node name and of all that stands on it. A
// partition is used also when its whole disk is held or mounted.
func (s *scan) collect(d *Device, name string) {
	seen := map[string]bool{}
	var visit func(string)
	visit = func(n string) {
		if seen[n] {
			return
		}
		seen[n] = true
		d.Mounts = append(d.Mounts, s.mounts[n]...)
		d.Writers = append(d.Writers, s.writers[n]...)
		if s.swaps[n] {
			d.Swaps = append(d.Swaps, n)
		}
		for _, h := range s.holders[n] {
			d.Holders = append(d.Holders, s.called(h))
			visit(h)
		}
		for _, p := range s.parts[n] {
			visit(p)
		}
		for _, p := range s.paths(n) {
			visit(p)
		}
	}
	visit(name)
	if !slices.ContainsFunc(s.holders[name], s.multipath) {
		d.OtherPaths = s.paths(name)
	}
	if d.Parent != "" {
		d.OtherPaths = s.paths(d.Parent)
		for _, p := range d.OtherPaths {
			visit(p)
		}
		d.Mounts = append(d.Mounts, s.mounts[d.Parent]...)
		d.Writers = append(d.Writers, s.writers[d.Parent]...)
		for _, h := range s.holders[d.Parent] {
			d.Holders = append(d.Holders, s.called(h))
		}
	}
	for _, list := range []*[]string{&d.Mounts, &d.Swaps, &d.Holders, &d.Writers} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
}

type mount struct {
	number Number
	point  string
	source string
}

// parseMount reads a line of mountinfo (proc_pid_mountinfo(5)): fields 3 and 5
// are number and mount point, the source is the second field after the lone
// hyphen that ends the optional fields.
func parseMount(line string) (mount, error) {
	before, after, ok := strings.Cut(line, " - ")
	fields, rest := strings.Fields(before), strings.Fields(after)
	if !ok || len(fields) < 6 || len(rest) < 1 {
		return mount{}, fmt.Errorf("malformed line %q", line)
	}
	n, err := parseNumber(fields[2])
	if err != nil {
		return mount{}, fmt.Errorf("malformed line %q", line)
	}
	m := mount{number: n, point: unescape(fields[4])}
	if len(rest) > 1 {
		m.source = unescape(rest[1])
	}
	return m, nil
}

// unescape undoes the octal escapes with which the kernel writes blanks in
// paths.
func unescape(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+3 < len(text) {
			if v, err := strconv.ParseUint(text[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(text[i])
	}
	return b.String()
}
