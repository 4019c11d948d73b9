// Package hwtest builds machines for tests: trees of sysfs and procfs in
// memory, and the sectors of their disks.
package hwtest

import (
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"testing/fstest"
	"time"
)

// Binary sizes in bytes.
const (
	MiB = int64(1) << 20
	GiB = int64(1) << 30
	TiB = int64(1) << 40
)

// Host is the root folder of a machine. Its methods add to it and return it,
// so that a machine reads as one expression.
type Host struct {
	fstest.MapFS
	disks map[string]Sectors // by path without the leading slash
}

// New returns a machine without disks.
func New() Host {
	h := Host{fstest.MapFS{}, map[string]Sectors{}}
	h.MapFS["sys/block"] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
	return h.File("proc/self/mountinfo", "")
}

// File adds a file.
func (h Host) File(name, text string) Host {
	h.MapFS[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
	return h
}

// Link adds a symbolic link.
func (h Host) Link(name, to string) Host {
	h.MapFS[name] = &fstest.MapFile{Data: []byte(to), Mode: fs.ModeSymlink | 0o777}
	return h
}

// Disk adds a blank disk with the usual files. Its number is MAJOR:MINOR, its
// size in bytes; more are KEY=VALUE pairs of files under its folder.
func (h Host) Disk(name, number string, size int64, more ...string) Host {
	return h.DiskAt("sys/block/"+name, name, number, size, more...)
}

// DiskAt adds a disk whose folder is dir.
func (h Host) DiskAt(dir, name, number string, size int64, more ...string) Host {
	h.Sectors(name, Blank(size))
	return h.node(dir, number, size, append([]string{"removable=0", "queue/logical_block_size=512", "queue/rotational=0"}, more...))
}

// Part adds a blank partition to a disk; number and size are as for [Host.Disk].
func (h Host) Part(disk, name, number string, size int64, more ...string) Host {
	h.Sectors(name, Blank(size))
	return h.node("sys/block/"+disk+"/"+name, number, size, append([]string{"partition=1"}, more...))
}

func (h Host) node(dir, number string, size int64, files []string) Host {
	for _, f := range append([]string{"dev=" + number, fmt.Sprintf("size=%d", size/512), "ro=0"}, files...) {
		key, value, _ := strings.Cut(f, "=")
		h.File(dir+"/"+key, value+"\n")
	}
	return h
}

// On puts upper onto each of the devices or partitions, which sysfs tells of
// both sides. A partition is DISK/NAME.
func (h Host) On(upper string, lower ...string) Host {
	for _, name := range lower {
		h.File("sys/block/"+name+"/holders/"+upper, "")
		h.File("sys/block/"+upper+"/slaves/"+name[strings.LastIndex(name, "/")+1:], "")
	}
	return h
}

// Mapped adds a blank device-mapper device.
func (h Host) Mapped(name, number string, size int64, mapped, uuid string, more ...string) Host {
	return h.Disk(name, number, size, append([]string{"dm/name=" + mapped, "dm/uuid=" + uuid, "dm/suspended=0"}, more...)...)
}

// Mount adds a mount of the device with the number.
func (h Host) Mount(number, point, fstype, source string) Host {
	return h.add("proc/self/mountinfo", mountLine(number, point, fstype, source))
}

// MountForFirst adds a mount that only process 1 has.
func (h Host) MountForFirst(number, point, fstype, source string) Host {
	return h.add("proc/1/mountinfo", mountLine(number, point, fstype, source))
}

func mountLine(number, point, fstype, source string) string {
	return fmt.Sprintf("29 1 %s / %s rw,relatime shared:1 - %s %s rw\n", number, point, fstype, source)
}

// Swap adds swap space.
func (h Host) Swap(path string) Host {
	return h.add("proc/swaps", path+" partition 1 0 100\n")
}

func (h Host) add(name, text string) Host {
	if f := h.MapFS[name]; f != nil {
		text = string(f.Data) + text
	}
	return h.File(name, text)
}

// Sectors sets what lies on the device or partition of that name.
func (h Host) Sectors(name string, s Sectors) Host {
	h.disks[path.Join("dev", strings.ReplaceAll(name, "!", "/"))] = s
	return h
}

// WithoutNode removes the node of a device, as a container lacks it.
func (h Host) WithoutNode(name string) Host {
	delete(h.disks, "dev/"+name)
	return h
}

// Open implements [fs.FS] with the disks as files.
func (h Host) Open(name string) (fs.File, error) {
	if s, ok := h.disks[name]; ok {
		return &node{SectionReader: io.NewSectionReader(s, 0, s.Size), name: name}, nil
	}
	return h.MapFS.Open(name)
}

// node is an open device.
type node struct {
	*io.SectionReader
	name string
}

func (n *node) Close() error               { return nil }
func (n *node) Stat() (fs.FileInfo, error) { return n, nil }
func (n *node) Name() string               { return n.name }
func (n *node) Mode() fs.FileMode          { return fs.ModeDevice | 0o600 }
func (n *node) ModTime() time.Time         { return time.Time{} }
func (n *node) IsDir() bool                { return false }
func (n *node) Sys() any                   { return nil }
