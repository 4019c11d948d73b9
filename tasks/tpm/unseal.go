package tpm

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// unsealTries is how often a policy is begun anew because somebody extended a
// PCR meanwhile; systemd tries as often.
const unsealTries = 30

// Unseal opens what was sealed under the storage root key srk, of which only the
// name is used. The policy is PolicyAuthorize by key for the signed PCRs, for
// which sigs must have a signature over their present values (nil key and no
// PCRs for none), then PolicyPCR over the literal PCRs (empty for none).
//
// The secret comes back encrypted in a session that only the owner of srk's
// private half can take part in. Nothing stays loaded in the TPM, whatever
// happens. The caller wipes the result.
//
// Errors: ErrNoSRK and ErrOtherSRK when this is not the TPM, ErrSignature and
// then ErrPolicy when it is not the state, ErrLockout. ErrSignature is found
// before ErrPolicy, but only after the TPM has taken the object for its own.
func (t *TPM) Unseal(s Sealed, srk SRK, literal []int, key *rsa.PublicKey, signed []int, sigs Signatures) (secret []byte, err error) {
	if err := bound(literal, key, signed); err != nil {
		return nil, err
	}
	policy, err := s.object()
	if err != nil {
		return nil, err
	}
	parent, err := t.own(srk)
	if err != nil {
		return nil, err
	}
	object, err := t.load(s, parent)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err = errors.Join(err, t.flush(object.Handle)); err != nil {
			clear(secret)
			secret = nil
		}
	}()
	for range unsealTries {
		secret, err = t.attempt(object, parent, policy, literal, key, signed, sigs)
		if !errors.Is(err, tpm2.TPMRCPCRChanged) {
			break
		}
	}
	return secret, err
}

// load gives the object to the TPM, which takes it only if its integrity value
// was made with the storage root key.
func (t *TPM) load(s Sealed, p parent) (*tpm2.NamedHandle, error) {
	authorised := tpm2.AuthHandle{
		Handle: p.handle, Name: p.name,
		// The key has no authorisation value, and nothing here is secret.
		Auth: tpm2.PasswordAuth(nil),
	}
	public := tpm2.BytesAs2B[tpm2.TPMTPublic](s.Public[2:])
	private := tpm2.TPM2BPrivate{Buffer: s.Private[2:]}
	if len(s.Seed) > 0 {
		rsp, err := tpm2.Import{
			ParentHandle: authorised, ObjectPublic: public, Duplicate: private,
			InSymSeed: tpm2.TPM2BEncryptedSecret{Buffer: s.Seed[2:]},
			Symmetric: tpm2.TPMTSymDef{Algorithm: tpm2.TPMAlgNull},
		}.Execute(t.dev)
		if err != nil {
			return nil, failed("importing a sealed object", err)
		}
		private = rsp.OutPrivate
	}
	rsp, err := tpm2.Load{ParentHandle: authorised, InPrivate: private, InPublic: public}.Execute(t.dev)
	if err != nil {
		return nil, failed("loading a sealed object", err)
	}
	// The name authenticates the object in the session: it is the one that was
	// given, whatever the TPM says.
	return &tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: tpm2.TPM2BName{Buffer: publicName(s.Public)}}, nil
}

// attempt goes through the policy once.
func (t *TPM) attempt(object *tpm2.NamedHandle, p parent, policy [32]byte,
	literal []int, key *rsa.PublicKey, signed []int, sigs Signatures) (secret []byte, err error) {
	session, done, err := tpm2.PolicySession(t.dev, tpm2.TPMAlgSHA256, nonceSize,
		tpm2.Salted(p.handle, p.public), tpm2.AESEncryption(sessionKeyBits, tpm2.EncryptOut))
	if err != nil {
		return nil, failed("starting a session", err)
	}
	defer func() {
		if ended := done(); ended != nil {
			err = errors.Join(err, failed("ending a session", ended))
		}
	}()
	if key != nil {
		if err := t.authorize(session, key, signed, sigs); err != nil {
			return nil, err
		}
	}
	if len(literal) > 0 {
		if _, err := (tpm2.PolicyPCR{PolicySession: session.Handle(), Pcrs: selection(literal)}).Execute(t.dev); err != nil {
			return nil, failed("checking PCRs", err)
		}
	}
	reached, err := t.digest(session)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(reached, policy[:]) {
		return nil, fmt.Errorf("%w: PCR %v", ErrPolicy, slices.Sorted(slices.Values(literal)))
	}
	rsp, err := tpm2.Unseal{
		ItemHandle: tpm2.AuthHandle{Handle: object.Handle, Name: object.Name, Auth: session},
	}.Execute(t.dev)
	if errors.Is(err, tpm2.TPMRCPolicyFail) {
		return nil, fmt.Errorf("tpm: unsealing: %w: %w", ErrPolicy, err)
	}
	if err != nil {
		return nil, failed("unsealing", err)
	}
	return rsp.OutData.Buffer, nil
}

// authorize puts in the session's place what the key's owner has approved: the
// present values of the signed PCRs.
func (t *TPM) authorize(session tpm2.Session, key *rsa.PublicKey, signed []int, sigs Signatures) (err error) {
	pcrs, err := registers(signed)
	if err != nil {
		return err
	}
	public, err := keyPublic(key)
	if err != nil {
		return err
	}
	if _, err := (tpm2.PolicyPCR{PolicySession: session.Handle(), Pcrs: selection(pcrs)}).Execute(t.dev); err != nil {
		return failed("checking signed PCRs", err)
	}
	approved, err := t.digest(session)
	if err != nil {
		return err
	}
	signature, err := sigs.find(key, pcrs, approved)
	if err != nil {
		return err
	}
	loaded, err := tpm2.LoadExternal{InPublic: tpm2.New2B(public), Hierarchy: tpm2.TPMRHOwner}.Execute(t.dev)
	if err != nil {
		return failed("loading the key that signs PCRs", err)
	}
	defer func() { err = errors.Join(err, t.flush(loaded.ObjectHandle)) }()
	digest := sha256.Sum256(approved)
	verified, err := tpm2.VerifySignature{
		KeyHandle: loaded.ObjectHandle,
		Digest:    tpm2.TPM2BDigest{Buffer: digest[:]},
		Signature: tpm2.TPMTSignature{
			SigAlg: tpm2.TPMAlgRSASSA,
			Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgRSASSA, &tpm2.TPMSSignatureRSA{
				Hash: tpm2.TPMAlgSHA256, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: signature},
			}),
		},
	}.Execute(t.dev)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, failed("verifying it", err))
	}
	_, err = tpm2.PolicyAuthorize{
		PolicySession:  session.Handle(),
		ApprovedPolicy: tpm2.TPM2BDigest{Buffer: approved},
		KeySign:        tpm2.TPM2BName{Buffer: publicName(tpm2.Marshal(tpm2.New2B(public)))},
		CheckTicket:    verified.Validation,
	}.Execute(t.dev)
	if err != nil {
		return failed("authorising the signed PCRs", err)
	}
	return nil
}

// digest returns how far the policy session has come.
func (t *TPM) digest(session tpm2.Session) ([]byte, error) {
	rsp, err := tpm2.PolicyGetDigest{PolicySession: session.Handle()}.Execute(t.dev)
	if err != nil {
		return nil, failed("reading a policy digest", err)
	}
	return rsp.PolicyDigest.Buffer, nil
}
