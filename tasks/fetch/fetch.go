// Package fetch downloads build inputs whose size and SHA-256 are known.
//
//	path, err := fetch.Fetch(ctx, fetch.Request{URL: url, Size: size, SHA256: sum}, cacheDir)
//
// The result lies in cacheDir/sha256/<sum>, named by its content: what is there
// has been verified, is verified again before each use, and may be shared by
// several builds at the same time. A download that breaks off leaves <sum>.part,
// from which the next one goes on.
//
// The transfer itself is github.com/cavaliergopher/grab v3.0.1. Its traps and
// where each is dealt with:
//
//   - no timeout and no retry: transport.go and [Options];
//   - a reply to a ranged request is appended unseen, a full one and one for
//     another range included: guard.RoundTrip;
//   - a HEAD that fails ends the download: guard.RoundTrip answers it;
//   - a reply without a length is written until the disk is full: body.Read;
//   - it writes in place under the final name, without fsync, and ignores the
//     error of close: it gets the .part, and partFile.publish does the rest;
//   - a file of the right size is taken without a request: always with a
//     checksum, so at least its bytes are looked at;
//   - the hash given to SetChecksum keeps its state: a new one per attempt;
//   - it takes time stamps and names from the server and panics where a parent
//     folder is a file: Fetcher.attempt turns all three off;
//   - its User-Agent, "grab", is refused by some servers: [Options].
package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"cc-base/tasks/digest"
	"cc-base/tasks/fault"

	"github.com/cavaliergopher/grab/v3"
)

// Request names one file.
type Request struct {
	URL    string // http or https, without user name and password
	Size   int64  // bytes, above 0
	SHA256 string // 64 lower-case hexadecimal digits

	// Progress, when set, is called a few times a second, and once at the
	// end, with the bytes that are there, including those of an earlier
	// attempt; done can fall when a part turns out to be wrong. Calls never
	// overlap.
	Progress func(done, total int64)
}

// Options tune a [Fetcher]. Zero values mean the defaults.
type Options struct {
	HeaderTimeout time.Duration // from request to reply header; 30 s
	IdleTimeout   time.Duration // longest pause within the body; 60 s
	Tries         int           // attempts in a row that bring no new byte; 5
	Backoff       time.Duration // pause before the second attempt, doubled for each further; 1 s
	MaxBackoff    time.Duration // longest pause, Retry-After included; 30 s
	UserAgent     string        // cc-base

	// Transport sends the requests, for a server that wants to know who asks;
	// [NewTransport] of these options when nil. It must not follow redirects.
	Transport http.RoundTripper
}

func (o Options) withDefaults() Options {
	set := func(d *time.Duration, value time.Duration) {
		if *d <= 0 {
			*d = value
		}
	}
	set(&o.HeaderTimeout, 30*time.Second)
	set(&o.IdleTimeout, 60*time.Second)
	set(&o.Backoff, time.Second)
	set(&o.MaxBackoff, 30*time.Second)
	if o.Tries <= 0 {
		o.Tries = 5
	}
	if o.UserAgent == "" {
		o.UserAgent = "cc-base"
	}
	return o
}

// Fetcher downloads into one cache. It is safe for concurrent use.
type Fetcher struct {
	dir       string // cacheDir/sha256
	opts      Options
	transport http.RoundTripper
}

// New returns a fetcher for the cache in cacheDir, which is made when needed.
func New(cacheDir string, opts Options) *Fetcher {
	opts = opts.withDefaults()
	if opts.Transport == nil {
		opts.Transport = NewTransport(opts)
	}
	return &Fetcher{dir: filepath.Join(cacheDir, "sha256"), opts: opts, transport: opts.Transport}
}

// Close drops idle connections.
func (f *Fetcher) Close() { (&http.Client{Transport: f.transport}).CloseIdleConnections() }

// Fetch is one download with the default options; see [Fetcher.Fetch].
func Fetch(ctx context.Context, req Request, cacheDir string) (string, error) {
	f := New(cacheDir, Options{})
	defer f.Close()
	return f.Fetch(ctx, req)
}

func checkAddress(address string) error {
	u, err := url.Parse(address)
	if err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("fetch: %q is not an http or https address", address)
	}
	if u.User != nil {
		// It would end up in logs and error messages.
		return fmt.Errorf("fetch: the address of %s holds a password or user name", u.Host)
	}
	return nil
}

var hexDigest = regexp.MustCompile(`^[0-9a-f]{64}$`)

func (r Request) check() error {
	if err := checkAddress(r.URL); err != nil {
		return err
	}
	if r.Size <= 0 {
		return fmt.Errorf("fetch: %s: size %d, the exact size is needed", r.URL, r.Size)
	}
	if !hexDigest.MatchString(r.SHA256) {
		return fmt.Errorf("fetch: %s: malformed sha256 %q", r.URL, r.SHA256)
	}
	return nil
}

