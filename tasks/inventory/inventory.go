// Package inventory tells from a root file system's tar what takes the space in
// it: which package brought how many bytes, and in which folders they lie.
package inventory

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// Inventory is what a root file system holds. Sizes are of the files' contents,
// before any compression; a file with several names counts once.
type Inventory struct {
	Bytes    int64     `json:"bytes"`
	Packages []Package `json:"packages"` // by name
	Other    int64     `json:"other"`    // bytes that no package brought
	Root     Folder    `json:"root"`
}

// Package is an installed package of the distribution.
type Package struct {
	Name         string `json:"name"`
	Version      string `json:"version"`
	Architecture string `json:"architecture"`
	Bytes        int64  `json:"bytes"`
	Files        int    `json:"files"`
}

// Folder is a folder with all below it. Those under a thousandth of the whole
// are part of their parent and not named.
type Folder struct {
	Name    string   `json:"name"` // the last element; / for the root
	Bytes   int64    `json:"bytes"`
	Folders []Folder `json:"folders,omitempty"` // by name
}

// maxEntry bounds what is read of one file of the package database, in bytes.
const maxEntry = 64 << 20

const (
	statusFile = "var/lib/dpkg/status"
	listFolder = "var/lib/dpkg/info"
)

// Read reads the tar of a Debian or Ubuntu root file system. One without a
// package database is an error.
func Read(r io.Reader) (Inventory, error) {
	t := tree{files: map[string]int64{}, links: map[string]string{}, lists: map[string][]string{}}
	if err := t.read(r); err != nil {
		return Inventory{}, fmt.Errorf("inventory: %w", err)
	}
	if t.packages == nil {
		return Inventory{}, fmt.Errorf("inventory: no %s", statusFile)
	}
	return t.inventory(), nil
}

// tree is what the tar holds.
type tree struct {
	files    map[string]int64    // regular files by path, without a leading slash
	links    map[string]string   // symbolic links of the top folder, such as bin
	lists    map[string][]string // paths by package, NAME or NAME:ARCHITECTURE
	packages []Package
}

func (t *tree) read(r io.Reader) error {
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		switch h.Typeflag {
		case tar.TypeSymlink:
			if !strings.Contains(name, "/") {
				t.links[name] = strings.TrimPrefix(path.Clean("/"+h.Linkname), "/")
			}
		case tar.TypeReg:
			t.files[name] = h.Size
			if err := t.database(name, io.LimitReader(in, maxEntry)); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
}

// database takes the file if it is one of the package database.
func (t *tree) database(name string, r io.Reader) (err error) {
	switch owner, isList := strings.CutSuffix(path.Base(name), ".list"); {
	case name == statusFile:
		t.packages, err = packages(r)
	case isList && path.Dir(name) == listFolder:
		var data []byte
		if data, err = io.ReadAll(r); err == nil {
			t.lists[owner] = strings.Split(strings.TrimSpace(string(data)), "\n")
		}
	}
	return err
}

// packages reads the installed ones of dpkg's status file.
func packages(r io.Reader) ([]Package, error) {
	list := []Package{}
	var p Package
	installed := false
	finish := func() {
		if p.Name != "" && installed {
			list = append(list, p)
		}
		p, installed = Package{}, false
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxEntry)
	for lines.Scan() {
		line := lines.Bytes()
		if len(bytes.TrimSpace(line)) == 0 {
			finish()
			continue
		}
		field, value, _ := strings.Cut(string(line), ":")
		value = strings.TrimSpace(value)
		switch field {
		case "Package":
			p.Name = value
		case "Version":
			p.Version = value
		case "Architecture":
			p.Architecture = value
		case "Status":
			installed = strings.HasSuffix(value, " installed")
		}
	}
	finish()
	slices.SortFunc(list, func(a, b Package) int { return strings.Compare(a.Name, b.Name) })
	return list, lines.Err()
}

func (t *tree) inventory() Inventory {
	inv := Inventory{Packages: t.packages}
	owned := map[string]bool{}
	for i := range inv.Packages {
		p := &inv.Packages[i]
		list, ok := t.lists[p.Name]
		if !ok {
			list = t.lists[p.Name+":"+p.Architecture]
		}
		for _, name := range list {
			name = t.resolve(name)
			size, there := t.files[name]
			if !there || owned[name] {
				continue // a folder, a link, a file that the image leaves out
			}
			owned[name] = true
			p.Bytes += size
			p.Files++
		}
	}
	root := &folder{}
	for name, size := range t.files {
		inv.Bytes += size
		if !owned[name] {
			inv.Other += size
		}
		root.add(strings.Split(path.Dir(name), "/"), size)
	}
	inv.Root = root.named("/", inv.Bytes/1000)
	return inv
}

// resolve returns the path as the tar has it: packages still name files by
// /bin and /lib, which are links today.
func (t *tree) resolve(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	first, rest, below := strings.Cut(name, "/")
	if target, ok := t.links[first]; ok && below {
		return path.Join(target, rest)
	}
	return name
}

// folder is a [Folder] in the making.
type folder struct {
	bytes   int64
	folders map[string]*folder
}

func (f *folder) add(elements []string, size int64) {
	f.bytes += size
	if len(elements) == 0 || elements[0] == "." {
		return
	}
	if f.folders == nil {
		f.folders = map[string]*folder{}
	}
	sub := f.folders[elements[0]]
	if sub == nil {
		sub = &folder{}
		f.folders[elements[0]] = sub
	}
	sub.add(elements[1:], size)
}

func (f *folder) named(name string, least int64) Folder {
	out := Folder{Name: name, Bytes: f.bytes}
	for n, sub := range f.folders {
		if sub.bytes >= least {
			out.Folders = append(out.Folders, sub.named(n, least))
		}
	}
	slices.SortFunc(out.Folders, func(a, b Folder) int { return strings.Compare(a.Name, b.Name) })
	return out
}
