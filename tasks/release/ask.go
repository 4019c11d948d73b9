package release

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cloudflare/circl/kem"

	"cc-base/tasks/fault"
	"cc-base/tasks/tee/evidence"
)

// DefaultAgain is how long a guest waits before it says hello again.
const DefaultAgain = 5 * time.Second

// maxExchanges bounds how many challenges one question answers: each makes the
// processor sign a report, which it does not do often.
const maxExchanges = 8

// Asker asks an operator for an instance key.
type Asker struct {
	// Operator is the key whose holder may answer: OPERATOR_KEY of the image.
	Operator ed25519.PublicKey

	// Reporter vouches for the guest.
	Reporter evidence.Reporter

	// Again is how often the hello is repeated while nobody answers: the
	// operator may start its service later than the machine. 0 means
	// [DefaultAgain].
	Again time.Duration

	// Log gets one line per event, without a line end; nil drops them.
	Log func(line string)
}

// Ask returns the instance key, [KeySize] bytes, which the caller wipes. It
// waits until ctx ends; the caller sets the deadline.
//
// What arrives is treated by whom it answers. Noise, and messages of another
// session, are passed over, because a port may hold those of a former boot; if
// nothing better comes, they decide about the error. A message of this session
// that is wrong ends the question at once. Codes:
//
//   - [fault.ReleaseNoAnswer]: ctx ended, or the port broke.
//   - [fault.ReleaseForeign]: an answer to this question has another signature.
//   - [fault.ReleaseNonce]: a signed answer carries a nonce that was not asked.
//   - [fault.ReleaseReplay]: a signed answer is for an earlier key exchange;
//     also when only answers to other sessions came until ctx ended.
//   - [fault.ReleaseDenied]: the operator said no; the text has its reason.
//   - [fault.ReleaseMessage]: a signed key cannot be opened; also when only
//     messages that cannot be read came until ctx ended.
//   - [fault.GuestTEE]: the processor made no report.
func (a Asker) Ask(ctx context.Context, port io.ReadWriter, q Question) (key []byte, err error) {
	if err := q.check(); err != nil {
		return nil, fault.New(fault.ReleaseMessage, err)
	}
	if len(a.Operator) != ed25519.PublicKeySize {
		return nil, fault.Newf(fault.ReleaseForeign, "there is no operator whose answer would count").
			Hint("build the image with OPERATOR_KEY set")
	}
	s := &session{Asker: a, question: q, hello: Hello{Session: make([]byte, SessionSize), Instance: q.Instance, Volumes: q.Volumes}}
	if s.hello.Volumes == nil {
		s.hello.Volumes = []string{}
	}
	if _, err := rand.Read(s.hello.Session); err != nil {
		return nil, err
	}
	s.link = NewLink(port, true)
	defer s.link.Close()
	return s.run(ctx)
}

// session is one question on its way.
type session struct {
	Asker
	question  Question
	hello     Hello
	link      *Link
	exchanges []exchange // the last one is the present one

	// What was passed over.
	replayed   bool  // a release or denial of this operator to another session
	elsewhere  int   // other messages to other sessions
	unreadable error // the last message that could not be read
}

// exchange is one answered challenge.
type exchange struct {
	nonce      []byte
	transcript Digest
	private    kem.PrivateKey
}

func (s *session) run(ctx context.Context) ([]byte, error) {
	again := s.Again
	if again <= 0 {
		again = DefaultAgain
	}
	tick := time.NewTicker(again)
	defer tick.Stop()
	s.log("asking the operator for the key of %s", s.hello.Instance)
	if err := s.link.Send(ctx, s.hello); err != nil {
		return nil, s.silence(err)
	}
	for {
		select {
		case <-ctx.Done():
			return nil, s.silence(ctx.Err())
		case <-tick.C:
			if err := s.link.Send(ctx, s.hello); err != nil {
				return nil, s.silence(err)
			}
		case payload, ok := <-s.link.In:
			if !ok {
				return nil, s.silence(s.link.Err())
			}
			key, err := s.take(ctx, payload)
			if key != nil || err != nil {
				return key, err
			}
		}
	}
}

// take treats one payload. It returns neither key nor error when the question
// goes on.
func (s *session) take(ctx context.Context, payload []byte) ([]byte, error) {
	message, err := Decode(payload)
	if err != nil {
		s.unreadable = err
		return nil, nil
	}
	switch m := message.(type) {
	case Challenge:
		return nil, s.challenge(ctx, m)
	case Release:
		return s.release(m)
	case Denied:
		return nil, s.denied(m)
	}
	return nil, nil // our own voice: somebody echoes
}

