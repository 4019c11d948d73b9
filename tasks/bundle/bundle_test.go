package bundle

// What green does not prove: the archives here are a few MiB, so that PAX
// headers for files of 8 GiB are looked at in the header only, and no power is
// cut, so fsync is called, not proven. Equal bytes are compared on one machine
// with one version of the compressor; another version may compress otherwise.

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"cc-base/tasks/digest"
	"cc-base/tasks/fault"
	"cc-base/tasks/filetest"
	"cc-base/tasks/manifest"

	"github.com/google/go-cmp/cmp"
)

const (
	epoch       = 1735689600  // 2025-01-01
	sampleNoise = 2<<20 + 123 // bytes: more than one block of the compressor
)

// needTool skips without the program, except in CI, where a skip would hide
// that nothing was tested.
func needTool(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

func noise(n int) []byte {
	return filetest.Noise(7, n)
}

// sample is an installer in small, in no particular order.
func sample(t *testing.T) []Entry {
	t.Helper()
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, noise(sampleNoise), 0o600); err != nil {
		t.Fatal(err)
	}
	return []Entry{
		{Name: "installer/install.sh", Data: []byte("#!/bin/sh\n"), Mode: 0o755},
		{Name: "installer/cc-base.qcow2", Source: disk, Mode: 0o644, Incompressible: true},
		{Name: "installer/config/tee.conf", Data: bytes.Repeat([]byte("TEE_TYPE=auto\n"), 100_000), Mode: 0o644},
		{Name: "installer/validation/deep/common.sh", Data: []byte("true\n"), Mode: 0o644},
		{Name: "installer/image.key", Data: noise(32), Mode: 0o600},
		{Name: "installer/empty", Data: nil, Mode: 0o644},
	}
}

func write(t *testing.T, entries []Entry, opts Options) ([]byte, Result) {
	t.Helper()
	var b bytes.Buffer
	res, err := Write(context.Background(), &b, entries, opts)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), res
}

func TestSameInputsGiveTheSameBytes(t *testing.T) {
	entries := sample(t)
	want, res := write(t, entries, Options{Epoch: epoch})
	if res.Size != int64(len(want)) || res.SHA256 != digest.Bytes(want) {
		t.Errorf("result says %d bytes, %s", res.Size, res.SHA256)
	}
	reversed := make([]Entry, 0, len(entries))
	for _, e := range entries {
		reversed = append([]Entry{e}, reversed...)
	}
	for _, procs := range []int{1, 2, 7} {
		old := runtime.GOMAXPROCS(procs)
		got, _ := write(t, reversed, Options{Epoch: epoch})
		runtime.GOMAXPROCS(old)
		if !bytes.Equal(got, want) {
			t.Errorf("with %d processors the bytes differ", procs)
		}
	}
}

func TestHoldsWhatWasGivenAndNothingElse(t *testing.T) {
	entries := sample(t)
	data, res := write(t, entries, Options{Epoch: epoch})
	zr, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if !zr.ModTime.IsZero() || zr.Name != "" || zr.Comment != "" || zr.Extra != nil {
		t.Errorf("gzip header %+v", zr.Header)
	}
	var names []string
	tr := tar.NewReader(zr)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || !h.ModTime.Equal(time.Unix(epoch, 0)) || len(h.PAXRecords) > 0 || h.Format != tar.FormatUSTAR {
			t.Errorf("header %+v", h)
		}
		body, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Name != h.Name {
				continue
			}
			want := e.Data
			if e.Source != "" {
				want = noise(sampleNoise)
			}
			if !bytes.Equal(body, want) || h.Mode != int64(e.Mode) {
				t.Errorf("%s: content or mode %#o differs", h.Name, h.Mode)
			}
		}
		if h.Name == "installer/SHA256SUMS" && !bytes.Equal(body, res.Sums) {
			t.Error("SHA256SUMS differs from the result's")
		}
	}
	want := []string{
		"installer/", "installer/cc-base.qcow2", "installer/config/", "installer/config/tee.conf", "installer/empty",
		"installer/image.key", "installer/install.sh", "installer/validation/", "installer/validation/deep/",
		"installer/validation/deep/common.sh", "installer/SHA256SUMS",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if got := res.Files[0]; got != (manifest.File{Path: "cc-base.qcow2", Size: sampleNoise, SHA256: digest.Bytes(noise(sampleNoise))}) {
		t.Errorf("first file %+v", got)
	}
	// The noise is stored (plus 5 bytes per 64 KiB), the text is compressed.
	if over := len(data) - sampleNoise; over < 0 || over > 50_000 {
		t.Errorf("%d bytes around %d of noise", over, sampleNoise)
	}
}

