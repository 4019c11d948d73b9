package release_test

// What green does not prove: the processor is releasetest's, whose key lies in
// the repository, and the line is a pipe of this process. What a virtio-serial
// port does when a host connects, leaves and comes back is seen in booted
// machines only.

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/release"
	"cc-base/tasks/release/operator"
	"cc-base/tasks/release/policy"
	"cc-base/tasks/release/releasetest"
	"cc-base/tasks/tee/evidence"
	"cc-base/tasks/tee/evidence/verify"
)

const (
	instance = "2c1f0f5e-0d1c-4b43-9a58-55a3a4f5f3e1"
	other    = "9a3c0b52-7d5e-4a55-8c0e-0d5a41c7d1f2"
)

func operatorKey(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func public(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

// service is an operator with everything that it says.
type service struct {
	*operator.Server
	dir   string
	lock  sync.Mutex
	audit bytes.Buffer
	log   bytes.Buffer
}

func newService(t testing.TB, change func(*operator.Server)) *service {
	t.Helper()
	s := &service{dir: filepath.Join(t.TempDir(), "store")}
	store, err := operator.OpenFolder(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	write := operator.AuditTo(&s.audit)
	s.Server = &operator.Server{
		Key: operatorKey("operator"), Store: store, Verify: releasetest.Verify,
		Policy: policy.Policy{Enrol: true, Verify: verify.Options{Measurements: []verify.Measurement{{Kind: evidence.SNP, Digest: releasetest.Digest("image")}}}},
		Audit:  write,
		Log: func(line string) {
			s.lock.Lock()
			defer s.lock.Unlock()
			fmt.Fprintln(&s.log, line)
		},
	}
	if change != nil {
		change(s.Server)
	}
	return s
}

func (s *service) decisions(t *testing.T) []operator.Decision {
	t.Helper()
	var out []operator.Decision
	dec := json.NewDecoder(bytes.NewReader(s.audit.Bytes()))
	for {
		var d operator.Decision
		err := dec.Decode(&d)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, d)
	}
}

func asker() release.Asker {
	return release.Asker{Operator: public(operatorKey("operator")), Reporter: releasetest.Reporter{Measurement: releasetest.Digest("image")}}
}

func question(id string, created bool) release.Question {
	return release.Question{Instance: id, Volumes: []string{"cc-root", "cc-dynamic"}, CreatedThisBoot: created, Identity: []byte("identity")}
}

// against asks while peer talks at the other end, for at most d.
func against(t *testing.T, d time.Duration, a release.Asker, q release.Question, peer func(context.Context, net.Conn)) ([]byte, error) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), d)
	defer stop()
	guest, far := net.Pipe()
	var done sync.WaitGroup
	done.Go(func() { peer(ctx, far) })
	key, err := a.Ask(ctx, guest, q)
	guest.Close()
	far.Close()
	done.Wait()
	return key, err
}

func (s *service) peer(ctx context.Context, conn net.Conn) { _ = s.Serve(ctx, conn) }

const long = 20 * time.Second // never reached when all is well

func TestAKeyIsReleasedAndStaysTheSame(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	first, err := against(t, long, asker(), question(instance, true), s.peer)
	if err != nil || len(first) != release.KeySize {
		t.Fatalf("%d bytes, %v\n%s", len(first), err, s.log.String())
	}
	again, err := against(t, long, asker(), question(instance, false), s.peer)
	if err != nil || !bytes.Equal(first, again) {
		t.Fatalf("second boot: another key, or %v", err)
	}
	elsewhere, err := against(t, long, asker(), question(other, true), s.peer)
	if err != nil || bytes.Equal(first, elsewhere) {
		t.Fatalf("another instance: the same key, or %v", err)
	}
	d := s.decisions(t)
	if len(d) != 3 || !d[0].Enrolled || d[1].Enrolled || d[0].Verdict != operator.Released || d[0].Instance != instance ||
		d[0].Measurement != hex.EncodeToString(releasetest.Digest("image")) || d[0].Product != releasetest.Product || d[0].Time.IsZero() ||
		!slices.Equal(d[0].Volumes, []string{"cc-root", "cc-dynamic"}) || !d[0].Created || d[1].Created || d[0].Kind != evidence.Fake {
		t.Errorf("audit: %+v", d)
	}
}

