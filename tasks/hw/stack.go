package hw

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"cc-base/tasks/hw/signature"
)

// stacked adds what upper says of the devices that it stands on. The holders
// folder says the same from below, except for the members of an array that was
// not started and for a loop device over a disk.
func (s *scan) stacked(upper string) {
	dir := "sys/block/" + upper
	lower := s.list(dir + "/slaves")
	for _, entry := range s.list(dir + "/md") {
		if member, ok := strings.CutPrefix(entry, "dev-"); ok {
			lower = append(lower, member)
		}
	}
	if name := s.byPath(s.text(dir + "/loop/backing_file")); name != "" {
		lower = append(lower, name)
	}
	for _, name := range lower {
		if !slices.Contains(s.holders[name], upper) {
			s.holders[name] = append(s.holders[name], upper)
		}
	}
}

// paths returns the other nodes of the disk name.
func (s *scan) paths(name string) []string {
	for _, nodes := range s.wwids {
		if slices.Contains(nodes, name) {
			return slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { return n == name })
		}
	}
	return nil
}

// called names a holder with the name that its users know.
func (s *scan) called(name string) string {
	mapped := s.text("sys/block/" + name + "/dm/name")
	switch {
	case s.multipath(name):
		return fmt.Sprintf("%s (multipath %s)", name, mapped)
	case mapped != "":
		return fmt.Sprintf("%s (%s)", name, mapped)
	}
	return name
}

// RegularFile returns what the rules say of a file of size bytes as if it were
// a disk.
func RegularFile(path string, size int64, content io.ReaderAt) Device {
	d := Device{Name: path, Path: path, Kind: Regular, Size: size, SectorSize: 512}
	d.look(content)
	d.Members = memberships(d.Found)
	return d
}

// look reads the sectors of d.
func (d *Device) look(disk io.ReaderAt) {
	var err error
	if d.Found, err = signature.Find(disk, d.Size); err != nil {
		d.Unread = cause(err)
	}
}

// sectors reads what lies on d. What cannot be read cannot be judged.
func (s *scan) sectors(d *Device) {
	if d.Unreadable != "" || d.Size == 0 || d.Kind == Memory {
		return
	}
	if s.text("sys/block/"+d.Name+"/dm/suspended") == "1" {
		d.Unread = "it is suspended" // and a read would wait until it is resumed
		return
	}
	f, err := s.root.Open(strings.TrimPrefix(d.Path, "/"))
	if err != nil {
		d.Unread = cause(err)
		return
	}
	defer f.Close()
	disk, ok := f.(io.ReaderAt)
	if !ok {
		d.Unread = "it allows no random access"
		return
	}
	d.look(disk)
}

// cause is the error without the path, which the reader knows.
func cause(err error) string {
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}

// members fills the memberships of d from what stands directly on it or its
// partitions, and from its sectors. A partition is a member also when its
// whole disk is.
func (s *scan) members(d *Device) {
	for _, name := range append([]string{d.Name}, d.Partitions...) {
		for _, h := range s.holders[name] {
			if kind, ok := s.membership(h); ok {
				d.Members = append(d.Members, Member{kind, fmt.Sprintf("%s stands on it", s.called(h))})
			}
		}
	}
	d.Members = append(d.Members, memberships(d.Found)...)
	if disk := s.nodes[d.Parent]; disk != nil {
		for _, f := range disk.Found {
			if f.Part == 0 && f.Kind.Member() {
				d.Members = append(d.Members, Member{f.Kind, f.Name + " on the whole disk"})
			}
		}
	}
}

// memberships are those among the signatures.
func memberships(found []signature.Found) []Member {
	var out []Member
	for _, f := range found {
		if f.Kind.Member() {
			out = append(out, Member{f.Kind, f.String()})
		}
	}
	return out
}

// membership tells what a holder makes of the devices below it. The prefixes
// of dm/uuid are those by which the tools of device-mapper know their own.
func (s *scan) membership(holder string) (signature.Kind, bool) {
	dir := "sys/block/" + holder
	if _, err := fs.Stat(s.root, dir+"/md"); err == nil {
		return signature.RAID, true
	}
	switch prefix, _, _ := strings.Cut(s.text(dir+"/dm/uuid"), "-"); prefix {
	case "LVM":
		return signature.LVM, true
	case "DMRAID":
		return signature.RAID, true
	}
	return "", false
}
