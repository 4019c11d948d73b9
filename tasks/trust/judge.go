package trust

import (
	"errors"
	"io"
	"time"

	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"

	"cc-base/tasks/fault"
	"cc-base/tasks/sign"
)

// Signed judges a detached signature of what r gives. keys are armoured public
// keys to verify it with; they come from anywhere, since a key counts only when
// the rules have its fingerprint. signature is nil where there is none: that is
// accepted if the rules allow it, with an empty result. at is now.
//
// The day until which a key is trusted is compared with at and not with the time
// in the signature: whoever stole the key chooses that one.
func (r Rules) Signed(keys, signature []byte, in io.Reader, at time.Time) (sign.Signature, error) {
	if signature == nil {
		if r.AllowUnsigned {
			return sign.Signature{}, nil
		}
		return sign.Signature{}, fault.Newf(fault.TrustUnsigned, "it has no signature")
	}
	s, err := sign.Verify(keys, in, signature)
	if err != nil {
		return sign.Signature{}, refused(err)
	}
	// Revoked comes first: it holds for a key that is also allowed.
	end, known := r.Keys[s.Fingerprint]
	switch {
	case r.Revoked[s.Fingerprint]:
		err = fault.Newf(fault.TrustRevoked, "signed by %s, which is revoked", s.Fingerprint)
	case !known:
		err = fault.Newf(fault.TrustUnknown, "signed by %s, which is not trusted", s.Fingerprint)
	case !end.IsZero() && !at.Before(end):
		err = fault.Newf(fault.TrustExpired, "signed by %s, which was trusted until %s", s.Fingerprint, end.AddDate(0, 0, -1).Format(time.DateOnly))
	}
	if err != nil {
		return sign.Signature{}, err
	}
	return s, nil
}

// refused gives the code to what [sign.Verify] says.
func refused(err error) error {
	if f := fault.Of(err); f != nil && f.Code == fault.SigningKey {
		return err
	}
	switch {
	case errors.Is(err, pgperrors.ErrUnknownIssuer):
		return fault.New(fault.TrustUnknown, err)
	case errors.Is(err, pgperrors.ErrKeyRevoked):
		return fault.New(fault.TrustRevoked, err)
	case errors.Is(err, pgperrors.ErrKeyExpired):
		return fault.New(fault.TrustExpired, err)
	}
	return fault.New(fault.TrustSignature, err)
}

// Epoch judges how old an image may be: epoch is its SOURCE_DATE_EPOCH, seconds
// since 1970. An image that was signed long ago has a good signature still.
func (r Rules) Epoch(epoch int64) error {
	if epoch >= r.MinimumEpoch {
		return nil
	}
	return fault.Newf(fault.TrustOld, "the image is of %s, accepted are those from %s on", day(epoch), day(r.MinimumEpoch))
}

func day(epoch int64) string { return time.Unix(epoch, 0).UTC().Format(time.RFC3339) }
