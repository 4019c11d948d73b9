package report

import (
	"cmp"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"

	"cc-base/tasks/inventory"
)

// The treemaps' area, in units of their drawing.
const (
	mapWidth  = 1000.0
	mapHeight = 420.0
)

// cell is one rectangle of a treemap.
type cell struct {
	X, Y, W, H float64
	Title      string // shown when pointed at, and read aloud
	Label, Sub string // empty where they do not fit
	Hue        int    // 0 to hues-1, those of one group have one
}

// hues is how many colours the style has for treemaps.
const hues = 8

// rect is a part of the area still free.
type rect struct{ x, y, w, h float64 }

// squarify cuts the area into rectangles of the given areas, largest first, as
// near to squares as it gets (Bruls, Huizing, van Wijk: Squarified Treemaps,
// 2000). The sizes need not fill the area: they are scaled to it.
func squarify(sizes []float64, area rect) []rect {
	total := 0.0
	for _, s := range sizes {
		total += s
	}
	if total <= 0 {
		return make([]rect, len(sizes))
	}
	scale := area.w * area.h / total
	out := make([]rect, 0, len(sizes))
	for len(sizes) > 0 {
		side := min(area.w, area.h)
		n, sum := 1, sizes[0]
		for n < len(sizes) && worst(sizes[:n+1], sum+sizes[n], side, scale) <= worst(sizes[:n], sum, side, scale) {
			sum += sizes[n]
			n++
		}
		depth := 0.0
		if side > 0 {
			depth = sum * scale / side
		}
		along := 0.0
		for _, s := range sizes[:n] {
			length := 0.0
			if depth > 0 {
				length = s * scale / depth
			}
			if area.w >= area.h {
				out = append(out, rect{area.x, area.y + along, depth, length})
			} else {
				out = append(out, rect{area.x + along, area.y, length, depth})
			}
			along += length
		}
		if area.w >= area.h {
			area.x, area.w = area.x+depth, max(area.w-depth, 0)
		} else {
			area.y, area.h = area.y+depth, max(area.h-depth, 0)
		}
		sizes = sizes[n:]
	}
	return out
}

// worst is the greatest ratio of the sides of the rectangles in a row of that
// length. Sizes fall, so the first and the last decide.
func worst(row []float64, sum, side, scale float64) float64 {
	area, depth := sum*scale, sum*scale/side
	if area == 0 || depth == 0 || row[len(row)-1] == 0 {
		return math.Inf(1)
	}
	large, small := row[0]*scale/depth, row[len(row)-1]*scale/depth
	return max(large/depth, depth/small)
}

// item is something that gets an area.
type item struct {
	name, title string
	brief       string // the name where it is too long for its area
	bytes       int64
	group       string
}

// layout draws the items, those too small to see as one. Groups get their hue in
// the order in which they are given.
func layout(items []item, groups []string) []cell {
	var total, rest int64
	for _, i := range items {
		total += i.bytes
	}
	var shown []item
	few := 0
	for _, i := range items {
		if i.bytes > 0 && i.bytes >= total/leastPart {
			shown = append(shown, i)
			continue
		}
		few, rest = few+1, rest+i.bytes
	}
	if rest > 0 {
		shown = append(shown, item{name: fmt.Sprintf("%d more", few), title: fmt.Sprintf("%d more, each under 0.2 %%", few), bytes: rest, group: groups[len(groups)-1]})
	}
	slices.SortStableFunc(shown, func(a, b item) int {
		return cmp.Or(cmp.Compare(b.bytes, a.bytes), strings.Compare(a.title, b.title))
	})
	sizes := make([]float64, len(shown))
	for i := range shown {
		sizes[i] = float64(shown[i].bytes)
	}
	var cells []cell
	for i, r := range squarify(sizes, rect{0, 0, mapWidth, mapHeight}) {
		it := shown[i]
		c := cell{X: round(r.x), Y: round(r.y), W: round(r.w), H: round(r.h), Hue: max(slices.Index(groups, it.group), 0) % hues}
		c.Title = fmt.Sprintf("%s: %s, %s", it.title, size(it.bytes), percent(it.bytes, total))
		c.Label, c.Sub = captions(it.name, it.brief, size(it.bytes), r)
		cells = append(cells, c)
	}
	return cells
}

// leastPart is the part of the whole that still gets an area of its own.
const leastPart = 500

// captions returns what fits into the rectangle: a letter is about 7 units wide
// and a line 16 high.
func captions(name, brief, bytes string, r rect) (label, sub string) {
	const letter, line = 7.0, 16.0
	room := int((r.w - 10) / letter)
	if r.h < line+6 || room < 4 {
		return "", ""
	}
	label = name
	if len([]rune(name)) > room && brief != "" {
		label = brief
	}
	if letters := []rune(label); len(letters) > room {
		label = string(letters[:room-1]) + "…"
	}
	if r.h >= 2*line+8 && len(bytes) <= room {
		sub = bytes
	}
	return label, sub
}

func round(v float64) float64 { return math.Round(v*10) / 10 }

// packageGroups are what packages are told apart by in their map; the last one
// is where those too small to see belong.
func packageGroups() []string {
	return []string{"kernel", "libraries", "of no package", "programs and data"}
}

// packageMap has an area for each package and one for what none brought.
func packageMap(inv inventory.Inventory) []cell {
	groups := packageGroups()
	var items []item
	for _, p := range inv.Packages {
		group := groups[3]
		switch {
		case strings.HasPrefix(p.Name, "linux-"):
			group = groups[0]
		case strings.HasPrefix(p.Name, "lib"):
			group = groups[1]
		}
		items = append(items, item{name: p.Name, title: p.Name + " " + p.Version, bytes: p.Bytes, group: group})
	}
	items = append(items, item{name: "no package", title: "of no package: our programs, settings, what was generated", bytes: inv.Other, group: groups[2]})
	return layout(items, groups)
}

// folderMap has an area for each folder, cut finer where much lies. The folders
// below one of the second level, such as /usr/lib, have its hue.
func folderMap(inv inventory.Inventory) []cell {
	var items []item
	var groups []string
	var walk func(f inventory.Folder, where, group string, depth int)
	walk = func(f inventory.Folder, where, group string, depth int) {
		if !slices.Contains(groups, group) {
			groups = append(groups, group)
		}
		own := f.Bytes
		if depth < maxDepth && f.Bytes > inv.Bytes/50 {
			for _, sub := range f.Folders {
				own -= sub.Bytes
				name, next := path.Join(where, sub.Name), group
				if depth < 2 {
					next = name
				}
				walk(sub, name, next, depth+1)
			}
		}
		title := where
		if own < f.Bytes {
			title += ", files and small folders in it"
		}
		items = append(items, item{name: where, brief: path.Base(where), title: title, bytes: own, group: group})
	}
	walk(inv.Root, "/", "/", 0)
	return layout(items, groups)
}

// maxDepth is how deep below the root folders are told apart.
const maxDepth = 5