func TestOverPortIsASource(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	guest, far := net.Pipe()
	go s.peer(t.Context(), far)
	var source release.Source = release.OverPort{Asker: asker(), Port: guest}
	if key, err := source.InstanceKey(t.Context(), question(instance, true)); err != nil || len(key) != release.KeySize {
		t.Errorf("%d bytes, %v", len(key), err)
	}
}

func TestDenials(t *testing.T) {
	t.Parallel()
	image := releasetest.Digest("image")
	for _, tc := range []struct {
		name     string
		server   func(*operator.Server)
		reporter evidence.Reporter
		question release.Question
		reason   string
	}{
		{"another image", nil, releasetest.Reporter{Measurement: releasetest.Digest("evil")}, question(instance, true), "measurement"},
		{"a debug guest", nil, releasetest.Reporter{Measurement: image, Debug: true}, question(instance, true), "debug"},
		{"evidence of an earlier exchange", nil, stale{releasetest.Reporter{Measurement: image}}, question(instance, true), "report data"},
		{"unknown, but has a volume", nil, nil, question(instance, false), "exist already"},
		{"unknown, and none is enrolled", func(s *operator.Server) { s.Policy.Enrol = false }, nil, question(instance, true), "enrols none"},
		{"not in the policy", func(s *operator.Server) { s.Policy.Instances = []string{other} }, nil, question(instance, true), "not in the policy"},
		{"fake evidence for the real verifier", func(s *operator.Server) { s.Verify = verify.Evidence }, nil, question(instance, true), "no processor makes"},
		{"no audit", func(s *operator.Server) { s.Audit = nil }, nil, question(instance, true), "cannot write its audit"},
		{"a full disk under the audit", func(s *operator.Server) {
			s.Audit = func(operator.Decision) error { return errors.New("no space left") }
		}, nil, question(instance, true), "cannot write its audit"},
		{"a broken store", func(s *operator.Server) { s.Store = brokenStore{} }, nil, question(instance, true), "store failed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newService(t, tc.server)
			a := asker()
			if tc.reporter != nil {
				a.Reporter = tc.reporter
			}
			key, err := against(t, long, a, tc.question, s.peer)
			faulttest.Want(t, err, fault.ReleaseDenied, tc.reason)
			if key != nil {
				t.Error("a key came with the denial")
			}
			if strings.Contains(err.Error(), s.dir) || strings.Contains(err.Error(), "/secret/") {
				t.Errorf("the guest learns of the operator's files: %v", err)
			}
			if files, _ := os.ReadDir(s.dir); len(files) > 0 && tc.server == nil {
				t.Error("a denied instance was enrolled")
			}
			for _, d := range s.decisions(t) {
				if d.Verdict != operator.Denied || !strings.Contains(d.Reason, tc.reason) {
					t.Errorf("audit: %+v", d)
				}
			}
		})
	}
}

// stale reports over other data than it is asked for.
type stale struct{ releasetest.Reporter }

func (s stale) Report(ctx context.Context, _ [64]byte) (evidence.Evidence, error) {
	return s.Reporter.Report(ctx, [64]byte{1})
}

type brokenStore struct{}

func (brokenStore) Key(string) ([]byte, error)   { return nil, errors.New("/secret/path: broken") }
func (brokenStore) Enrol(string) ([]byte, error) { return nil, errors.New("/secret/path: broken") }

func TestAKnownInstanceThatMakesItsVolumeAnewIsRemarked(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	for range 2 {
		if _, err := against(t, long, asker(), question(instance, true), s.peer); err != nil {
			t.Fatal(err)
		}
	}
	if d := s.decisions(t); len(d) != 2 || d[0].Reason != "" || !strings.Contains(d[1].Reason, "anew") || d[1].Enrolled {
		t.Errorf("audit: %+v", d)
	}
}

