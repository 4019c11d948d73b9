package tpm

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
)

// Sealed is a secret that only a TPM can open. Each part is marshalled with its
// length of two bytes, big endian; one after the other they are the tpm2-blob of
// a systemd-tpm2 token.
type Sealed struct {
	Private []byte // TPM2B_PRIVATE
	Public  []byte // TPM2B_PUBLIC
	Seed    []byte // TPM2B_ENCRYPTED_SECRET, only of what was sealed with no TPM at hand: it must be imported
}

const (
	// maxSecret is what every TPM can seal, in bytes (MAX_SYM_DATA).
	maxSecret = 128
	// nonceSize of our sessions, in bytes: the least that Part 1 allows for
	// SHA-256 is 16.
	nonceSize = 16
	// sessionKeyBits of the parameter encryption, the storage root key's own.
	sessionKeyBits = 128
)

// sealable refuses what must not or cannot be sealed. An object with an all-zero
// policy would be opened by any policy session: a fresh one has that digest.
func sealable(secret []byte, policy [32]byte) error {
	if policy == ([32]byte{}) {
		return errors.New("an empty policy protects nothing")
	}
	if len(secret) == 0 || len(secret) > maxSecret {
		return fmt.Errorf("a secret of %d bytes cannot be sealed: 1 to %d can", len(secret), maxSecret)
	}
	return nil
}

// sealedPublic is the public area of a sealed object. It can be used by policy
// alone, and noDA exempts it from dictionary attack lockout: there is no
// authorisation value to guess. systemd sets both since version 256.
func sealedPublic(policy [32]byte, fixed bool, unique []byte) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type:             tpm2.TPMAlgKeyedHash,
		NameAlg:          tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: fixed, FixedParent: fixed, NoDA: true},
		AuthPolicy:       tpm2.TPM2BDigest{Buffer: policy[:]},
		Parameters:       tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{}),
		Unique:           tpm2.NewTPMUPublicID(tpm2.TPMAlgKeyedHash, &tpm2.TPM2BDigest{Buffer: unique}),
	}
}

// Seal seals the secret, 1 to 128 bytes, under the storage root key, to be
// opened when the policy digest is fulfilled. The secret goes to the TPM
// encrypted for srk.Public: a TPM that does not have srk's private half cannot
// read it, and its answer is not believed. The object stays with this TPM
// (attributes 0x0412).
func (t *TPM) Seal(srk SRK, secret []byte, policy [32]byte) (Sealed, error) {
	if err := sealable(secret, policy); err != nil {
		return Sealed{}, err
	}
	parent, err := t.own(srk)
	if err != nil {
		return Sealed{}, err
	}
	rsp, err := tpm2.Create{
		ParentHandle: tpm2.AuthHandle{
			Handle: parent.handle, Name: parent.name,
			Auth: tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize,
				tpm2.Salted(parent.handle, parent.public), tpm2.AESEncryption(sessionKeyBits, tpm2.EncryptInOut)),
		},
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
			Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: secret}),
		}},
		InPublic: tpm2.New2B(sealedPublic(policy, true, nil)),
	}.Execute(t.dev)
	if err != nil {
		return Sealed{}, failed("sealing", err)
	}
	sealed := Sealed{Private: tpm2.Marshal(tpm2.TPM2BData(rsp.OutPrivate)), Public: tpm2.Marshal(rsp.OutPublic)}
	got, err := sealed.object()
	if err != nil {
		return Sealed{}, fmt.Errorf("tpm: sealing: %w", err)
	}
	if got != policy {
		return Sealed{}, errors.New("tpm: sealing: the object has another policy")
	}
	return sealed, nil
}

