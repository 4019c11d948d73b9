package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/digest"
	"cc-base/tasks/fault"
	"cc-base/tasks/fetch"
	"cc-base/tasks/firmware"
	"cc-base/tasks/rootfs"
)

// firmwareStage never fails for want of firmware: an image without it is a good
// one for plain hosts, and scratch/firmware/firmware.json says why.
func firmwareStage() stage {
	return stage{
		name:  "firmware",
		title: "getting the firmware of confidential guests",
		keys:  []string{"DISTRIBUTION", "MIRROR", "SNAPSHOT", "LOCKED", "TEE_TYPE", "FIRMWARE_CONFIDENTIAL"},
		reads: []string{"prepare"},
		facts: func(b *Build) (map[string]string, error) {
			lock, err := digest.File(b.packagesLock())
			if errors.Is(err, os.ErrNotExist) {
				lock, err = "none", nil
			}
			return map[string]string{"packages.lock": lock}, err
		},
		outputs: func(b *Build) []string {
			files := []string{b.firmwareReport()}
			// One that cannot be read is not this stage's, which then runs.
			report, _ := firmware.ReadReport(b.firmwareReport())
			for _, image := range report.Images {
				files = append(files, b.scratch("firmware", image.File))
			}
			return files
		},
		run: getFirmware,
	}
}

func (b *Build) firmwareReport() string { return b.scratch("firmware", "firmware.json") }

// firmwareWork holds what is needed while the stage runs.
func (b *Build) firmwareWork() string { return b.scratch("firmware.work") }

// firmwareWanted is what the settings call for.
func (b *Build) firmwareWanted() []firmware.Image {
	if b.Config.TEE.Firmware == "no" {
		return nil
	}
	switch b.Config.TEE.Type {
	case "sev-snp":
		return []firmware.Image{firmware.SNP()}
	case "tdx":
		return []firmware.Image{firmware.TDX()}
	case "auto":
		return []firmware.Image{firmware.SNP(), firmware.TDX()}
	}
	return nil
}

func getFirmware(ctx context.Context, b *Build) error {
	dir := b.scratch("firmware")
	// What a former run left would pass for this one's.
	if err := errors.Join(os.RemoveAll(dir), os.RemoveAll(b.firmwareWork())); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	report := firmware.Off(firmware.SNP(), firmware.TDX())
	if wanted := b.firmwareWanted(); len(wanted) > 0 {
		var err error
		if report, err = b.fetchFirmware(ctx, dir, wanted); err != nil {
			return err
		}
	}
	if err := atomicfile.Write(filepath.Join(dir, "packages.lock"), 0o644, report.Lock()); err != nil {
		return err
	}
	data, err := report.Encode()
	if err != nil {
		return err
	}
	return atomicfile.Write(b.firmwareReport(), 0o644, data)
}

func (b *Build) fetchFirmware(ctx context.Context, dir string, wanted []firmware.Image) (firmware.Report, error) {
	getter, err := b.firmwareGetter(ctx)
	if err != nil {
		return firmware.Report{}, err
	}
	getter.Locked, err = firmware.ReadLock(b.packagesLock())
	if err != nil {
		return firmware.Report{}, err
	}
	defer os.RemoveAll(b.firmwareWork())
	known := b.firmwareMemory(getter.Mirror)
	getter.Known, getter.Strict = known.recall(wanted), b.lock != nil
	report, err := getter.Get(ctx, dir, wanted...)
	if err != nil {
		return report, err
	}
	if err := b.lockedFirmware(report); err != nil {
		return report, err
	}
	if len(report.Missing) > 0 {
		b.log.event("firmware", "installation on such hosts will be refused; `mage update` has the next build ask again")
	}
	return report, known.remember(report)
}

