package validation

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"cc-base/installer/write"
	"cc-base/tasks/layout"
	"cc-base/validation/check"
)

func (e *Env) partitionChecks() []check.Check {
	const again = "build the image again"
	return []check.Check{
		{ID: "partition.order", Title: "the partitions are the five of the design, in order and numbered from 1", Area: "partition",
			Where: []check.Where{check.Host, check.Artefact}, Tier: check.TierArtefact, Remedy: again, Func: e.on(order)},
		{ID: "partition.identity", Title: "disk and partitions have GUIDs that differ", Area: "partition",
			Where: []check.Where{check.Host, check.Artefact}, Tier: check.TierArtefact, Remedy: again, Func: e.on(identity)},
		{ID: "partition.alignment", Title: "every partition begins and ends on a whole MiB", Area: "partition",
			Where: []check.Where{check.Host, check.Artefact}, Tier: check.TierArtefact, Remedy: again, Func: e.on(alignment)},
		{ID: "partition.read-only", Title: "sealed volumes are marked read-only in manifest and partition table, cc-dynamic is not", Area: "partition",
			Where: []check.Where{check.Host, check.Artefact}, Tier: check.TierArtefact, Remedy: again, Func: e.on(readOnly)},
		{ID: "partition.content", Title: "every partition of the image holds what the manifest says", Area: "partition",
			Where: []check.Where{check.Host, check.Artefact}, Tier: check.TierArtefact, Remedy: again, Func: e.on(content)},
	}
}

// labels is the table of partitions (config/partition.conf).
func labels() []string { return []string{"cc-esp", "cc-root", "cc-app", "cc-config", "cc-dynamic"} }

func order(_ context.Context, env *Env) check.Verdict {
	_, m, err := env.installer()
	if err != nil {
		return check.Broken(err)
	}
	var got, findings []string
	for i, p := range m.Disk.Partitions {
		got = append(got, p.Label)
		if p.Number != i+1 {
			findings = append(findings, fmt.Sprintf("%s has number %d", p.Label, p.Number))
		}
	}
	if !slices.Equal(got, labels()) {
		findings = append(findings, "they are "+strings.Join(got, ", "))
	}
	return check.Judge(findings, "%s", strings.Join(got, ", "))
}

func identity(_ context.Context, env *Env) check.Verdict {
	_, m, err := env.installer()
	if err != nil {
		return check.Broken(err)
	}
	const esp = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B" // UEFI specification, 5.3.3
	var findings []string
	seen := map[string]string{m.Disk.GUID: "the disk"}
	for _, p := range m.Disk.Partitions {
		if other, twice := seen[p.GUID]; twice {
			findings = append(findings, fmt.Sprintf("%s has the GUID of %s", p.Label, other))
		}
		seen[p.GUID] = p.Label
		if (p.TypeGUID == esp) != (p.Label == "cc-esp") {
			findings = append(findings, fmt.Sprintf("%s has type %s", p.Label, p.TypeGUID))
		}
	}
	return check.Judge(findings, "%d GUIDs", len(seen))
}

func alignment(_ context.Context, env *Env) check.Verdict {
	_, m, err := env.installer()
	if err != nil {
		return check.Broken(err)
	}
	var findings []string
	for _, p := range m.Disk.Partitions {
		if p.Start%layout.Align != 0 || p.Size%layout.Align != 0 {
			findings = append(findings, fmt.Sprintf("%s is at %d with %d bytes", p.Label, p.Start, p.Size))
		}
	}
	return check.Judge(findings, "%d partitions", len(m.Disk.Partitions))
}

func readOnly(_ context.Context, env *Env) check.Verdict {
	table, d, err := env.table()
	if err != nil {
		return check.Broken(err)
	}
	var findings []string
	for i, p := range d.Partitions {
		switch p.Label {
		case "cc-root", "cc-app", "cc-config":
			if !p.ReadOnly {
				findings = append(findings, p.Label+" is writable in the manifest")
			}
		case "cc-dynamic":
			if p.ReadOnly {
				findings = append(findings, p.Label+" is read-only in the manifest")
			}
		}
		if i < len(table.Entries) && (table.Entries[i].Attributes&layout.ReadOnly != 0) != p.ReadOnly {
			findings = append(findings, fmt.Sprintf("%s: read-only is %v in the manifest, %v in the partition table", p.Label, p.ReadOnly, !p.ReadOnly))
		}
	}
	return check.Judge(findings, "%d partitions", len(d.Partitions))
}

func content(ctx context.Context, env *Env) check.Verdict {
	image, d, err := env.disk()
	if err != nil {
		return check.Broken(err)
	}
	var findings, good []string
	for _, p := range sealed(d) {
		if err := write.Content(ctx, image, p); err != nil {
			findings = append(findings, p.Label+": "+err.Error())
			continue
		}
		good = append(good, p.Label)
	}
	return check.Judge(findings, "%s", strings.Join(good, ", "))
}
