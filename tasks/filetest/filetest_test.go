package filetest_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/filetest"
)

// probe is a test that notes its failure instead of failing.
type probe struct {
	testing.TB
	failed bool
}

func (p *probe) Helper()               {}
func (p *probe) Errorf(string, ...any) { p.failed = true }

func TestOnlySeesWhatIsMissingAndWhatIsThereBesides(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	filetest.Only(t, dir)
	filetest.Write(t, filepath.Join(dir, "b"), nil)
	filetest.Write(t, filepath.Join(dir, "a"), nil)
	filetest.Only(t, dir, "a", "b")
	for _, want := range [][]string{nil, {"a"}, {"a", "b", "c"}} {
		p := &probe{TB: t}
		if filetest.Only(p, dir, want...); !p.failed {
			t.Errorf("%q was accepted", want)
		}
	}
}

func TestAnArchiveIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	file := filetest.WriteTar(t, filepath.Join(t.TempDir(), "tar"),
		filetest.Entry{Header: tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}},
		filetest.Entry{Header: tar.Header{Name: "./file", Typeflag: tar.TypeReg, Mode: 0o600, Uid: 7}, Data: "text"},
		filetest.Entry{Header: tar.Header{Name: "./link", Typeflag: tar.TypeSymlink, Linkname: "file"}})
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	if _, err := w.Write(filetest.Read(t, file)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var names []string
	archive := filetest.Gunzip(t, filetest.Write(t, file+".gz", zipped.Bytes()))
	filetest.EachInTar(t, archive, func(h *tar.Header, _ io.Reader) { names = append(names, h.Name) })
	if diff := cmp.Diff([]string{"./", "./file", "./link"}, names); diff != "" {
		t.Error(diff)
	}
	entries := filetest.ReadTar(t, file)
	if len(entries) != 3 || entries[1].Data != "text" || entries[1].Uid != 7 || entries[1].Mode != 0o600 || entries[2].Linkname != "file" {
		t.Errorf("got %+v", entries)
	}
}

func TestNoiseIsTheSameForTheSameSeedAndDoesNotCompress(t *testing.T) {
	t.Parallel()
	a, b := filetest.Noise(1, 1<<16), filetest.Noise(2, 1<<16)
	if bytes.Equal(a, b) || !bytes.Equal(a, filetest.Noise(1, 1<<16)) {
		t.Error("the seed does not decide")
	}
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, _ = w.Write(a)
	if _ = w.Close(); zipped.Len() < len(a) {
		t.Errorf("%d bytes became %d", len(a), zipped.Len())
	}
}
