package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/boot"
	"cc-base/tasks/bundle"
	"cc-base/tasks/conf"
	"cc-base/tasks/digest"
	"cc-base/tasks/disk"
	"cc-base/tasks/manifest"
	"cc-base/tasks/measurements"
	"cc-base/tasks/program"
	"cc-base/tasks/seal"
)

func packageStage() stage {
	return stage{
		name:  "package",
		title: "putting image and installer together",
		keys:  conf.Keys(), // the installer carries them all
		reads: []string{"prepare", "bootstrap", "tee", "encrypt", "apps"},
		facts: packageFacts,
		outputs: func(b *Build) []string {
			return []string{b.out("cc-base.efi"), b.out("cc-base.qcow2"), b.out("manifest.json"), b.out("measurements.json"), b.installer(), b.installer() + ".sha256"}
		},
		run: pack,
	}
}

func (b *Build) installer() string { return b.out("nvidia-cc-installer.tar.gz") }
func (b *Build) secureBootDir() string {
	return b.out("keys", "secureboot")
}

// scripts are the installer's files that are shipped as they are in the
// checkout: name in the tarball to mode.
func scripts() map[string]os.FileMode {
	return map[string]os.FileMode{
		"install.sh": 0o755, "validate.sh": 0o755,
		"validation/common.sh":         0o644,
		"validation/test_03_device.sh": 0o755, "validation/test_04_keys.sh": 0o755,
		"validation/test_05_cc_apps.sh": 0o755, "validation/test_06_partition.sh": 0o755,
	}
}

// scriptSource returns where a script lies in the checkout.
func (b *Build) scriptSource(name string) string {
	if strings.HasPrefix(name, "validation/") {
		return filepath.Join(b.Repo, name)
	}
	return filepath.Join(b.Repo, "installer", name)
}

func packageFacts(b *Build) (map[string]string, error) {
	installer, err := b.programDigest("installer")
	if err != nil {
		return nil, err
	}
	facts := map[string]string{"cc-install": installer, "profile": b.Profile}
	for name := range scripts() {
		if facts["script:"+name], err = digest.File(b.scriptSource(name)); err != nil {
			return nil, err
		}
	}
	const cert = "secure boot certificate"
	facts[cert], err = digest.File(filepath.Join(b.secureBootDir(), "db.crt"))
	if errors.Is(err, fs.ErrNotExist) {
		facts[cert], err = toBeMade, nil
	}
	return facts, err
}

func pack(ctx context.Context, b *Build) error {
	m, err := b.describeImage()
	if err != nil {
		return err
	}
	if err := b.buildUKI(ctx, m); err != nil {
		return err
	}
	if err := b.assembleDisk(ctx, &m); err != nil {
		return err
	}
	return b.buildInstaller(ctx, m)
}

// describeImage starts the manifest with what earlier stages found.
func (b *Build) describeImage() (manifest.Manifest, error) {
	var k kernel
	if err := b.kept("kernel.json", &k); err != nil {
		return manifest.Manifest{}, err
	}
	var volumes []boot.Sealed
	for _, name := range []string{"root", "app", "config"} {
		p, _ := b.Config.Partition(name)
		verity, err := b.sealed(name)
		if err != nil {
			return manifest.Manifest{}, err
		}
		volumes = append(volumes, boot.Sealed{Name: name, Encrypted: p.Encrypt, Verity: verity})
	}
	profile := b.Config.Profile
	if profile == "" {
		profile = "default"
	}
	return manifest.Manifest{
		Schema: manifest.Schema, Name: "cc-base", Profile: profile,
		Distribution: b.Config.OS.Distribution, Suite: b.Config.OS.Suite, Kernel: k.Release,
		SourceDateEpoch: b.Config.OS.SourceDateEpoch,
		CommandLine:     boot.CommandLine(volumes, b.Config.Security.Lockdown, b.Config.Security.PanicOnOops),
	}, nil
}

func (b *Build) buildUKI(ctx context.Context, m manifest.Manifest) error {
	key, made, err := boot.LoadOrMakeKey(b.secureBootDir(), "db", time.Unix(m.SourceDateEpoch, 0).UTC())
	if err != nil {
		return err
	}
	if made {
		b.log.event("package", "made a Secure Boot key: %s", b.secureBootDir())
	}
	b.log.event("package", "building and signing the boot image")
	unsigned := b.scratch("unsigned.efi")
	defer os.Remove(unsigned)
	err = boot.BuildUKI(ctx, b.Tools, boot.UKI{
		Kernel: b.scratch("vmlinuz"), Release: m.Kernel, Initrd: b.scratch("initrd.img"), OSRelease: b.scratch("os-release"),
		CommandLine: m.CommandLine, Epoch: m.SourceDateEpoch,
	}, unsigned)
	if err != nil {
		return err
	}
	image, err := os.ReadFile(unsigned)
	if err != nil {
		return err
	}
	if image, err = boot.Sign(image, key); err != nil {
		return err
	}
	return atomicfile.Write(b.out("cc-base.efi"), 0o644, image)
}

