package build

import (
	"context"
	"os"
	"path/filepath"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/boot"
	"cc-base/tasks/toolbox"
)

// initrdStage is a stage of its own because sealing the root need not wait for it.
func initrdStage() stage {
	return stage{
		name:    "initrd",
		title:   "making the initrd",
		keys:    []string{"SOURCE_DATE_EPOCH"},
		reads:   []string{"tee"},
		cached:  true,
		outputs: func(b *Build) []string { return []string{b.scratch("initrd.img")} },
		run:     initrd,
	}
}

// initrd runs the image's own dracut in its unpacked tree, which is removed
// afterwards.
func initrd(ctx context.Context, b *Build) error {
	var k kernel
	if err := b.kept("kernel.json", &k); err != nil {
		return err
	}
	tree := b.scratch("tree")
	defer os.RemoveAll(tree)
	if err := toolbox.Unpack(ctx, b.Host, b.scratch("root.tar"), tree); err != nil {
		return err
	}
	// dracut writes to the tree's own /tmp, which is private to each run, so
	// the result goes through a folder that is bound.
	out := filepath.Join(b.scratch("initrd.d"), "initrd.img")
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(filepath.Dir(out))
	b.log.event("initrd", "dracut for %s", k.Release)
	run := toolbox.Tree{Dir: tree, Host: b.Host, Binds: []string{filepath.Dir(out)}}
	if err := boot.Initrd(ctx, run, k.Release, out, b.Config.OS.SourceDateEpoch); err != nil {
		return err
	}
	b.log.event("initrd", "%s", fileSize(out))
	return atomicfile.Publish(out, b.scratch("initrd.img"))
}
