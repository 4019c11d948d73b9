// Package lab gives tests the real things: the tools tree, the image that
// `mage test` has just built, and boots of it within a budget.
//
// A test that asks for something that is not there is skipped on a developer's
// machine, with the reason, and fails under CI=true: a skip must never hide a
// missing step.
package lab

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"cc-base/tasks/manifest"
	"cc-base/tasks/sh"
	"cc-base/tasks/toolbox"
)

// Names of the variables by which `mage test` tells the tests where things are.
const (
	ToolsEnv = "CC_TEST_TOOLS" // the unpacked tools tree
	HostEnv  = "CC_TEST_HOST"  // the unpacked tree that plays a host of virtual machines
	OutEnv   = "CC_TEST_OUT"   // the output folder of the image under test
	LongEnv  = "CC_LONG"       // 1 for the long mode
)

// Long tells whether this is the long mode; short is what every change gets.
func Long() bool { return os.Getenv(LongEnv) == "1" }

// Absent skips the test, or fails it under CI=true.
func Absent(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("under CI=true nothing may be missing: "+format, args...)
	}
	t.Skipf(format, args...)
}

// Tools returns the tools tree with the test's own temporary folder and the
// given ones bound, and that temporary folder.
func Tools(t testing.TB, binds ...string) (toolbox.Tree, string) {
	t.Helper()
	dir := os.Getenv(ToolsEnv)
	if dir == "" {
		Absent(t, "%s is not set: run `go tool mage test`, which builds the tools tree", ToolsEnv)
	}
	tmp := t.TempDir()
	return toolbox.Tree{Dir: dir, Host: sh.Host{Log: onFailure(t)}, Binds: append([]string{tmp}, binds...)}, tmp
}

// OnPath returns a folder with the tree's programs of these names, for a test of
// a program that finds them through PATH. They see the tree's folders and the
// working folder /.
func OnPath(t testing.TB, tree toolbox.Tree, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		argv, err := tree.Argv("/", name)
		if err != nil {
			t.Fatal(err)
		}
		script := "#!/bin/sh\nexec"
		for _, a := range argv {
			script += " '" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script+" \"$@\"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Image is the built image under test.
type Image struct {
	Out      string // output folder
	Manifest manifest.Manifest
}

// Path returns a file of the output folder.
func (i Image) Path(elem ...string) string {
	return filepath.Join(append([]string{i.Out}, elem...)...)
}

// Built returns the image that `mage test` built.
func Built(t testing.TB) Image {
	t.Helper()
	out := os.Getenv(OutEnv)
	if out == "" {
		Absent(t, "%s is not set: run `go tool mage test`, which builds the image", OutEnv)
	}
	f, err := os.Open(filepath.Join(out, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := manifest.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	return Image{Out: out, Manifest: m}
}

// onFailure returns a writer for the output of commands, which is shown when
// the test fails.
func onFailure(t testing.TB) io.Writer {
	kept := &log{}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(kept.text())
		}
	})
	return kept
}

// log collects what several commands write at once.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Extract copies the content of the partition with the label out of a raw disk
// to file and returns its description.
func (i Image) Extract(raw, label, file string) (manifest.Partition, error) {
	p, ok := i.Manifest.Disk.Partition(label)
	if !ok {
		return p, fmt.Errorf("the image has no partition %s", label)
	}
	in, err := os.Open(raw)
	if err != nil {
		return p, err
	}
	defer in.Close()
	return p, copyRange(in, p.Start, p.ContentSize, file)
}
