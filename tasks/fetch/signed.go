package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/cavaliergopher/grab/v3"
)

// Signed returns a file whose digest nobody can know beforehand, because it is
// the one that the digests of others come from. It is not cached and not
// judged: the caller checks the signature that it carries. A file of more than
// most bytes is an error. Failures that may pass are tried again as in
// [Fetcher.Fetch].
func (f *Fetcher) Signed(ctx context.Context, address string, most int64) ([]byte, error) {
	if err := checkAddress(address); err != nil {
		return nil, err
	}
	pause := f.opts.Backoff
	for try := 1; ; try++ {
		data, err := f.read(ctx, address, most)
		if err == nil {
			return data, nil
		}
		if cerr := ctx.Err(); cerr != nil {
			return nil, cerr
		}
		if try == f.opts.Tries || classify(err, false) != again {
			return nil, fmt.Errorf("fetch %s: %w", address, err)
		}
		if err := sleep(ctx, min(pause, f.opts.MaxBackoff)); err != nil {
			return nil, err
		}
		pause *= 2
	}
}

func (f *Fetcher) read(ctx context.Context, address string, most int64) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", f.opts.UserAgent)
	client := &http.Client{Transport: f.transport, CheckRedirect: fewRedirects}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	b := &body{rc: resp.Body, ctx: ctx, cancel: cancel, idle: f.opts.IdleTimeout, left: noLimit}
	b.timer = time.AfterFunc(b.idle, func() { cancel(errStalled) })
	defer b.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, grab.StatusCodeError(resp.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(b, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > most {
		return nil, fmt.Errorf("%w: more than %d bytes", errLength, most)
	}
	return data, nil
}

// Gone tells whether err is a server's answer that it does not have the file.
func Gone(err error) bool {
	status := grab.StatusCodeError(0)
	return errors.As(err, &status) && (int(status) == http.StatusNotFound || int(status) == http.StatusGone)
}
