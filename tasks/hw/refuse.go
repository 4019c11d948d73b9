package hw

import (
	"fmt"
	"slices"
	"strings"
)

// Reason is why a device is not a target.
type Reason string

// The reasons. NotADisk, Removable and FromParts yield to a user who names the
// device; no other does.
const (
	Mounted    Reason = "mounted"      // it, a partition of it, or something built on it
	SwapInUse  Reason = "swap"         // the same, as swap space
	Held       Reason = "held"         // device-mapper, md, bcache … stands on it
	SystemDisk Reason = "system-disk"  // the running system lives on it
	IsReadOnly Reason = "read-only"    // write protected
	Removable  Reason = "removable"    // a stick, a card, anything on USB
	NotADisk   Reason = "partition"    // a partition, not a whole disk
	FromParts  Reason = "virtual"      // a loop, device-mapper or md device
	InMemory   Reason = "memory"       // gone at the next boot
	NoMedium   Reason = "no-medium"    // size 0
	TooSmall   Reason = "too-small"    // below the image
	SectorSize Reason = "sector-size"  // the image's partition table counts in others
	Unjudged   Reason = "unreadable"   // the kernel does not tell enough
	InUse      Reason = "in-use"       // the kernel refuses exclusive use
	NotABlock  Reason = "regular-file" // a file and no device
)

// Refusal is a reason with what was found.
type Refusal struct {
	Reason Reason `json:"reason"`
	Detail string `json:"detail"`
}

// String returns the sentence for users.
func (r Refusal) String() string { return r.Detail }

// Need is what a target must offer.
type Need struct {
	Size       int64 // bytes; 0 means any
	SectorSize int64 // bytes of a logical block; 0 means any
	Named      bool  // the user named the device, it was not found by a search
}

// systemPoints are the mount points without which the running system stops.
func systemPoints() []string { return []string{"/", "/boot", "/boot/efi", "/efi", "/usr", "/var"} }

// Refusals returns every reason against d, not only the first: who fixes one
// wants to know the next. No reason means that d is a target as far as sysfs
// and procfs can tell.
func Refusals(d Device, need Need) []Refusal {
	var out []Refusal
	add := func(r Reason, format string, args ...any) {
		out = append(out, Refusal{r, fmt.Sprintf(format, args...)})
	}
	if d.Unreadable != "" {
		add(Unjudged, "the kernel does not tell %s", d.Unreadable)
	}
	if d.Kind == Memory {
		add(InMemory, "it lives in memory")
	}
	if system := intersect(d.Mounts, systemPoints()); len(system) > 0 {
		add(SystemDisk, "the running system lives on it (%s)", strings.Join(system, ", "))
	}
	if len(d.Mounts) > 0 {
		add(Mounted, "it is mounted at %s", strings.Join(d.Mounts, ", "))
	}
	if len(d.Swaps) > 0 {
		add(SwapInUse, "it is swap space (%s)", strings.Join(d.Swaps, ", "))
	}
	if len(d.Holders) > 0 {
		add(Held, "it is held by %s", strings.Join(d.Holders, ", "))
	}
	if d.ReadOnly {
		add(IsReadOnly, "it is read-only")
	}
	if d.Size == 0 && d.Unreadable == "" {
		add(NoMedium, "it holds no medium")
	} else if d.Size < need.Size {
		add(TooSmall, "it has %d bytes, the image needs %d", d.Size, need.Size)
	}
	if need.SectorSize > 0 && d.SectorSize > 0 && d.SectorSize != need.SectorSize {
		add(SectorSize, "its sectors have %d bytes, the image is made for %d", d.SectorSize, need.SectorSize)
	}
	if need.Named {
		return out
	}
	if d.Removable {
		add(Removable, "it is removable or on USB; name it to use it")
	}
	switch d.Kind {
	case Partition:
		add(NotADisk, "it is a partition of %s; name it to use it", d.Parent)
	case Virtual:
		add(FromParts, "it is a virtual device; name it to use it")
	}
	return out
}

func intersect(a, b []string) []string {
	var out []string
	for _, x := range a {
		if slices.Contains(b, x) {
			out = append(out, x)
		}
	}
	return out
}
