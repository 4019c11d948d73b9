package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"sort"
	"strings"
	"time"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/fault"
)

// Layer is a set of entries to lay over a tree: an overlay folder, generated
// settings, a compiled program.
type Layer struct {
	Name    string
	Entries []Entry
}

// Entry is one file, directory or link of a layer. Owners are numeric, because
// the build machine's names mean nothing in the image.
type Entry struct {
	Path   string // absolute in the image, clean
	Type   byte   // tar.TypeReg, tar.TypeDir or tar.TypeSymlink
	Mode   int64  // permission bits
	UID    int
	GID    int
	Data   []byte // of a regular file
	Source string // file to read instead of Data
	Target string // of a symlink
}

// File returns a regular file owned by root.
func File(path string, mode int64, data []byte) Entry {
	return Entry{Path: path, Type: tar.TypeReg, Mode: mode, Data: data}
}

// Link returns a symbolic link owned by root.
func Link(path, target string) Entry {
	return Entry{Path: path, Type: tar.TypeSymlink, Mode: 0o777, Target: target}
}

// Dir returns a directory owned by root.
func Dir(path string, mode int64) Entry {
	return Entry{Path: path, Type: tar.TypeDir, Mode: mode}
}

// Dropped reports whether a path of the bootstrapped tree stays out of the
// image: what differs between two machines or two days (logs, caches, random
// seeds), what would tell where it was built (apt's sources), what the image
// never uses (package lists).
func Dropped(p string) bool {
	for _, dir := range []string{"/var/lib/apt/lists", "/var/cache", "/var/log", "/etc/apt/sources.list.d", "/tmp", "/var/tmp", "/run", "/dev", "/root"} {
		if strings.HasPrefix(p, dir+"/") {
			return true
		}
	}
	switch p {
	case "/etc/apt/sources.list", "/etc/machine-id", "/var/lib/dbus/machine-id", "/var/lib/systemd/random-seed",
		"/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/etc/.pwd.lock", "/etc/passwd-", "/etc/shadow-", "/etc/group-", "/etc/gshadow-", "/etc/subuid-", "/etc/subgid-":
		return true
	}
	return strings.HasPrefix(p, "/etc/ssh/ssh_host_") ||
		(strings.HasPrefix(p, "/boot/initrd.img") || strings.HasPrefix(p, "/initrd.img"))
}

// Merge copies the tar tree at base to out with drop left out and the layers
// laid over it, later ones over earlier ones, every time stamp at most epoch.
// Missing parent directories are made with mode 0755. Replacing a directory by
// anything else, or anything else by a directory, is an error: it would leave
// the directory's content without a place.
func Merge(ctx context.Context, base, out string, drop func(path string) bool, epoch int64, layers ...Layer) error {
	top, err := flatten(layers)
	if err != nil {
		return err
	}
	in, err := os.Open(base)
	if err != nil {
		return err
	}
	defer in.Close()
	return atomicfile.Fill(out, 0o644, func(w io.Writer) error {
		m := newMerger(w, top, epoch)
		if err := m.copyBase(ctx, in, drop); err != nil {
			return err
		}
		return m.finish()
	})
}

// Pack writes a tar tree that holds the layers and nothing else.
func Pack(out string, epoch int64, layers ...Layer) error {
	top, err := flatten(layers)
	if err != nil {
		return err
	}
	return atomicfile.Fill(out, 0o644, func(w io.Writer) error {
		m := newMerger(w, top, epoch)
		root := &tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: m.epoch, Format: tar.FormatPAX}
		if err := m.tw.WriteHeader(root); err != nil {
			return err
		}
		return m.finish()
	})
}

type layered struct {
	Entry
	layer string
}

func flatten(layers []Layer) (map[string]layered, error) {
	top := map[string]layered{}
	var errs []error
	for _, l := range layers {
		for _, e := range l.Entries {
			if !path.IsAbs(e.Path) || path.Clean(e.Path) != e.Path || e.Path == "/" {
				errs = append(errs, fmt.Errorf("%s: %q is not a clean absolute path", l.Name, e.Path))
				continue
			}
			if old, ok := top[e.Path]; ok && (old.Type == tar.TypeDir) != (e.Type == tar.TypeDir) {
				errs = append(errs, fmt.Errorf("%s: %s: %s has a directory where this has none, or the reverse", l.Name, e.Path, old.layer))
			}
			top[e.Path] = layered{e, l.Name}
		}
	}
	if len(errs) > 0 {
		return nil, fault.New(fault.Overlay, errors.Join(errs...))
	}
	return top, nil
}

type merger struct {
	tw    *tar.Writer
	top   map[string]layered
	seen  map[string]byte // path → type already written
	epoch time.Time
}

