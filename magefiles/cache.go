//go:build mage

package main

import (
	"context"
	"strings"

	"github.com/magefile/mage/mg"

	"cc-base/tasks/build"
)

// Cache looks after the results of stages that are kept for later builds.
type Cache mg.Namespace

// Prune removes the results used longest ago until CC_CACHE_LIMIT is kept.
func (Cache) Prune() error { return with(build.PruneCache) }

// Export writes the results to one signed archive for other machines: -o=FILE.
func (Cache) Export(ctx context.Context, o *string) error {
	return with(func(options build.Options) error { return build.ExportCache(ctx, options, text(o)) })
}

// Import adds the results of an archive that a key of yours has signed: -file=FILE, -keys=FILE,FILE; without, the project's own key.
func (Cache) Import(ctx context.Context, file, keys *string) error {
	return with(func(o build.Options) error {
		return build.ImportCache(ctx, o, text(file), strings.FieldsFunc(text(keys), func(r rune) bool { return r == ',' }))
	})
}
