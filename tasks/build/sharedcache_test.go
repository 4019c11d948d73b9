package build

// What green does not prove: that a stage's result is right on another machine;
// its key says that it was made from the same.

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/sign"
)

// baseOSResults is a build whose cache has results of the stage baseos by these
// inputs.
func baseOSResults(t *testing.T, inputs ...string) (*Build, stage) {
	t.Helper()
	b := testBuild(t)
	b.CacheLimit = defaultLimit
	s := stage{name: "baseos", cached: true, outputs: func(b *Build) []string { return []string{b.scratch("rootfs.tar"), b.scratch("list")} }}
	for _, in := range inputs {
		filetest.Write(t, b.scratch("rootfs.tar"), []byte("tree of "+in))
		filetest.Write(t, b.scratch("list"), []byte("list of "+in))
		if _, err := b.record(s, map[string]string{"a": in}, 0); err != nil {
			t.Fatal(err)
		}
		if err := b.cache().keep(b, s); err != nil {
			t.Fatal(err)
		}
		for _, file := range s.outputs(b) { // as stages do: a new file the next time
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}
	}
	return b, s
}

func exported(t *testing.T, b *Build) (archive, key string) {
	t.Helper()
	archive = filepath.Join(t.TempDir(), "cache")
	if err := ExportCache(t.Context(), b.Options, archive); err != nil {
		t.Fatal(err)
	}
	return archive, b.out("keys", sign.PublicName)
}

// imported imports into the build and returns what was said.
func imported(t *testing.T, b *Build, archive string, keys ...string) string {
	t.Helper()
	var said bytes.Buffer
	o := b.Options
	o.Stderr = &said
	if err := ImportCache(t.Context(), o, archive, keys); err != nil {
		t.Fatal(err)
	}
	return said.String()
}

func TestResultsOfOneMachineAreUsedOnAnother(t *testing.T) {
	from, s := baseOSResults(t, "1", "2")
	archive, key := exported(t, from)
	if text := string(filetest.Read(t, archive)); strings.Contains(text, from.OutDir) {
		t.Error("the archive tells where it was made")
	}
	to, _ := baseOSResults(t, "2")
	if said := imported(t, to, archive, key); !strings.Contains(said, "1 result added, 1 were there") {
		t.Error(said)
	}
	for _, in := range []string{"1", "2"} {
		if _, ok := to.cache().restore(to, s, map[string]string{"a": in}); !ok || readAll(t, to.scratch("rootfs.tar")) != "tree of "+in {
			t.Errorf("the result of %s is not used", in)
		}
	}
	if said := imported(t, to, archive, key); !strings.Contains(said, "0 results added, 2 were there") {
		t.Errorf("again: %s", said)
	}
}

func TestAnArchiveThatNobodyTrustedHasSignedIsLeftAlone(t *testing.T) {
	from, _ := baseOSResults(t, "1")
	archive, _ := exported(t, from)
	to, s := baseOSResults(t)
	if _, err := sign.GenerateKey(to.out("keys"), sign.Spec{Name: "own", Email: "own@site.invalid"}); err != nil {
		t.Fatal(err)
	}
	// Without -keys only this project's own key counts, and never the archive's.
	if said := imported(t, to, archive); !strings.Contains(said, "warning") || !strings.Contains(said, "nothing was imported") || !strings.Contains(said, string(fault.SharedCache)) {
		t.Error(said)
	}
	if _, ok := to.cache().restore(to, s, map[string]string{"a": "1"}); ok {
		t.Error("its result is used")
	}
	for name, change := range map[string]func([]byte) []byte{
		"empty":    func([]byte) []byte { return nil },
		"cut off":  func(d []byte) []byte { return d[:len(d)/2] },
		"garbage":  func(d []byte) []byte { return bytes.Repeat([]byte("x"), len(d)) },
		"one byte": func(d []byte) []byte { d[len(d)/2] ^= 1; return d },
	} {
		file := filetest.Write(t, filepath.Join(t.TempDir(), "cache"), change(filetest.Read(t, archive)))
		if said := imported(t, to, file, from.out("keys", sign.PublicName)); !strings.Contains(said, "warning") {
			t.Errorf("%s: %s", name, said)
		}
		left, _ := filepath.Glob(filepath.Join(to.CacheDir, "stages", "*", "*"))
		if len(left) > 0 {
			t.Errorf("%s: it left %q", name, left)
		}
	}
}

func TestADamagedResultIsNotExported(t *testing.T) {
	b, _ := baseOSResults(t, "1", "2")
	files, _ := filepath.Glob(filepath.Join(b.CacheDir, "stages", "baseos", "*", "0"))
	filetest.Write(t, files[0], []byte("another tree"))
	archive, key := exported(t, b)
	to, _ := baseOSResults(t)
	if said := imported(t, to, archive, key); !strings.Contains(said, "1 result added") {
		t.Error(said)
	}
}

func TestAnImportKeepsTheLimit(t *testing.T) {
	from, _ := baseOSResults(t, "1", "2", "3", "4", "5", "6")
	archive, key := exported(t, from)
	to, _ := baseOSResults(t)
	entries, err := from.cache().entries()
	if err != nil {
		t.Fatal(err)
	}
	to.CacheLimit = 3 * entries[0].size
	imported(t, to, archive, key)
	kept, err := to.cache().entries()
	if err != nil || len(kept) != 3 {
		t.Errorf("%d entries are kept, %v", len(kept), err)
	}
}

func TestWhatTheCacheKeepsHoldsNoSecret(t *testing.T) {
	// The keys lie beside the outputs of stages and are the output of none: what is
	// kept, and exported, is what a stage names.
	b := testBuild(t)
	for _, s := range stages() {
		for _, file := range s.outputs(b) {
			if s.cached && strings.HasPrefix(file, b.keysDir()) {
				t.Errorf("%s keeps %s", s.name, file)
			}
		}
	}
}

func TestExportAndImportWantToKnowWhat(t *testing.T) {
	b, _ := baseOSResults(t, "1")
	faulttest.Want(t, ExportCache(t.Context(), b.Options, ""), fault.Usage, "where to")
	faulttest.Want(t, ImportCache(t.Context(), b.Options, "", nil), fault.Usage, "from where")
	faulttest.Want(t, ImportCache(t.Context(), b.Options, "none", nil), fault.SigningKey, "public key")
	ci := b.Options
	ci.LookupEnv = func(name string) (string, bool) {
		if name == "CI" {
			return "true", true
		}
		return "", false
	}
	faulttest.Want(t, ExportCache(t.Context(), ci, filepath.Join(t.TempDir(), "x")), fault.SharedCache, "without a signature")
}
