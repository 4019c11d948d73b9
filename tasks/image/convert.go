package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/fault"
	"cc-base/tasks/sh"
)

// Conversion is an image to be written anew, in another format or compressed.
type Conversion struct {
	File  string // the image
	From  string // the format that it is said to have; empty believes the file
	To    string // Raw or Qcow2
	Out   string // the file to write; empty replaces File, which Compress alone does
	Force bool   // replace what is at Out; drop snapshots

	// Compress packs every cluster by itself (zlib). Images of volumes that are
	// encrypted hardly get smaller: ciphertext does not compress.
	Compress bool
}

// Check returns everything that is wrong with the call, before any tool is
// needed.
func (c Conversion) Check() error {
	_, err := c.check()
	return err
}

func (c Conversion) check() (source, error) {
	var problems []error
	if c.From != "" && c.From != Raw && c.From != Qcow2 {
		problems = append(problems, fmt.Errorf("-from=%s: formats are %s and %s", c.From, Raw, Qcow2))
	}
	switch {
	case c.To == "":
		problems = append(problems, errors.New("-to=FORMAT is missing"))
	case c.To != Raw && c.To != Qcow2:
		problems = append(problems, fmt.Errorf("-to=%s: formats are %s and %s", c.To, Raw, Qcow2))
	}
	if c.Out == "" && !c.Compress {
		problems = append(problems, errors.New("-o=FILE is missing"))
	}
	if len(problems) > 0 {
		return source{}, fault.New(fault.Usage, errors.Join(problems...)).Hint("mage image:convert -from=qcow2 -to=raw -o=FILE")
	}
	s, err := open(c.File)
	if err != nil {
		return s, err
	}
	if c.From != "" && c.From != s.format {
		return s, fault.Newf(fault.Usage, "%s is %s, not %s", c.File, s.format, c.From).Hint("leave -from away, or say -from=%s", s.format)
	}
	if c.Out == "" {
		if s.format != Qcow2 {
			return s, fault.Newf(fault.Usage, "%s is raw, and there is no compressed raw format", c.File).Hint("-o=FILE writes a compressed qcow2")
		}
		return s, nil
	}
	return s, c.checkOut(s)
}

func (c Conversion) checkOut(s source) error {
	dir := filepath.Dir(c.Out)
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return fault.Newf(fault.Usage, "-o=%s: there is no folder %s", c.Out, dir)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return fault.New(fault.Usage, err)
	}
	if err := reachable(real); err != nil {
		return err
	}
	info, err := os.Lstat(c.Out)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fault.New(fault.Usage, err)
	}
	if there, err := os.Stat(c.Out); err == nil && os.SameFile(there, s.info) {
		return fault.Newf(fault.Usage, "-o=%s is the image itself", c.Out)
	}
	if !info.Mode().IsRegular() && info.Mode()&fs.ModeSymlink == 0 {
		return fault.Newf(fault.Usage, "-o=%s is not a regular file", c.Out)
	}
	if !c.Force {
		return fault.Newf(fault.ImageLoss, "%s is there already", c.Out).Hint("-force replaces it")
	}
	return nil
}

// Convert writes the image as c says. Of a qcow2 it takes the present state
// alone: snapshots stay behind.
func (e Editor) Convert(ctx context.Context, c Conversion) error {
	s, err := c.check()
	if err != nil {
		return err
	}
	d, err := e.sound(ctx, s)
	if err != nil {
		return err
	}
	out := source{path: s.path, format: c.To}
	if c.Out != "" {
		dir, err := filepath.EvalSymlinks(filepath.Dir(c.Out))
		if err != nil {
			return err
		}
		out.path = filepath.Join(dir, filepath.Base(c.Out))
	}
	if n := len(d.Snapshots); n > 0 && c.Out == "" && !c.Force {
		return fault.Newf(fault.ImageLoss, "the snapshots in %s would be lost: %d", s.path, n).Hint("-o=FILE leaves it alone; -force drops them")
	} else if n > 0 {
		e.Event("the snapshots in %s are not taken along: %d", s.path, n)
	}
	need, err := e.measure(ctx, s)
	if err != nil {
		return err
	}
	if err := e.room(filepath.Dir(out.path), need); err != nil {
		return err
	}
	return e.convert(ctx, c, d, out)
}

// measure returns what a converted image takes at most, in bytes. Holes of a raw
// file take nothing, so that the figure for qcow2 bounds that too.
func (e Editor) measure(ctx context.Context, s source) (int64, error) {
	text, err := sh.Text(ctx, e.with(s), "qemu-img", "measure", "--output=json", "-f", s.format, "-O", Qcow2, s.path).String()
	if err != nil {
		return 0, e.failed(s, err)
	}
	var m struct {
		Required int64 `json:"required"`
	}
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return 0, fault.Newf(fault.ImageFile, "%s: qemu-img measure: %w", s.path, err)
	}
	return m.Required, nil
}

func (e Editor) convert(ctx context.Context, c Conversion, d disk, out source) error {
	part := source{path: out.path + atomicfile.Extension, format: out.format}
	if err := atomicfile.Remove(part.path); err != nil {
		return fault.New(fault.Usage, err)
	}
	defer os.Remove(part.path)
	// Readable by others as its source is, and at no time more.
	if err := empty(part.path, d.info.Mode().Perm()); err != nil {
		return fault.New(fault.Usage, err)
	}
	args := []string{"convert", "-p", "-f", d.format, "-O", c.To}
	if c.To == Qcow2 {
		args = append(args, "-o", "compat=1.1,lazy_refcounts=off,cluster_size=65536")
	}
	doing := "converting"
	if c.Compress {
		args, doing = append(args, "-c"), "compressing"
	}
	e.Event("%s %s (%s, %s) to %s", doing, d.path, d.format, Bytes(d.Size), out.path)
	p := &progress{event: e.Event, terminal: e.Terminal, doing: doing}
	tools := e.with(d.source, part)
	err := tools.Run(ctx, sh.Cmd{Name: "qemu-img", Args: append(args, d.path, part.path), Stdout: p})
	p.done()
	if err != nil {
		return e.failed(d.source, err)
	}
	if err := e.check(ctx, part); err != nil {
		return err
	}
	if c.Out != "" {
		err = atomicfile.Publish(part.path, out.path)
	} else {
		// The only copy is about to go.
		if err := sh.Do(ctx, tools, "qemu-img", "compare", "-q", "-f", d.format, "-F", c.To, d.path, part.path); err != nil {
			return e.failed(d.source, err)
		}
		err = publish(part.path, out.path, d.info)
	}
	if err != nil {
		return fault.New(fault.ImageFile, err)
	}
	return e.wrote(out)
}

// wrote says what has become of a file.
func (e Editor) wrote(s source) error {
	took, err := allocated(s.path)
	if err != nil {
		return err
	}
	e.Event("wrote %s, %s on disk", s.path, Bytes(took))
	return nil
}

func empty(path string, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	return f.Close()
}