// SealTo seals the secret, 1 to 128 bytes, for the TPM whose storage root key's
// public half is given as ParseSRKPublic returns it, with no TPM at hand, as
// systemd-cryptenroll --tpm2-device-key= does: the object is made here and
// encrypted for the key like one that another TPM duplicates (Part 1,
// "Duplication", with an outer wrapper only). Nobody but its maker can tell that
// the TPM is real.
func SealTo(srkPublic []byte, secret []byte, policy [32]byte) (Sealed, error) {
	if err := sealable(secret, policy); err != nil {
		return Sealed{}, err
	}
	parent, err := parseSRK(srkPublic)
	if err != nil {
		return Sealed{}, err
	}
	key, err := tpm2.ImportEncapsulationKey(&parent)
	if err != nil {
		return Sealed{}, err
	}
	// The obfuscation value hides the secret from the hash of it that unique is
	// (Part 1, "Public Area of a Data Object").
	obfuscation := make([]byte, sha256.Size)
	if _, err := rand.Read(obfuscation); err != nil {
		return Sealed{}, err
	}
	defer clear(obfuscation)
	unique := sha256.New()
	unique.Write(obfuscation)
	unique.Write(secret)
	public := tpm2.Marshal(tpm2.New2B(sealedPublic(policy, false, unique.Sum(nil))))

	sensitive := tpm2.Marshal(tpm2.TPMTSensitive{
		SensitiveType: tpm2.TPMAlgKeyedHash,
		SeedValue:     tpm2.TPM2BDigest{Buffer: obfuscation},
		Sensitive:     tpm2.NewTPMUSensitiveComposite(tpm2.TPMAlgKeyedHash, &tpm2.TPM2BSensitiveData{Buffer: secret}),
	})
	defer clear(sensitive)
	private, seed, err := tpm2.CreateDuplicate(rand.Reader, key, publicName(public), sensitive)
	if err != nil {
		return Sealed{}, errors.New("encrypting for the storage root key failed")
	}
	return Sealed{
		Private: tpm2.Marshal(tpm2.TPM2BData{Buffer: private}),
		Public:  public,
		Seed:    tpm2.Marshal(tpm2.TPM2BData{Buffer: seed}),
	}, nil
}

// parent is the storage root key in use.
type parent struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	public tpm2.TPMTPublic
}

// own returns the TPM's storage root key if it is the given one.
func (t *TPM) own(srk SRK) (parent, error) {
	have, err := t.ReadSRK()
	if err != nil {
		return parent{}, err
	}
	if !bytes.Equal(have.Name, srk.Name) {
		return parent{}, ErrOtherSRK
	}
	public, err := parseSRK(have.Public)
	return parent{tpm2.TPMHandle(have.Handle), tpm2.TPM2BName{Buffer: have.Name}, public}, err
}

// object checks that the parts are those of an object that only a policy opens,
// and returns the digest of that policy.
func (s Sealed) object() (policy [32]byte, err error) {
	parts := []struct {
		name string
		data []byte
	}{{"private", s.Private}, {"public", s.Public}, {"seed", s.Seed}}
	var area cryptobyte.String
	for _, p := range parts {
		rest, content := cryptobyte.String(p.data), cryptobyte.String(nil)
		if len(p.data) == 0 && p.name == "seed" {
			continue
		}
		if !rest.ReadUint16LengthPrefixed(&content) || !rest.Empty() || content.Empty() {
			return policy, fmt.Errorf("a sealed object's %s part is malformed", p.name)
		}
		if p.name == "public" {
			area = content
		}
	}
	var kind, nameAlgorithm, scheme uint16
	var attributes uint32
	var authPolicy, unique cryptobyte.String
	if !area.ReadUint16(&kind) || !area.ReadUint16(&nameAlgorithm) || !area.ReadUint32(&attributes) ||
		!area.ReadUint16LengthPrefixed(&authPolicy) || !area.ReadUint16(&scheme) ||
		!area.ReadUint16LengthPrefixed(&unique) || !area.Empty() ||
		tpm2.TPMAlgID(kind) != tpm2.TPMAlgKeyedHash || tpm2.TPMAlgID(nameAlgorithm) != tpm2.TPMAlgSHA256 ||
		tpm2.TPMAlgID(scheme) != tpm2.TPMAlgNull {
		return policy, errors.New("not a sealed object of SHA-256")
	}
	const userWithAuth = 1 << 6
	if attributes&userWithAuth != 0 || len(authPolicy) != len(policy) {
		return policy, errors.New("a sealed object that no policy protects")
	}
	return [32]byte(authPolicy), nil
}
