package hw

import (
	"fmt"
	"slices"
	"strings"

	"cc-base/tasks/hw/signature"
)

// Reason is why a device is not a target.
type Reason string

// The reasons, in the order in which they are told. Holds, SeveralPaths,
// Removable, NotADisk and FromParts yield to a user who names the device; no
// other does.
const (
	Unjudged     Reason = "unreadable"    // the kernel does not tell enough, or the sectors cannot be read
	NotABlock    Reason = "regular-file"  // a file and no device
	InMemory     Reason = "memory"        // gone at the next boot
	SystemDisk   Reason = "system-disk"   // the running system lives on it
	Mounted      Reason = "mounted"       // it, a partition of it, or something built on it
	SwapInUse    Reason = "swap"          // the same, as swap space
	Held         Reason = "held"          // device-mapper, md, bcache … stands on it
	InUse        Reason = "in-use"        // a program writes to it, or the kernel refuses exclusive use
	RAIDMember   Reason = "raid"          // a member of an array, started or not
	LVMMember    Reason = "lvm"           // a physical volume, active or not
	ZFSMember    Reason = "zfs"           // of a pool, imported or not
	CephMember   Reason = "ceph"          // an OSD, running or not
	IsReadOnly   Reason = "read-only"     // write protected
	NoMedium     Reason = "no-medium"     // size 0
	TooSmall     Reason = "too-small"     // below the image
	SectorSize   Reason = "sector-size"   // the image's partition table counts in others
	Holds        Reason = "data"          // a partition table or data that may be wanted
	SeveralPaths Reason = "several-paths" // the disk has other nodes, which multipath would make one
	Removable    Reason = "removable"     // a stick, a card, anything on USB
	NotADisk     Reason = "partition"     // a partition, not a whole disk
	FromParts    Reason = "virtual"       // a loop, device-mapper or md device
)

// Member reports whether the reason is membership of something larger.
func (r Reason) Member() bool {
	return r == RAIDMember || r == LVMMember || r == ZFSMember || r == CephMember
}

// Refusal is a reason with what was found.
type Refusal struct {
	Reason Reason `json:"reason"`
	Detail string `json:"detail"`
}

// String returns the sentence for users.
func (r Refusal) String() string { return r.Detail }

// Need is what a target must offer.
type Need struct {
	Size       int64    // bytes; 0 means any
	SectorSize int64    // bytes of a logical block; 0 means any
	Named      bool     // the user named the device, it was not found by a search
	Files      bool     // a regular file will do
	Labels     []string // of the image's partitions: a disk with just these is a former installation, and free
}

// Verdict is what one rule says of a device.
type Verdict struct {
	Rule    Reason `json:"rule"`
	Refused bool   `json:"refused"`
	Detail  string `json:"detail,omitempty"` // what was found; with Refused false, it yields to the name that was given
}

// rule finds what is against a device, in words that complete "sda: …"; empty
// if nothing is.
type rule struct {
	reason Reason
	yields bool // to a user who names the device
	find   func(Device, Need) string
}

// rules has those that yield at its end: Judge tells at them whether another
// stands against the device.
func rules() []rule {
	return []rule{
		{Unjudged, false, unjudged},
		{NotABlock, false, func(d Device, need Need) string {
			return when(d.Kind == Regular && !need.Files, "it is a regular file")
		}},
		{InMemory, false, func(d Device, _ Need) string { return when(d.Kind == Memory, "it lives in memory") }},
		{SystemDisk, false, func(d Device, _ Need) string {
			return list("the running system lives on it (%s)", intersect(d.Mounts, systemPoints()))
		}},
		{Mounted, false, func(d Device, _ Need) string { return list("it is mounted at %s", d.Mounts) }},
		{SwapInUse, false, func(d Device, _ Need) string { return list("it is swap space (%s)", d.Swaps) }},
		{Held, false, func(d Device, _ Need) string { return list("it is held by %s", d.Holders) }},
		{InUse, false, func(d Device, _ Need) string { return list("it is open for writing by %s", d.Writers) }},
		{RAIDMember, false, member(signature.RAID, "it is a member of a RAID array (%s)")},
		{LVMMember, false, member(signature.LVM, "it belongs to LVM (%s)")},
		{ZFSMember, false, member(signature.ZFS, "it belongs to ZFS (%s)")},
		{CephMember, false, member(signature.Ceph, "it belongs to Ceph (%s)")},
		{IsReadOnly, false, func(d Device, _ Need) string { return when(d.ReadOnly, "it is read-only") }},
		{NoMedium, false, func(d Device, _ Need) string {
			return when(d.Size == 0 && d.Unreadable == "", "it holds no medium")
		}},
		{TooSmall, false, func(d Device, need Need) string {
			known := d.Size > 0 || d.Unreadable != ""
			return when(known && d.Size < need.Size, "it has %d bytes, the image needs %d", d.Size, need.Size)
		}},
		{SectorSize, false, func(d Device, need Need) string {
			differs := need.SectorSize > 0 && d.SectorSize > 0 && d.SectorSize != need.SectorSize
			return when(differs, "its sectors have %d bytes, the image is made for %d", d.SectorSize, need.SectorSize)
		}},
		{Holds, true, holds},
		{SeveralPaths, true, func(d Device, _ Need) string {
			return list("it is the same disk as %s, without multipath", d.OtherPaths)
		}},
		{Removable, true, func(d Device, _ Need) string { return when(d.Removable, "it is removable or on USB") }},
		{NotADisk, true, func(d Device, _ Need) string {
			return when(d.Kind == Partition, "it is a partition of %s", d.Parent)
		}},
		{FromParts, true, func(d Device, _ Need) string { return when(d.Kind == Virtual, "it is a virtual device") }},
	}
}

