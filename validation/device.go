package validation

import (
	"context"
	"fmt"
	"strings"

	"cc-base/tasks/hw"
	"cc-base/tasks/layout"
	"cc-base/validation/check"
)

func (e *Env) deviceChecks() []check.Check {
	return []check.Check{
		{ID: "device.target", Title: "this host has a free disk that the image fits on", Area: "device",
			Where: []check.Where{check.Host}, Tier: check.TierArtefact,
			Remedy: "cc-install list-devices shows every disk and what stands against it", Func: e.on(freeTarget)},
		{ID: "device.table", Title: "the image's partition table is the manifest's, in both copies", Area: "device",
			Where: []check.Where{check.Host, check.Artefact}, Tier: check.TierArtefact,
			Remedy: "build the image again", Func: e.on(tableAgrees)},
		{ID: "device.stretch", Title: "the table can be written for larger disks without moving anything", Area: "device",
			Where: []check.Where{check.Host, check.Artefact}, Tier: check.TierArtefact,
			Remedy: "the last partition of config/partition.conf must be the one that the guest fills", Func: e.on(stretches)},
	}
}

// freeTarget skips where every disk is taken: after an installation that is as
// it should be, and before one install itself refuses.
func freeTarget(_ context.Context, env *Env) check.Verdict {
	_, m, err := env.installer()
	if err != nil {
		return check.Broken(err)
	}
	devices, err := hw.Devices(env.Root)
	if err != nil {
		return check.Broken(err)
	}
	var free, taken []string
	for _, d := range devices {
		if d.Kind != hw.Disk {
			continue
		}
		reasons := hw.Refusals(d, hw.Need{Size: m.Disk.VirtualSize, SectorSize: m.Disk.SectorSize, Labels: m.Disk.Labels()})
		if len(reasons) == 0 {
			free = append(free, d.Path)
			continue
		}
		taken = append(taken, fmt.Sprintf("%s: %s", d.Path, reasons[0].Detail))
	}
	if len(free) == 0 {
		return check.Skipped("no free disk here (%s)", strings.Join(taken, "; "))
	}
	return check.Passed("%s", strings.Join(free, ", "))
}

func tableAgrees(_ context.Context, env *Env) check.Verdict {
	image, d, err := env.disk()
	if err != nil {
		return check.Broken(err)
	}
	table, err := layout.Read(image, image.Size())
	if err != nil {
		return check.Failed("%s", err)
	}
	return check.Judge(table.AgainstManifest(d), "%d partitions on disk %s", len(table.Entries), table.GUID)
}

func stretches(_ context.Context, env *Env) check.Verdict {
	table, d, err := env.table()
	if err != nil {
		return check.Broken(err)
	}
	if n := len(d.Partitions); n == 0 || d.Partitions[n-1].ContentSize != 0 {
		return check.Failed("the last partition holds content of the build")
	}
	const tib = int64(1) << 40
	for _, size := range []int64{d.VirtualSize, tib, 4 * tib} {
		if size < d.VirtualSize {
			continue
		}
		if _, err := layout.Final(table, size); err != nil {
			return check.Failed("%s", err)
		}
	}
	return check.Passed("from %d bytes to 4 TiB", d.VirtualSize)
}