func newMerger(w io.Writer, top map[string]layered, epoch int64) *merger {
	return &merger{tw: tar.NewWriter(w), top: top, seen: map[string]byte{"/": tar.TypeDir}, epoch: time.Unix(epoch, 0)}
}

// finish writes what replaced nothing and ends the archive.
func (m *merger) finish() error {
	if err := m.addRest(); err != nil {
		return err
	}
	return m.tw.Close()
}

func (m *merger) copyBase(ctx context.Context, in io.Reader, drop func(string) bool) error {
	tr := tar.NewReader(in)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		p := path.Clean("/" + h.Name)
		if drop != nil && drop(p) {
			continue
		}
		if e, ok := m.top[p]; ok {
			if (h.Typeflag == tar.TypeDir) != (e.Type == tar.TypeDir) {
				return fault.Newf(fault.Overlay, "%s: %s: would replace a directory of the distribution by something else, or the reverse", e.layer, p)
			}
			if _, done := m.seen[p]; done {
				continue // as a parent, or the archive has the path twice
			}
			if err := m.write(e); err != nil {
				return err
			}
			continue
		}
		h.Name = strings.TrimPrefix(p, "/")
		if h.Typeflag == tar.TypeDir {
			h.Name += "/"
		}
		if p == "/" {
			h.Name = "./"
		}
		if h.Typeflag == tar.TypeLink {
			if err := m.hardLink(p, path.Clean("/"+h.Linkname)); err != nil {
				return err
			}
			h.Linkname = strings.TrimPrefix(path.Clean("/"+h.Linkname), "/")
		}
		h.Uname, h.Gname = "", ""
		h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
		if h.ModTime.After(m.epoch) {
			h.ModTime = m.epoch
		}
		h.Format = tar.FormatPAX
		if err := m.tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(m.tw, tr); err != nil {
			return err
		}
		m.seen[p] = h.Typeflag
	}
}

// hardLink refuses a second name of a file whose first name a layer replaces,
// since it would take on the layer's content, or that stays out.
func (m *merger) hardLink(p, target string) error {
	if e, ok := m.top[target]; ok {
		return fault.Newf(fault.Overlay, "%s: %s: the distribution has the same file as %s; replace both", e.layer, target, p)
	}
	if _, ok := m.seen[target]; !ok {
		return fault.Newf(fault.Overlay, "%s: is a hard link to %s, which is not in the image", p, target)
	}
	return nil
}

// addRest writes the layers' entries that replaced nothing, in path order.
func (m *merger) addRest() error {
	paths := make([]string, 0, len(m.top))
	for p := range m.top {
		if _, done := m.seen[p]; !done {
			paths = append(paths, p)
		}
	}
	sort.Strings(paths)
	for _, p := range paths {
		if err := m.write(m.top[p]); err != nil {
			return err
		}
	}
	return nil
}

func (m *merger) write(e layered) error {
	if err := m.parents(e); err != nil {
		return err
	}
	h := &tar.Header{
		Name: strings.TrimPrefix(e.Path, "/"), Typeflag: e.Type, Mode: e.Mode, Uid: e.UID, Gid: e.GID,
		Linkname: e.Target, ModTime: m.epoch, Format: tar.FormatPAX,
	}
	if e.Type == tar.TypeDir {
		h.Name += "/"
	}
	var data io.Reader = bytes.NewReader(e.Data)
	h.Size = int64(len(e.Data))
	if e.Source != "" {
		f, err := os.Open(e.Source)
		if err != nil {
			return fault.New(fault.Overlay, fmt.Errorf("%s: %w", e.layer, err))
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		h.Size, data = info.Size(), f
	}
	if e.Type != tar.TypeReg {
		h.Size = 0
	}
	if err := m.tw.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %s: %w", e.layer, e.Path, err)
	}
	m.seen[e.Path] = e.Type
	if e.Type != tar.TypeReg {
		return nil
	}
	_, err := io.Copy(m.tw, data)
	return err
}

func (m *merger) parents(e layered) error {
	for dir := path.Dir(e.Path); dir != "/"; dir = path.Dir(dir) {
		t, ok := m.seen[dir]
		if ok && t != tar.TypeDir {
			// /bin, /lib, /sbin are links into /usr: mkfs.erofs would drop
			// what is written through them.
			return fault.Newf(fault.Overlay, "%s: %s: %s is not a directory; write the path behind the link", e.layer, e.Path, dir)
		}
	}
	var missing []string
	for dir := path.Dir(e.Path); dir != "/"; dir = path.Dir(dir) {
		if _, ok := m.seen[dir]; !ok {
			missing = append(missing, dir)
		}
	}
	for i := len(missing) - 1; i >= 0; i-- {
		entry := layered{Dir(missing[i], 0o755), e.layer}
		if declared, ok := m.top[missing[i]]; ok {
			entry = declared
		}
		if err := m.write(entry); err != nil {
			return err
		}
	}
	return nil
}
