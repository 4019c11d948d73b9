package tpm

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// Policy is the state of a machine that a secret is sealed to.
type Policy struct {
	Literal PCRs           // these registers have exactly these values
	Key     *rsa.PublicKey // whose signature over SignedPCRs is accepted; nil for none
	// SignedPCRs have values that Key's owner has signed. They are not part of
	// the digest: each signature names the registers that it is for.
	SignedPCRs []int
}

// Digest computes the policy digest with no TPM: PolicyAuthorize, then PolicyPCR
// over the literal values, in systemd's order (tpm2_calculate_sealing_policy). A
// policy that binds nothing is an error, and so is a key without signed PCRs or
// the reverse.
func (p Policy) Digest() ([32]byte, error) {
	var digest [32]byte
	if err := bound(p.Literal.numbers(), p.Key, p.SignedPCRs); err != nil {
		return digest, err
	}
	if p.Key != nil {
		name, err := KeyName(p.Key)
		if err != nil {
			return digest, err
		}
		// PolicyAuthorize starts over from zeros, and hashes once more for the
		// policy qualifier although that is empty (Part 3, 23.16).
		digest = extendPolicy([32]byte{}, tpm2.TPMCCPolicyAuthorize, name)
		digest = sha256.Sum256(digest[:])
	}
	if len(p.Literal) > 0 {
		digest = policyPCR(digest, p.Literal)
	}
	return digest, nil
}

// bound refuses a policy that is not one.
func bound(literal []int, key *rsa.PublicKey, signed []int) error {
	for _, pcrs := range [][]int{literal, signed} {
		if _, err := registers(pcrs); err != nil {
			return err
		}
	}
	switch {
	case key == nil && len(signed) > 0:
		return errors.New("PCRs to be signed and no key that signs")
	case key != nil && len(signed) == 0:
		return errors.New("a key and no PCRs that it signs")
	case key == nil && len(literal) == 0:
		return errors.New("a policy that binds nothing")
	}
	return nil
}

// PCRPolicy is the policy digest of exactly these values and nothing else: what
// is signed. Only PCRs 0 to 23 count; there are no others.
func PCRPolicy(p PCRs) [32]byte { return policyPCR([32]byte{}, p) }

func policyPCR(digest [32]byte, p PCRs) [32]byte {
	numbers := p.numbers()
	values := sha256.New()
	for _, n := range numbers {
		if n >= 0 && n < PCRCount {
			value := p[n]
			values.Write(value[:])
		}
	}
	return extendPolicy(digest, tpm2.TPMCCPolicyPCR, tpm2.Marshal(selection(numbers)), values.Sum(nil))
}

// extendPolicy is PolicyUpdate of Part 3, 23.2.2, without its second half.
func extendPolicy(digest [32]byte, command tpm2.TPMCC, args ...[]byte) [32]byte {
	h := sha256.New()
	h.Write(digest[:])
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(command)))
	for _, a := range args {
		h.Write(a)
	}
	return [32]byte(h.Sum(nil))
}

// publicExponent is the only exponent that every TPM 2.0 takes. It is written
// out, although 0 would mean the same to a TPM: the key's name hashes the bytes,
// and systemd's has 0x00010001 (systemd issue 30546).
const publicExponent = 65537

// keyPublic returns the public area under which systemd loads an RSA key to
// verify with (tpm2_tpm2b_public_from_openssl_pkey). Its name is in policies.
func keyPublic(key *rsa.PublicKey) (tpm2.TPMTPublic, error) {
	if key == nil || key.N == nil || key.E != publicExponent {
		return tpm2.TPMTPublic{}, fmt.Errorf("not an RSA key with the exponent %d", publicExponent)
	}
	bits := key.N.BitLen()
	if bits != 2048 && bits != 3072 && bits != 4096 {
		return tpm2.TPMTPublic{}, fmt.Errorf("an RSA key of %d bits; TPMs take 2048, some 3072 or 4096", bits)
	}
	return tpm2.TPMTPublic{
		Type:             tpm2.TPMAlgRSA,
		NameAlg:          tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{UserWithAuth: true, Decrypt: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			KeyBits: tpm2.TPMIRSAKeyBits(bits), Exponent: publicExponent,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: key.N.Bytes()}),
	}, nil
}

// KeyName is the name, 34 bytes, by which a policy knows the key that may
// authorise PCR values. RSA with 2048, 3072 or 4096 bits and exponent 65537;
// only the first is what every TPM must take.
func KeyName(key *rsa.PublicKey) ([]byte, error) {
	public, err := keyPublic(key)
	if err != nil {
		return nil, err
	}
	return publicName(tpm2.Marshal(tpm2.New2B(public))), nil
}

// Fingerprint is the SHA-256 of the key as PKCS #1 DER, in hexadecimal, by which
// a signature names its key (systemd: tpm2_tpm2b_public_to_fingerprint).
func Fingerprint(key *rsa.PublicKey) string {
	sum := sha256.Sum256(x509.MarshalPKCS1PublicKey(key))
	return hex.EncodeToString(sum[:])
}
