package build

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"cc-base/tasks/digest"
	"cc-base/tasks/fault"
	"cc-base/tasks/manifest"
	"cc-base/tasks/measurements"
)

// VerifyMeasurements computes the measurements of what lies in the output folder
// again and compares them with measurements.json and rvps.json there. It writes
// nothing and takes no lock.
//
// Two files might have been exchanged together, so each is also compared with
// the digest that the manifest has for it, and the boot image's parts with those
// that it was made from.
func VerifyMeasurements(o Options, w io.Writer) error {
	b, err := look(o)
	if err != nil {
		return err
	}
	m, err := b.manifest()
	if err != nil {
		return err
	}
	var names []string
	for _, f := range m.Files {
		names = append(names, f.Path)
	}
	in, closeDisk, err := b.artefacts(m, names)
	if err != nil {
		return missing(err)
	}
	defer closeDisk()
	document, err := os.ReadFile(b.out(measurements.File))
	if err != nil {
		return missing(err)
	}
	values, err := os.ReadFile(b.out(measurements.RVPSFile))
	if err != nil {
		return missing(err)
	}
	doc, err := measurements.Verify(document, values, in)
	if err != nil {
		return err
	}
	if err := b.compareWithManifest(m); err != nil {
		return err
	}
	if err := b.compareKernel(doc); err != nil {
		return err
	}
	fmt.Fprintf(w, "measurements: computed again and equal: %d SEV-SNP rows, %d TDX rows, %d TPM rows\n", len(doc.SNP), len(doc.TDX), len(doc.TPM))
	for _, n := range doc.NotComputed {
		fmt.Fprintf(w, "measurements: not there: %s: %s\n", n.What, n.Why)
	}
	return nil
}

// manifest reads the manifest of what was built.
func (b *Build) manifest() (manifest.Manifest, error) {
	f, err := os.Open(b.out("manifest.json"))
	if err != nil {
		return manifest.Manifest{}, missing(err)
	}
	defer f.Close()
	m, err := manifest.Read(f)
	if err != nil {
		return manifest.Manifest{}, fault.New(fault.Damaged, err)
	}
	return m, nil
}

// missing tells what to do about a file that is not there.
func missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.Measurements, err).Hint("`mage build` makes it")
	}
	return err
}

// compareWithManifest compares every file that was looked at, but for the disk
// image, of which only the partition table was.
func (b *Build) compareWithManifest(m manifest.Manifest) error {
	files := b.measured()
	for _, name := range []string{measurements.File, measurements.RVPSFile, measurements.UKI} {
		files[name] = b.out(name)
	}
	for _, f := range m.Files {
		file, ours := files[f.Path]
		if !ours {
			continue
		}
		sum, err := digest.File(file)
		if err != nil {
			return err
		}
		if sum != f.SHA256 {
			return fault.Newf(fault.Measurements, "%s: its checksum is not the one in manifest.json", f.Path)
		}
	}
	return nil
}

// compareKernel compares the kernel in the boot image with the one that was
// taken from the root file system. `mage clean` and a copy of out/ without
// scratch/ leave nothing to compare with.
func (b *Build) compareKernel(doc measurements.Document) error {
	sum, err := digest.File(b.scratch("vmlinuz"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && sum != doc.Kernel {
		err = fault.Newf(fault.Measurements, "the kernel in %s is not %s", measurements.UKI, filepath.Join("scratch", "vmlinuz"))
	}
	return err
}
