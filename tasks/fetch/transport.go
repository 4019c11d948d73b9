package fetch

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/cavaliergopher/grab/v3"
)

// maxRedirects is enough for a mirror network's front (one or two).
const maxRedirects = 5

var (
	errStalled   = errors.New("the transfer stood still for too long")
	errRedirects = fmt.Errorf("more than %d redirects", maxRedirects)
	errRange     = errors.New("the server did not continue where the part ends")
	errLength    = errors.New("the server has a file of another size")
	errStatus    = errors.New("a success status that does not fit a download")
)

// NewTransport sets what http.DefaultTransport leaves open. There is no total
// timeout: a large file on a slow line is fine as long as it moves.
func NewTransport(opts Options) *http.Transport {
	opts = opts.withDefaults()
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: opts.HeaderTimeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   opts.HeaderTimeout,
		ResponseHeaderTimeout: opts.HeaderTimeout,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   8,
		ForceAttemptHTTP2:     true,
		// Otherwise Go asks for gzip by itself and unpacks it: other bytes and
		// no length.
		DisableCompression: true,
	}
}

// client is for one attempt at a file of size bytes.
func (f *Fetcher) client(size int64) *http.Client {
	return &http.Client{
		Transport:     &guard{base: f.transport, idle: f.opts.IdleTimeout, size: size},
		CheckRedirect: fewRedirects,
	}
}

func fewRedirects(_ *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return errRedirects
	}
	return nil
}

// guard stands between grab and the network and lets through only replies that
// grab handles rightly.
type guard struct {
	base http.RoundTripper
	idle time.Duration
	size int64 // of the whole file, bytes
}

// RoundTrip implements http.RoundTripper.
//
// grab asks with HEAD whether it may resume, gives up when HEAD fails, and asks
// for a range when HEAD says that is possible. Some servers refuse HEAD and
// some do not announce ranges but have them, so the HEAD is answered here with
// yes; whether it is true shows in the reply to the GET.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method == http.MethodHead {
		return &http.Response{
			Status: "200 OK", StatusCode: http.StatusOK,
			Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header:        http.Header{"Accept-Ranges": {"bytes"}},
			ContentLength: g.size, Body: http.NoBody, Request: req,
		}, nil
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	sent := req.Clone(ctx)
	offset := rangeStart(sent)
	if offset == 0 {
		sent.Header.Del("Range") // bytes=0-, for an empty part
	}
	resp, err := g.base.RoundTrip(sent)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	resp.Request = req
	left, err := g.check(resp, offset)
	if err != nil {
		cancel(nil)
		return nil, errors.Join(err, resp.Body.Close())
	}
	b := &body{rc: resp.Body, ctx: ctx, cancel: cancel, idle: g.idle, left: left}
	b.timer = time.AfterFunc(g.idle, func() { cancel(errStalled) })
	resp.Body = b
	return resp, nil
}

