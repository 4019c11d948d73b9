package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/boot"
	"cc-base/tasks/boot/varstore"
	"cc-base/tasks/build/recipient"
	"cc-base/tasks/bundle"
	"cc-base/tasks/conf"
	"cc-base/tasks/digest"
	"cc-base/tasks/disk"
	"cc-base/tasks/fault"
	"cc-base/tasks/firmware"
	"cc-base/tasks/manifest"
	"cc-base/tasks/measurements"
	"cc-base/tasks/program"
	"cc-base/tasks/qcow2"
	"cc-base/tasks/seal"
	"cc-base/tasks/sh"
)

func packageStage() stage {
	return stage{
		name:  "package",
		title: "putting image and installer together",
		keys:  conf.Keys(), // the installer carries them all
		reads: []string{"prepare", "bootstrap", "tee", "encrypt", "apps", "firmware"},
		facts: packageFacts,
		outputs: func(b *Build) []string {
			files := []string{b.out("cc-base.efi"), b.out("cc-base.qcow2"), b.out("manifest.json"), b.out(measurements.File), b.out(measurements.RVPSFile), b.installer(), b.installer() + ".sha256"}
			for _, e := range b.enrolments() {
				files = append(files, e.file)
			}
			return files
		},
		run: pack,
	}
}

