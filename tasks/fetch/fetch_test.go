package fetch

// What green does not prove: everything runs against a server on the loopback
// interface. No TLS, no proxy, no HTTP/2, no real mirror and no network that
// loses packets is involved, and power is not cut, so fsync is only called, not
// proven.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cc-base/tasks/digest"
	"cc-base/tasks/fault"
	"cc-base/tasks/filetest"

	"github.com/cavaliergopher/grab/v3"
	"github.com/google/go-cmp/cmp"
)

// quick has limits that a test can wait for.
func quick() Options {
	return Options{
		HeaderTimeout: 2 * time.Second, IdleTimeout: 150 * time.Millisecond,
		Tries: 3, Backoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond,
	}
}

func content(n int) []byte {
	return filetest.Noise(1, n)
}

// site is a server that notes the requests it gets.
type site struct {
	*httptest.Server
	mu   sync.Mutex
	seen []string // method and range
}

func newSite(t *testing.T, handler http.HandlerFunc) *site {
	t.Helper()
	s := &site{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.seen = append(s.seen, strings.TrimSpace(r.Method+" "+r.Header.Get("Range")))
		s.mu.Unlock()
		handler(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *site) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.seen...)
}

// serve answers as a good mirror does, ranges included.
func serve(data []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
		w.Header().Set("Content-Disposition", `attachment; filename="../../elsewhere"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}
}

// breakOff sends the first n bytes of a reply that announces more.
func breakOff(w http.ResponseWriter, data []byte, n int) {
	w.Header().Set("Content-Length", fmt.Sprint(len(data)))
	_, _ = w.Write(data[:n])
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

func request(s *site, data []byte) Request {
	return Request{URL: s.URL + "/file", Size: int64(len(data)), SHA256: digest.Bytes(data)}
}

func fetchIn(t *testing.T, dir string, req Request) (string, error) {
	t.Helper()
	f := New(dir, quick())
	defer f.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return f.Fetch(ctx, req)
}

// left lists the cache by name and size.
func left(t *testing.T, dir string) map[string]int64 {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "sha256"))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		got[e.Name()] = info.Size()
	}
	return got
}

func plantPart(t *testing.T, dir, sum string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, "sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sha256", sum+".part"), data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// wantFile checks path and that nothing else is in the cache.
func wantFile(t *testing.T, dir, path string, err error, data []byte) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, data) {
		t.Error("content differs")
	}
	if diff := cmp.Diff(map[string]int64{digest.Bytes(data): int64(len(data))}, left(t, dir)); diff != "" {
		t.Errorf("cache (-want +got):\n%s", diff)
	}
}

func TestDownloadsVerifiesAndThenUsesTheCache(t *testing.T) {
	t.Parallel()
	data, dir := content(3<<20), t.TempDir()
	s := newSite(t, serve(data))
	req := request(s, data)
	var last atomic.Int64
	req.Progress = func(done, total int64) {
		if total != int64(len(data)) || done > total {
			t.Errorf("progress %d of %d", done, total)
		}
		last.Store(done)
	}
	path, err := fetchIn(t, dir, req)
	wantFile(t, dir, path, err, data)
	if last.Load() != int64(len(data)) {
		t.Errorf("progress ended at %d", last.Load())
	}
	if want := filepath.Join(dir, "sha256", digest.Bytes(data)); path != want {
		t.Errorf("path %s, want %s", path, want)
	}
	if st, _ := os.Stat(path); time.Since(st.ModTime()) > time.Hour {
		t.Errorf("took the server's time %s", st.ModTime())
	}
	path, err = fetchIn(t, dir, req)
	wantFile(t, dir, path, err, data)
	if diff := cmp.Diff([]string{"GET"}, s.requests()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestReplacesACachedFileThatWasDamaged(t *testing.T) {
	t.Parallel()
	data, dir := content(1000), t.TempDir()
	s := newSite(t, serve(data))
	for name, bad := range map[string][]byte{"same size": make([]byte, 1000), "short": data[:10]} {
		path, err := fetchIn(t, dir, request(s, data))
		wantFile(t, dir, path, err, data)
		if err := os.WriteFile(path, bad, 0o644); err != nil {
			t.Fatal(name, err)
		}
		path, err = fetchIn(t, dir, request(s, data))
		wantFile(t, dir, path, err, data)
	}
}

func TestResumes(t *testing.T) {
	t.Parallel()
	data := content(100_000)
	changed := append(bytes.Repeat([]byte{'x'}, 40_000), data[40_000:]...)
	ignoring := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write(data)
	}
	chunked := func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush() // no length
		_, _ = w.Write(data)
	}
	shifted := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") == "" {
			serve(data)(w, r)
			return
		}
		r.Header.Set("Range", "bytes=39999-99998")
		serve(data)(w, r)
	}
	unsatisfied := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		serve(data)(w, r)
	}
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		part    []byte
		want    []string
	}{
		"where the part ends":                         {serve(data), data[:40_000], []string{"GET bytes=40000-"}},
		"from an empty part by a plain request":       {serve(data), []byte{}, []string{"GET"}},
		"without a request when the part is complete": {serve(data), data, nil},
		"anew when the range is ignored":              {ignoring, data[:40_000], []string{"GET bytes=40000-", "GET"}},
		"anew when the whole comes without a length":  {chunked, data[:40_000], []string{"GET bytes=40000-", "GET"}},
		"anew when another range comes":               {shifted, data[:40_000], []string{"GET bytes=40000-", "GET"}},
		"anew when the range is refused":              {unsatisfied, data[:40_000], []string{"GET bytes=40000-", "GET"}},
		"anew when the part is of another file":       {serve(data), changed[:40_000], []string{"GET bytes=40000-", "GET"}},
		"anew when the complete part is wrong":        {serve(data), changed, []string{"GET"}},
		"anew when the part is longer than the file":  {serve(data), append(data[:len(data):len(data)], 'x'), []string{"GET"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := newSite(t, tc.handler)
			plantPart(t, dir, digest.Bytes(data), tc.part)
			path, err := fetchIn(t, dir, request(s, data))
			wantFile(t, dir, path, err, data)
			if diff := cmp.Diff(tc.want, s.requests()); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
		})
	}
}

func TestGoesOnAfterATransferBreaksOff(t *testing.T) {
	t.Parallel()
	data, dir := content(100_000), t.TempDir()
	var n atomic.Int32
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 1 {
			breakOff(w, data, 30_000)
		}
		serve(data)(w, r)
	})
	path, err := fetchIn(t, dir, request(s, data))
	wantFile(t, dir, path, err, data)
	if diff := cmp.Diff([]string{"GET", "GET bytes=30000-"}, s.requests()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestGoesOnAfterTheServerIsBusy(t *testing.T) {
	t.Parallel()
	data, dir := content(1000), t.TempDir()
	var n atomic.Int32
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) <= 2 {
			w.Header().Set("Retry-After", "3600") // MaxBackoff bounds it
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return
		}
		serve(data)(w, r)
	})
	path, err := fetchIn(t, dir, request(s, data))
	wantFile(t, dir, path, err, data)
	if got := len(s.requests()); got != 3 {
		t.Errorf("%d requests, want 3", got)
	}
}

func TestGoesOnAfterTheTransferStandsStill(t *testing.T) {
	t.Parallel()
	data, dir := content(100_000), t.TempDir()
	var n atomic.Int32
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 1 {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			_, _ = w.Write(data[:5000])
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			return
		}
		serve(data)(w, r)
	})
	path, err := fetchIn(t, dir, request(s, data))
	wantFile(t, dir, path, err, data)
	if diff := cmp.Diff([]string{"GET", "GET bytes=5000-"}, s.requests()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestFails(t *testing.T) {
	t.Parallel()
	data := content(50_000)
	wrong := bytes.Repeat([]byte{'x'}, len(data))
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(code) }
	}
	for name, tc := range map[string]struct {
		handler  http.HandlerFunc
		want     error      // in the chain, or nil
		code     fault.Code // or empty
		requests int
		left     map[string]int64
	}{
		"at once on wrong bytes of the same size": {serve(wrong), grab.ErrBadChecksum, fault.Damaged, 1, nil},
		"at once on a shorter file":               {serve(data[:100]), errLength, fault.Damaged, 1, nil},
		"at once on a longer file":                {serve(append(wrong, 'x')), errLength, fault.Damaged, 1, nil},
		"at once on a longer file without length": {func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			_, _ = w.Write(append(wrong, 'x'))
		}, errLength, fault.Damaged, 1, nil},
		"at once on 404": {status(404), grab.StatusCodeError(404), "", 1, nil},
		"at once on 204": {status(204), errStatus, "", 1, nil},
		"at once on a range not asked for": {func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusPartialContent)
		}, errStatus, "", 1, nil},
		"after all attempts on 503": {status(503), grab.StatusCodeError(503), "", 3, nil},
		"after the sixth hop of a redirect loop": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusFound)
		}, errRedirects, "", maxRedirects + 1, nil},
		"after all attempts when the same place always breaks": {func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.Header.Get("Range"), "bytes=700-") {
				panic(http.ErrAbortHandler)
			}
			breakOff(w, data, 700)
		}, nil, "", 4, map[string]int64{digest.Bytes(data) + ".part": 700}},
		"on a silent server": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, errStalled, "", 3, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := newSite(t, tc.handler)
			path, err := fetchIn(t, dir, request(s, data))
			if err == nil || path != "" {
				t.Fatalf("got %q, %v", path, err)
			}
			if tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("error %v, want %v in it", err, tc.want)
			}
			var code fault.Code
			if e := fault.Of(err); e != nil {
				code = e.Code
			}
			if code != tc.code {
				t.Errorf("code %q, want %q: %v", code, tc.code, err)
			}
			if got := len(s.requests()); got != tc.requests {
				t.Errorf("%d requests, want %d: %v", got, tc.requests, s.requests())
			}
			want := tc.left
			if want == nil {
				want = map[string]int64{}
			}
			if diff := cmp.Diff(want, left(t, dir)); diff != "" {
				t.Errorf("cache (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNoReplyHeaderIsATimeout(t *testing.T) {
	t.Parallel()
	data, dir := content(10), t.TempDir()
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	opts := quick()
	opts.HeaderTimeout, opts.Tries = 50*time.Millisecond, 2
	f := New(dir, opts)
	defer f.Close()
	if _, err := f.Fetch(context.Background(), request(s, data)); err == nil {
		t.Fatal("no error")
	}
	if got := len(s.requests()); got != 2 {
		t.Errorf("%d requests, want 2", got)
	}
}

func TestCancelLeavesOnlyAPartThatTheNextFetchResumes(t *testing.T) {
	t.Parallel()
	data, dir := content(100_000), t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var n atomic.Int32
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 1 {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			_, _ = w.Write(data[:60_000])
			_ = http.NewResponseController(w).Flush()
			// Wait until they have arrived, so that what is left is known.
			for left(t, dir)[digest.Bytes(data)+".part"] < 60_000 {
				time.Sleep(time.Millisecond)
			}
			cancel()
			<-r.Context().Done()
			return
		}
		serve(data)(w, r)
	})
	f := New(dir, Options{})
	defer f.Close()
	path, err := f.Fetch(ctx, request(s, data))
	if !errors.Is(err, context.Canceled) || path != "" {
		t.Fatalf("got %q, %v", path, err)
	}
	if diff := cmp.Diff(map[string]int64{digest.Bytes(data) + ".part": 60_000}, left(t, dir)); diff != "" {
		t.Errorf("cache (-want +got):\n%s", diff)
	}
	path, err = fetchIn(t, dir, request(s, data))
	wantFile(t, dir, path, err, data)
	if diff := cmp.Diff([]string{"GET", "GET bytes=60000-"}, s.requests()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestManyFetchersOfOneFileAskOnce(t *testing.T) {
	t.Parallel()
	data, dir := content(1<<20), t.TempDir()
	s := newSite(t, serve(data))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			// Fetchers of their own: nothing in memory is shared, as between
			// two builds.
			if _, err := fetchIn(t, dir, request(s, data)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	wantFile(t, dir, filepath.Join(dir, "sha256", digest.Bytes(data)), nil, data)
	if got := len(s.requests()); got != 1 {
		t.Errorf("%d requests, want 1", got)
	}
}

func TestRefusesRequestsThatCannotBeChecked(t *testing.T) {
	t.Parallel()
	sum := digest.Bytes(nil)
	for name, req := range map[string]Request{
		"no size":       {URL: "http://host/f", SHA256: sum},
		"no digest":     {URL: "http://host/f", Size: 1},
		"a path digest": {URL: "http://host/f", Size: 1, SHA256: "../../" + sum[6:]},
		"upper case":    {URL: "http://host/f", Size: 1, SHA256: strings.ToUpper(sum[:63]) + "A"},
		"a password":    {URL: "http://me:secret@host/f", Size: 1, SHA256: sum},
		"another way":   {URL: "ftp://host/f", Size: 1, SHA256: sum},
		"no host":       {URL: "/etc/passwd", Size: 1, SHA256: sum},
	} {
		dir := filepath.Join(t.TempDir(), "cache")
		_, err := fetchIn(t, dir, req)
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error repeats it: %v", name, err)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: something was written", name)
		}
	}
}

func TestRefusesAPartThatIsALink(t *testing.T) {
	t.Parallel()
	data, dir := content(10), t.TempDir()
	s := newSite(t, serve(data))
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.MkdirAll(filepath.Join(dir, "sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(dir, "sha256", digest.Bytes(data)+".part")); err != nil {
		t.Fatal(err)
	}
	if _, err := fetchIn(t, dir, request(s, data)); err == nil {
		t.Error("no error")
	}
	if _, err := os.Lstat(victim); err == nil {
		t.Error("written through the link")
	}
}
