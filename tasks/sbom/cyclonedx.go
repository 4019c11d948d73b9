package sbom

import (
	"bytes"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// cycloneDX writes the graph as CycloneDX 1.6 JSON.
func cycloneDX(b Bill, g graph) ([]byte, error) {
	var components []cdx.Component
	var dependencies []cdx.Dependency
	for _, c := range g.components {
		components = append(components, c.cycloneDX())
		if len(c.needs) > 0 {
			dependencies = append(dependencies, cdx.Dependency{Ref: c.ref, Dependencies: &c.needs})
		}
	}
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{
		Timestamp: time.Unix(b.Epoch, 0).UTC().Format(time.RFC3339),
		Component: &cdx.Component{BOMRef: "product:" + b.Name, Type: cdx.ComponentTypeOS, Name: b.Name, Version: b.Version},
	}
	bom.Components, bom.Dependencies = &components, &dependencies
	draft, err := encodeCycloneDX(bom)
	if err != nil {
		return nil, err
	}
	bom.SerialNumber = "urn:uuid:" + contentUUID(draft)
	return encodeCycloneDX(bom)
}

func encodeCycloneDX(bom *cdx.BOM) ([]byte, error) {
	var b bytes.Buffer
	enc := cdx.NewBOMEncoder(&b, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false)
	err := enc.EncodeVersion(bom, cdx.SpecVersion1_6)
	return b.Bytes(), err
}

func (c component) cycloneDX() cdx.Component {
	types := map[kind]cdx.ComponentType{
		debPackage: cdx.ComponentTypeLibrary, goModule: cdx.ComponentTypeLibrary, program: cdx.ComponentTypeApplication,
		plainFile: cdx.ComponentTypeFile, firmware: cdx.ComponentTypeFirmware,
	}
	out := cdx.Component{BOMRef: c.ref, Type: types[c.kind], Name: c.name, Version: c.version, PackageURL: c.url}
	if c.sha256 != "" {
		out.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: c.sha256}}
	}
	if c.supplier != "" {
		out.Supplier = &cdx.OrganizationalEntity{Name: c.supplier}
	}
	if c.licence != "" {
		out.Licenses = &cdx.Licenses{{Expression: c.licence}}
	}
	var properties []cdx.Property
	for _, p := range c.properties {
		properties = append(properties, cdx.Property{Name: p[0], Value: p[1]})
	}
	if c.source != "" {
		properties = append(properties, cdx.Property{Name: "cc-base:deb:source", Value: c.source})
	}
	if c.in != "" {
		properties = append(properties, cdx.Property{Name: "cc-base:in", Value: c.in})
	}
	if len(properties) > 0 {
		out.Properties = &properties
	}
	return out
}
