package filetest

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"testing"
)

// Entry is one entry of a tar archive.
type Entry struct {
	tar.Header
	Data string // of a regular file
}

// WriteTar writes the entries to file, as they are but for their size, and
// returns its name.
func WriteTar(t testing.TB, file string, entries ...Entry) string {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for _, e := range entries {
		e.Size = int64(len(e.Data))
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.Data); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return file
}

// ReadTar returns all entries of file in their order.
func ReadTar(t testing.TB, file string) []Entry {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var entries []Entry
	EachInTar(t, f, func(h *tar.Header, content io.Reader) {
		data, err := io.ReadAll(content)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, Entry{*h, string(data)})
	})
	return entries
}

// EachInTar calls each for every entry of the archive, for one that is too
// large to hold.
func EachInTar(t testing.TB, archive io.Reader, each func(h *tar.Header, content io.Reader)) {
	t.Helper()
	for r := tar.NewReader(archive); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		each(h, r)
	}
}

// Gunzip returns what the compressed file holds, as a stream that is closed
// when the test ends.
func Gunzip(t testing.TB, file string) io.Reader {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	r, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
