package bundle

// What green does not prove: the document is decoded by the library that wrote
// it and compared field by field; no scanner has read it. Package data is made
// up, not from an archive.

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cc-base/tasks/digest"
	"cc-base/tasks/manifest"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-cmp/cmp"
)

func bill() Bill {
	return Bill{
		Name: "cc-base", Version: "1", Epoch: epoch, Distribution: "debian", Suite: "trixie",
		Packages: []Package{
			{Name: "libstdc++6", Version: "14.2.0-19", Architecture: "amd64", Source: "gcc-14", SHA256: digest.Bytes([]byte("b")), Size: 700_000, Filename: "pool/main/g/gcc-14/libstdc++6_14.2.0-19_amd64.deb"},
			{Name: "bash", Version: "1:5.2.37-2+b5~x", Architecture: "amd64", SHA256: digest.Bytes([]byte("a"))},
		},
		Files: []manifest.File{{Path: "cc-base.efi", Size: 1, SHA256: digest.Bytes([]byte("c"))}},
	}
}

func TestSBOMIsDeterministicCycloneDX16(t *testing.T) {
	one, err := SBOM(bill())
	if err != nil {
		t.Fatal(err)
	}
	b := bill()
	b.Packages[0], b.Packages[1] = b.Packages[1], b.Packages[0]
	two, err := SBOM(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one, two) {
		t.Error("the order of the packages changes the bytes")
	}
	b.Version = "2"
	three, err := SBOM(b)
	if err != nil {
		t.Fatal(err)
	}
	decode := func(data []byte) cdx.BOM {
		var bom cdx.BOM
		if err := cdx.NewBOMDecoder(bytes.NewReader(data), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
			t.Fatal(err)
		}
		return bom
	}
	bom := decode(one)
	if bom.SpecVersion != cdx.SpecVersion1_6 || bom.BOMFormat != "CycloneDX" || bom.Metadata.Timestamp != "2025-01-01T00:00:00Z" {
		t.Errorf("head: %v %v %v", bom.SpecVersion, bom.BOMFormat, bom.Metadata.Timestamp)
	}
	if !regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(bom.SerialNumber) {
		t.Errorf("serial number %s", bom.SerialNumber)
	}
	if other := decode(three).SerialNumber; other == bom.SerialNumber {
		t.Error("another product version has the same serial number")
	}
	want := []string{
		"",
		"pkg:deb/debian/bash@1:5.2.37-2%2Bb5~x?arch=amd64&distro=trixie",
		"pkg:deb/debian/libstdc%2B%2B6@14.2.0-19?arch=amd64&distro=trixie",
	}
	var got []string
	for _, c := range *bom.Components {
		got = append(got, c.PackageURL)
		if c.Hashes == nil || (*c.Hashes)[0].Algorithm != cdx.HashAlgoSHA256 {
			t.Errorf("%s: no sha256", c.Name)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("package URLs (-want +got):\n%s", diff)
	}
	if !bytes.Contains(one, []byte(`arch=amd64&distro`)) || !json.Valid(one) || !bytes.HasSuffix(one, []byte("}\n")) {
		t.Error("not plain JSON text")
	}
}

// The program is built here, because a test binary does not carry the list of
// its modules.
func TestSBOMListsTheModulesOfABinary(t *testing.T) {
	needTool(t, "go")
	dir := t.TempDir()
	self := filepath.Join(dir, "program")
	source := "package main\n\nimport _ \"github.com/klauspost/pgzip\"\nimport _ \"github.com/CycloneDX/cyclonedx-go\"\n\nfunc main() {}\n"
	if err := os.WriteFile(self+".go", []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-o", self, self+".go").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	data, err := SBOM(Bill{Name: "cc-base", Binaries: []Binary{{Name: "cc-install", Path: self}, {Name: "cc-guest", Path: self}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"purl": "pkg:golang/github.com/klauspost/pgzip@v1.3.0"`,
		`"purl": "pkg:golang/github.com/cyclonedx/cyclonedx-go@v0.12.0"`,
		`"bom-ref": "binary:cc-guest"`,
		`"purl": "pkg:golang/stdlib@1.`,
		`"value": "h1:`,
	} {
		if !bytes.Contains(data, []byte(want)) {
			t.Errorf("%s is missing", want)
		}
	}
	if n := bytes.Count(data, []byte(`"bom-ref": "pkg:golang/stdlib@`)); n != 1 {
		t.Errorf("the standard library is there %d times", n)
	}
	if bytes.Contains(data, []byte(self)) {
		t.Error("a path of this machine is in the bill")
	}
}

func TestSBOMRefuses(t *testing.T) {
	for name, change := range map[string]func(*Bill){
		"no name":           func(b *Bill) { b.Name = "" },
		"a package twice":   func(b *Bill) { b.Packages = append(b.Packages, b.Packages[0]) },
		"no digest":         func(b *Bill) { b.Packages[0].SHA256 = "" },
		"no version":        func(b *Bill) { b.Packages[0].Version = "" },
		"a file twice":      func(b *Bill) { b.Files = append(b.Files, b.Files[0]) },
		"not a Go program":  func(b *Bill) { b.Binaries = []Binary{{Name: "x", Path: "sbom_test.go"}} },
		"a missing program": func(b *Bill) { b.Binaries = []Binary{{Name: "x", Path: "missing"}} },
	} {
		b := bill()
		change(&b)
		if data, err := SBOM(b); err == nil || data != nil || !strings.HasPrefix(err.Error(), "sbom: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