// minDynamic is the size of cc-dynamic in the image as shipped; the installer
// stretches it to the end of the disk.
const minDynamic = 64 * disk.MiB

// assembleDisk writes the qcow2 and completes the manifest. Every GUID is
// derived from the content of all volumes, so that two different images never
// share one and the same image always has the same.
func (b *Build) assembleDisk(ctx context.Context, m *manifest.Manifest) error {
	content := digest.Bytes([]byte(m.CommandLine))
	id := func(label, use string) string {
		return strings.ToUpper(seal.Derive(label, use, content).String())
	}
	esp := b.scratch("esp.img")
	defer os.Remove(esp)
	espSize, err := disk.BuildESP(ctx, b.Tools, disk.ESP{
		Files: map[string]string{"EFI/BOOT/BOOTX64.EFI": b.out("cc-base.efi")},
		Label: "CC-ESP", VolumeID: seal.Derive("cc-esp", "fat", content).ID(), Epoch: m.SourceDateEpoch,
		Size: b.partitionSize("esp"),
	}, esp)
	if err != nil {
		return err
	}
	var volumes []disk.Volume
	for _, p := range b.Config.Disk.Partitions {
		v := disk.Volume{Label: p.Label, GUID: id(p.Label, "partition"), TypeGUID: typeGUID(p.Name, p.Encrypt), Size: p.Size, ReadOnly: p.ReadOnly}
		switch p.Name {
		case "esp":
			v.Content, v.Size = esp, espSize
		case "dynamic":
			v.Size = max(p.Size, minDynamic)
		default:
			v.Content = b.scratch(p.Name + ".volume")
		}
		volumes = append(volumes, v)
	}
	raw := b.scratch("disk.raw")
	defer os.Remove(raw)
	b.log.event("package", "assembling the disk image")
	if m.Disk, err = disk.Assemble(ctx, raw, id("cc-base", "disk"), volumes); err != nil {
		return err
	}
	m.Disk.File = "cc-base.qcow2"
	for i := range m.Disk.Partitions {
		p := &m.Disk.Partitions[i]
		row := b.Config.Disk.Partitions[i]
		p.Encrypted, p.Mount = row.Encrypt, row.Mount
		if row.Verity {
			verity, err := b.sealed(row.Name)
			if err != nil {
				return err
			}
			p.Verity = &verity
		}
	}
	if err := disk.Qcow2(ctx, b.Tools, raw, b.out("cc-base.qcow2")); err != nil {
		return err
	}
	b.log.event("package", "cc-base.qcow2: %s, disk of %s", fileSize(b.out("cc-base.qcow2")), size(m.Disk.VirtualSize))
	return nil
}

func (b *Build) partitionSize(name string) int64 {
	p, _ := b.Config.Partition(name)
	return p.Size
}

// typeGUID returns the partition type. The ESP's is the UEFI specification's,
// the LUKS and data types are Linux's (UAPI group, Discoverable Partitions
// Specification); cc-dynamic has one of its own, so that no tool takes it for
// something that it knows.
func typeGUID(name string, encrypted bool) string {
	switch {
	case name == "esp":
		return "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
	case name == "dynamic":
		return strings.ToUpper(seal.Derive("cc-dynamic", "type", "1").String())
	case encrypted:
		return "CA7D7CCB-63ED-4C53-861C-1742536059CC"
	default:
		return "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
	}
}

// buildInstaller compiles cc-install, writes measurements, bill of materials
// and manifest, and packs everything in one pass.
func (b *Build) buildInstaller(ctx context.Context, m manifest.Manifest) error {
	b.log.event("package", "compiling cc-install")
	install := b.scratch("cc-install")
	if err := program.Build(ctx, b.Host, b.Repo, "./installer", install); err != nil {
		return err
	}
	if err := b.measure(m); err != nil {
		return err
	}
	sbom, err := b.billOfMaterials(m, install)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(b.scratch("sbom.cdx.json"), 0o644, sbom); err != nil {
		return err
	}
	entries, err := b.installerEntries(install)
	if err != nil {
		return err
	}
	if m.Files, err = digestEntries(entries); err != nil {
		return err
	}
	data, err := m.Encode()
	if err != nil {
		return err
	}
	if err := atomicfile.Write(b.out("manifest.json"), 0o644, data); err != nil {
		return err
	}
	entries = append(entries, bundle.Entry{Name: "installer/manifest.json", Source: b.out("manifest.json"), Mode: 0o644})
	b.log.event("package", "packing the installer")
	result, err := bundle.WriteFile(ctx, b.installer(), entries, bundle.Options{Epoch: m.SourceDateEpoch})
	if err != nil {
		return err
	}
	b.log.event("package", "%s: %s, sha256 %s", filepath.Base(b.installer()), size(result.Size), result.SHA256)
	return nil
}

