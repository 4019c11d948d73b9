// Package registrytest gives tests a real registry: distribution's server, built
// from its Go module, on the loopback interface with storage in a folder.
package registrytest

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/crypto/bcrypt"

	"cc-base/tasks/filetest"
	"cc-base/tasks/lab"
)

// User and Password are whom a registry with a login lets in.
const (
	User     = "publisher"
	Password = "correct horse"
)

// Server is a registry that a test can kill and start again on its address.
type Server struct {
	Address string // HOST:PORT
	storage string
	config  string
	program string
	running *exec.Cmd
}

// Start builds a registry and starts it with empty storage. login has it demand
// [User] and [Password]. It ends with the test.
func Start(t testing.TB, login bool) *Server {
	t.Helper()
	dir := t.TempDir()
	s := &Server{program: build(t, dir), storage: filepath.Join(dir, "storage"), Address: freeAddress(t)}
	// Without a secret of its own every start would forget the uploads before.
	config := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"+
		"storage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: %q, secret: test}\n", s.storage, s.Address)
	if login {
		hash, err := bcrypt.GenerateFromPassword([]byte(Password), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		file := filetest.Write(t, filepath.Join(dir, "htpasswd"), fmt.Appendf(nil, "%s:%s\n", User, hash))
		config += fmt.Sprintf("auth: {htpasswd: {realm: test, path: %q}}\n", file)
	}
	s.config = filetest.Write(t, filepath.Join(dir, "config.yml"), []byte(config))
	t.Cleanup(s.Kill)
	s.Restart(t)
	return s
}

// Restart starts the registry again after [Server.Kill].
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	cmd := exec.Command(s.program, "serve", s.config)
	var said strings.Builder
	cmd.Stderr = &said
	// By default it sends traces to a collector.
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.running = cmd
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get("http://" + s.Address + "/v2/")
		if err == nil {
			resp.Body.Close()
			return
		}
		if time.Now().After(end) {
			s.Kill()
			t.Fatalf("the registry does not answer: %v\n%s", err, said.String())
		}
	}
}

// Kill ends the registry at once, whatever it does.
func (s *Server) Kill() {
	if s.running == nil {
		return
	}
	_ = s.running.Process.Kill() // it may have ended by itself
	_ = s.running.Wait()
	s.running = nil
}

// Blob is the file in which the registry keeps a blob.
func (s *Server) Blob(d digest.Digest) string {
	hex := d.Encoded()
	return filepath.Join(s.storage, "docker/registry/v2/blobs/sha256", hex[:2], hex, "data")
}

// built is the program, compiled once for all tests of a package.
var built = sync.OnceValues(func() ([]byte, error) {
	at, err := exec.Command("go", "list", "-f", "{{.Dir}}", "cc-base/tasks/oci/registrytest").Output()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "registry")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "registry")
	cmd := exec.Command("go", "build", "-o", program, ".")
	cmd.Dir = filepath.Join(strings.TrimSpace(string(at)), "testdata/registry")
	cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	return os.ReadFile(program)
})

func build(t testing.TB, dir string) string {
	t.Helper()
	program, err := built()
	if err != nil {
		lab.Absent(t, "the registry cannot be built: %v", err)
	}
	file := filetest.Write(t, filepath.Join(dir, "registry"), program)
	if err := os.Chmod(file, 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Auth is the login as docker's config.json keeps it.
func Auth() string { return base64.StdEncoding.EncodeToString([]byte(User + ":" + Password)) }
