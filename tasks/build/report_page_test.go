package build_test

// What green does not prove: that the page looks well. It is read as a browser's
// parser reads it, and nothing draws it.

import (
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"cc-base/tasks/inventory"
	"cc-base/tasks/lab"
	"cc-base/tasks/manifest"
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
	for _, stage := range []string{"bootstrap", "encrypt", "package", "sign"} {
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
