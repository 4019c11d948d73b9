package boot

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/fault"
)

// PCRPhase is the boot phase for which PCR 11 is signed: the initrd and nothing
// after it, so that the running system cannot unseal what the initrd could
// (systemd-pcrphase.service(8)).
const PCRPhase = "enter-initrd"

// PCRKey signs the values of PCR 11 that may open a volume. Volumes are bound to
// the key instead of to a value, so a new boot image needs a new signature and
// no new enrolment.
type PCRKey struct {
	Private *rsa.PrivateKey
	Public  string // file with the public half in PEM, as the UKI carries it
}

// Fingerprint is the SHA-256 of the public half as PKCS #1 DER, in lower-case
// hexadecimal: the "pkfp" by which a signature names its key (systemd 257
// src/shared/tpm2-util.c, src/measure/measure.c).
func (k PCRKey) Fingerprint() string { return fingerprint(&k.Private.PublicKey) }

// PCRFingerprint is [PCRKey.Fingerprint] of a public half in PEM.
func PCRFingerprint(public []byte) (string, error) {
	block, _ := pem.Decode(public)
	if block == nil || block.Type != "PUBLIC KEY" {
		return "", errors.New("not a public key in PEM")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return "", err
	}
	key, ok := parsed.(*rsa.PublicKey)
	if !ok {
		return "", errors.New("not an RSA key")
	}
	return fingerprint(key), nil
}

func fingerprint(key *rsa.PublicKey) string {
	sum := sha256.Sum256(x509.MarshalPKCS1PublicKey(key))
	return hex.EncodeToString(sum[:])
}

// LoadOrMakePCRKey reads the key pair dir/pcr.key (RSA-2048, PKCS #8 in PEM) and
// dir/pcr.pub (SubjectPublicKeyInfo in PEM), making it on first use. An existing
// key is never overwritten. A public half that is missing, as after a build that
// was killed between the two, is made again from the private one; a public half
// alone is an error. made tells whether this call made the pair.
//
// RSA with 2048 bits is what every TPM 2.0 can verify (TCG PC Client Platform
// TPM Profile, required algorithms).
func LoadOrMakePCRKey(dir string) (key PCRKey, made bool, err error) {
	private, public := filepath.Join(dir, "pcr.key"), filepath.Join(dir, "pcr.pub")
	_, privateErr := os.Stat(private)
	_, publicErr := os.Stat(public)
	switch {
	case privateErr == nil:
		key, err = loadPCRKey(private, public)
		return key, false, err
	case errors.Is(privateErr, fs.ErrNotExist) && errors.Is(publicErr, fs.ErrNotExist):
		key, err = makePCRKey(private, public)
		return key, err == nil, err
	case !errors.Is(privateErr, fs.ErrNotExist):
		return PCRKey{}, false, privateErr
	case publicErr != nil && !errors.Is(publicErr, fs.ErrNotExist):
		return PCRKey{}, false, publicErr
	default:
		return PCRKey{}, false, fault.Newf(fault.BootImage, "%s is there and %s is not; restore it or move the other away", public, private)
	}
}

func loadPCRKey(private, public string) (PCRKey, error) {
	keyPEM, err := os.ReadFile(private)
	if err != nil {
		return PCRKey{}, err
	}
	defer clear(keyPEM)
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return PCRKey{}, fault.Newf(fault.BootImage, "%s is not PEM", private)
	}
	defer clear(block.Bytes)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return PCRKey{}, fault.New(fault.BootImage, fmt.Errorf("%s: %w", private, err))
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok || key.N.BitLen() != keyBits {
		return PCRKey{}, fault.Newf(fault.BootImage, "%s: not an RSA key of %d bits, which is what every TPM can check", private, keyBits)
	}
	want, err := publicPart(key)
	if err != nil {
		return PCRKey{}, err
	}
	publicPEM, err := os.ReadFile(public)
	if errors.Is(err, fs.ErrNotExist) {
		return PCRKey{Private: key, Public: public}, atomicfile.CreateNew(public, 0o644, want)
	}
	if err != nil {
		return PCRKey{}, err
	}
	// Byte for byte: the file goes into the boot image and is measured there.
	if string(publicPEM) != string(want) {
		return PCRKey{}, fault.Newf(fault.BootImage, "%s is not the public half of %s", public, private)
	}
	return PCRKey{Private: key, Public: public}, nil
}

func makePCRKey(private, public string) (PCRKey, error) {
	key, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return PCRKey{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return PCRKey{}, err
	}
	defer clear(der)
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	defer clear(text)
	pub, err := publicPart(key)
	if err != nil {
		return PCRKey{}, err
	}
	if err := os.MkdirAll(filepath.Dir(private), 0o700); err != nil {
		return PCRKey{}, err
	}
	if err := atomicfile.CreateNew(private, 0o600, text); err != nil {
		return PCRKey{}, err
	}
	if err := atomicfile.CreateNew(public, 0o644, pub); err != nil {
		return PCRKey{}, err
	}
	return PCRKey{Private: key, Public: public}, nil
}

func publicPart(key *rsa.PrivateKey) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}), nil
}
