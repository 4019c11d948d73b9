package build

import (
	"maps"
	"os"
	"path"
	"slices"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/deb"
	"cc-base/tasks/digest"
	"cc-base/tasks/fault"
	"cc-base/tasks/firmware"
	"cc-base/tasks/manifest"
	"cc-base/tasks/measurements"
	"cc-base/tasks/rootfs"
	"cc-base/tasks/sbom"
)

// writeBill writes the bills of materials from what is in the volumes and in the
// installer.
func (b *Build) writeBill(m manifest.Manifest) error {
	packages, err := b.installedPackages(m)
	if err != nil {
		return err
	}
	files, err := b.billedFiles(m, packages)
	if err != nil {
		return err
	}
	bill := sbom.Bill{
		Name: m.Name, Epoch: m.SourceDateEpoch, Packages: packages, Files: files,
		Programs: []sbom.Program{{Name: "cc-guest", Path: b.scratch("cc-guest"), In: b.label("root")}, {Name: "cc-install", Path: b.scratch("cc-install"), In: "installer"}},
	}
	for i, app := range b.Config.Apps.Apps {
		bill.Programs = append(bill.Programs, sbom.Program{Name: app, Path: b.appPrograms()[i], In: b.label("app")})
	}
	docs, err := bill.Documents()
	if err != nil {
		return err
	}
	for name, data := range docs {
		if err := atomicfile.Write(b.out(name), 0o644, data); err != nil {
			return err
		}
	}
	return nil
}

func (b *Build) label(partition string) string {
	p, _ := b.Config.Partition(partition)
	return p.Label
}

// installedPackages is what the tree of the root volume says is installed in it,
// with the digests of the signed index.
func (b *Build) installedPackages(m manifest.Manifest) ([]sbom.Package, error) {
	f, err := os.Open(b.scratch("root.tar"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	installed, err := deb.ReadTree(f)
	if err != nil {
		return nil, fault.Newf(fault.Bill, "root volume: %w", err)
	}
	var list []deb.Package
	if err := b.kept("packages.json", &list); err != nil {
		return nil, err
	}
	listed := map[[3]string]deb.Package{}
	for _, p := range list {
		listed[[3]string{p.Name, p.Version, p.Architecture}] = p
	}
	var packages []sbom.Package
	for _, i := range installed {
		id := [3]string{i.Name, i.Version, i.Architecture}
		p, known := listed[id]
		if !known { // put there by no package manager that checks signatures
			p = deb.Package{Name: i.Name, Version: i.Version, Architecture: i.Architecture, Source: i.Source}
		}
		delete(listed, id)
		packages = append(packages, sbom.Package{
			Package: p, Distribution: m.Distribution, Suite: m.Suite, In: b.label("root"),
			Maintainer: i.Maintainer, Licence: i.Licence, Needs: i.Needs,
		})
	}
	if len(listed) > 0 {
		gone := slices.SortedFunc(maps.Keys(listed), func(a, b [3]string) int { return slices.Compare(a[:], b[:]) })
		return nil, fault.Newf(fault.Bill, "root volume: it was to have packages that are not in it: %q", gone)
	}
	return packages, nil
}

// billedFiles are the boot image and the firmware, each with the packages that it
// was made from.
func (b *Build) billedFiles(m manifest.Manifest, installed []sbom.Package) ([]sbom.File, error) {
	tools, err := b.toolsPackages("systemd-boot-efi", "ovmf")
	if err != nil {
		return nil, err
	}
	uki := []sbom.Package{tools["systemd-boot-efi"]}
	for _, p := range installed {
		if p.Name == "linux-image-"+m.Kernel {
			p.Needs = nil // they are with the package itself
			uki = append(uki, p)
		}
	}
	files := []sbom.File{{Name: "cc-base.efi", From: uki}}
	sources := map[string]string{"cc-base.efi": b.out("cc-base.efi")}
	confidential := b.confidentialPackages()
	for name, source := range b.firmwareFiles() {
		from := []sbom.Package{tools["ovmf"]}
		if p, ok := confidential[name]; ok {
			from = p
		}
		files = append(files, sbom.File{Name: name, Firmware: true, From: from})
		sources[name] = source
	}
	for i := range files {
		if files[i].SHA256, err = digest.File(sources[files[i].Name]); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// toolsPackages returns packages of the tools tree by name.
func (b *Build) toolsPackages(names ...string) (map[string]sbom.Package, error) {
	all, err := rootfs.ReadPackages(b.toolsList())
	if err != nil {
		return nil, err
	}
	found := map[string]sbom.Package{}
	for _, p := range all {
		if slices.Contains(names, p.Name) {
			found[p.Name] = sbom.Package{Package: p, Distribution: "debian", Suite: b.Config.OS.ToolsSuite}
		}
	}
	for _, name := range names {
		if _, ok := found[name]; !ok {
			return nil, fault.Newf(fault.Bill, "the tools tree has no package %s", name)
		}
	}
	return found, nil
}

// confidentialPackages says what the firmware images for confidential guests are
// from, by name in the installer. It is empty for one that no report tells of.
func (b *Build) confidentialPackages() map[string][]sbom.Package {
	packages := map[string][]sbom.Package{}
	report, err := firmware.ReadReport(b.firmwareReport())
	for name := range b.confidentialFirmware() {
		packages[name] = nil
		got, ok := report.Image(path.Base(name))
		if err != nil || !ok {
			continue
		}
		p := sbom.Package{Distribution: "debian", Package: deb.Package{
			Name: got.Package.Name, Version: got.Package.Version, Architecture: "all", Source: got.Package.Source,
			Filename: got.Package.Filename, SHA256: got.Package.SHA256, Size: got.Package.Size,
		}}
		if got.Suite != nil {
			p.Suite = got.Suite.Name
		}
		packages[name] = []sbom.Package{p}
	}
	if from, ok := packages[measurements.TDXFirmware]; ok {
		packages[measurements.TDXEnrolled] = from
	}
	return packages
}
