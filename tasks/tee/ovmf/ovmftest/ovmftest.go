// Package ovmftest makes small firmware images for tests and lends the real
// ones that a machine has.
package ovmftest

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"cc-base/tasks/lab"
	"cc-base/tasks/tee/ovmf"
)

// Variables by which `mage test` and its tests tell each other of firmware.
const (
	// FirmwareEnv names a folder with firmware images of any name, which tests
	// find by their SHA-256.
	FirmwareEnv = "CC_TEST_FIRMWARE"
	// NotRunEnv names a file that gets a line for each test that needed an image
	// which was not there. `go test` shows no skips of a package that passes.
	NotRunEnv = "CC_TEST_NOT_RUN"
)

// Spec is what an image says about itself.
type Spec struct {
	Pages     int // of 4 KiB; the content of each differs
	ResetEIP  uint32
	HashTable uint32
	SEV       []ovmf.SEVSection
	TDVF      []ovmf.TDVFSection
}

// SNP is an image for SNP with a page for kernel hashes, as OVMF's for AMD SEV
// has it.
func SNP() Spec {
	return Spec{Pages: 4, ResetEIP: 0x80b004, HashTable: 0x810c00, SEV: []ovmf.SEVSection{
		{Address: 0x800000, Size: 0x9000, Type: ovmf.SecMemory},
		{Address: 0x80a000, Size: 0x3000, Type: ovmf.SecMemory},
		{Address: 0x80d000, Size: 0x1000, Type: ovmf.Secrets},
		{Address: 0x80e000, Size: 0x1000, Type: ovmf.CPUID},
		{Address: 0x80f000, Size: 0x1000, Type: ovmf.CallingArea},
		{Address: 0x811000, Size: 0xf000, Type: ovmf.SecMemory},
		{Address: 0x810000, Size: 0x1000, Type: ovmf.KernelHashes},
	}}
}

// TDX is an image for TDX: one page of variables, then code.
func TDX() Spec {
	const base = 1<<32 - 4*ovmf.PageSize
	return Spec{Pages: 4, ResetEIP: 0x80b004, TDVF: []ovmf.TDVFSection{
		{Offset: 0x1000, RawSize: 0x3000, Address: base + 0x1000, Size: 0x3000, Type: ovmf.BootVolume, Attributes: ovmf.MRExtend},
		{Offset: 0, RawSize: 0x1000, Address: base, Size: 0x1000, Type: ovmf.ConfigVolume},
		{Address: 0x810000, Size: 0x10000, Type: ovmf.TempMemory},
		{Address: 0x809000, Size: 0x2000, Type: ovmf.HandOff},
		{Address: 0x800000, Size: 0x6000, Type: ovmf.TempMemory},
	}}
}

