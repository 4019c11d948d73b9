package hw

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"cc-base/tasks/hw/signature"
)

// Class is the medium of a device, in the order of preference: a smaller one
// is preferred, whatever the sizes.
type Class int

// The classes.
const (
	NVMe Class = iota + 1
	SSD
	HDD
)

// String returns nvme, ssd or hdd.
func (c Class) String() string {
	switch c {
	case NVMe:
		return "nvme"
	case SSD:
		return "ssd"
	case HDD:
		return "hdd"
	}
	return "unknown"
}

// MarshalText makes JSON hold the name.
func (c Class) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// Kind is what a node of /dev stands for.
type Kind string

// The kinds. Virtual is a loop, device-mapper, md, nbd or similar device: it
// is made of something else. Memory is a RAM disk or compressed swap.
const (
	Disk      Kind = "disk"
	Partition Kind = "partition"
	Virtual   Kind = "virtual"
	Memory    Kind = "memory"
	Regular   Kind = "file"
)

// Number is a device number. Devices are compared by it and never by name:
// one disk has many names, and sda is a prefix of sdaa.
type Number struct{ Major, Minor uint32 }

// String returns MAJOR:MINOR as sysfs writes it.
func (n Number) String() string { return fmt.Sprintf("%d:%d", n.Major, n.Minor) }

// MarshalText makes JSON hold MAJOR:MINOR.
func (n Number) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (n *Number) UnmarshalText(text []byte) (err error) {
	*n, err = parseNumber(string(text))
	return err
}

// Member is a membership with how it is known.
type Member struct {
	Kind signature.Kind `json:"kind"`
	Why  string         `json:"why"` // "md0 stands on it", "an LVM physical volume in partition 3"
}

// Device is one disk or partition and how it is used. The uses are those of
// the device, of its partitions and of everything stacked on them.
type Device struct {
	Name       string   `json:"name"`                  // kernel name: nvme0n1
	Path       string   `json:"path"`                  // /dev/nvme0n1
	Number     Number   `json:"number"`                // of the node
	Kind       Kind     `json:"kind"`                  //
	Class      Class    `json:"class"`                 // medium, as the kernel reports it
	Parent     string   `json:"parent,omitempty"`      // name of the disk of a partition
	Size       int64    `json:"size"`                  // bytes; 0 means no medium
	SectorSize int64    `json:"sectorSize"`            // bytes of a logical block
	Model      string   `json:"model,omitempty"`       // as the device reports it
	Serial     string   `json:"serial,omitempty"`      // as the device reports it
	Removable  bool     `json:"removable"`             // by its flag, or because it hangs on USB
	ReadOnly   bool     `json:"readOnly"`              //
	Mounts     []string `json:"mounts,omitempty"`      // mount points, sorted
	Swaps      []string `json:"swaps,omitempty"`       // names of the nodes that are swap, sorted
	Holders    []string `json:"holders,omitempty"`     // what stands on it, sorted: "md0", "dm-0 (vg-root)"
	Writers    []string `json:"writers,omitempty"`     // programs that have it open for writing, sorted
	Partitions []string `json:"partitions,omitempty"`  // names of the partitions that the kernel sees
	OtherPaths []string `json:"otherPaths,omitempty"`  // names of other nodes of the same disk, by WWID and size, unless multipath holds it
	Members    []Member `json:"memberships,omitempty"` // what it is a part of, held at the moment or not
	// Found is what its sectors say.
	Found []signature.Found `json:"found,omitempty"`
	// Unread is why its sectors could not be read, empty if they were.
	Unread string `json:"unread,omitempty"`
	// Unreadable says which fact the kernel did not give. Such a device is
	// never a target: what cannot be judged is not safe.
	Unreadable string `json:"unreadable,omitempty"`
}

// Devices returns every disk and partition, those to be preferred as a target
// first. It fails when it cannot learn what is mounted, since every answer
// would then be too kind. The first and last sectors of every disk and
// partition are read. Mounts of namespaces other than this one and that of
// process 1 are not visible here; opening the device with O_EXCL finds them.
func Devices(root fs.FS) ([]Device, error) {
	names, err := fs.ReadDir(root, "sys/block")
	if err != nil {
		return nil, fmt.Errorf("listing block devices: %w", err)
	}
	s := scan{root: root, nodes: map[string]*Device{}, parts: map[string][]string{}, holders: map[string][]string{}, wwids: map[string][]string{}}
	for _, entry := range names {
		s.disk(entry.Name())
	}
	for _, entry := range names {
		s.stacked(entry.Name())
	}
	if err := s.uses(); err != nil {
		return nil, err
	}
	s.programs()
	for _, d := range s.nodes {
		s.sectors(d)
	}
	var all []Device
	for name, d := range s.nodes {
		s.collect(d, name)
		s.members(d)
		all = append(all, *d)
	}
	slices.SortFunc(all, ByPreference)
	return all, nil
}

// ByPreference orders targets: NVMe before SSD before HDD, then the larger
// first, then by name so that the order is always the same. It compares field
// after field; a sum of points would let a huge slow disk beat a fast one.
func ByPreference(a, b Device) int {
	return cmp.Or(cmp.Compare(a.Class, b.Class), cmp.Compare(b.Size, a.Size), strings.Compare(a.Name, b.Name))
}

// Lookup returns the device with the number.
func Lookup(devices []Device, n Number) (Device, bool) {
	for _, d := range devices {
		if d.Number == n && d.Unreadable == "" {
			return d, true
		}
	}
	return Device{}, false
}

