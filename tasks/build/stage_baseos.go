package build

import (
	"archive/tar"
	"context"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"cc-base/tasks/rootfs"
)

func baseOSStage() stage {
	return stage{
		name:    "baseos",
		title:   "laying overlays and settings over the packages",
		keys:    []string{"HOSTNAME", "LOCALE", "TIMEZONE", "SOURCE_DATE_EPOCH", "DEBUG_IMAGE"},
		reads:   []string{"bootstrap"},
		facts:   overlayDigests,
		cached:  true,
		outputs: func(b *Build) []string { return []string{b.scratch("rootfs.tar")} },
		run:     baseOS,
	}
}

// debugOverlay is the name of the overlay that opens an image.
const debugOverlay = "debug"

// overlays returns the overlay folders: those that hold a tree, without the one
// that opens the image unless that is wanted.
func (b *Build) overlays() ([]string, error) {
	trees, err := filepath.Glob(filepath.Join(b.Repo, "overlays", "*", "tree"))
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, t := range trees {
		dir := filepath.Dir(t)
		if filepath.Base(dir) == debugOverlay && !b.Config.Security.DebugImage {
			continue
		}
		dirs = append(dirs, dir)
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
	if b.Config.Security.DebugImage {
		facts["validation scripts"], err = treeDigest(filepath.Join(b.Repo, "validation"))
	}
	return facts, err
}

// debugScripts are the checks of an installer as scripts, which ask cc-guest
// where there is no cc-install.
func (b *Build) debugScripts() rootfs.Layer {
	layer := rootfs.Layer{Name: "validation"}
	for name, mode := range scripts() {
		if path.Dir(name) == "validation" {
			layer.Entries = append(layer.Entries, rootfs.Entry{Path: "/usr/lib/cc/" + name, Type: tar.TypeReg, Mode: int64(mode), Source: b.scriptSource(name)})
		}
	}
	slices.SortFunc(layer.Entries, func(a, b rootfs.Entry) int { return strings.Compare(a.Path, b.Path) })
	return layer
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
	if b.Config.Security.DebugImage {
		b.log.event("baseos", "DEBUG IMAGE: a root shell on the console; never a production image")
		layers = append(layers, b.debugScripts())
	}
	return rootfs.Merge(ctx, b.scratch("base.tar"), b.scratch("rootfs.tar"), rootfs.Dropped, c.SourceDateEpoch, layers...)
}
