package ovmf_test

// What green does not prove: the images are made here, or are those of two or
// three builds of OVMF. Whether a later build adds an entry or a section with a
// meaning of its own, only that build's source can tell.

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/tee/ovmf"
	"cc-base/tasks/tee/ovmf/ovmftest"
)

func TestWhatAnImageSaysIsRead(t *testing.T) {
	t.Parallel()
	snp, tdx := ovmftest.SNP(), ovmftest.TDX()
	both := snp
	both.TDVF = tdx.TDVF
	for name, spec := range map[string]ovmftest.Spec{"SNP": snp, "TDX": tdx, "both": both, "neither": {Pages: 1}} {
		fw, err := ovmf.Parse(spec.Image())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want := ovmf.Firmware{
			Size: spec.Pages * 4096, Base: 1<<32 - uint64(spec.Pages)*4096,
			ResetEIP: spec.ResetEIP, HashTable: spec.HashTable, SEV: spec.SEV, TDVF: spec.TDVF,
		}
		if diff := cmp.Diff(want, fw); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	fw, err := ovmf.Parse(both.Image())
	if err != nil {
		t.Fatal(err)
	}
	if s := fw.Section(ovmf.KernelHashes); s == nil || s.Address != 0x810000 {
		t.Errorf("page for kernel hashes: %+v", s)
	}
	if s := fw.TDVFSection(ovmf.HandOff); s == nil || s.Address != 0x809000 {
		t.Errorf("hand-off block: %+v", s)
	}
	if fw.Section(0x99) != nil || fw.TDVFSection(ovmf.Payload) != nil {
		t.Error("a section was found that is not there")
	}
}

func TestTheToolsTreesFirmwareIsRead(t *testing.T) {
	t.Parallel()
	fw, err := ovmf.Parse(ovmftest.Trixie().Read(t))
	if err != nil {
		t.Fatal(err)
	}
	if fw.Size != 4<<20 || fw.ResetEIP != 0x80b004 || fw.HashTable != 0 || len(fw.SEV) != 6 || len(fw.TDVF) != 6 {
		t.Errorf("read: %+v", fw)
	}
	if fw.Section(ovmf.KernelHashes) != nil {
		t.Error("it has a page for kernel hashes; measured direct boot would work with it")
	}
}

// place returns the offset of text in the image.
func place(t *testing.T, image []byte, text string) int {
	t.Helper()
	at := strings.Index(string(image), text)
	if at < 0 {
		t.Fatalf("%q is not in the image", text)
	}
	return at
}

func TestAMalformedImageIsAnErrorThatNamesTheByte(t *testing.T) {
	t.Parallel()
	spec := ovmftest.SNP()
	spec.TDVF = ovmftest.TDX().TDVF
	good := spec.Image()
	sev, tdvf := place(t, good, "ASEV"), place(t, good, "TDVF")
	footer := len(good) - 50
	le := binary.LittleEndian
	word := func(at int, v uint32) func([]byte) { return func(b []byte) { le.PutUint32(b[at:], v) } }
	long := func(at int, v uint64) func([]byte) { return func(b []byte) { le.PutUint64(b[at:], v) } }
	short := func(at int, v uint16) func([]byte) { return func(b []byte) { le.PutUint16(b[at:], v) } }
	tests := []struct {
		name   string
		change func([]byte)
		offset int
		text   string
	}{
		{"no footer", func(b []byte) { b[footer+2] ^= 1 }, footer + 2, "no GUID table"},
		{"a table of no size", short(footer, 0), footer, "says that it has 0 bytes"},
		{"a table larger than the image", short(footer, 0xffff), footer, "says that it has 65535 bytes"},
		{"a table that ends inside an entry", short(footer, 18+7), footer - 7, "7 bytes before the first entry"},
		{"an entry without a size", short(footer-18, 0), footer - 18, "says that it has 0 bytes"},
		{"an entry larger than the table", short(footer-18, 4000), footer - 18, "says that it has 4000 bytes"},
		{"an entry twice", func(b []byte) { copy(b[footer-2*22+6:footer-22], b[footer-16:footer]) }, footer - 22 - 18, "is there twice"},
		{"metadata before the image", word(footer-22, 1<<30), footer - 22, "lies 0x40000000 bytes before the end"},
		{"metadata at the end", word(footer-22, 3), footer - 22, "lies 0x3 bytes before the end"},
		{"metadata elsewhere", word(footer-22, 0x2000), len(good) - 0x2000, "begins with"},
		{"a version to come", word(sev+8, 2), sev + 8, "version 2"},
		{"no sections", word(sev+12, 0), sev + 12, "has 0 sections"},
		{"endless sections", word(sev+12, 1<<31), sev + 12, "sections"},
		{"another length", word(sev+4, 20), sev + 4, "says that it has 20 bytes"},
		{"half a page", word(sev+16, 0x800010), sev + 16, "not of whole pages"},
		{"memory beyond 4 GiB", word(sev+20, 0xfffff000), sev + 16, "ends above 4 GiB"},
		{"an unknown kind of page", word(sev+24, 0x77), sev + 24, "unknown type 0x77"},
		{"content beyond the image", word(tdvf+16, 0x3001), tdvf + 16, "takes 0x3000 bytes at 0x3001"},
		{"content that overflows", word(tdvf+20, 0xffffffff), tdvf + 16, "of the image"},
		{"half a page of code", long(tdvf+24, 0xffffd123), tdvf + 24, "not of whole pages"},
		{"code beyond 4 GiB", long(tdvf+32, 1<<40), tdvf + 24, "ends above 4 GiB"},
		{"an address that overflows", long(tdvf+24, 1<<64-4096), tdvf + 24, "ends above 4 GiB"},
		{"content larger than its memory", long(tdvf+32, 0x1000), tdvf + 20, "for 0x1000 bytes of memory"},
		{"an unknown kind of section", word(tdvf+40, 7), tdvf + 40, "unknown type 0x7"},
		{"an unknown attribute", word(tdvf+44, 5), tdvf + 44, "unknown attributes 0x5"},
	}
	for _, tt := range tests {
		b := append([]byte(nil), good...)
		tt.change(b)
		_, err := ovmf.Parse(b)
		var at *ovmf.Error
		if !errors.As(err, &at) {
			t.Errorf("%s: got %v, want an *ovmf.Error", tt.name, err)
			continue
		}
		if at.Offset != tt.offset || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: got %v, want byte %#x: … %s", tt.name, err, tt.offset, tt.text)
		}
	}
	smaller := ovmftest.TDX()
	smaller.TDVF[0].RawSize -= 0x1000
	if _, err := ovmf.Parse(smaller.Image()); err == nil || !strings.Contains(err.Error(), "is measured and has 0x2000 bytes for 0x3000") {
		t.Errorf("measured memory without content: got %v", err)
	}
	for _, size := range []int{0, 1, 4095, 4097, ovmf.MaxSize + 4096} {
		if _, err := ovmf.Parse(make([]byte, size)); err == nil {
			t.Errorf("an image of %d bytes was accepted", size)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, spec := range []ovmftest.Spec{ovmftest.SNP(), ovmftest.TDX(), {Pages: 1}} {
		image := spec.Image()
		f.Add(image[len(image)-1024:])
	}
	// Everything that is read lies near the end; the rest is filled up.
	f.Fuzz(func(t *testing.T, tail []byte) {
		image := make([]byte, 4*ovmf.PageSize)
		if len(tail) > len(image) {
			tail = tail[:len(image)]
		}
		copy(image[len(image)-len(tail):], tail)
		fw, err := ovmf.Parse(image)
		if err != nil {
			var at *ovmf.Error
			if !errors.As(err, &at) || at.Offset < 0 || at.Offset > len(image) {
				t.Fatalf("error without a byte of the image: %v", err)
			}
			return
		}
		for _, s := range fw.TDVF {
			_ = image[s.Offset:][:s.RawSize]
		}
	})
}
