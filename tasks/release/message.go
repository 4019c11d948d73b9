package release

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"cc-base/tasks/tee/evidence"
)

// Sizes of the messages' fields, bytes.
const (
	SessionSize   = 32
	NonceSize     = 32
	PublicKeySize = 32 // X25519
	sealedSize    = KeySize + 16
	maxReason     = 1000
)

// Digest is SHA-512 over a domain and fields.
type Digest [sha512.Size]byte

// Hello opens a session.
type Hello struct {
	Session  []byte   `json:"session"` // drawn for each question
	Instance string   `json:"instance"`
	Volumes  []string `json:"volumes"`
}

// Digest is what a [Challenge] is signed with.
func (h Hello) Digest() Digest {
	fields := [][]byte{h.Session, []byte(h.Instance)}
	for _, v := range h.Volumes {
		fields = append(fields, []byte(v))
	}
	return digest("hello", fields...)
}

// Challenge answers a [Hello].
type Challenge struct {
	Session   []byte `json:"session"`
	Nonce     []byte `json:"nonce"`
	Signature []byte `json:"signature"`
}

// Sign signs the challenge as the answer to h.
func (c *Challenge) Sign(key ed25519.PrivateKey, h Hello) { c.Signature = sign(key, c.digest(h)) }

func (c Challenge) digest(h Hello) Digest {
	d := h.Digest()
	return digest("challenge", d[:], c.Nonce)
}

// Request answers a [Challenge].
type Request struct {
	Session   []byte            `json:"session"`
	Nonce     []byte            `json:"nonce"`
	PublicKey []byte            `json:"publicKey"` // X25519, for this exchange alone
	Created   bool              `json:"created"`   // Question.CreatedThisBoot
	Identity  []byte            `json:"identity,omitempty"`
	Evidence  evidence.Evidence `json:"evidence"`
}

// Transcript is the digest that the evidence carries, the key is encrypted with
// and the release is signed with.
func Transcript(operator ed25519.PublicKey, h Hello, r Request) Digest {
	created := byte(0)
	if r.Created {
		created = 1
	}
	d := h.Digest()
	return digest("transcript", operator, d[:], r.Nonce, r.PublicKey, []byte{created}, r.Identity)
}

// Release answers a [Request] with the key.
type Release struct {
	Session    []byte `json:"session"`
	Nonce      []byte `json:"nonce"`
	Transcript []byte `json:"transcript"`
	Enc        []byte `json:"enc"`    // encapsulated key, RFC 9180 section 4
	Sealed     []byte `json:"sealed"` // instance key and tag
	Signature  []byte `json:"signature"`
}

// Sign signs the release.
func (r *Release) Sign(key ed25519.PrivateKey) { r.Signature = sign(key, r.digest()) }

func (r Release) digest() Digest {
	return digest("release", r.Session, r.Nonce, r.Transcript, r.Enc, r.Sealed)
}

// Denied answers a [Request] with no.
type Denied struct {
	Session    []byte `json:"session"`
	Nonce      []byte `json:"nonce"`
	Transcript []byte `json:"transcript"`
	Reason     string `json:"reason"`
	Signature  []byte `json:"signature"`
}

// Sign signs the denial, after it has made the reason fit for a message.
func (d *Denied) Sign(key ed25519.PrivateKey) {
	d.Reason = printable(d.Reason, maxReason)
	d.Signature = sign(key, d.digest())
}

func (d Denied) digest() Digest {
	return digest("denied", d.Session, d.Nonce, d.Transcript, []byte(d.Reason))
}

// digest hashes a domain and fields, each after its length, so that no two
// lists of fields give the same bytes.
func digest(domain string, fields ...[]byte) Digest {
	h := sha512.New()
	write := func(b []byte) {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(b)))
		h.Write(length[:])
		h.Write(b)
	}
	write(fmt.Appendf(nil, "cc-base/release/v%d/%s", Version, domain))
	for _, f := range fields {
		write(f)
	}
	return Digest(h.Sum(nil))
}

func sign(key ed25519.PrivateKey, d Digest) []byte { return ed25519.Sign(key, d[:]) }

func signed(key ed25519.PublicKey, d Digest, signature []byte) bool {
	return len(signature) == ed25519.SignatureSize && ed25519.Verify(key, d[:], signature)
}

