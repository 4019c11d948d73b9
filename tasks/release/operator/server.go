// Package operator is the operator's half of the key release: it judges a
// guest's evidence by a policy and hands out the key of its instance.
//
//	server := &operator.Server{Key: key, Policy: p, Store: store, Verify: verify.Evidence, Audit: operator.AuditTo(w)}
//	err := server.Serve(ctx, conn)
//
// It runs where the operator trusts the machine, never on the host that the
// guest must be protected from. The rules:
//
//   - A nonce belongs to one connection and one hello, and serves once.
//   - An instance that has no key gets one only when the policy allows it, and
//     only in the boot in which it makes its volume: a volume that is said to
//     exist already was never made with a key of ours.
//   - A decision is written down before it is told. Where it cannot be, the
//     answer is no.
//   - No key is ever in an error, a log line or the audit.
package operator

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"time"

	"cc-base/tasks/release"
	"cc-base/tasks/release/policy"
	"cc-base/tasks/tee/evidence"
	"cc-base/tasks/tee/evidence/verify"
)

// nonceLife is how long a challenge may be answered. A processor needs seconds
// for its report.
const nonceLife = 5 * time.Minute

// Verdicts of a [Decision].
const (
	Released = "released"
	Denied   = "denied"
)

// Decision is one line of the audit.
type Decision struct {
	Time        time.Time `json:"time"`
	Instance    string    `json:"instance"`
	Volumes     []string  `json:"volumes"`
	Created     bool      `json:"created"`  // the guest says that it makes the volume in this boot
	Enrolled    bool      `json:"enrolled"` // the instance got its key by this decision
	Kind        string    `json:"kind"`     // of the evidence
	Product     string    `json:"product"`
	Measurement string    `json:"measurement"`
	Verdict     string    `json:"verdict"`
	Reason      string    `json:"reason"` // why not, or what is remarkable
}

// Server answers guests. Several connections may be served at a time.
type Server struct {
	Key    ed25519.PrivateKey
	Policy policy.Policy
	Store  Store

	// Verify judges evidence: [verify.Evidence] but in tests.
	Verify func(evidence.Evidence, verify.Options) (verify.Claims, error)

	// Audit keeps a decision. Without it nothing is released.
	Audit func(Decision) error

	// Now is the clock; nil for time.Now.
	Now func() time.Time

	// Idle ends a connection that was silent for so long; 0 never does.
	Idle time.Duration

	// Log gets one line per event, without a line end; nil drops them. Lines
	// have no control characters.
	Log func(line string)
}

// AuditTo returns an Audit that writes JSON lines.
func AuditTo(w io.Writer) func(Decision) error {
	var lock sync.Mutex
	return func(d Decision) error {
		line, err := json.Marshal(d)
		if err != nil {
			return err
		}
		lock.Lock()
		defer lock.Unlock()
		_, err = w.Write(append(line, '\n'))
		return err
	}
}

// Serve answers the guest at the other end of conn until that one ends it, or
// ctx ends. A machine that starts anew goes on with a new hello. An orderly end
// is no error.
func (s *Server) Serve(ctx context.Context, conn io.ReadWriter) error {
	link := release.NewLink(conn, false)
	defer link.Close()
	c := &connection{Server: s, link: link}
	for {
		idle, stop := s.idle()
		select {
		case <-ctx.Done():
			stop()
			return ctx.Err()
		case <-idle:
			return fmt.Errorf("no message for %s", s.Idle)
		case payload, ok := <-link.In:
			stop()
			if !ok {
				if err := link.Err(); !errors.Is(err, io.EOF) {
					return err
				}
				return nil
			}
			if err := c.take(ctx, payload); err != nil {
				return err
			}
		}
	}
}

func (s *Server) idle() (<-chan time.Time, func()) {
	if s.Idle <= 0 {
		return nil, func() {}
	}
	t := time.NewTimer(s.Idle)
	return t.C, func() { t.Stop() }
}

// connection is one guest's line.
type connection struct {
	*Server
	link *release.Link

	// The challenge that may be answered; nil nonce for none.
	hello     release.Hello
	challenge release.Challenge
	until     time.Time
}

func (c *connection) take(ctx context.Context, payload []byte) error {
	message, err := release.Decode(payload)
	if err != nil {
		c.log("passed over: %v", err)
		return c.otherVersion(ctx, payload, err)
	}
	switch m := message.(type) {
	case release.Hello:
		return c.greet(ctx, m)
	case release.Request:
		return c.decide(ctx, m)
	}
	return nil // an echo of ours
}

// otherVersion lets a guest of another version hear that somebody speaks this
// one, if it says hello as this one does: it cannot read more of the answer
// than its version.
func (c *connection) otherVersion(ctx context.Context, payload []byte, cause error) error {
	if !errors.Is(cause, release.ErrVersion) {
		return nil
	}
	var hello struct {
		Type string `json:"type"`
	}
	if json.Unmarshal(payload, &hello) != nil || hello.Type != "hello" {
		return nil
	}
	return c.link.Send(ctx, release.Challenge{})
}

