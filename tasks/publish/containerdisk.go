package publish

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// What KubeVirt wants of a containerDisk (kubevirt/docs/container-register-disks.md
// and its user guide, "Disks and Volumes"): one disk image below /disk that user
// and group 107, as whom QEMU runs in a virt-launcher pod, may read.
const (
	diskFolder = "disk/"
	qemuUser   = 107
	diskMode   = 0o440
)

// containerDisk wraps a disk into a container image that refers to the release:
// the layer, the configuration and the manifest. The layer is written nowhere; it
// is a tar header, the disk and an end.
func containerDisk(disk part, release ocispec.Descriptor, epoch time.Time, annotations map[string]string) (layer, config, image part, err error) {
	head, tail, err := tarAround(disk.name, disk.Size, epoch)
	if err != nil {
		return layer, config, image, err
	}
	// Not compressed: what fills the disk is encrypted.
	layer, err = newPart("containerDisk's layer", ocispec.MediaTypeImageLayer, func() (io.ReadCloser, error) {
		in, err := disk.open()
		if err != nil {
			return nil, err
		}
		return struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(head), in, bytes.NewReader(tail)), in}, nil
	})
	if err != nil {
		return layer, config, image, err
	}
	data, err := json.Marshal(ocispec.Image{
		Created:  &epoch,
		Platform: ocispec.Platform{Architecture: "amd64", OS: "linux"},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.Digest}},
	})
	if err != nil {
		return layer, config, image, err
	}
	config = dataOf("containerDisk's configuration", ocispec.MediaTypeImageConfig, data)
	data, err = json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: config.Descriptor, Layers: []ocispec.Descriptor{layer.Descriptor},
		Subject: &release, Annotations: annotations,
	})
	return layer, config, dataOf("containerDisk", ocispec.MediaTypeImageManifest, data), err
}

// tarAround returns the bytes before and after the disk in an archive that holds
// it and its folder.
func tarAround(name string, size int64, at time.Time) (head, tail []byte, err error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeDir, Name: diskFolder, Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: diskFolder + name, Mode: diskMode, Size: size},
	} {
		h.Uid, h.Gid, h.ModTime = qemuUser, qemuUser, at
		if err := w.WriteHeader(&h); err != nil {
			return nil, nil, err
		}
	}
	// Content is padded to blocks, and two empty blocks are the end (POSIX.1-2017,
	// pax, "ustar Interchange Format").
	const block = 512
	return b.Bytes(), make([]byte, (block-size%block)%block+2*block), nil
}