// Fetch returns the path of the file in the cache, downloading it first when
// it is not there. The file is read-only by agreement: copy it, do not change
// it.
//
// Failures that may pass (a broken connection, a pause longer than
// IdleTimeout, status 408, 429 or 5xx) are tried again. Content of another
// size or digest than asked for is an error with code [fault.Damaged]; then no
// part is left. When ctx ends, the part stays for the next time.
func (f *Fetcher) Fetch(ctx context.Context, req Request) (string, error) {
	if err := req.check(); err != nil {
		return "", err
	}
	if err := os.MkdirAll(f.dir, 0o755); err != nil {
		return "", fmt.Errorf("fetch: %w", err)
	}
	final := filepath.Join(f.dir, req.SHA256)
	part, err := lockPart(ctx, final+".part")
	if err != nil {
		return "", fmt.Errorf("fetch: %w", err)
	}
	defer part.release()
	// Looked at under the lock: the one who held it before us may just have
	// finished the same file.
	ok, err := f.cached(ctx, final, req)
	if err != nil {
		return "", err
	}
	if ok {
		req.progress(req.Size)
		return final, part.truncate() // of no use any more; release removes it
	}
	if err := f.download(ctx, req, part); err != nil {
		return "", fmt.Errorf("fetch %s: %w", req.URL, err)
	}
	if err := part.publish(final); err != nil {
		return "", fmt.Errorf("fetch %s: %w", req.URL, err)
	}
	req.progress(req.Size)
	return final, nil
}

func (r Request) progress(done int64) {
	if r.Progress != nil {
		r.Progress(done, r.Size)
	}
}

// cached reports whether the file is there and intact. One that is not (a bad
// disk, a hand-edited cache) is removed.
func (f *Fetcher) cached(ctx context.Context, path string, req Request) (bool, error) {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("fetch: %w", err)
	}
	if st.Mode().IsRegular() && st.Size() == req.Size {
		sum, err := fileDigest(ctx, path)
		if err != nil {
			return false, fmt.Errorf("fetch: %w", err)
		}
		if sum == req.SHA256 {
			return true, nil
		}
	}
	if err := os.Remove(path); err != nil {
		return false, fmt.Errorf("fetch: %s is damaged: %w", path, err)
	}
	return false, nil
}

// download fills the part until its digest is right.
func (f *Fetcher) download(ctx context.Context, req Request, part *partFile) error {
	pause := f.opts.Backoff
	// The second bound ends a server that gives a few bytes and hangs up, for
	// ever.
	for fruitless, all := 0, 0; ; {
		had, err := part.size()
		if err != nil {
			return err
		}
		if had > req.Size {
			if err := part.truncate(); err != nil {
				return err
			}
			had = 0
		}
		after, err := f.attempt(ctx, req, part)
		if err == nil {
			return nil
		}
		if cerr := ctx.Err(); cerr != nil {
			return cerr
		}
		switch classify(err, had > 0) {
		case permanent:
			if wrongContent(err) {
				return errors.Join(fault.New(fault.Damaged, err), part.truncate())
			}
			return err
		case startOver:
			// No pause: the server did not fail, the part was wrong or cannot
			// be continued. The next attempt has none, so it gets another
			// verdict.
			if err := part.truncate(); err != nil {
				return err
			}
			continue
		}
		now, serr := part.size()
		if serr != nil {
			return errors.Join(err, serr)
		}
		all++
		fruitless++
		if now > had {
			fruitless, pause = 0, f.opts.Backoff
		}
		if fruitless >= f.opts.Tries || all >= 4*f.opts.Tries {
			return fmt.Errorf("given up after %d attempts: %w", all, err)
		}
		if err := sleep(ctx, min(max(pause, after), f.opts.MaxBackoff)); err != nil {
			return err
		}
		pause *= 2
	}
}

// attempt runs grab once. after is what the server asked for in Retry-After.
func (f *Fetcher) attempt(ctx context.Context, req Request, part *partFile) (after time.Duration, err error) {
	r, err := grab.NewRequest(part.path, req.URL)
	if err != nil {
		return 0, err
	}
	sum, err := hex.DecodeString(req.SHA256)
	if err != nil {
		return 0, err
	}
	r = r.WithContext(ctx)
	r.Size = req.Size
	r.IgnoreRemoteTime = true    // a time from the server has no place in a cache by content
	r.NoCreateDirectories = true // its own mkdir panics where a parent is a file
	// Not deleted on error: the part carries our lock and is truncated by us.
	r.SetChecksum(sha256.New(), sum, false)
	client := &grab.Client{HTTPClient: f.client(req.Size), UserAgent: f.opts.UserAgent, BufferSize: 256 << 10}
	resp := client.Do(r)

	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			req.progress(resp.BytesComplete())
		case <-resp.Done:
			return retryAfter(resp.HTTPResponse), resp.Err()
		}
	}
}

func fileDigest(ctx context.Context, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return digest.Reader(ctx, f)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
