package tpm

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// SRKHandle is where the storage root key is kept (TCG TPM v2.0 Provisioning
// Guidance, table 2).
const SRKHandle = 0x81000001

// SRK is a storage root key: the key that a TPM makes from its own seed, under
// which objects are sealed. No part of it is secret.
type SRK struct {
	Handle uint32 // SRKHandle
	Name   []byte // algorithm and digest of the public area, 34 bytes: identifies the key
	Public []byte // marshalled TPM2B_PUBLIC
}

// coordinate is the length of a P-256 coordinate in bytes.
const coordinate = 32

// srkTemplate returns the public area of the TCG's template for an ECC P-256
// storage root key (Provisioning Guidance, 7.5.1) with the given point.
//
// To make the key, the point must be empty, as in systemd's
// tpm2_get_srk_template: a TPM derives the key from all of the template, and the
// zeros that go-tpm's template has there give another key from the same seed.
func srkTemplate(x, y []byte) tpm2.TPMTPublic {
	public := tpm2.ECCSRKTemplate
	public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: x},
		Y: tpm2.TPM2BECCParameter{Buffer: y},
	})
	return public
}

// parseSRK reads a marshalled TPM2B_PUBLIC that must be the template around
// some point of the curve. In the template nothing else varies, so the bytes
// are compared instead of understood.
func parseSRK(public []byte) (tpm2.TPMTPublic, error) {
	empty := srkTemplate(make([]byte, coordinate), make([]byte, coordinate))
	size := len(tpm2.Marshal(tpm2.New2B(empty)))
	if len(public) != size {
		return tpm2.TPMTPublic{}, fmt.Errorf("%w: %d bytes instead of %d", ErrSRKTemplate, len(public), size)
	}
	// The area ends with x and y, each behind its length of two bytes.
	y := public[size-coordinate:]
	x := public[size-2-2*coordinate : size-2-coordinate]
	area := srkTemplate(bytes.Clone(x), bytes.Clone(y))
	if !bytes.Equal(tpm2.Marshal(tpm2.New2B(area)), public) {
		return tpm2.TPMTPublic{}, ErrSRKTemplate
	}
	point := append(append([]byte{4}, x...), y...)
	if _, err := ecdh.P256().NewPublicKey(point); err != nil {
		return tpm2.TPMTPublic{}, fmt.Errorf("%w: its point is not on the curve", ErrSRKTemplate)
	}
	return area, nil
}

// publicName is the name of a marshalled TPM2B_PUBLIC whose name algorithm is
// SHA-256 (Part 1, "Names").
func publicName(public []byte) []byte {
	sum := sha256.Sum256(public[2:])
	return append([]byte{0, byte(tpm2.TPMAlgSHA256)}, sum[:]...)
}

// ReadSRK returns the TPM's storage root key: ErrNoSRK when there is none,
// ErrSRKTemplate when it is of another kind. Its name is computed from the
// public area and not taken from the TPM's word.
func (t *TPM) ReadSRK() (SRK, error) {
	rsp, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(SRKHandle)}.Execute(t.dev)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return SRK{}, ErrNoSRK
	}
	if err != nil {
		return SRK{}, failed("reading the storage root key", err)
	}
	srk := SRK{Handle: SRKHandle, Public: tpm2.Marshal(rsp.OutPublic)}
	if _, err := parseSRK(srk.Public); err != nil {
		return SRK{}, fmt.Errorf("tpm: handle %#x: %w", SRKHandle, err)
	}
	srk.Name = publicName(srk.Public)
	if !bytes.Equal(srk.Name, rsp.Name.Buffer) {
		return SRK{}, fmt.Errorf("tpm: handle %#x: the key's name is not that of its public area", SRKHandle)
	}
	return srk, nil
}

// EnsureSRK returns the storage root key and makes it when there is none. The
// same TPM always makes the same key, the one that systemd makes, until it is
// cleared. It needs the owner's authorisation to be empty, as it is on a machine
// that nobody has taken.
func (t *TPM) EnsureSRK() (SRK, error) {
	srk, err := t.ReadSRK()
	if !errors.Is(err, ErrNoSRK) {
		return srk, err
	}
	owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	made, err := tpm2.CreatePrimary{
		PrimaryHandle: owner,
		InPublic:      tpm2.New2B(srkTemplate(nil, nil)),
	}.Execute(t.dev)
	if err != nil {
		return SRK{}, failed("making the storage root key", err)
	}
	_, err = tpm2.EvictControl{
		Auth:             owner,
		ObjectHandle:     &tpm2.NamedHandle{Handle: made.ObjectHandle, Name: made.Name},
		PersistentHandle: SRKHandle,
	}.Execute(t.dev)
	if err != nil {
		err = failed("storing the storage root key", err)
	}
	if err := errors.Join(err, t.flush(made.ObjectHandle)); err != nil {
		return SRK{}, err
	}
	return t.ReadSRK()
}

// flush removes what was loaded.
func (t *TPM) flush(handle tpm2.TPMHandle) error {
	if _, err := (tpm2.FlushContext{FlushHandle: handle}).Execute(t.dev); err != nil {
		return failed("flushing", err)
	}
	return nil
}

// ParseSRKPublic reads the public half of another machine's storage root key,
// as SealTo wants it. The file is a TPM2B_PUBLIC (systemd-analyze srk,
// tpm2_readpublic -o, /run/systemd/tpm2-srk-public-key.tpm2b_public) or the PEM
// of its point (/run/systemd/tpm2-srk-public-key.pem), which is put into the
// template: an ECC P-256 key in PEM that is not a storage root key cannot be
// told from one.
func ParseSRKPublic(file []byte) ([]byte, error) {
	if !bytes.HasPrefix(bytes.TrimSpace(file), []byte("-----BEGIN")) {
		if _, err := parseSRK(file); err != nil {
			return nil, err
		}
		return bytes.Clone(file), nil
	}
	block, rest := pem.Decode(file)
	if block == nil || block.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) != 0 {
		return nil, errors.New("not exactly one public key in PEM")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%w: the key is not on P-256", ErrSRKTemplate)
	}
	point, err := key.Bytes() // 4, x, y
	if err != nil {
		return nil, err
	}
	return tpm2.Marshal(tpm2.New2B(srkTemplate(point[1:1+coordinate], point[1+coordinate:]))), nil
}
