package report

// What green does not prove: that the page looks well. These tests read it as a
// browser's parser does, but draw nothing; a build's own page is looked at by
// people, in the light and the dark, before a change of its style is kept.

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"cc-base/tasks/inventory"
	"cc-base/tasks/manifest"
	"cc-base/tasks/measurements"
	"cc-base/tasks/monitor"
)

// sample is a report in which every part has something to show.
func sample() Report {
	contents := func(kernel string, bytes int64) inventory.Inventory {
		return inventory.Inventory{
			Bytes: bytes + 3_000_000, Other: 1_000_000,
			Packages: []inventory.Package{{Name: "bash", Version: "5.2", Architecture: "amd64", Bytes: 2_000_000, Files: 3}, {Name: "linux-image", Version: kernel, Architecture: "amd64", Bytes: bytes, Files: 900}},
			Root: inventory.Folder{Name: "/", Bytes: bytes + 3_000_000, Folders: []inventory.Folder{
				{Name: "usr", Bytes: bytes + 2_000_000, Folders: []inventory.Folder{{Name: "lib", Bytes: bytes}}},
			}},
		}
	}
	before := Snapshot{Image: "a", Artefacts: []Artefact{{"cc-base.qcow2", 170_000_000, "aa"}, {"gone.txt", 5, "bb"}}, Contents: contents("6.1", 20_000_000)}
	return Report{
		Manifest: manifest.Manifest{
			Name: "cc-base", Profile: "minimal", Distribution: "debian", Suite: "trixie", Kernel: "6.12",
			Disk: manifest.Disk{File: "cc-base.qcow2", GUID: "538D", VirtualSize: 1000, Partitions: []manifest.Partition{
				{Number: 1, Label: "cc-esp", Start: 100, Size: 300, ContentSize: 300},
				{Number: 2, Label: "cc-root", Start: 400, Size: 500, ContentSize: 250, Encrypted: true, ReadOnly: true, Mount: "/", Verity: &manifest.Verity{RootHash: strings.Repeat("ab", 32)}},
			}},
		},
		Measurements: measurements.Document{
			TPM:   []measurements.TPMRow{{SecureBoot: "on", PCRs: []measurements.PCR{{PCR: 4, SHA256: strings.Repeat("04", 32)}}}},
			PCR11: []measurements.PCR11{{After: "uki", SHA256: strings.Repeat("11", 32)}},
			TDX:   []measurements.TDXRow{{MRTD: "m", RTMR1: "r1", RTMR2: "r2", BootMode: "direct", Profile: "attested"}},
			SNP:   []measurements.SNPRow{{VCPUs: 4, CPUModel: "EPYC-v4", GuestFeatures: 1, Profile: "snp", Digest: "5eed"}},
		},
		Ended: time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC),
		Stages: []Stage{
			{Name: "bootstrap", Action: "run", Seconds: 30, Expected: 60, Bytes: 174_000_000},
			{Name: "tee", Action: "cache", Start: 30, Seconds: 0.1}, {Name: "sign", Action: "none", Start: 31},
		},
		Samples:    []monitor.Sample{{At: 10, CPU: 1.5, MemoryMB: 300, Read: 20}, {At: 20, CPU: 0.5, MemoryMB: 100, Received: 4}},
		Processors: 2,
		Now:        Snapshot{Image: "b", Artefacts: []Artefact{{"cc-base.qcow2", 175_000_000, "cc"}}, Contents: contents("6.12", 33_000_000)},
		Before:     &before,
		Licences:   map[string]string{"bash": "GPL-3.0-or-later"},
		Unproven:   []Unproven{{"Silicon", "Never run there."}},
	}
}

func render(t *testing.T, r Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// elements calls do for every element of the page.
func elements(t *testing.T, page string, do func(n *html.Node, attr map[string]string)) {
	t.Helper()
	root, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	for n := range root.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		attr := map[string]string{}
		for _, a := range n.Attr {
			attr[a.Key] = a.Val
		}
		do(n, attr)
	}
}

