package sbom

import (
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx23 "github.com/spdx/tools-golang/spdx/v2/v2_3"

	"cc-base/tasks/deb"
)

// unknown is SPDX's word for what nobody has looked at.
const unknown = "NOASSERTION"

// spdx writes the graph as SPDX 2.3 JSON. Files are packages there too: a file of
// SPDX 2.3 must have a SHA-1, which nothing here computes.
func spdx(b Bill, g graph) ([]byte, error) {
	const product common.ElementID = "Product"
	doc := spdx23.Document{
		SPDXVersion: spdx23.Version, DataLicense: spdx23.DataLicense, SPDXIdentifier: "DOCUMENT", DocumentName: b.Name,
		CreationInfo: &spdx23.CreationInfo{
			Creators: []common.Creator{{CreatorType: "Tool", Creator: b.Name}},
			Created:  time.Unix(b.Epoch, 0).UTC().Format(time.RFC3339),
		},
		Packages: []*spdx23.Package{{
			PackageSPDXIdentifier: product, PackageName: b.Name, PackageVersion: b.Version, PrimaryPackagePurpose: "OPERATING-SYSTEM",
			PackageDownloadLocation: unknown, PackageLicenseConcluded: unknown, PackageLicenseDeclared: unknown, PackageCopyrightText: unknown,
		}},
	}
	relate := func(a, c common.ElementID, how string) {
		doc.Relationships = append(doc.Relationships, &spdx23.Relationship{
			RefA: common.MakeDocElementID("", string(a)), RefB: common.MakeDocElementID("", string(c)), Relationship: how,
		})
	}
	relate("DOCUMENT", product, common.TypeRelationshipDescribe)
	for _, c := range g.components {
		doc.Packages = append(doc.Packages, c.spdx())
		if c.in != "" || c.kind == plainFile || c.kind == firmware {
			relate(product, spdxID(c.ref), common.TypeRelationshipContains)
		}
	}
	for _, c := range g.components {
		for _, need := range c.needs {
			relate(spdxID(c.ref), spdxID(need), c.kind.relation())
		}
	}
	for _, ref := range slices.Sorted(maps.Keys(g.licences)) {
		doc.OtherLicenses = append(doc.OtherLicenses, otherLicence(ref, g.licences[ref]))
	}
	draft, err := encodeSPDX(doc)
	if err != nil {
		return nil, err
	}
	doc.DocumentNamespace = "urn:uuid:" + contentUUID(draft)
	return encodeSPDX(doc)
}

func encodeSPDX(doc spdx23.Document) ([]byte, error) {
	var b bytes.Buffer
	err := json.Write(doc, &b, json.Indent("  "), json.EscapeHTML(false))
	return b.Bytes(), err
}

func otherLicence(ref string, text deb.LicenceText) *spdx23.OtherLicense {
	return &spdx23.OtherLicense{LicenseIdentifier: ref, LicenseName: text.Name, ExtractedText: text.Text}
}

// relation is how a component of this kind relates to what it needs.
func (k kind) relation() string {
	switch k {
	case program:
		return common.TypeRelationshipStaticLink
	case plainFile, firmware:
		return common.TypeRelationshipGeneratedFrom
	}
	return common.TypeRelationshipDependsOn
}

func (c component) spdx() *spdx23.Package {
	purposes := map[kind]string{
		debPackage: "INSTALL", goModule: "LIBRARY", program: "APPLICATION", plainFile: "FILE", firmware: "FIRMWARE",
	}
	p := &spdx23.Package{
		PackageSPDXIdentifier: spdxID(c.ref), PackageName: c.name, PackageVersion: c.version, PrimaryPackagePurpose: purposes[c.kind],
		PackageDownloadLocation: unknown, PackageLicenseConcluded: unknown, PackageLicenseDeclared: unknown, PackageCopyrightText: unknown,
	}
	if c.sha256 != "" {
		p.PackageChecksums = []common.Checksum{{Algorithm: common.SHA256, Value: c.sha256}}
	}
	if c.licence != "" {
		p.PackageLicenseDeclared = c.licence
	}
	if c.supplier != "" {
		// "Name <mail>" is "Name (mail)" in SPDX.
		p.PackageSupplier = &common.Supplier{SupplierType: "Organization", Supplier: strings.NewReplacer("<", "(", ">", ")").Replace(c.supplier)}
	}
	if c.url != "" {
		p.PackageExternalReferences = []*spdx23.PackageExternalReference{{Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: c.url}}
	}
	if c.source != "" {
		p.PackageSourceInfo = "built from the source package " + c.source
	}
	var notes []string
	for _, property := range c.properties {
		notes = append(notes, property[0]+"="+property[1])
	}
	if c.in != "" {
		notes = append(notes, "cc-base:in="+c.in)
	}
	p.PackageComment = strings.Join(notes, "\n")
	return p
}

var unfit = regexp.MustCompile(`[^A-Za-z0-9.]+`)

// spdxID is a reference in SPDX's few letters; the digest keeps apart what they
// make equal.
func spdxID(ref string) common.ElementID {
	return common.ElementID(fmt.Sprintf("%s-%s", strings.Trim(unfit.ReplaceAllString(ref, "-"), "-"), contentUUID([]byte(ref))[:8]))
}
