package oci_test

// What green does not prove: that registries other than the test's servers answer
// as they do; TLS is met with a certificate of the test's own.

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/oci"
)

var some = digest.FromString("some")

func TestReferencesAreRead(t *testing.T) {
	t.Parallel()
	for text, byDigest := range map[string]bool{
		"registry.example/team/cc-base:v1":                         false,
		"localhost:5000/cc-base:v1":                                false,
		"[::1]:5000/cc-base:v1":                                    false,
		"registry.example/cc-base@" + some.String():                true,
		"registry.example/cc-base:v1@" + some.String():             true,
		"registry.example:443/a/b/c/cc-base@" + some.String():      true,
		"registry.example/cc-base:" + strings.Repeat("v", 128):     false,
		"registry.example/cc-base:sha256-" + some.Encoded()[:1+63]: false,
	} {
		ref, err := oci.Parse(text)
		if err != nil || oci.ByDigest(ref) != byDigest {
			t.Errorf("%s: %+v, %v", text, ref, err)
		}
	}
	for _, text := range []string{
		"", "cc-base", "cc-base:v1", "registry.example/cc-base", "registry.example/cc-base:", "registry.example/Cc-base:v1",
		"https://registry.example/cc-base:v1", "registry.example/cc-base@sha256:1234", "registry.example/cc-base@md5:" + strings.Repeat("0", 32),
		"registry.example/cc-base:a b", "registry.example/../cc-base:v1", "registry.example/cc-base:" + strings.Repeat("v", 129),
	} {
		_, err := oci.Parse(text)
		faulttest.Want(t, err, fault.RegistryReference)
	}
}

func TestAPasswordInAReferenceIsNotRepeated(t *testing.T) {
	t.Parallel()
	_, err := oci.Parse("user:secret@registry.example/cc-base:v1")
	faulttest.Want(t, err, fault.RegistryReference)
	if strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
}

func TestPlainHTTPIsForThisMachineOrAsSaid(t *testing.T) {
	t.Parallel()
	for host, tc := range map[string]struct {
		named string
		ok    bool
	}{
		"localhost:5000":          {"", true},
		"localhost":               {"", true},
		"127.0.0.1:5000":          {"", true},
		"127.1.2.3":               {"", true},
		"[::1]:5000":              {"", true},
		"registry.example":        {"", false},
		"registry.example:5000":   {"registry.example:5000", true},
		"registry.example:5001":   {"registry.example:5000", false},
		"localhost.example:5000":  {"", false},
		"127.0.0.1.example:5000":  {"", false},
		"10.0.0.1:5000":           {"", false},
		"[2001:db8::1]:5000":      {"", false},
		"registry.example.a:5000": {"registry.example", false},
	} {
		r, err := oci.Connect(registry.Reference{Registry: host, Repository: "a", Reference: "b"}, oci.Options{PlainHTTP: true, PlainHost: tc.named})
		if tc.ok {
			if err != nil {
				t.Errorf("%s: %v", host, err)
				continue
			}
			r.Close()
			continue
		}
		faulttest.Want(t, err, fault.PlainHTTP, host)
	}
}

// server is a registry of the test's own making.
type server struct {
	*httptest.Server
	mu     sync.Mutex
	logins map[string]bool // path to whether a login came
}

func newServer(t *testing.T, handler http.HandlerFunc) *server {
	t.Helper()
	s := &server{logins: map[string]bool{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.logins[r.URL.Path] = r.Header.Get("Authorization") != ""
		s.mu.Unlock()
		handler(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) host() string { return s.Listener.Addr().String() }

func (s *server) login(path string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logins[path]
}

func connect(t *testing.T, s *server) *oci.Remote {
	t.Helper()
	ref, err := oci.Parse(s.host() + "/a:v1")
	if err != nil {
		t.Fatal(err)
	}
	r, err := oci.Connect(ref, oci.Options{PlainHTTP: true, Idle: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func TestAnswersOfARegistryHaveTheirCodes(t *testing.T) {
	t.Parallel()
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(code) }
	}
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		code    fault.Code
		passing bool
	}{
		"wants a login": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(401)
		}, fault.RegistryDenied, false},
		"forbids":         {status(403), fault.RegistryDenied, false},
		"has it not":      {status(404), fault.RegistryMissing, false},
		"refuses":         {status(418), fault.RegistryRefused, false},
		"is broken":       {status(501), fault.RegistryUnreachable, true},
		"hangs":           {func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, fault.RegistryUnreachable, true},
		"breaks off":      {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, fault.RegistryUnreachable, true},
		"goes in circles": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, 307) }, fault.RegistryUnreachable, false},
		"hangs in the body": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			w.Header().Set("Content-Length", "100")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, fault.RegistryUnreachable, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := connect(t, newServer(t, tc.handler))
			_, body, err := r.Manifests().FetchReference(t.Context(), some.String())
			if err == nil {
				_, err = io.ReadAll(body)
				body.Close()
			}
			faulttest.Want(t, oci.Failure(err), tc.code)
			if oci.Passing(err) != tc.passing {
				t.Errorf("passing: %t: %v", !tc.passing, err)
			}
		})
	}
}

