// Package publish sends what was built to an OCI registry: as one artefact with
// its bills of materials, provenance and signature referring to it, and as a
// containerDisk for KubeVirt.
//
//	result, err := publish.Publish(ctx, publish.Options{
//		Out: "out", To: "registry.example/team/cc-base:v1", Say: say,
//	})
//
// Equal files give equal digests. Nothing is named by the tag before all of it is
// there. A blob that the registry has is not sent again, so that a push which was
// cut off goes on with the blob that it was at; that one begins anew. Uploads in
// chunks would gain nothing: distribution, the reference registry, refuses to go
// on with an upload whose last chunk broke off (v3.0.0
// registry/handlers/blobupload.go, ResumeBlobUpload).
package publish

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/registry"

	"cc-base/tasks/fault"
	"cc-base/tasks/manifest"
	"cc-base/tasks/oci"
)

// DiskSuffix is appended to the tag of a release for its containerDisk.
const DiskSuffix = "-containerdisk"

// Options say what is published where.
type Options struct {
	Out      string // folder of what was built
	To       string // REGISTRY/REPO:TAG
	Registry oci.Options
	Backoff  time.Duration // pause before a blob is tried again, doubled each time; 1 s
	Say      func(format string, args ...any)
}

// Result names what is in the registry now.
type Result struct {
	Release string // REGISTRY/REPO@sha256:DIGEST
	Disk    string // the same of the containerDisk
	DiskTag string // REGISTRY/REPO:TAG-containerdisk
	Sent    int    // blobs that went over the line
	Had     int    // blobs that the registry had
}

// Publish sends the release. Errors have a code of the registry's, or
// [fault.ReleaseIncomplete] before anything was sent.
func Publish(ctx context.Context, o Options) (Result, error) {
	ref, diskTag, err := target(o.To)
	if err != nil {
		return Result{}, err
	}
	remote, err := oci.Connect(ref, o.Registry)
	if err != nil {
		return Result{}, err
	}
	defer remote.Close()
	o.Say("reading what is in %s", o.Out)
	m, parts, err := collect(ctx, o.Out)
	if err != nil {
		return Result{}, err
	}
	o.warn(m, parts)
	p := &pusher{remote: remote, o: o}
	release, disk, err := p.all(ctx, m, parts)
	if err != nil {
		return Result{}, oci.Failure(err)
	}
	// The tags come last: what they name is there.
	for _, tag := range []struct {
		name string
		of   ocispec.Descriptor
	}{{diskTag, disk}, {ref.Reference, release}} {
		if err := remote.Tag(ctx, tag.of, tag.name); err != nil {
			return Result{}, oci.Failure(fmt.Errorf("tag %s: %w", tag.name, err))
		}
	}
	name := ref.Registry + "/" + ref.Repository
	return Result{
		Release: name + "@" + release.Digest.String(), Disk: name + "@" + disk.Digest.String(), DiskTag: name + ":" + diskTag,
		Sent: p.sent, Had: p.had,
	}, nil
}

// target reads where to: a tag, with room for the containerDisk's.
func target(to string) (ref registry.Reference, diskTag string, err error) {
	if ref, err = oci.Parse(to); err != nil {
		return ref, "", err
	}
	if oci.ByDigest(ref) {
		return ref, "", fault.Newf(fault.RegistryReference, "%s: a release is published under a tag; its digest follows from what is in it", to)
	}
	disk := ref
	disk.Reference += DiskSuffix
	if err := disk.ValidateReferenceAsTag(); err != nil {
		return ref, "", fault.Newf(fault.RegistryReference, "%s: the tag is too long for one with %s after it: %w", to, DiskSuffix, err)
	}
	return ref, disk.Reference, nil
}

func (o Options) warn(m manifest.Manifest, parts []part) {
	if m.Debug() {
		o.Say("WARNING: this is a debug image, with a root shell on its console")
	}
	if !has(parts, oci.Signature) {
		o.Say("WARNING: the installer is not signed; whoever pulls it has its digest alone to go by")
	}
}

// all sends everything but the tags.
func (p *pusher) all(ctx context.Context, m manifest.Manifest, parts []part) (release, disk ocispec.Descriptor, err error) {
	for _, each := range parts {
		if err := p.blob(ctx, each); err != nil {
			return release, disk, err
		}
	}
	annotations := annotations(m)
	var layers []ocispec.Descriptor
	for _, each := range parts {
		layers = append(layers, each.Descriptor)
	}
	release, err = oras.PackManifest(ctx, p.remote, oras.PackManifestVersion1_1, oci.ReleaseType,
		oras.PackManifestOptions{Layers: layers, ManifestAnnotations: annotations})
	if err != nil {
		return release, disk, fmt.Errorf("the release: %w", err)
	}
	for _, each := range parts {
		kind, refers := oci.Referring(each.name)
		if !refers {
			continue
		}
		_, err := oras.PackManifest(ctx, p.remote, oras.PackManifestVersion1_1, kind, oras.PackManifestOptions{
			Subject: &release, Layers: []ocispec.Descriptor{each.Descriptor}, ManifestAnnotations: annotations,
		})
		if err != nil {
			return release, disk, fmt.Errorf("%s as referring to the release: %w", each.name, err)
		}
	}
	disk, err = p.containerDisk(ctx, parts, release, m, annotations)
	return release, disk, err
}

func (p *pusher) containerDisk(ctx context.Context, parts []part, release ocispec.Descriptor, m manifest.Manifest, annotations map[string]string) (ocispec.Descriptor, error) {
	of := parts[slices.IndexFunc(parts, func(each part) bool { return each.name == oci.Disk })]
	layer, config, image, err := containerDisk(of, release, time.Unix(m.SourceDateEpoch, 0).UTC(), annotations)
	if err != nil {
		return image.Descriptor, err
	}
	for _, each := range []part{layer, config} {
		if err := p.blob(ctx, each); err != nil {
			return image.Descriptor, err
		}
	}
	in, err := image.open()
	if err != nil {
		return image.Descriptor, err
	}
	defer in.Close()
	data, err := io.ReadAll(in)
	if err != nil {
		return image.Descriptor, err
	}
	// bytes.Reader, so that the request can be made again.
	if err := p.remote.Manifests().Push(ctx, image.Descriptor, bytes.NewReader(data)); err != nil {
		return image.Descriptor, fmt.Errorf("the containerDisk: %w", err)
	}
	return image.Descriptor, nil
}

// annotations tell people what a manifest is of. All follows from the build.
func annotations(m manifest.Manifest) map[string]string {
	a := map[string]string{
		ocispec.AnnotationCreated: time.Unix(m.SourceDateEpoch, 0).UTC().Format(time.RFC3339),
		ocispec.AnnotationTitle:   m.Name,
		"org.cc-base.profile":     m.Profile,
		"org.cc-base.system":      strings.TrimSpace(m.Distribution + " " + m.Suite),
		"org.cc-base.kernel":      m.Kernel,
	}
	if m.Debug() {
		a["org.cc-base.debug"] = "true"
	}
	return a
}
