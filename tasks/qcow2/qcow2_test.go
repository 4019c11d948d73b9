package qcow2_test

// What green does not prove: the images here come from the small writer of the
// tests, and from qemu-img only where it is installed. Images of other
// programs, other cluster sizes and images above a few MiB are not met here.

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cc-base/installer/installertest"
	"cc-base/tasks/qcow2"
)

// disk is 1 MiB and a bit of noise with holes.
func disk() []byte {
	b := make([]byte, 1<<20+1536)
	noise := rand.NewChaCha8([32]byte{7})
	noise.Read(b[:100_000])
	noise.Read(b[500_000:600_000])
	noise.Read(b[len(b)-700:])
	return b
}

func open(t *testing.T, raw []byte) *qcow2.Image {
	t.Helper()
	image, err := qcow2.Open(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func TestReadsBackWhatWasWritten(t *testing.T) {
	t.Parallel()
	want := disk()
	raw := installertest.Qcow2(want, 16)
	// The last cluster may be cut short by the end of the file.
	files := map[string][]byte{"whole": raw, "cut short": raw[:len(raw)-60_000], "large clusters": installertest.Qcow2(want, 20), "small clusters": installertest.Qcow2(want, 12)}
	for name, file := range files {
		image := open(t, file)
		if image.Size() != int64(len(want)) {
			t.Fatalf("%s: size %d, want %d", name, image.Size(), len(want))
		}
		got, err := io.ReadAll(io.NewSectionReader(image, 0, image.Size()))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: the disk reads back differently (error %v)", name, err)
		}
	}
}

func TestReadAtKeepsItsPromises(t *testing.T) {
	t.Parallel()
	want := disk()
	image := open(t, installertest.Qcow2(want, 16))
	for range 500 {
		off, n := rand.IntN(len(want)), rand.IntN(200_000)
		p := make([]byte, n)
		got, err := image.ReadAt(p, int64(off))
		end := min(off+n, len(want))
		if got != end-off || !bytes.Equal(p[:got], want[off:end]) {
			t.Fatalf("%d bytes at %d: got %d, error %v", n, off, got, err)
		}
		if (err != nil) != (end-off < n) || err != nil && !errors.Is(err, io.EOF) {
			t.Fatalf("%d bytes at %d: error %v", n, off, err)
		}
	}
	if _, err := image.ReadAt(make([]byte, 1), -1); err == nil {
		t.Error("a negative offset was read")
	}
}

func TestRefusesWhatItDoesNotRead(t *testing.T) {
	t.Parallel()
	be := binary.BigEndian
	const l1, l2 = 1 << 16, 2 << 16
	tests := []struct {
		name  string
		spoil func(raw []byte) []byte
		want  string
	}{
		{"empty", func([]byte) []byte { return nil }, "reading the header"},
		{"raw disk", func(b []byte) []byte { return make([]byte, 4096) }, "not a qcow2 image"},
		{"version 2", func(b []byte) []byte { be.PutUint32(b[4:], 2); return b }, "version 2"},
		{"backing file", func(b []byte) []byte { be.PutUint64(b[8:], 200); return b }, "backing file"},
		{"tiny clusters", func(b []byte) []byte { be.PutUint32(b[20:], 8); return b }, "clusters of 2^8"},
		{"huge clusters", func(b []byte) []byte { be.PutUint32(b[20:], 63); return b }, "clusters of 2^63"},
		{"odd size", func(b []byte) []byte { be.PutUint64(b[24:], 1000); return b }, "a disk of 1000 bytes"},
		{"absurd size", func(b []byte) []byte { be.PutUint64(b[24:], 1<<62); return b }, "a disk of"},
		{"more disk than table", func(b []byte) []byte { be.PutUint64(b[24:], 1<<40); return b }, "first-level table of 1 entries"},
		{"encrypted", func(b []byte) []byte { be.PutUint32(b[32:], 1); return b }, "encrypted"},
		{"snapshots", func(b []byte) []byte { be.PutUint32(b[60:], 1); return b }, "snapshots"},
		{"corrupt bit", func(b []byte) []byte { be.PutUint64(b[72:], 2); return b }, "incompatible features 0x2"},
		{"external data", func(b []byte) []byte { be.PutUint64(b[72:], 4); return b }, "incompatible features 0x4"},
		{"short header", func(b []byte) []byte { be.PutUint32(b[100:], 72); return b }, "header of 72"},
		{"table outside the file", func(b []byte) []byte { be.PutUint64(b[40:], 1<<40); return b }, "first-level table: it is at"},
		{"table off a cluster", func(b []byte) []byte { be.PutUint64(b[40:], l1+8); return b }, "first-level table: it is at"},
		{"second table outside", func(b []byte) []byte { be.PutUint64(b[l1:], 1<<50); return b }, "second-level table: it is at"},
		{"reserved bits above", func(b []byte) []byte { be.PutUint64(b[l1:], be.Uint64(b[l1:])|1); return b }, "reserved bits"},
		{"reserved bits below", func(b []byte) []byte { be.PutUint64(b[l2:], be.Uint64(b[l2:])|4); return b }, "reserved bits"},
		{"compressed", func(b []byte) []byte { be.PutUint64(b[l2:], be.Uint64(b[l2:])|1<<62); return b }, "compressed"},
		{"data outside", func(b []byte) []byte { be.PutUint64(b[l2:], 1<<50); return b }, "points to"},
		{"data off a cluster", func(b []byte) []byte { be.PutUint64(b[l2:], 3<<16|512); return b }, "points to"},
	}
	for _, test := range tests {
		raw := test.spoil(installertest.Qcow2(disk(), 16))
		image, err := qcow2.Open(bytes.NewReader(raw), int64(len(raw)))
		if err == nil {
			_, err = image.ReadAt(make([]byte, 4096), 0)
		}
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want one with %q", test.name, err, test.want)
		}
	}
}

func TestAZeroClusterWithAPlaceReadsAsZeros(t *testing.T) {
	t.Parallel()
	raw := installertest.Qcow2(disk(), 16)
	const l2 = 2 << 16
	binary.BigEndian.PutUint64(raw[l2:], binary.BigEndian.Uint64(raw[l2:])|1)
	p := make([]byte, 4096)
	if _, err := open(t, raw).ReadAt(p, 0); err != nil || !bytes.Equal(p, make([]byte, 4096)) {
		t.Errorf("error %v, or not zeros", err)
	}
}

func TestReadsWhatQemuImgWrites(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Skip("qemu-img is not installed; the artefact tests read a real image")
	}
	dir := t.TempDir()
	raw, out := filepath.Join(dir, "raw"), filepath.Join(dir, "image")
	want := disk()
	if err := os.WriteFile(raw, want, 0o600); err != nil {
		t.Fatal(err)
	}
	if msg, err := exec.Command(tool, "convert", "-f", "raw", "-O", "qcow2", raw, out).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, msg)
	}
	file, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(io.NewSectionReader(open(t, file), 0, int64(len(want))))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the disk reads back differently (error %v)", err)
	}
}

func FuzzImage(f *testing.F) {
	f.Add(installertest.Qcow2(make([]byte, 4096), 9), int64(0))
	f.Add(installertest.Qcow2(disk()[:8192], 9), int64(6000))
	f.Fuzz(func(t *testing.T, raw []byte, off int64) {
		image, err := qcow2.Open(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			return
		}
		p := make([]byte, 8192)
		n, err := image.ReadAt(p, off)
		if n < len(p) && err == nil {
			t.Errorf("%d bytes and no error", n)
		}
		_, _ = image.ReadAt(p, image.Size()-1)
	})
}
