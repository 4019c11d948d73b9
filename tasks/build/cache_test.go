package build

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"cc-base/tasks/atomicfile"
)

// cachedStage is a stage with two outputs for tests of the cache.
func cachedStage(b *Build) stage {
	return stage{name: "prepare", cached: true, outputs: func(*Build) []string {
		return []string{b.scratch("one"), b.scratch("two")}
	}}
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// keepOne finishes the stage with the texts and keeps it for the inputs.
func keepOne(t *testing.T, b *Build, in map[string]string, one, two string) stage {
	t.Helper()
	s := cachedStage(b)
	// As stages do: a new file, never the old one written over.
	for path, text := range map[string]string{b.scratch("one"): one, b.scratch("two"): two} {
		if err := atomicfile.Write(path, 0o644, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.record(s, in, time.Second); err != nil {
		t.Fatal(err)
	}
	if err := b.cache().keep(b, s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestGoingBackToFormerInputsTakesTheResultFromTheCache(t *testing.T) {
	b := testBuild(t)
	b.CacheLimit = defaultLimit
	first, second := map[string]string{"a": "1"}, map[string]string{"a": "2"}
	keepOne(t, b, first, "one", "two")
	s := keepOne(t, b, second, "ONE", "TWO")
	if _, fresh := b.fresh(s, second); !fresh {
		t.Error("keeping a result has made it look changed")
	}
	r, ok := b.cache().restore(b, s, first)
	if !ok || readAll(t, b.scratch("one")) != "one" || readAll(t, b.scratch("two")) != "two" {
		t.Errorf("restored: %t, %q and %q", ok, readAll(t, b.scratch("one")), readAll(t, b.scratch("two")))
	}
	if r.took() != time.Second {
		t.Errorf("it took %s", r.took())
	}
	if _, ok := b.cache().restore(b, s, map[string]string{"a": "3"}); ok {
		t.Error("a result for inputs that were never built")
	}
}

func TestADamagedCacheEntryIsDroppedAndNotUsed(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, dir string){
		"a flipped byte": func(t *testing.T, dir string) { put(t, filepath.Join(dir, "1"), "twO") },
		"a missing file": func(t *testing.T, dir string) { _ = os.Remove(filepath.Join(dir, "0")) },
		"half a record":  func(t *testing.T, dir string) { put(t, filepath.Join(dir, "record.json"), "{") },
		"another record": func(t *testing.T, dir string) { put(t, filepath.Join(dir, "record.json"), `{"key":"x"}`) },
	} {
		t.Run(name, func(t *testing.T) {
			b := testBuild(t)
			b.CacheLimit = defaultLimit
			in := map[string]string{"a": "1"}
			s := keepOne(t, b, in, "one", "two")
			dir := b.cache().entry(s.name, key(in))
			damage(t, dir)
			if _, ok := b.cache().restore(b, s, in); ok {
				t.Error("it was used")
			}
			if exists(dir) {
				t.Error("it is still there")
			}
		})
	}
}

// The files are hard links: a byte changed in the output folder is changed in
// the cache, too, and must be found there.
func TestAByteFlippedInTheOutputFolderIsFoundInTheCacheToo(t *testing.T) {
	b := testBuild(t)
	b.CacheLimit = defaultLimit
	in := map[string]string{"a": "1"}
	s := keepOne(t, b, in, "one", "two")
	put(t, b.scratch("one"), "0ne")
	if _, fresh := b.fresh(s, in); fresh {
		t.Error("the output folder's copy is trusted")
	}
	if _, ok := b.cache().restore(b, s, in); ok {
		t.Error("the cache's copy is trusted")
	}
}

func TestThePrunedEntriesAreThoseUsedLongestAgo(t *testing.T) {
	b := testBuild(t)
	b.CacheLimit = defaultLimit
	var dirs []string
	for i, name := range []string{"1", "2", "3"} {
		in := map[string]string{"a": name}
		s := keepOne(t, b, in, string(make([]byte, 1000)), name)
		dir := b.cache().entry(s.name, key(in))
		when := time.Now().Add(time.Duration(i-10) * time.Hour)
		if err := os.Chtimes(filepath.Join(dir, "record.json"), when, when); err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, dir)
	}
	// Using the oldest makes it the newest.
	if _, ok := b.cache().restore(b, cachedStage(b), map[string]string{"a": "1"}); !ok {
		t.Fatal("it is not there")
	}
	old := filepath.Join(b.cache().dir, "prepare", "part-killed")
	if err := os.Mkdir(old, 0o755); err != nil {
		t.Fatal(err)
	}
	when := time.Now().Add(-2 * abandoned)
	if err := os.Chtimes(old, when, when); err != nil {
		t.Fatal(err)
	}
	b.CacheLimit = 4000 // room for two, with their records
	if _, err := b.cache().prune(); err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{true, false, true} {
		if got := exists(dirs[i]); got != want {
			t.Errorf("entry %d: there is %t, want %t", i+1, got, want)
		}
	}
	if exists(old) {
		t.Error("what a killed build left is still there")
	}
}

func TestTheCacheLimitIsReadWithItsUnit(t *testing.T) {
	for text, want := range map[string]int64{"": defaultLimit, "0": 0, "512": 512, "3K": 3 << 10, "20G": 20 << 30, "1T": 1 << 40} {
		if got, err := parseLimit(text); err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"G", "-1", "1.5G", "10GB", "9999999999T", "lots"} {
		if n, err := parseLimit(text); err == nil {
			t.Errorf("%q is accepted as %d", text, n)
		}
	}
}
