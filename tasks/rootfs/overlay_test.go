package rootfs

import (
	"archive/tar"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/fault"
)

// overlay writes an overlay folder with a few entries and the given modes.
func overlay(t *testing.T, modes string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "base")
	putFile(t, filepath.Join(dir, "tree/etc/plain"), "text", 0o600)
	putFile(t, filepath.Join(dir, "tree/usr/bin/tool"), "#!/bin/sh\n", 0o700)
	putFile(t, filepath.Join(dir, "tree/usr/bin/group-only"), "", 0o674)
	if err := os.Symlink("../bin/tool", filepath.Join(dir, "tree/usr/link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/nowhere", filepath.Join(dir, "tree/etc/dangling")); err != nil {
		t.Fatal(err)
	}
	putFile(t, filepath.Join(dir, "modes"), modes, 0o644)
	putFile(t, filepath.Join(dir, "OVERLAY.md"), "not in the image", 0o644)
	return dir
}

func TestOwnersAndModesComeFromTheOverlayAndNotTheCheckout(t *testing.T) {
	t.Parallel()
	dir := overlay(t, `# a comment
0755 0:0 /var/lib/example/
0440 0:42 /etc/plain # another

4755	7:8	/usr/bin/tool
0700 1:1 /usr/bin
0777 5:5 /usr/link
1777 0:0 /etc/
`)
	got, err := ReadOverlay(dir)
	if err != nil {
		t.Fatal(err)
	}
	in := func(p string) string { return filepath.Join(dir, "tree", p) }
	want := Layer{Name: "overlays/base", Entries: []Entry{
		{Path: "/etc", Type: tar.TypeDir, Mode: 0o1777},
		{Path: "/etc/dangling", Type: tar.TypeSymlink, Mode: 0o777, Target: "/nowhere"},
		{Path: "/etc/plain", Type: tar.TypeReg, Mode: 0o440, GID: 42, Source: in("etc/plain")},
		{Path: "/usr", Type: tar.TypeDir, Mode: 0o755},
		{Path: "/usr/bin", Type: tar.TypeDir, Mode: 0o700, UID: 1, GID: 1},
		{Path: "/usr/bin/group-only", Type: tar.TypeReg, Mode: 0o644, Source: in("usr/bin/group-only")},
		{Path: "/usr/bin/tool", Type: tar.TypeReg, Mode: 0o4755, UID: 7, GID: 8, Source: in("usr/bin/tool")},
		{Path: "/usr/link", Type: tar.TypeSymlink, Mode: 0o777, UID: 5, GID: 5, Target: "../bin/tool"},
		{Path: "/var/lib/example", Type: tar.TypeDir, Mode: 0o755},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAnOverlayWithoutModesIsRoots(t *testing.T) {
	t.Parallel()
	dir := overlay(t, "")
	if err := os.Remove(filepath.Join(dir, "modes")); err != nil {
		t.Fatal(err)
	}
	got, err := ReadOverlay(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Entries) != 8 {
		t.Errorf("%d entries: %+v", len(got.Entries), got.Entries)
	}
	for _, e := range got.Entries {
		if e.UID != 0 || e.GID != 0 {
			t.Errorf("%s belongs to %d:%d", e.Path, e.UID, e.GID)
		}
	}
}

func TestBadLinesOfModesAreNamedAllAtOnce(t *testing.T) {
	t.Parallel()
	const hint = "\nhint: a line is: MODE UID:GID PATH, as in 0440 0:42 /etc/example"
	tests := []struct {
		name, modes, want string // FILE stands for the path of modes
		hint              bool
	}{
		{"a path that is not there", "0644 0:0 /etc/other", "FILE:1: /etc/other: no such file in the overlay", false},
		{"a slash behind a file", "0755 0:0 /etc/plain/", "FILE:1: /etc/plain: the overlay has a file of this name", false},
		{"a slash behind a symlink", "0755 0:0 /usr/link/", "FILE:1: /usr/link: the overlay has a file of this name", false},
		{"a path declared twice", "0644 0:0 /etc/plain\n0600 0:0 /etc/plain", "FILE:2: /etc/plain: declared twice", true},
		{"a directory declared twice, with and without slash", "0755 0:0 /usr/bin/\n0700 0:0 /usr/bin", "FILE:2: /usr/bin: declared twice", true},
		{"too few fields", "0644 /etc/plain", "FILE:1: 2 fields where 3 are expected", true},
		{"a path with a space", "0644 0:0 /etc/pl ain", "FILE:1: 4 fields where 3 are expected", true},
		{"a mode with an 8", "0684 0:0 /etc/plain", `FILE:1: mode "0684" is not an octal number up to 7777`, true},
		{"a mode of five digits", "17777 0:0 /etc/plain", `FILE:1: mode "17777" is not an octal number up to 7777`, true},
		{"a mode with a sign", "+644 0:0 /etc/plain", `FILE:1: mode "+644" is not an octal number up to 7777`, true},
		{"an owner by name", "0644 root:root /etc/plain", `FILE:1: owner "root:root" is not UID:GID`, true},
		{"an owner without a group", "0644 0 /etc/plain", `FILE:1: owner "0" is not UID:GID`, true},
		{"a negative owner", "0644 -1:0 /etc/plain", `FILE:1: owner "-1:0" is not UID:GID`, true},
		{"an owner beyond 31 bits", "0644 2147483648:0 /etc/plain", `FILE:1: owner "2147483648:0" is not UID:GID`, true},
		{"a relative path", "0644 0:0 etc/plain", `FILE:1: path "etc/plain" is not clean and absolute`, true},
		{"a path upwards", "0644 0:0 /etc/../plain", `FILE:1: path "/etc/../plain" is not clean and absolute`, true},
		{"two slashes at the end", "0755 0:0 /etc//", `FILE:1: path "/etc//" is not clean and absolute`, true},
		{"the root", "0755 0:0 /", `FILE:1: path "/" is not clean and absolute`, true},
		{"several", "0644 0:0 /etc/b\n0644 0:0 /etc/a\n# fine\nbad\n0644 0:0 /etc/plain\n0644 x:0 /etc/plain",
			"FILE:1: /etc/b: no such file in the overlay\nFILE:2: /etc/a: no such file in the overlay\nFILE:4: 1 fields where 3 are expected\nFILE:6: owner \"x:0\" is not UID:GID", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := overlay(t, tt.modes)
			got, err := ReadOverlay(dir)
			if err == nil {
				t.Fatal("no error")
			}
			text := strings.ReplaceAll(err.Error(), filepath.Join(dir, "modes"), "FILE")
			if diff := cmp.Diff(tt.want, text); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if f := fault.Of(err); f == nil || f.Code != fault.Overlay || strings.Contains(fault.Render(err), hint) != tt.hint {
				t.Errorf("rendered as %s", fault.Render(err))
			}
			if diff := cmp.Diff(Layer{}, got); diff != "" {
				t.Errorf("a broken overlay is returned: %s", diff)
			}
		})
	}
}

func TestWhatCannotBeOverlaidIsNamed(t *testing.T) {
	t.Parallel()
	dir := overlay(t, "nonsense\n")
	for _, name := range []string{"pipe-a", "pipe-b"} {
		if err := syscall.Mkfifo(filepath.Join(dir, "tree", name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	_, err := ReadOverlay(dir)
	if err == nil {
		t.Fatal("no error")
	}
	want := "DIR/tree/pipe-a: only files, directories and symlinks can be overlaid\n" +
		"DIR/tree/pipe-b: only files, directories and symlinks can be overlaid\n" +
		"DIR/modes:1: 1 fields where 3 are expected"
	if diff := cmp.Diff(want, strings.ReplaceAll(err.Error(), dir, "DIR")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAnOverlayThatCannotBeReadIsAnError(t *testing.T) {
	t.Parallel()
	if _, err := ReadOverlay(filepath.Join(t.TempDir(), "none")); fault.Exit(err) != fault.ExitUsage || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a folder that is not there: %v", err)
	}
	dir := overlay(t, "0644 0:0 /etc/plain "+strings.Repeat("#", 1<<20)+"\n")
	if _, err := ReadOverlay(dir); err == nil || !strings.Contains(err.Error(), "modes: bufio.Scanner: token too long") {
		t.Errorf("a line beyond all reason: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "modes")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "modes"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadOverlay(dir); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("a folder where modes should be: %v", err)
	}
}
