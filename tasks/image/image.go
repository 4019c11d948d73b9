// Package image looks after disk images once they are built: it converts,
// compresses and grows them, keeps states of them, and says what they hold.
//
// The rules, for every function here:
//
//   - All that can be wrong with a call is said at once, before anything is
//     written; [Conversion.Check] and its like need no tool for it.
//   - A file appears, or is replaced, whole or not at all: tools work on a part
//     beside it. Snapshots alone are made in place, by one short command that
//     QEMU orders so that a power cut costs space and no content.
//   - What would be lost for good is lost with Force only.
//   - An image is opened as the format that it was found to have: a raw disk
//     whose first sector a guest has written is never probed. One that names
//     another file (backing file, external data) is refused, because its maker
//     would choose what else is read.
package image

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/fault"
	"cc-base/tasks/sh"
	"cc-base/tasks/toolbox"
)

// The formats that there are.
const (
	Raw   = "raw"
	Qcow2 = "qcow2"
)

// Editor changes images with the programs of a tools tree.
type Editor struct {
	Tools    toolbox.Tree
	Event    func(format string, args ...any) // one line of what is done
	Terminal io.Writer                        // where progress is drawn; nil has it told by Event

	// free returns the bytes left for files in a folder; nil asks the system.
	free func(dir string) (int64, error)
}

// source is an image file that was looked at.
type source struct {
	path   string // without links
	format string
	info   os.FileInfo
}

// open finds the file and its format and refuses what this package does not
// work on. It reads the first sector and starts nothing.
func open(file string) (source, error) {
	path, err := filepath.EvalSymlinks(file)
	if err != nil {
		return source{}, noFile(file, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return source{}, noFile(file, err)
	}
	s := source{path: path, format: Raw, info: info}
	switch {
	case !info.Mode().IsRegular():
		return s, fault.Newf(fault.Usage, "%s is not a regular file", file)
	case info.Size() == 0:
		return s, fault.Newf(fault.ImageFile, "%s is empty", file)
	}
	if err := reachable(filepath.Dir(path)); err != nil {
		return s, err
	}
	head := make([]byte, 104)
	f, err := os.Open(path)
	if err != nil {
		return s, fault.New(fault.Usage, err)
	}
	defer f.Close()
	if n, err := f.ReadAt(head, 0); err != nil && (!errors.Is(err, io.EOF) || n < 4) {
		return s, fault.Newf(fault.ImageFile, "%s: %w", file, err)
	}
	if string(head[:4]) == "QFI\xfb" {
		s.format = Qcow2
		return s, selfContained(file, head)
	}
	if info.Size()%512 != 0 {
		return s, fault.Newf(fault.ImageFile, "%s is no image: neither qcow2, nor whole sectors of 512 bytes", file)
	}
	return s, nil
}

// Check tells whether a file can be an image, before any tool is needed.
func Check(file string) error {
	_, err := open(file)
	return err
}

func noFile(file string, err error) error {
	return fault.Newf(fault.Usage, "%s: %w", file, cause(err)).Hint("-file=FILE names an image; `mage build` makes the one that is meant without it")
}

// cause is err without the path that stands in the message already.
func cause(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// selfContained refuses a qcow2 that consists of more than its own file
// (source: QEMU's docs/interop/qcow2.txt, header).
func selfContained(file string, head []byte) error {
	var wrong string
	switch version := binary.BigEndian.Uint32(head[4:]); {
	case version != 2 && version != 3:
		wrong = fmt.Sprintf("is a qcow2 of version %d", version)
	case binary.BigEndian.Uint64(head[8:]) != 0:
		wrong = "has a backing file"
	case binary.BigEndian.Uint32(head[32:]) != 0:
		wrong = "is encrypted by QEMU"
	case version == 3 && binary.BigEndian.Uint64(head[72:])&4 != 0:
		wrong = "keeps its data in another file"
	default:
		return nil
	}
	return fault.Newf(fault.ImageFile, "%s %s", file, wrong)
}

// reachable refuses folders that cannot be bound into the tools tree without
// hiding its programs.
func reachable(dir string) error {
	top, _, _ := strings.Cut(strings.TrimPrefix(dir, "/"), "/")
	if top == "" || slices.Contains([]string{"bin", "etc", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "sys", "usr"}, top) {
		return fault.Newf(fault.Usage, "the tools cannot work in %s", dir).Hint("move the image to a folder of its own")
	}
	return nil
}

// disk is what qemu-img tells of an image.
type disk struct {
	source
	Size      int64           `json:"virtual-size"` // bytes
	Cluster   int64           `json:"cluster-size"` // bytes; 0 for raw
	Allocated int64           `json:"actual-size"`  // bytes on the host's disk
	Dirty     bool            `json:"dirty-flag"`
	Snapshots []rawSnapshot   `json:"snapshots"`
	Specific  json.RawMessage `json:"format-specific"`

	corrupt bool
}

type rawSnapshot struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Seconds int64  `json:"date-sec"`
	State   int64  `json:"vm-state-size"`
}

func (s rawSnapshot) made() time.Time { return time.Unix(s.Seconds, 0).UTC() }

// inspect asks qemu-img about the image. A shared look is one that a running
// machine does not forbid.
func (e Editor) inspect(ctx context.Context, s source, shared bool) (disk, error) {
	args := []string{"info", "--output=json", "-f", s.format, s.path}
	if shared {
		args = slices.Insert(args, 1, "-U")
	}
	text, err := sh.Text(ctx, e.with(s), "qemu-img", args...).String()
	if err != nil {
		return disk{}, e.failed(s, err)
	}
	d := disk{source: s}
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		return d, fault.Newf(fault.ImageFile, "%s: qemu-img info: %w", s.path, err)
	}
	var specific struct {
		Data struct {
			Corrupt bool `json:"corrupt"`
		} `json:"data"`
	}
	if len(d.Specific) > 0 {
		if err := json.Unmarshal(d.Specific, &specific); err != nil {
			return d, fault.Newf(fault.ImageFile, "%s: qemu-img info: %w", s.path, err)
		}
	}
	d.corrupt = specific.Data.Corrupt
	return d, nil
}