type scan struct {
	root    fs.FS
	nodes   map[string]*Device  // by kernel name
	parts   map[string][]string // disk to its partitions
	holders map[string][]string // node to what is stacked on it
	writers map[string][]string // node to programs
	wwids   map[string][]string // WWID and size to the nodes that have both
	mounts  map[string][]string // node to mount points
	swaps   map[string]bool     // nodes that are swap
}

// disk reads one entry of /sys/block and its partitions.
func (s *scan) disk(name string) {
	dir := "sys/block/" + name
	if s.text(dir+"/hidden") == "1" {
		return // a path of an NVMe multipath device, it has no node
	}
	d := &Device{
		Name: name, Path: nodePath(name),
		Kind: s.kind(name), Class: s.class(dir, name),
		Model: s.text(dir + "/device/model"), Serial: s.text(dir + "/device/serial"),
		Removable: s.text(dir+"/removable") == "1" || s.onUSB(dir),
		ReadOnly:  s.text(dir+"/ro") == "1",
	}
	if d.Serial == "" {
		d.Serial = s.text(dir + "/serial") // virtio-blk keeps it here
	}
	s.numbers(d, dir)
	sector, err := strconv.ParseInt(s.text(dir+"/queue/logical_block_size"), 10, 64)
	if err != nil || sector < 512 {
		d.unreadable("its sector size")
	}
	d.SectorSize = sector
	s.nodes[name] = d
	s.holders[name] = s.list(dir + "/holders")
	for _, file := range []string{"/wwid", "/device/wwid"} {
		if id := s.text(dir + file); id != "" && d.Kind == Disk {
			// Cheap controllers give all their disks one WWID; paths to one
			// disk have one size as well.
			id = fmt.Sprintf("%s %d", id, d.Size)
			s.wwids[id] = append(s.wwids[id], name)
			break
		}
	}

	for _, sub := range s.list(dir) {
		if s.text(dir+"/"+sub+"/partition") == "" {
			continue
		}
		p := *d
		p.Partitions = nil
		p.Name, p.Path, p.Kind, p.Parent = sub, nodePath(sub), Partition, name
		p.ReadOnly = d.ReadOnly || s.text(dir+"/"+sub+"/ro") == "1"
		s.numbers(&p, dir+"/"+sub)
		s.nodes[sub] = &p
		d.Partitions = append(d.Partitions, sub)
		s.parts[name] = append(s.parts[name], sub)
		s.holders[sub] = s.list(dir + "/" + sub + "/holders")
	}
}

// numbers reads device number and size. The kernel counts size in 512-byte
// units whatever the sector size is.
func (s *scan) numbers(d *Device, dir string) {
	n, err := parseNumber(s.text(dir + "/dev"))
	if err != nil {
		d.unreadable("its device number")
	}
	d.Number = n
	units, err := strconv.ParseInt(s.text(dir+"/size"), 10, 64)
	if err != nil || units < 0 || units > 1<<53 {
		d.unreadable("its size")
		units = 0
	}
	d.Size = units * 512
}

func (d *Device) unreadable(what string) {
	if d.Unreadable == "" {
		d.Unreadable = what
	}
}

// class takes rotational at its word. A virtual disk often claims to rotate;
// that only costs it its place in the order.
func (s *scan) class(dir, name string) Class {
	paths := s.list(dir + "/slaves")
	if strings.HasPrefix(name, "nvme") || s.multipath(name) && len(paths) > 0 && strings.HasPrefix(paths[0], "nvme") {
		return NVMe
	}
	if s.text(dir+"/queue/rotational") == "0" {
		return SSD
	}
	return HDD
}

// onUSB follows /sys/block/NAME, a link into /sys/devices: USB disks larger
// than a stick report removable as 0, their place in the tree tells.
func (s *scan) onUSB(dir string) bool {
	link, err := fs.ReadLink(s.root, dir)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(strings.Split(link, "/"), func(part string) bool { return strings.HasPrefix(part, "usb") })
}

func (s *scan) text(name string) string {
	b, err := fs.ReadFile(s.root, name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (s *scan) list(dir string) []string {
	entries, err := fs.ReadDir(s.root, dir)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// kind takes a multipath device for the disk that it is: its paths are only
// ways to it.
func (s *scan) kind(name string) Kind {
	if s.multipath(name) {
		return Disk
	}
	return kindOf(name)
}

func (s *scan) multipath(name string) bool {
	return strings.HasPrefix(s.text("sys/block/"+name+"/dm/uuid"), "mpath-")
}

// kindOf knows the kernel's names for devices that are not disks of their own
// (Documentation/admin-guide/devices.txt).
func kindOf(name string) Kind {
	prefix := strings.TrimRight(name, "0123456789")
	switch {
	case prefix == "ram" || prefix == "zram":
		return Memory
	case slices.Contains([]string{"loop", "dm-", "md", "md_d", "nbd", "drbd", "bcache", "zd", "ublkb", "rbd"}, prefix):
		return Virtual
	}
	return Disk
}

// nodePath undoes the kernel's way of writing a slash in a name.
func nodePath(name string) string { return path.Join("/dev", strings.ReplaceAll(name, "!", "/")) }

func parseNumber(text string) (Number, error) {
	major, minor, ok := strings.Cut(text, ":")
	if !ok {
		return Number{}, errors.New("no colon")
	}
	a, errA := strconv.ParseUint(major, 10, 32)
	b, errB := strconv.ParseUint(minor, 10, 32)
	return Number{uint32(a), uint32(b)}, errors.Join(errA, errB)
}
