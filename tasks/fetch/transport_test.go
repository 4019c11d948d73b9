package fetch

import (
	"context"
	"errors"
	"net/http"
	"os"
	"testing"
	"time"

	"cc-base/tasks/filetest"
)

// tells says who asks, as a transport does that logs in.
type tells struct{ base http.RoundTripper }

func (t tells) RoundTrip(req *http.Request) (*http.Response, error) {
	req.Header.Set("Authorization", "Bearer word")
	return t.base.RoundTrip(req)
}

func TestATransportOfTheCallersIsUsed(t *testing.T) {
	t.Parallel()
	data := content(5000)
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer word" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		serve(data)(w, r)
	})
	o := quick()
	o.Transport = tells{NewTransport(o)}
	f := New(t.TempDir(), o)
	defer f.Close()
	path, err := f.Fetch(t.Context(), request(s, data))
	if err != nil {
		t.Fatal(err)
	}
	if string(filetest.Read(t, path)) != string(data) {
		t.Error("other bytes")
	}
	_, err = fetchIn(t, t.TempDir(), request(s, data))
	if Status(err) != http.StatusUnauthorized {
		t.Errorf("status %d of %v", Status(err), err)
	}
	for _, other := range []error{nil, errors.New("x"), context.Canceled, os.ErrNotExist, errStalled} {
		if n := Status(other); n != 0 {
			t.Errorf("status %d of %v", n, other)
		}
	}
}

func TestATransportWithoutOptionsWaitsNotForEver(t *testing.T) {
	t.Parallel()
	if d := NewTransport(Options{}).ResponseHeaderTimeout; d != 30*time.Second {
		t.Errorf("waits %v for a reply's header", d)
	}
}
