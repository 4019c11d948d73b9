package release

import (
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/cloudflare/circl/hpke"
	"github.com/cloudflare/circl/kem"
)

// suite is fixed: nobody negotiates.
func suite() hpke.Suite {
	return hpke.NewSuite(hpke.KEM_X25519_HKDF_SHA256, hpke.KDF_HKDF_SHA256, hpke.AEAD_AES256GCM)
}

// hpkeInfo separates this use of HPKE from every other.
func hpkeInfo() []byte { return fmt.Appendf(nil, "cc-base/release/v%d/key", Version) }

// Seal encrypts an instance key to a guest's ephemeral public key.
func Seal(publicKey, key []byte, transcript Digest) (enc, sealed []byte, err error) {
	if len(key) != KeySize {
		return nil, nil, fmt.Errorf("an instance key has %d bytes, not %d", KeySize, len(key))
	}
	pk, err := hpke.KEM_X25519_HKDF_SHA256.Scheme().UnmarshalBinaryPublicKey(publicKey)
	if err != nil {
		return nil, nil, err
	}
	sender, err := suite().NewSender(pk, hpkeInfo())
	if err != nil {
		return nil, nil, err
	}
	enc, sealer, err := sender.Setup(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	sealed, err = sealer.Seal(key, transcript[:])
	return enc, sealed, err
}

// ephemeral makes the key pair of one exchange.
func ephemeral() (public []byte, private kem.PrivateKey, err error) {
	pk, sk, err := hpke.KEM_X25519_HKDF_SHA256.Scheme().GenerateKeyPair()
	if err != nil {
		return nil, nil, err
	}
	public, err = pk.MarshalBinary()
	return public, sk, err
}

// open is the reverse of [Seal].
func open(private kem.PrivateKey, enc, sealed []byte, transcript Digest) ([]byte, error) {
	receiver, err := suite().NewReceiver(private, hpkeInfo())
	if err != nil {
		return nil, err
	}
	opener, err := receiver.Setup(enc)
	if err != nil {
		return nil, err
	}
	key, err := opener.Open(sealed, transcript[:])
	if err != nil {
		return nil, err
	}
	for _, b := range key {
		if b != 0 {
			return key, nil
		}
	}
	return nil, errors.New("the key is all zeros")
}
