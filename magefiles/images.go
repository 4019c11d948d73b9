//go:build mage

package main

import (
	"context"
	"os"

	"github.com/magefile/mage/mg"

	"cc-base/tasks/build"
	"cc-base/tasks/image"
)

// Image converts, compresses, grows and shows disk images: the built one, or -file=FILE.
type Image mg.Namespace

// Convert writes an image in another format: -to=raw|qcow2 -o=FILE, also -from, -file, -force.
func (Image) Convert(ctx context.Context, from, to, o, file *string, force *bool) error {
	c := image.Conversion{File: text(file), From: text(from), To: text(to), Out: text(o), Force: set(force)}
	return with(func(o build.Options) error { return build.ConvertImage(ctx, o, c) })
}

// Compress packs a qcow2, in place or to -o=FILE; also -file, -force.
func (Image) Compress(ctx context.Context, o, file *string, force *bool) error {
	c := image.Conversion{File: text(file), To: image.Qcow2, Out: text(o), Force: set(force), Compress: true}
	return with(func(o build.Options) error { return build.ConvertImage(ctx, o, c) })
}

// Resize grows a disk, and cc-dynamic with it: mage image:resize +10G; also -file, -force.
func (Image) Resize(ctx context.Context, by string, file *string, force *bool) error {
	g := image.Growth{File: text(file), By: by, Force: set(force)}
	return with(func(o build.Options) error { return build.ResizeImage(ctx, o, g) })
}

// Snapshot keeps states of a qcow2 in it: mage image:snapshot create|list|revert|delete -name=NAME; also -file.
func (Image) Snapshot(ctx context.Context, do string, name, file *string) error {
	s := image.Snapshot{File: text(file), Do: do, Name: text(name)}
	return with(func(o build.Options) error { return build.SnapshotImage(ctx, o, s, os.Stdout) })
}

// Info shows format, sizes, partitions and snapshots of an image; -file, -json.
func (Image) Info(ctx context.Context, file *string, json *bool) error {
	return with(func(o build.Options) error { return build.ShowImage(ctx, o, text(file), os.Stdout, set(json)) })
}

// forced is with for a target that has -force; CC_FORCE=1 says the same.
func forced(force *bool, do func(build.Options) error) error {
	return with(func(o build.Options) error {
		o.Force = o.Force || set(force)
		return do(o)
	})
}

// set is an optional flag's value.
func set(flag *bool) bool { return flag != nil && *flag }
