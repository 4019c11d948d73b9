package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/bundle"
	"cc-base/tasks/rootfs"
	"cc-base/tasks/toolbox"
	"cc-base/tasks/undo"
)

func prepareStage() stage {
	return stage{
		name:    "prepare",
		title:   "bringing the tools tree up to date",
		keys:    []string{"TOOLS_SUITE"},
		outputs: func(b *Build) []string { return []string{b.toolsList()} },
		run:     prepare,
	}
}

func prepare(ctx context.Context, b *Build) error {
	tools, err := rootfs.DistributionByName("debian")
	if err != nil {
		return err
	}
	return b.buildTools(ctx, tools)
}

// toolsName names the tree after everything that decides its content, so that
// several configurations keep theirs side by side.
func (b *Build) toolsName() string {
	return key(map[string]string{"suite": b.Config.OS.ToolsSuite, "packages": strings.Join(toolbox.Packages(), " "), "layout": "1"})[:16]
}
func (b *Build) toolsDir() string  { return filepath.Join(b.CacheDir, "tools", b.toolsName()) }
func (b *Build) toolsList() string { return b.toolsDir() + ".packages" }

// buildTools makes the tools tree unless it is there. Builds that share a cache
// wait for each other here; the package list appears last and says that the
// tree is whole.
func (b *Build) buildTools(ctx context.Context, d rootfs.Distribution) error {
	dir := b.toolsDir()
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	_, listErr := os.Stat(b.toolsList())
	_, treeErr := os.Stat(filepath.Join(dir, "usr/bin/env"))
	if listErr == nil && treeErr == nil {
		return nil
	}
	if err := os.Remove(b.toolsList()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	mirror, err := rootfs.HostMirror(ctx, b.Host, d)
	if err != nil {
		return err
	}
	b.log.event("prepare", "%s with %d packages and what they need", b.Config.OS.ToolsSuite, len(toolbox.Packages()))
	spec, err := b.bootstrapSpec(ctx, d, mirror, b.Config.OS.ToolsSuite, []string{"main"}, toolbox.Packages())
	if err != nil {
		return err
	}
	tarFile, list := dir+".tar", dir+".packages.part"
	defer os.Remove(tarFile)
	defer os.Remove(list)
	if _, err := b.bootstrapTree(ctx, spec, tarFile, list); err != nil {
		return err
	}
	if err := toolbox.Unpack(ctx, b.Host, tarFile, dir); err != nil {
		return err
	}
	return atomicfile.Publish(list, b.toolsList())
}

// bootstrapSpec is what the tools tree and the image have in common.
func (b *Build) bootstrapSpec(ctx context.Context, d rootfs.Distribution, m rootfs.Mirror, suite string, components, packages []string) (rootfs.Spec, error) {
	options, err := rootfs.HostAptOptions(ctx, b.Host)
	if err != nil {
		return rootfs.Spec{}, err
	}
	if m.Snapshot {
		options = append(options, `Acquire::Check-Valid-Until "false"`)
	}
	exclude, include := rootfs.Unneeded()
	return rootfs.Spec{
		Suite: suite, Sources: m.Sources(d, suite, components), Keyring: d.Keyring, Packages: packages,
		Epoch: b.Config.OS.SourceDateEpoch, Exclude: exclude, Include: include, AptOpts: options,
	}, nil
}

// bootstrapTree lets mmdebstrap work in a folder that is in the undo record:
// killed, it leaves half a root file system there.
func (b *Build) bootstrapTree(ctx context.Context, spec rootfs.Spec, tarFile, list string) ([]bundle.Package, error) {
	var err error
	if spec.TempDir, err = b.journal().TempDir(); err != nil {
		return nil, err
	}
	packages, err := rootfs.Bootstrap(ctx, b.Host, spec, tarFile, list)
	// The next build tries again what could not be removed now.
	undone := b.journal().Replay(context.WithoutCancel(ctx), b.Host)
	return packages, errors.Join(err, undone)
}

func (b *Build) journal() undo.Journal {
	return undo.Journal{File: filepath.Join(b.stateDir(), "undo")}
}

// keep writes v as JSON to a file under scratch, for a later stage.
func (b *Build) keep(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(b.scratch(name), 0o644, append(data, '\n'))
}

// kept reads what an earlier stage kept.
func (b *Build) kept(name string, v any) error {
	data, err := os.ReadFile(b.scratch(name))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
