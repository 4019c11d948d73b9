package undo

// What green does not prove: files of mapped users are not made here, because
// the tests may run as root, who has no mapping; `mmdebstrap --unshare-helper`
// is only shown to be called.

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cc-base/tasks/sh"
)

func journal(t *testing.T) Journal {
	t.Helper()
	t.Setenv("TMPDIR", t.TempDir())
	return Journal{File: filepath.Join(t.TempDir(), "undo.json")}
}

func there(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestOneFolderGoesAndTheOthersStay(t *testing.T) {
	j := journal(t)
	one, err := j.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	two, err := j.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Remove(t.Context(), sh.Host{}, one); err != nil {
		t.Fatal(err)
	}
	_, gone := os.Stat(one)
	_, stays := os.Stat(two)
	if left, err := j.read(); !os.IsNotExist(gone) || stays != nil || err != nil || !slices.Equal(left, []string{two}) {
		t.Errorf("%v, %v, the record has %q, %v", gone, stays, left, err)
	}
	if err := j.Remove(t.Context(), sh.Host{}, filepath.Join(t.TempDir(), "other")); err != nil {
		t.Error(err)
	}
}

func TestWhatAKilledBuildLeftIsRemovedByTheNext(t *testing.T) {
	j := journal(t)
	dir, err := j.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "mmdebstrap.x", "usr"), 0o755); err != nil {
		t.Fatal(err)
	}
	second, err := j.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	// A new process knows only the file.
	if err := (Journal{File: j.File}).Replay(t.Context(), &sh.Recorder{}); err != nil {
		t.Fatal(err)
	}
	if there(dir) || there(second) || there(j.File) {
		t.Errorf("still there: %t %t, record %t", there(dir), there(second), there(j.File))
	}
	if err := j.Replay(t.Context(), &sh.Recorder{}); err != nil {
		t.Errorf("with nothing to undo: %v", err)
	}
}

func TestTheRecordIsThereBeforeTheFolder(t *testing.T) {
	j := journal(t)
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "missing"))
	dir, err := j.TempDir()
	if err == nil {
		t.Fatal("a folder in a place that is not there")
	}
	data, rerr := os.ReadFile(j.File)
	if rerr != nil || !strings.Contains(string(data), dir) {
		t.Errorf("record %q (%v) without %s", data, rerr, dir)
	}
	if err := j.Replay(t.Context(), &sh.Recorder{}); err != nil || there(j.File) {
		t.Errorf("undoing what was never made: %v", err)
	}
}

func TestNothingOfAnotherNameIsEverRemoved(t *testing.T) {
	j := journal(t)
	precious := t.TempDir()
	for _, path := range []string{precious, "cc-base-tmp-relative", "/"} {
		if err := j.write([]string{path}); err != nil {
			t.Fatal(err)
		}
		if err := j.Replay(t.Context(), &sh.Recorder{}); err == nil {
			t.Errorf("%s: no error", path)
		}
		if !there(j.File) {
			t.Errorf("%s: it is gone from the record", path)
		}
	}
	if !there(precious) {
		t.Error("it was removed")
	}
}

func TestAFolderWithAMountIsLeftAlone(t *testing.T) {
	const info = "36 35 98:0 / / rw shared:1 - ext4 /dev/sda1 rw\n40 36 0:5 / /tmp/cc-base-tmp-1/mm\\040x/proc rw - proc proc rw\n"
	for path, want := range map[string]bool{
		"/tmp/cc-base-tmp-1": true, "/tmp/cc-base-tmp-1/mm x/proc": true, "/tmp/cc-base-tmp-1/mm x/proc/1": false, "/tmp/cc-base-tmp-10": false, "/tmp/cc-base-tmp": false,
	} {
		if got := mountedBelow(info, path); got != want {
			t.Errorf("%s: %t, want %t", path, got, want)
		}
	}
}
