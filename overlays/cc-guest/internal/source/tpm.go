// Package source gets the secrets that open volumes from what only this
// machine has: its TPM, its processor, or an operator who trusts it.
package source

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"cc-base/tasks/fault"
	"cc-base/tasks/tpm"
	"cc-base/tasks/tpm/token"
)

// secretBytes is the length of a sealed secret; its base64 is the passphrase,
// as systemd-cryptenroll does it.
const secretBytes = 32

// signed are the PCRs that a signature of the image's maker covers; without a
// key, none.
func (s *TPM) signed() []int {
	if s.Key == nil {
		return nil
	}
	return []int{signedPCR}
}

// signedPCR holds the boot image and the boot phase. It changes with every
// image, so the policy accepts whatever value the image's maker has signed.
const signedPCR = 11

// always are the PCRs that are bound whatever TPM_PCR says: what was added to
// the command line, and system extensions. Without Secure Boot nothing else
// covers them.
func always() []int { return []int{12, 13} }

// TPM seals a random secret to the machine's TPM, in a token that stock
// systemd-cryptsetup opens, too.
type TPM struct {
	Device     *tpm.TPM
	PCRs       []int          // TPM_PCR
	Key        *rsa.PublicKey // whose signatures over PCR 11 are accepted
	Signatures tpm.Signatures // of the running image
	Running    bool           // the initrd was left: the TPM gives nothing back any more
	Predicted  tpm.PCRs       // what another image will measure; nil seals to what is measured now
}

// TokenType implements vault.Source.
func (*TPM) TokenType() string { return token.Type }

// Trusted implements vault.Source: a token of systemd-cryptenroll is as good,
// because the host, which could plant one, owns the TPM anyway.
func (*TPM) Trusted() bool { return true }

// Literal returns the PCRs whose values are bound, in order.
func (s *TPM) Literal() []int { return slices.Sorted(slices.Values(append(always(), s.PCRs...))) }

// New implements vault.Source.
func (s *TPM) New(_ context.Context, volume string, _ int) ([]byte, map[string]json.RawMessage, error) {
	if err := s.Measured(); err != nil {
		return nil, nil, err
	}
	literal := s.Literal()
	values := s.Predicted
	if values == nil {
		var err error
		if values, err = s.Device.ReadPCRs(literal...); err != nil {
			return nil, nil, coded(err)
		}
	}
	srk, err := s.Device.EnsureSRK()
	if err != nil {
		return nil, nil, coded(err)
	}
	policy, err := tpm.Policy{Literal: values, Key: s.Key, SignedPCRs: s.signed()}.Digest()
	if err != nil {
		return nil, nil, fault.New(fault.GuestTPM, err)
	}
	secret := make([]byte, secretBytes)
	defer clear(secret)
	if _, err := rand.Read(secret); err != nil {
		return nil, nil, err
	}
	sealed, err := s.Device.Seal(srk, secret, policy)
	if err != nil {
		return nil, nil, coded(err)
	}
	t := token.Token{
		Keyslots: []string{}, Sealed: sealed, PCRs: literal, Bank: "sha256", PrimaryAlg: "ecc",
		PolicyHash: policy[:], Key: s.Key, SignedPCRs: s.signed(), SRK: token.SerializeSRK(srk),
	}
	raw, err := t.Marshal()
	if err != nil {
		return nil, nil, err
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, nil, err
	}
	if fields["cc-pcrs"], err = json.Marshal(shown(values)); err != nil {
		return nil, nil, err
	}
	passphrase := passphraseOf(secret)
	return passphrase, fields, nil
}

// passphraseOf returns what opens the keyslot of a secret, as systemd makes it.
func passphraseOf(secret []byte) []byte {
	passphrase := make([]byte, base64.StdEncoding.EncodedLen(len(secret)))
	base64.StdEncoding.Encode(passphrase, secret)
	return passphrase
}

// shown renders PCR values for the token. They are no secret; with them a
// refusal can name the register that differs.
func shown(values tpm.PCRs) map[string]string {
	out := map[string]string{}
	for n, v := range values {
		out[strconv.Itoa(n)] = hex.EncodeToString(v[:])
	}
	return out
}

// Measured refuses a TPM in which the firmware has recorded nothing: a policy
// over such registers would hold for any system.
func (s *TPM) Measured() error {
	values, err := s.Device.ReadPCRs(0, 1, 2, 3, 4, 7)
	if err == nil {
		err = values.Sane()
	}
	return coded(err)
}