// firmwareGetter gets firmware from the mirror of Debian.
func (b *Build) firmwareGetter(ctx context.Context) (firmware.Getter, error) {
	mirror, keyring, err := b.debian(ctx)
	return firmware.Getter{
		Mirror: mirror, Keyring: keyring,
		Cache: filepath.Join(b.firmwareCache(), "downloads"), Work: b.firmwareWork(), Tools: b.Tools,
		// Nobody wants to wait long for what the build can do without.
		Fetch: fetch.Options{Tries: 3},
		Now:   time.Now,
		Say:   func(format string, args ...any) { b.log.event("firmware", format, args...) },
	}, err
}

// lockedFirmware refuses a build that lacks what the lock names. Firmware that
// the lock does not name is left out of the image, as one that cannot be had.
func (b *Build) lockedFirmware(report firmware.Report) error {
	if b.lock == nil {
		return nil
	}
	var errs []error
	for _, m := range report.Missing {
		if m.Reason != firmware.NotLocked {
			errs = append(errs, fmt.Errorf("%s: in the lock, but %s", m.Package, m.Meaning))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return fault.New(fault.NotLocked, errors.Join(errs...)).Hint("`mage lock` takes what the mirror has now; FIRMWARE_CONFIDENTIAL=no builds without")
}

// debian returns the mirror of Debian that the build uses, and the file with
// the archive's keys.
func (b *Build) debian(ctx context.Context) (mirror, keyring string, err error) {
	d, err := rootfs.DistributionByName("debian")
	if err != nil {
		return "", "", err
	}
	var m rootfs.Mirror
	if b.Config.OS.Distribution == d.Name {
		m, err = b.mirror(ctx, d)
	} else {
		m, err = rootfs.HostMirror(ctx, b.Host, d) // os.conf's is another distribution's
	}
	if err != nil {
		return "", "", err
	}
	// The tools tree's keys are as new as its release; the machine's may be
	// older than the keys that sign testing.
	if inTree := filepath.Join(b.Tools.Dir, d.Keyring); exists(inTree) {
		return m.Main, inTree, nil
	}
	return m.Main, d.Keyring, nil
}

func (b *Build) firmwareCache() string { return filepath.Join(b.CacheDir, "firmware") }

// memory is what earlier builds got from a mirror, so that the same settings
// give the same firmware, offline too, until `mage update`. Failures are not
// remembered.
type memory struct{ dir, mirror string }

func (b *Build) firmwareMemory(mirror string) memory { return memory{b.firmwareCache(), mirror} }

func (m memory) file(image firmware.Image) string {
	return filepath.Join(m.dir, image.Package+"-"+digest.Bytes([]byte(m.mirror))[:16]+".json")
}

// recall returns what is known of the images. What cannot be read is not known.
func (m memory) recall(images []firmware.Image) []firmware.Got {
	var known []firmware.Got
	for _, image := range images {
		var got firmware.Got
		data, err := os.ReadFile(m.file(image))
		if err == nil && json.Unmarshal(data, &got) == nil && got.Package.Name == image.Package {
			known = append(known, got)
		}
	}
	return known
}

// any tells whether something is known of the image from any mirror.
func (m memory) any(image firmware.Image) bool {
	files, err := filepath.Glob(filepath.Join(m.dir, image.Package+"-*.json"))
	return err == nil && len(files) > 0
}

// remember keeps what came from a suite; what the lock named says nothing
// about the mirror.
func (m memory) remember(report firmware.Report) error {
	for _, image := range []firmware.Image{firmware.SNP(), firmware.TDX()} {
		got, ok := report.Image(image.File)
		if !ok || got.From == firmware.FromLock {
			continue
		}
		data, err := json.MarshalIndent(got, "", "  ")
		if err != nil {
			return err
		}
		if err := atomicfile.Write(m.file(image), 0o644, append(data, '\n')); err != nil {
			return err
		}
	}
	return nil
}

// forget makes the next build ask the mirror.
func (m memory) forget() error {
	files, err := filepath.Glob(filepath.Join(m.dir, "*.json"))
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := atomicfile.Remove(f); err != nil {
			return err
		}
	}
	return nil
}
