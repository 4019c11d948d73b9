package history

// What green does not prove: the runs of these tests are made up. Whether a
// median of former runs tells the next one well is seen after each build, which
// says how far off it was.

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func file(t *testing.T) string { return filepath.Join(t.TempDir(), "cache", "history.json") }

func add(t *testing.T, file string, runs ...Run) {
	t.Helper()
	for _, r := range runs {
		if err := Add(file, r); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheExpectationIsTheMedianOfTheSameStageAndProfile(t *testing.T) {
	f := file(t)
	add(t, f,
		Run{"tee", "minimal", 20, 100}, Run{"tee", "minimal", 500, 120}, Run{"tee", "minimal", 22, 110},
		Run{"tee", "", 60, 900}, Run{"apps", "", 4, 10}, Run{"apps", "", 8, 30},
	)
	h := Load(f)
	for _, c := range []struct {
		stage, profile string
		want           Expectation
	}{
		{"tee", "minimal", Expectation{3, 22, 110}}, // one slow run changes nothing
		{"tee", "", Expectation{1, 60, 900}},
		{"apps", "", Expectation{2, 6, 20}},        // between the two in the middle
		{"apps", "minimal", Expectation{2, 6, 20}}, // no run in this profile: those of any
		{"sign", "", Expectation{}},
	} {
		if got := h.Expect(c.stage, c.profile); got != c.want {
			t.Errorf("%s in profile %q: %+v, want %+v", c.stage, c.profile, got, c.want)
		}
	}
}

func TestOnlyTheLastRunsOfEachStageAreKept(t *testing.T) {
	f := file(t)
	add(t, f, Run{Stage: "apps", Seconds: 1})
	for i := range Keep + 5 {
		add(t, f, Run{Stage: "tee", Seconds: float64(i)})
	}
	h := Load(f)
	if got := h.Expect("tee", ""); got.Runs != Keep || got.Seconds != 5+(Keep-1)/2 {
		t.Errorf("%+v: want the last %d", got, Keep)
	}
	if got := h.Expect("apps", ""); got.Runs != 1 {
		t.Errorf("another stage's run is gone: %+v", got)
	}
}

func TestADamagedFileIsAnEmptyOneAndIsMadeAnew(t *testing.T) {
	for _, damage := range []string{"", "[{", `{"stage": 1}`, `[{"stage":"tee","seconds":"x"}]`} {
		f := file(t)
		add(t, f, Run{Stage: "tee", Seconds: 1})
		if err := os.WriteFile(f, []byte(damage), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := Load(f).Expect("tee", ""); got != (Expectation{}) {
			t.Errorf("%q: %+v", damage, got)
		}
		add(t, f, Run{Stage: "tee", Seconds: 7})
		if got := Load(f).Expect("tee", ""); got.Seconds != 7 {
			t.Errorf("%q, then a run of 7 s: %+v", damage, got)
		}
	}
}

func TestBuildsThatShareTheFileLoseNoRun(t *testing.T) {
	f := file(t)
	var all sync.WaitGroup
	for i := range Keep {
		all.Go(func() {
			if err := Add(f, Run{Stage: "tee", Seconds: float64(i)}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := Load(f).Expect("tee", ""); got.Runs != Keep {
		t.Errorf("%d of %d runs are there", got.Runs, Keep)
	}
}

func TestAFolderThatCannotBeWrittenToIsAnError(t *testing.T) {
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Add(filepath.Join(blocked, "history.json"), Run{Stage: "tee"}); err == nil {
		t.Error("no error")
	}
}
