package fetch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/cavaliergopher/grab/v3"
)

func TestSigned(t *testing.T) {
	t.Parallel()
	data := content(5000)
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(code) }
	}
	for name, tc := range map[string]struct {
		handler  http.HandlerFunc
		want     error // in the chain; nil for success
		gone     bool
		requests int
	}{
		"takes what there is":         {serve(data), nil, false, 1},
		"refuses more than was said":  {serve(append(content(5000), content(1)...)), errLength, false, 1},
		"tells a file that is gone":   {status(410), grab.StatusCodeError(410), true, 1},
		"tells a file that is absent": {status(404), grab.StatusCodeError(404), true, 1},
		"gives up at once on 403":     {status(403), grab.StatusCodeError(403), false, 1},
		"tries again on 503":          {status(503), grab.StatusCodeError(503), false, 3},
		"tries again when the connection breaks": {func(w http.ResponseWriter, r *http.Request) {
			breakOff(w, data, 700)
		}, nil, false, 3},
		"tries again when nothing comes": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, errStalled, false, 3},
		"ends a redirect loop": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusFound)
		}, errRedirects, false, maxRedirects + 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, tc.handler)
			f := New(t.TempDir(), quick())
			defer f.Close()
			got, err := f.Signed(t.Context(), s.URL+"/file", int64(len(data)))
			if good := name == "takes what there is"; good != (err == nil) || good != (string(got) == string(data)) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("error %v, want %v in it", err, tc.want)
			}
			if Gone(err) != tc.gone {
				t.Errorf("gone: %t, want %t: %v", Gone(err), tc.gone, err)
			}
			if n := len(s.requests()); n != tc.requests {
				t.Errorf("%d requests, want %d", n, tc.requests)
			}
		})
	}
}

func TestSignedEndsWithItsContextAndAsksNoOddAddress(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	f := New(t.TempDir(), quick())
	defer f.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := f.Signed(ctx, s.URL, 10); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	for _, address := range []string{"file:///etc/passwd", "http://user:word@mirror.invalid/", "InRelease", "http://"} {
		if _, err := f.Signed(t.Context(), address, 10); err == nil {
			t.Errorf("%s was asked", address)
		}
	}
}
