package evidence

import (
	"bytes"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"cc-base/tasks/fault"
)

// Attestation is a guest's answer to a verifier's nonce: evidence whose report
// data is [ReportData] of the nonce and the guest's identity key.
type Attestation struct {
	Evidence
	Identity []byte `json:"identity,omitempty"` // public key, SubjectPublicKeyInfo in DER
}

// Sizes of a nonce, bytes. Fewer could be guessed ahead.
const (
	MinNonce = 16
	MaxNonce = 64
)

// maxIdentity bounds a public key, bytes; RSA-4096 takes 550.
const maxIdentity = 4096

// attestDomain keeps these report data apart from those of key release, and from
// a later version's.
const attestDomain = "cc-base/attest/v1"

// ReportData is what a guest's report carries in answer to a nonce: SHA-512 over
// the domain separator, the nonce and the hash of the guest's identity key
// ([IdentityHash]), each after its length in 8 bytes, big endian, so that no two
// questions give the same bytes. docs/attestation.md has an example.
func ReportData(nonce []byte, identity [sha512.Size]byte) [DataSize]byte {
	h := sha512.New()
	for _, field := range [][]byte{[]byte(attestDomain), nonce, identity[:]} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(field))))
		h.Write(field)
	}
	return [DataSize]byte(h.Sum(nil))
}

// IdentityHash is the SHA-512 of an identity key's public half, which is a
// SubjectPublicKeyInfo in DER.
func IdentityHash(public []byte) [sha512.Size]byte { return sha512.Sum512(public) }

// ParseNonce reads a nonce in hexadecimal digits. Errors have code
// [fault.Usage].
func ParseNonce(text string) ([]byte, error) {
	nonce, err := hex.DecodeString(text)
	switch {
	case err != nil:
		return nil, fault.Newf(fault.Usage, "the nonce %.40q is not in hexadecimal digits", text)
	case len(nonce) < MinNonce || len(nonce) > MaxNonce:
		return nil, fault.Newf(fault.Usage, "the nonce has %d bytes, not %d to %d", len(nonce), MinNonce, MaxNonce)
	}
	return nonce, nil
}

// ParseAttestation reads what a guest answered, or bare evidence as [Parse]
// does. The content is judged by package verify, not here; errors have code
// [fault.Usage].
func ParseAttestation(data []byte) (Attestation, error) {
	if len(data) > 3*MaxSize || !bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte("{")) {
		e, err := Parse(data)
		return Attestation{Evidence: e}, err
	}
	a, err := parseAttestation(data)
	if err != nil {
		return Attestation{}, fault.Newf(fault.Usage, "evidence: %w", err)
	}
	return a, nil
}

func parseAttestation(data []byte) (Attestation, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var a Attestation
	if err := dec.Decode(&a); err != nil {
		return Attestation{}, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Attestation{}, errors.New("something follows the JSON object")
	}
	if a.Identity == nil {
		return a, a.Evidence.Check()
	}
	if len(a.Identity) > maxIdentity {
		return Attestation{}, fmt.Errorf("the identity has %d bytes, at most %d", len(a.Identity), maxIdentity)
	}
	// Whoever uses the key later must read it as it was hashed.
	if _, err := x509.ParsePKIXPublicKey(a.Identity); err != nil {
		return Attestation{}, fmt.Errorf("the identity is no public key: %w", err)
	}
	return a, a.Evidence.Check()
}
