package tpm

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Signature says that a machine whose PCRs fulfil a policy is one that the
// key's owner has made.
type Signature struct {
	PCRs        []int  // that the policy is over
	Fingerprint string // of the key, as Fingerprint returns it
	Policy      []byte // digest, 32 bytes, as PCRPolicy returns it
	Value       []byte // RSASSA-PKCS1-v1_5 with SHA-256 over Policy
}

// Signatures are those of a tpm2-pcr-signature.json, by the name of the PCR
// bank. systemd-measure writes that file, a UKI carries it in .pcrsig. Of the
// banks only "sha256" is used here. The zero value has no signatures.
type Signatures map[string][]Signature

const (
	bankSHA256 = "sha256"
	// maxSignatures bounds the file, in bytes. One signature takes 600.
	maxSignatures = 1 << 20
	// pcrPhase is the register of the boot image and the phase of the boot.
	pcrPhase = 11
)

// signatureJSON has the fields in the order in which systemd-measure writes
// them.
type signatureJSON struct {
	PCRs        []int  `json:"pcrs"`
	Fingerprint string `json:"pkfp"`
	Policy      string `json:"pol"`
	Value       []byte `json:"sig"`
}

// ParseSignatures reads a tpm2-pcr-signature.json. Nothing is verified: Unseal
// does that, and so does the TPM. Fields that later versions of systemd add are
// passed over.
func ParseSignatures(text []byte) (Signatures, error) {
	if len(text) > maxSignatures {
		return nil, fmt.Errorf("%d bytes of PCR signatures", len(text))
	}
	var file map[string][]signatureJSON
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("PCR signatures: %w", err)
	}
	if file == nil {
		return nil, errors.New("PCR signatures: not an object")
	}
	s := Signatures{}
	for bank, entries := range file {
		s[bank] = []Signature{}
		for i, e := range entries {
			one, err := e.parse()
			if err != nil {
				return nil, fmt.Errorf("PCR signatures: %q: entry %d: %w", bank, i, err)
			}
			s[bank] = append(s[bank], one)
		}
	}
	return s, nil
}

func (e signatureJSON) parse() (Signature, error) {
	pcrs, err := registers(e.PCRs)
	if err != nil {
		return Signature{}, err
	}
	key, err := hex.DecodeString(e.Fingerprint)
	if err != nil || len(key) != sha256.Size {
		return Signature{}, errors.New("pkfp is not a SHA-256 digest")
	}
	policy, err := hex.DecodeString(e.Policy)
	if err != nil || len(policy) != sha256.Size {
		return Signature{}, errors.New("pol is not a SHA-256 digest")
	}
	if len(pcrs) == 0 || len(e.Value) == 0 {
		return Signature{}, errors.New("no PCRs or no signature")
	}
	return Signature{PCRs: pcrs, Fingerprint: hex.EncodeToString(key), Policy: policy, Value: e.Value}, nil
}

// Encode writes the file. Equal signatures give equal bytes.
func (s Signatures) Encode() ([]byte, error) {
	file := map[string][]signatureJSON{}
	for bank, entries := range s {
		file[bank] = []signatureJSON{}
		for _, e := range entries {
			pcrs, err := registers(e.PCRs)
			if err != nil {
				return nil, fmt.Errorf("PCR signatures: %w", err)
			}
			one := signatureJSON{PCRs: pcrs, Fingerprint: e.Fingerprint, Policy: hex.EncodeToString(e.Policy), Value: e.Value}
			if _, err := one.parse(); err != nil {
				return nil, fmt.Errorf("PCR signatures: %w", err)
			}
			file[bank] = append(file[bank], one)
		}
	}
	return json.Marshal(file)
}

// SignPCR11 signs the values that PCR 11 may have, in the given order and each
// once. RSASSA-PKCS1-v1_5 has no randomness: the same key and values give the
// same bytes.
func SignPCR11(key *rsa.PrivateKey, values ...[32]byte) (Signatures, error) {
	if _, err := keyPublic(&key.PublicKey); err != nil {
		return nil, err
	}
	var entries []Signature
	for i, v := range values {
		if slices.Contains(values[:i], v) {
			continue
		}
		policy := PCRPolicy(PCRs{pcrPhase: v})
		digest := sha256.Sum256(policy[:])
		value, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, digest[:])
		if err != nil {
			return nil, errors.New("signing PCR 11 failed")
		}
		entries = append(entries, Signature{
			PCRs: []int{pcrPhase}, Fingerprint: Fingerprint(&key.PublicKey), Policy: policy[:], Value: value,
		})
	}
	if len(entries) == 0 {
		return nil, errors.New("no value of PCR 11 to sign")
	}
	return Signatures{bankSHA256: entries}, nil
}

// find returns the first signature by the key over this policy of these PCRs
// that verifies, or ErrSignature.
func (s Signatures) find(key *rsa.PublicKey, pcrs []int, policy []byte) ([]byte, error) {
	fingerprint := Fingerprint(key)
	digest := sha256.Sum256(policy)
	fits := 0
	for _, e := range s[bankSHA256] {
		if e.Fingerprint != fingerprint || !slices.Equal(e.PCRs, pcrs) || string(e.Policy) != string(policy) {
			continue
		}
		if rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], e.Value) == nil {
			return e.Value, nil
		}
		fits++
	}
	if fits > 0 {
		return nil, fmt.Errorf("%w: %d fit and do not verify", ErrSignature, fits)
	}
	return nil, fmt.Errorf("%w: of %d none is by this key for PCR %v as it is", ErrSignature, len(s[bankSHA256]), pcrs)
}