// evil holds an operator's key and answers as a test tells it.
func evil(key ed25519.PrivateKey, answer func(release.Hello, release.Request, release.Digest) any) func(context.Context, net.Conn) {
	return func(ctx context.Context, conn net.Conn) {
		l := release.NewLink(conn, false)
		defer l.Close()
		var hello release.Hello
		for payload := range l.In {
			message, err := release.Decode(payload)
			if err != nil {
				return
			}
			switch m := message.(type) {
			case release.Hello:
				if hello.Session != nil {
					continue
				}
				hello = m
				c := release.Challenge{Session: m.Session, Nonce: make([]byte, 32)}
				_, _ = rand.Read(c.Nonce)
				c.Sign(key, m)
				_ = l.Send(ctx, c)
			case release.Request:
				_ = l.Send(ctx, answer(hello, m, release.Transcript(public(operatorKey("operator")), hello, m)))
			}
		}
	}
}

// good is the right answer.
func good(h release.Hello, r release.Request, transcript release.Digest) release.Release {
	enc, sealed, err := release.Seal(r.PublicKey, bytes.Repeat([]byte{7}, release.KeySize), transcript)
	if err != nil {
		panic(err)
	}
	return release.Release{Session: h.Session, Nonce: r.Nonce, Transcript: transcript[:], Enc: enc, Sealed: sealed}
}

func TestWrongAnswers(t *testing.T) {
	t.Parallel()
	key := operatorKey("operator")
	changed := func(b []byte) []byte { b = bytes.Clone(b); b[0] ^= 1; return b }
	for _, tc := range []struct {
		name   string
		answer func(release.Hello, release.Request, release.Digest) any
		code   fault.Code
	}{
		{"right", func(h release.Hello, r release.Request, d release.Digest) any {
			m := good(h, r, d)
			m.Sign(key)
			return m
		}, ""},
		{"signed by another operator", func(h release.Hello, r release.Request, d release.Digest) any {
			m := good(h, r, d)
			m.Sign(operatorKey("stranger"))
			return m
		}, fault.ReleaseForeign},
		{"not signed", func(h release.Hello, r release.Request, d release.Digest) any { return good(h, r, d) }, fault.ReleaseForeign},
		{"changed after signing", func(h release.Hello, r release.Request, d release.Digest) any {
			m := good(h, r, d)
			m.Sign(key)
			m.Sealed = changed(m.Sealed)
			return m
		}, fault.ReleaseForeign},
		{"another nonce", func(h release.Hello, r release.Request, d release.Digest) any {
			m := good(h, r, d)
			m.Nonce = changed(m.Nonce)
			m.Sign(key)
			return m
		}, fault.ReleaseNonce},
		{"another transcript", func(h release.Hello, r release.Request, d release.Digest) any {
			m := good(h, r, d)
			m.Transcript = changed(m.Transcript)
			m.Sign(key)
			return m
		}, fault.ReleaseReplay},
		{"sealed to another transcript", func(h release.Hello, r release.Request, d release.Digest) any {
			m := good(h, r, release.Digest(changed(d[:])))
			m.Transcript = d[:]
			m.Sign(key)
			return m
		}, fault.ReleaseMessage},
		{"sealed to another key", func(h release.Hello, r release.Request, d release.Digest) any {
			m := good(h, r, d)
			m.Enc = changed(m.Enc)
			m.Sign(key)
			return m
		}, fault.ReleaseMessage},
		{"a key of zeros", func(h release.Hello, r release.Request, d release.Digest) any {
			m := good(h, r, d)
			m.Enc, m.Sealed, _ = release.Seal(r.PublicKey, make([]byte, release.KeySize), d)
			m.Sign(key)
			return m
		}, fault.ReleaseMessage},
		{"denied", func(h release.Hello, r release.Request, d release.Digest) any {
			m := release.Denied{Session: h.Session, Nonce: r.Nonce, Transcript: d[:], Reason: "because\nof \x1b[31m this" + strings.Repeat("é", 2000)}
			m.Sign(key)
			return m
		}, fault.ReleaseDenied},
		{"denied by another operator", func(h release.Hello, r release.Request, d release.Digest) any {
			m := release.Denied{Session: h.Session, Nonce: r.Nonce, Transcript: d[:], Reason: "no"}
			m.Sign(operatorKey("stranger"))
			return m
		}, fault.ReleaseForeign},
		{"denied for another nonce", func(h release.Hello, r release.Request, d release.Digest) any {
			m := release.Denied{Session: h.Session, Nonce: changed(r.Nonce), Transcript: d[:], Reason: "no"}
			m.Sign(key)
			return m
		}, fault.ReleaseNonce},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got, err := against(t, long, asker(), question(instance, true), evil(key, tc.answer))
			if tc.code == "" {
				if err != nil || len(got) != release.KeySize {
					t.Fatalf("%d bytes, %v", len(got), err)
				}
				return
			}
			faulttest.Want(t, err, tc.code)
			if got != nil {
				t.Error("a key came with the error")
			}
			if strings.ContainsAny(err.Error(), "\x1b\n") {
				t.Errorf("the operator's text is not made safe: %q", err)
			}
		})
	}
	t.Run("challenged by another operator", func(t *testing.T) {
		t.Parallel()
		_, err := against(t, long, asker(), question(instance, true), evil(operatorKey("stranger"), nil))
		faulttest.Want(t, err, fault.ReleaseForeign, "challenge")
	})
	t.Run("a release that nobody asked for", func(t *testing.T) {
		t.Parallel()
		_, err := against(t, long, asker(), question(instance, true), func(ctx context.Context, conn net.Conn) {
			l := release.NewLink(conn, false)
			defer l.Close()
			payload := <-l.In
			m, err := release.Decode(payload)
			if err != nil {
				return
			}
			answer := release.Release{Session: m.(release.Hello).Session, Nonce: make([]byte, 32), Transcript: make([]byte, 64), Enc: make([]byte, 32), Sealed: make([]byte, 48)}
			answer.Sign(key)
			_ = l.Send(ctx, answer)
		})
		faulttest.Want(t, err, fault.ReleaseNonce)
	})
}

