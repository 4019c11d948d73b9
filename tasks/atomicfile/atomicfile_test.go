package atomicfile_test

// What green does not prove: no power is cut here. That fsync comes before the
// name is shown by making it fail; that the medium then keeps its word, and that
// the folder's own fsync is of use, is the file system's promise.

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/filetest"
)

// writers are the functions that replace a file.
func writers() map[string]func(path string, data []byte) error {
	return map[string]func(string, []byte) error{
		"Write": func(path string, data []byte) error { return atomicfile.Write(path, 0o640, data) },
		"Fill": func(path string, data []byte) error {
			return atomicfile.Fill(path, 0o640, func(w io.Writer) error { _, err := w.Write(data); return err })
		},
		"WritePart and Publish": func(path string, data []byte) error {
			part := path + atomicfile.Extension
			err := atomicfile.WritePart(part, 0o640, func(w io.Writer) error { _, err := w.Write(data); return err })
			if err != nil {
				return err
			}
			return atomicfile.Publish(part, path)
		},
	}
}

func TestAFileIsWrittenWholeWithItsModeAndNothingBesides(t *testing.T) {
	t.Parallel()
	for name, write := range writers() {
		dir := t.TempDir()
		path := filepath.Join(dir, "file")
		for _, text := range []string{"first", "", "the third, longer"} {
			if err := write(path, []byte(text)); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if got := string(filetest.Read(t, path)); got != text {
				t.Errorf("%s: got %q, want %q", name, got, text)
			}
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o640 {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
		filetest.Only(t, dir, "file")
	}
}

func TestTheOldFileStaysUntilTheNewOneIsWhole(t *testing.T) {
	t.Parallel()
	path := filetest.Write(t, filepath.Join(t.TempDir(), "file"), []byte("old"))
	err := atomicfile.Fill(path, 0o644, func(w io.Writer) error {
		if _, err := io.WriteString(w, "new"); err != nil {
			return err
		}
		if got := string(filetest.Read(t, path)); got != "old" {
			t.Errorf("half-way the file holds %q", got)
		}
		return nil
	})
	if got := string(filetest.Read(t, path)); err != nil || got != "new" {
		t.Errorf("at the end it holds %q, %v", got, err)
	}
}

func TestOnErrorTheOldFileStaysAndNothingIsLeft(t *testing.T) {
	t.Parallel()
	broken := errors.New("it broke")
	tests := map[string]struct {
		fill func(io.Writer) error
		want error
	}{
		"the content fails half-way": {func(w io.Writer) error {
			_, err := io.WriteString(w, "half")
			return errors.Join(err, broken)
		}, broken},
		// A closed file cannot be forced to the medium: were that not tried, or
		// only after the rename, there would be a new file.
		"fsync fails": {func(w io.Writer) error {
			_, err := io.WriteString(w, "whole")
			return errors.Join(err, w.(io.Closer).Close())
		}, os.ErrClosed},
	}
	for name, tt := range tests {
		dir := t.TempDir()
		path := filetest.Write(t, filepath.Join(dir, "file"), []byte("old"))
		if err := atomicfile.Fill(path, 0o644, tt.fill); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
		if err := atomicfile.WritePart(filepath.Join(dir, "other.part"), 0o644, tt.fill); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
		if got := string(filetest.Read(t, path)); got != "old" {
			t.Errorf("%s: the file holds %q", name, got)
		}
		filetest.Only(t, dir, "file")
	}
}

func TestARenameThatFailsLeavesNoPart(t *testing.T) {
	t.Parallel()
	for name, write := range writers() {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "file", "in the way"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := write(filepath.Join(dir, "file"), []byte("new")); err == nil {
			t.Errorf("%s: a folder was replaced", name)
		}
		filetest.Only(t, dir, "file")
		if err := write(filepath.Join(dir, "missing", "file"), nil); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: got %v for a folder that is not there", name, err)
		}
	}
}

func TestNothingIsWrittenThroughALink(t *testing.T) {
	t.Parallel()
	for name, write := range writers() {
		dir, outside := t.TempDir(), t.TempDir()
		path := filepath.Join(dir, "file")
		victim := filetest.Write(t, filepath.Join(outside, "victim"), []byte("victim"))
		for link, target := range map[string]string{path: victim, path + ".part": filepath.Join(outside, "new")} {
			if err := os.Symlink(target, link); err != nil {
				t.Fatal(err)
			}
		}
		if err := write(path, []byte("text")); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := string(filetest.Read(t, victim)); got != "victim" {
			t.Errorf("%s: the link's target holds %q", name, got)
		}
		filetest.Only(t, outside, "victim")
		if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
			t.Errorf("%s: the file is %v, %v", name, info.Mode(), err)
		}
		filetest.Only(t, dir, "file")
	}
}

