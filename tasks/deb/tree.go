package deb

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// maxText is far above dpkg's status file and any copyright file, bytes.
const maxText = 64 << 20

const (
	statusFile = "var/lib/dpkg/status"
	docFolder  = "usr/share/doc/"
)

// ReadTree returns the packages of a root file system that is a tar archive, with
// their licences, sorted by ID.
func ReadTree(archive io.Reader) ([]Installed, error) {
	t := tree{files: map[string][]byte{}, links: map[string]string{}}
	if err := t.read(tar.NewReader(archive)); err != nil {
		return nil, err
	}
	status, ok := t.files[statusFile]
	if !ok {
		return nil, fmt.Errorf("the tree has no /%s", statusFile)
	}
	all, err := ReadStatus(bytes.NewReader(status))
	if err != nil {
		return nil, fmt.Errorf("/%s: %w", statusFile, err)
	}
	for i := range all {
		all[i].Licence = ReadCopyright(t.follow(docFolder + all[i].Name + "/copyright"))
	}
	return all, nil
}

// tree holds what says something of packages, by path without a leading slash.
type tree struct {
	files map[string][]byte
	links map[string]string // symbolic and hard, to the path that they mean
}

func (t tree) read(r *tar.Reader) error {
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := clean(h.Name)
		if name != statusFile && !strings.HasPrefix(name, docFolder) {
			continue
		}
		switch h.Typeflag {
		case tar.TypeSymlink:
			target := h.Linkname
			if !path.IsAbs(target) {
				target = path.Join("/", path.Dir(name), target)
			}
			t.links[name] = clean(target)
		case tar.TypeLink:
			t.links[name] = clean(h.Linkname)
		case tar.TypeReg:
			if h.Size > maxText {
				return fmt.Errorf("/%s has %d bytes", name, h.Size)
			}
			if t.files[name], err = io.ReadAll(r); err != nil {
				return fmt.Errorf("/%s: %w", name, err)
			}
		}
	}
}

func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// follow returns the content of a file that may be a link or lie in a folder that
// is one; nil where there is none, or the links go round.
func (t tree) follow(name string) []byte {
	for range 16 {
		if data, ok := t.files[name]; ok {
			return data
		}
		dir, base := path.Split(name)
		if to, ok := t.links[name]; ok {
			name = to
		} else if to, ok := t.links[path.Clean(dir)]; ok {
			name = path.Join(to, base)
		} else {
			return nil
		}
	}
	return nil
}
