package validation

import (
	"bytes"
	"context"
	"debug/pe"
	"fmt"
	"io"
	"slices"
	"strings"

	"cc-base/installer/unpacked"
	"cc-base/validation/check"
)

func (e *Env) appsChecks() []check.Check {
	return []check.Check{
		{ID: "apps.volume", Title: "the volume of the CC applications is sealed: read-only, with a verity root hash", Area: "apps",
			Where: []check.Where{check.Host, check.Artefact}, Tier: check.TierArtefact,
			Remedy: "build the image again", Func: e.on(appVolume)},
		{ID: "apps.command-line", Title: "the boot image's command line is the manifest's, byte for byte", Area: "apps",
			Where: []check.Where{check.Host, check.Artefact}, Tier: check.TierArtefact,
			Remedy: "build the image again; a command line that differs boots another system", Func: e.on(commandLine)},
		{ID: "apps.root-hashes", Title: "the command line fixes the root hash of every sealed volume, once", Area: "apps",
			Where: []check.Where{check.Host, check.Artefact}, Tier: check.TierArtefact,
			Remedy: "build the image again; a volume that is not fixed can be exchanged", Func: e.on(rootHashes)},
	}
}

func appVolume(_ context.Context, env *Env) check.Verdict {
	_, m, err := env.installer()
	if err != nil {
		return check.Broken(err)
	}
	p, ok := m.Disk.Partition("cc-app")
	switch {
	case !ok:
		return check.Failed("there is no partition cc-app")
	case p.ContentSize == 0:
		return check.Failed("it is empty")
	case p.Verity == nil:
		return check.Failed("it has no verity tree")
	case !p.ReadOnly:
		return check.Failed("it is not read-only")
	case p.Verity.HashOffset%4096 != 0 || p.Verity.HashOffset >= p.ContentSize:
		return check.Failed("its hash tree is said to be at %d of %d bytes", p.Verity.HashOffset, p.ContentSize)
	case strings.Trim(p.Verity.RootHash, "0") == "":
		return check.Failed("its root hash is zero")
	}
	return check.Passed("%s, root hash %s", p.Mount, p.Verity.RootHash)
}

// section returns a section of the boot image (a PE file) without the padding
// at its end.
func section(folder *unpacked.Folder, name string) ([]byte, error) {
	raw, err := folder.Read(unpacked.UKI, 1<<30)
	if err != nil {
		return nil, err
	}
	image, err := pe.NewFile(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("%s is not a PE file: %w", unpacked.UKI, err)
	}
	defer image.Close()
	for _, want := range []string{".linux", ".initrd", ".osrel"} {
		if image.Section(want) == nil {
			return nil, fmt.Errorf("%s has no section %s", unpacked.UKI, want)
		}
	}
	if n := len(slices.DeleteFunc(slices.Clone(image.Sections), func(s *pe.Section) bool { return s.Name != name })); n != 1 {
		return nil, fmt.Errorf("%s has %d sections %s", unpacked.UKI, n, name)
	}
	s := image.Section(name)
	data, err := io.ReadAll(io.LimitReader(s.Open(), int64(s.VirtualSize)))
	return bytes.TrimRight(data, "\x00"), err
}

func commandLine(_ context.Context, env *Env) check.Verdict {
	folder, m, err := env.installer()
	if err != nil {
		return check.Broken(err)
	}
	got, err := section(folder, ".cmdline")
	if err != nil {
		return check.Failed("%s", err)
	}
	if string(got) != m.CommandLine {
		return check.Failed("it is %q, the manifest says %q", got, m.CommandLine)
	}
	return check.Passed("%d bytes", len(got))
}

func rootHashes(_ context.Context, env *Env) check.Verdict {
	_, m, err := env.installer()
	if err != nil {
		return check.Broken(err)
	}
	var findings, fixed []string
	for _, p := range m.Disk.Partitions {
		if p.Verity == nil {
			continue
		}
		switch n := strings.Count(m.CommandLine, p.Verity.RootHash); n {
		case 1:
			fixed = append(fixed, p.Label)
		default:
			findings = append(findings, fmt.Sprintf("%s: its root hash is there %d times", p.Label, n))
		}
	}
	for _, label := range []string{"cc-root", "cc-app"} {
		if p, ok := m.Disk.Partition(label); !ok || p.Verity == nil {
			findings = append(findings, label+" has no verity tree")
		}
	}
	return check.Judge(findings, "%s", strings.Join(fixed, ", "))
}
