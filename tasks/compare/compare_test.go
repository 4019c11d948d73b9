package compare_test

// What green does not prove: that the inside of an erofs or LUKS2 volume is looked
// into; of those the byte is told.

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"
	"github.com/klauspost/compress/zstd"

	"cc-base/installer/installertest"
	"cc-base/tasks/boot/boottest"
	"cc-base/tasks/compare"
	"cc-base/tasks/filetest"
)

func tarOf(t *testing.T, change func(entries []filetest.Entry) []filetest.Entry) []byte {
	t.Helper()
	at := time.Unix(1767225600, 0)
	entries := []filetest.Entry{
		{Header: tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: at}},
		{Header: tar.Header{Name: "etc/hostname", Typeflag: tar.TypeReg, Mode: 0o644, ModTime: at}, Data: "cc-base\nsecond line\n"},
		{Header: tar.Header{Name: "usr/bin/x", Typeflag: tar.TypeReg, Mode: 0o755, ModTime: at}, Data: "\x7fELF\x00\x01\x02\x03\x04"},
		{Header: tar.Header{Name: "usr/bin/y", Typeflag: tar.TypeSymlink, Linkname: "x", ModTime: at}},
	}
	if change != nil {
		entries = change(entries)
	}
	return filetest.Read(t, filetest.WriteTar(t, filepath.Join(t.TempDir(), "tar"), entries...))
}