// Judge returns the verdict of every rule on d, in the order of the rules.
func Judge(d Device, need Need) []Verdict {
	var out []Verdict
	helps := true // to name the device
	for _, r := range rules() {
		v := Verdict{Rule: r.reason, Detail: r.find(d, need)}
		v.Refused = v.Detail != "" && !(r.yields && need.Named)
		helps = helps && (r.yields || !v.Refused)
		if v.Refused && r.yields && helps {
			v.Detail += "; name it to use it"
		}
		out = append(out, v)
	}
	return out
}

// Refusals returns every reason against d, not only the first: who fixes one
// wants to know the next. No reason means that d is a target as far as sysfs,
// procfs and its sectors can tell.
func Refusals(d Device, need Need) []Refusal { return Refused(Judge(d, need)) }

// Refused returns the verdicts against a device.
func Refused(verdicts []Verdict) []Refusal {
	var out []Refusal
	for _, v := range verdicts {
		if v.Refused {
			out = append(out, Refusal{v.Rule, v.Detail})
		}
	}
	return out
}

func unjudged(d Device, _ Need) string {
	if d.Unreadable != "" {
		return "the kernel does not tell " + d.Unreadable
	}
	return when(d.Unread != "", "its sectors cannot be read: %s", d.Unread)
}

// Former reports whether d holds an installation whose partitions have just
// these labels.
func (d Device) Former(labels []string) bool {
	return len(labels) > 0 && slices.ContainsFunc(d.Found, func(f signature.Found) bool {
		return f.Kind == signature.Table && slices.Equal(f.Labels, labels)
	})
}

// holds tells what is on a disk, members of something larger excepted, which
// have rules of their own. Partitions that the kernel sees count without a
// table that is known here.
func holds(d Device, need Need) string {
	if d.Former(need.Labels) {
		return "" // what is in its partitions is a former installation's as well
	}
	var what []string
	for _, f := range d.Found {
		if !f.Kind.Member() {
			what = append(what, f.String())
		}
	}
	if len(what) == 0 && len(d.Partitions) > 0 {
		what = []string{"the partitions " + strings.Join(d.Partitions, ", ")}
	}
	return list("it holds %s", what)
}

func member(kind signature.Kind, format string) func(Device, Need) string {
	return func(d Device, _ Need) string {
		var why []string
		for _, m := range d.Members {
			if m.Kind == kind {
				why = append(why, m.Why)
			}
		}
		return list(format, why)
	}
}

// list is empty for no items.
func list(format string, items []string) string {
	return when(len(items) > 0, format, strings.Join(items, ", "))
}

func when(condition bool, format string, args ...any) string {
	if !condition {
		return ""
	}
	return fmt.Sprintf(format, args...)
}

// systemPoints are the mount points without which the running system stops.
func systemPoints() []string { return []string{"/", "/boot", "/boot/efi", "/efi", "/usr", "/var"} }

func intersect(a, b []string) []string {
	var out []string
	for _, x := range a {
		if slices.Contains(b, x) {
			out = append(out, x)
		}
	}
	return out
}
