package source

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"cc-base/tasks/fault"
)

// TEEToken is the type of the token of the profiles snp and attested.
const TEEToken = "cc-base"

const tokenVersion = 1

// Root is a secret that only a genuine guest in its TEE gets.
type Root interface {
	// Key returns the secret under the given security version of the platform
	// (0: the present one) and the version it belongs to. The caller wipes the
	// key. A platform has no such versions where it returns 0.
	Key(ctx context.Context, tcb uint64) (key []byte, used uint64, err error)
}

// TEE derives the secrets of volumes from a root secret:
//
//	base64(HKDF-SHA256(salt, K_tee ‖ K_tpm, "cc-base/v1/" + volume + "/" + epoch))
//
// with a random salt in the token, so that every epoch has a secret of its own.
type TEE struct {
	Profile string // snp or attested
	Root    Root
	Half    *TPM // adds K_tpm where the machine has a TPM
	// Instance is whose root secret it is, where there are several: the UUID by
	// which the operator knows the machine. It is written into the tokens.
	Instance string
}

// InstanceOf returns the instance that a volume's tokens are of, empty where
// they name none.
func InstanceOf(tokens map[string]json.RawMessage) string {
	for _, id := range slices.Sorted(maps.Keys(tokens)) {
		var f teeFields
		if json.Unmarshal(tokens[id], &f) == nil && f.Type == TEEToken && f.Instance != "" {
			return f.Instance
		}
	}
	return ""
}

// TokenType implements vault.Source.
func (TEE) TokenType() string { return TEEToken }

// Trusted implements vault.Source: every token carries our code, for the host
// must not be able to plant a volume.
func (TEE) Trusted() bool { return false }

// teeFields is what the token holds.
type teeFields struct {
	Type    string          `json:"type"`
	Version int             `json:"cc-version"`
	Profile string          `json:"cc-profile"`
	Epoch   int             `json:"cc-epoch"`
	Salt    []byte          `json:"cc-salt"`
	TCB     uint64          `json:"cc-tcb"`
	TPM     json.RawMessage `json:"cc-tpm,omitempty"` // token of the TPM's half

	Instance string `json:"cc-instance,omitempty"`
}

// New implements vault.Source.
func (s TEE) New(ctx context.Context, volume string, epoch int) ([]byte, map[string]json.RawMessage, error) {
	f := teeFields{Type: TEEToken, Version: tokenVersion, Profile: s.Profile, Epoch: epoch, Salt: make([]byte, 32), Instance: s.Instance}
	if _, err := rand.Read(f.Salt); err != nil {
		return nil, nil, err
	}
	key, tcb, err := s.Root.Key(ctx, 0)
	if err != nil {
		return nil, nil, err
	}
	defer clear(key)
	f.TCB = tcb
	var half []byte
	if s.Half != nil {
		var content map[string]json.RawMessage
		if half, content, err = s.Half.New(ctx, volume, epoch); err != nil {
			return nil, nil, err
		}
		defer clear(half)
		if f.TPM, err = json.Marshal(content); err != nil {
			return nil, nil, err
		}
	}
	passphrase, err := compose(f.Salt, key, half, volume, epoch)
	if err != nil {
		return nil, nil, err
	}
	raw, err := json.Marshal(f)
	if err != nil {
		clear(passphrase)
		return nil, nil, err
	}
	fields := map[string]json.RawMessage{}
	return passphrase, fields, json.Unmarshal(raw, &fields)
}

// Passphrase implements vault.Source.
func (s TEE) Passphrase(ctx context.Context, volume string, raw json.RawMessage) ([]byte, error) {
	f, err := s.parse(raw)
	if err != nil {
		return nil, err
	}
	key, _, err := s.Root.Key(ctx, f.TCB)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	var half []byte
	if len(f.TPM) > 0 {
		if s.Half == nil {
			return nil, fault.Newf(fault.GuestTPM, "the secret needs the TPM, and there is none")
		}
		if half, err = s.Half.Passphrase(ctx, volume, f.TPM); err != nil {
			return nil, err
		}
		defer clear(half)
	}
	return compose(f.Salt, key, half, volume, f.Epoch)
}

// Prove implements vault.Source.
func (s TEE) Prove(ctx context.Context, volume string, raw json.RawMessage, passphrase []byte) error {
	f, err := s.parse(raw)
	if err != nil {
		return err
	}
	if len(f.TPM) > 0 && s.Half.Running {
		return nil // the TPM gives its half back in the initrd only
	}
	back, err := s.Passphrase(ctx, volume, raw)
	if err != nil {
		return err
	}
	defer clear(back)
	if subtle.ConstantTimeCompare(back, passphrase) != 1 {
		return errors.New("the TEE gives another secret back")
	}
	return nil
}

// Stale tells whether the platform's security version has risen since the
// token was made, so that the secret should be derived anew.
func (s TEE) Stale(ctx context.Context, raw json.RawMessage) (bool, error) {
	f, err := s.parse(raw)
	if err != nil {
		return false, err
	}
	key, tcb, err := s.Root.Key(ctx, 0)
	clear(key)
	return tcb > f.TCB, err
}

func (s TEE) parse(raw json.RawMessage) (teeFields, error) {
	var f teeFields
	if err := json.Unmarshal(raw, &f); err != nil {
		return f, fault.New(fault.HeaderToken, err)
	}
	switch {
	case f.Version != tokenVersion:
		return f, fault.Newf(fault.HeaderToken, "version %d of the token is not known", f.Version)
	case f.Profile != s.Profile:
		return f, fault.Newf(fault.HeaderToken, "the token is of profile %q, the guest of %s", f.Profile, s.Profile)
	case f.Instance != s.Instance:
		return f, fault.Newf(fault.GuestSwapped, "the token is of instance %.40q, the machine is %q", f.Instance, s.Instance)
	case len(f.Salt) != sha256.Size || f.Epoch < 1:
		return f, fault.Newf(fault.HeaderToken, "salt or epoch of the token is out of bounds")
	}
	return f, nil
}

func compose(salt, key, half []byte, volume string, epoch int) ([]byte, error) {
	ikm := slices.Concat(key, half)
	defer clear(ikm)
	secret, err := hkdf.Key(sha256.New, ikm, salt, fmt.Sprintf("cc-base/v1/%s/%d", volume, epoch), secretBytes)
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	return passphraseOf(secret), nil
}
