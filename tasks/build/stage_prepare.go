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
	return b.buildTree(ctx, tools, b.toolsDir(), toolbox.Packages())
}

// toolsName names the tree after everything that decides its content, so that
// several configurations keep theirs side by side.
func (b *Build) toolsName() string { return b.treeName(toolbox.Packages()) }
func (b *Build) toolsDir() string  { return filepath.Join(b.CacheDir, "tools", b.toolsName()) }
func (b *Build) toolsList() string { return b.toolsDir() + ".packages" }

// hostDir is the tree that plays the host of virtual machines in tests.
func (b *Build) hostDir() string {
	return filepath.Join(b.CacheDir, "tools", "host-"+b.treeName(toolbox.HostPackages()))
}

func (b *Build) treeName(packages []string) string {
	return key(map[string]string{"suite": b.Config.OS.ToolsSuite, "packages": strings.Join(packages, " "), "layout": "1"})[:16]
}

// buildTree makes a tree of programs unless it is there. Builds that share a
// cache wait for each other here; the package list appears last and says that
// the tree is whole.
func (b *Build) buildTree(ctx context.Context, d rootfs.Distribution, dir string, packages []string) error {
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
	whole := dir + ".packages"
	_, listErr := os.Stat(whole)
	_, treeErr := os.Stat(filepath.Join(dir, "usr/bin/env"))
	if listErr == nil && treeErr == nil {
		return nil
	}
	if err := atomicfile.Remove(whole); err != nil {
		return err
	}
	mirror, err := rootfs.HostMirror(ctx, b.Host, d)
	if err != nil {
		return err
	}
	b.log.event("prepare", "%s with %d packages and what they need", b.Config.OS.ToolsSuite, len(packages))
	spec, err := b.bootstrapSpec(ctx, d, mirror, b.Config.OS.ToolsSuite, []string{"main"}, packages)
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
	return atomicfile.Publish(list, whole)
}

// TestHost makes the tree that plays the host of virtual machines in tests and
// returns its folder. `mage test` does the same.
func TestHost(ctx context.Context, o Options) (dir string, err error) {
	err = with(ctx, o, func(ctx context.Context, b *Build) error {
		dir, err = b.testHost(ctx)
		return err
	})
	return dir, err
}

func (b *Build) testHost(ctx context.Context) (string, error) {
	debian, err := rootfs.DistributionByName("debian")
	if err != nil {
		return "", err
	}
	return b.hostDir(), b.buildTree(ctx, debian, b.hostDir(), toolbox.HostPackages())
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
