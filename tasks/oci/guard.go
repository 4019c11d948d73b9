package oci

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"
)

var errStalled = errors.New("nothing has moved for too long")

// guard ends an exchange in which nothing moves: no byte of the request taken,
// no header and no byte of the reply given. A limit for the whole of it would
// end large uploads over slow lines.
type guard struct {
	base http.RoundTripper
	idle time.Duration
}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	clock := time.AfterFunc(g.idle, func() { cancel(errStalled) })
	sent := req.Clone(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		sent.Body = &upward{req.Body, clock, g.idle}
	}
	resp, err := g.base.RoundTrip(sent)
	if err != nil {
		clock.Stop()
		err = because(ctx, err)
		cancel(nil)
		return nil, err
	}
	clock.Stop()
	resp.Body = &downward{rc: resp.Body, ctx: ctx, cancel: cancel, clock: clock, idle: g.idle}
	return resp, nil
}

// because names the reason for which the guard has ended an exchange.
func because(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errStalled) {
		return errStalled
	}
	return err
}

// upward is a request's body: whoever sends it reads on when the network has
// taken what was read before.
type upward struct {
	io.ReadCloser
	clock *time.Timer
	idle  time.Duration
}

func (u *upward) Read(p []byte) (int, error) {
	u.clock.Reset(u.idle)
	return u.ReadCloser.Read(p)
}

// downward is a reply's body. The clock stands while the caller is busy.
type downward struct {
	rc     io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	clock  *time.Timer
	idle   time.Duration
}

func (d *downward) Read(p []byte) (int, error) {
	d.clock.Reset(d.idle)
	n, err := d.rc.Read(p)
	d.clock.Stop()
	if err != nil && err != io.EOF {
		err = because(d.ctx, err)
	}
	return n, err
}

func (d *downward) Close() error {
	d.clock.Stop()
	d.cancel(nil)
	return d.rc.Close()
}
