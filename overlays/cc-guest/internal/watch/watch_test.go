package watch_test

// What green does not prove: that systemd ends the machine when the watcher is
// gone or silent. Boots show that (tasks/lab).

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"cc-base/overlays/cc-guest/internal/watch"
)

func count(text string) fstest.MapFS {
	return fstest.MapFS{"fs/ext4/dm-4/errors_count": {Data: []byte(text)}, "fs/ext4/features/lazy_itable_init": {Data: []byte("supported\n")}}
}

func TestItEndsWithTheFirstThingThatIsWrong(t *testing.T) {
	good := func(context.Context) error { return nil }
	alive := func() error { return nil }
	for _, c := range []struct {
		name string
		w    watch.Watcher
		want string
	}{
		{"the look", watch.Watcher{Look: func(context.Context) error { return errors.New("cc-root: not verity") }, Sys: count("0\n"), Alive: alive}, "cc-root: not verity"},
		{"a file system", watch.Watcher{Look: good, Sys: count("3\n"), Alive: alive}, "dm-4: the file system has found 3 errors"},
		{"a count that is none", watch.Watcher{Look: good, Sys: count("many"), Alive: alive}, "dm-4: its count of errors is not a number"},
		{"a deaf init system", watch.Watcher{Look: good, Sys: count("0\n"), Alive: func() error { return errors.New("no socket") }}, "telling the init system: no socket"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.w.Every = time.Hour
			if err := c.w.Run(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestItLooksAgain(t *testing.T) {
	looks, told := 0, 0
	w := watch.Watcher{
		Every: time.Nanosecond, Sys: count("0\n"),
		Look: func(context.Context) error {
			if looks++; looks == 3 {
				return errors.New("changed")
			}
			return nil
		},
		Alive: func() error { told++; return nil },
	}
	if err := w.Run(t.Context()); err == nil || err.Error() != "changed" {
		t.Error(err)
	}
	if looks != 3 || told != 2 {
		t.Errorf("%d looks, of which %d were told", looks, told)
	}
}

func TestItEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	w := watch.Watcher{
		Every: time.Hour, Sys: fstest.MapFS{},
		Look: func(context.Context) error { return nil }, Alive: func() error { cancel(); return nil },
	}
	if err := w.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