// rangeStart is N of the header "Range: bytes=N-" that grab sends, else 0.
func rangeStart(req *http.Request) int64 {
	value, ok := strings.CutPrefix(req.Header.Get("Range"), "bytes=")
	if !ok {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSuffix(value, "-"), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// noLimit stands for a body whose length does not matter: a redirect, an error.
const noLimit = math.MaxInt64

// check returns how many bytes the body must have.
func (g *guard) check(resp *http.Response, offset int64) (left int64, err error) {
	switch {
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return noLimit, nil
	case resp.StatusCode == http.StatusOK && offset == 0:
		left = g.size
	case resp.StatusCode == http.StatusPartialContent && offset > 0:
		// RFC 9110 section 14.4; the size after the slash may be unknown.
		got := resp.Header.Get("Content-Range")
		want := fmt.Sprintf("bytes %d-%d/", offset, g.size-1)
		if got != want+strconv.FormatInt(g.size, 10) && got != want+"*" {
			return 0, fmt.Errorf("%w: Content-Range %q", errRange, got)
		}
		left = g.size - offset
	case offset > 0:
		// 200: the range was ignored, which RFC 9110 section 14.2 allows.
		return 0, fmt.Errorf("%w: status %d", errRange, resp.StatusCode)
	default:
		// grab takes any 2xx, 204 No Content too.
		return 0, fmt.Errorf("%w: %d", errStatus, resp.StatusCode)
	}
	if resp.ContentLength >= 0 && resp.ContentLength != left {
		return 0, fmt.Errorf("%w: %d bytes offered, %d expected", errLength, resp.ContentLength, left)
	}
	return left, nil
}

// body limits a reply's body in time and length.
type body struct {
	rc     io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	idle   time.Duration
	left   int64
}

// Read fails with errStalled when nothing comes for the idle time; the clock
// stands while the caller is busy writing. A body that is too long is refused
// before the excess is written; one that is too short is a broken transfer even
// where the reply named no length and its end looks regular.
func (b *body) Read(p []byte) (int, error) {
	b.timer.Reset(b.idle)
	n, err := b.rc.Read(p)
	b.timer.Stop()
	if err != nil && err != io.EOF && errors.Is(context.Cause(b.ctx), errStalled) {
		return n, errStalled
	}
	if b.left == noLimit {
		return n, err
	}
	b.left -= int64(n)
	if b.left < 0 {
		return 0, fmt.Errorf("%w: more than expected", errLength)
	}
	if err == io.EOF && b.left > 0 {
		return n, fmt.Errorf("ended %d bytes early: %w", b.left, io.ErrUnexpectedEOF)
	}
	return n, err
}

func (b *body) Close() error {
	b.timer.Stop()
	b.cancel(nil)
	return b.rc.Close()
}

// verdict is what to do about a failed attempt.
type verdict int

const (
	again     verdict = iota // try again, from where the part ends
	startOver                // try again without the part
	permanent                // give up
)

// classify judges an attempt that failed with err; resumed says that it began
// with a part from before.
func classify(err error, resumed bool) verdict {
	status := grab.StatusCodeError(0)
	var badCert *tls.CertificateVerificationError
	var file *fs.PathError
	switch {
	case errors.Is(err, errLength), errors.Is(err, grab.ErrBadLength), errors.Is(err, grab.ErrBadChecksum), errors.Is(err, errRange):
		// The file may have changed on the server since the part was begun,
		// or the part is bad: a clean start decides.
		if resumed {
			return startOver
		}
		return permanent
	case errors.As(err, &status):
		return classifyStatus(int(status), resumed)
	case errors.Is(err, errRedirects), errors.Is(err, errStatus), errors.As(err, &badCert):
		return permanent
	case errors.As(err, &file):
		return permanent // the disk is full or the cache cannot be written
	}
	return again
}

func classifyStatus(status int, resumed bool) verdict {
	switch status {
	case http.StatusRequestedRangeNotSatisfiable:
		if resumed {
			return startOver
		}
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return again
	}
	return permanent
}

// Status is the HTTP status that ended a download, or 0 when something else did.
func Status(err error) int {
	status := grab.StatusCodeError(0)
	errors.As(err, &status)
	return int(status)
}

// wrongContent says that err means other bytes than asked for, as opposed to
// bytes that did not come.
func wrongContent(err error) bool {
	return errors.Is(err, errLength) || errors.Is(err, grab.ErrBadLength) || errors.Is(err, grab.ErrBadChecksum)
}

// retryAfter is the pause that a busy server asks for, in seconds or as a date
// (RFC 9110 section 10.2.3); 0 when it does not.
func retryAfter(resp *http.Response) time.Duration {
	if resp == nil || resp.StatusCode != http.StatusServiceUnavailable && resp.StatusCode != http.StatusTooManyRequests {
		return 0
	}
	value := resp.Header.Get("Retry-After")
	if n, err := strconv.Atoi(value); err == nil && n > 0 {
		return time.Duration(min(n, 3600)) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(time.Until(at), 0)
	}
	return 0
}
