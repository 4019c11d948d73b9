package toolbox_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/filetest"
	"cc-base/tasks/sh"
	"cc-base/tasks/toolbox"
)

// archive writes a small tree as a tar, as mmdebstrap names its entries.
func archive(t *testing.T, dir string) string {
	t.Helper()
	return filetest.WriteTar(t, filepath.Join(dir, "tree.tar"), []filetest.Entry{
		{Header: tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}},
		{Header: tar.Header{Name: "./dev/", Typeflag: tar.TypeDir, Mode: 0o755}},
		{Header: tar.Header{Name: "./dev/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}},
		{Header: tar.Header{Name: "./dev/pts/", Typeflag: tar.TypeDir, Mode: 0o755}},
		{Header: tar.Header{Name: "./etc/", Typeflag: tar.TypeDir, Mode: 0o755}},
		{Header: tar.Header{Name: "./etc/shadow", Typeflag: tar.TypeReg, Mode: 0o640, Uid: 12345, Gid: 42}, Data: "data"},
		{Header: tar.Header{Name: "./usr/", Typeflag: tar.TypeDir, Mode: 0o555, Uid: 12345}},
		{Header: tar.Header{Name: "./usr/lib/dev/", Typeflag: tar.TypeDir, Mode: 0o755}},
		{Header: tar.Header{Name: "./usr/lib/dev/module", Typeflag: tar.TypeReg, Mode: 0o755}, Data: "data"},
		{Header: tar.Header{Name: "./usr/lib/link", Typeflag: tar.TypeSymlink, Linkname: "/etc/shadow"}},
		{Header: tar.Header{Name: "./usr/lib/same", Typeflag: tar.TypeLink, Linkname: "./usr/lib/dev/module"}},
	}...)
}

func listing(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || file == dir {
			return err
		}
		rel, err := filepath.Rel(dir, file)
		out = append(out, rel)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

func TestUnpackReplacesTheWholeTree(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, tree := archive(t, dir), filepath.Join(dir, "a b", "tree")
	for _, stale := range []string{tree, tree + ".part"} {
		if err := os.MkdirAll(filepath.Join(stale, "stale", "folder"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(stale, "stale"), 0o555); err != nil {
			t.Fatal(err)
		}
	}
	if err := toolbox.Unpack(t.Context(), sh.Host{}, file, tree); err != nil {
		t.Fatal(err)
	}
	want := []string{"dev", "etc", "etc/shadow", "proc", "run", "sys", "tmp", "usr", "usr/lib", "usr/lib/dev", "usr/lib/dev/module", "usr/lib/link", "usr/lib/same"}
	if diff := cmp.Diff(want, listing(t, tree)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"tree"}, filetest.Names(t, filepath.Dir(tree))); diff != "" {
		t.Errorf("beside the tree (-want +got):\n%s", diff)
	}
	if info, err := os.Stat(filepath.Join(tree, "usr")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("a folder that its owner may not write: %v, %v", info.Mode(), err)
	}
	info, err := os.Stat(filepath.Join(tree, "etc/shadow"))
	if err != nil {
		t.Fatal(err)
	}
	if owner := info.Sys().(*syscall.Stat_t); int(owner.Uid) != os.Geteuid() {
		t.Errorf("a file belongs to %d, want the caller", owner.Uid)
	}
}

func TestAFailedUnpackLeavesTheOldTree(t *testing.T) {
	t.Parallel()
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	tests := []struct {
		name   string
		ctx    context.Context
		want   string
		damage func(t *testing.T, file string)
	}{
		{"an archive cut off within a file", t.Context(), "not a whole tar archive", func(t *testing.T, file string) {
			if err := os.Truncate(file, 2000); err != nil {
				t.Fatal(err)
			}
		}},
		{"an archive cut off between two files", t.Context(), "not a whole tar archive", func(t *testing.T, file string) {
			if err := os.Truncate(file, 2048); err != nil {
				t.Fatal(err)
			}
		}},
		{"no archive", t.Context(), "no such file", func(t *testing.T, file string) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}},
		{"a short file", t.Context(), "not a whole tar archive", func(t *testing.T, file string) {
			if err := os.WriteFile(file, []byte("text"), 0o644); err != nil {
				t.Fatal(err)
			}
		}},
		{"an archive that tar cannot read", t.Context(), "tar: exit status 2", func(t *testing.T, file string) {
			if err := os.WriteFile(file, append(bytes.Repeat([]byte("text"), 512), make([]byte, 1024)...), 0o644); err != nil {
				t.Fatal(err)
			}
		}},
		{"a cancel", canceled, "tar: context canceled", func(*testing.T, string) {}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir, out := t.TempDir(), t.TempDir()
			file, tree := archive(t, dir), filepath.Join(out, "tree")
			if err := os.MkdirAll(filepath.Join(tree, "old"), 0o755); err != nil {
				t.Fatal(err)
			}
			tt.damage(t, file)
			err := toolbox.Unpack(tt.ctx, sh.Host{}, file, tree)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if diff := cmp.Diff([]string{"tree", "tree/old"}, listing(t, out)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
