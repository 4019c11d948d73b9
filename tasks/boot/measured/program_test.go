package measured_test

// What green does not prove: no firmware hashes a program here. That OVMF does
// so in this way is shown by package pcr, on recorded logs.

import (
	"bytes"
	"crypto"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/foxboron/go-uefi/authenticode"

	"cc-base/tasks/boot"
	"cc-base/tasks/boot/boottest"
	"cc-base/tasks/boot/measured"
	"cc-base/tasks/lab"
)

func signed(t testing.TB, program []byte) []byte {
	t.Helper()
	key, _, err := boot.LoadOrMakeKey(t.TempDir(), "db", time.Unix(1767225600, 0))
	if err != nil {
		t.Fatal(err)
	}
	data, err := boot.Sign(program, key)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// compare holds the digests against those of the library that signs our boot
// images.
func compare(t *testing.T, name string, file []byte) {
	t.Helper()
	theirs, err := authenticode.Parse(bytes.NewReader(file))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	ours, err := measured.ReadProgram(file)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384} {
		if got, want := ours.Sum(h.New()), theirs.Hash(h); !bytes.Equal(got, want) {
			t.Errorf("%s, %s: %x, go-uefi says %x", name, h, got, want)
		}
	}
}

func TestDigestsAreGoUEFIs(t *testing.T) {
	t.Parallel()
	uki := boottest.UKI("quiet")
	compare(t, "unsigned", uki)
	compare(t, "signed", signed(t, uki))
	compare(t, "data behind", append(boottest.UKI("quiet"), "something behind"...))
}

func TestDigestsOfTheToolsTreesProgramsAreGoUEFIs(t *testing.T) {
	t.Parallel()
	tree, _ := lab.Tools(t)
	for _, path := range []string{"usr/lib/systemd/boot/efi/linuxx64.efi.stub", "usr/lib/systemd/boot/efi/systemd-bootx64.efi"} {
		data, err := os.ReadFile(filepath.Join(tree.Dir, path))
		if errors.Is(err, fs.ErrNotExist) {
			t.Logf("not compared, the tools tree has no %s", path)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		compare(t, path, data)
	}
}

func sum(t *testing.T, file []byte) string {
	t.Helper()
	p, err := measured.ReadProgram(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(p.Sum(sha512.New384()))
}

func TestASignatureIsNotMeasuredAndAByteBehindTheSectionsIs(t *testing.T) {
	t.Parallel()
	bare := boottest.UKI("quiet")
	want := sum(t, bare)
	if sum(t, signed(t, bare)) != want {
		t.Error("a signature changes the digest")
	}
	if sum(t, append(bytes.Clone(bare), 'x')) == want {
		t.Error("a byte behind the sections is not measured")
	}
}

func broken(t testing.TB) map[string][]byte {
	le := binary.LittleEndian
	good := signed(t, boottest.UKI("quiet"))
	change := func(f func(b []byte)) []byte {
		b := bytes.Clone(good)
		f(b)
		return b
	}
	const pe, optional = 64, 64 + 4 + 20
	const certificates, sections = optional + 112 + 4*8, optional + 240
	return map[string][]byte{
		"empty":                   nil,
		"text":                    bytes.Repeat([]byte("text"), 100),
		"cut in its headers":      good[:optional+20],
		"a header beyond the end": change(func(b []byte) { le.PutUint32(b[60:], 1<<32-1) }),
		"32 bits":                 change(func(b []byte) { le.PutUint16(b[optional:], 0x10b) }),
		"65535 sections":          change(func(b []byte) { le.PutUint16(b[pe+6:], 0xffff) }),
		"no optional header":      change(func(b []byte) { le.PutUint16(b[pe+20:], 0) }),
		"headers beyond the end":  change(func(b []byte) { le.PutUint32(b[optional+60:], 1<<31) }),
		"no headers":              change(func(b []byte) { le.PutUint32(b[optional+60:], 0) }),
		"no data directory":       change(func(b []byte) { le.PutUint32(b[optional+108:], 0) }),
		"section beyond the end":  change(func(b []byte) { le.PutUint32(b[sections+20:], 1<<31) }),
		"4 GiB of certificates":   change(func(b []byte) { le.PutUint32(b[certificates+4:], 1<<32-1) }),
		"certificates elsewhere":  change(func(b []byte) { le.PutUint32(b[certificates:], le.Uint32(b[certificates:])-8) }),
	}
}

func TestAMalformedProgramIsRefused(t *testing.T) {
	t.Parallel()
	for name, file := range broken(t) {
		if _, err := measured.ReadProgram(file); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzReadProgram(f *testing.F) {
	f.Add(boottest.UKI("quiet"))
	for _, file := range broken(f) {
		f.Add(file)
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		p, err := measured.ReadProgram(file)
		if err == nil && len(p.Sum(sha512.New384())) != sha512.Size384 {
			t.Error("no digest")
		}
	})
}
