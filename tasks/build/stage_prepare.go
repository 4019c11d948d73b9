package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
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
		keys:    []string{"TOOLS_SUITE", "LOCKED"},
		facts:   func(b *Build) (map[string]string, error) { return b.lockFact(toolsSection), nil },
		outputs: func(b *Build) []string { return []string{b.toolsList()} },
		run:     prepare,
	}
}

func prepare(ctx context.Context, b *Build) error {
	return b.buildTree(ctx, b.toolsDir(), b.toolsSource)
}

// toolsSource is where the tools tree comes from.
func (b *Build) toolsSource(ctx context.Context) (source, error) {
	return b.treeSource(ctx, toolsSection, toolbox.Packages())
}

// treeSource is where a tree of programs comes from.
func (b *Build) treeSource(ctx context.Context, section string, packages []string) (source, error) {
	d, err := rootfs.DistributionByName("debian")
	if err != nil {
		return source{}, err
	}
	mirror, err := rootfs.HostMirror(ctx, b.Host, d)
	if err != nil {
		return source{}, err
	}
	return b.source(ctx, section, d, mirror, b.Config.OS.ToolsSuite, []string{"main"}, packages)
}

// toolsName names the tree after everything that decides its content, so that
// several configurations keep theirs side by side.
func (b *Build) toolsName() string { return b.treeName(toolsSection, toolbox.Packages()) }
func (b *Build) toolsDir() string  { return filepath.Join(b.CacheDir, "tools", b.toolsName()) }
func (b *Build) toolsList() string { return b.toolsDir() + ".packages" }

func (b *Build) treeName(section string, packages []string) string {
	parts := map[string]string{"suite": b.Config.OS.ToolsSuite, "packages": strings.Join(packages, " "), "layout": "1"}
	maps.Copy(parts, b.lockFact(section))
	return key(parts)[:16]
}

// buildTree makes a tree of programs unless it is there. Builds that share a
// cache wait for each other here; the package list appears last and says that
// the tree is whole.
func (b *Build) buildTree(ctx context.Context, dir string, find func(context.Context) (source, error)) error {
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
	src, err := find(ctx)
	if err != nil {
		return err
	}
	b.log.event("prepare", "%s with %d packages and what they need", src.spec.Suite, len(src.spec.Packages))
	tarFile, list := dir+".tar", dir+".packages.part"
	defer os.Remove(tarFile)
	defer os.Remove(list)
	if _, err := b.bootstrapTree(ctx, src, tarFile, list); err != nil {
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
	return TestTree(ctx, o, "host", toolbox.HostPackages())
}

// TestTree makes a tree of programs that tests alone use and returns its folder.
func TestTree(ctx context.Context, o Options, name string, packages []string) (dir string, err error) {
	err = with(ctx, o, func(ctx context.Context, b *Build) error {
		dir, err = b.besideTools(ctx, name, packages)
		return err
	})
	return dir, err
}

func (b *Build) testHost(ctx context.Context) (string, error) {
	return b.besideTools(ctx, "host", toolbox.HostPackages())
}

// besideTools makes a tree that no image depends on, so that no lock covers it.
func (b *Build) besideTools(ctx context.Context, name string, packages []string) (dir string, err error) {
	dir = filepath.Join(b.CacheDir, "tools", name+"-"+b.treeName("", packages))
	return dir, b.buildTree(ctx, dir, func(ctx context.Context) (source, error) { return b.treeSource(ctx, "", packages) })
}

// source is what the trees of programs and the image have in common.
func (b *Build) source(ctx context.Context, section string, d rootfs.Distribution, m rootfs.Mirror, suite string, components, packages []string) (source, error) {
	options, err := rootfs.HostAptOptions(ctx, b.Host)
	if err != nil {
		return source{}, err
	}
	if m.Snapshot {
		options = append(options, `Acquire::Check-Valid-Until "false"`)
	}
	exclude, include := rootfs.Unneeded()
	return source{section: section, from: from(d.Name, suite, components), spec: rootfs.Spec{
		Suite: suite, Sources: m.Sources(d, suite, components), Keyring: d.Keyring, Packages: packages,
		Epoch: b.Config.OS.SourceDateEpoch, Exclude: exclude, Include: include, AptOpts: options,
	}}, nil
}

// bootstrapTree installs a tree. Where the lock binds it, what the mirror has is
// compared before anything is downloaded, and what was installed after it: the
// mirror may have moved in between.
func (b *Build) bootstrapTree(ctx context.Context, src source, tarFile, list string) ([]bundle.Package, error) {
	locked, spec := b.locked(src.section), src.spec
	if locked != nil {
		spec.Pins = locked.Packages
		offered, err := b.resolveTree(ctx, spec)
		if err != nil {
			return nil, err
		}
		if err := locked.Check(src.from, offered); err != nil {
			return nil, err
		}
	}
	var packages []bundle.Package
	err := b.withTempDir(ctx, func(dir string) (err error) {
		spec.TempDir = dir
		packages, err = rootfs.Bootstrap(ctx, b.Host, spec, tarFile, list)
		return err
	})
	if err != nil || locked == nil {
		return packages, err
	}
	if err := locked.Check(src.from, packages); err != nil {
		return nil, errors.Join(err, os.Remove(tarFile), os.Remove(list))
	}
	return packages, nil
}

// withTempDir lets mmdebstrap work in a folder that is in the undo record:
// killed, it leaves half a root file system there.
func (b *Build) withTempDir(ctx context.Context, do func(dir string) error) error {
	dir, err := b.tempDir()
	if err != nil {
		return err
	}
	err = do(dir)
	// The next build tries again what could not be removed now.
	return errors.Join(err, b.removeTemp(context.WithoutCancel(ctx), dir))
}

func (b *Build) tempDir() (string, error) {
	b.undoing.Lock()
	defer b.undoing.Unlock()
	return b.journal().TempDir()
}

func (b *Build) removeTemp(ctx context.Context, dir string) error {
	b.undoing.Lock()
	defer b.undoing.Unlock()
	return b.journal().Remove(ctx, b.Host, dir)
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
