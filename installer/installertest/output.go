package installertest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"cc-base/tasks/digest"
	"cc-base/tasks/filetest"
)

// Pack makes the tarball of an installer folder, with further members.
func Pack(t testing.TB, folder, file string, more ...tar.Header) {
	t.Helper()
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.NoCompression)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	err = filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		h, err := tar.FileInfoHeader(info, "")
		if err != nil {
			return err
		}
		if h.Name, err = filepath.Rel(filepath.Dir(folder), path); err != nil {
			return err
		}
		if err := w.WriteHeader(h); err != nil || e.IsDir() {
			return err
		}
		_, err = w.Write(filetest.Read(t, path))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range more {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	filetest.Write(t, file, b.Bytes())
}

// Output writes what a build leaves in its output folder: the packed installer
// with its checksum, and the files that are beside it. It returns the folder.
func (f *Folder) Output(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	folder, out := filepath.Join(dir, "installer"), filepath.Join(dir, "out")
	for _, d := range []string{folder, out} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Write(folder); err != nil {
		t.Fatal(err)
	}
	const name = "nvidia-cc-installer.tar.gz"
	file := filepath.Join(out, name)
	Pack(t, folder, file)
	filetest.Write(t, file+".sha256", []byte(digest.Bytes(filetest.Read(t, file))+"  "+name+"\n"))
	for _, name := range []string{"cc-base.qcow2", "cc-base.efi", "manifest.json", "measurements.json", "rvps.json"} {
		filetest.Write(t, filepath.Join(out, name), filetest.Read(t, filepath.Join(folder, name)))
	}
	return out
}
