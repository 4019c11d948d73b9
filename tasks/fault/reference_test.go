package fault

import (
	"os"
	"strings"
	"testing"

	"cc-base/tasks/golden"

	"github.com/google/go-cmp/cmp"
)

func TestReferenceIsWhatTheTableSays(t *testing.T) {
	const file = "../../docs/errors.md"
	if golden.Updating() {
		if err := os.WriteFile(file, Reference(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(Reference()), string(got)); diff != "" {
		t.Errorf("%s differs from the table; go test ./tasks/fault -run TestReference -update (-want +got):\n%s", file, diff)
	}
}

func TestEveryCodeIsInTheReferenceOnce(t *testing.T) {
	t.Parallel()
	text := string(Reference())
	for _, m := range Meanings() {
		if n := strings.Count(text, "| "+string(m.Code)+" |"); n != 1 {
			t.Errorf("%s is there %d times: is its area in areas?", m.Code, n)
		}
	}
}