// An answer to the first exchange comes when the guest is in its second one.
func TestAnAnswerToAnEarlierExchangeIsAReplay(t *testing.T) {
	t.Parallel()
	key := operatorKey("operator")
	_, err := against(t, long, asker(), question(instance, true), func(ctx context.Context, conn net.Conn) {
		l := release.NewLink(conn, false)
		defer l.Close()
		var hello release.Hello
		var first *release.Request
		for payload := range l.In {
			message, err := release.Decode(payload)
			if err != nil {
				return
			}
			switch m := message.(type) {
			case release.Hello:
				hello = m
			case release.Request:
				if first != nil {
					late := good(hello, *first, release.Transcript(public(key), hello, *first))
					late.Sign(key)
					_ = l.Send(ctx, late)
					continue
				}
				first = &m
			}
			c := release.Challenge{Session: hello.Session, Nonce: make([]byte, 32)}
			_, _ = rand.Read(c.Nonce)
			c.Sign(key, hello)
			_ = l.Send(ctx, c)
		}
	})
	faulttest.Want(t, err, fault.ReleaseReplay, "earlier")
}

// tap copies what is written through it.
type tap struct {
	net.Conn
	lock *sync.Mutex
	out  *bytes.Buffer
}

func (t tap) Write(b []byte) (int, error) {
	t.lock.Lock()
	t.out.Write(b)
	t.lock.Unlock()
	return t.Conn.Write(b)
}

// recorded returns both directions of a good session.
func recorded(t *testing.T, s *service) (fromGuest, fromOperator []byte) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), long)
	defer stop()
	var lock sync.Mutex
	var up, down bytes.Buffer
	guest, far := net.Pipe()
	var done sync.WaitGroup
	done.Go(func() { _ = s.Serve(ctx, tap{far, &lock, &down}) })
	_, err := asker().Ask(ctx, tap{guest, &lock, &up}, question(instance, true))
	guest.Close()
	done.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return up.Bytes(), down.Bytes()
}

