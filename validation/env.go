package validation

import (
	"errors"
	"io"
	"io/fs"

	"cc-base/installer/unpacked"
	"cc-base/tasks/layout"
	"cc-base/tasks/manifest"
	"cc-base/tasks/qcow2"
)

// Env is the outside world of the checks. What is expensive is opened at the
// first use and shared by the checks of a run, which is why a run is not
// spread over goroutines.
type Env struct {
	Root fs.FS  // the root folder of this machine, for probes
	Dir  string // the unpacked installer

	opened   bool
	err      error
	folder   *unpacked.Folder
	manifest manifest.Manifest
	image    *qcow2.Image
	imageErr error
	file     io.Closer
}

// Close closes what the checks opened.
func (e *Env) Close() error {
	var errs []error
	if e.file != nil {
		errs = append(errs, e.file.Close())
	}
	if e.folder != nil {
		errs = append(errs, e.folder.Close())
	}
	return errors.Join(errs...)
}

// installer returns the folder and its manifest.
func (e *Env) installer() (*unpacked.Folder, manifest.Manifest, error) {
	if e.opened {
		return e.folder, e.manifest, e.err
	}
	e.opened = true
	if e.folder, e.err = unpacked.Open(e.Dir); e.err == nil {
		e.manifest, e.err = e.folder.Manifest()
	}
	return e.folder, e.manifest, e.err
}

// disk returns the disk in the image and its description.
func (e *Env) disk() (*qcow2.Image, manifest.Disk, error) {
	folder, m, err := e.installer()
	if err != nil {
		return nil, manifest.Disk{}, err
	}
	if e.image == nil && e.imageErr == nil {
		e.image, e.file, e.imageErr = folder.Image(m.Disk)
	}
	return e.image, m.Disk, e.imageErr
}

// table returns the partition table in the image and what the manifest says of
// the disk.
func (e *Env) table() (layout.Table, manifest.Disk, error) {
	image, d, err := e.disk()
	if err != nil {
		return layout.Table{}, d, err
	}
	table, err := layout.Read(image, image.Size())
	return table, d, err
}
