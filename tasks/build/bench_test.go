package build_test

// What green does not prove: any figure. They are for README, measured on a
// machine that does nothing else.

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cc-base/tasks/bench"
	"cc-base/tasks/filetest"
	"cc-base/tasks/lab"
)

// measured runs the target and returns what it kept.
func measured(t *testing.T, name string, args ...string) bench.Table {
	t.Helper()
	if !lab.Long() {
		t.Skip("only in the long mode: it builds several times")
	}
	_ = lab.Built(t) // and so the tools tree
	out := t.TempDir()
	cmd := exec.Command("go", append([]string{"tool", "mage", "bench:" + name}, args...)...)
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CC_PROFILE=minimal", "CC_OUT_DIR="+out)
	text, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	t.Logf("%s", text)
	var table bench.Table
	if err := json.Unmarshal(filetest.Read(t, filepath.Join(out, "log", "bench-"+name+".json")), &table); err != nil {
		t.Fatal(err)
	}
	for _, f := range table {
		if least, _, _ := f.Wall(); least <= 0 || !strings.Contains(string(text), "| "+f.Name+" |") {
			t.Errorf("%s took %v, or is not in the table", f.Name, least)
		}
	}
	if _, err := os.Stat(filepath.Join(out, "scratch", "bench")); !os.IsNotExist(err) {
		t.Error("the copy of the checkout is left behind")
	}
	return table
}

func TestABuildIsMeasuredBesideMkosi(t *testing.T) {
	if os.Geteuid() != 0 {
		lab.Absent(t, "mkosi is measured as root")
	}
	table := measured(t, "build", "-rounds=1")
	if len(table) != 5 || len(table[0].Samples) != 1 {
		t.Errorf("%+v", table)
	}
}

func TestBuildsOfLargeImagesAreMeasured(t *testing.T) {
	if table := measured(t, "scaling", "-mib=64,256"); len(table) != 2 {
		t.Errorf("%+v", table)
	}
}

// BenchmarkBuild is for those who change the engine: `go test -bench Build -run '^$'
// -benchtime 3x ./tasks/build`, with the environment that `mage test` sets. Beside
// others' builds, `mage bench:build` measures.
func BenchmarkBuild(b *testing.B) {
	built := lab.Built(b)
	run := func(b *testing.B, out, cache string) {
		cmd := exec.Command("go", "tool", "mage", "build")
		cmd.Dir = "../.."
		cmd.Env = append(os.Environ(), "CI=", "CC_PROFILE=minimal", "CC_OUT_DIR="+out, "CC_CACHE_DIR="+cache)
		if text, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, text)
		}
	}
	b.Run("nothing changed", func(b *testing.B) {
		for b.Loop() {
			run(b, built.Out, os.Getenv("CC_CACHE_DIR"))
		}
	})
	b.Run("from packages", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			out := b.TempDir()
			cache := filepath.Join(out, "cache")
			if err := os.Mkdir(cache, 0o755); err != nil {
				b.Fatal(err)
			}
			if err := os.Symlink(filepath.Join(os.Getenv("CC_CACHE_DIR"), "tools"), filepath.Join(cache, "tools")); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			run(b, out, cache)
		}
	})
}
