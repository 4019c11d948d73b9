package program

// What green does not prove: the module built here has no dependencies and is
// built by one Go version on one machine. That the shipped programs are the
// same on every machine is left to the comparison of two whole builds.

import (
	"context"
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cc-base/tasks/sh"
)

// module writes a module with the main packages ./tool, which compiles, and
// ./broken, which does not, and returns its folder.
func module(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":         "module example\n\ngo 1.25.0\n",
		"tool/main.go":   "package main\n\nimport (\n\t\"fmt\"\n\t\"net\"\n)\n\nfunc main() { fmt.Println(net.IPv4(127, 0, 0, 1)) }\n",
		"broken/main.go": "package main\n\nfunc main() { undefined() }\n",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func build(t *testing.T) (data []byte, file, repo string) {
	t.Helper()
	repo = module(t)
	file = filepath.Join(t.TempDir(), "tool")
	if err := Build(t.Context(), sh.Host{}, repo, "./tool", file); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data, file, repo
}

func TestTheSameSourceGivesTheSameStaticProgramAnywhere(t *testing.T) {
	first, file, repo := build(t)

	// The second build has another folder, another environment and settings
	// that a developer may have made with `go env -w`.
	settings := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(settings, []byte("GOFLAGS=-ldflags=-X=main.x=y\nCGO_ENABLED=1\nGOAMD64=v3\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOENV", settings)
	t.Setenv("GOFLAGS", "-tags=other")
	t.Setenv("GOARCH", "arm64")
	second, _, _ := build(t)
	if string(first) != string(second) {
		t.Errorf("two builds differ: %d and %d bytes", len(first), len(second))
	}
	if strings.Contains(string(first), repo) {
		t.Errorf("the program names the folder that it was built in")
	}

	program, err := elf.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	if program.Machine != elf.EM_X86_64 {
		t.Errorf("built for %s", program.Machine)
	}
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("the program is not static: it has a %s", p.Type)
		}
	}
	if got, err := sh.Text(t.Context(), sh.Host{}, file).String(); err != nil || got != "127.0.0.1\n" {
		t.Errorf("it prints %q, %v", got, err)
	}
}

func TestAFailedBuildLeavesWhatWasThere(t *testing.T) {
	t.Parallel()
	repo, dir := module(t), t.TempDir()
	out := filepath.Join(dir, "tool")
	if err := os.WriteFile(out, []byte("old"), 0o755); err != nil {
		t.Fatal(err)
	}
	err := Build(t.Context(), sh.Host{}, repo, "./broken", out)
	var failed *sh.Error
	if !errors.As(err, &failed) || failed.Name != "go" || !strings.Contains(err.Error(), "undefined: undefined") {
		t.Errorf("got %v, want the compiler's words", err)
	}
	if err := Build(t.Context(), sh.Host{}, repo, "./missing", filepath.Join(dir, "new")); err == nil {
		t.Error("a package that is not there is built")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Build(ctx, sh.Host{}, repo, "./tool", filepath.Join(dir, "new")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if data, err := os.ReadFile(out); err != nil || string(data) != "old" {
		t.Errorf("the old program is now %q, %v", data, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestAProgramOfTheRunnerThatFailsHalfwayLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	run := &sh.Recorder{Answer: func(c sh.Cmd) (string, error) {
		for i, arg := range c.Args {
			if arg == "-o" {
				if err := os.WriteFile(c.Args[i+1], []byte("half"), 0o755); err != nil {
					return "", err
				}
			}
		}
		return "", errors.New("killed")
	}}
	if err := Build(t.Context(), run, dir, "./tool", filepath.Join(dir, "tool")); err == nil || err.Error() != "killed" {
		t.Errorf("got %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	want := "go build -trimpath -buildvcs=false -ldflags=-s -w -buildid= -o " + dir + "/tool.part ./tool\n"
	if got := run.Transcript(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