func TestARecordedSessionIsOfNoUse(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	fromGuest, fromOperator := recorded(t, s)

	// To a guest: it is passed over, and explains the silence.
	_, err := against(t, 300*time.Millisecond, asker(), question(instance, false), func(_ context.Context, conn net.Conn) {
		go func() { _, _ = io.Copy(io.Discard, conn) }()
		_, _ = conn.Write(fromOperator)
	})
	faulttest.Want(t, err, fault.ReleaseReplay, "other boots")

	// To a guest whose operator answers, too: it does no harm.
	key, err := against(t, long, asker(), question(instance, false), func(ctx context.Context, conn net.Conn) {
		_, _ = conn.Write(fromOperator)
		s.peer(ctx, conn)
	})
	if err != nil || len(key) != release.KeySize {
		t.Errorf("%d bytes, %v", len(key), err)
	}

	// To the operator: a new challenge and nothing else, and a line in the audit.
	before := len(s.decisions(t))
	ctx, stop := context.WithTimeout(t.Context(), long)
	defer stop()
	attacker, far := net.Pipe()
	var done sync.WaitGroup
	done.Go(func() { s.peer(ctx, far) })
	l := release.NewLink(attacker, false)
	if _, err := attacker.Write(fromGuest); err != nil {
		t.Fatal(err)
	}
	// Serve treats messages in order, so an answer to this last hello comes after
	// any answer to the request before it.
	last := release.Hello{Session: make([]byte, 32), Instance: other, Volumes: []string{}}
	if err := l.Send(ctx, last); err != nil {
		t.Fatal(err)
	}
	for payload := range l.In {
		m, err := release.Decode(payload)
		if err != nil {
			t.Fatal(err)
		}
		c, ok := m.(release.Challenge)
		if !ok {
			t.Fatalf("the operator answers a replay with %T", m)
		}
		if bytes.Equal(c.Session, last.Session) {
			break
		}
	}
	l.Close()
	attacker.Close()
	done.Wait()
	d := s.decisions(t)
	if len(d) != before+1 || d[before].Verdict != operator.Denied || !strings.Contains(d[before].Reason, "not pending") {
		t.Errorf("audit: %+v", d[before:])
	}
}

