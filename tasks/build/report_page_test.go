package build_test

// What green does not prove: that the page looks well. A browser draws it in the
// long mode; people look at it.

import (
	"bytes"
	"encoding/json"
	"fmt"
	picture "image"
	"image/color"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"cc-base/tasks/build"
	"cc-base/tasks/filetest"
	"cc-base/tasks/inventory"
	"cc-base/tasks/lab"
	"cc-base/tasks/manifest"
	"cc-base/tasks/sh"
	"cc-base/tasks/toolbox"
)

// cells returns the text of the first cell of each row below the section.
func cells(root *html.Node, section string) (names []string) {
	for n := range root.Descendants() {
		if n.Type != html.ElementNode || n.Data != "section" || !slices.Contains(n.Attr, html.Attribute{Key: "id", Val: section}) {
			continue
		}
		for row := range n.Descendants() {
			if row.Data != "tr" || row.Parent.Data != "tbody" {
				continue
			}
			text := ""
			for d := range row.FirstChild.Descendants() {
				if d.Type == html.TextNode {
					text += d.Data
				}
			}
			names = append(names, text)
		}
	}
	return names
}

func TestTheReportOfTheBuiltImageHoldsItsData(t *testing.T) {
	image := lab.Built(t)
	data, err := os.ReadFile(image.Path("report.html"))
	if err != nil {
		t.Fatal(err)
	}
	page := string(data)
	root, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	tree, err := os.Open(image.Path("scratch", "root.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	inv, err := inventory.Read(tree)
	if err != nil {
		t.Fatal(err)
	}
	var installed []struct{ Name string }
	list, err := os.ReadFile(image.Path("scratch", "packages.json"))
	if err == nil {
		err = json.Unmarshal(list, &installed)
	}
	if err != nil {
		t.Fatal(err)
	}
	// Two ways to the same packages: dpkg's database in the tree, and what
	// bootstrap recorded.
	var want []string
	for _, p := range installed {
		want = append(want, p.Name)
	}
	got := cells(root, "packages")
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the table has %d packages, %d were installed", len(got), len(want))
	}
	sum := inv.Other
	for _, p := range inv.Packages {
		sum += p.Bytes
	}
	if sum != inv.Bytes || inv.Root.Bytes != inv.Bytes || inv.Other > inv.Bytes/3 {
		t.Errorf("packages and others have %d bytes, the tree %d; %d of no package", sum, inv.Bytes, inv.Other)
	}

	f, err := os.Open(image.Path("manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := manifest.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range m.Disk.Partitions {
		if !strings.Contains(page, ">"+p.Label+"</td>") || p.Verity != nil && !strings.Contains(page, p.Verity.RootHash) {
			t.Errorf("nothing of partition %s", p.Label)
		}
	}
	files := cells(root, "files")
	for _, name := range []string{"cc-base.qcow2", "nvidia-cc-installer.tar.gz", "nvidia-cc-installer.tar.gz.asc", "measurements.json"} {
		if !slices.Contains(files, name) {
			t.Errorf("no %s among %v", name, files)
		}
	}
	// Whoever brought the image up to date last may have gone as far as package alone.
	for _, stage := range []string{"bootstrap", "encrypt", "package"} {
		if !strings.Contains(page, ">"+stage+"</text>") {
			t.Errorf("no stage %s in the timeline", stage)
		}
	}
	for n := range root.Descendants() {
		if n.Data == "link" || n.Data == "img" {
			t.Errorf("the page has an element %s", n.Data)
		}
	}
}

func TestTheReportIsWrittenAnewOnlyWhenItIsGoneOrSomethingRan(t *testing.T) {
	image := lab.Built(t)
	build := func() os.FileInfo {
		t.Helper()
		cmd := exec.Command("go", "tool", "mage", "build")
		cmd.Dir = "../.."
		cmd.Env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "CI=") }),
			"CC_PROFILE=minimal", "CC_OUT_DIR="+image.Out)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		info, err := os.Stat(image.Path("report.html"))
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	first := build()
	if again := build(); !os.SameFile(first, again) || !again.ModTime().Equal(first.ModTime()) {
		t.Error("nothing changed and the report was written again")
	}
	if err := os.Remove(image.Path("report.html")); err != nil {
		t.Fatal(err)
	}
	if build().Size() == 0 {
		t.Error("the report is empty")
	}
}

// drawn has Chromium draw the page and returns the picture.
func drawn(t *testing.T, browser toolbox.Tree, dir, page string, dark bool) picture.Image {
	t.Helper()
	file := filepath.Join(dir, fmt.Sprintf("dark-%v.png", dark))
	args := []string{"--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--window-size=1200,4200", "--screenshot=" + file}
	if dark {
		args = append(args, "--blink-settings=preferredColorScheme=0")
	}
	if err := sh.Do(t.Context(), browser, "/usr/lib/chromium/chromium", append(args, "file://"+page)...); err != nil {
		t.Fatal(err)
	}
	drawing, err := png.Decode(bytes.NewReader(filetest.Read(t, file)))
	if err != nil {
		t.Fatal(err)
	}
	if keep := os.Getenv("CC_TEST_PICTURES"); keep != "" {
		filetest.Write(t, filepath.Join(keep, filepath.Base(file)), filetest.Read(t, file))
	}
	return drawing
}

// look returns how bright a picture is, 0 to 1, and how many colours it has.
func look(p picture.Image) (brightness float64, colours int) {
	seen := map[color.Color]bool{}
	b := p.Bounds()
	for y := b.Min.Y; y < b.Max.Y; y += 3 {
		for x := b.Min.X; x < b.Max.X; x += 3 {
			c := p.At(x, y)
			seen[c] = true
			g := color.GrayModel.Convert(c).(color.Gray)
			brightness += float64(g.Y) / 255 * 9 / float64(b.Dx()*b.Dy())
		}
	}
	return brightness, len(seen)
}

func TestABrowserDrawsTheReport(t *testing.T) {
	if !lab.Long() {
		t.Skip("only in the long mode: a browser is a large tree")
	}
	built := lab.Built(t)
	o, err := build.FromEnvironment(false)
	if err != nil {
		t.Fatal(err)
	}
	o.OutDir, o.Profile = t.TempDir(), "minimal"
	tree, err := build.TestTree(t.Context(), o, "browser", []string{"chromium", "fonts-dejavu-core", "coreutils"})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	page := filetest.Write(t, filepath.Join(dir, "report.html"), filetest.Read(t, built.Path("report.html")))
	browser := toolbox.Tree{Dir: tree, Host: sh.Host{}, Binds: []string{dir}}
	light, colours := look(drawn(t, browser, dir, page, false))
	dark, _ := look(drawn(t, browser, dir, page, true))
	// Colours of areas, of text and of its edges; mostly background in both.
	if colours < 50 || light < 0.7 || dark > 0.3 {
		t.Errorf("%d colours, brightness %.2f in the light and %.2f in the dark", colours, light, dark)
	}
}
