package main

// What green does not prove: the evidence is signed by a test's own keys in
// AMD's format, not by a processor, and the sockets are this process's, not
// QEMU's.

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-sev-guest/abi"
	sevtest "github.com/google/go-sev-guest/testing"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/release"
	"cc-base/tasks/release/operator"
	"cc-base/tasks/tee/evidence"
)

// chip is an SEV-SNP processor of the test's own.
type chip struct {
	lock        sync.Mutex // the library signs with a source of randomness that has none
	signer      *sevtest.AmdSigner
	measurement byte
}

var oneSigner = sync.OnceValues(func() (*sevtest.AmdSigner, error) {
	born := time.Now().Add(-time.Hour)
	return (&sevtest.AmdSignerBuilder{
		ProductName: "Milan-B1", ArkCreationTime: born, AskCreationTime: born, AsvkCreationTime: born, VcekCreationTime: born, VlekCreationTime: born,
		VcekCustom: sevtest.CertOverride{SerialNumber: big.NewInt(7)},
	}).TestOnlyCertChain()
})

func newChip(t *testing.T) *chip {
	t.Helper()
	signer, err := oneSigner()
	if err != nil {
		t.Fatal(err)
	}
	return &chip{signer: signer, measurement: 0x3E}
}

// Report implements evidence.Reporter.
func (c *chip) Report(_ context.Context, data [64]byte) (evidence.Evidence, error) {
	c.lock.Lock()
	defer c.lock.Unlock()
	raw := sevtest.CreateRawReport(&sevtest.TestReportOptions{ReportData: data[:], Version: 3, FMS: 0x00a00f11})
	r := raw[:abi.ReportSize]
	binary.LittleEndian.PutUint64(r[0x08:], 0x30000)
	copy(r[0x90:0xC0], bytes.Repeat([]byte{c.measurement}, 48))
	R, S, err := c.signer.Sign(abi.SignedComponent(r))
	if err == nil {
		err = abi.SetSignature(R, S, r)
	}
	table, terr := c.signer.CertTableBytes()
	return evidence.Evidence{Kind: evidence.SNP, Report: r, Certs: table}, errors.Join(err, terr)
}

// text is a log that many may write.
type text struct {
	lock sync.Mutex
	b    bytes.Buffer
}

func (s *text) Write(p []byte) (int, error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	return s.b.Write(p)
}

func (s *text) String() string {
	s.lock.Lock()
	defer s.lock.Unlock()
	return s.b.String()
}

// desk is an operator's folder: key, policy, store.
type desk struct {
	dir    string
	public ed25519.PublicKey
	app    *app
	out    *text
	err    *text
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	// Unix sockets have short names.
	dir, err := os.MkdirTemp("", "r")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &desk{dir: dir, out: &text{}, err: &text{}}
	d.app = &app{out: d.out, err: d.err}
	signer := newChip(t).signer
	var roots []byte
	for _, c := range []*x509.Certificate{signer.Ask, signer.Ark} {
		roots = append(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	if d.public, err = operator.GenerateKey(d.path("key.pem")); err != nil {
		t.Fatal(err)
	}
	policy := `{"version": 1, "measurements": [{"kind": "snp", "digest": "` + strings.Repeat("3e", 48) + `"}], "products": ["Milan"], "debug": "never", "amdRoots": "roots.pem", "enrol": true}`
	if err := errors.Join(os.WriteFile(d.path("roots.pem"), roots, 0o600), os.WriteFile(d.path("policy.json"), []byte(policy), 0o600)); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *desk) path(name string) string { return filepath.Join(d.dir, name) }

// release starts the service with its usual flags and more.
func (d *desk) release(ctx context.Context, more ...string) error {
	return d.app.release(ctx, append([]string{"--policy", d.path("policy.json"), "--key", d.path("key.pem"), "--store", d.path("store"), "--audit", d.path("audit")}, more...))
}

func (d *desk) decisions(t *testing.T) []operator.Decision {
	t.Helper()
	data, err := os.ReadFile(d.path("audit"))
	if err != nil {
		t.Fatal(err)
	}
	var out []operator.Decision
	for line := range strings.Lines(string(data)) {
		var one operator.Decision
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		out = append(out, one)
	}
	return out
}

func newInstance(t *testing.T) string {
	t.Helper()
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		t.Fatal(err)
	}
	h := hex.EncodeToString(b[:])
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}

// wait returns the first match in the log.
func wait(t *testing.T, log *text, pattern string) string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if m := re.FindStringSubmatch(log.String()); m != nil {
			return m[len(m)-1]
		}
	}
	t.Fatalf("no %q in %q", pattern, log.String())
	return ""
}

func (d *desk) ask(t *testing.T, conn net.Conn, c *chip, id string) ([]byte, error) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	return release.Asker{Operator: d.public, Reporter: c}.Ask(ctx, conn, release.Question{Instance: id, Volumes: []string{"cc-dynamic"}, CreatedThisBoot: true})
}

