package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"cc-base/tasks/inventory"
	"cc-base/tasks/manifest"
)

// page is what the template shows, one field for each part of it.
type page struct {
	Report
	parts
	Figures    []figure
	Timeline   timeline
	Plots      *plots // nil when nobody looked at the machine
	ByPackage  []cell
	Groups     []string // of ByPackage, by hue
	ByFolder   []cell
	Changes    changes
	Partitions []partition
	Packages   []packageRow
	Registers  []register
	Launches   []launch
}

// figure is one of the numbers at the top.
type figure struct{ Value, Name, Note string }

func view(r Report) page {
	return page{
		Report: r, parts: ownParts(),
		Figures: figures(r), Timeline: drawTimeline(r.Stages), Plots: drawPlots(r.Samples, r.Processors, r.Stages),
		ByPackage: packageMap(r.Now.Contents), Groups: packageGroups(), ByFolder: folderMap(r.Now.Contents),
		Changes: compare(r.Before, r.Now), Partitions: partitions(r.Manifest.Disk), Packages: packageRows(r),
		Registers: registers(r.Measurements), Launches: launches(r.Measurements),
	}
}

func figures(r Report) []figure {
	// Stages run side by side, so their times together are more than the build's.
	var end, took, expected float64
	ran := 0
	for _, s := range r.Stages {
		end = max(end, s.Start+s.Seconds)
		if s.Action == "run" {
			ran++
			took, expected = took+s.Seconds, expected+s.Expected
		}
	}
	note := fmt.Sprintf("%d of %d stages ran", ran, len(r.Stages))
	if expected > 0 {
		note += fmt.Sprintf(": %s of work, expected %s", duration(took), duration(expected))
	}
	list := []figure{{duration(end), "build", note}}
	for _, a := range r.Now.Artefacts {
		name, known := map[string]string{r.Manifest.Disk.File: "disk image", "nvidia-cc-installer.tar.gz": "installer", "cc-base.efi": "boot image"}[a.Name]
		if known {
			list = append(list, figure{size(a.Size), name, sinceBefore(r.Before, a)})
		}
	}
	return append(list, figure{fmt.Sprint(len(r.Now.Contents.Packages)), "packages", size(r.Now.Contents.Bytes) + " in the root volume, uncompressed"})
}

func sinceBefore(before *Snapshot, now Artefact) string {
	if before == nil {
		return now.Name
	}
	for _, a := range before.Artefacts {
		if a.Name == now.Name {
			return now.Name + ", " + delta(now.Size-a.Size)
		}
	}
	return now.Name + ", new"
}

// changes is the difference to the image before.
type changes struct {
	Artefacts, Packages, Folders []change
}

// change is one thing that differs.
type change struct {
	Name, From, To string
	Delta          int64
}

func compare(before *Snapshot, now Snapshot) changes {
	if before == nil {
		return changes{}
	}
	var c changes
	for _, p := range pairs(before.Artefacts, now.Artefacts, func(a Artefact) string { return a.Name }) {
		if p.from == nil || p.to == nil || p.from.SHA256 != p.to.SHA256 {
			c.Artefacts = append(c.Artefacts, sized(p.name, p.from, p.to, func(a *Artefact) int64 { return a.Size }))
		}
	}
	for _, p := range pairs(before.Contents.Packages, now.Contents.Packages, func(p inventory.Package) string { return p.Name }) {
		if p.from != nil && p.to != nil && *p.from == *p.to {
			continue
		}
		one := sized(p.name, p.from, p.to, func(p *inventory.Package) int64 { return p.Bytes })
		one.From, one.To = "—", "—"
		if p.from != nil {
			one.From = p.from.Version
		}
		if p.to != nil {
			one.To = p.to.Version
		}
		c.Packages = append(c.Packages, one)
	}
	for _, p := range pairs(flat(before.Contents.Root, ""), flat(now.Contents.Root, ""), func(f inventory.Folder) string { return f.Name }) {
		if p.from == nil || p.to == nil || p.from.Bytes != p.to.Bytes {
			c.Folders = append(c.Folders, sized(p.name, p.from, p.to, func(f *inventory.Folder) int64 { return f.Bytes }))
		}
	}
	return c
}

func sized[T any](name string, from, to *T, bytes func(*T) int64) change {
	c := change{Name: name, From: "—", To: "—"}
	if from != nil {
		c.From, c.Delta = size(bytes(from)), -bytes(from)
	}
	if to != nil {
		c.To, c.Delta = size(bytes(to)), c.Delta+bytes(to)
	}
	return c
}

// flat lists the folders of the first two levels by path.
func flat(f inventory.Folder, where string) []inventory.Folder {
	var list []inventory.Folder
	for _, sub := range f.Folders {
		name := where + "/" + sub.Name
		list = append(list, inventory.Folder{Name: name, Bytes: sub.Bytes})
		if where == "" {
			list = append(list, flat(sub, name)...)
		}
	}
	return list
}

type pair[T any] struct {
	name     string
	from, to *T
}

// pairs matches two lists by name, in the order of names.
func pairs[T any](from, to []T, name func(T) string) []pair[T] {
	byName := map[string]*pair[T]{}
	get := func(n string) *pair[T] {
		if byName[n] == nil {
			byName[n] = &pair[T]{name: n}
		}
		return byName[n]
	}
	for i := range from {
		get(name(from[i])).from = &from[i]
	}
	for i := range to {
		get(name(to[i])).to = &to[i]
	}
	var list []pair[T]
	for _, p := range byName {
		list = append(list, *p)
	}
	slices.SortFunc(list, func(a, b pair[T]) int { return strings.Compare(a.name, b.name) })
	return list
}

// partition is one of the disk with its place in the map.
type partition struct {
	manifest.Partition
	X, W, Fill float64 // of the map's thousand units; Fill is the part with content
	Protection string
	Label      string // where it fits
}

func partitions(d manifest.Disk) []partition {
	var list []partition
	for _, p := range d.Partitions {
		x := partition{Partition: p}
		if d.VirtualSize > 0 {
			x.X = round(float64(p.Start) / float64(d.VirtualSize) * mapWidth)
			x.W = round(max(float64(p.Size)/float64(d.VirtualSize)*mapWidth, 2))
			x.Fill = round(min(float64(p.ContentSize)/float64(d.VirtualSize)*mapWidth, x.W))
		}
		x.Label, _ = captions(p.Label, "", "", rect{0, 0, x.W, 50})
		var how []string
		if p.Encrypted {
			how = append(how, "LUKS2")
		}
		if p.Verity != nil {
			how = append(how, "dm-verity")
		}
		if p.ReadOnly {
			how = append(how, "read-only")
		}
		x.Protection = strings.Join(how, ", ")
		list = append(list, x)
	}
	return list
}

type packageRow struct {
	inventory.Package
	Licence string
}

// packageRows are the packages, the largest first.
func packageRows(r Report) []packageRow {
	var rows []packageRow
	for _, p := range r.Now.Contents.Packages {
		rows = append(rows, packageRow{p, r.Licences[p.Name]})
	}
	slices.SortStableFunc(rows, func(a, b packageRow) int { return cmp.Compare(b.Bytes, a.Bytes) })
	return rows
}
