package lab

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// Budget is how many boots the short mode may make. Under emulation on two
// cores each costs half a minute to a minute, whatever runs beside it.
const Budget = 22

// Boots counts the boots of one test run and what they cost. TestMain makes
// one and prints its sum.
type Boots struct {
	mu    sync.Mutex
	names []string
	took  []time.Duration
	left  []string // tests that only the long mode makes
}

// Sum returns one line per boot, the total, and what was left out.
func (b *Boots) Sum() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var s strings.Builder
	var total time.Duration
	for i, name := range b.names {
		fmt.Fprintf(&s, "boot %2d: %6.1f s  %s\n", i+1, b.took[i].Seconds(), name)
		total += b.took[i]
	}
	fmt.Fprintf(&s, "boots: %d of %d in the budget, %.0f s\n", len(b.names), Budget, total.Seconds())
	if len(b.left) > 0 {
		fmt.Fprintf(&s, "left to the long mode: %d: %s\n", len(b.left), strings.Join(b.left, " "))
	}
	return s.String()
}

// Count enters one boot of test t into the books, or fails the test when the
// budget is spent. The caller calls done when the machine has ended.
func (b *Boots) Count(t testing.TB) (done func()) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	n, began := len(b.names), time.Now()
	if n >= Budget && !Long() {
		t.Fatalf("boot %d is above the short mode's budget of %d", n+1, Budget)
	}
	b.names, b.took = append(b.names, t.Name()), append(b.took, 0)
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.took[n] = time.Since(began)
	}
}

// LongOnly leaves the test to the long mode: in the short one it is skipped and
// named in the sum, so that what a short run did not show is there to be read.
func (b *Boots) LongOnly(t testing.TB) {
	t.Helper()
	if Long() {
		return
	}
	b.mu.Lock()
	b.left = append(b.left, t.Name())
	b.mu.Unlock()
	t.Skipf("left to the long mode (%s=1)", LongEnv)
}