func TestReleaseNewKey(t *testing.T) {
	d := newDesk(t)
	path := d.path("new.pem")
	if err := d.app.release(t.Context(), []string{"--new-key", path}); err != nil {
		t.Fatal(err)
	}
	line, ok := strings.CutSuffix(d.out.String(), "\n")
	public, err := release.ParseOperatorKey(line)
	if !ok || err != nil {
		t.Fatalf("%q: %v", d.out.String(), err)
	}
	key, err := operator.ReadKey(path)
	if err != nil || !public.Equal(key.Public()) {
		t.Errorf("the printed key is another one, or %v", err)
	}
	if seed := base64.StdEncoding.EncodeToString(key.Seed()); strings.Contains(d.out.String()+d.err.String(), seed) {
		t.Error("the private key is printed")
	}
	faulttest.Want(t, d.app.release(t.Context(), []string{"--new-key", path}), fault.Usage, "never overwritten")
	if again, err := operator.ReadKey(path); err != nil || !again.Equal(key) {
		t.Errorf("the key was overwritten: %v", err)
	}
}

func TestReleaseServesManyAtOnceOnListen(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			d := newDesk(t)
			address := "tcp:127.0.0.1:0"
			if network == "unix" {
				address = "unix:" + d.path("s")
			}
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- d.release(ctx, "--listen", address) }()
			where := wait(t, d.err, `listening on \w+:(\S+)\n`)
			if network == "unix" {
				where = d.path("s")
			}
			const guests = 8
			c := newChip(t)
			keys := make([][]byte, guests)
			ids := make([]string, guests)
			var all sync.WaitGroup
			for i := range guests {
				ids[i] = newInstance(t)
				all.Go(func() {
					conn, err := net.Dial(network, where)
					if err != nil {
						t.Error(err)
						return
					}
					defer conn.Close()
					if keys[i], err = d.ask(t, conn, c, ids[i]); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			stop()
			if err := <-done; err != nil {
				t.Errorf("stopped service: %v", err)
			}
			decided := d.decisions(t)
			if len(decided) != guests {
				t.Errorf("%d decisions", len(decided))
			}
			audit, _ := os.ReadFile(d.path("audit"))
			said := string(audit) + d.err.String() + d.out.String()
			for i, key := range keys {
				kept, err := os.ReadFile(d.path("store/" + ids[i] + ".key"))
				if err != nil || !bytes.Equal(kept, key) || len(key) != release.KeySize {
					t.Errorf("guest %d got another key, or %v", i, err)
				}
				if strings.Contains(said, hex.EncodeToString(key)) || strings.Contains(said, base64.StdEncoding.EncodeToString(key)) || strings.Contains(said, string(key)) {
					t.Error("a key is in a log")
				}
			}
			if st, err := os.Stat(d.path("audit")); err != nil || st.Mode().Perm() != 0o600 {
				t.Errorf("audit: mode %v, %v", st.Mode(), err)
			}
		})
	}
}