// sound is inspect for a file that is to be changed or copied: nobody may be
// using it, and it must be whole.
func (e Editor) sound(ctx context.Context, s source) (disk, error) {
	d, err := e.inspect(ctx, s, false)
	if err != nil {
		return d, err
	}
	if d.Dirty || d.corrupt {
		return d, fault.Newf(fault.ImageFile, "%s is marked as %s", s.path, flags(d)).
			Hint("work on a copy: `qemu-img check -r all COPY` repairs what can be repaired")
	}
	// QEMU reads tables that lie beyond the end of the file as zeros, and would
	// copy an empty disk without a word.
	return d, e.check(ctx, s)
}

func flags(d disk) string {
	var words []string
	if d.Dirty {
		words = append(words, "not cleanly closed")
	}
	if d.corrupt {
		words = append(words, "corrupt")
	}
	return strings.Join(words, " and ")
}

// with returns a tree that sees the folders of these images.
func (e Editor) with(images ...source) toolbox.Tree {
	tree := e.Tools
	for _, s := range images {
		if dir := filepath.Dir(s.path); !slices.Contains(tree.Binds, dir) {
			tree = tree.With(dir)
		}
	}
	return tree
}

// failed gives the failure of a tool its code. QEMU locks the images of running
// machines, and its words for that are the only sign of it.
func (e Editor) failed(s source, err error) error {
	var tool *sh.Error
	if errors.As(err, &tool) && strings.Contains(strings.Join(tool.Tail, "\n"), "Is another process using the image") {
		return fault.Newf(fault.ImageFile, "%s is in use by a running machine or program", s.path).Hint("shut the machine down first")
	}
	if errors.Is(err, unix.ENOSPC) {
		return fault.New(fault.HostSpace, err).Hint("free some space beside %s; nothing was changed", s.path)
	}
	return fault.New(fault.ImageFile, fmt.Errorf("%s: %w", s.path, err))
}

// leaked is the exit status of qemu-img check for an image that is sound but has
// clusters that nothing uses.
const leaked = 3

// check has qemu-img look at the metadata of a qcow2.
func (e Editor) check(ctx context.Context, s source) error {
	if s.format != Qcow2 {
		return nil
	}
	err := sh.Do(ctx, e.with(s), "qemu-img", "check", "-q", "-f", s.format, s.path)
	var tool *sh.Error
	if err == nil || errors.As(err, &tool) && tool.Code == leaked {
		return nil
	}
	return e.failed(s, err)
}

// room makes sure that dir takes so many bytes more.
func (e Editor) room(dir string, need int64) error {
	free := e.free
	if free == nil {
		free = freeBytes
	}
	have, err := free(dir)
	if err != nil {
		return fault.New(fault.HostSpace, fmt.Errorf("%s: %w", dir, err))
	}
	if have < need {
		return fault.Newf(fault.HostSpace, "%s has %s free, %s are needed", dir, Bytes(have), Bytes(need)).
			Hint("free some space, or name another folder where there is -o")
	}
	return nil
}

func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	if blocks := int64(st.Bavail); blocks < math.MaxInt64/st.Bsize {
		return blocks * st.Bsize, nil
	}
	return math.MaxInt64, nil
}

// publish gives the part the name of the image, and what else made the image
// another file than any: mode and owner.
func publish(part, path string, like os.FileInfo) error {
	if err := os.Chmod(part, like.Mode().Perm()); err != nil {
		return err
	}
	var was, is unix.Stat_t
	if err := errors.Join(unix.Stat(path, &was), unix.Stat(part, &is)); err != nil {
		return err
	}
	if was.Uid != is.Uid || was.Gid != is.Gid {
		if err := os.Chown(part, int(was.Uid), int(was.Gid)); err != nil {
			return err
		}
	}
	return atomicfile.Publish(part, path)
}

// Bytes renders a size in the unit that -by takes: 271 MiB.
func Bytes(n int64) string {
	for _, u := range []struct {
		shift uint
		name  string
	}{{40, "TiB"}, {30, "GiB"}, {20, "MiB"}, {10, "KiB"}} {
		if n >= 1<<u.shift {
			value := float64(n) / float64(int64(1)<<u.shift)
			if value < 10 && n&(1<<u.shift-1) != 0 {
				return fmt.Sprintf("%.1f %s", value, u.name)
			}
			return fmt.Sprintf("%.0f %s", value, u.name)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}