// digestEntries sets the digest of every entry, so that packing refuses a file
// that has changed meanwhile, and lists them for the manifest.
func digestEntries(entries []bundle.Entry) ([]manifest.File, error) {
	var files []manifest.File
	for i := range entries {
		e := &entries[i]
		length := int64(len(e.Data))
		e.SHA256 = digest.Bytes(e.Data)
		if e.Source != "" {
			o, err := describe(e.Source)
			if err != nil {
				return nil, err
			}
			e.SHA256, length = o.SHA256, o.Size
		}
		files = append(files, manifest.File{Path: strings.TrimPrefix(e.Name, "installer/"), Size: length, SHA256: e.SHA256})
	}
	slices.SortFunc(files, func(a, b manifest.File) int { return strings.Compare(a.Path, b.Path) })
	return files, nil
}

// firmwareFiles are the plain OVMF of the tools tree.
func (b *Build) firmwareFiles() map[string]string {
	dir := filepath.Join(b.Tools.Dir, "usr/share/OVMF")
	return map[string]string{
		"firmware/OVMF_CODE_4M.fd": filepath.Join(dir, "OVMF_CODE_4M.fd"),
		"firmware/OVMF_VARS_4M.fd": filepath.Join(dir, "OVMF_VARS_4M.fd"),
	}
}

// installerEntries lists the tarball's files but manifest.json.
func (b *Build) installerEntries(install string) ([]bundle.Entry, error) {
	var entries []bundle.Entry
	add := func(name, source string, mode os.FileMode) {
		entries = append(entries, bundle.Entry{Name: "installer/" + name, Source: source, Mode: mode, Incompressible: name == "cc-base.qcow2"})
	}
	add("cc-base.qcow2", b.out("cc-base.qcow2"), 0o644)
	add("cc-base.efi", b.out("cc-base.efi"), 0o644)
	add("cc-install", install, 0o755)
	add("measurements.json", b.out("measurements.json"), 0o644)
	add("sbom.cdx.json", b.scratch("sbom.cdx.json"), 0o644)
	if b.encrypted() {
		add("image.key", b.imageKeyFile(), 0o600)
	}
	for name, mode := range scripts() {
		add(name, b.scriptSource(name), mode)
	}
	for _, name := range configNames() {
		entries = append(entries, bundle.Entry{Name: "installer/config/" + name, Data: b.Config.File(name), Mode: 0o644})
	}
	for name, file := range b.firmwareFiles() {
		resolved, err := filepath.EvalSymlinks(file)
		if err != nil {
			return nil, err
		}
		add(name, resolved, 0o644)
	}
	return entries, nil
}

func (b *Build) encrypted() bool {
	return slices.ContainsFunc([]string{"root", "app"}, func(name string) bool {
		p, _ := b.Config.Partition(name)
		return p.Encrypt
	})
}

// measure writes measurements.json.
func (b *Build) measure(m manifest.Manifest) error {
	uki, err := os.ReadFile(b.out("cc-base.efi"))
	if err != nil {
		return err
	}
	doc, err := measurements.Of(uki, m)
	if err != nil {
		return err
	}
	files := b.firmwareFiles()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		sum, err := digest.File(files[name])
		if err != nil {
			return err
		}
		doc.Firmware = append(doc.Firmware, measurements.Firmware{File: name, SHA256: sum})
	}
	data, err := doc.Encode()
	if err != nil {
		return err
	}
	return atomicfile.Write(b.out("measurements.json"), 0o644, data)
}

func (b *Build) billOfMaterials(m manifest.Manifest, install string) ([]byte, error) {
	var packages []bundle.Package
	if err := b.kept("packages.json", &packages); err != nil {
		return nil, err
	}
	bill := bundle.Bill{
		Name: m.Name, Epoch: m.SourceDateEpoch, Distribution: m.Distribution, Suite: m.Suite, Packages: packages,
		Binaries: []bundle.Binary{{Name: "cc-guest", Path: b.scratch("cc-guest")}, {Name: "cc-install", Path: install}},
	}
	for i, app := range b.Config.Apps.Apps {
		bill.Binaries = append(bill.Binaries, bundle.Binary{Name: app, Path: b.appPrograms()[i]})
	}
	data, err := bundle.SBOM(bill)
	if err != nil {
		return nil, fmt.Errorf("bill of materials: %w", err)
	}
	return data, nil
}
