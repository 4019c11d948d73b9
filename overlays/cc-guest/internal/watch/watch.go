// Package watch keeps looking at a system that has called itself ready: whether
// what made it so still holds, and whether a file system has met a block that
// it could not use. Whoever runs a [Watcher] stops the machine at the error it
// returns, and is itself watched by the init system, which hears of every look.
//
// A damaged block of a sealed volume is not its work: the kernel panics at the
// first read of one (panic_on_corruption, which the watcher makes sure of).
package watch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"
)

// Watcher looks at the system again and again.
type Watcher struct {
	Every time.Duration               // between two looks
	Look  func(context.Context) error // whether the system is still as it was
	Sys   fs.FS                       // the root of sysfs
	Alive func() error                // tells the init system after each good look
}

// Run looks until something is wrong or ctx ends, and returns why it has ended:
// never nil.
func (w Watcher) Run(ctx context.Context) error {
	for {
		if err := w.look(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(w.Every):
		}
	}
}

func (w Watcher) look(ctx context.Context) error {
	// A look that hangs, on a device that does not answer, is the business of
	// the init system: it hears nothing of it.
	if err := w.Look(ctx); err != nil {
		return err
	}
	if err := fileSystems(w.Sys); err != nil {
		return err
	}
	if err := w.Alive(); err != nil {
		return fmt.Errorf("telling the init system: %w", err)
	}
	return nil
}

// fileSystems returns an error when an ext4 has found itself damaged since it
// was made: its super block counts that (Documentation/ABI/testing/sysfs-fs-ext4,
// errors_count). With dm-integrity below, a block that was changed on the disk is
// such an error when it belongs to the file system itself; one of a file fails
// the read of that file.
func fileSystems(sys fs.FS) error {
	counts, err := fs.Glob(sys, "fs/ext4/*/errors_count")
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range counts {
		text, err := fs.ReadFile(sys, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // unmounted since it was listed
		}
		if err != nil {
			return err
		}
		device := path.Base(path.Dir(name))
		n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: its count of errors is not a number", device))
		case n > 0:
			errs = append(errs, fmt.Errorf("%s: the file system has found %d errors in itself", device, n))
		}
	}
	return errors.Join(errs...)
}
