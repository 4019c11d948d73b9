package oci

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/retry"

	"cc-base/tasks/fault"
	"cc-base/tasks/fetch"
)

// maxRedirects is enough for a registry that keeps its blobs elsewhere.
const maxRedirects = 5

var (
	errRedirects = fmt.Errorf("more than %d redirects", maxRedirects)
	errDowngrade = errors.New("a redirect from HTTPS to HTTP")
)

// Options say how to reach a registry.
type Options struct {
	PlainHTTP bool          // HTTP in place of HTTPS: to this machine, or to PlainHost
	PlainHost string        // HOST:PORT of another registry that PlainHTTP may be for, see [PlainEnv]
	Idle      time.Duration // longest pause in which nothing moves; 60 s
}

// Remote is a repository of a registry. Manifests and small blobs go through
// what is embedded, large ones are downloaded by [cc-base/tasks/fetch] with
// [Remote.Downloads].
type Remote struct {
	*remote.Repository
	downloads auth.Client
	base      *http.Transport
}

// Connect makes a repository of the reference; nothing is sent yet. Logins are
// those that docker's config.json (in DOCKER_CONFIG, or ~/.docker) has or whose
// helper program it names.
func Connect(ref registry.Reference, o Options) (*Remote, error) {
	if o.PlainHTTP {
		if err := allowPlain(ref, o.PlainHost); err != nil {
			return nil, err
		}
	}
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
	if err != nil {
		return nil, fault.Newf(fault.RegistryDenied, "the logins of registries: %w", err)
	}
	idle := cmp.Or(o.Idle, time.Minute)
	// The guard is first: what it ends is not tried again by itself.
	base := fetch.NewTransport(fetch.Options{HeaderTimeout: 2 * idle})
	login := auth.Client{
		Credential: credentials.Credential(store),
		Cache:      auth.NewCache(),
		ClientID:   "cc-base",
		Header:     http.Header{"User-Agent": {"cc-base"}},
	}
	r := &Remote{base: base, downloads: login}
	// A download follows redirects and guards its pace by itself.
	r.downloads.Client = &http.Client{Transport: base, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	login.Client = &http.Client{Transport: retry.NewTransport(&guard{base: base, idle: idle}), CheckRedirect: checkRedirect}
	r.Repository = &remote.Repository{
		Client: &login, Reference: ref, PlainHTTP: o.PlainHTTP,
		// Registries without a list of referrers get one under a tag. Former
		// versions of that list are for the registry to clean up: to delete is
		// a right that a publisher need not have.
		SkipReferrersGC: true,
	}
	return r, nil
}

// Close drops idle connections.
func (r *Remote) Close() { r.base.CloseIdleConnections() }

// BlobURL is where a blob is downloaded from.
func (r *Remote) BlobURL(d digest.Digest) string {
	scheme := "https"
	if r.PlainHTTP {
		scheme = "http"
	}
	return fmt.Sprintf("%s://%s/v2/%s/blobs/%s", scheme, r.Reference.Host(), r.Reference.Repository, d)
}

// Downloads is a transport that logs in for requests to the registry, and for
// those alone: a redirect to other storage goes there without.
func (r *Remote) Downloads() http.RoundTripper { return downloads{r} }

type downloads struct{ remote *Remote }

// RoundTrip implements http.RoundTripper.
func (d downloads) RoundTrip(req *http.Request) (*http.Response, error) {
	if !d.remote.PlainHTTP && req.URL.Scheme != "https" {
		return nil, errDowngrade
	}
	ctx := auth.AppendRepositoryScope(req.Context(), d.remote.Reference, auth.ActionPull)
	sent := req.Clone(ctx)
	// Logins are looked up by this field, which is empty after a redirect.
	sent.Host = cmp.Or(req.Host, req.URL.Host)
	return d.remote.downloads.Do(sent)
}

func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return errRedirects
	}
	if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return errDowngrade
	}
	return nil
}

// ReadTag asks what a tag names now.
func (r *Remote) ReadTag(ctx context.Context, tag string) (digest.Digest, error) {
	desc, err := r.Manifests().Resolve(ctx, tag)
	if err != nil {
		return "", Failure(err)
	}
	return desc.Digest, nil
}