func (s *session) mine(session []byte) bool { return bytes.Equal(session, s.hello.Session) }

func (s *session) challenge(ctx context.Context, m Challenge) error {
	switch {
	case !s.mine(m.Session):
		s.elsewhere++
		return nil
	case !signed(s.Operator, m.digest(s.hello), m.Signature):
		return foreign("challenge")
	case s.asked(m.Nonce), len(s.exchanges) == maxExchanges:
		return nil // the answer to a hello that we repeated
	}
	public, private, err := ephemeral()
	if err != nil {
		return err
	}
	r := Request{Session: m.Session, Nonce: m.Nonce, PublicKey: public, Created: s.question.CreatedThisBoot, Identity: s.question.Identity}
	x := exchange{nonce: m.Nonce, transcript: Transcript(s.Operator, s.hello, r), private: private}
	if r.Evidence, err = s.Reporter.Report(ctx, x.transcript); err != nil {
		if fault.Of(err) == nil {
			err = fault.New(fault.GuestTEE, err)
		}
		return err
	}
	s.exchanges = append(s.exchanges, x)
	s.log("the operator asks for evidence; sending a report of kind %s", r.Evidence.Kind)
	if err := s.link.Send(ctx, r); err != nil {
		return s.silence(err)
	}
	return nil
}

// asked tells whether a nonce was answered before.
func (s *session) asked(nonce []byte) bool {
	for _, x := range s.exchanges {
		if bytes.Equal(x.nonce, nonce) {
			return true
		}
	}
	return false
}

func (s *session) release(m Release) ([]byte, error) {
	genuine := signed(s.Operator, m.digest(), m.Signature)
	if !s.mine(m.Session) {
		s.passOver(genuine)
		return nil, nil
	}
	if !genuine {
		return nil, foreign("release")
	}
	if err := s.present(m.Nonce, m.Transcript); err != nil {
		return nil, err
	}
	x := s.exchanges[len(s.exchanges)-1]
	key, err := open(x.private, m.Enc, m.Sealed, x.transcript)
	if err != nil {
		return nil, fault.Newf(fault.ReleaseMessage, "the released key cannot be opened: %w", err)
	}
	s.log("the operator released the key")
	return key, nil
}

func (s *session) denied(m Denied) error {
	genuine := signed(s.Operator, m.digest(), m.Signature)
	if !s.mine(m.Session) {
		s.passOver(genuine)
		return nil
	}
	if !genuine {
		return foreign("denial")
	}
	if err := s.present(m.Nonce, m.Transcript); err != nil {
		return err
	}
	return fault.Newf(fault.ReleaseDenied, "the operator denied the key: %s", m.Reason)
}

// present says whether a signed answer belongs to the present exchange.
func (s *session) present(nonce, transcript []byte) error {
	switch {
	case !s.asked(nonce):
		return fault.Newf(fault.ReleaseNonce, "an answer of the operator carries a nonce that was not asked")
	case !bytes.Equal(nonce, s.exchanges[len(s.exchanges)-1].nonce):
		return fault.Newf(fault.ReleaseReplay, "an answer of the operator belongs to an earlier key exchange")
	case !bytes.Equal(transcript, s.exchanges[len(s.exchanges)-1].transcript[:]):
		return fault.Newf(fault.ReleaseReplay, "an answer of the operator is for another ephemeral key")
	}
	return nil
}

func (s *session) passOver(genuine bool) {
	if genuine {
		s.replayed = true
	} else {
		s.elsewhere++
	}
}

func foreign(what string) error {
	return fault.Newf(fault.ReleaseForeign, "the %s is not signed by the operator", what)
}

// silence is the error when no answer came: what was passed over may explain
// it.
func (s *session) silence(cause error) error {
	if errors.Is(cause, context.DeadlineExceeded) {
		cause = errors.New("the time is over")
	}
	switch {
	case s.replayed:
		return fault.Newf(fault.ReleaseReplay, "only answers to other boots came: %w", cause)
	case s.unreadable != nil:
		return fault.Newf(fault.ReleaseMessage, "%w: %w", cause, s.unreadable)
	case len(s.exchanges) > 0:
		return fault.Newf(fault.ReleaseNoAnswer, "the operator asked for evidence and did not answer it: %w", cause)
	case s.elsewhere > 0:
		return fault.Newf(fault.ReleaseNoAnswer, "no operator answered, and %d messages were for other boots: %w", s.elsewhere, cause)
	}
	return fault.Newf(fault.ReleaseNoAnswer, "no operator answered: %w", cause)
}

func (s *session) log(format string, args ...any) {
	if s.Log != nil {
		s.Log(fmt.Sprintf(format, args...))
	}
}
