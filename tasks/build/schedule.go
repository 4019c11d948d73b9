package build

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"cc-base/tasks/facts"
)

// stageMemory is what a stage may hold at once, in bytes: twice the most that
// `mage bench:build` has seen.
const stageMemory = 1 << 30

// abreast runs the stages, each as soon as those that it reads are done, and
// returns what they came to in their own order. The first error ends the others.
func (b *Build) abreast(ctx context.Context, list []stage) ([]outcome, error) {
	all := make([]outcome, len(list))
	done := map[string]chan struct{}{}
	for _, s := range list {
		done[s.name] = make(chan struct{})
	}
	room := make(chan struct{}, b.width())
	began := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	for i, s := range list {
		group.Go(func() error {
			for _, name := range s.reads {
				if err := await(ctx, done[name]); err != nil {
					return err
				}
			}
			select {
			case room <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			defer func() { <-room }()
			start := time.Since(began)
			o, err := b.one(ctx, s)
			o.start = start
			all[i] = o
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			close(done[s.name])
			return nil
		})
	}
	return all, group.Wait()
}

func await(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// width is how many stages may run at once: one for each processor, as most of
// what they run is busy with one, and no more than fit into the memory that is
// free.
func (b *Build) width() int {
	n := runtime.NumCPU()
	if free := facts.AvailableMemory(os.DirFS("/")); free > 0 {
		n = min(n, int(free/stageMemory))
	}
	return max(n, 1)
}
