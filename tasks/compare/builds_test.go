package compare_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/boot/boottest"
	"cc-base/tasks/compare"
	"cc-base/tasks/digest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/manifest"
)

// build is what one of two builders has: files and what the manifest says.
type build struct {
	files    map[string][]byte
	manifest manifest.Manifest
}

// builder makes the same image with keys of its own.
func builder(key string) *build {
	uki := func(line string) []byte {
		return boottest.PE(boottest.Kernel(), boottest.Section{Name: ".cmdline", Data: line}, boottest.Section{Name: ".pcrsig", Data: "signed by " + key},
			boottest.Section{Name: ".pcrpkey", Data: key})
	}
	return &build{
		files: map[string][]byte{
			"cc-base.efi": append(uki("cc.root=verity:1"), key...), "cc-base.qcow2": []byte("encrypted by " + key), "image.key": []byte(key),
			"secureboot/db.crt": []byte(key), "firmware/OVMF_VARS_4M.cc-base.fd": []byte(key), "measurements.json": []byte(`{"key": "` + key + `"}`),
			"cc-install": []byte("\x7fELF\x00program"), "install.sh": []byte("#!/bin/sh\nexit 0\n"), "sbom.cdx.json": []byte(`{"components": [{"name": "bash"}]}`),
		},
		manifest: manifest.Manifest{Schema: manifest.Schema, Name: "cc-base", Kernel: "6.12.0", CommandLine: "cc.root=verity:1", Disk: manifest.Disk{
			Partitions: []manifest.Partition{
				{Number: 1, Label: "cc-esp", SHA256: "of " + key}, {Number: 2, Label: "cc-root", Encrypted: true, SHA256: "of " + key, Verity: &manifest.Verity{RootHash: "1"}},
				{Number: 4, Label: "cc-config", SHA256: "of all"},
			},
		}},
	}
}

// write puts the files into a folder and their digests into the manifest.
func (b *build) write(t *testing.T) compare.Find {
	t.Helper()
	dir := t.TempDir()
	for name, data := range b.files {
		filetest.Write(t, filepath.Join(dir, filepath.Base(name)), data)
		b.manifest.Files = append(b.manifest.Files, manifest.File{Path: name, Size: int64(len(data)), SHA256: digest.Bytes(data)})
	}
	return func(name string) string { return filepath.Join(dir, filepath.Base(name)) }
}

func nowhere(string) string { return "" }

func TestTwoBuildersOfOneImageAgreeInAllButTheirKeys(t *testing.T) {
	a, b := builder("alice"), builder("bob")
	inA, inB := a.write(t), b.write(t)
	all, err := compare.Manifests(a.manifest, b.manifest, inA, inB)
	if err != nil || len(all.Differences) > 0 {
		t.Fatalf("%v, %v", all.Differences, err)
	}
	if diff := cmp.Diff([]string{"cc-install", "install.sh", "sbom.cdx.json"}, all.Same); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"cc-base.efi", "cc-base.qcow2", "firmware/OVMF_VARS_4M.cc-base.fd", "image.key", "measurements.json", "secureboot/db.crt"}, all.Keyed); diff != "" {
		t.Error(diff)
	}
	if all, err = compare.Manifests(a.manifest, b.manifest, nowhere, inB); err != nil || len(all.Differences) > 0 {
		t.Errorf("by the manifests alone: %v, %v", all.Differences, err)
	}
}

func TestWhatIsNotTheSameIsNamed(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(b *build)
		alone  bool // only the manifest of the first is there
		want   string
	}{
		"root hash":               {func(b *build) { b.manifest.Disk.Partitions[1].Verity = &manifest.Verity{RootHash: "2"} }, false, `manifest.json: disk: partitions: 1: verity: rootHash: value: "\"2\"", not "\"1\""`},
		"configuration":           {func(b *build) { b.manifest.Disk.Partitions[2].SHA256 = "of bob" }, false, "manifest.json: disk: partitions: 2: sha256: value"},
		"kernel":                  {func(b *build) { b.manifest.Kernel = "6.12.1" }, false, "manifest.json: kernel: value"},
		"a script":                {func(b *build) { b.files["install.sh"] = []byte("#!/bin/sh\nexit 1\n") }, false, `install.sh: line 2: "exit 1\n"`},
		"a script, by its digest": {func(b *build) { b.files["install.sh"] = []byte("#!/bin/sh\nexit 1\n") }, true, "install.sh: sha256: "},
		"a package":               {func(b *build) { b.files["sbom.cdx.json"] = []byte(`{"components": [{"name": "dash"}]}`) }, false, `sbom.cdx.json: components: 0: name: value: "\"dash\""`},
		"a file more":             {func(b *build) { b.files["backdoor"] = []byte("x") }, false, "backdoor: it is: there, not missing"},
		"a file less":             {func(b *build) { delete(b.files, "cc-install") }, false, "cc-install: it is: missing, not there"},
		"the command line of the boot image": {func(b *build) {
			b.files["cc-base.efi"] = boottest.PE(boottest.Kernel(), boottest.Section{Name: ".cmdline", Data: "init=/bin/sh"})
		}, false, `cc-base.efi: section .cmdline: line 1: "init=/bin/sh"`},
	} {
		a, b := builder("alice"), builder("bob")
		tt.change(b)
		inA, inB := a.write(t), b.write(t)
		if tt.alone {
			inA = nowhere
		}
		all, err := compare.Manifests(a.manifest, b.manifest, inA, inB)
		if err != nil || len(all.Differences) != 1 || !strings.HasPrefix(all.Differences[0].String(), tt.want) {
			t.Errorf("%s: %v, %v", name, all.Differences, err)
		}
	}
}