func TestAPartThatAKilledBuildLeftDoesNotShowThrough(t *testing.T) {
	t.Parallel()
	for name, write := range writers() {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path+".part", []byte("a long rest of something"), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := write(path, []byte("new")); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		info, err := os.Stat(path)
		if got := string(filetest.Read(t, path)); got != "new" || err != nil || info.Mode() != 0o640 {
			t.Errorf("%s: got %q, mode %v, %v", name, got, info.Mode(), err)
		}
	}
}

func TestWhatCannotReachTheMediumIsNotPublished(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filetest.Write(t, filepath.Join(dir, "file"), []byte("old"))
	if err := os.Symlink("/dev/null", path+".part"); err != nil { // fsync of it is EINVAL
		t.Fatal(err)
	}
	if err := atomicfile.Publish(path+".part", path); err == nil {
		t.Error("published")
	}
	if err := atomicfile.Publish(filepath.Join(dir, "none"), path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v for a part that is not there", err)
	}
	if got := string(filetest.Read(t, path)); got != "old" {
		t.Errorf("the file holds %q", got)
	}
}

func TestANewFileIsNeverWrittenOverAnother(t *testing.T) {
	t.Parallel()
	dir, outside := t.TempDir(), t.TempDir()
	path := filepath.Join(dir, "key")
	if err := atomicfile.CreateNew(path, 0o600, []byte("secret")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.Symlink(filepath.Join(outside, "elsewhere"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, taken := range []string{path, filepath.Join(dir, "link")} {
		if err := atomicfile.CreateNew(taken, 0o600, []byte("other")); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: got %v, want %v", filepath.Base(taken), err, fs.ErrExist)
		}
	}
	if got := string(filetest.Read(t, path)); got != "secret" {
		t.Errorf("it holds %q", got)
	}
	if err := atomicfile.CreateNew(filepath.Join(dir, "none", "key"), 0o600, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v for a folder that is not there", err)
	}
	filetest.Only(t, dir, "key", "link")
	filetest.Only(t, outside)
}

func TestOfManyAtOnceOneMakesTheNewFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const n = 8
	made := make(chan string, n)
	for i := range n {
		go func() {
			text := strings.Repeat(string(rune('a'+i)), 5000)
			if err := atomicfile.CreateNew(filepath.Join(dir, "key"), 0o600, []byte(text)); err != nil {
				text = ""
			}
			made <- text
		}()
	}
	winners := ""
	for range n {
		winners += <-made
	}
	if got := string(filetest.Read(t, filepath.Join(dir, "key"))); got != winners || len(got) != 5000 {
		t.Errorf("%d bytes are there, those who made it wrote %d", len(got), len(winners))
	}
	filetest.Only(t, dir, "key")
}

func TestRemoveAndSyncDirSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filetest.Write(t, filepath.Join(dir, "file"), nil)
	for range 2 { // the second time it is not there
		if err := atomicfile.Remove(file); err != nil {
			t.Error(err)
		}
	}
	filetest.Write(t, file, nil)
	if err := atomicfile.Remove(dir); err == nil {
		t.Error("a folder with a file in it was removed")
	}
	if err := atomicfile.SyncDir(dir); err != nil {
		t.Error(err)
	}
	if err := atomicfile.SyncDir(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v for a folder that is not there", err)
	}
}