// Every member's header must be without time and name, not only the first one,
// which is all that gzip.Reader shows.
func TestEveryGzipMemberHasABareHeader(t *testing.T) {
	data, _ := write(t, sample(t), Options{Epoch: epoch})
	members := 0
	r := bytes.NewReader(data)
	for {
		at := len(data) - r.Len()
		zr, err := gzip.NewReader(r)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		zr.Multistream(false)
		if _, err := io.Copy(io.Discard, zr); err != nil {
			t.Fatal(err)
		}
		if got, want := data[at:at+10], []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}; !bytes.Equal(got, want) {
			t.Errorf("member %d: header % x, want % x", members, got, want)
		}
		members++
	}
	if members != 3 { // before, within and after the stored entry
		t.Errorf("%d members, want 3", members)
	}
}

func TestHostToolsAcceptIt(t *testing.T) {
	for _, tool := range []string{"tar", "gzip", "sha256sum"} {
		needTool(t, tool)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "nvidia-cc-installer.tar.gz")
	if _, err := WriteFile(context.Background(), path, sample(t), Options{Epoch: epoch}); err != nil {
		t.Fatal(err)
	}
	run := func(dir, name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "LC_ALL=C")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	if out := run(dir, "gzip", "-tv", path); !strings.Contains(out, "OK") || strings.Contains(out, "warning") {
		t.Errorf("gzip: %s", out)
	}
	if out := run(dir, "tar", "tzf", path); !strings.HasSuffix(out, "installer/SHA256SUMS\n") {
		t.Errorf("tar: %s", out)
	}
	run(dir, "sha256sum", "-c", "--strict", "nvidia-cc-installer.tar.gz.sha256")
	run(dir, "tar", "xzf", path)
	out := run(filepath.Join(dir, "installer"), "sha256sum", "-c", "--strict", "SHA256SUMS")
	if n := strings.Count(out, ": OK\n"); n != 6 {
		t.Errorf("sha256sum checked %d files, want 6:\n%s", n, out)
	}
}

func TestStoresTheSignatureOfTheSums(t *testing.T) {
	var signed []byte
	data, res := write(t, sample(t), Options{Epoch: epoch, SignSums: func(sums []byte) ([]byte, error) {
		signed = bytes.Clone(sums)
		return []byte("signature"), nil
	}})
	if !bytes.Equal(signed, res.Sums) {
		t.Error("signed something else")
	}
	zr, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	last := ""
	for tr := tar.NewReader(zr); ; {
		h, err := tr.Next()
		if err != nil {
			break
		}
		last = h.Name
	}
	if last != "installer/SHA256SUMS.asc" {
		t.Errorf("last entry is %s", last)
	}
	_, err = Write(context.Background(), io.Discard, sample(t), Options{SignSums: func([]byte) ([]byte, error) { return nil, io.ErrNoProgress }})
	if !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("error of the signer is lost: %v", err)
	}
}

