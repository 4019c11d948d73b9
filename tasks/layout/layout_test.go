package layout_test

// What green does not prove: no firmware and no kernel reads these tables
// here; sgdisk is the second opinion where it is installed.

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cc-base/installer/installertest"
	"cc-base/tasks/layout"
)

const mib = 1 << 20

func stretched(t *testing.T, size int64) (layout.Table, *installertest.Disk) {
	t.Helper()
	final, err := layout.Final(installertest.New().Table, size)
	if err != nil {
		t.Fatal(err)
	}
	disk := installertest.NewDisk(size)
	if err := final.Write(disk, size); err != nil {
		t.Fatal(err)
	}
	return final, disk
}

func TestAWrittenTableReadsBack(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{14 * mib, 14*mib + 512, 64*mib - 512, 100 * mib} {
		want, disk := stretched(t, size)
		got, err := layout.Read(disk, size)
		if err != nil {
			t.Fatal(err)
		}
		if diffs := got.Compare(want); len(diffs) > 0 {
			t.Errorf("size %d: %v", size, diffs)
		}
	}
}

func TestFinalStretchesOnlyTheLastPartition(t *testing.T) {
	t.Parallel()
	image := installertest.New().Table
	final, err := layout.Final(image, 100*mib+4096)
	if err != nil {
		t.Fatal(err)
	}
	last := len(image.Entries) - 1
	if diff := cmp.Diff(image.Entries[:last], final.Entries[:last]); diff != "" {
		t.Errorf("other entries changed:\n%s", diff)
	}
	if end := final.Entries[last].Start + final.Entries[last].Size; end != 99*mib {
		t.Errorf("it ends at %d", end)
	}
	if image.Entries[last].Size != 3*mib {
		t.Error("the image's own table was changed")
	}
	if _, err := layout.Final(image, 13*mib); err == nil {
		t.Error("a device that is too small was accepted")
	}
}

func TestDamageIsFound(t *testing.T) {
	t.Parallel()
	const size = 20 * mib
	be := binary.LittleEndian
	tests := []struct {
		name  string
		spoil func(b []byte)
	}{
		{"primary header", func(b []byte) { b[512+60] ^= 1 }},
		{"primary entries", func(b []byte) { b[1024+40] ^= 1 }},
		{"primary gone", func(b []byte) { clear(b[:34*512]) }},
		{"backup header", func(b []byte) { b[size-512+60] ^= 1 }},
		{"backup entries", func(b []byte) { b[size-512-16384+40] ^= 1 }},
		{"backup gone", func(b []byte) { clear(b[size-34*512:]) }},
		{"absurd count", func(b []byte) { be.PutUint32(b[512+80:], 1<<31) }},
		{"absurd count in the backup", func(b []byte) { be.PutUint32(b[size-512+80:], 1<<31) }},
	}
	for _, test := range tests {
		want, disk := stretched(t, size)
		test.spoil(disk.Bytes)
		got, err := layout.Read(disk, size)
		if err == nil && len(got.Compare(want)) == 0 {
			t.Errorf("%s: nothing was found", test.name)
		}
	}
}

func TestADiskWithoutTable(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{0, 512, 4 * mib} {
		if _, err := layout.Read(installertest.NewDisk(size), size); !errors.Is(err, layout.ErrNone) {
			t.Errorf("size %d: error %v", size, err)
		}
	}
}

func TestEveryFieldIsCompared(t *testing.T) {
	t.Parallel()
	want := installertest.New().Table
	for name, change := range map[string]func(t *layout.Table){
		"disk GUID":  func(t *layout.Table) { t.GUID = t.Entries[0].GUID },
		"count":      func(t *layout.Table) { t.Entries = t.Entries[:4] },
		"label":      func(t *layout.Table) { t.Entries[1].Label = "cc-boot" },
		"type":       func(t *layout.Table) { t.Entries[1].TypeGUID = t.GUID },
		"GUID":       func(t *layout.Table) { t.Entries[1].GUID = t.GUID },
		"start":      func(t *layout.Table) { t.Entries[1].Start++ },
		"size":       func(t *layout.Table) { t.Entries[1].Size++ },
		"attributes": func(t *layout.Table) { t.Entries[1].Attributes = 0 },
		"number":     func(t *layout.Table) { t.Entries[1].Number = 7 },
	} {
		got := installertest.New().Table
		change(&got)
		if len(got.Compare(want)) == 0 {
			t.Errorf("%s: no difference found", name)
		}
	}
}

// A disk of 3 TiB that holds only what is written to it.
type hugeDisk struct {
	*installertest.Disk
	size int64
	mbr  [512]byte
}

func (h *hugeDisk) Seek(int64, int) (int64, error) { return h.size, nil }
func (h *hugeDisk) WriteAt(p []byte, off int64) (int, error) {
	if off < 512 {
		copy(h.mbr[off:], p)
	}
	return len(p), nil
}

func TestTheProtectiveRecordOfAHugeDiskSaysAllOnes(t *testing.T) {
	t.Parallel()
	const size = 3 << 40
	final, err := layout.Final(installertest.New().Table, size)
	if err != nil {
		t.Fatal(err)
	}
	disk := &hugeDisk{Disk: installertest.NewDisk(0), size: size}
	if err := final.Write(disk, size); err != nil {
		t.Fatal(err)
	}
	if got := disk.mbr[446+12 : 446+16]; !bytes.Equal(got, []byte{0xff, 0xff, 0xff, 0xff}) {
		t.Errorf("got %x", got)
	}
}

func TestSgdiskAgrees(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("sgdisk")
	if err != nil {
		t.Skip("sgdisk is not installed; the artefact tests run it on the real image")
	}
	_, disk := stretched(t, 64*mib)
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, disk.Bytes, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(tool, "-v", path).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("No problems found")) {
		t.Errorf("%v: %s", err, out)
	}
}

func FuzzRead(f *testing.F) {
	disk := installertest.NewDisk(64 << 10)
	table := layout.Table{GUID: "0CC0BA5E-0000-4000-8000-000000000000"}
	if err := table.Write(disk, 64<<10); err != nil {
		f.Fatal(err)
	}
	f.Add(disk.Bytes)
	f.Fuzz(func(_ *testing.T, raw []byte) {
		_, _ = layout.Read(bytes.NewReader(raw), int64(len(raw)))
	})
}
