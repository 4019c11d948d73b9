// Package releasetest is a processor for tests of the key release: evidence of
// kind "fake", which says what a test wants it to say and is signed with a key
// that stands in this file. No production code accepts the kind.
//
//	guest := releasetest.Reporter{Measurement: releasetest.Digest("image")}
//	server := &operator.Server{Verify: releasetest.Verify, …}
package releasetest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"cc-base/tasks/fault"
	"cc-base/tasks/tee/evidence"
	"cc-base/tasks/tee/evidence/verify"
)

// Product is what fake evidence names as its processor.
const Product = "fake"

// key is the processor's. It is no secret.
func key() ed25519.PrivateKey {
	seed := sha256.Sum256([]byte("cc-base: a processor that exists in tests only"))
	return ed25519.NewKeyFromSeed(seed[:])
}

// Digest is a measurement made of a name, 48 bytes.
func Digest(name string) []byte {
	d := sha512.Sum384([]byte(name))
	return d[:]
}

// body is what the fake processor signs.
type body struct {
	Data        []byte `json:"data"`
	Measurement []byte `json:"measurement"`
	Debug       bool   `json:"debug"`
}

// Reporter is an [evidence.Reporter].
type Reporter struct {
	Measurement []byte
	Debug       bool
	Fail        error // given instead of evidence
}

// Report implements [evidence.Reporter].
func (r Reporter) Report(ctx context.Context, data [evidence.DataSize]byte) (evidence.Evidence, error) {
	if r.Fail != nil || ctx.Err() != nil {
		return evidence.Evidence{}, errors.Join(r.Fail, ctx.Err())
	}
	text, err := json.Marshal(body{data[:], r.Measurement, r.Debug})
	if err != nil {
		return evidence.Evidence{}, err
	}
	return evidence.Evidence{Kind: evidence.Fake, Report: append(ed25519.Sign(key(), text), text...)}, nil
}

// Verify stands in for [verify.Evidence], for fake evidence alone. It compares
// with the SNP measurements of the options.
func Verify(e evidence.Evidence, o verify.Options) (verify.Claims, error) {
	var b body
	err := e.Check()
	if err == nil && (e.Kind != evidence.Fake || len(e.Report) < ed25519.SignatureSize) {
		err = fmt.Errorf("kind %q is not fake", e.Kind)
	}
	if err == nil && !ed25519.Verify(key().Public().(ed25519.PublicKey), e.Report[ed25519.SignatureSize:], e.Report[:ed25519.SignatureSize]) {
		err = errors.New("the signature is wrong")
	}
	if err == nil {
		err = json.Unmarshal(e.Report[ed25519.SignatureSize:], &b)
	}
	if err != nil {
		claims := verify.Claims{{Name: "signature", Reason: err.Error()}}
		return claims, claims.Err()
	}
	found := false
	for _, m := range o.Measurements {
		found = found || m.Kind == evidence.SNP && bytes.Equal(m.Digest, b.Measurement)
	}
	claim := func(name, value string, ok bool, reason string) verify.Claim {
		c := verify.Claim{Name: name, Value: value, OK: ok}
		if !ok {
			c.Reason = reason
		}
		return c
	}
	claims := verify.Claims{
		claim("signature", "", true, ""),
		claim("product", Product, true, ""),
		claim("debug", fmt.Sprint(b.Debug), !b.Debug, "the host may debug the guest"),
		claim("measurement", hex.EncodeToString(b.Measurement), found, "it is none of the expected ones"),
		claim("report data", hex.EncodeToString(b.Data), bytes.Equal(b.Data, o.ReportData), "it differs from the expected value"),
	}
	return claims, claims.Err()
}

// Failing is the error of a processor that makes no report.
func Failing() error { return fault.Newf(fault.GuestTEE, "the fake processor makes no report") }
