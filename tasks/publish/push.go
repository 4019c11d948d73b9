package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"cc-base/tasks/oci"
)

const (
	tries     = 5               // of one blob, while the registry does not answer as it should
	sayEvery  = 2 * time.Second // how often a line tells how far a blob is
	quietSize = 1 << 20         // bytes up to which a blob is not worth a line
)

// pusher sends blobs and counts them.
type pusher struct {
	remote *oci.Remote
	o      Options
	sent   int
	had    int
}

// blob sends a blob that the registry does not have.
func (p *pusher) blob(ctx context.Context, b part) error {
	pause := cmp.Or(p.o.Backoff, time.Second)
	for try := 1; ; try++ {
		err := p.once(ctx, b)
		if err == nil {
			return nil
		}
		err = fmt.Errorf("%s: %w", b.name, err)
		if ctx.Err() != nil || try == tries || !oci.Passing(err) {
			return err
		}
		p.o.Say("%v; trying again in %v", oci.Failure(err), pause)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause *= 2
	}
}

func (p *pusher) once(ctx context.Context, b part) (err error) {
	there, err := p.remote.Blobs().Exists(ctx, b.Descriptor)
	if err != nil {
		return err
	}
	if there {
		p.had++
		p.o.Say("%s: %s, is there already", b.name, size(b.Size))
		return nil
	}
	in, err := b.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	p.o.Say("%s: %s, sending", b.name, size(b.Size))
	if err := p.remote.Blobs().Push(ctx, b.Descriptor, &counted{in: in, part: b, say: p.o.Say}); err != nil {
		return err
	}
	p.sent++
	return nil
}

// counted tells how much was read, which is what the line has taken.
type counted struct {
	in   io.Reader
	part part
	say  func(format string, args ...any)
	done int64
	last time.Time
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.in.Read(b)
	c.done += int64(n)
	now := time.Now()
	if c.last.IsZero() {
		c.last = now
	}
	if c.part.Size > quietSize && now.Sub(c.last) >= sayEvery {
		c.last = now
		c.say("%s: %d%% of %s", c.part.name, c.done*100/c.part.Size, size(c.part.Size))
	}
	return n, err
}

func size(n int64) string {
	if n < 1e6 {
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}
