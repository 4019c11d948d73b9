package sh

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cc-base/tasks/fault"
)

// limit is what a cancelled command may take: its grace and some room for a
// loaded machine.
const limit = grace + 6*time.Second

// pids waits until the file names n processes and returns them.
func pids(t *testing.T, file string, n int) []int {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		data, _ := os.ReadFile(file)
		if fields := strings.Fields(string(data)); len(fields) == n && bytes.HasSuffix(data, []byte("\n")) {
			var out []int
			for _, f := range fields {
				pid, err := strconv.Atoi(f)
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, pid)
			}
			return out
		}
	}
	t.Fatal("the command did not start")
	return nil
}

// gone waits a moment until the process has ended; a zombie that waits for its
// new parent has.
func gone(t *testing.T, pid int) {
	t.Helper()
	for range 200 {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil {
			return
		}
		if _, rest, _ := strings.Cut(string(stat), ") "); strings.HasPrefix(rest, "Z") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %d is still there", pid)
	_ = syscall.Kill(pid, syscall.SIGKILL)
}

func TestACancelledCommandEndsWithItsWholeGroup(t *testing.T) {
	t.Parallel()
	// In each, the leader starts a grandchild of the test, both write their
	// process ids, and both would go on for a minute.
	tests := []struct{ name, text string }{
		{"all heed SIGTERM", `sleep 60 & echo $$ $! >"$1"; wait`},
		{"the grandchild ignores SIGTERM and holds the output", `(trap '' TERM; exec sleep 60) & echo $$ $! >"$1"; wait`},
		{"the grandchild ignores SIGTERM and has no output", `(trap '' TERM; exec sleep 60) >/dev/null 2>&1 & echo $$ $! >"$1"; wait`},
		{"both ignore SIGTERM", `trap '' TERM; sleep 60 & echo $$ $! >"$1"; while :; do wait; done`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "pids")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			var out bytes.Buffer
			go func() { done <- (Host{Log: &out}).Run(ctx, shell(tt.text, file)) }()
			group := pids(t, file, 2)
			cancel()
			select {
			case err := <-done:
				if !errors.Is(err, context.Canceled) {
					t.Errorf("got %v, want %v", err, context.Canceled)
				}
				if f := fault.Of(err); f == nil || !strings.HasPrefix(err.Error(), "sh: context canceled") {
					t.Errorf("got %v", err)
				}
			case <-time.After(limit):
				t.Errorf("still running %s after the cancel", limit)
			}
			for _, pid := range group {
				gone(t, pid)
			}
		})
	}
}

func TestACancelledCommandMayCleanUp(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- (Host{}).Run(ctx, shell(`trap 'rm "$2"; exit 0' TERM; touch "$2"; echo $$ >"$1"; while :; do sleep 0.1; done`,
			filepath.Join(dir, "pids"), filepath.Join(dir, "half")))
	}()
	pids(t, filepath.Join(dir, "pids"), 1)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v: a command that ends well on SIGTERM has still been cancelled", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "half")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the command could not clean up: %v", err)
	}
}

func TestADeadlineIsNamed(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := (Host{}).Run(ctx, Cmd{Name: "sleep", Args: []string{"60"}})
	if !errors.Is(err, context.DeadlineExceeded) || err.Error() != "sleep: context deadline exceeded" {
		t.Errorf("got %v", err)
	}
}

func TestACommandIsNotStartedAfterTheCancel(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	file := filepath.Join(t.TempDir(), "made")
	if err := Do(ctx, Host{}, "touch", file); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Error("the command ran")
	}
}

func TestAProcessThatHoldsTheOutputOfAnEndedCommandIsEnded(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pids")
	begin := time.Now()
	e := failure(t, Host{}, shell(`sleep 60 & echo $! >"$1"`, file))
	if !strings.Contains(e.Error(), "left behind") || time.Since(begin) > limit {
		t.Errorf("after %s: %v", time.Since(begin), e)
	}
	gone(t, pids(t, file, 1)[0])
}

// It counts the goroutines of the whole process, so it runs before the
// parallel tests do.
func TestNoGoroutineIsLeft(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 20 {
		c := shell("cat; echo err >&2; exit 1")
		c.Stdin, c.Stdout = strings.NewReader("in"), &bytes.Buffer{}
		if err := (Host{}).Run(t.Context(), c); err == nil {
			t.Fatal("no error")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		_ = Do(ctx, Host{}, "sleep", "60")
		cancel()
	}
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines before, %d after", before, runtime.NumGoroutine())
}
