package lab

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"

	"cc-base/tasks/boot"
	"cc-base/tasks/sh"
)

// programDir is the folder of the initrd whose files are programs.
const programDir = "usr/lib/cc/"

// Raw converts the image to a raw disk in dir that a test may change.
func (i Image) Raw(t testing.TB, tools sh.Runner, dir string) string {
	t.Helper()
	raw := filepath.Join(dir, "disk.raw")
	err := sh.Do(context.Background(), tools, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", i.Path("cc-base.qcow2"), raw)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// Flip inverts every bit of the byte at off.
func Flip(t testing.TB, file string, off int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	b[0] = ^b[0]
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

// BootImage is a boot image that a test wants in place of the one that was
// built, made from the same kernel and initrd.
type BootImage struct {
	CommandLine string   // the built image's when empty
	Allowed     []string // command lines that the guest accepts; CommandLine alone when nil

	// Files are added to the initrd, or replace what it has, by their paths in
	// it. Those right below usr/lib/cc can be executed.
	Files map[string][]byte

	Key *boot.Key // signs it; nil leaves it unsigned

	// Build makes an image with the signature over PCR 11 of the built image's
	// maker when nil. Another one may do to u what it likes.
	Build func(ctx context.Context, tools sh.Runner, u boot.UKI, out string) error
}

// BuildUKI makes the boot image in dir and returns its file.
func (i Image) BuildUKI(t testing.TB, tools sh.Runner, dir string, b BootImage) string {
	t.Helper()
	u := boot.UKI{
		Kernel: i.Path("scratch", "vmlinuz"), Release: i.Manifest.Kernel, Initrd: i.Path("scratch", "initrd.img"),
		OSRelease: i.Path("scratch", "os-release"), CommandLine: b.CommandLine, Allowed: b.Allowed, Epoch: i.Manifest.SourceDateEpoch,
	}
	if u.CommandLine == "" {
		u.CommandLine = i.Manifest.CommandLine
	}
	if len(b.Files) > 0 {
		initrd, err := withFiles(u.Initrd, b.Files, u.Epoch)
		if err != nil {
			t.Fatal(err)
		}
		u.Initrd = filepath.Join(dir, "test.initrd")
		write(t, u.Initrd, initrd)
	}
	if b.Build == nil {
		b.Build = i.buildMeasured
	}
	uki := filepath.Join(dir, "test.efi")
	if err := b.Build(context.Background(), tools, u, uki); err != nil {
		t.Fatal(err)
	}
	if b.Key != nil {
		signed, err := boot.Sign(read(t, uki), *b.Key)
		if err != nil {
			t.Fatal(err)
		}
		write(t, uki, signed)
	}
	return uki
}

// buildMeasured builds an image that opens what the built one has enrolled.
func (i Image) buildMeasured(ctx context.Context, tools sh.Runner, u boot.UKI, out string) error {
	key, made, err := boot.LoadOrMakePCRKey(i.Path("keys", "pcr"))
	if err != nil {
		return err
	}
	if made {
		return fmt.Errorf("%s had no PCR key", i.Out)
	}
	image, err := boot.BuildMeasured(ctx, tools, u, key, out)
	if err != nil {
		return err
	}
	return os.WriteFile(out, image, 0o644)
}

// PutUKI makes uki what the raw disk boots.
func (i Image) PutUKI(t testing.TB, tools sh.Runner, raw, uki string) {
	t.Helper()
	esp, ok := i.Manifest.Disk.Partition("cc-esp")
	if !ok {
		t.Fatal("the image has no cc-esp")
	}
	err := sh.Do(context.Background(), tools, "mcopy", "-o", "-i", fmt.Sprintf("%s@@%d", raw, esp.Start), uki, "::EFI/BOOT/BOOTX64.EFI")
	if err != nil {
		t.Fatal(err)
	}
}

// WithBootImage makes the boot image beside the raw disk and puts it there.
func (i Image) WithBootImage(t testing.TB, tools sh.Runner, raw string, b BootImage) {
	t.Helper()
	i.PutUKI(t, tools, raw, i.BuildUKI(t, tools, filepath.Dir(raw), b))
}

// WithInitrdFiles puts a UKI on the raw disk whose initrd has the files, and
// another command line unless that is empty; see [BootImage].
func (i Image) WithInitrdFiles(t testing.TB, tools sh.Runner, raw, line string, files map[string][]byte) {
	t.Helper()
	i.WithBootImage(t, tools, raw, BootImage{CommandLine: line, Files: files})
}

// WithCommandLine puts a UKI with another command line on the raw disk, as a
// build with other settings would.
func (i Image) WithCommandLine(t testing.TB, tools sh.Runner, raw, line string) {
	t.Helper()
	i.WithBootImage(t, tools, raw, BootImage{CommandLine: line})
}

// SecureBootKey returns the key of that name of the image's Secure Boot set; see
// boot.KeyNames.
func (i Image) SecureBootKey(t testing.TB, name string) *boot.Key {
	t.Helper()
	// Never makes one: that would not be a key that anything was signed with.
	if _, err := os.Stat(i.Path("keys", "secureboot", name+".key")); err != nil {
		t.Fatal(err)
	}
	key, _, err := boot.LoadOrMakeKey(i.Path("keys", "secureboot"), name, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	return &key
}

// Direct writes kernel and initrd of a boot image to files in dir, for a host
// that starts them itself.
func Direct(t testing.TB, uki, dir string) (kernel, initrd string) {
	t.Helper()
	sections, err := boot.Sections(read(t, uki))
	if err != nil {
		t.Fatal(err)
	}
	kernel, initrd = filepath.Join(dir, "direct.linux"), filepath.Join(dir, "direct.initrd")
	for file, name := range map[string]string{kernel: ".linux", initrd: ".initrd"} {
		if len(sections[name]) == 0 {
			t.Fatalf("the boot image has no %s", name)
		}
		write(t, file, sections[name])
	}
	return kernel, initrd
}

// withFiles returns the initrd with an archive of the files behind it: the
// kernel unpacks one after the other, and what comes later replaces what was
// there (Documentation/driver-api/early-userspace/buffer-format.rst).
func withFiles(initrd string, files map[string][]byte, epoch int64) ([]byte, error) {
	data, err := os.ReadFile(initrd)
	if err != nil {
		return nil, err
	}
	// An archive that is not compressed begins at a multiple of four.
	data = append(data, make([]byte, -len(data)&3)...)
	var b bytes.Buffer
	w := cpio.NewWriter(&b)
	seen := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !fs.ValidPath(name) || name == "." {
			return nil, fmt.Errorf("%q is not a path in the initrd", name)
		}
		for _, dir := range parents(name) {
			if seen[dir] {
				continue
			}
			seen[dir] = true
			if err := w.WriteHeader(&cpio.Header{Name: dir, Mode: cpio.TypeDir | 0o755, ModTime: time.Unix(epoch, 0)}); err != nil {
				return nil, err
			}
		}
		mode := cpio.FileMode(0o644)
		if path.Dir(name)+"/" == programDir {
			mode = 0o755
		}
		header := &cpio.Header{Name: name, Mode: cpio.TypeReg | mode, Size: int64(len(files[name])), ModTime: time.Unix(epoch, 0)}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write(files[name]); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return append(data, b.Bytes()...), nil
}

// parents returns the folders above name, the outermost first.
func parents(name string) []string {
	var dirs []string
	for i, c := range name {
		if c == '/' {
			dirs = append(dirs, name[:i])
		}
	}
	return dirs
}

func read(t testing.TB, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func write(t testing.TB, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
}
