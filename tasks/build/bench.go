package build

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/bench"
	"cc-base/tasks/fault"
	"cc-base/tasks/sh"
)

// BenchRounds is how often each build is measured, after one that fills caches.
const BenchRounds = 3

// The names of what BenchBuild measures.
const (
	benchCold    = "cc-base, from packages"
	benchOverlay = "cc-base, one overlay file changed"
	benchNothing = "cc-base, nothing changed"
	benchMkosi   = "mkosi, from packages"
	benchFloor   = "mmdebstrap alone, to a tar"
)

// BenchBuild measures builds of a copy of the checkout beside mkosi and beside
// mmdebstrap alone, with the same packages of the same mirror, in turn, and
// prints a table. Tools trees and package caches are warm in all of them: what is
// not is what a first build pays once. mkosi needs root here.
func BenchBuild(ctx context.Context, o Options, rounds int, out io.Writer) error {
	return with(ctx, o, func(ctx context.Context, b *Build) (err error) {
		copied, err := b.benchCopy(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(b.scratch("bench"))) }()
		rival, err := b.mkosi(ctx)
		if err != nil {
			return err
		}
		table, err := bench.Measure(ctx, []bench.Way{
			{Name: benchCold, Before: copied.forget, Do: copied.build},
			{Name: benchOverlay, Before: copied.change, Do: copied.build},
			{Name: benchNothing, Do: copied.build},
			{Name: benchMkosi, Before: rival.forget, Do: rival.build},
			{Name: benchFloor, Do: b.floor},
		}, rounds, true, o.Stderr)
		if err != nil {
			return err
		}
		return b.writeBench(table, out, "build", benchMkosi, benchFloor)
	})
}

// benchSizes is the content of the images of BenchScaling, in MiB.
const benchSizes = "512,1024,2048,4096"

// BenchScaling measures builds of images with more and more content, which no
// compression makes smaller: sizes in MiB with commas between, empty for 512 to
// 4096. The packages come from the cache.
func BenchScaling(ctx context.Context, o Options, sizes string, out io.Writer) error {
	var mib []int
	for _, s := range strings.Split(cmp.Or(sizes, benchSizes), ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return fault.Newf(fault.Usage, "%q is no size in MiB", s).Hint("-mib=%s", benchSizes)
		}
		mib = append(mib, n)
	}
	return with(ctx, o, func(ctx context.Context, b *Build) (err error) {
		copied, err := b.benchCopy(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(b.scratch("bench"))) }()
		var ways []bench.Way
		for _, n := range mib {
			ways = append(ways, bench.Way{
				Name:   fmt.Sprintf("%d MiB more", n),
				Before: func(ctx context.Context, _ int) error { return copied.grow(ctx, n) },
				Do:     copied.build,
			})
		}
		if err := copied.build(ctx, 0); err != nil {
			return err
		}
		table, err := bench.Measure(ctx, ways, 1, false, o.Stderr)
		if err != nil {
			return err
		}
		return b.writeBench(table, out, "scaling", ways[0].Name)
	})
}

// writeBench prints the table and keeps the samples beside the logs.
func (b *Build) writeBench(t bench.Table, out io.Writer, name string, beside ...string) error {
	data, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return err
	}
	return errors.Join(atomicfile.Write(b.out("log", "bench-"+name+".json"), 0o644, append(data, '\n')), t.Markdown(out, beside...))
}

// floor is what no builder of these packages can be faster than.
func (b *Build) floor(ctx context.Context, _ int) error {
	src, err := b.imageSource(ctx)
	if err != nil {
		return err
	}
	_, err = b.bootstrapTree(ctx, src, b.scratch("bench", "floor.tar"), b.scratch("bench", "floor.list"))
	return err
}

// benchCopy is a copy of the checkout with an output folder and a cache of its
// own; the tools tree and the downloads are this build's.
type benchCopy struct {
	dir      string
	settings string // of the profile that is built
	host     sh.Host
}

// benchProfile is the copy's own: the build's, and what a measurement changes.
const benchProfile = "bench"

func (b *Build) benchCopy(ctx context.Context) (benchCopy, error) {
	c := benchCopy{dir: b.scratch("bench", "checkout"), host: b.Host}
	if err := os.RemoveAll(b.scratch("bench")); err != nil {
		return c, err
	}
	if err := os.MkdirAll(c.path("out", "cache"), 0o755); err != nil {
		return c, err
	}
	entries, err := os.ReadDir(b.Repo)
	if err != nil {
		return c, err
	}
	for _, e := range entries {
		if slices.Contains([]string{".git", "out"}, e.Name()) {
			continue
		}
		if err := sh.Do(ctx, b.Host, "cp", "-a", filepath.Join(b.Repo, e.Name()), c.dir); err != nil {
			return c, err
		}
	}
	if err := sh.Do(ctx, b.Host, "cp", "-a", b.ConfigDir+"/.", c.path("config")); err != nil {
		return c, err
	}
	if b.Config.Profile != "" {
		data, err := os.ReadFile(c.path("config", "profiles", b.Config.Profile+".conf"))
		if err != nil {
			return c, err
		}
		c.settings = string(data)
	}
	if err := c.set(""); err != nil {
		return c, err
	}
	return c, b.shareDownloads(ctx, c.path("out", "cache"))
}

func (c benchCopy) path(elem ...string) string {
	return filepath.Join(append([]string{c.dir}, elem...)...)
}

// build runs the command that a user runs.
func (c benchCopy) build(ctx context.Context, _ int) error {
	host := c.host
	host.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "CC_") || strings.HasPrefix(v, "CI=")
	})
	return host.Run(ctx, sh.Cmd{Name: "go", Args: []string{"tool", "mage", "build"}, Dir: c.dir, Env: []string{"CC_PROFILE=" + benchProfile}})
}

// set writes the profile that is built.
func (c benchCopy) set(more string) error {
	return os.WriteFile(c.path("config", "profiles", benchProfile+".conf"), []byte(c.settings+more), 0o644)
}

// forget removes all that was built, but for tools and downloads.
func (c benchCopy) forget(ctx context.Context, _ int) error {
	entries, err := os.ReadDir(c.path("out"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != "cache" {
			err = errors.Join(err, os.RemoveAll(c.path("out", e.Name())))
		}
	}
	return errors.Join(err, os.RemoveAll(c.path("out", "cache", "stages")))
}

// change puts another file of a line into an overlay.
func (c benchCopy) change(_ context.Context, round int) error {
	return c.overlay(func(file string) error { return os.WriteFile(file, fmt.Appendf(nil, "round %d\n", round), 0o644) })
}

// grow puts so much noise into an overlay, and makes room for it.
func (c benchCopy) grow(ctx context.Context, mib int) error {
	if err := c.set(fmt.Sprintf("ROOT_SIZE=\"%dM\"\n", mib+mib/8+512)); err != nil {
		return err
	}
	return c.overlay(func(file string) error {
		return sh.Do(ctx, c.host, "dd", "if=/dev/urandom", "of="+file, "bs=1M", fmt.Sprintf("count=%d", mib), "status=none")
	})
}

func (c benchCopy) overlay(write func(file string) error) error {
	file := c.path("overlays", "bench", "tree", "usr", "share", "cc-bench")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return write(file)
}
