package sbom

import (
	"bytes"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"

	"cc-base/tasks/fault"
)

// List is what a bill of materials holds, whatever its format.
type List struct {
	Format     string // "CycloneDX 1.6" or "SPDX-2.3"
	Name       string // of the product
	Created    string // RFC 3339
	Components []Component
}

// Component is one row of a bill. What the bill does not say is empty.
type Component struct {
	Name    string
	Version string
	URL     string // package URL
	SHA256  string
	Licence string   // SPDX expression that the component's author declares
	Needs   []string // names of others, sorted
}

// Read reads a bill in either format; components are sorted by name, version and
// package URL. Errors have code [fault.Bill].
func Read(data []byte) (List, error) {
	var head struct {
		CycloneDX string `json:"bomFormat"`
		SPDX      string `json:"spdxVersion"`
	}
	err := stdjson.Unmarshal(data, &head)
	var l List
	switch {
	case err != nil:
	case head.CycloneDX == "CycloneDX":
		l, err = readCycloneDX(data)
	case head.SPDX != "":
		l, err = readSPDX(data)
	default:
		err = errors.New("neither CycloneDX nor SPDX")
	}
	if err != nil {
		return List{}, fault.Newf(fault.Bill, "bill of materials: %w", err)
	}
	for _, c := range l.Components {
		slices.Sort(c.Needs)
	}
	slices.SortFunc(l.Components, func(a, b Component) int {
		return strings.Compare(a.Name+"\x00"+a.Version+"\x00"+a.URL, b.Name+"\x00"+b.Version+"\x00"+b.URL)
	})
	return l, nil
}

func readCycloneDX(data []byte) (List, error) {
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(bytes.NewReader(data), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		return List{}, err
	}
	if bom.Metadata == nil || bom.Metadata.Component == nil || bom.Components == nil {
		return List{}, errors.New("it names no product, or no components")
	}
	l := List{Format: "CycloneDX " + bom.SpecVersion.String(), Name: bom.Metadata.Component.Name, Created: bom.Metadata.Timestamp}
	names, needs := map[string]string{}, map[string][]string{}
	for _, c := range *bom.Components {
		names[c.BOMRef] = c.Name
	}
	if bom.Dependencies != nil {
		for _, d := range *bom.Dependencies {
			if d.Dependencies == nil {
				continue
			}
			for _, ref := range *d.Dependencies {
				if names[ref] == "" {
					return List{}, fmt.Errorf("%s depends on %s, which is not there", d.Ref, ref)
				}
				needs[d.Ref] = append(needs[d.Ref], names[ref])
			}
		}
	}
	for _, c := range *bom.Components {
		row := Component{Name: c.Name, Version: c.Version, URL: c.PackageURL, Needs: needs[c.BOMRef]}
		if c.Hashes != nil {
			for _, h := range *c.Hashes {
				if h.Algorithm == cdx.HashAlgoSHA256 {
					row.SHA256 = h.Value
				}
			}
		}
		if c.Licenses != nil && len(*c.Licenses) == 1 {
			row.Licence = (*c.Licenses)[0].Expression
		}
		l.Components = append(l.Components, row)
	}
	return l, nil
}

func readSPDX(data []byte) (List, error) {
	doc, err := json.Read(bytes.NewReader(data))
	if err != nil {
		return List{}, err
	}
	if doc.CreationInfo == nil {
		return List{}, errors.New("it does not say when it was made")
	}
	l := List{Format: doc.SPDXVersion, Created: doc.CreationInfo.Created}
	names, needs := map[common.ElementID]string{}, map[common.ElementID][]string{}
	for _, p := range doc.Packages {
		names[p.PackageSPDXIdentifier] = p.PackageName
	}
	var product common.ElementID
	for _, r := range doc.Relationships {
		a, b := r.RefA.ElementRefID, r.RefB.ElementRefID
		if names[b] == "" || a != "DOCUMENT" && names[a] == "" {
			return List{}, fmt.Errorf("%s %s %s: not both are there", a, r.Relationship, b)
		}
		switch r.Relationship {
		case common.TypeRelationshipDescribe:
			product = b
		case common.TypeRelationshipContains:
		default:
			needs[a] = append(needs[a], names[b])
		}
	}
	if l.Name = names[product]; l.Name == "" {
		return List{}, errors.New("it names no product")
	}
	for _, p := range doc.Packages {
		if p.PackageSPDXIdentifier == product {
			continue
		}
		row := Component{Name: p.PackageName, Version: p.PackageVersion, Needs: needs[p.PackageSPDXIdentifier]}
		if p.PackageLicenseDeclared != unknown {
			row.Licence = p.PackageLicenseDeclared
		}
		for _, sum := range p.PackageChecksums {
			if sum.Algorithm == common.SHA256 {
				row.SHA256 = sum.Value
			}
		}
		for _, ref := range p.PackageExternalReferences {
			if ref.RefType == common.TypePackageManagerPURL {
				row.URL = ref.Locator
			}
		}
		l.Components = append(l.Components, row)
	}
	return l, nil
}