// greet challenges a guest. The same hello again gets the same challenge, for
// a guest repeats it while it waits.
func (c *connection) greet(ctx context.Context, h release.Hello) error {
	if c.challenge.Nonce == nil || c.now().After(c.until) || c.hello.Digest() != h.Digest() {
		c.hello, c.until = h, c.now().Add(nonceLife)
		c.challenge = release.Challenge{Session: h.Session, Nonce: make([]byte, release.NonceSize)}
		if _, err := rand.Read(c.challenge.Nonce); err != nil {
			return err
		}
		c.challenge.Sign(c.Key, h)
		c.log("%s asks for its key; challenging it", h.Instance)
	}
	return c.link.Send(ctx, c.challenge)
}

// decide judges a request and answers it. One whose nonce is not pending gets no
// answer: it was played back, or this service was started since, and then the
// guest says hello again.
func (c *connection) decide(ctx context.Context, r release.Request) error {
	pending := c.challenge.Nonce != nil && bytes.Equal(r.Nonce, c.challenge.Nonce) && bytes.Equal(r.Session, c.hello.Session)
	if !pending || c.now().After(c.until) {
		c.log("passed over: a request whose nonce is not pending")
		return c.audit(Decision{Time: c.now().UTC(), Volumes: []string{}, Created: r.Created, Kind: r.Evidence.Kind, Verdict: Denied, Reason: "the nonce is not pending"})
	}
	h := c.hello
	c.challenge.Nonce = nil // it served

	transcript := release.Transcript(c.Key.Public().(ed25519.PublicKey), h, r)
	d := Decision{Time: c.now().UTC(), Instance: h.Instance, Volumes: h.Volumes, Created: r.Created, Kind: r.Evidence.Kind, Verdict: Denied}
	key, err := c.judge(&d, r, transcript)
	defer clear(key)
	var enc, sealed []byte
	if err == nil {
		enc, sealed, err = release.Seal(r.PublicKey, key, transcript)
	}
	if err == nil {
		d.Verdict = Released
	} else {
		d.Reason = line(err)
	}
	if err := c.audit(d); err != nil {
		// Not written down, so not done.
		c.log("the audit cannot be written: %v", err)
		return errors.Join(fmt.Errorf("audit: %w", err), c.deny(ctx, r, transcript, "the operator cannot write its audit"))
	}
	c.log("%s: %s%s", d.Instance, d.Verdict, because(d.Reason))
	if d.Verdict == Denied {
		return c.deny(ctx, r, transcript, d.Reason)
	}
	answer := release.Release{Session: h.Session, Nonce: r.Nonce, Transcript: transcript[:], Enc: enc, Sealed: sealed}
	answer.Sign(c.Key)
	return c.link.Send(ctx, answer)
}

// judge returns the instance's key if it may be released. It completes d.
func (c *connection) judge(d *Decision, r release.Request, transcript release.Digest) ([]byte, error) {
	o := c.Policy.Verify
	o.Now, o.ReportData = c.now(), transcript[:]
	claims, err := c.Verify(r.Evidence, o)
	for name, into := range map[string]*string{"measurement": &d.Measurement, "product": &d.Product} {
		claim, _ := claims.Get(name)
		*into = line(errors.New(claim.Value))
	}
	if err != nil {
		return nil, err
	}
	if !c.Policy.Serves(d.Instance) {
		return nil, errors.New("the instance is not in the policy")
	}
	key, err := c.Store.Key(d.Instance)
	switch {
	case err == nil && r.Created:
		// Its first boot was cut off, or its disk was wiped and its identity kept.
		d.Reason = "the instance is known, and makes its volume anew"
		return key, nil
	case err == nil:
		return key, nil
	case !errors.Is(err, fs.ErrNotExist):
		// The text would name files to a guest.
		c.log("store: %v", err)
		return nil, errors.New("the operator's store failed")
	case !r.Created:
		return nil, errors.New("the instance is not known, and its volume is said to exist already")
	case !c.Policy.Enrol:
		return nil, errors.New("the instance is not known, and the policy enrols none")
	}
	if key, err = c.Store.Enrol(d.Instance); err != nil {
		c.log("store: %v", err)
		return nil, errors.New("the operator's store failed")
	}
	d.Enrolled = true
	return key, nil
}

func (c *connection) deny(ctx context.Context, r release.Request, transcript release.Digest, reason string) error {
	d := release.Denied{Session: r.Session, Nonce: r.Nonce, Transcript: transcript[:], Reason: reason}
	d.Sign(c.Key)
	return c.link.Send(ctx, d)
}

func (c *connection) audit(d Decision) error {
	if c.Audit == nil {
		return errors.New("there is none")
	}
	return c.Audit(d)
}

func (s *Server) now() time.Time {
	if s.Now == nil {
		return time.Now()
	}
	return s.Now()
}

func (s *Server) log(format string, args ...any) {
	if s.Log != nil {
		s.Log(line(fmt.Errorf(format, args...)))
	}
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

// line makes one line without control characters of an error, whose text may
// quote a guest.
func line(err error) string {
	const most = 2000
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7F || r == 0x85 || r == 0x2028 || r == 0x2029 {
			return ' '
		}
		return r
	}, strings.ReplaceAll(strings.ToValidUTF8(err.Error(), "?"), "\n", "; "))
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
