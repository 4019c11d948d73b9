package build

import (
	"bytes"
	"context"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/build/recipient"
	"cc-base/tasks/bundle"
	"cc-base/tasks/digest"
	"cc-base/tasks/fault"
	"cc-base/tasks/manifest"
	"cc-base/tasks/measurements"
	"cc-base/tasks/program"
	"cc-base/tasks/sbom"
	"cc-base/tasks/seal"
)

func (b *Build) installer() string { return b.out(installerName) }

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

func (b *Build) compileInstaller(ctx context.Context) error {
	b.log.event("package", "compiling cc-install")
	return program.Build(ctx, b.Host, b.Repo, "./installer", b.scratch("cc-install"))
}

// buildInstaller writes measurements, bills of materials and manifest, and packs
// everything in one pass.
func (b *Build) buildInstaller(ctx context.Context, m manifest.Manifest) error {
	if err := b.measure(m); err != nil {
		return err
	}
	if err := b.writeBill(m); err != nil {
		return err
	}
	entries, err := b.installerEntries()
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

// installerEntries lists the tarball's files but manifest.json.
func (b *Build) installerEntries() ([]bundle.Entry, error) {
	var entries []bundle.Entry
	add := func(name, source string, mode os.FileMode) {
		entries = append(entries, bundle.Entry{Name: "installer/" + name, Source: source, Mode: mode, Incompressible: name == "cc-base.qcow2"})
	}
	add("cc-base.qcow2", b.out("cc-base.qcow2"), 0o644)
	add("cc-base.efi", b.out("cc-base.efi"), 0o644)
	add("cc-install", b.scratch("cc-install"), 0o755)
	add(measurements.File, b.out(measurements.File), 0o644)
	add(measurements.RVPSFile, b.out(measurements.RVPSFile), 0o644)
	add(sbom.CycloneDXFile, b.out(sbom.CycloneDXFile), 0o644)
	add(sbom.SPDXFile, b.out(sbom.SPDXFile), 0o644)
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
	to, err := b.recipients("")
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
