package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"cc-base/tasks/fault"
	"cc-base/tasks/image"
	"cc-base/tasks/manifest"
)

// diskImage is the name of the disk image in the output folder.
const diskImage = "cc-base.qcow2"

// changed tells whether the disk image is there and not as the package stage
// has left it. A stage that was killed half-way has no record, and its image is
// nobody's work.
func (o Options) changed() bool {
	b := &Build{Options: o}
	r, err := b.load("package")
	if err != nil {
		return false
	}
	for _, made := range r.Outputs {
		if filepath.Base(made.Path) != diskImage {
			continue
		}
		made.Path = b.out(diskImage) // the folder may have been moved
		return exists(made.Path) && !made.unchanged()
	}
	return false
}

// keeps tells whether the disk image is one that no build may write over.
func (o Options) keeps() bool { return !o.Force && o.changed() }

// sparesChanged refuses a build through target that would write over a disk
// image which was changed since it was built.
func (o Options) sparesChanged(target string) error {
	if !reaches(target, "package") || !o.keeps() {
		return nil
	}
	return fault.Newf(fault.ImageKept, "%s is not as it was built, and building would write over it", filepath.Join(o.OutDir, diskImage)).
		Hint("`mage image:convert -to=qcow2 -o=FILE` copies it, CC_FORCE=1 builds all the same (with package and sign also -force); `mage vm` boots it as it is")
}

// reaches tells whether building target passes the stage.
func reaches(target, passed string) bool {
	seen := false
	for _, s := range stages() {
		seen = seen || s.name == passed
		if s.name == target {
			return seen
		}
	}
	return false
}

// ConvertImage writes an image anew, in another format or compressed.
func ConvertImage(ctx context.Context, o Options, c image.Conversion) error {
	var err error
	if c.Out != "" {
		if c.Out, err = filepath.Abs(c.Out); err != nil {
			return err
		}
	}
	if c.File, err = o.imageFile(c.File, c.Out == ""); err != nil {
		return err
	}
	if err := c.Check(); err != nil {
		return err
	}
	if c.Out != "" {
		if err := o.notBuilt(c.Out); err != nil {
			return err
		}
	}
	return o.edit(ctx, func(ctx context.Context, e image.Editor) error { return e.Convert(ctx, c) })
}

// ResizeImage makes a disk larger.
func ResizeImage(ctx context.Context, o Options, g image.Growth) (err error) {
	if g.File, err = o.imageFile(g.File, true); err != nil {
		return err
	}
	if err := g.Check(); err != nil {
		return err
	}
	return o.edit(ctx, func(ctx context.Context, e image.Editor) error { return e.Resize(ctx, g) })
}

// SnapshotImage keeps states of a disk, and prints to w which there are.
func SnapshotImage(ctx context.Context, o Options, s image.Snapshot, w io.Writer) (err error) {
	if s.File, err = o.imageFile(s.File, s.Changes()); err != nil {
		return err
	}
	if err := s.Check(); err != nil {
		return err
	}
	do := o.edit
	if !s.Changes() {
		do = o.view
	}
	return do(ctx, func(ctx context.Context, e image.Editor) error { return e.Snapshot(ctx, s, w) })
}

// ShowImage prints what an image holds.
func ShowImage(ctx context.Context, o Options, file string, w io.Writer, asJSON bool) error {
	file, err := o.imageFile(file, false)
	if err != nil {
		return err
	}
	if err := image.Check(file); err != nil {
		return err
	}
	return o.view(ctx, func(ctx context.Context, e image.Editor) error {
		info, err := e.Inspect(ctx, file, manifestBeside(file))
		if err != nil {
			return err
		}
		return info.Write(w, asJSON)
	})
}

// manifestBeside reads the manifest in the image's folder, if there is a valid
// one.
func manifestBeside(file string) *manifest.Manifest {
	f, err := os.Open(filepath.Join(filepath.Dir(file), "manifest.json"))
	if err != nil {
		return nil
	}
	defer f.Close()
	m, err := manifest.Read(f)
	if err != nil {
		return nil
	}
	return &m
}

// imageFile returns the image that is meant: the built one where none is named.
// That one can only be changed when its build was finished: of another one no
// later build could tell that it was changed.
func (o Options) imageFile(file string, change bool) (string, error) {
	built := filepath.Join(o.OutDir, diskImage)
	if file == "" {
		file = built
	}
	file, err := filepath.Abs(file)
	if err != nil || !change || !sameFile(file, built) {
		return file, err
	}
	b := &Build{Options: o}
	if _, err := b.load("package"); err != nil {
		return "", fault.Newf(fault.ImageFile, "the build of %s was not finished", built).Hint("`mage build` first; or copy the file and name the copy with -file=FILE")
	}
	return file, nil
}

// notBuilt refuses to write over what a build has made, which is no copy.
func (o Options) notBuilt(out string) error {
	dir, err := filepath.EvalSymlinks(o.OutDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, s := range stages() {
		r, err := (&Build{Options: o}).load(s.name)
		if err != nil {
			continue
		}
		for _, made := range r.Outputs {
			if sameFile(made.Path, out) {
				return fault.Newf(fault.Usage, "-o=%s is what the build has made in %s", out, dir).Hint("name another file")
			}
		}
	}
	return nil
}

func sameFile(a, b string) bool {
	one, errA := os.Stat(a)
	two, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(one, two)
}

// edit gives do the tools, which are built where they are not there, and keeps
// builds in this output folder away meanwhile.
func (o Options) edit(ctx context.Context, do func(context.Context, image.Editor) error) error {
	return with(ctx, o, func(ctx context.Context, b *Build) error {
		if !exists(b.toolsList()) {
			if err := b.Through(ctx, "prepare"); err != nil {
				return err
			}
		}
		return do(ctx, b.editor())
	})
}

// view is edit for what only looks: it waits for nobody and writes nothing.
func (o Options) view(ctx context.Context, do func(context.Context, image.Editor) error) error {
	b, err := look(o)
	if err != nil {
		return err
	}
	if !exists(b.toolsList()) {
		return o.edit(ctx, do)
	}
	b.Tools.Host = b.Host
	return do(ctx, b.editor())
}

func (b *Build) editor() image.Editor {
	e := image.Editor{Tools: b.Tools, Event: func(format string, args ...any) { b.log.event("image", "%s", fmt.Sprintf(format, args...)) }}
	if b.log.terminal {
		e.Terminal = b.log.to
	}
	return e
}
