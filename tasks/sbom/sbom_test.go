package sbom_test

// What green does not prove: that a scanner finds in the documents what it needs;
// none has read them. CycloneDX is held against the format's JSON schema. SPDX's
// could not be had as a package, so its document is held against the words of the
// specification and read by the format's own library. Packages are made up here;
// tasks/build holds a built image's documents against the tree.

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/deb"
	"cc-base/tasks/digest"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/sbom"
	"cc-base/tasks/sbom/sbomtest"
)

const epoch = 1735689600 // 2025-01-01

func pkg(name, version, arch string) sbom.Package {
	return sbom.Package{Distribution: "debian", Suite: "trixie", Package: deb.Package{Name: name, Version: version, Architecture: arch, SHA256: digest.Bytes([]byte(name))}}
}

func bill() sbom.Bill {
	bash, lib := pkg("bash", "1:5.2.37-2+b5~x", "amd64"), pkg("libstdc++6", "14.2.0-19", "amd64")
	bash.In, bash.Needs = "cc-root", []string{"libstdc++6:amd64"}
	bash.Maintainer = "Some One <one@example.org>"
	bash.Licence = deb.Licence{Expression: "GPL-3.0-or-later AND LicenseRef-x-1", Texts: map[string]deb.LicenceText{"LicenseRef-x-1": {Name: "x", Text: "Do <as> you like."}}}
	lib.In, lib.Source, lib.Size, lib.Filename = "cc-root", "gcc-14", 700_000, "pool/main/g/gcc-14/libstdc++6_14.2.0-19_amd64.deb"
	local := pkg("local", "1", "all")
	local.SHA256 = ""
	ovmf := pkg("ovmf-amdsev", "2026.08+ds-2", "all")
	ovmf.Suite = ""
	return sbom.Bill{
		Name: "cc-base", Version: "1", Epoch: epoch, Packages: []sbom.Package{lib, bash, local},
		Files: []sbom.File{
			{Name: "firmware/OVMF.amdsev.fd", SHA256: digest.Bytes([]byte("f")), Firmware: true, From: []sbom.Package{ovmf}},
			{Name: "cc-base.efi", SHA256: digest.Bytes([]byte("e")), From: []sbom.Package{pkg("systemd-boot-efi", "257", "amd64"), lib}},
			{Name: "plain", SHA256: digest.Bytes([]byte("p"))},
		},
	}
}

func documents(t *testing.T, b sbom.Bill) map[string][]byte {
	t.Helper()
	docs, err := b.Documents()
	if err != nil {
		t.Fatal(err)
	}
	if len(docs) != 2 {
		t.Fatalf("%d documents", len(docs))
	}
	return docs
}