// Passphrase implements vault.Source.
func (s *TPM) Passphrase(_ context.Context, _ string, raw json.RawMessage) ([]byte, error) {
	if err := s.Measured(); err != nil {
		return nil, err
	}
	t, err := token.Parse(raw)
	if err != nil {
		return nil, fault.New(fault.HeaderToken, err)
	}
	secret, err := s.unseal(t)
	if errors.Is(err, tpm.ErrPolicy) || errors.Is(err, tpm.ErrSignature) {
		return nil, fault.New(fault.GuestPCR, errors.Join(s.different(raw), err))
	}
	if err != nil {
		return nil, coded(err)
	}
	defer clear(secret)
	passphrase := passphraseOf(secret)
	return passphrase, nil
}

func (s *TPM) unseal(t token.Token) ([]byte, error) {
	srk, err := s.srk(t)
	if err != nil {
		return nil, err
	}
	return s.Device.Unseal(t.Sealed, srk, t.PCRs, t.Key, t.SignedPCRs, s.Signatures)
}

// Prove implements vault.Source. In the running system the TPM must take the
// object and refuse it for the boot phase alone.
func (s *TPM) Prove(ctx context.Context, volume string, raw json.RawMessage, passphrase []byte) error {
	if s.Running && s.Key != nil {
		t, err := token.Parse(raw)
		if err != nil {
			return fault.New(fault.HeaderToken, err)
		}
		secret, err := s.unseal(t)
		clear(secret)
		if err == nil || errors.Is(err, tpm.ErrSignature) {
			return nil
		}
		return coded(err)
	}
	back, err := s.Passphrase(ctx, volume, raw)
	if err != nil {
		return err
	}
	defer clear(back)
	if subtle.ConstantTimeCompare(back, passphrase) != 1 {
		return errors.New("the TPM gives another secret back")
	}
	return nil
}

// srk returns the TPM's storage root key if it is the token's.
func (s *TPM) srk(t token.Token) (tpm.SRK, error) {
	if len(t.SRK) == 0 { // systemd before 254 used a key of another template
		return tpm.SRK{}, fault.Newf(fault.HeaderToken, "the token does not name the storage root key it is under")
	}
	srk, err := s.Device.ReadSRK()
	if errors.Is(err, tpm.ErrNoSRK) {
		return tpm.SRK{}, fault.Newf(fault.GuestOtherTPM, "the TPM has no storage root key: it is not the one of the enrolment, or was cleared")
	}
	if err != nil {
		return tpm.SRK{}, coded(err)
	}
	name, err := t.SRKName()
	if err != nil {
		return tpm.SRK{}, fault.New(fault.HeaderToken, err)
	}
	if string(name) != string(srk.Name) {
		return tpm.SRK{}, fault.Newf(fault.GuestTokenSRK, "the token was made for another TPM's storage root key")
	}
	return srk, nil
}

// different names the registers that are not as they were at enrolment.
func (s *TPM) different(raw json.RawMessage) error {
	var j struct {
		PCRs map[string]string `json:"cc-pcrs"`
	}
	if json.Unmarshal(raw, &j) != nil || len(j.PCRs) == 0 {
		return errors.New("a PCR differs")
	}
	var names []string
	for _, text := range slices.Sorted(maps.Keys(j.PCRs)) {
		n, err := strconv.Atoi(text)
		if err != nil {
			continue
		}
		now, err := s.Device.ReadPCRs(n)
		if err != nil {
			return err
		}
		if shown(now)[text] != j.PCRs[text] {
			names = append(names, text)
		}
	}
	if len(names) == 0 {
		return errors.New("PCR 11 has no signature of the image's maker")
	}
	return fmt.Errorf("PCR %s not as at enrolment", strings.Join(names, ", "))
}

// coded gives the errors of the TPM package the guest's codes.
func coded(err error) error {
	switch {
	case err == nil || fault.Of(err) != nil:
		return err
	case errors.Is(err, tpm.ErrBank):
		return fault.New(fault.GuestBank, err)
	case errors.Is(err, tpm.ErrOtherSRK), errors.Is(err, tpm.ErrNoSRK):
		return fault.New(fault.GuestOtherTPM, err)
	}
	return fault.New(fault.GuestTPM, err)
}