func TestEveryPartShowsItsData(t *testing.T) {
	page := render(t, sample())
	ids := map[string]bool{}
	elements(t, page, func(_ *html.Node, attr map[string]string) { ids[attr["id"]] = true })
	for _, id := range []string{"time", "space", "changes", "disk", "packages", "measurements", "files", "unproven"} {
		if !ids[id] {
			t.Errorf("no section %s", id)
		}
		if !strings.Contains(page, `href="#`+id+`"`) {
			t.Errorf("nothing leads to %s", id)
		}
	}
	for _, want := range []string{
		"bootstrap: 30.0 s, 174 MB written; expected 60.0 s", "from the cache", "unchanged", "30.0 s of work, expected 60.0 s", // time
		"memory of the build&#39;s programs", "300 MB", "of 2",
		"linux-image 6.12: 33.0 MB, 91.7 %", "/usr/lib: 33.0 MB", // space, the way the tree is cut
		"&#43;5.0 MB", "gone.txt", "&#43;13.0 MB", "<td>6.1</td><td>6.12</td>", // changes
		"cc-root: 500 B, 250 B of it used", "LUKS2, dm-verity, read-only", strings.Repeat("ab", 32), // disk
		"GPL-3.0-or-later", "not stated for machines", // packages
		"PCR 4", strings.Repeat("04", 32), "after the boot image was started", "RTMR2", "4 vCPUs, EPYC-v4, features 0x1, profile snp", "5eed", // measurements
		"Never run there.",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q", want)
		}
	}
}

func TestThePageLoadsNothing(t *testing.T) {
	page := render(t, sample())
	policy := ""
	elements(t, page, func(n *html.Node, attr map[string]string) {
		switch n.Data {
		case "link", "img", "iframe", "object", "embed", "base", "audio", "video", "image", "use":
			t.Errorf("an element %s", n.Data)
		}
		for key, value := range attr {
			switch {
			case key == "href" && !strings.HasPrefix(value, "#"), key == "src", key == "style", strings.HasPrefix(key, "on"):
				t.Errorf("%s has %s=%q", n.Data, key, value)
			}
		}
		if attr["http-equiv"] == "Content-Security-Policy" {
			policy = attr["content"]
		}
	})
	if !strings.HasPrefix(policy, "default-src 'none';") || !strings.Contains(policy, ownParts().ScriptHash) {
		t.Errorf("content security policy %q", policy)
	}
	for _, word := range []string{"url(", "@import", "http://", "https://", "fetch("} {
		if strings.Contains(page, word) {
			t.Errorf("the page has %q", word)
		}
	}
	// The policy allows the script by its digest: what is in the page must be it.
	if !strings.Contains(page, "<script>"+scriptText+"</script>") {
		t.Error("the script in the page is another one")
	}
}

func TestDrawingsAreWellFormed(t *testing.T) {
	page, n := render(t, sample()), 0
	for rest := page; ; n++ {
		_, after, found := strings.Cut(rest, "<svg")
		if !found {
			break
		}
		drawing, next, found := strings.Cut(after, "</svg>")
		if !found {
			t.Fatal("a drawing does not end")
		}
		rest = next
		for d := xml.NewDecoder(strings.NewReader("<svg" + drawing + "</svg>")); ; {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("drawing %d: %v", n, err)
			}
		}
	}
	if n != 5 {
		t.Errorf("%d drawings, want 5", n)
	}
}

func TestWhatTheMachineDidIsDrawnOnTheTimeAxis(t *testing.T) {
	stages := []Stage{{Name: "tee", Action: "run", Seconds: 10}}
	if drawPlots(nil, 2, stages) != nil {
		t.Error("plots of nothing")
	}
	p := drawPlots([]monitor.Sample{{At: 5, CPU: 1, MemoryMB: 250, Read: 10}, {At: 10, CPU: 3, MemoryMB: 500}}, 2, stages)
	if len(p.Plots) != 4 || p.Height <= 3*plotHeight {
		t.Fatalf("%+v", p)
	}
	// Half of the time is half of the axis; the largest value is the top, and more
	// processors than there are make room for themselves.
	if got, want := p.Plots[0].Lines[0].Points, "471,68.7 850,26"; got != want || p.Plots[0].Most != "3 of 2" {
		t.Errorf("processors: %s, want %s, top %s", got, want, p.Plots[0].Most)
	}
	if got, want := p.Plots[1].Lines[0].Points, "471,58 850,26"; got != want || p.Plots[1].Most != "500 MB" {
		t.Errorf("memory: %s, want %s, top %s", got, want, p.Plots[1].Most)
	}
	if got := p.Plots[2].Lines; len(got) != 2 || got[0].Name != "read" || got[1].Points != "471,90 850,90" {
		t.Errorf("disk: %+v", got)
	}
}

