package compare

import (
	"encoding/json"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"cc-base/tasks/boot"
	"cc-base/tasks/manifest"
)

// Builds is how a build of an image compares with another one of it by somebody
// who has other keys.
type Builds struct {
	Same        []string      // files that are equal
	Keyed       []string      // files that hold what only the keys' owner can make
	Differences []*Difference // all others, in the order of their names
}

// Find returns where a file of the installer lies, or nothing where it is not to
// be had.
type Find func(name string) (file string)

// Manifests compares what two builds say of themselves, and the files themselves
// where both can be had: inA and inB find them. Beside the files it compares the
// partition table, kernel, command lines and with these the root hashes of all
// volumes, so that the content of an encrypted one is compared without its key.
func Manifests(a, b manifest.Manifest, inA, inB Find) (Builds, error) {
	var all Builds
	d, err := described(a, b)
	if err != nil {
		return all, err
	}
	if d != nil {
		all.Differences = append(all.Differences, d.in("manifest.json"))
	}
	filesA, filesB := byPath(a), byPath(b)
	for _, name := range slices.Sorted(maps.Keys(union(filesA, filesB))) {
		fa, isA := filesA[name]
		fb, isB := filesB[name]
		switch {
		case keyed(name) && name != bootImage:
			all.Keyed = append(all.Keyed, name)
			continue
		case isA != isB:
			all.Differences = append(all.Differences, missing(name, isA))
			continue
		case fa.SHA256 == fb.SHA256:
			all.Same = append(all.Same, name)
			continue
		}
		d, err := differing(name, fa, fb, inA(name), inB(name))
		if err != nil {
			return all, err
		}
		if d == nil {
			all.Keyed = append(all.Keyed, name)
			continue
		}
		all.Differences = append(all.Differences, d.in(name))
	}
	return all, nil
}

func byPath(m manifest.Manifest) map[string]manifest.File {
	files := map[string]manifest.File{}
	for _, f := range m.Files {
		files[f.Path] = f
	}
	return files
}

const bootImage = "cc-base.efi"

// keyed tells of a file that differs where the keys do: encrypted, signed, a
// certificate, or a measurement of one of these.
func keyed(name string) bool {
	switch name {
	case bootImage, "cc-base.qcow2", "image.key", "image-key.asc", "measurements.json", "rvps.json":
		return true
	}
	return path.Dir(name) == "secureboot" || strings.HasSuffix(name, ".cc-base.fd")
}

// described compares all but the files, and but the digests of partitions that are
// encrypted or hold the signed boot image.
func described(a, b manifest.Manifest) (*Difference, error) {
	var parsed [2]any
	for i, m := range []manifest.Manifest{a, b} {
		m.Files = nil
		m.Disk.Partitions = slices.Clone(m.Disk.Partitions)
		for j := range m.Disk.Partitions {
			if p := &m.Disk.Partitions[j]; p.Encrypted || p.Label == "cc-esp" {
				p.SHA256 = ""
			}
		}
		data, err := json.Marshal(m)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(data, &parsed[i]); err != nil {
			return nil, err
		}
	}
	return values(parsed[0], parsed[1]), nil
}

// differing looks into two files of different digests. It returns nil where the
// signer's part alone makes the difference.
func differing(name string, a, b manifest.File, fileA, fileB string) (*Difference, error) {
	switch {
	case name == bootImage && (fileA == "" || fileB == ""):
		return nil, nil // the root hashes and the kernel's release were compared
	case name == bootImage:
		return unsigned(fileA, fileB)
	case fileA == "" || fileB == "":
		return &Difference{What: "sha256", A: a.SHA256, B: b.SHA256}, nil
	}
	d, err := Files(fileA, fileB)
	if d == nil && err == nil {
		d = &Difference{What: "sha256 in the manifest", A: a.SHA256, B: b.SHA256}
	}
	return d, err
}

// unsigned compares boot images but for what is signed: the measurements' signature
// and its key, and what is outside of all sections.
func unsigned(fileA, fileB string) (*Difference, error) {
	var sections [2]map[string][]byte
	for i, file := range []string{fileA, fileB} {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if sections[i], err = boot.Sections(data); err != nil {
			return nil, err
		}
		delete(sections[i], ".pcrsig")
		delete(sections[i], ".pcrpkey")
	}
	return Sections(sections[0], sections[1])
}
