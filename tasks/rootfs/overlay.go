package rootfs

import (
	"archive/tar"
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"cc-base/tasks/fault"
)

// ReadOverlay reads the overlay folder dir: the files under dir/tree, and the
// exceptions in dir/modes.
//
// Owners and modes never come from the checkout, whose umask and user differ
// between machines: a file is root's with mode 0644, or 0755 when its owner may
// execute it (the one bit that git keeps), a directory 0755, a symlink stays as
// it is. Each line of dir/modes declares an exception, or, with a slash at the
// end, an empty directory, which git cannot hold:
//
//	0440 0:42 /etc/example    # comment
//	0755 0:0  /opt/example/
func ReadOverlay(dir string) (Layer, error) {
	layer := Layer{Name: filepath.Join("overlays", filepath.Base(dir))}
	modesFile := filepath.Join(dir, "modes")
	modes, errs := readModes(modesFile)
	hint := len(errs) > 0
	tree := filepath.Join(dir, "tree")
	err := filepath.WalkDir(tree, func(file string, d fs.DirEntry, err error) error {
		if err != nil || file == tree {
			return err
		}
		rel, err := filepath.Rel(tree, file)
		if err != nil {
			return err
		}
		p := "/" + filepath.ToSlash(rel)
		x, declared := modes[p]
		delete(modes, p)
		e, err := overlayEntry(p, file, d)
		if err != nil {
			errs = append(errs, problem{err: err})
			return nil
		}
		if declared {
			if x.dir && !d.IsDir() {
				errs = append(errs, problem{x.line, fmt.Errorf("%s:%d: %s: the overlay has a file of this name", modesFile, x.line, p)})
			}
			e.Mode, e.UID, e.GID = x.mode, x.uid, x.gid
		}
		layer.Entries = append(layer.Entries, e)
		return nil
	})
	if err != nil {
		errs = append(errs, problem{err: err})
	}
	for p, x := range modes {
		if x.dir {
			layer.Entries = append(layer.Entries, Entry{Path: p, Type: tar.TypeDir, Mode: x.mode, UID: x.uid, GID: x.gid})
			continue
		}
		errs = append(errs, problem{x.line, fmt.Errorf("%s:%d: %s: no such file in the overlay", modesFile, x.line, p)})
	}
	if len(errs) > 0 {
		return Layer{}, overlayError(errs, hint)
	}
	slices.SortFunc(layer.Entries, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	return layer, nil
}

// problem is an error and the line of modes that it is about, 0 for none.
type problem struct {
	line int
	err  error
}

// overlayError joins the problems in the order of the lines.
func overlayError(problems []problem, hint bool) error {
	slices.SortStableFunc(problems, func(a, b problem) int { return cmp.Compare(a.line, b.line) })
	var errs []error
	for _, p := range problems {
		errs = append(errs, p.err)
	}
	err := fault.New(fault.Overlay, errors.Join(errs...))
	if hint {
		err.Hint("a line is: MODE UID:GID PATH, as in 0440 0:42 /etc/example")
	}
	return err
}

func overlayEntry(p, file string, d fs.DirEntry) (Entry, error) {
	switch {
	case d.IsDir():
		return Dir(p, 0o755), nil
	case d.Type()&fs.ModeSymlink != 0:
		target, err := os.Readlink(file)
		return Link(p, target), err
	case !d.Type().IsRegular():
		return Entry{}, fmt.Errorf("%s: only files, directories and symlinks can be overlaid", file)
	}
	info, err := d.Info()
	if err != nil {
		return Entry{}, err
	}
	e := Entry{Path: p, Type: tar.TypeReg, Mode: 0o644, Source: file}
	if info.Mode()&0o100 != 0 {
		e.Mode = 0o755
	}
	return e, nil
}

type exception struct {
	mode     int64
	uid, gid int
	dir      bool // an empty directory to be made
	line     int
}

func readModes(file string) (map[string]exception, []problem) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, []problem{{err: err}}
	}
	defer f.Close()
	modes := map[string]exception{}
	var errs []problem
	in := bufio.NewScanner(f)
	for n := 1; in.Scan(); n++ {
		text, _, _ := strings.Cut(in.Text(), "#")
		fields := strings.Fields(text)
		if len(fields) == 0 {
			continue
		}
		x, p, err := parseMode(fields)
		if _, twice := modes[p]; err == nil && twice {
			err = fmt.Errorf("%s: declared twice", p)
		}
		if err != nil {
			errs = append(errs, problem{n, fmt.Errorf("%s:%d: %w", file, n, err)})
			continue
		}
		x.line = n
		modes[p] = x
	}
	if err := in.Err(); err != nil {
		errs = append(errs, problem{err: fmt.Errorf("%s: %w", file, err)})
	}
	return modes, errs
}

func parseMode(fields []string) (exception, string, error) {
	if len(fields) != 3 {
		return exception{}, "", fmt.Errorf("%d fields where 3 are expected", len(fields))
	}
	mode, err := strconv.ParseUint(fields[0], 8, 32)
	if err != nil || mode > 0o7777 {
		return exception{}, "", fmt.Errorf("mode %q is not an octal number up to 7777", fields[0])
	}
	user, group, ok := strings.Cut(fields[1], ":")
	uid, err1 := strconv.ParseUint(user, 10, 31)
	gid, err2 := strconv.ParseUint(group, 10, 31)
	if !ok || err1 != nil || err2 != nil {
		return exception{}, "", fmt.Errorf("owner %q is not UID:GID", fields[1])
	}
	p, dir := strings.CutSuffix(fields[2], "/")
	if !path.IsAbs(p) || path.Clean(p) != p {
		return exception{}, "", fmt.Errorf("path %q is not clean and absolute", fields[2])
	}
	return exception{mode: int64(mode), uid: int(uid), gid: int(gid), dir: dir}, p, nil
}