func cpioOf(t *testing.T, data string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := cpio.NewWriter(&b)
	if err := w.WriteHeader(&cpio.Header{Name: "init", Mode: 0o100755, Size: int64(len(data))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(data)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t *testing.T, level int, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zstandard(t *testing.T, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(data, nil)
}

func diskOf(t *testing.T, change func(f *installertest.Folder)) []byte {
	t.Helper()
	f := installertest.New()
	if change != nil {
		change(f)
	}
	dir := t.TempDir()
	if err := f.Write(dir); err != nil {
		t.Fatal(err)
	}
	return filetest.Read(t, filepath.Join(dir, "cc-base.qcow2"))
}

func TestTheFirstDifferenceIsNamedByItsPlace(t *testing.T) {
	line := func(text string) []byte { return boottest.UKI(text) }
	for name, tt := range map[string]struct {
		a, b []byte
		want string
	}{
		"bytes":                {[]byte("\x00\x01\x02\x03"), []byte("\x00\x01\xff\x03"), "byte 2: ff03, not 0203"},
		"shorter":              {[]byte("\x00\x01\x02\x03"), []byte("\x00\x01"), "byte 2: the end, not 0203"},
		"far away":             {append(make([]byte, 200_000), 1), append(make([]byte, 200_000), 2), "byte 200000: 02, not 01"},
		"text":                 {[]byte("a\nb\nc\n"), []byte("a\nB\nc\n"), `line 2: "B\n", not "b\n"`},
		"a line more":          {[]byte("a\n"), []byte("a\nb\n"), `line 2: "b\n", not the end`},
		"text against bytes":   {[]byte("abc"), []byte("ab\x00"), "byte 2: 00, not 63"},
		"JSON value":           {[]byte(`{"a": [1, {"b": "x"}]}`), []byte(`{"a": [1, {"b": "y"}]}`), `a: 1: b: value: "\"y\"", not "\"x\""`},
		"JSON key":             {[]byte(`{"a": 1}`), []byte(`{"a": 1, "b": 2}`), "b: it is: there, not missing"},
		"JSON length":          {[]byte(`[1]`), []byte(`[1, 2]`), "length: 2, not 1"},
		"JSON blanks":          {[]byte(`[1]`), []byte(`[1 ]`), "byte 2: 205d, not 5d"},
		"JSON and what is not": {[]byte(`[1]`), []byte(`[1,`), "byte 2: 2c, not 5d"},
		"tar content":          {tarOf(t, nil), tarOf(t, func(e []filetest.Entry) []filetest.Entry { e[1].Data = "cc-base\nother line\n"; return e }), `etc/hostname: line 2: "other line\n", not "second line\n"`},
		"tar mode":             {tarOf(t, nil), tarOf(t, func(e []filetest.Entry) []filetest.Entry { e[2].Mode = 0o4755; return e }), "usr/bin/x: mode: 4755, not 0755"},
		"tar owner":            {tarOf(t, nil), tarOf(t, func(e []filetest.Entry) []filetest.Entry { e[2].Uid = 7; return e }), "usr/bin/x: owner: 7:0, not 0:0"},
		"tar time":             {tarOf(t, nil), tarOf(t, func(e []filetest.Entry) []filetest.Entry { e[0].ModTime = time.Unix(1, 0); return e }), "etc/: time: 1970-01-01T00:00:01Z, not 2026-01-01T00:00:00Z"},
		"tar link":             {tarOf(t, nil), tarOf(t, func(e []filetest.Entry) []filetest.Entry { e[3].Linkname = "z"; return e }), `usr/bin/y: link: "z", not "x"`},
		"tar order":            {tarOf(t, nil), tarOf(t, func(e []filetest.Entry) []filetest.Entry { e[1], e[2] = e[2], e[1]; return e }), "next member: usr/bin/x, not etc/hostname"},
		"tar member missing":   {tarOf(t, nil), tarOf(t, func(e []filetest.Entry) []filetest.Entry { return e[:3] }), "usr/bin/y: it is: missing, not there"},
		"tar attribute": {tarOf(t, nil), tarOf(t, func(e []filetest.Entry) []filetest.Entry {
			e[2].PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "x"}
			return e
		}), `usr/bin/x: attributes: [SCHILY.xattr.security.capability="x"], not []`},
		"tar.gz":             {gzipped(t, 6, tarOf(t, nil)), gzipped(t, 6, tarOf(t, func(e []filetest.Entry) []filetest.Entry { e[2].Mode = 0o700; return e })), "usr/bin/x: mode: 0700, not 0755"},
		"gz level":           {gzipped(t, 1, tarOf(t, nil)), gzipped(t, 9, tarOf(t, nil)), "byte "},
		"JSON in a tar":      {tarOf(t, func(e []filetest.Entry) []filetest.Entry { e[1].Data = `{"a": 1}`; return e }), tarOf(t, func(e []filetest.Entry) []filetest.Entry { e[1].Data = `{ "a":1}`; return e }), "etc/hostname: sha256, with the same in it: "},
		"initrd":             {gzipped(t, 6, cpioOf(t, "#!x\n")), gzipped(t, 6, cpioOf(t, "#!y\n")), `init: line 1: "#!y\n", not "#!x\n"`},
		"initrd in zstd":     {zstandard(t, cpioOf(t, "#!x\n")), zstandard(t, cpioOf(t, "#!y\n")), `init: line 1: "#!y\n", not "#!x\n"`},
		"boot image":         {line("ro quiet"), line("rw quiet"), `section .cmdline: line 1: "rw quiet", not "ro quiet"`},
		"kernel in an image": {boottest.PE(boottest.Kernel()), boottest.PE(boottest.Section{Name: ".linux", Data: string(boottest.PE(boottest.Section{Name: ".text", Data: "other"}))}), `section .linux: section .text: line 1: "other", not "kernel"`},
		"section missing":    {line("x"), boottest.PE(boottest.Kernel()), "section .cmdline: it is: missing, not there"},
		"signature":          {line("x"), append(line("x"), 1, 2, 3), "outside of all sections: byte "},
		"partition":          {diskOf(t, nil), diskOf(t, func(f *installertest.Folder) { f.Disk.Bytes[f.Partition("cc-app").Start+77] ^= 1 }), "partition cc-app: byte 77: "},
		"size of a disk":     {installertest.Qcow2(make([]byte, 1<<20), 16), installertest.Qcow2(make([]byte, 2<<20), 16), "size of the disk: 2097152, not 1048576"},
		"disk with no table": {installertest.Qcow2(make([]byte, 1<<20), 16), installertest.Qcow2(append(make([]byte, 1<<20-1), 1), 16), "byte 1048575: 01, not 00"},
	} {
		dir := t.TempDir()
		a, b := filetest.Write(t, filepath.Join(dir, "a"), tt.a), filetest.Write(t, filepath.Join(dir, "b"), tt.b)
		d, err := compare.Files(a, b)
		if err != nil || d == nil {
			t.Errorf("%s: %v, %v", name, d, err)
			continue
		}
		if got := d.String(); got != tt.want && !(strings.HasSuffix(tt.want, " ") && strings.HasPrefix(got, tt.want)) {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, tt.want)
		}
		for _, one := range []string{a, b} {
			if d, err := compare.Files(one, one); d != nil || err != nil {
				t.Errorf("%s: a file differs from itself: %v, %v", name, d, err)
			}
		}
	}
}

func TestWhatCannotBeReadIsAnError(t *testing.T) {
	dir := t.TempDir()
	a := filetest.Write(t, filepath.Join(dir, "a"), gzipped(t, 6, tarOf(t, nil)))
	cut := filetest.Write(t, filepath.Join(dir, "cut"), gzipped(t, 6, tarOf(t, nil))[:60])
	for _, b := range []string{cut, filepath.Join(dir, "none"), dir} {
		if d, err := compare.Files(a, b); err == nil {
			t.Errorf("%s: %v", b, d)
		}
	}
	if _, err := os.Stat(a); err != nil {
		t.Error(err)
	}
}
