package publish

// What green does not prove: that registries other than distribution's take what
// is sent, and that KubeVirt starts a containerDisk; its shape is compared with
// what KubeVirt's documents ask for. The folders here are small ones that do not
// boot; tasks/build/publish_test.go publishes a built image.

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"cc-base/installer/installertest"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/oci"
	"cc-base/tasks/oci/registrytest"
)

// output is a small release with everything in it.
func output(t *testing.T) string {
	t.Helper()
	f := installertest.New()
	f.Manifest.SourceDateEpoch = 1764115200
	f.Files["firmware/OVMF_CODE_4M.fd"] = filetest.Noise(3, 5000)
	f.Files[oci.CycloneDX] = []byte("{}\n")
	f.Files[oci.SPDX] = []byte("{\"spdx\": 1}\n")
	out := f.Output(t)
	for _, name := range []string{oci.Signature, "measurements.json.asc", "rvps.json.asc", oci.Provenance} {
		filetest.Write(t, filepath.Join(out, name), []byte("of "+name+"\n"))
	}
	return out
}

func options(t *testing.T, out, to string) Options {
	return Options{
		Out: out, To: to, Backoff: time.Millisecond, Say: t.Logf,
		Registry: oci.Options{PlainHTTP: true, Idle: 5 * time.Second},
	}
}

