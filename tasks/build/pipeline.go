package build

import (
	"context"
	"fmt"
	"os"
	"time"
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
	run     func(ctx context.Context, b *Build) error
}

// stages is the order of the build. A stage may read the outputs of any stage
// above it.
func stages() []stage {
	return []stage{
		prepareStage(),   // checks the machine, builds the tools tree
		bootstrapStage(), // the distribution's packages
		baseOSStage(),    // overlays and settings over them
		teeStage(),       // guest program, TEE modules, initrd
		encryptStage(),   // root volume: erofs, verity, LUKS2
		appsStage(),      // application and configuration volumes, the same way
		packageStage(),   // UKI, disk image, measurements, installer
		signStage(),      // OpenPGP signature of the installer
	}
}

// Through brings every stage up to and including target up to date.
func (b *Build) Through(ctx context.Context, target string) error {
	ran := 0
	for _, s := range stages() {
		did, err := b.one(ctx, s)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if did {
			ran++
		}
		if s.name != target {
			continue
		}
		if ran == 0 {
			b.log.event(target, "nothing has changed")
		}
		return nil
	}
	return fmt.Errorf("no stage is called %q", target)
}

// one runs the stage unless its last result still stands, and tells which.
func (b *Build) one(ctx context.Context, s stage) (ran bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	in, err := b.inputs(s)
	if err != nil {
		return false, err
	}
	old, fresh := b.fresh(s, in)
	if fresh {
		return false, nil
	}
	began := time.Now()
	b.log.event(s.name, "%s", s.title)
	// Until the new record is written there is none: a stage that was killed
	// half-way is not one that was finished.
	if err := os.Remove(b.recordFile(s.name)); err != nil && !os.IsNotExist(err) {
		return true, err
	}
	stop := b.log.running(s.name, old.took())
	err = s.run(ctx, b)
	stop()
	if err != nil {
		return true, err
	}
	// Running it may have made what it reads, such as a key.
	if in, err = b.inputs(s); err != nil {
		return true, err
	}
	took := time.Since(began)
	if err := b.record(s, in, took); err != nil {
		return true, err
	}
	if took > 5*time.Second {
		b.log.event(s.name, "done in %s", seconds(took))
	}
	return true, nil
}
