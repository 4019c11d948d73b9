// Package build is the pipeline: which stages there are, in which order, what
// each one reads and writes, and when it may be skipped.
//
// The order is the slice in [stages]; read it from top to bottom. A stage's
// body reads like the shell script it replaces and calls the packages beside
// this one. The truth between two runs is under out/state: what each stage was
// made from and what it wrote. Equal inputs and unchanged outputs: the stage is
// skipped.
package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/conf"
	"cc-base/tasks/fault"
	"cc-base/tasks/lockfile"
	"cc-base/tasks/sh"
	"cc-base/tasks/toolbox"
)

// Options is what a build takes from outside; [FromEnvironment] reads it from
// the process.
type Options struct {
	Repo       string    // root of the checkout
	ConfigDir  string    // CC_CONFIG_DIR, default Repo/config
	Profile    string    // CC_PROFILE, default none
	OutDir     string    // CC_OUT_DIR, default Repo/out
	CacheDir   string    // CC_CACHE_DIR, default Repo/out/cache
	Verbose    bool      // show the output of commands as it comes
	Debug      bool      // DEBUG=true: more about keys, never a secret
	Unlocked   bool      // leave the lock alone, whatever LOCKED says
	Monitor    bool      // show and keep what a build takes of the machine
	Force      bool      // CC_FORCE=1: write over an image that was changed
	SeedFile   string    // CC_SEED_FILE: volume keys are drawn from it, for tests
	CacheLimit int64     // CC_CACHE_LIMIT, bytes that the results of stages may take in the cache
	Stderr     io.Writer // events, one line each

	LookupEnv func(string) (string, bool) // for signing keys
}

// FromEnvironment returns the options of this process, started anywhere in the
// checkout.
func FromEnvironment(verbose bool) (Options, error) {
	repo, err := findRepo()
	if err != nil {
		return Options{}, err
	}
	o := Options{
		Repo:      repo,
		ConfigDir: envOr("CC_CONFIG_DIR", filepath.Join(repo, "config")),
		Profile:   os.Getenv("CC_PROFILE"),
		OutDir:    envOr("CC_OUT_DIR", filepath.Join(repo, "out")),
		CacheDir:  envOr("CC_CACHE_DIR", filepath.Join(repo, "out", "cache")),
		Verbose:   verbose,
		Stderr:    os.Stderr,
		LookupEnv: os.LookupEnv,
		SeedFile:  os.Getenv("CC_SEED_FILE"),
	}
	o.Debug, _ = strconv.ParseBool(os.Getenv("DEBUG")) // what is no boolean is false
	o.Force, _ = strconv.ParseBool(os.Getenv("CC_FORCE"))
	if o.CacheLimit, err = parseLimit(os.Getenv("CC_CACHE_LIMIT")); err != nil {
		return Options{}, fault.New(fault.Config, err)
	}
	for _, dir := range []*string{&o.ConfigDir, &o.OutDir, &o.CacheDir} {
		if *dir, err = filepath.Abs(*dir); err != nil {
			return Options{}, err
		}
	}
	return o, nil
}

func envOr(key, fallback string) string {
	if v := os.Getenv(key); v != "" {
		return v
	}
	return fallback
}

// findRepo walks up to the folder that holds our go.mod.
func findRepo() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "magefiles")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("this is not a checkout of cc-base: no folder magefiles here or above")
		}
		dir = parent
	}
}

// Build is one run: the configuration and the places it works in. Stages get
// it and share nothing else.
type Build struct {
	Options
	Config conf.Config
	Host   sh.Host      // the machine's own programs
	Tools  toolbox.Tree // the tools tree; usable once prepare has run

	lock *lockfile.Lock // binds the build; nil without LOCKED=yes
	log  *log

	// Stages run side by side.
	making  sync.Mutex // keys that several of them need
	undoing sync.Mutex // the undo record
}