func TestNamesFromOutsideAreText(t *testing.T) {
	const evil = `</title></svg><script>alert("x")</script><img src=x onerror="y">`
	r := sample()
	r.Stages[0].Name = evil
	r.Manifest.Kernel, r.Manifest.Profile, r.Manifest.Disk.Partitions[0].Label = evil, evil, evil
	r.Now.Contents.Packages[0].Name, r.Now.Contents.Packages[0].Version = evil, evil
	r.Now.Contents.Root.Folders[0].Name, r.Now.Artefacts[0].Name = evil, evil
	r.Licences = map[string]string{evil: evil}
	r.Unproven = append(r.Unproven, Unproven{evil, evil})
	scripts := 0
	elements(t, render(t, r), func(n *html.Node, attr map[string]string) {
		switch n.Data {
		case "script":
			scripts++
		case "img":
			t.Error("a picture came in")
		}
		if attr["onerror"] != "" {
			t.Errorf("%s has a handler", n.Data)
		}
	})
	if scripts != 1 {
		t.Errorf("%d scripts, want our own", scripts)
	}
}

func TestAReportWithNothingToCompareAndNothingRun(t *testing.T) {
	page := render(t, Report{Stages: []Stage{{Name: "sign", Action: "none"}}})
	for _, want := range []string{"the first image that is known here", "0 of 1 stages ran"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q", want)
		}
	}
	for _, not := range []string{"NaN", "Inf", "Licence"} {
		if strings.Contains(page, not) {
			t.Errorf("the page has %q", not)
		}
	}
}

func TestTheSameReportGivesTheSameBytes(t *testing.T) {
	if render(t, sample()) != render(t, sample()) {
		t.Error("two pages of one report differ")
	}
}

func TestTreemapsFillTheirAreaWithoutOverlap(t *testing.T) {
	for _, sizes := range [][]float64{{1}, {6, 6, 4, 3, 2, 2, 1}, {1000, 1, 1, 1}, {5, 5, 5, 5, 5}, {3, 0, 0}} {
		t.Run(fmt.Sprint(sizes), func(t *testing.T) {
			whole := 0.0
			for _, s := range sizes {
				whole += s
			}
			cells := squarify(sizes, rect{0, 0, 600, 400})
			if len(cells) != len(sizes) {
				t.Fatalf("%d areas", len(cells))
			}
			for i, c := range cells {
				if want := sizes[i] / whole * 600 * 400; math.Abs(c.w*c.h-want) > 0.01 {
					t.Errorf("area %d has %.1f, want %.1f", i, c.w*c.h, want)
				}
				if c.x < -0.01 || c.y < -0.01 || c.x+c.w > 600.01 || c.y+c.h > 400.01 {
					t.Errorf("area %d is outside: %+v", i, c)
				}
				for j, d := range cells[:i] {
					wide := min(c.x+c.w, d.x+d.w) - max(c.x, d.x)
					high := min(c.y+c.h, d.y+d.h) - max(c.y, d.y)
					if wide > 0.01 && high > 0.01 {
						t.Errorf("areas %d and %d overlap", j, i)
					}
				}
			}
		})
	}
}

// The example of the paper that the layout is from: 6, 6, 4, 3, 2, 2, 1 in 6 by 4.
func TestTheTreemapIsThatOfThePaper(t *testing.T) {
	cells := squarify([]float64{6, 6, 4, 3, 2, 2, 1}, rect{0, 0, 6, 4})
	for i, want := range []rect{{0, 0, 3, 2}, {0, 2, 3, 2}, {3, 0, 12.0 / 7, 7.0 / 3}} {
		got := cells[i]
		if math.Abs(got.x-want.x)+math.Abs(got.y-want.y)+math.Abs(got.w-want.w)+math.Abs(got.h-want.h) > 1e-9 {
			t.Errorf("area %d: %+v, want %+v", i, got, want)
		}
	}
}

func TestFiguresReadAsPeopleSayThem(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1500: "2 kB", 1_234_567: "1.2 MB", 345_600_000: "346 MB", 1_234_000_000: "1.23 GB", 23_400_000_000: "23.4 GB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
	for n, want := range map[int64]string{0: "±0", 1_500_000: "+1.5 MB", -1_500_000: "−1.5 MB"} {
		if got := delta(n); got != want {
			t.Errorf("delta(%d) = %q, want %q", n, got, want)
		}
	}
	for s, want := range map[float64]string{0.04: "0.0 s", 75: "75.0 s", 754: "12 min 34 s"} {
		if got := duration(s); got != want {
			t.Errorf("duration(%v) = %q, want %q", s, got, want)
		}
	}
}
