package target_test

// What green does not prove: the disks are files of the file system that holds
// the temporary folder, and where that one has no O_DIRECT the page cache is
// used throughout. What real devices ask of offsets is not met here.

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"cc-base/installer/target"
	"cc-base/tasks/filetest"
)

func disk(t *testing.T, content []byte) (*target.Disk, string) {
	t.Helper()
	path := filetest.Write(t, filepath.Join(t.TempDir(), "disk"), content)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	d := target.Direct(f)
	t.Cleanup(func() {
		if err := errors.Join(d.Close(), f.Close()); err != nil {
			t.Error(err)
		}
	})
	return d, path
}

// paged is memory at an odd distance from a page's start.
func paged(n, odd int) []byte {
	b := make([]byte, n+8192)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b)))%4096) + odd
	return b[skip : skip+n]
}

// Whatever is aligned and whatever is not, what one write wrote the next read
// finds, also where both ways meet in one block.
func TestADiskReadsWhatWasWritten(t *testing.T) {
	t.Parallel()
	want := filetest.Noise(1, 4<<20+512)
	d, path := disk(t, want)
	random := rand.New(rand.NewPCG(1, 2))
	for n := range 400 {
		unit := []int{4096, 512, 1}[n%3]
		off := random.IntN(len(want)/unit) * unit
		length := random.IntN(min(256<<10, len(want)-off)/unit+1) * unit
		b := paged(length, n%2*8)
		if n%4 < 2 {
			for i := range b {
				b[i] = byte(random.Uint32())
			}
			copy(want[off:], b)
			if got, err := d.WriteAt(b, int64(off)); got != length || err != nil {
				t.Fatalf("%d bytes at %d: wrote %d: %v", length, off, got, err)
			}
			continue
		}
		if got, err := d.ReadAt(b, int64(off)); got != length || err != nil || !bytes.Equal(b, want[off:off+length]) {
			t.Fatalf("%d bytes at %d: read %d, or others: %v", length, off, got, err)
		}
	}
	if err := errors.Join(d.Sync(), d.Forget()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(filetest.Read(t, path), want) {
		t.Error("the file holds something else")
	}
}

func TestAlignedPiecesPassTheCacheBy(t *testing.T) {
	t.Parallel()
	d, path := disk(t, make([]byte, 1<<20))
	if !d.Past() {
		t.Skipf("%s is on a file system without O_DIRECT: the page cache is used", path)
	}
	if err := errors.Join(d.Sync(), d.Forget()); err != nil {
		t.Fatal(err)
	}
	b := paged(1<<20, 0)
	copy(b, filetest.Noise(2, 1<<20))
	if _, err := d.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := d.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if n := resident(t, d.File, 1<<20); n > 0 {
		t.Errorf("%d pages are in the cache", n)
	}
}

// resident counts the pages of a file that the page cache holds.
func resident(t *testing.T, f *os.File, size int) int {
	t.Helper()
	m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(m)
	pages := make([]byte, size/os.Getpagesize())
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(size), uintptr(unsafe.Pointer(&pages[0]))); errno != 0 {
		t.Fatal(errno)
	}
	n := 0
	for _, p := range pages {
		n += int(p & 1)
	}
	return n
}

func TestZerosAreMade(t *testing.T) {
	t.Parallel()
	want := filetest.Noise(3, 64<<10)
	d, path := disk(t, want)
	err := d.Zero(8192, 16384)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Logf("%s: %v", path, err)
	} else if err != nil {
		t.Fatal(err)
	} else {
		clear(want[8192:24576])
	}
	if got := filetest.Read(t, path); !bytes.Equal(got, want) {
		t.Error("other bytes, or another size")
	}
}
