package measurements_test

// What green does not prove: that a machine measures what the document says. A
// TPM or a TEE must tell, in a boot; the values of the golden file were computed
// by this code and, for PCR 11, are held against systemd-measure by the tests of
// tasks/boot.

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/golden"
	"cc-base/tasks/lab"
	"cc-base/tasks/manifest"
	"cc-base/tasks/measurements"
)

// uki makes a PE32+ file of name, content pairs: just enough for its sections
// to be found.
func uki(sections ...string) []byte {
	const header, table = 64, 64 + 4 + 20 + 240
	le := binary.LittleEndian
	b := make([]byte, table+20*len(sections))
	copy(b, "MZ")
	le.PutUint32(b[60:], header)
	copy(b[header:], "PE\x00\x00")
	le.PutUint16(b[header+4:], 0x8664)
	le.PutUint16(b[header+6:], uint16(len(sections)/2))
	le.PutUint16(b[header+20:], 240)
	le.PutUint16(b[header+24:], 0x20b)
	le.PutUint32(b[header+24+108:], 16)
	for i := 0; i < len(sections); i += 2 {
		h, data := b[table+20*i:], sections[i+1]
		copy(h[:8], sections[i])
		le.PutUint32(h[8:], uint32(len(data)))
		le.PutUint32(h[16:], uint32(len(data)))
		le.PutUint32(h[20:], uint32(len(b)))
		b = append(b, data...)
	}
	return b
}

const line = "cc.root=luks+verity:ab:4096 ro <&>"

func sample() ([]byte, manifest.Manifest) {
	return uki(".osrel", "ID=debian\n", ".cmdline", line, ".uname", "6.12.0", ".linux", "a kernel", ".initrd", "an initrd"),
		manifest.Manifest{Name: "cc-base", Profile: "minimal", CommandLine: line}
}

func TestTheDocumentOfASmallImage(t *testing.T) {
	t.Parallel()
	image, m := sample()
	doc, err := measurements.Of(image, m)
	if err != nil {
		t.Fatal(err)
	}
	got, err := doc.Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden.Compare(t, "measurements.json", string(got))
}

func TestEveryPartOfTheImageCounts(t *testing.T) {
	t.Parallel()
	image, m := sample()
	base, err := measurements.Of(image, m)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"ID=debian", "6.12.0", "a kernel", "an initrd"} {
		other, err := measurements.Of(bytes.Replace(image, []byte(word), []byte(strings.ToUpper(word[:len(word)-1])+"?"), 1), m)
		if err != nil {
			t.Fatal(err)
		}
		if other.UKI == base.UKI {
			t.Errorf("%s: the digest is the same", word)
		}
		for i := range base.PCR11 {
			if other.PCR11[i] == base.PCR11[i] {
				t.Errorf("%s: PCR 11 after %s is the same", word, base.PCR11[i].After)
			}
		}
	}
}

func TestAnImageThatIsNotTheManifestsIsRefused(t *testing.T) {
	t.Parallel()
	image, m := sample()
	for _, other := range []string{"", line + " ", line[1:], strings.ToUpper(line)} {
		m.CommandLine = other
		_, err := measurements.Of(image, m)
		faulttest.Want(t, err, fault.BootImage, "not the manifest's")
	}
	tests := map[string][]byte{
		"not a PE file": []byte("#!/bin/sh\n"),
		"no .linux":     uki(".cmdline", line, ".initrd", "i"),
		"no .initrd":    uki(".cmdline", line, ".linux", "k"),
		"no .cmdline":   uki(".initrd", "i", ".linux", "k"),
	}
	m.CommandLine = line
	for says, image := range tests {
		_, err := measurements.Of(image, m)
		faulttest.Want(t, err, fault.BootImage, says)
	}
	m.CommandLine = ""
	_, err := measurements.Of(tests["no .cmdline"], m)
	faulttest.Want(t, err, fault.BootImage, "no .cmdline")
}

func TestEncodingIsTheSameTwiceAndReadsBack(t *testing.T) {
	t.Parallel()
	image, m := sample()
	doc, err := measurements.Of(image, m)
	if err != nil {
		t.Fatal(err)
	}
	doc.Firmware = append(doc.Firmware, measurements.Firmware{File: "firmware/OVMF.fd", SHA256: doc.UKI})
	one, errA := doc.Encode()
	two, errB := doc.Encode()
	if errA != nil || errB != nil || !bytes.Equal(one, two) {
		t.Errorf("encoded twice, it differs; %v, %v", errA, errB)
	}
	if !bytes.HasSuffix(one, []byte("}\n")) || !bytes.Contains(one, []byte(line)) {
		t.Errorf("no line end, or the command line is escaped: %s", one)
	}
	var back measurements.Document
	dec := json.NewDecoder(bytes.NewReader(one))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(doc, back); diff != "" {
		t.Error(diff)
	}
}

func TestTheBuiltImagesDocumentIsWhatIsComputedFromIt(t *testing.T) {
	t.Parallel()
	built := lab.Built(t)
	read := func(name string) []byte {
		data, err := os.ReadFile(built.Path(name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	want, err := measurements.Of(read("cc-base.efi"), built.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	// The firmware's digests are those of the installer's files.
	for _, f := range built.Manifest.Files {
		if strings.HasPrefix(f.Path, "firmware/") {
			want.Firmware = append(want.Firmware, measurements.Firmware{File: f.Path, SHA256: f.SHA256})
		}
	}
	data, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(data), string(read("measurements.json"))); diff != "" {
		t.Error(diff)
	}
}