// Image makes the image.
func (s Spec) Image() []byte {
	image := make([]byte, s.Pages*ovmf.PageSize)
	for i := range s.Pages {
		copy(image[i*ovmf.PageSize:], strings.Repeat(string(rune('a'+i)), 64))
	}
	le := binary.LittleEndian
	at := len(image) - 512 // where the next metadata goes: upwards, below the table
	place := func(signature string, count int, sections []byte) uint32 {
		b := append([]byte(signature), make([]byte, 12)...)
		le.PutUint32(b[4:], uint32(16+len(sections)))
		le.PutUint32(b[8:], 1)
		le.PutUint32(b[12:], uint32(count))
		at -= len(b) + len(sections)
		copy(image[at:], append(b, sections...))
		return uint32(len(image) - at)
	}
	var entries []byte
	add := func(guid string, data []byte) {
		g := ovmf.GUIDBytes(uuid.MustParse(guid))
		entries = append(entries, data...)
		entries = le.AppendUint16(entries, uint16(len(data)+18))
		entries = append(entries, g[:]...)
	}
	if s.HashTable != 0 {
		add("7255371f-3a3b-4b04-927b-1da6efa8d454", le.AppendUint32(le.AppendUint32(nil, s.HashTable), 0x400))
	}
	if s.ResetEIP != 0 {
		add("00f771de-1a7e-4fcb-890e-68c77e2fb44e", le.AppendUint32(nil, s.ResetEIP))
	}
	if len(s.SEV) > 0 {
		var b []byte
		for _, x := range s.SEV {
			b = le.AppendUint32(le.AppendUint32(le.AppendUint32(b, x.Address), x.Size), uint32(x.Type))
		}
		add("dc886566-984a-4798-a75e-5585a7bf67cc", le.AppendUint32(nil, place("ASEV", len(s.SEV), b)))
	}
	if len(s.TDVF) > 0 {
		var b []byte
		for _, x := range s.TDVF {
			b = le.AppendUint32(le.AppendUint32(b, x.Offset), x.RawSize)
			b = le.AppendUint64(le.AppendUint64(b, x.Address), x.Size)
			b = le.AppendUint32(le.AppendUint32(b, uint32(x.Type)), x.Attributes)
		}
		add("e47a6535-984a-4798-865e-4685a7bf8ec2", le.AppendUint32(nil, place("TDVF", len(s.TDVF), b)))
	}
	length := len(entries) + 18
	footer := ovmf.GUIDBytes(uuid.MustParse("96b582de-1fb2-45f7-baea-a366c55a082d"))
	entries = append(le.AppendUint16(entries, uint16(length)), footer[:]...)
	copy(image[len(image)-32-length:], entries)
	return image
}

// Real is a firmware image of a distribution.
type Real struct {
	Name   string // package, version and file
	SHA256 string
}

// Trixie is the image of the tools tree, which every run of the tests has.
func Trixie() Real {
	return Real{"trixie ovmf 2025.02-8+deb13u1 OVMF.fd", "14954040cc754ade0c625ac3470ea46d4c14318b5b1396de4ef77090203d76db"}
}

// Bookworm is the image of Debian 12.
func Bookworm() Real {
	return Real{"bookworm ovmf 2022.11-6+deb12u2 OVMF.fd", "7b456907dd0786d415999e801a1ac4637b8ed4d7cf5378cfc6edbe5e574dd773"}
}

// AMDSEV is the image with a page for kernel hashes.
func AMDSEV() Real {
	return Real{"sid ovmf-amdsev 2026.08+ds-2 OVMF.amdsev.fd", "3e4fd0b3fe3b2dbe481c3d9e99418a034174f26cbe1f55aa212b0f18c12d2d6f"}
}

// Read returns the image: from the tools tree, or from the folder that
// [FirmwareEnv] names. Without it the test is skipped, which [NotRunEnv] is told;
// but the tools tree always has one, so under CI=true the vectors of [Trixie]
// run, or the test fails.
func (r Real) Read(t testing.TB) []byte {
	t.Helper()
	if r == Trixie() {
		tree, _ := lab.Tools(t)
		data, err := os.ReadFile(filepath.Join(tree.Dir, "usr/share/ovmf/OVMF.fd"))
		if err != nil {
			t.Fatal(err)
		}
		if sum := sum(data); sum != r.SHA256 {
			lab.Absent(t, "not run: the tools tree's OVMF.fd is not %s but one with SHA-256 %s: compute its vectors with another calculator and put them in", r.Name, sum)
		}
		return data
	}
	dir := os.Getenv(FirmwareEnv)
	if dir == "" {
		r.notRun(t, FirmwareEnv+" is not set")
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err == nil && sum(data) == r.SHA256 {
			return data
		}
	}
	r.notRun(t, "it is not among the images of this run")
	return nil
}

// notRun skips the test and says so where it is seen.
func (r Real) notRun(t testing.TB, why string) {
	t.Helper()
	line := fmt.Sprintf("%s: vectors of %s (SHA-256 %s): %s", t.Name(), r.Name, r.SHA256, why)
	if file := os.Getenv(NotRunEnv); file != "" {
		f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err == nil {
			_, err = f.WriteString(line + "\n")
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Skip("not run: " + line)
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}