// Open takes the output folder for a build and makes its folders. The caller
// calls closeBuild when done; it releases the folder.
func Open(o Options, config conf.Config) (b *Build, closeBuild func(), err error) {
	b = &Build{Options: o, Config: config}
	if err := b.useLock(); err != nil {
		return nil, nil, err
	}
	if err := o.makeOut(); err != nil {
		return nil, nil, err
	}
	unlock, err := lock(filepath.Join(o.OutDir, ".lock"))
	if err != nil {
		return nil, nil, err
	}
	for _, dir := range []string{b.scratch(), b.stateDir(), b.out("log"), o.CacheDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			unlock()
			return nil, nil, err
		}
	}
	file, err := os.OpenFile(b.out("log", "build.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		unlock()
		return nil, nil, err
	}
	b.log = newLog(o.Stderr, file)
	b.Host = sh.Host{Log: file}
	if o.Verbose {
		b.Host.Verbose = o.Stderr
	}
	b.Tools = toolbox.Tree{Dir: b.toolsDir(), Host: b.Host, Binds: []string{o.OutDir, o.CacheDir}}
	return b, func() { file.Close(); unlock() }, nil
}

// makeOut makes the output folder and makes sure that it can be written to.
func (o Options) makeOut() error {
	err := os.MkdirAll(o.OutDir, 0o755)
	if err == nil {
		err = unix.Access(o.OutDir, unix.W_OK)
	}
	if err != nil {
		return fault.New(fault.OutputFolder, fmt.Errorf("the output folder %s: %w", o.OutDir, err)).Hint("set CC_OUT_DIR to a folder that you may write to")
	}
	return nil
}

func (b *Build) out(elem ...string) string {
	return filepath.Join(append([]string{b.OutDir}, elem...)...)
}
func (b *Build) scratch(elem ...string) string {
	return filepath.Join(append([]string{b.OutDir, "scratch"}, elem...)...)
}

// keysDir is the folder of this image's keys, or a file in it. Those of a debug
// image are apart, so that no machine that trusts the others accepts it: not its
// boot image (Secure Boot, and the TPM's policy of PCR 11), not its installer.
func (b *Build) keysDir(elem ...string) string {
	dir := []string{"keys"}
	if b.Config.Security.DebugImage {
		dir = append(dir, "debug")
	}
	return b.out(append(dir, elem...)...)
}

func (b *Build) stateDir() string { return b.out("state") }

// lock takes the output folder for this process. Two builds in one folder
// would spoil each other; the second is told who holds it.
func lock(file string) (unlock func(), err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, _ := io.ReadAll(io.LimitReader(f, 20))
		f.Close()
		return nil, fault.Newf(fault.Busy, "%s is in use by another build, process %s", filepath.Dir(file), holder).
			Hint("wait for it, or set CC_OUT_DIR to another folder")
	}
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(fmt.Sprint(os.Getpid())), 0)
	return func() { _ = f.Truncate(0); f.Close() }, nil
}

// Run brings every stage up to target up to date. It is what the mage targets
// call.
func Run(ctx context.Context, o Options, target string) error {
	// Before anything is written, a log's line included.
	if err := o.sparesChanged(target); err != nil {
		return err
	}
	return with(ctx, o, func(ctx context.Context, b *Build) error { return b.Through(ctx, target) })
}

// with checks configuration and machine, opens a build for do, and ends it when
// the process is told to.
//
// Mage cancels its context on Ctrl-C only; SIGTERM would kill this process at
// once, and one sent to `go tool mage` would leave it running without a parent
// (reference: mage v1.17.2 mage/template.go). So it listens itself, and follows
// its parents.
func with(ctx context.Context, o Options, do func(context.Context, *Build) error) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := followParents(ctx, stop); err != nil {
		return err
	}
	config, err := o.config()
	if err != nil {
		return err
	}
	if err := preflight(ctx, o, config); err != nil {
		return err
	}
	b, closeBuild, err := Open(o, config)
	if err != nil {
		return err
	}
	defer closeBuild()
	if err := b.journal().Replay(ctx, b.Host); err != nil {
		return err
	}
	if err := atomicfile.Write(b.out("config.resolved"), 0o644, config.Resolved()); err != nil {
		return err
	}
	if err := do(ctx, b); err != nil {
		if ctx.Err() != nil {
			return fault.New(fault.Interrupted, err)
		}
		return err
	}
	return nil
}
