package idblock

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
)

var errNotP384 = errors.New("the key is not on the curve P-384, the only one that the firmware takes")

// GenerateKey makes an ID or author key.
func GenerateKey() (*ecdsa.PrivateKey, error) {
	return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
}

// MarshalKey returns a private key as PEM, PKCS #8. The caller wipes it.
func MarshalKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	defer clear(der)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParseKey reads a private key from PEM, PKCS #8 or SEC 1 (what `openssl
// ecparam -genkey` writes). An encrypted key, another kind and another curve
// than P-384 are errors, which never hold a byte of the key.
func ParseKey(data []byte) (*ecdsa.PrivateKey, error) {
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			return nil, errors.New("there is no private key in PEM format")
		}
		defer clear(block.Bytes)
		var key any
		var err error
		switch block.Type {
		case "EC PARAMETERS": // openssl writes the curve's name before the key
			data = rest
			continue
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			if block.Headers["DEK-Info"] != "" {
				return nil, errors.New("the private key is encrypted: decrypt it first")
			}
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "ENCRYPTED PRIVATE KEY":
			return nil, errors.New("the private key is encrypted: decrypt it first")
		default:
			return nil, fmt.Errorf("a PEM block of type %q is not a private key", block.Type)
		}
		if err != nil {
			return nil, fmt.Errorf("private key: %w", err)
		}
		ec, ok := key.(*ecdsa.PrivateKey)
		if !ok || ec.Curve != elliptic.P384() {
			return nil, errNotP384
		}
		return ec, nil
	}
}

// parseSignature reads the numbers out of an ASN.1 signature.
func parseSignature(der []byte) (r, s *big.Int, err error) {
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		return nil, nil, err
	}
	return sig.R, sig.S, nil
}
