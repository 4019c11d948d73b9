// Package release lets an operator hand a machine its key, over any line of
// bytes, once the machine has proved what it is. The guest's half is [Asker];
// the operator's is package operator below this one.
//
//	guest → hello      version, session, instance, volumes
//	      ← challenge  nonce, signed with the hello's digest
//	guest → request    evidence over the transcript, ephemeral public key
//	      ← release    key, HPKE-encrypted to it, signed with the transcript
//	   or ← denied     reason, signed
//
// The transcript is everything that both sides must agree on: the operator's
// key, the hello, the nonce, the ephemeral key, and what the guest says about
// itself. Its digest is the report data of the evidence, the additional data of
// the encryption and part of the last signature, so none of them fits another
// exchange:
//
//   - Who records a session and plays it back has an answer to another session
//     number, which the guest has drawn anew, for an ephemeral key that is gone.
//   - Who plays a request back to the operator answers a nonce that was used.
//   - Who stands between sees the key encrypted, and a change breaks a signature.
//   - The host may drop, delay and forge. It gains a guest that does not start.
//
// The line is a virtio-serial port of a machine whose host is not trusted. It
// knows no messages, may hold bytes of a former boot, and nobody may listen at
// its other end. Framing resynchronises, and what answers another session is
// passed over: see [Asker.Ask].
//
// HPKE is RFC 9180 in base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256,
// AES-256-GCM.
package release

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"io"
	"regexp"
	"slices"

	"cc-base/overlays/cc-guest/settings"
)

// Version of the protocol. It is part of every message and digest.
const Version = 1

// KeySize is the length of an instance key, bytes.
const KeySize = 32

// PortName is the name of the virtio-serial port that the guest opens.
const PortName = "org.cc-base.release"

// Limits of a question. They bound what a hostile guest can make the operator
// write into its log.
const (
	maxVolumes  = 16
	maxIdentity = 64
)

// Question is what a guest asks a key for.
type Question struct {
	// Instance is the UUID of the deployment's writable volume, lower case. The
	// guest draws it before it makes the volume.
	Instance string

	// Volumes are the labels of the volumes that the key is for, at most 16.
	Volumes []string

	// CreatedThisBoot says that the volume does not exist yet, or was made in
	// this boot. An operator that knows the instance learns so that somebody
	// has wiped the disk; one that does not, enrols no other.
	CreatedThisBoot bool

	// Identity is a digest of the guest's identity key, at most 64 bytes, or
	// empty. Evidence then vouches for that key, too.
	Identity []byte
}

// Source gives the key of an instance to a guest that proves itself: the
// operator of this package, or a key broker of another make.
type Source interface {
	// InstanceKey returns [KeySize] bytes, which the caller wipes.
	InstanceKey(ctx context.Context, q Question) (key []byte, err error)
}

// OverPort is the [Source] at the other end of a port.
type OverPort struct {
	Asker
	Port io.ReadWriter
}

// InstanceKey implements [Source].
func (o OverPort) InstanceKey(ctx context.Context, q Question) ([]byte, error) {
	return o.Ask(ctx, o.Port, q)
}

var (
	instancePattern = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	volumePattern   = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,35}$`) // GPT labels have at most 36 characters
)

// CheckInstance says whether text is a UUID in its one accepted spelling. Such
// a text is also a safe file name.
func CheckInstance(text string) error {
	if !instancePattern.MatchString(text) {
		return fmt.Errorf("the instance %.40q is not a UUID in lower case", text)
	}
	return nil
}

// check says whether the question can be asked.
func (q Question) check() error {
	if err := CheckInstance(q.Instance); err != nil {
		return err
	}
	if len(q.Volumes) > maxVolumes {
		return fmt.Errorf("%d volumes, at most %d", len(q.Volumes), maxVolumes)
	}
	for i, v := range q.Volumes {
		if !volumePattern.MatchString(v) || slices.Contains(q.Volumes[:i], v) {
			return fmt.Errorf("volume %.40q has no valid label or stands there twice", v)
		}
	}
	if len(q.Identity) > maxIdentity {
		return fmt.Errorf("the identity has %d bytes, at most %d", len(q.Identity), maxIdentity)
	}
	return nil
}

// operatorKeyPrefix begins the one-line form of an operator's public key.
const operatorKeyPrefix = "ed25519:"

// ParseOperatorKey reads the one-line form of an operator's public key, as the
// image's setting OPERATOR_KEY has it: "ed25519:" and 32 bytes in padded
// standard base64. Only one spelling of each key is accepted, and no key of
// zeros, which is what a placeholder looks like.
func ParseOperatorKey(text string) (ed25519.PublicKey, error) {
	key, err := settings.ParseOperatorKey(text)
	if err != nil {
		return nil, fmt.Errorf("the operator key: %w", err)
	}
	return key, nil
}

// FormatOperatorKey is the reverse of [ParseOperatorKey].
func FormatOperatorKey(key ed25519.PublicKey) string {
	return operatorKeyPrefix + base64.StdEncoding.EncodeToString(key)
}