func TestANonceServesOnce(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	fromGuest, _ := recorded(t, s)
	_ = fromGuest
	// The same request twice on the connection that its nonce belongs to.
	ctx, stop := context.WithTimeout(t.Context(), long)
	defer stop()
	guest, far := net.Pipe()
	var done sync.WaitGroup
	done.Go(func() { s.peer(ctx, far) })
	l := release.NewLink(guest, false)
	hello := release.Hello{Session: make([]byte, 32), Instance: instance, Volumes: []string{}}
	if err := l.Send(ctx, hello); err != nil {
		t.Fatal(err)
	}
	m, err := release.Decode(<-l.In)
	if err != nil {
		t.Fatal(err)
	}
	pk := make([]byte, 32)
	pk[0] = 9
	r := release.Request{Session: hello.Session, Nonce: m.(release.Challenge).Nonce, PublicKey: pk}
	r.Evidence, err = releasetest.Reporter{Measurement: releasetest.Digest("image")}.Report(ctx, release.Transcript(public(s.Key), hello, r))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := l.Send(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Send(ctx, hello); err != nil {
		t.Fatal(err)
	}
	var types []string
	for len(types) < 2 {
		m, err := release.Decode(<-l.In)
		if err != nil {
			t.Fatal(err)
		}
		types = append(types, fmt.Sprintf("%T", m))
	}
	if !slices.Equal(types, []string{"release.Release", "release.Challenge"}) {
		t.Errorf("answers %v", types)
	}
	l.Close()
	guest.Close()
	done.Wait()
}

func TestAChallengeEnds(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var lock sync.Mutex
	s := newService(t, func(s *operator.Server) {
		s.Now = func() time.Time { lock.Lock(); defer lock.Unlock(); return now }
	})
	slow := reporterFunc(func(ctx context.Context, data [64]byte) (evidence.Evidence, error) {
		lock.Lock()
		now = now.Add(6 * time.Minute)
		lock.Unlock()
		return releasetest.Reporter{Measurement: releasetest.Digest("image")}.Report(ctx, data)
	})
	a := asker()
	a.Reporter = slow
	_, err := against(t, 500*time.Millisecond, a, question(instance, true), s.peer)
	faulttest.Want(t, err, fault.ReleaseNoAnswer, "did not answer it")
}

type reporterFunc func(context.Context, [64]byte) (evidence.Evidence, error)

func (f reporterFunc) Report(ctx context.Context, data [64]byte) (evidence.Evidence, error) {
	return f(ctx, data)
}

func TestSilence(t *testing.T) {
	t.Parallel()
	hello := func(version int) []byte {
		f, err := release.Frame(fmt.Appendf(nil, `{"type":"challenge","version":%d}`, version))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	discard := func(conn net.Conn) { go func() { _, _ = io.Copy(io.Discard, conn) }() }
	for _, tc := range []struct {
		name string
		peer func(context.Context, net.Conn)
		code fault.Code
		word string
	}{
		{"nobody reads", func(context.Context, net.Conn) {}, fault.ReleaseNoAnswer, "time is over"},
		{"nobody answers", func(_ context.Context, c net.Conn) { discard(c) }, fault.ReleaseNoAnswer, "no operator answered"},
		{"somebody hangs up", func(_ context.Context, c net.Conn) { c.Close() }, fault.ReleaseNoAnswer, "no operator answered"},
		{"half an answer", func(_ context.Context, c net.Conn) {
			discard(c)
			_, _ = c.Write(hello(1)[:30])
		}, fault.ReleaseNoAnswer, "no operator answered"},
		{"half an answer and the end", func(_ context.Context, c net.Conn) {
			_, _ = io.ReadFull(c, make([]byte, 20))
			_, _ = c.Write(hello(1)[:30])
			c.Close()
		}, fault.ReleaseNoAnswer, "no operator answered"},
		{"another version", func(_ context.Context, c net.Conn) { discard(c); _, _ = c.Write(hello(2)) }, fault.ReleaseMessage, "another version"},
		{"a malformed message", func(_ context.Context, c net.Conn) { discard(c); _, _ = c.Write(hello(1)) }, fault.ReleaseMessage, "cannot be read"},
		{"an echo", func(_ context.Context, c net.Conn) { _, _ = io.Copy(c, c) }, fault.ReleaseNoAnswer, "no operator answered"},
		{"noise", func(_ context.Context, c net.Conn) {
			discard(c)
			_, _ = c.Write(bytes.Repeat([]byte("\xff\x00noise"), 10000))
		}, fault.ReleaseNoAnswer, "no operator answered"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := against(t, 300*time.Millisecond, asker(), question(instance, true), tc.peer)
			faulttest.Want(t, err, tc.code, tc.word)
		})
	}
}

func TestStaleBytesBeforeTheFirstFrame(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	_, old := recorded(t, s)
	for name, stale := range map[string][]byte{
		"text":                       []byte("Debian GNU/Linux\r\nlogin: "),
		"noise":                      bytes.Repeat([]byte{0xFF, 0, 1}, 5000),
		"half a frame":               old[:len(old)/3],
		"all of a former session":    old,
		"its second half":            old[len(old)/2:],
		"a frame that never ends":    []byte("\xffcc-release 000fffff 00000000\n{"),
		"a frame of unknown type":    frame(t, `{"type":"x","version":1}`),
		"a frame of a later version": frame(t, `{"type":"release","version":9}`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key, err := against(t, long, asker(), question(instance, false), func(ctx context.Context, conn net.Conn) {
				_, _ = conn.Write(stale)
				s.peer(ctx, conn)
			})
			if err != nil || len(key) != release.KeySize {
				t.Errorf("guest: %d bytes, %v", len(key), err)
			}
			// And in the other direction.
			ctx, stop := context.WithTimeout(t.Context(), long)
			defer stop()
			guest, far := net.Pipe()
			defer guest.Close()
			go s.peer(ctx, far)
			if _, err := guest.Write(stale); err != nil {
				t.Fatal(err)
			}
			if key, err := asker().Ask(ctx, guest, question(instance, false)); err != nil || len(key) != release.KeySize {
				t.Errorf("operator: %d bytes, %v", len(key), err)
			}
		})
	}
}