// read returns a manifest of the registry.
func read(t *testing.T, remote *oci.Remote, reference string) (ocispec.Descriptor, ocispec.Manifest) {
	t.Helper()
	d, in, err := remote.Manifests().FetchReference(t.Context(), reference)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	data, err := content.ReadAll(in, d)
	if err != nil {
		t.Fatal(err)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	return d, m
}

func connect(t *testing.T, to string) *oci.Remote {
	t.Helper()
	ref, err := oci.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	remote, err := oci.Connect(ref, oci.Options{PlainHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(remote.Close)
	return remote
}

func titles(m ocispec.Manifest) []string {
	var names []string
	for _, l := range m.Layers {
		names = append(names, l.Annotations[ocispec.AnnotationTitle])
	}
	return names
}

func TestAReleaseIsOneArtefactThatOthersReferTo(t *testing.T) {
	t.Parallel()
	server, out := registrytest.Start(t, false), output(t)
	to := server.Address + "/team/cc-base:v1"
	result, err := Publish(t.Context(), options(t, out, to))
	if err != nil {
		t.Fatal(err)
	}
	remote := connect(t, to)
	release, m := read(t, remote, "v1")
	if want := server.Address + "/team/cc-base@" + release.Digest.String(); result.Release != want || m.ArtifactType != oci.ReleaseType {
		t.Errorf("%s, type %s, want %s", result.Release, m.ArtifactType, want)
	}
	want := []string{
		"cc-base.efi", "cc-base.qcow2", "firmware/OVMF_CODE_4M.fd", "manifest.json", "measurements.json", "measurements.json.asc",
		"nvidia-cc-installer.tar.gz", "nvidia-cc-installer.tar.gz.asc", "nvidia-cc-installer.tar.gz.sha256", "provenance.intoto.json",
		"rvps.json", "rvps.json.asc", "sbom.cdx.json", "sbom.spdx.json",
	}
	if diff := cmp.Diff(want, titles(m)); diff != "" {
		t.Error(diff)
	}
	if got := m.Annotations[ocispec.AnnotationCreated]; got != "2025-11-26T00:00:00Z" {
		t.Error("created", got)
	}
	for _, l := range m.Layers {
		data, err := content.FetchAll(t.Context(), remote.Blobs(), l)
		if err != nil {
			t.Error(err)
		}
		if file := filepath.Join(out, l.Annotations[ocispec.AnnotationTitle]); exists(file) && !bytes.Equal(data, filetest.Read(t, file)) {
			t.Errorf("%s: other bytes", file)
		}
	}
	referring := map[string]string{}
	err = remote.Referrers(t.Context(), release, "", func(found []ocispec.Descriptor) error {
		for _, d := range found {
			_, r := read(t, remote, d.Digest.String())
			if r.Subject == nil || r.Subject.Digest != release.Digest {
				t.Errorf("%s refers to %v", d.ArtifactType, r.Subject)
			}
			referring[d.ArtifactType] = strings.Join(titles(r), " ")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{
		oci.CycloneDXType: oci.CycloneDX, oci.SPDXType: oci.SPDX, oci.ProvenanceType: oci.Provenance,
		oci.SignatureType: oci.Signature, ocispec.MediaTypeImageConfig: "",
	}, referring); diff != "" {
		t.Error(diff)
	}
	t.Run("again", func(t *testing.T) {
		again, err := Publish(t.Context(), options(t, out, to))
		if err != nil || again.Sent != 0 || again.Had != result.Sent {
			t.Errorf("first %+v, then %+v, %v", result, again, err)
		}
		again.Sent, again.Had = result.Sent, result.Had
		if diff := cmp.Diff(result, again); diff != "" {
			t.Error("not the same digests:", diff)
		}
	})
	t.Run("elsewhere", func(t *testing.T) {
		other, err := Publish(t.Context(), options(t, out, server.Address+"/other:v2"))
		if err != nil || other.Release[strings.Index(other.Release, "@"):] != result.Release[strings.Index(result.Release, "@"):] {
			t.Errorf("%+v, %v", other, err)
		}
	})
	t.Run("containerDisk", func(t *testing.T) { checkContainerDisk(t, remote, result, out) })
}

// checkContainerDisk holds the image to what KubeVirt and container runtimes want.
func checkContainerDisk(t *testing.T, remote *oci.Remote, result Result, out string) {
	d, m := read(t, remote, "v1"+DiskSuffix)
	if !strings.HasSuffix(result.Disk, "@"+d.Digest.String()) || !strings.HasSuffix(result.DiskTag, ":v1"+DiskSuffix) {
		t.Error(result, d)
	}
	if m.MediaType != ocispec.MediaTypeImageManifest || m.ArtifactType != "" || len(m.Layers) != 1 || m.Layers[0].MediaType != ocispec.MediaTypeImageLayer {
		t.Fatalf("%+v", m)
	}
	raw, err := content.FetchAll(t.Context(), remote.Blobs(), m.Config)
	if err != nil {
		t.Fatal(err)
	}
	var config ocispec.Image
	if err := json.Unmarshal(raw, &config); err != nil {
		t.Fatal(err)
	}
	if config.Architecture != "amd64" || config.OS != "linux" || len(config.RootFS.DiffIDs) != 1 || config.RootFS.DiffIDs[0] != m.Layers[0].Digest {
		t.Errorf("%+v", config)
	}
	layer, err := content.FetchAll(t.Context(), remote.Blobs(), m.Layers[0])
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	filetest.EachInTar(t, bytes.NewReader(layer), func(h *tar.Header, in io.Reader) {
		names = append(names, h.Name)
		if h.Uid != 107 || h.Gid != 107 || h.ModTime.Unix() != 1764115200 {
			t.Errorf("%+v", h)
		}
		if h.Typeflag == tar.TypeDir {
			return
		}
		data, err := io.ReadAll(in)
		if err != nil || h.Mode != 0o440 || !bytes.Equal(data, filetest.Read(t, filepath.Join(out, oci.Disk))) {
			t.Errorf("%v, mode %o, %d bytes", err, h.Mode, len(data))
		}
	})
	if !slices.Equal(names, []string{"disk/", "disk/cc-base.qcow2"}) || len(layer)%512 != 0 {
		t.Error(names, len(layer))
	}
}

func TestTheDisksLayerIsWhatTarWrites(t *testing.T) {
	t.Parallel()
	at := time.Unix(1764115200, 0)
	for _, length := range []int{0, 1, 511, 512, 513, 1024} {
		data := filetest.Noise(1, length)
		head, tail, err := tarAround("x", int64(length), at)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range []tar.Header{
			{Typeflag: tar.TypeDir, Name: "disk/", Mode: 0o755, Uid: 107, Gid: 107, ModTime: at},
			{Typeflag: tar.TypeReg, Name: "disk/x", Mode: 0o440, Uid: 107, Gid: 107, ModTime: at, Size: int64(length)},
		} {
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(slices.Concat(head, data, tail), b.Bytes()) {
			t.Errorf("%d bytes: not the archive that archive/tar writes", length)
		}
	}
	// Beyond what ustar's field for the size can say.
	if head, _, err := tarAround("x", 9<<30, at); err != nil || len(head)%512 != 0 {
		t.Error(len(head), err)
	}
}

func TestWhatDoesNotBelongTogetherIsNotPublished(t *testing.T) {
	t.Parallel()
	change := func(name string) func(out string) {
		return func(out string) { filetest.Write(t, filepath.Join(out, name), []byte("another")) }
	}
	remove := func(names ...string) func(out string) {
		return func(out string) {
			for _, name := range names {
				if err := os.Remove(filepath.Join(out, name)); err != nil {
					t.Error(err)
				}
			}
		}
	}
	for name, tc := range map[string]struct {
		spoil func(out string)
		want  []string
	}{
		"nothing built":          {func(out string) { os.RemoveAll(out) }, needed()},
		"two files missing":      {remove(oci.Disk, oci.Sums), []string{oci.Disk + ": no such file", oci.Sums + ": no such file"}},
		"another disk":           {change(oci.Disk), []string{"cc-base.qcow2 is another file"}},
		"another manifest":       {change(oci.Manifest), []string{"manifest.json is another file"}},
		"measurements, boot":     {func(out string) { change("measurements.json")(out); change(oci.UKI)(out) }, []string{"measurements.json is", "cc-base.efi is"}},
		"another bill":           {change(oci.CycloneDX), []string{"sbom.cdx.json is another file"}},
		"another checksum":       {change(oci.Sums), []string{"its checksum and name are not those"}},
		"another installer":      {change(oci.Installer), []string{"its checksum and name are not those"}},
		"no archive":             {func(out string) { repack(t, out, []byte("another")) }, []string{"unexpected EOF"}},
		"an installer cut short": {func(out string) { repack(t, out, filetest.Read(t, filepath.Join(out, oci.Installer))[:2000]) }, []string{"unexpected EOF"}},
		"a folder for a file":    {func(out string) { remove(oci.UKI)(out); os.Mkdir(filepath.Join(out, oci.UKI), 0o755) }, []string{"not a file"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := output(t)
			tc.spoil(out)
			// Nobody listens there: it is refused before anything is sent.
			_, err := Publish(t.Context(), options(t, out, "127.0.0.1:1/a:v1"))
			faulttest.Want(t, err, fault.ReleaseIncomplete, tc.want...)
		})
	}
}

// repack replaces the installer and its checksum.
func repack(t *testing.T, out string, data []byte) {
	p := dataOf("", "", data)
	filetest.Write(t, filepath.Join(out, oci.Installer), data)
	filetest.Write(t, filepath.Join(out, oci.Sums), []byte(p.Digest.Encoded()+"  "+oci.Installer+"\n"))
}

func TestAnUnsignedReleaseCarriesNoSignatures(t *testing.T) {
	t.Parallel()
	out := output(t)
	if err := os.Remove(filepath.Join(out, oci.Signature)); err != nil {
		t.Fatal(err)
	}
	m, parts, err := collect(t.Context(), out)
	if err != nil {
		t.Fatal(err)
	}
	// Those of the measurements are older than the build then.
	for _, p := range parts {
		if strings.HasSuffix(p.name, ".asc") {
			t.Error(p.name)
		}
	}
	var said []string
	Options{Say: func(format string, args ...any) { said = append(said, format) }}.warn(m, parts)
	if len(said) != 1 || !strings.Contains(said[0], "not signed") {
		t.Error(said)
	}
}

func TestTargetsAreTags(t *testing.T) {
	t.Parallel()
	for _, to := range []string{
		"registry.example/a", "registry.example/a@sha256:" + strings.Repeat("0", 64), "registry.example/a:" + strings.Repeat("v", 128), "a:v1",
	} {
		_, err := Publish(t.Context(), options(t, t.TempDir(), to))
		faulttest.Want(t, err, fault.RegistryReference)
	}
	_, err := Publish(t.Context(), options(t, t.TempDir(), "registry.example/a:v1"))
	faulttest.Want(t, err, fault.PlainHTTP)
}

func TestLoginsComeFromDockersConfiguration(t *testing.T) {
	server, out := registrytest.Start(t, true), output(t)
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	to := server.Address + "/a:v1"
	_, err := Publish(t.Context(), options(t, out, to))
	faulttest.Want(t, err, fault.RegistryDenied)
	// As `docker login` writes it, and by a helper program.
	auth := `{"auths":{"` + server.Address + `":{"auth":"` + registrytest.Auth() + `"}}}`
	filetest.Write(t, filepath.Join(dir, "config.json"), []byte(auth))
	if _, err := Publish(t.Context(), options(t, out, to)); err != nil {
		t.Error(err)
	}
	helper := filetest.Write(t, filepath.Join(dir, "docker-credential-test"),
		[]byte("#!/bin/sh\necho '{\"Username\":\""+registrytest.User+"\",\"Secret\":\""+registrytest.Password+"\"}'\n"))
	if err := os.Chmod(helper, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	filetest.Write(t, filepath.Join(dir, "config.json"), []byte(`{"credHelpers":{"`+server.Address+`":"test"}}`))
	if result, err := Publish(t.Context(), options(t, out, to)); err != nil || result.Sent != 0 {
		t.Error(result, err)
	}
}
