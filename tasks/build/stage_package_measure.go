package build

import (
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/boot"
	"cc-base/tasks/conf"
	"cc-base/tasks/fault"
	"cc-base/tasks/firmware"
	"cc-base/tasks/manifest"
	"cc-base/tasks/measurements"
	"cc-base/tasks/qcow2"
)

// firmwarePackages says which package each firmware image for confidential guests
// is from, by name in the installer.
func (b *Build) firmwarePackages() map[string]string {
	packages := map[string]string{}
	report, err := firmware.ReadReport(b.firmwareReport())
	if err != nil {
		return packages // nothing is known of them
	}
	for name := range b.confidentialFirmware() {
		if got, ok := report.Image(path.Base(name)); ok {
			packages[name] = got.Package.Name + " " + got.Package.Version
		}
	}
	return packages
}

// measured are the artefacts that the measurements are computed from beside boot
// image and disk, by name in the installer.
func (b *Build) measured() map[string]string {
	files := b.firmwareFiles()
	for _, key := range boot.KeyNames() {
		files[measurements.Certificate(key)] = b.certificate(key)
	}
	return files
}

// measure writes measurements.json and what is made from it for others.
func (b *Build) measure(m manifest.Manifest) error {
	in, closeDisk, err := b.artefacts(m, slices.Collect(maps.Keys(b.measured())))
	if err != nil {
		return err
	}
	defer closeDisk()
	if in.Program, err = b.codeDigest("tasks/build", "package"); err != nil {
		return err
	}
	in.Machines, in.Packages = machines(b.Config), b.firmwarePackages()
	doc, err := measurements.Compute(in)
	if err != nil {
		return err
	}
	data, err := doc.Encode()
	if err != nil {
		return err
	}
	values, err := doc.RVPS()
	if err != nil {
		return err
	}
	b.log.event("package", "measurements: %d SEV-SNP guests, %d ways to start a TDX guest", len(doc.SNP), len(doc.TDX))
	for _, n := range doc.NotComputed {
		b.log.event("package", "not in the measurements: %s: %s", n.What, n.Why)
	}
	if err := atomicfile.Write(b.out(measurements.RVPSFile), 0o644, values); err != nil {
		return err
	}
	return atomicfile.Write(b.out(measurements.File), 0o644, data)
}

// artefacts opens what the measurements are computed from: boot image and disk
// as shipped, and the named files of the installer. The caller calls closeDisk.
func (b *Build) artefacts(m manifest.Manifest, names []string) (in measurements.Inputs, closeDisk func() error, err error) {
	f, err := os.Open(b.out(m.Disk.File))
	if err != nil {
		return in, nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return in, nil, err
	}
	image, err := qcow2.Open(f, info.Size())
	if err != nil {
		return in, nil, fault.New(fault.DiskImage, err)
	}
	files := b.measured()
	in, err = measurements.Load(m, image, names, func(name string) ([]byte, error) {
		if file, ok := files[name]; ok {
			return os.ReadFile(file)
		}
		return os.ReadFile(b.out(filepath.FromSlash(name)))
	})
	return in, f.Close, err
}

// machines are the guests that get rows: those of the table that was asked for,
// and the one that the configuration describes.
func machines(c conf.Config) measurements.Machines {
	m := measurements.Machines{
		TEE: c.TEE.Type, VCPUs: slices.Clone(c.TEE.Measure.VCPUs),
		CPUModels: slices.Clone(c.TEE.Measure.CPUModels), GuestFeatures: slices.Clone(c.TEE.Measure.GuestFeatures),
	}
	if !slices.Contains(m.VCPUs, c.TEE.VCPUs) {
		m.VCPUs = append(m.VCPUs, c.TEE.VCPUs)
	}
	if model := c.TEE.CPUModel; model != "auto" && !slices.Contains(m.CPUModels, model) {
		m.CPUModels = append(m.CPUModels, model)
	}
	// In order, so that a row is found where one looks for it.
	slices.Sort(m.VCPUs)
	slices.Sort(m.GuestFeatures)
	return m
}