// qemu is the listening socket of a machine's port.
func qemu(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestReleaseOnceOverConnect(t *testing.T) {
	d := newDesk(t)
	done := make(chan error, 1)
	go func() {
		done <- d.release(t.Context(), "--connect", "unix:"+d.path("port"), "--once", "--timeout", "30s")
	}()
	wait(t, d.err, "waiting for") // the machine starts later than the service
	l := qemu(t, d.path("port"))

	// The machine is reset in the middle: its socket hangs up, and comes back.
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if conn, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	key, err := d.ask(t, conn, newChip(t), newInstance(t))
	if err != nil || len(key) != release.KeySize {
		t.Fatalf("%d bytes, %v\n%s", len(key), err, d.err)
	}
	conn.Close()
	if err := <-done; err != nil {
		t.Errorf("the service: %v", err)
	}
	if got := d.decisions(t); len(got) != 1 || got[0].Verdict != operator.Released || !got[0].Enrolled || got[0].Product != "Milan" || got[0].Measurement != strings.Repeat("3e", 48) {
		t.Errorf("%+v", got)
	}
}

func TestReleaseOnceTellsOfADenial(t *testing.T) {
	d := newDesk(t)
	l := qemu(t, d.path("port"))
	done := make(chan error, 1)
	go func() { done <- d.release(t.Context(), "--connect", "unix:"+d.path("port"), "--once") }()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := newChip(t)
	c.measurement = 0x3F
	_, err = d.ask(t, conn, c, newInstance(t))
	faulttest.Want(t, err, fault.ReleaseDenied, "measurement")
	// The line stays open: the service ends by itself.
	faulttest.Want(t, <-done, fault.ReleaseDenied, "measurement")
	if fault.Exit(err) != fault.ExitFailed {
		t.Errorf("exit status %d", fault.Exit(err))
	}
	if files, _ := os.ReadDir(d.path("store")); len(files) != 0 {
		t.Errorf("enrolled: %v", files)
	}
}

func TestReleaseTimeout(t *testing.T) {
	d := newDesk(t)
	faulttest.Want(t, d.release(t.Context(), "--connect", "unix:"+d.path("port"), "--once", "--timeout", "50ms"), fault.ReleaseNoAnswer, "50ms")
	if err := d.release(t.Context(), "--listen", "unix:"+d.path("port"), "--timeout", "50ms"); err != nil {
		t.Errorf("a service whose time is over: %v", err)
	}
}

func TestReleaseAuditGoesToStandardOutputWithoutAFile(t *testing.T) {
	d := newDesk(t)
	l := qemu(t, d.path("port"))
	done := make(chan error, 1)
	go func() {
		done <- d.app.release(t.Context(), []string{"--policy", d.path("policy.json"), "--key", d.path("key.pem"), "--store", d.path("store"), "--connect", "unix:" + d.path("port"), "--once"})
	}()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	id := newInstance(t)
	if _, err := d.ask(t, conn, newChip(t), id); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	var got operator.Decision
	if err := json.Unmarshal([]byte(d.out.String()), &got); err != nil || got.Instance != id {
		t.Errorf("%q: %v", d.out, err)
	}
}

func TestReleaseSockets(t *testing.T) {
	d := newDesk(t)
	// A socket that a killed service left.
	l, err := net.Listen("unix", d.path("dead"))
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if err := d.release(t.Context(), "--listen", "unix:"+d.path("dead"), "--timeout", "20ms"); err != nil {
		t.Errorf("a dead socket: %v", err)
	}
	qemu(t, d.path("busy"))
	faulttest.Want(t, d.release(t.Context(), "--listen", "unix:"+d.path("busy")), fault.Usage, "already")
	if err := os.WriteFile(d.path("file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	faulttest.Want(t, d.release(t.Context(), "--listen", "unix:"+d.path("file")), fault.Usage, "no socket")
	if data, _ := os.ReadFile(d.path("file")); string(data) != "x" {
		t.Error("the file was touched")
	}
	faulttest.Want(t, d.release(t.Context(), "--listen", "tcp:256.0.0.1:1"), fault.Usage, "--listen")
}

func TestReleaseRefusals(t *testing.T) {
	d := newDesk(t)
	if err := errors.Join(os.Mkdir(d.path("open"), 0o755), os.WriteFile(d.path("bad.json"), []byte("{\n \"enroll\": 1}"), 0o600), os.Symlink(d.path("x"), d.path("link"))); err != nil {
		t.Fatal(err)
	}
	full := func(change ...string) []string {
		args := []string{"--policy", d.path("policy.json"), "--key", d.path("key.pem"), "--store", d.path("store"), "--listen", "unix:" + d.path("s")}
		for i := 0; i < len(change); i += 2 {
			for at := range args {
				if args[at] == change[i] {
					args[at+1] = change[i+1]
				}
			}
		}
		return args
	}
	for _, tc := range []struct {
		args []string
		code fault.Code
		word string
	}{
		{nil, fault.Usage, "--policy is needed"},
		{full()[:6], fault.Usage, "--connect and --listen"},
		{append(full(), "--connect", "unix:x"), fault.Usage, "--connect and --listen"},
		{append(full(), "--new-key", "x"), fault.Usage, "stands alone"},
		{append(full(), "--secret", "x"), fault.Usage, "secret"},
		{append(full(), "stray"), fault.Usage, "stray"},
		{append(full(), "--timeout", "-1s"), fault.Usage, "negative"},
		{full("--listen", "udp:1.2.3.4:5"), fault.Usage, "neither unix:PATH"},
		{full("--listen", "tcp:localhost"), fault.Usage, "no port"},
		{full("--listen", "unix:"), fault.Usage, "neither unix:PATH"},
		{full("--policy", d.path("bad.json")), fault.Usage, "bad.json:2:10: unknown key"},
		{full("--policy", d.path("none")), fault.Usage, "none"},
		{full("--key", d.path("none")), fault.SigningKey, "none"},
		{full("--key", d.path("policy.json")), fault.SigningKey, "no PEM"},
		{full("--store", d.path("open")), fault.Usage, "others may enter"},
		{append(full(), "--audit", d.path("link")), fault.Usage, "--audit"},
		{[]string{"--new-key", d.path("none/key.pem")}, fault.SigningKey, "none"},
	} {
		err := d.app.release(t.Context(), tc.args)
		faulttest.Want(t, err, tc.code, tc.word)
	}
	if err := d.app.release(t.Context(), []string{"--help"}); err != nil || !strings.Contains(d.out.String(), "--new-key") {
		t.Errorf("help: %v, %q", err, d.out)
	}
}

func TestReleaseUsageNamesEveryFlag(t *testing.T) {
	for _, name := range []string{"new-key", "policy", "key", "store", "audit", "connect", "listen", "once", "timeout"} {
		if !strings.Contains(releaseUsage, "--"+name) {
			t.Errorf("--%s is not in the usage", name)
		}
	}
	for _, name := range []string{"policy", "report-data", "at", "json"} {
		if !strings.Contains(evidenceUsage, "--"+name) {
			t.Errorf("--%s is not in the usage", name)
		}
	}
}
