// Package filetest makes and reads the files and archives of tests, each in one
// line; what fails ends the test.
package filetest

import (
	"math/rand/v2"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Write writes the file and returns its name, so that it can stand where the
// name is wanted.
func Write(t testing.TB, file string, data []byte) string {
	t.Helper()
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// Read returns what the file holds.
func Read(t testing.TB, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Names returns the names in the folder, sorted.
func Names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// Only fails the test unless the folder holds exactly these names, sorted: that
// nothing was left behind can be shown in no other way.
func Only(t testing.TB, dir string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, Names(t, dir)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

// Noise returns n bytes that do not compress, the same
// for the same seed.
func Noise(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b) // never fails
	return b
}