func TestAServerThatIsNotThereMayComeBack(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	r := connect(t, s)
	s.Close()
	_, err := r.ReadTag(t.Context(), "v1")
	faulttest.Want(t, err, fault.RegistryUnreachable)
	if !oci.Passing(err) {
		t.Error("given up:", err)
	}
}

func TestWhoeverEndsTheProgramGetsNoCode(t *testing.T) {
	t.Parallel()
	r := connect(t, newServer(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := r.ReadTag(ctx, "v1")
	if err == nil || oci.Passing(context.Canceled) || fault.Of(oci.Failure(context.Canceled)) != nil {
		t.Error(err)
	}
}

func TestAnUploadThatNobodyTakesEnds(t *testing.T) {
	t.Parallel()
	done := make(chan struct{})
	var s *server
	s = newServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.Header().Set("Location", s.URL+"/v2/a/blobs/uploads/1?_state=secret")
			w.WriteHeader(http.StatusAccepted)
			return
		}
		<-done // without reading, so that this end does not see the other go
	})
	t.Cleanup(func() { close(done) })
	r := connect(t, s)
	const size = 64 << 20 // more than what lies in buffers
	err := r.Blobs().Push(t.Context(), descriptor(size), io.LimitReader(zeros{}, size))
	faulttest.Want(t, oci.Failure(err), fault.RegistryUnreachable)
	if text := oci.Failure(err).Error(); strings.Contains(text, "secret") || !strings.Contains(text, "uploads/1") {
		t.Error("the address of an upload is as good as a login for a while:", text)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestASlowUploadThatMovesGoesOn(t *testing.T) {
	t.Parallel()
	var s *server
	s = newServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.Header().Set("Location", s.URL+"/v2/a/blobs/uploads/1")
			w.WriteHeader(http.StatusAccepted)
			return
		}
		// Three times the pause that ends one in which nothing moves.
		for range 12 {
			_, _ = io.CopyN(io.Discard, r.Body, 4<<20)
			time.Sleep(50 * time.Millisecond)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusCreated)
	})
	const size = 64 << 20
	if err := connect(t, s).Blobs().Push(t.Context(), descriptor(size), io.LimitReader(zeros{}, size)); err != nil {
		t.Error(err)
	}
}

func TestLoginsGoToTheRegistryAlone(t *testing.T) {
	other := newServer(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "some") })
	s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != "word" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		http.Redirect(w, r, other.URL+"/storage", http.StatusTemporaryRedirect)
	})
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	filetest.Write(t, filepath.Join(dir, "config.json"), []byte(`{"auths":{"`+s.host()+`":{"auth":"dXNlcjp3b3Jk"}}}`)) // user:word
	r := connect(t, s)
	client := &http.Client{Transport: r.Downloads()}
	resp, err := client.Get(r.BlobURL(some))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || string(text) != "some" {
		t.Errorf("%q, %v", text, err)
	}
	if path := "/v2/a/blobs/" + some.String(); !s.login(path) || other.login("/storage") {
		t.Errorf("logins: registry %v, storage %v", s.logins, other.logins)
	}
	t.Setenv("DOCKER_CONFIG", filepath.Dir(filetest.Write(t, filepath.Join(t.TempDir(), "config.json"), []byte("{"))))
	_, err = oci.Connect(r.Reference, oci.Options{PlainHTTP: true})
	faulttest.Want(t, err, fault.RegistryDenied, "the logins of registries")
}

func TestHTTPSIsNotLeft(t *testing.T) {
	t.Parallel()
	ref, err := oci.Parse("registry.example/a:v1")
	if err != nil {
		t.Fatal(err)
	}
	r, err := oci.Connect(ref, oci.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if url := r.BlobURL(some); !strings.HasPrefix(url, "https://registry.example/") {
		t.Error(url)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://storage.example/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Downloads().RoundTrip(req)
	if err == nil || oci.Passing(err) {
		t.Error(err)
	}
}

func TestPartsHaveMediaTypes(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, name := range []string{oci.Installer, oci.Disk, oci.UKI, oci.CycloneDX, oci.SPDX, oci.Provenance, oci.Manifest, "measurements.json", "rvps.json", oci.Firmware + "OVMF.amdsev.fd"} {
		kind := oci.MediaType(name)
		if other, twice := seen[kind]; twice || !strings.HasPrefix(kind, "application/") {
			t.Errorf("%s: %s, as %s", name, kind, other)
		}
		seen[kind] = name
	}
	if oci.MediaType(oci.Signature) != "application/pgp-signature" || oci.MediaType(oci.Sums) != "text/plain" {
		t.Error("signature or checksum")
	}
	if oci.Failure(nil) != nil || !errors.Is(oci.Failure(io.ErrClosedPipe), io.ErrClosedPipe) {
		t.Error("an error that is none of a registry's")
	}
}

func descriptor(size int64) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: "application/octet-stream", Digest: some, Size: size}
}