// program builds one, because a test binary does not carry the list of its
// modules.
func program(t *testing.T) string {
	t.Helper()
	self := filepath.Join(t.TempDir(), "program")
	source := "package main\n\nimport _ \"github.com/klauspost/pgzip\"\nimport _ \"github.com/CycloneDX/cyclonedx-go\"\n\nfunc main() {}\n"
	if err := os.WriteFile(self+".go", []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-o", self, self+".go").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return self
}

func TestTheFormatsAreKept(t *testing.T) {
	t.Parallel()
	b := bill()
	self := program(t)
	b.Programs = []sbom.Program{{Name: "cc-install", Path: self, In: "installer"}, {Name: "cc-guest", Path: self, In: "cc-root"}}
	docs := documents(t, b)
	sbomtest.CycloneDX(t, docs[sbom.CycloneDXFile])
	sbomtest.SPDX(t, docs[sbom.SPDXFile])
	for name, data := range docs {
		if bytes.Contains(data, []byte(self)) {
			t.Errorf("%s: a path of this machine is in it", name)
		}
		if bytes.Contains(data, []byte(`\u00`)) || !bytes.HasSuffix(data, []byte("}\n")) {
			t.Errorf("%s: not plain text", name)
		}
	}
}

// probe is a test that may fail.
type probe struct {
	testing.TB
	failed bool
}

func (p *probe) Helper()               {}
func (p *probe) Errorf(string, ...any) { p.failed = true }

func TestTheChecksOfTheFormatsFindFaults(t *testing.T) {
	t.Parallel()
	docs := documents(t, bill())
	for old, other := range map[string]string{
		`"specVersion": "1.6"`: `"specVersion": 1.6`, `"SHA-256"`: `"sha256"`, `"type": "firmware"`: `"type": "rom"`,
		`"bom-ref"`: `"bomref"`, `"timestamp": "2025`: `"timestamp": "25`,
	} {
		p := &probe{TB: t}
		broken := bytes.Replace(docs[sbom.CycloneDXFile], []byte(old), []byte(other), 1)
		if sbomtest.CycloneDX(p, broken); !p.failed || bytes.Equal(broken, docs[sbom.CycloneDXFile]) {
			t.Errorf("CycloneDX with %s is accepted", other)
		}
	}
	for old, other := range map[string]string{
		`"SPDX-2.3"`: `"SPDX-2.2"`, `"SHA256"`: `"SHA-256"`, `"CONTAINS"`: `"HOLDS"`, `"DESCRIBES"`: `"CONTAINS"`,
		`"GPL-3.0-or-later AND`: `"GPLv3 AND`, `"licenseId": "LicenseRef-x-1"`: `"licenseId": "LicenseRef-x-2"`,
		`"urn:uuid:`: `"`, `"created": "2025-01-01T00:00:00Z"`: `"created": "2025-01-01"`, `"supplier": "Organization: `: `"supplier": "`,
		`"SPDXID": "SPDXRef-Product"`: `"SPDXID": "SPDXRef-Product_"`, `"purl"`: `"url"`,
	} {
		p := &probe{TB: t}
		broken := bytes.Replace(docs[sbom.SPDXFile], []byte(old), []byte(other), 1)
		if sbomtest.SPDX(p, broken); !p.failed || bytes.Equal(broken, docs[sbom.SPDXFile]) {
			t.Errorf("SPDX with %s is accepted", other)
		}
	}
}

func TestBothDocumentsSayTheSame(t *testing.T) {
	t.Parallel()
	docs := documents(t, bill())
	want := []sbom.Component{
		{Name: "bash", Version: "1:5.2.37-2+b5~x", URL: "pkg:deb/debian/bash@1:5.2.37-2%2Bb5~x?arch=amd64&distro=trixie", SHA256: digest.Bytes([]byte("bash")),
			Licence: "GPL-3.0-or-later AND LicenseRef-x-1", Needs: []string{"libstdc++6"}},
		{Name: "cc-base.efi", SHA256: digest.Bytes([]byte("e")), Needs: []string{"libstdc++6", "systemd-boot-efi"}},
		{Name: "firmware/OVMF.amdsev.fd", SHA256: digest.Bytes([]byte("f")), Needs: []string{"ovmf-amdsev"}},
		{Name: "libstdc++6", Version: "14.2.0-19", URL: "pkg:deb/debian/libstdc%2B%2B6@14.2.0-19?arch=amd64&distro=trixie", SHA256: digest.Bytes([]byte("libstdc++6"))},
		{Name: "local", Version: "1", URL: "pkg:deb/debian/local@1?arch=all&distro=trixie"},
		{Name: "ovmf-amdsev", Version: "2026.08+ds-2", URL: "pkg:deb/debian/ovmf-amdsev@2026.08%2Bds-2?arch=all", SHA256: digest.Bytes([]byte("ovmf-amdsev"))},
		{Name: "plain", SHA256: digest.Bytes([]byte("p"))},
		{Name: "systemd-boot-efi", Version: "257", URL: "pkg:deb/debian/systemd-boot-efi@257?arch=amd64&distro=trixie", SHA256: digest.Bytes([]byte("systemd-boot-efi"))},
	}
	for name, format := range map[string]string{sbom.CycloneDXFile: "CycloneDX 1.6", sbom.SPDXFile: "SPDX-2.3"} {
		got, err := sbom.Read(docs[name])
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(sbom.List{Format: format, Name: "cc-base", Created: "2025-01-01T00:00:00Z", Components: want}, got); d != "" {
			t.Errorf("%s:\n%s", name, d)
		}
	}
}

func TestTheModulesOfAProgramAreListedOnce(t *testing.T) {
	t.Parallel()
	self := program(t)
	docs := documents(t, sbom.Bill{Name: "cc-base", Programs: []sbom.Program{{Name: "cc-install", Path: self}, {Name: "cc-guest", Path: self}}})
	for name, data := range docs {
		list, err := sbom.Read(data)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]int{}
		for _, c := range list.Components {
			seen[c.Name]++
			if (c.Name == "cc-guest" || c.Name == "cc-install") && !(slices.Contains(c.Needs, "stdlib") && slices.Contains(c.Needs, "github.com/klauspost/pgzip")) {
				t.Errorf("%s: %s was linked from %q", name, c.Name, c.Needs)
			}
			if c.Name == "github.com/CycloneDX/cyclonedx-go" && c.URL != "pkg:golang/github.com/cyclonedx/cyclonedx-go@"+c.Version {
				t.Errorf("%s: %+v", name, c)
			}
		}
		for _, one := range []string{"cc-guest", "cc-install", "stdlib", "github.com/klauspost/pgzip", "github.com/CycloneDX/cyclonedx-go"} {
			if seen[one] != 1 {
				t.Errorf("%s: %s is there %d times", name, one, seen[one])
			}
		}
		if !bytes.Contains(data, []byte("h1:")) {
			t.Errorf("%s: no module has its sum", name)
		}
	}
}

