package build

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/inventory"
	"cc-base/tasks/manifest"
	"cc-base/tasks/measurements"
	"cc-base/tasks/monitor"
	"cc-base/tasks/report"
)

// reportFile is the page about the last build. It holds times and names of this
// machine's former builds, so it is no part of the installer.
const reportFile = "report.html"

// report writes the page, once there is an image and unless nothing was done and
// it is there. An image without it is as good, so what is wrong is only said.
func (b *Build) report(all []outcome, samples []monitor.Sample) {
	if !slices.Contains([]string{"package", "sign"}, all[len(all)-1].stage) || idle(all) && exists(b.out(reportFile)) {
		return
	}
	if err := b.writeReport(all, samples); err != nil {
		b.log.event("build", "no %s: %v", reportFile, err)
	}
}

func (b *Build) writeReport(all []outcome, samples []monitor.Sample) error {
	r := report.Report{Ended: time.Now(), Stages: b.reported(all), Samples: samples, Processors: runtime.NumCPU()}
	file, err := os.Open(b.out("manifest.json"))
	if err != nil {
		return err
	}
	defer file.Close()
	if r.Manifest, err = manifest.Read(file); err != nil {
		return err
	}
	raw, err := os.ReadFile(b.out(measurements.File))
	if err != nil {
		return err
	}
	if r.Measurements, err = measurements.Read(raw); err != nil {
		return err
	}
	if r.Now, r.Before, err = b.snapshots(); err != nil {
		return err
	}
	r.Unproven = b.unproven(r.Manifest, r.Measurements)
	var page strings.Builder
	if err := report.Write(&page, r); err != nil {
		return err
	}
	return atomicfile.Write(b.out(reportFile), 0o644, []byte(page.String()))
}

func (b *Build) reported(all []outcome) []report.Stage {
	var list []report.Stage
	for _, o := range all {
		list = append(list, report.Stage{
			Name: o.stage, Action: o.action, Start: o.start.Seconds(), Seconds: o.took.Seconds(),
			Expected: o.expected.Seconds, Bytes: o.bytes,
		})
	}
	return list
}

func (b *Build) snapshotsFile() string { return filepath.Join(b.stateDir(), "snapshots.json") }

// snapshots returns what is compared of the image that is there and of the one
// before it, and remembers both for the next report.
func (b *Build) snapshots() (now report.Snapshot, before *report.Snapshot, err error) {
	file := b.snapshotsFile()
	var kept []report.Snapshot // the newest first
	if data, err := os.ReadFile(file); err == nil && json.Unmarshal(data, &kept) != nil {
		kept = nil // damaged: nothing to compare with
	}
	if now, err = b.snapshot(); err != nil {
		return now, nil, err
	}
	if len(kept) > 0 && kept[0].Image == now.Image {
		kept = kept[1:] // the same image: the comparison stays
	}
	kept = append([]report.Snapshot{now}, kept[:min(len(kept), 1)]...)
	data, err := json.Marshal(kept)
	if err != nil {
		return now, nil, err
	}
	if len(kept) > 1 {
		before = &kept[1]
	}
	return now, before, atomicfile.Write(file, 0o644, data)
}

func (b *Build) snapshot() (s report.Snapshot, err error) {
	tree, err := os.Open(b.scratch("root.tar"))
	if err != nil {
		return s, err
	}
	defer tree.Close()
	if s.Contents, err = inventory.Read(tree); err != nil {
		return s, err
	}
	for _, name := range []string{"package", "sign"} {
		r, err := b.load(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // not signed
		}
		if err != nil {
			return s, err
		}
		for _, o := range r.Outputs {
			if filepath.Dir(o.Path) == b.OutDir {
				s.Artefacts = append(s.Artefacts, report.Artefact{Name: filepath.Base(o.Path), Size: o.Size, SHA256: o.SHA256})
			}
			if o.Path == b.out(diskImage) {
				s.Image = o.SHA256
			}
		}
	}
	slices.SortFunc(s.Artefacts, func(a, b report.Artefact) int { return strings.Compare(a.Name, b.Name) })
	return s, nil
}

// unproven is what the page may not be taken for.
func (b *Build) unproven(m manifest.Manifest, d measurements.Document) []report.Unproven {
	list := []report.Unproven{
		{What: "Silicon", Why: "No SEV-SNP or TDX processor and no GPU has ever run this program's images where its authors could see it. Measurements were compared with other programs and emulated boots, never with a report of silicon."},
		{What: "This very image", Why: "A build boots nothing. mage validate boots the image and asks it; mage receipts:report sums up signed verdicts in VALIDATION.md."},
		{What: "An emulated TPM", Why: "It protects a lost disk, not against the host that emulates it."},
	}
	for _, n := range d.NotComputed {
		list = append(list, report.Unproven{What: "No measurements of " + n.What, Why: n.Why})
	}
	if m.Debug() {
		list = append(list, report.Unproven{What: "Any secrecy", Why: "This is a debug image: its console has a root shell."})
	}
	if m.Distribution != "debian" {
		list = append(list, report.Unproven{What: m.Distribution + " as guest", Why: "Images of it have been planned, not proven."})
	}
	if !exists(b.installer() + ".asc") {
		list = append(list, report.Unproven{What: "Origin", Why: "The installer is not signed."})
	}
	return list
}
