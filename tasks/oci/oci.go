// Package oci is what publishing and pulling a release agree upon: what the
// parts of a release are called in an OCI registry, and how a registry is talked
// to.
//
//	ref, err := oci.Parse("registry.example/team/cc-base:v1")
//	remote, err := oci.Connect(ref, oci.Options{})
//	defer remote.Close()
//	…                                  // remote.Blobs(), remote.Manifests()
//	return oci.Failure(err)
//
// A release is one artefact: a manifest whose layers are the built files, each
// with its name in the annotation org.opencontainers.image.title. Bill of
// materials, provenance and signature are there twice without being stored
// twice: as layers, so that one digest vouches for all of it, and as the only
// layer of a manifest of their own that refers to the release, where tools that
// know nothing of cc-base look for them.
package oci

import (
	"path"
	"strings"
)

// The artefact types of the manifests.
const (
	ReleaseType    = "application/vnd.cc-base.release.v1"
	SignatureType  = "application/vnd.cc-base.signature.v1"
	CycloneDXType  = "application/vnd.cyclonedx+json"
	SPDXType       = "application/spdx+json"
	ProvenanceType = "application/vnd.in-toto.provenance+dsse"
)

// The names of parts that a program looks for.
const (
	Installer  = "nvidia-cc-installer.tar.gz"
	Sums       = Installer + ".sha256"
	Signature  = Installer + ".asc"
	Disk       = "cc-base.qcow2"
	UKI        = "cc-base.efi"
	Manifest   = "manifest.json"
	CycloneDX  = "sbom.cdx.json"
	SPDX       = "sbom.spdx.json"
	Provenance = "provenance.intoto.json"
	Firmware   = "firmware/" // a prefix
)

// MediaType is the media type of the part of that name.
func MediaType(name string) string {
	switch name {
	case Installer:
		return "application/vnd.cc-base.installer.v1.tar+gzip"
	case Disk:
		return "application/vnd.cc-base.disk.v1.qcow2"
	case UKI:
		return "application/vnd.cc-base.uki.v1.efi"
	case CycloneDX:
		return CycloneDXType
	case SPDX:
		return SPDXType
	case Provenance:
		return ProvenanceType
	}
	switch {
	case strings.HasPrefix(name, Firmware):
		return "application/vnd.cc-base.firmware.v1"
	case path.Ext(name) == ".asc":
		return "application/pgp-signature"
	case path.Ext(name) == ".json":
		return "application/vnd.cc-base." + strings.TrimSuffix(name, ".json") + ".v1+json"
	}
	return "text/plain"
}

// Referring is the artefact type under which the part of that name refers to the
// release, if it does.
func Referring(name string) (artefactType string, ok bool) {
	switch name {
	case CycloneDX, SPDX, Provenance:
		return MediaType(name), true
	case Signature:
		return SignatureType, true
	}
	return "", false
}