func TestEqualBillsGiveEqualBytesAndOthersAnotherIdentity(t *testing.T) {
	t.Parallel()
	identity := regexp.MustCompile(`urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`)
	one := documents(t, bill())
	turned, other := bill(), bill()
	slices.Reverse(turned.Packages)
	slices.Reverse(turned.Files)
	other.Version = "2"
	again, changed := documents(t, turned), documents(t, other)
	for name := range one {
		if !bytes.Equal(one[name], again[name]) {
			t.Errorf("%s: the order of the bill changes the bytes", name)
		}
		a, b := identity.Find(one[name]), identity.Find(changed[name])
		if a == nil || b == nil || bytes.Equal(a, b) {
			t.Errorf("%s: identities %s and %s", name, a, b)
		}
	}
}

func TestABillThatContradictsItselfIsRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*sbom.Bill)
		words  string
	}{
		"no name":                 {func(b *sbom.Bill) { b.Name = "" }, "no name"},
		"a package twice":         {func(b *sbom.Bill) { b.Packages = append(b.Packages, b.Packages[0]) }, "given twice"},
		"half a digest":           {func(b *sbom.Bill) { b.Packages[0].SHA256 = "ab" }, "malformed sha256"},
		"no version":              {func(b *sbom.Bill) { b.Packages[0].Version = "" }, "all needed"},
		"no distribution":         {func(b *sbom.Bill) { b.Packages[0].Distribution = "" }, "of no distribution"},
		"needs what is not there": {func(b *sbom.Bill) { b.Packages[0].Needs = []string{"x:all"} }, "needs x:all"},
		"a file twice":            {func(b *sbom.Bill) { b.Files = append(b.Files, b.Files[0]) }, "given twice"},
		"a file of no digest":     {func(b *sbom.Bill) { b.Files[0].SHA256 = "" }, "malformed entry"},
		"not a Go program":        {func(b *sbom.Bill) { b.Programs = []sbom.Program{{Name: "x", Path: "sbom_test.go"}} }, "program x"},
		"a missing program":       {func(b *sbom.Bill) { b.Programs = []sbom.Program{{Name: "x", Path: "missing"}} }, "program x"},
	} {
		b := bill()
		tc.change(&b)
		docs, err := b.Documents()
		faulttest.Want(t, err, fault.Bill, tc.words)
		if docs != nil {
			t.Errorf("%s: there are documents", name)
		}
	}
	b := bill()
	b.Name, b.Packages[1].Version = "", ""
	_, err := b.Documents()
	faulttest.Want(t, err, fault.Bill, "no name", "all needed")
}

func TestWhatIsNoBillIsRefused(t *testing.T) {
	t.Parallel()
	docs := documents(t, bill())
	without := func(file, old, other string) string {
		return strings.Replace(string(docs[file]), old, other, 1)
	}
	for name, text := range map[string]string{
		"nothing":            "",
		"a list":             "[]",
		"another document":   `{"name": "x"}`,
		"half a CycloneDX":   string(docs[sbom.CycloneDXFile][:500]),
		"half an SPDX":       string(docs[sbom.SPDXFile][:500]),
		"no components":      `{"bomFormat": "CycloneDX", "specVersion": "1.6"}`,
		"an SPDX of nothing": `{"spdxVersion": "SPDX-2.3"}`,
		"no such version":    without(sbom.SPDXFile, "SPDX-2.3", "SPDX-9.9"),
		"needs what is not there (CycloneDX)": without(sbom.CycloneDXFile, `"dependsOn": [
        "`, `"dependsOn": [
        "x`),
		"needs what is not there (SPDX)": without(sbom.SPDXFile, `"relatedSpdxElement": "SPDXRef-pkg`, `"relatedSpdxElement": "SPDXRef-x`),
		"describes nothing":              without(sbom.SPDXFile, `"DESCRIBES"`, `"CONTAINS"`),
	} {
		list, err := sbom.Read([]byte(text))
		if err == nil {
			t.Errorf("%s: %+v", name, list)
			continue
		}
		faulttest.Want(t, err, fault.Bill, "bill of materials: ")
	}
}
