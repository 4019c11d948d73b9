package build

// What green does not prove: the unit tests of this file run no tool; the
// pipeline test beside it builds twice on one machine with one mirror, so it
// says nothing of two machines with different kernels or file systems, and it
// interrupts at two chosen moments, not at every one.

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cc-base/tasks/conf"
	"cc-base/tasks/fault"
	"cc-base/tasks/filetest"
)

func repo(t *testing.T) string {
	t.Helper()
	dir, err := findRepo()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func testBuild(t *testing.T) *Build {
	t.Helper()
	out := t.TempDir()
	o := Options{
		Repo: repo(t), ConfigDir: filepath.Join(repo(t), "config"), Profile: "minimal",
		OutDir: out, CacheDir: filepath.Join(out, "cache"), Stderr: io.Discard,
		LookupEnv: func(string) (string, bool) { return "", false },
	}
	config, err := o.config()
	if err != nil {
		t.Fatal(err)
	}
	b, done, err := Open(o, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(done)
	return b
}

func TestEveryStageReadsOnlyStagesAboveItAndKeysThatExist(t *testing.T) {
	known := conf.Keys()
	var above []string
	for _, s := range stages() {
		for _, k := range s.keys {
			if !slices.Contains(known, k) {
				t.Errorf("%s: there is no key %s", s.name, k)
			}
		}
		for _, r := range s.reads {
			if !slices.Contains(above, r) {
				t.Errorf("%s reads %s, which is not above it", s.name, r)
			}
		}
		if len(s.reads) == 0 && s.name != "prepare" && s.name != "bootstrap" {
			t.Errorf("%s reads nothing", s.name)
		}
		if s.title == "" || s.run == nil || s.outputs == nil {
			t.Errorf("%s is not complete", s.name)
		}
		above = append(above, s.name)
	}
}

func TestTheProgramTextOfAStageIsPartOfItsKey(t *testing.T) {
	b := testBuild(t)
	seen := map[string]string{}
	for _, s := range stages() {
		digest, err := b.codeDigest("tasks/build", s.name)
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[digest]; ok {
			t.Errorf("%s and %s have the same program digest", s.name, other)
		}
		seen[digest] = s.name
	}
}

// writeBelow writes a file and makes its folder.
func writeBelow(t *testing.T, dir, name, text string) {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	filetest.Write(t, file, []byte(text))
}

func TestAStagesDigestCoversItsFilesAndNoOtherStages(t *testing.T) {
	b := &Build{Options: Options{Repo: t.TempDir()}}
	write := func(name, text string) { writeBelow(t, b.Repo, name, text) }
	digest := func() string {
		t.Helper()
		d, err := b.codeDigest("dir", "some")
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	write("go.sum", "")
	write("low/low.go", "package low\n")
	write("dir/stage_some.go", "package dir\n")
	for _, step := range []struct {
		file, text string
		changes    bool
	}{
		{"dir/stage_some_part.go", "package dir\nimport _ \"cc-base/low\"\n", true},
		{"low/low.go", "package low // changed\n", true},
		{"dir/stage_some_part_test.go", "package dir\n", false},
		{"dir/stage_somewhat.go", "package dir\n", false},
		{"dir/stage_other_some.go", "package dir\n", false},
		{"dir/state.go", "package dir\n", false},
	} {
		before := digest()
		write(step.file, step.text)
		if changed := digest() != before; changed != step.changes {
			t.Errorf("%s: the digest changes: %t", step.file, changed)
		}
	}
}

func TestAProgramDigestFollowsImports(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) { writeBelow(t, dir, name, text) }
	write("go.sum", "")
	write("top/top.go", "package top\nimport _ \"cc-base/mid\"\n")
	write("mid/mid.go", "package mid\nimport _ \"cc-base/low\"\n")
	write("low/low.go", "package low\n")
	write("low/low_test.go", "package low\n")
	write("aside/aside.go", "package aside\n")
	b := &Build{Options: Options{Repo: dir}}
	digest := func() string {
		t.Helper()
		d, err := b.programDigest("top")
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	first := digest()
	for _, step := range []struct {
		name, file string
		changes    bool
	}{
		{"a test file", "low/low_test.go", false},
		{"a package that is not imported", "aside/aside.go", false},
		{"a package imported by an imported one", "low/low.go", true},
		{"the versions of other modules", "go.sum", true},
	} {
		write(step.file, "package low // changed\n")
		now := digest()
		if (now != first) != step.changes {
			t.Errorf("%s: changed is %t, want %t", step.name, now != first, step.changes)
		}
		first = now
	}
}

func TestASecondBuildInOneFolderIsRefusedWithTheFirstOnesNumber(t *testing.T) {
	file := filepath.Join(t.TempDir(), ".lock")
	unlock, err := lock(file)
	if err != nil {
		t.Fatal(err)
	}
	_, err = lock(file)
	var f *fault.Error
	if !errors.As(err, &f) || f.Code != fault.Busy {
		t.Fatalf("the second lock: %v", err)
	}
	if want := strings.TrimSpace(readAll(t, file)); !strings.Contains(err.Error(), want) || want == "" {
		t.Errorf("%q does not name process %q", err, want)
	}
	unlock()
	again, err := lock(file)
	if err != nil {
		t.Fatalf("after the first has ended: %v", err)
	}
	again()
}

func readAll(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestAnOutputIsTrustedOnlyWhileItIsWhatWasRecorded(t *testing.T) {
	b := testBuild(t)
	file := b.out("thing")
	s := stage{name: "prepare", outputs: func(*Build) []string { return []string{file} }}
	in := map[string]string{"a": "1"}
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("content")
	if _, err := b.record(s, in, 0); err != nil {
		t.Fatal(err)
	}
	check := func(name string, want bool) {
		t.Helper()
		if _, got := b.fresh(s, in); got != want {
			t.Errorf("%s: fresh is %t, want %t", name, got, want)
		}
	}
	check("untouched", true)
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	put("cOntent")
	if err := os.Chtimes(file, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	check("one byte changed and the time set back", false)
	put("content")
	check("written again with the same content", true)
	if _, got := b.fresh(s, map[string]string{"a": "2"}); got {
		t.Error("another input: still fresh")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	check("removed", false)
}

func TestBadConfigurationWritesNothing(t *testing.T) {
	config, out := t.TempDir(), filepath.Join(t.TempDir(), "out")
	if err := os.CopyFS(config, os.DirFS(filepath.Join(repo(t), "config"))); err != nil {
		t.Fatal(err)
	}
	tee := filepath.Join(config, "tee.conf")
	if err := os.WriteFile(tee, []byte(readAll(t, tee)+"\nTEE_TIPE=\"tdx\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	err := Run(t.Context(), Options{Repo: repo(t), ConfigDir: config, OutDir: out, CacheDir: filepath.Join(out, "cache"), Stderr: io.Discard}, "sign")
	if fault.Exit(err) != fault.ExitUsage || !strings.Contains(err.Error(), "TEE_TIPE") {
		t.Fatalf("error %v, exit %d", err, fault.Exit(err))
	}
	if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the output folder was made: %v", err)
	}
}

func TestCleanKeepsKeysAndWithAllRemovesTheCache(t *testing.T) {
	out := t.TempDir()
	for _, f := range []string{"keys/image.key", "cache/tools/x", "scratch/base.tar", "state/prepare.json", "cc-base.qcow2", "nvidia-cc-installer.tar.gz.asc"} {
		path := filepath.Join(out, f)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o := Options{OutDir: out, CacheDir: filepath.Join(out, "cache"), Stderr: io.Discard}
	there := func(f string) bool {
		_, err := os.Stat(filepath.Join(out, f))
		return err == nil
	}
	if err := Clean(t.Context(), o, false); err != nil {
		t.Fatal(err)
	}
	if !there("keys/image.key") || !there("cache/tools/x") || there("scratch") || there("state") || there("cc-base.qcow2") || there("nvidia-cc-installer.tar.gz.asc") {
		t.Error("clean removed the wrong things")
	}
	if err := Clean(t.Context(), o, true); err != nil {
		t.Fatal(err)
	}
	if !there("keys/image.key") || there("cache") {
		t.Error("clean -all removed the wrong things")
	}
}