// slowly passes bytes one by one.
type slowly struct{ net.Conn }

func (s slowly) Write(b []byte) (int, error) {
	for i := range b {
		if _, err := s.Conn.Write(b[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

func TestASlowLine(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	guest, far := net.Pipe()
	defer guest.Close()
	go s.peer(t.Context(), slowly{far})
	ctx, stop := context.WithTimeout(t.Context(), long)
	defer stop()
	if key, err := asker().Ask(ctx, slowly{guest}, question(instance, true)); err != nil || len(key) != release.KeySize {
		t.Errorf("%d bytes, %v", len(key), err)
	}
}

// The operator's service starts late, and is killed and started anew between
// its challenge and the request.
func TestAServiceThatComesAndGoes(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	a := asker()
	a.Again = 50 * time.Millisecond
	key, err := against(t, long, a, question(instance, true), func(ctx context.Context, conn net.Conn) {
		time.Sleep(100 * time.Millisecond)
		first, stop := context.WithCancel(ctx)
		challenged := &afterWrite{Conn: conn, then: stop}
		_ = s.Serve(first, challenged)
		s.peer(ctx, conn)
	})
	if err != nil || len(key) != release.KeySize {
		t.Errorf("%d bytes, %v\n%s", len(key), err, s.log.String())
	}
}

type afterWrite struct {
	net.Conn
	then func()
}

func (a *afterWrite) Write(b []byte) (int, error) {
	n, err := a.Conn.Write(b)
	a.then()
	return n, err
}

// A virtio-serial port without a host reads as ended.
type port struct {
	net.Conn
	lock  sync.Mutex
	empty int
}

func (p *port) Read(b []byte) (int, error) {
	p.lock.Lock()
	p.empty--
	ended := p.empty >= 0
	p.lock.Unlock()
	if ended {
		return 0, io.EOF
	}
	return p.Conn.Read(b)
}

func TestAPortThatNobodyHasOpenedYet(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	guest, far := net.Pipe()
	defer guest.Close()
	go s.peer(t.Context(), far)
	ctx, stop := context.WithTimeout(t.Context(), long)
	defer stop()
	if key, err := asker().Ask(ctx, &port{Conn: guest, empty: 3}, question(instance, true)); err != nil || len(key) != release.KeySize {
		t.Errorf("%d bytes, %v", len(key), err)
	}
}

// A port without deadlines must not hold the caller.
func TestAPortThatCannotBeInterrupted(t *testing.T) {
	t.Parallel()
	r, w := io.Pipe()
	defer w.Close()
	ctx, stop := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer stop()
	begin := time.Now()
	_, err := asker().Ask(ctx, struct {
		io.Reader
		io.Writer
	}{r, blocked{}}, question(instance, true))
	faulttest.Want(t, err, fault.ReleaseNoAnswer)
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

type blocked struct{}

func (blocked) Write([]byte) (int, error) { select {} }

func TestThePortCanBeUsedAgain(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	guest, far := net.Pipe()
	defer guest.Close()
	go s.peer(t.Context(), far)
	ctx, stop := context.WithTimeout(t.Context(), long)
	defer stop()
	for _, id := range []string{instance, other, instance} {
		if key, err := asker().Ask(ctx, guest, question(id, true)); err != nil || len(key) != release.KeySize {
			t.Errorf("%d bytes, %v", len(key), err)
		}
	}
}

func TestQuestionsThatCannotBeAsked(t *testing.T) {
	t.Parallel()
	for word, q := range map[string]release.Question{
		"UUID":     {Instance: "../../etc/passwd"},
		"volumes":  {Instance: instance, Volumes: make([]string, 17)},
		"label":    {Instance: instance, Volumes: []string{"a b"}},
		"twice":    {Instance: instance, Volumes: []string{"a", "a"}},
		"identity": {Instance: instance, Identity: make([]byte, 65)},
	} {
		_, err := asker().Ask(t.Context(), nil, q)
		faulttest.Want(t, err, fault.ReleaseMessage, word)
	}
	_, err := release.Asker{}.Ask(t.Context(), nil, question(instance, true))
	faulttest.Want(t, err, fault.ReleaseForeign, "no operator")
}

func TestAProcessorThatMakesNoReport(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	for _, fail := range []error{releasetest.Failing(), errors.New("plain")} {
		a := asker()
		a.Reporter = releasetest.Reporter{Fail: fail}
		_, err := against(t, long, a, question(instance, true), s.peer)
		faulttest.Want(t, err, fault.GuestTEE)
	}
}

// Every text that leaves either side is searched for the key in every spelling.
func TestNoTextHoldsTheKey(t *testing.T) {
	t.Parallel()
	s := newService(t, nil)
	planted := sha256.Sum256([]byte("planted"))
	if err := os.WriteFile(filepath.Join(s.dir, instance+".key"), planted[:], 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	a := asker()
	a.Log = func(line string) { fmt.Fprintln(&log, line) }
	key, err := against(t, long, a, question(instance, false), s.peer)
	if err != nil || !bytes.Equal(key, planted[:]) {
		t.Fatalf("the planted key is not what came: %v", err)
	}
	up, down := recorded(t, s)
	a.Reporter = releasetest.Reporter{Measurement: releasetest.Digest("evil")}
	_, denied := against(t, long, a, question(instance, false), s.peer)
	_, foreign := against(t, long, asker(), question(instance, false), evil(operatorKey("stranger"), nil))

	// A store whose file is damaged speaks of it without its content.
	if err := os.WriteFile(filepath.Join(s.dir, instance+".key"), planted[:31], 0o600); err != nil {
		t.Fatal(err)
	}
	_, short := against(t, long, asker(), question(instance, false), s.peer)
	for name, text := range map[string]string{
		"audit": s.audit.String(), "operator's log": s.log.String(), "guest's log": log.String(), "to the operator": string(up), "to the guest": string(down),
		"denial": fault.Render(denied), "foreign": fault.Render(foreign), "damaged": fault.Render(short), "formatted": fmt.Sprintf("%+v %#v", s.decisions(t), denied),
	} {
		if text == "" {
			t.Errorf("%s is empty", name)
		}
		for _, spelling := range []string{
			string(planted[:]), string(planted[:31]), hex.EncodeToString(planted[:16]), base64.StdEncoding.EncodeToString(planted[:30]),
			base64.RawURLEncoding.EncodeToString(planted[:30]), strings.Trim(fmt.Sprint(planted[:8]), "[]"), strings.ToUpper(hex.EncodeToString(planted[:16])),
		} {
			if strings.Contains(text, spelling) {
				t.Errorf("%s holds the key", name)
			}
		}
	}
}

func TestOperatorKeyText(t *testing.T) {
	t.Parallel()
	key := public(operatorKey("operator"))
	text := release.FormatOperatorKey(key)
	got, err := release.ParseOperatorKey(text)
	if err != nil || !got.Equal(key) {
		t.Fatalf("%v, %v", got, err)
	}
	for _, wrong := range []string{
		"", "ed25519:", strings.TrimPrefix(text, "ed25519:"), "ED25519:" + text[8:], text + "\n", text[:len(text)-1], text[:len(text)-4] + "\n" + text[len(text)-4:],
		release.FormatOperatorKey(make([]byte, 32)), release.FormatOperatorKey(make([]byte, 31)), strings.Replace(text, text[len(text)-2:], "B=", 1),
	} {
		if _, err := release.ParseOperatorKey(wrong); err == nil {
			t.Errorf("%q is accepted", wrong)
		}
	}
}

func FuzzParseOperatorKey(f *testing.F) {
	f.Add(release.FormatOperatorKey(public(operatorKey("operator"))))
	f.Fuzz(func(t *testing.T, text string) {
		key, err := release.ParseOperatorKey(text)
		if err == nil && release.FormatOperatorKey(key) != text {
			t.Errorf("%q is a second spelling", text)
		}
	})
}
