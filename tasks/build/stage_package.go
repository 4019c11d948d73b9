package build

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"

	"golang.org/x/sync/errgroup"

	"cc-base/tasks/boot"
	"cc-base/tasks/conf"
	"cc-base/tasks/digest"
	"cc-base/tasks/manifest"
	"cc-base/tasks/measurements"
	"cc-base/tasks/sbom"
)

func packageStage() stage {
	return stage{
		name:  "package",
		title: "putting image and installer together",
		keys:  conf.Keys(), // the installer carries them all
		reads: []string{"prepare", "bootstrap", "tee", "initrd", "encrypt", "apps", "firmware"},
		facts: packageFacts,
		outputs: func(b *Build) []string {
			files := []string{b.out("cc-base.efi"), b.out("cc-base.qcow2"), b.out("manifest.json"), b.out(measurements.File), b.out(measurements.RVPSFile), b.out(sbom.CycloneDXFile), b.out(sbom.SPDXFile), b.installer(), b.installer() + ".sha256"}
			for _, e := range b.enrolments() {
				files = append(files, e.file)
			}
			return files
		},
		run: pack,
	}
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

func pack(ctx context.Context, b *Build) error {
	m, err := b.describeImage()
	if err != nil {
		return err
	}
	keys, err := b.bootKeys(m)
	if err != nil {
		return err
	}
	group, inGroup := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := b.buildUKI(inGroup, m, keys); err != nil {
			return err
		}
		return b.assembleDisk(inGroup, &m)
	})
	group.Go(func() error {
		if err := b.compileInstaller(inGroup); err != nil {
			return err
		}
		return b.enrolKeys(inGroup)
	})
	if err := group.Wait(); err != nil {
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
		lines[p] = boot.CommandLine(volumes, p, kernelSettings(b.Config))
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

func kernelSettings(c conf.Config) boot.Kernel {
	return boot.Kernel{
		Lockdown: c.Security.Lockdown, PanicOnOops: c.Security.PanicOnOops, Debug: c.Security.DebugImage,
		SWIOTLB: c.TEE.SWIOTLB,
	}
}

func (b *Build) encrypted() bool {
	return slices.ContainsFunc([]string{"root", "app"}, func(name string) bool {
		p, _ := b.Config.Partition(name)
		return p.Encrypt
	})
}