func TestAFileOf8GiBNeedsNoMoreThanItsSizeRecord(t *testing.T) {
	p := &plan{opts: Options{Epoch: epoch}}
	var b bytes.Buffer
	it := item{Entry: Entry{Name: "installer/big", Mode: 0o644}, size: 8 << 30}
	if err := tar.NewWriter(&b).WriteHeader(p.header(it)); err != nil {
		t.Fatal(err)
	}
	h, err := tar.NewReader(&b).Next()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"size": "8589934592"}, h.PAXRecords); diff != "" || h.Format != tar.FormatPAX {
		t.Errorf("format %v, records (-want +got):\n%s", h.Format, diff)
	}
}

func TestRefuses(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := os.WriteFile(file, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	one := func(e Entry) []Entry {
		if e.Mode == 0 {
			e.Mode = 0o644
		}
		return []Entry{{Name: "i/first", Mode: 0o644}, e}
	}
	for name, tc := range map[string]struct {
		entries []Entry
		opts    Options
		want    string
	}{
		"a symlink":             {one(Entry{Name: "i/a", Source: link}), Options{}, "not a regular file"},
		"a folder":              {one(Entry{Name: "i/a", Source: dir}), Options{}, "not a regular file"},
		"a device":              {one(Entry{Name: "i/a", Source: os.DevNull}), Options{}, "not a regular file"},
		"a missing source":      {one(Entry{Name: "i/a", Source: file + "x"}), Options{}, "no such file"},
		"source and data":       {one(Entry{Name: "i/a", Source: file, Data: []byte("y")}), Options{}, "both a source and data"},
		"other content":         {one(Entry{Name: "i/a", Source: file, SHA256: digest.Bytes([]byte("y"))}), Options{}, "was recorded"},
		"no top folder":         {one(Entry{Name: "a"}), Options{}, "not inside a top folder"},
		"another top folder":    {one(Entry{Name: "j/a"}), Options{}, "not inside the top folder"},
		"an absolute name":      {one(Entry{Name: "/etc/a"}), Options{}, "not inside the top folder"},
		"a way out":             {one(Entry{Name: "i/../a"}), Options{}, "are possible in a name"},
		"a double slash":        {one(Entry{Name: "i//a"}), Options{}, "are possible in a name"},
		"a line end":            {one(Entry{Name: "i/a\nb"}), Options{}, "are possible in a name"},
		"an option":             {one(Entry{Name: "i/-rf"}), Options{}, "are possible in a name"},
		"the list of sums":      {one(Entry{Name: "i/SHA256SUMS"}), Options{}, "made here"},
		"a name twice":          {one(Entry{Name: "i/first"}), Options{}, "given twice"},
		"a file as folder":      {one(Entry{Name: "i/first/a"}), Options{}, "also a folder"},
		"a folder as file":      {append(one(Entry{Name: "i/d/a"}), Entry{Name: "i/d", Mode: 0o644}), Options{}, "also a folder"},
		"a mode for all":        {one(Entry{Name: "i/a", Mode: 0o666}), Options{}, "not within 0755"},
		"set-user-ID":           {one(Entry{Name: "i/a", Mode: os.ModeSetuid | 0o755}), Options{}, "not within 0755"},
		"nothing":               {nil, Options{}, "nothing to pack"},
		"a time before 1970":    {one(Entry{Name: "i/a"}), Options{Epoch: -1}, "outside"},
		"a time that needs PAX": {one(Entry{Name: "i/a"}), Options{Epoch: maxEpoch + 1}, "outside"},
	} {
		t.Run(name, func(t *testing.T) {
			out := t.TempDir()
			_, err := WriteFile(context.Background(), filepath.Join(out, "b.tar.gz"), tc.entries, tc.opts)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q in it", err, tc.want)
			}
			filetest.Only(t, out)
		})
	}
}

func TestOtherContentThanRecordedIsDamage(t *testing.T) {
	_, err := Write(context.Background(), io.Discard, []Entry{{Name: "i/a", Mode: 0o644, Data: []byte("x"), SHA256: digest.Bytes(nil)}}, Options{})
	if e := fault.Of(err); e == nil || e.Code != fault.Damaged {
		t.Errorf("error %v", err)
	}
}