func (b *Build) installer() string     { return b.out("nvidia-cc-installer.tar.gz") }
func (b *Build) secureBootDir() string { return b.out("keys", "secureboot") }
func (b *Build) pcrKeyDir() string     { return b.out("keys", "pcr") }

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
	made := map[string]string{"PCR key": filepath.Join(b.pcrKeyDir(), "pcr.pub")}
	for _, key := range boot.KeyNames() {
		made["secure boot certificate "+key] = b.certificate(key)
	}
	for name, file := range made {
		facts[name], err = digest.File(file)
		if errors.Is(err, fs.ErrNotExist) {
			facts[name], err = toBeMade, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return facts, nil
}

// certificate returns where the certificate of a Secure Boot key lies.
func (b *Build) certificate(key string) string { return filepath.Join(b.secureBootDir(), key+".crt") }

func pack(ctx context.Context, b *Build) error {
	m, err := b.describeImage()
	if err != nil {
		return err
	}
	if err := b.buildUKI(ctx, m); err != nil {
		return err
	}
	if err := b.enrolKeys(ctx); err != nil {
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
	lines := map[string]string{}
	for _, p := range b.Config.KeyProfiles() {
		lines[p] = boot.CommandLine(volumes, p, b.Config.Security.Lockdown, b.Config.Security.PanicOnOops)
	}
	return manifest.Manifest{
		Schema: manifest.Schema, Name: "cc-base", Profile: profile,
		Distribution: b.Config.OS.Distribution, Suite: b.Config.OS.Suite, Kernel: k.Release,
		SourceDateEpoch: b.Config.OS.SourceDateEpoch,
		// What boots from disk is for plain machines first; the TEEs have their
		// kernel and command line given (DESIGN D6: one initrd for all profiles
		// is smaller than one boot image for each).
		CommandLine: lines[b.Config.KeyProfiles()[0]], CommandLines: lines,
	}, nil
}

// commandLines are all that the guest accepts, in the order of their profiles.
func (b *Build) commandLines(m manifest.Manifest) []string {
	var lines []string
	for _, p := range b.Config.KeyProfiles() {
		lines = append(lines, m.CommandLines[p])
	}
	return lines
}

func (b *Build) buildUKI(ctx context.Context, m manifest.Manifest) error {
	keys, made, err := boot.LoadOrMakeKeys(b.secureBootDir(), time.Unix(m.SourceDateEpoch, 0).UTC())
	if err != nil {
		return err
	}
	if len(made) > 0 {
		b.log.event("package", "made Secure Boot keys in %s: %s", b.secureBootDir(), strings.Join(made, " "))
	}
	pcrKey, isNew, err := boot.LoadOrMakePCRKey(b.pcrKeyDir())
	if err != nil {
		return err
	}
	if isNew {
		b.log.event("package", "made the PCR key %s", pcrKey.Public)
	}
	b.log.event("package", "building and signing the boot image")
	image, err := boot.BuildMeasured(ctx, b.Tools, boot.UKI{
		Kernel: b.scratch("vmlinuz"), Release: m.Kernel, Initrd: b.scratch("initrd.img"), OSRelease: b.scratch("os-release"),
		CommandLine: m.CommandLine, Allowed: b.commandLines(m), Epoch: m.SourceDateEpoch,
	}, pcrKey, b.scratch("unsigned.efi"))
	if err != nil {
		return err
	}
	if image, err = boot.Sign(image, keys["db"]); err != nil {
		return err
	}
	return atomicfile.Write(b.out("cc-base.efi"), 0o644, image)
}

// secureBootCode and secureBootVars are the firmware for plain machines with
// Secure Boot, as named in the installer: OVMF's build that enforces it, and a
// variable store with our keys.
const (
	secureBootCode = "firmware/OVMF_CODE_4M.secboot.fd"
	secureBootVars = "firmware/OVMF_VARS_4M.cc-base.fd"
)

// enrolment is a firmware file with our Secure Boot keys in it.
type enrolment struct {
	name     string // in the installer
	file     string // that is made
	template string // as the programs of the tools tree see it
	enrol    func(ctx context.Context, run sh.Runner, template, out string, keys varstore.Keys) error
}

// enrolments are what gets our keys. The firmware for TDX is among them where
// it is there: its own keys are Microsoft's, by which it refuses our boot image
// (DESIGN D5).
func (b *Build) enrolments() []enrolment {
	made := func(name string) string { return b.scratch("enrolled", path.Base(name)) }
	all := []enrolment{{secureBootVars, made(secureBootVars), "/usr/share/OVMF/OVMF_VARS_4M.fd", varstore.Enrol}}
	if image := b.scratch(filepath.FromSlash(measurements.TDXFirmware)); exists(image) {
		all = append(all, enrolment{measurements.TDXEnrolled, made(measurements.TDXEnrolled), image, varstore.Bake})
	}
	return all
}

// enrolKeys makes the firmware files with our keys, which are there.
func (b *Build) enrolKeys(ctx context.Context) error {
	dir := b.scratch("enrolled")
	// What a former run made is of other keys or another template.
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	keys := varstore.Keys{PK: b.certificate("PK"), KEK: b.certificate("KEK"), DB: b.certificate("db")}
	for _, e := range b.enrolments() {
		b.log.event("package", "enrolling the Secure Boot keys in %s", e.name)
		if err := e.enrol(ctx, b.Tools, e.template, e.file, keys); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
	}
	return nil
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

// firmwareFiles are the plain OVMF of the tools tree, what there is of the
// firmware for confidential guests, and what has our keys in it, by name in the
// installer.
func (b *Build) firmwareFiles() map[string]string {
	dir := filepath.Join(b.Tools.Dir, "usr/share/OVMF")
	files := b.confidentialFirmware()
	files["firmware/OVMF_CODE_4M.fd"] = filepath.Join(dir, "OVMF_CODE_4M.fd")
	files["firmware/OVMF_VARS_4M.fd"] = filepath.Join(dir, "OVMF_VARS_4M.fd")
	files[secureBootCode] = filepath.Join(dir, path.Base(secureBootCode))
	for _, e := range b.enrolments() {
		files[e.name] = e.file
	}
	return files
}

// confidentialFirmware are the firmware images for SEV-SNP and TDX that are
// there. Not every suite has them, and no build depends on them.
func (b *Build) confidentialFirmware() map[string]string {
	files := map[string]string{}
	for _, name := range []string{measurements.SNPFirmware, measurements.TDXFirmware} {
		if file := b.scratch(filepath.FromSlash(name)); exists(file) {
			files[name] = file
		}
	}
	return files
}

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

// installerEntries lists the tarball's files but manifest.json.
func (b *Build) installerEntries(install string) ([]bundle.Entry, error) {
	var entries []bundle.Entry
	add := func(name, source string, mode os.FileMode) {
		entries = append(entries, bundle.Entry{Name: "installer/" + name, Source: source, Mode: mode, Incompressible: name == "cc-base.qcow2"})
	}
	add("cc-base.qcow2", b.out("cc-base.qcow2"), 0o644)
	add("cc-base.efi", b.out("cc-base.efi"), 0o644)
	add("cc-install", install, 0o755)
	add(measurements.File, b.out(measurements.File), 0o644)
	add(measurements.RVPSFile, b.out(measurements.RVPSFile), 0o644)
	add("sbom.cdx.json", b.scratch("sbom.cdx.json"), 0o644)
	if b.encrypted() {
		key, err := b.imageKeyEntry()
		if err != nil {
			return nil, err
		}
		entries = append(entries, key)
	}
	for name, mode := range scripts() {
		add(name, b.scriptSource(name), mode)
	}
	for _, name := range configNames() {
		entries = append(entries, bundle.Entry{Name: "installer/config/" + name, Data: b.Config.File(name), Mode: 0o644})
	}
	for name, file := range b.measured() {
		resolved, err := filepath.EvalSymlinks(file)
		if err != nil {
			return nil, err
		}
		add(name, resolved, 0o644)
	}
	return entries, nil
}

// imageKeyEntry is the image key as it travels: for everybody who has the
// installer, or with KEY_RECIPIENTS for those alone.
func (b *Build) imageKeyEntry() (bundle.Entry, error) {
	if len(b.Config.Security.KeyRecipients) == 0 {
		return bundle.Entry{Name: "installer/image.key", Source: b.imageKeyFile(), Mode: 0o600}, nil
	}
	to, err := recipients(b.Options, "")
	if err != nil {
		return bundle.Entry{}, err
	}
	key, err := os.ReadFile(b.imageKeyFile())
	if err != nil {
		return bundle.Entry{}, err
	}
	defer seal.Wipe(key)
	var message bytes.Buffer
	if err := recipient.Encrypt(&message, key, to...); err != nil {
		return bundle.Entry{}, fault.New(fault.Sealing, err)
	}
	return bundle.Entry{Name: "installer/image-key.asc", Data: message.Bytes(), Mode: 0o644}, nil
}

func (b *Build) encrypted() bool {
	return slices.ContainsFunc([]string{"root", "app"}, func(name string) bool {
		p, _ := b.Config.Partition(name)
		return p.Encrypt
	})
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
