package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"cc-base/tasks/fault"
	"cc-base/tasks/monitor"
)

// stage is one step of the pipeline. It never names itself in its errors: the
// runner does.
type stage struct {
	name  string // as in `mage NAME`, lower case
	title string // what it does, as a gerund

	// The inputs, all of which are part of the stage's key.
	keys  []string                                  // of the configuration
	reads []string                                  // stages whose outputs it reads
	facts func(b *Build) (map[string]string, error) // anything else: digests of trees, keys, versions

	outputs func(b *Build) []string // files it writes; all must be there afterwards
	cached  bool                    // results are kept for other output folders and for going back to former settings
	run     func(ctx context.Context, b *Build) error
}

// stages is the order of the build. A stage may read the outputs of any stage
// above it; those that do not wait for each other run side by side.
func stages() []stage {
	return []stage{
		prepareStage(),   // checks the machine, builds the tools tree
		bootstrapStage(), // the distribution's packages
		baseOSStage(),    // overlays and settings over them
		teeStage(),       // guest program, TEE modules
		initrdStage(),    // initrd of the root as it is now
		encryptStage(),   // root volume: erofs, verity, LUKS2
		appsStage(),      // application and configuration volumes, the same way
		firmwareStage(),  // OVMF for SEV-SNP and TDX, where it can be had
		packageStage(),   // UKI, disk image, measurements, installer
		signStage(),      // OpenPGP signature of the installer
	}
}

// Through brings every stage up to and including target up to date.
func (b *Build) Through(ctx context.Context, target string) error {
	if err := b.sparesChanged(target); err != nil {
		return err
	}
	list := stages()
	last := slices.IndexFunc(list, func(s stage) bool { return s.name == target })
	if last < 0 {
		return fmt.Errorf("no stage is called %q", target)
	}
	stop := b.monitored(ctx)
	all, err := b.abreast(ctx, list[:last+1])
	samples := stop(all)
	if err != nil {
		return err
	}
	b.conclude(all, samples)
	return nil
}

// conclude says what the build came to.
func (b *Build) conclude(all []outcome, samples []monitor.Sample) {
	b.report(all, samples)
	if idle(all) {
		b.log.event(all[len(all)-1].stage, "nothing has changed")
		return
	}
	if text := comparison(all); text != "" {
		b.log.event("build", "%s", text)
	}
}

// idle tells that no stage had anything to do.
func idle(all []outcome) bool {
	return !slices.ContainsFunc(all, func(o outcome) bool { return o.action != "none" })
}

// one runs the stage, or takes its result from the cache, unless the last one
// still stands.
func (b *Build) one(ctx context.Context, s stage) (outcome, error) {
	o := outcome{stage: s.name, action: "none"}
	if err := ctx.Err(); err != nil {
		return o, err
	}
	in, err := b.inputs(s)
	if err != nil {
		return o, err
	}
	old, fresh := b.fresh(s, in)
	if fresh {
		return o, nil
	}
	// Until the new record is written there is none: a stage that was killed
	// half-way is not one that was finished.
	if err := os.Remove(b.recordFile(s.name)); err != nil && !os.IsNotExist(err) {
		return o, err
	}
	began := time.Now()
	if cached, ok := b.cache().restore(b, s, in); ok {
		b.log.event(s.name, "taken from the cache")
		o.action, o.took = "cache", time.Since(began)
		_, err := b.record(s, in, cached.took())
		return o, err
	}
	o.action, o.expected = "run", b.expect(s.name, old)
	b.log.event(s.name, "%s", s.title)
	stop := b.log.running(s.name, o.expected)
	err = s.run(ctx, b)
	stop()
	if errors.Is(err, syscall.ENOSPC) {
		return o, fault.New(fault.HostSpace, err).Hint("free some space, or set CC_OUT_DIR to a folder on a larger disk; finished stages are not repeated")
	}
	if err != nil {
		return o, err
	}
	if in, err = b.settle(s, in); err != nil {
		return o, err
	}
	o.took = time.Since(began)
	done, err := b.record(s, in, o.took)
	if err != nil {
		return o, err
	}
	o.bytes = done.bytes()
	b.remember(o)
	if err := b.cache().keep(b, s); err != nil {
		b.log.event(s.name, "not kept in the cache: %v", err)
	}
	if o.took > 5*time.Second {
		b.log.event(s.name, "done in %s", seconds(o.took))
	}
	return o, nil
}

// toBeMade stands for an input that the stage makes itself when it is missing,
// such as a key.
const toBeMade = "to be made"

// settle returns the inputs with those filled in that running the stage has
// made. All others stay as they were before it ran: a file that was edited
// meanwhile may or may not have been read, and then the next build must run the
// stage again.
func (b *Build) settle(s stage, before map[string]string) (map[string]string, error) {
	after, err := b.inputs(s)
	if err != nil {
		return nil, err
	}
	for k, v := range before {
		if v == toBeMade {
			before[k] = after[k]
		}
	}
	return before, nil
}
