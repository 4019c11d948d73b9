package build

import (
	"context"
	"os"
	"path/filepath"

	"cc-base/tasks/rootfs"
)

func baseOSStage() stage {
	return stage{
		name:    "baseos",
		title:   "laying overlays and settings over the packages",
		keys:    []string{"HOSTNAME", "LOCALE", "TIMEZONE", "SOURCE_DATE_EPOCH"},
		reads:   []string{"bootstrap"},
		facts:   overlayDigests,
		cached:  true,
		outputs: func(b *Build) []string { return []string{b.scratch("rootfs.tar")} },
		run:     baseOS,
	}
}

// overlays returns the overlay folders: those that hold a tree.
func (b *Build) overlays() ([]string, error) {
	trees, err := filepath.Glob(filepath.Join(b.Repo, "overlays", "*", "tree"))
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, t := range trees {
		dirs = append(dirs, filepath.Dir(t))
	}
	return dirs, nil
}

func overlayDigests(b *Build) (map[string]string, error) {
	dirs, err := b.overlays()
	if err != nil {
		return nil, err
	}
	facts := map[string]string{}
	for _, dir := range dirs {
		if facts["overlay:"+filepath.Base(dir)], err = treeDigest(filepath.Join(dir, "tree")); err != nil {
			return nil, err
		}
		modes, err := os.ReadFile(filepath.Join(dir, "modes"))
		if err == nil {
			facts["overlay:"+filepath.Base(dir)+":modes"] = string(modes)
		}
	}
	return facts, nil
}

func baseOS(ctx context.Context, b *Build) error {
	dirs, err := b.overlays()
	if err != nil {
		return err
	}
	c := b.Config.OS
	layers := []rootfs.Layer{rootfs.Settings{Hostname: c.Hostname, Locale: c.Locale, Timezone: c.Timezone}.Layer()}
	for _, dir := range dirs {
		layer, err := rootfs.ReadOverlay(dir)
		if err != nil {
			return err
		}
		layers = append(layers, layer)
	}
	return rootfs.Merge(ctx, b.scratch("base.tar"), b.scratch("rootfs.tar"), rootfs.Dropped, c.SourceDateEpoch, layers...)
}
