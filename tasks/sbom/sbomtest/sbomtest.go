// Package sbomtest holds bills of materials against their formats, by other means
// than those that wrote them. Only tests import it.
package sbomtest

import (
	"bytes"
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/github/go-spdx/v2/spdxexp"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// CycloneDX holds a document against the JSON schema of CycloneDX 1.6, which
// comes with the module that writes it.
func CycloneDX(t testing.TB, data []byte) {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	const base = "http://cyclonedx.org/schema/"
	for name, file := range map[string]string{
		"bom-1.6.schema.json": "bom-1.6.schema.json", "spdx.schema.json": "spdx.schema.json", "jsf-0.82.schema.json": "jsf-0.82.schemax.json",
	} {
		text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "schema", file))
		if err != nil {
			t.Fatal(err)
		}
		schema, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := compiler.AddResource(base+name, schema); err != nil {
			t.Fatal(err)
		}
	}
	schema, err := compiler.Compile(base + "bom-1.6.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(doc); err != nil {
		t.Errorf("not CycloneDX 1.6: %v", err)
	}
}

// spdxDocument is what SPDX 2.3 asks of a document of packages (clauses 6, 7, 10
// and 11), read without the library that writes it.
type spdxDocument struct {
	SPDXVersion, DataLicense, SPDXID, Name, DocumentNamespace string
	CreationInfo                                              struct {
		Created  string
		Creators []string
	}
	Packages []struct {
		SPDXID, Name, DownloadLocation, LicenseConcluded, LicenseDeclared, CopyrightText, PrimaryPackagePurpose, Supplier string
		FilesAnalyzed                                                                                                     bool
		Checksums                                                                                                         []struct{ Algorithm, ChecksumValue string }
		ExternalRefs                                                                                                      []struct{ ReferenceCategory, ReferenceType, ReferenceLocator string }
	}
	Relationships             []struct{ SpdxElementID, RelatedSpdxElement, RelationshipType string }
	HasExtractedLicensingInfo []struct{ LicenseID, ExtractedText string } `json:"hasExtractedLicensingInfos"`
}

var (
	identifier = regexp.MustCompile(`^SPDXRef-[A-Za-z0-9.-]+$`)
	checksum   = regexp.MustCompile(`^[0-9a-f]{64}$`)
	supplier   = regexp.MustCompile(`^(Organization|Person): \S.*$|^NOASSERTION$|^$`)
	ownLicence = regexp.MustCompile(`LicenseRef-[A-Za-z0-9.-]+`)
)

// SPDX holds a document against what the specification of SPDX 2.3 says in words;
// the JSON schema is in no package that could be had.
func SPDX(t testing.TB, data []byte) {
	t.Helper()
	var d spdxDocument
	if err := json.Unmarshal(data, &d); err != nil {
		t.Fatal(err)
	}
	if d.SPDXVersion != "SPDX-2.3" || d.DataLicense != "CC0-1.0" || d.SPDXID != "SPDXRef-DOCUMENT" || d.Name == "" {
		t.Errorf("head: %q %q %q %q", d.SPDXVersion, d.DataLicense, d.SPDXID, d.Name)
	}
	if u, err := url.Parse(d.DocumentNamespace); err != nil || !u.IsAbs() || strings.Contains(d.DocumentNamespace, "#") {
		t.Errorf("namespace %q: %v", d.DocumentNamespace, err)
	}
	if _, err := time.Parse("2006-01-02T15:04:05Z", d.CreationInfo.Created); err != nil || len(d.CreationInfo.Creators) == 0 {
		t.Errorf("creation: %+v, %v", d.CreationInfo, err)
	}
	ids := map[string]bool{d.SPDXID: true}
	used, given := map[string]bool{}, map[string]bool{}
	for _, p := range d.Packages {
		if !identifier.MatchString(p.SPDXID) || ids[p.SPDXID] {
			t.Errorf("%q: malformed, or there twice", p.SPDXID)
		}
		ids[p.SPDXID] = true
		if p.Name == "" || p.DownloadLocation == "" || p.CopyrightText == "" || p.FilesAnalyzed || !supplier.MatchString(p.Supplier) {
			t.Errorf("%s: %+v", p.SPDXID, p)
		}
		if !slices.Contains([]string{"APPLICATION", "LIBRARY", "OPERATING-SYSTEM", "FIRMWARE", "FILE", "INSTALL"}, p.PrimaryPackagePurpose) {
			t.Errorf("%s: purpose %q", p.SPDXID, p.PrimaryPackagePurpose)
		}
		for _, licence := range []string{p.LicenseConcluded, p.LicenseDeclared} {
			if ok, bad := spdxexp.ValidateLicenses([]string{licence}); licence != "NOASSERTION" && !ok {
				t.Errorf("%s: no licence expression: %q", p.SPDXID, bad)
			}
			for _, ref := range ownLicence.FindAllString(licence, -1) {
				used[ref] = true
			}
		}
		for _, c := range p.Checksums {
			if c.Algorithm != "SHA256" || !checksum.MatchString(c.ChecksumValue) {
				t.Errorf("%s: checksum %+v", p.SPDXID, c)
			}
		}
		for _, r := range p.ExternalRefs {
			if r.ReferenceCategory != "PACKAGE-MANAGER" || r.ReferenceType != "purl" || !strings.HasPrefix(r.ReferenceLocator, "pkg:") {
				t.Errorf("%s: %+v", p.SPDXID, r)
			}
		}
	}
	described := 0
	for _, r := range d.Relationships {
		if !ids[r.SpdxElementID] || !ids[r.RelatedSpdxElement] {
			t.Errorf("%+v: not both are there", r)
		}
		if !slices.Contains([]string{"DESCRIBES", "CONTAINS", "DEPENDS_ON", "STATIC_LINK", "GENERATED_FROM"}, r.RelationshipType) {
			t.Errorf("%+v: no such relationship", r)
		}
		if r.RelationshipType == "DESCRIBES" && r.SpdxElementID == d.SPDXID {
			described++
		}
	}
	if described != 1 {
		t.Errorf("it describes %d products", described)
	}
	for _, l := range d.HasExtractedLicensingInfo {
		if given[l.LicenseID] || !used[l.LicenseID] || l.ExtractedText == "" {
			t.Errorf("licence %s: there twice, of no package, or without text", l.LicenseID)
		}
		given[l.LicenseID] = true
	}
	for ref := range used {
		if !given[ref] {
			t.Errorf("licence %s has no text", ref)
		}
	}
}
