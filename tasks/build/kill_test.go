package build_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cc-base/tasks/lab"
)

// killed runs `mage build` and kills one of its processes, drawn at random,
// with SIGKILL after the delay. It returns what was killed, or nothing when the
// build had ended by then.
func (c checkout) killed(t *testing.T, random *rand.Rand, delay time.Duration) string {
	t.Helper()
	cmd := c.mage("build")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	victim := ""
	select {
	case <-ended:
	case <-time.After(delay):
		if list := c.processes(t); len(list) > 0 {
			victim = list[random.IntN(len(list))]
			pid, err := strconv.Atoi(strings.Fields(victim)[0])
			if err != nil {
				t.Fatal(err)
			}
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	// Whatever was killed, all of it must end by itself: the next build would
	// else be refused.
	deadline := time.Now().Add(90 * time.Second)
	for left := c.processes(t); len(left) > 0; left = c.processes(t) {
		if time.Now().After(deadline) {
			t.Fatalf("90 s after %q was killed these still run: %v", victim, left)
		}
		time.Sleep(200 * time.Millisecond)
	}
	<-ended
	return victim
}

// What green does not prove: the packages come from the cache, so no kill hits
// mmdebstrap here; the interruption test beside this one does that. The moments
// are drawn at random, and each failure prints the seed that drew them.
func TestAfterKillsAtRandomMomentsTheNextBuildIsRight(t *testing.T) {
	image := lab.Built(t)
	c := newCheckout(t, image)
	c.withPackages(t)
	mounts := mountinfo(t)

	kills := 10
	if lab.Long() {
		kills = 50
	}
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	for n := range kills {
		victim := c.killed(t, random, 500*time.Millisecond+time.Duration(random.Int64N(int64(12*time.Second))))
		if len(victim) > 100 {
			victim = victim[:100] + "…"
		}
		t.Logf("kill %d: %s", n+1, victim)
		if n%3 == 2 {
			// Back to the start, so that the early stages are hit again.
			if err := os.RemoveAll(filepath.Join(c.out, "state")); err != nil {
				t.Fatal(err)
			}
			c.dropStages(t)
		}
	}
	if now := mountinfo(t); now != mounts {
		t.Errorf("mounts before:\n%s\nafter:\n%s", mounts, now)
	}
	c.build(t)
	c.equals(t, image)
	if ran, _ := c.build(t); len(ran) > 0 {
		t.Errorf("the build after it still ran %v", ran)
	}
}

// withPackages gives the checkout's cache the installed packages of the shared
// one; the stages after them are to run for real.
func (c checkout) withPackages(t *testing.T) {
	t.Helper()
	c.withoutPackages(t)
	if err := os.MkdirAll(filepath.Join(c.cache, "stages"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(os.Getenv("CC_CACHE_DIR"), "stages", "bootstrap"), filepath.Join(c.cache, "stages", "bootstrap")); err != nil {
		t.Fatal(err)
	}
}

// withoutPackages takes them away again, so that they are installed anew.
func (c checkout) withoutPackages(t *testing.T) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(c.cache, "stages", "bootstrap")); err != nil {
		t.Fatal(err)
	}
}

// dropStages empties the cache but for the packages.
func (c checkout) dropStages(t *testing.T) {
	t.Helper()
	for _, s := range []string{"baseos", "tee", "encrypt", "apps"} {
		if err := os.RemoveAll(filepath.Join(c.cache, "stages", s)); err != nil {
			t.Fatal(err)
		}
	}
}
