// Package golden compares what a test got with a file that was looked at when
// it was committed. It stands by itself, so that the tests of every package can
// use it. `go test ./tasks/disk -update` rewrites the files.
package golden

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A flag must be registered before the testing package parses them; it belongs
// to test binaries alone, since only tests import this package.
var update = flag.Bool("update", false, "rewrite the golden files instead of comparing them")

// Updating tells whether -update was given, for a test whose files are not
// below testdata.
func Updating() bool { return *update }

// Compare fails the test where got is not the content of testdata/name, byte
// for byte.
func Compare(t testing.TB, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if Updating() {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s; rewrite with -update (-want +got):\n%s", file, diff)
	}
}
