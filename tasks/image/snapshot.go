package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"cc-base/tasks/fault"
	"cc-base/tasks/sh"
)

// Snapshot is a state of an image that is kept inside it.
type Snapshot struct {
	File string
	Do   string // create, list, revert or delete
	Name string // of the state; not with list
}

// actions are what can be done with a state, as qemu-img's flag.
func actions() map[string]string {
	return map[string]string{"create": "-c", "list": "", "revert": "-a", "delete": "-d"}
}

// snapshotName is what states are called here. qemu-img takes a number for the
// one that it has counted so.
var snapshotName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]{0,62}$`)

// Check returns what is wrong with the call, before any tool is needed.
func (s Snapshot) Check() error {
	_, err := s.check()
	return err
}

func (s Snapshot) check() (source, error) {
	var problems []error
	_, known := actions()[s.Do]
	switch {
	case !known:
		problems = append(problems, fmt.Errorf("%q is nothing to do; allowed: create, list, revert, delete", s.Do))
	case s.Do == "list" && s.Name != "":
		problems = append(problems, errors.New("list takes no -name"))
	case s.Do != "list" && s.Name == "":
		problems = append(problems, errors.New("-name=NAME is missing"))
	}
	if s.Name != "" && !snapshotName.MatchString(s.Name) {
		problems = append(problems, fmt.Errorf("-name=%q: a letter, then letters, digits, '.', '_' and '-', at most 63 in all", s.Name))
	}
	if len(problems) > 0 {
		return source{}, fault.New(fault.Usage, errors.Join(problems...)).Hint("mage image:snapshot create -name=NAME -file=FILE")
	}
	file, err := open(s.File)
	if err == nil && file.format != Qcow2 {
		err = fault.Newf(fault.Usage, "%s is raw, and only a qcow2 keeps snapshots", s.File).Hint("mage image:convert -file=%s -to=qcow2 -o=FILE", s.File)
	}
	return file, err
}

// Changes tells whether the image becomes another one.
func (s Snapshot) Changes() bool { return s.Do != "list" }

// metadata is more than a snapshot takes for tables, in bytes, of a disk of
// 1 TiB.
const metadata = 4 << 20

// Snapshot does what s says and prints to w what there is to list.
func (e Editor) Snapshot(ctx context.Context, s Snapshot, w io.Writer) error {
	file, err := s.check()
	if err != nil {
		return err
	}
	if !s.Changes() {
		d, err := e.inspect(ctx, file, true)
		if err != nil {
			return err
		}
		return writeSnapshots(w, d.Snapshots)
	}
	d, err := e.sound(ctx, file)
	if err != nil {
		return err
	}
	var names []string
	for _, x := range d.Snapshots {
		names = append(names, x.Name)
	}
	have := slices.Contains(names, s.Name)
	switch {
	case s.Do == "create" && have:
		return fault.Newf(fault.Usage, "%s has a snapshot %s already", file.path, s.Name).Hint("take another -name, or delete that one")
	case s.Do != "create" && !have && len(names) == 0:
		return fault.Newf(fault.Usage, "%s has no snapshots", file.path)
	case s.Do != "create" && !have:
		return fault.Newf(fault.Usage, "%s has no snapshot %s", file.path, s.Name).Hint("it has: %s", strings.Join(names, ", "))
	}
	if err := e.room(filepath.Dir(file.path), metadata); err != nil {
		return err
	}
	// It takes a moment, and one that was cut off would leave clusters that
	// nobody uses: what has begun is finished.
	ctx = context.WithoutCancel(ctx)
	if err := sh.Do(ctx, e.with(file), "qemu-img", "snapshot", "-q", actions()[s.Do], s.Name, file.path); err != nil {
		return e.failed(file, err)
	}
	if err := e.check(ctx, file); err != nil {
		return err
	}
	e.Event("%s: %s", file.path, map[string]string{
		"create": "kept this state as " + s.Name,
		"revert": "is again as it was when " + s.Name + " was made",
		"delete": "deleted " + s.Name,
	}[s.Do])
	return nil
}

func writeSnapshots(w io.Writer, all []rawSnapshot) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "no snapshots")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "snapshot\tmade")
	for _, x := range all {
		fmt.Fprintf(t, "%s\t%s\n", printable(x.Name), x.made().Format(time.DateTime))
	}
	return t.Flush()
}