// A source that another process still writes must not become a bundle.
func TestASourceThatChangesWhileItIsRead(t *testing.T) {
	for name, change := range map[string]func(path string) error{
		"grows":        func(p string) error { return os.WriteFile(p, noise(4<<20), 0o644) },
		"shrinks":      func(p string) error { return os.Truncate(p, 1<<20+5) },
		"is rewritten": func(p string) error { return os.WriteFile(p, noise(3<<20), 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			src := filepath.Join(t.TempDir(), "src")
			if err := os.WriteFile(src, make([]byte, 3<<20), 0o644); err != nil {
				t.Fatal(err)
			}
			old := time.Unix(epoch, 0)
			if err := os.Chtimes(src, old, old); err != nil {
				t.Fatal(err)
			}
			done := false
			opts := Options{Progress: func(int64, int64) {
				if !done {
					done = true
					if err := change(src); err != nil {
						t.Error(err)
					}
				}
			}}
			_, err := Write(context.Background(), io.Discard, []Entry{{Name: "i/a", Mode: 0o644, Source: src}}, opts)
			if err == nil || !strings.Contains(err.Error(), src) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestWriteFileReplacesAndRemovesWhatSpokeOfTheOldFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "b.tar.gz")
	for _, stale := range []string{path, path + ".asc", path + ".sha256", path + ".part"} {
		if err := os.WriteFile(stale, []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	res, err := WriteFile(context.Background(), path, sample(t), Options{Epoch: epoch})
	if err != nil {
		t.Fatal(err)
	}
	filetest.Only(t, dir, "b.tar.gz", "b.tar.gz.sha256")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sums, err := os.ReadFile(path + ".sha256")
	if err != nil {
		t.Fatal(err)
	}
	if want := digest.Bytes(data) + "  b.tar.gz\n"; string(sums) != want || res.SHA256 != digest.Bytes(data) {
		t.Errorf("sum file %q, want %q", sums, want)
	}
}

func TestCancelLeavesTheOldFileAndNoPart(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "b.tar.gz")
	for _, old := range []string{path, path + ".asc", path + ".sha256"} {
		if err := os.WriteFile(old, []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := runtime.NumGoroutine()
	ctx, cancel := context.WithCancel(context.Background())
	opts := Options{Progress: func(done, _ int64) {
		if done > 1<<20 {
			cancel()
		}
	}}
	if _, err := WriteFile(ctx, path, sample(t), opts); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	filetest.Only(t, dir, "b.tar.gz", "b.tar.gz.asc", "b.tar.gz.sha256")
	noLeftGoroutines(t, before)
}

func TestAFullDiskIsReportedAndLeavesNoGoroutine(t *testing.T) {
	before := runtime.NumGoroutine()
	entries := sample(t)
	for limit := range 16 {
		w := &fullWriter{left: limit * limit * 10_000}
		_, err := Write(context.Background(), w, entries, Options{})
		if err == nil && w.full {
			t.Errorf("limit %d: no error", w.left)
		}
		if err != nil && !errors.Is(err, io.ErrShortBuffer) {
			t.Errorf("error %v", err)
		}
	}
	noLeftGoroutines(t, before)
}

type fullWriter struct {
	left int
	full bool
}

func (w *fullWriter) Write(b []byte) (int, error) {
	if len(b) > w.left {
		w.full = true
		return 0, io.ErrShortBuffer
	}
	w.left -= len(b)
	return len(b), nil
}

func noLeftGoroutines(t *testing.T, before int) {
	t.Helper()
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), before)
}

func BenchmarkWriteStored(b *testing.B) { benchmarkWrite(b, true) }
func BenchmarkWritePacked(b *testing.B) { benchmarkWrite(b, false) }

func benchmarkWrite(b *testing.B, stored bool) {
	data := noise(64 << 20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		_, err := Write(context.Background(), io.Discard, []Entry{{Name: "i/a", Mode: 0o644, Data: data, Incompressible: stored}}, Options{})
		if err != nil {
			b.Fatal(err)
		}
	}
}