// printable makes a text fit for a console and a log: one line, no control
// characters, at most n bytes.
func printable(text string, n int) string {
	var b strings.Builder
	for _, r := range text {
		switch {
		case r == '\n':
			b.WriteString("; ")
		case unicode.IsPrint(r) && r != utf8.RuneError:
			b.WriteRune(r)
		default:
			b.WriteByte('?')
		}
	}
	const more = "…"
	if text = b.String(); len(text) <= n {
		return text
	}
	cut := n - len(more)
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + more
}

// envelope begins every message.
type envelope struct {
	Type    string `json:"type"`
	Version int    `json:"version"`
}

// Encode returns the frame of a message: a [Hello], [Challenge], [Request],
// [Release] or [Denied].
func Encode(message any) ([]byte, error) {
	e := envelope{Version: Version}
	var payload any
	switch m := message.(type) {
	case Hello:
		e.Type = "hello"
		payload = struct {
			envelope
			Hello
		}{e, m}
	case Challenge:
		e.Type = "challenge"
		payload = struct {
			envelope
			Challenge
		}{e, m}
	case Request:
		e.Type = "request"
		payload = struct {
			envelope
			Request
		}{e, m}
	case Release:
		e.Type = "release"
		payload = struct {
			envelope
			Release
		}{e, m}
	case Denied:
		e.Type = "denied"
		payload = struct {
			envelope
			Denied
		}{e, m}
	default:
		return nil, fmt.Errorf("%T is no message", message)
	}
	text, err := json.Marshal(payload)
	if err != nil {
		return nil, err
	}
	return Frame(text)
}

// ErrVersion is in the chain when a message is of another protocol version.
var ErrVersion = errors.New("another version of the protocol")

// Decode reads the payload of a frame, and returns the message by value. Every
// field has its right length then; what it means is for the caller to judge.
func Decode(payload []byte) (message any, err error) {
	var e envelope
	if err := json.Unmarshal(payload, &e); err != nil {
		return nil, fmt.Errorf("a message is not JSON: %w", err)
	}
	if e.Version != Version {
		return nil, fmt.Errorf("%w: %d, here %d", ErrVersion, e.Version, Version)
	}
	switch e.Type {
	case "hello":
		var m struct {
			envelope
			Hello
		}
		err = strict(payload, &m)
		if err == nil {
			err = m.Hello.check()
		}
		message = m.Hello
	case "challenge":
		var m struct {
			envelope
			Challenge
		}
		err = strict(payload, &m)
		if err == nil {
			err = lengths(m.Session, SessionSize, m.Nonce, NonceSize)
		}
		message = m.Challenge
	case "request":
		var m struct {
			envelope
			Request
		}
		err = strict(payload, &m)
		if err == nil {
			err = m.Request.check()
		}
		message = m.Request
	case "release":
		var m struct {
			envelope
			Release
		}
		err = strict(payload, &m)
		if err == nil {
			err = lengths(m.Session, SessionSize, m.Nonce, NonceSize, m.Transcript, sha512.Size, m.Enc, PublicKeySize, m.Sealed, sealedSize)
		}
		message = m.Release
	case "denied":
		var m struct {
			envelope
			Denied
		}
		err = strict(payload, &m)
		if err == nil {
			err = m.Denied.check()
		}
		message = m.Denied
	default:
		err = fmt.Errorf("unknown type %.20q", e.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("a message cannot be read: %w", err)
	}
	return message, nil
}

func strict(payload []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON object")
	}
	return nil
}

// lengths checks pairs of a field and its length.
func lengths(pairs ...any) error {
	for i := 0; i < len(pairs); i += 2 {
		if got, want := len(pairs[i].([]byte)), pairs[i+1].(int); got != want {
			return fmt.Errorf("a field has %d bytes, not %d", got, want)
		}
	}
	return nil
}

func (h Hello) check() error {
	if err := lengths(h.Session, SessionSize); err != nil {
		return err
	}
	return Question{Instance: h.Instance, Volumes: h.Volumes}.check()
}

func (r Request) check() error {
	if err := lengths(r.Session, SessionSize, r.Nonce, NonceSize, r.PublicKey, PublicKeySize); err != nil {
		return err
	}
	if len(r.Identity) > maxIdentity {
		return fmt.Errorf("the identity has %d bytes, at most %d", len(r.Identity), maxIdentity)
	}
	return r.Evidence.Check()
}

func (d Denied) check() error {
	if len(d.Reason) > maxReason || printable(d.Reason, maxReason) != d.Reason {
		return errors.New("the reason is too long or not printable")
	}
	return lengths(d.Session, SessionSize, d.Nonce, NonceSize, d.Transcript, sha512.Size)
}
