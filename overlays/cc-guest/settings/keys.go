package settings

import (
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Keys is what the guest needs to know to open its volumes and to replace what
// opens them. It holds no secret.
type Keys struct {
	TPMDevice string `json:"tpmDevice"` // the resource manager, /dev/tpmrmN

	// PCRs are bound literally in profile tpm, ascending, each once. PCRs 12
	// and 13 (all zeros) and 11 (by signature) are bound beside them always and
	// do not stand here.
	PCRs []int `json:"pcrs"`

	LUKS            LUKS `json:"luks"`            // of volumes that the guest makes
	ConsoleRecovery bool `json:"consoleRecovery"` // a recovery key may be typed at the console

	// DynamicIntegrity is "on", "off", or "auto": on where the key profile is
	// snp or attested.
	DynamicIntegrity string `json:"dynamicIntegrity"`

	RotationInterval int64 `json:"rotationInterval"` // seconds between two replacements, 3600 to 31536000

	// OperatorKey is the Ed25519 public key whose holder may release keys in
	// profile attested: "ed25519:" and 32 bytes in base64. Empty: nobody may.
	OperatorKey string `json:"operatorKey"`

	Identity Identity `json:"identity"`

	// RecoveryRecipients are armoured OpenPGP public keys: to whom the recovery
	// key of the writable volume is encrypted. Empty: there is none.
	RecoveryRecipients []string `json:"recoveryRecipients"`
}

// LUKS is how an encrypted volume is made.
type LUKS struct {
	Cipher  string `json:"cipher"`  // aes-xts-plain64
	KeyBits int    `json:"keyBits"` // 256 or 512
	Hash    string `json:"hash"`    // sha256 or sha512
}

// Identity is the key pair that the guest makes for itself.
type Identity struct {
	Dir  string `json:"dir"`  // absolute path
	Size int    `json:"size"` // bits
	Algo string `json:"algo"` // rsa, ecdsa or ed25519
}

const (
	minRotation = 60 * 60            // seconds
	maxRotation = 365 * 24 * 60 * 60 // seconds
	// maxRecipients and maxRecipient (bytes) keep the file small enough to lie
	// in the initrd.
	maxRecipients = 16
	maxRecipient  = 64 << 10
)

var tpmDevice = regexp.MustCompile(`^/dev/tpmrm[0-9]{1,2}$`)

// validate returns every mistake in k.
func (k Keys) validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf("keys: "+format, args...)) }
	if !tpmDevice.MatchString(k.TPMDevice) {
		fail("%q is not a TPM resource manager", k.TPMDevice)
	}
	for i, n := range k.PCRs {
		if n < 0 || n > 9 && n != 14 {
			fail("PCR %d cannot be bound literally", n)
		}
		if i > 0 && n <= k.PCRs[i-1] {
			fail("PCR %d is out of order", n)
		}
	}
	if k.LUKS.Cipher != "aes-xts-plain64" {
		fail("the cipher %q is not allowed", k.LUKS.Cipher)
	}
	if k.LUKS.KeyBits != 256 && k.LUKS.KeyBits != 512 {
		fail("a volume key of %d bits is not allowed", k.LUKS.KeyBits)
	}
	if k.LUKS.Hash != "sha256" && k.LUKS.Hash != "sha512" {
		fail("the hash %q is not allowed", k.LUKS.Hash)
	}
	if !slices.Contains([]string{"auto", "on", "off"}, k.DynamicIntegrity) {
		fail("dynamicIntegrity %q is neither auto, on nor off", k.DynamicIntegrity)
	}
	if k.RotationInterval < minRotation || k.RotationInterval > maxRotation {
		fail("rotationInterval: %d is not between %d and %d", k.RotationInterval, minRotation, maxRotation)
	}
	if k.OperatorKey != "" {
		if _, err := ParseOperatorKey(k.OperatorKey); err != nil {
			fail("operatorKey: %w", err)
		}
	}
	if err := k.Identity.validate(); err != nil {
		fail("identity: %w", err)
	}
	if len(k.RecoveryRecipients) > maxRecipients {
		fail("%d recipients, at most %d", len(k.RecoveryRecipients), maxRecipients)
	}
	for i, r := range k.RecoveryRecipients {
		if err := checkRecipient(r); err != nil {
			fail("recoveryRecipients[%d]: %w", i, err)
		}
	}
	return errors.Join(errs...)
}

func (i Identity) validate() error {
	sizes, known := map[string][]int{"rsa": {2048, 3072, 4096}, "ecdsa": {256, 384}, "ed25519": {256}}[i.Algo]
	switch {
	case !cleanPath(i.Dir):
		return fmt.Errorf("the folder %q is not absolute and clean", i.Dir)
	case !known:
		return fmt.Errorf("unknown algorithm %q", i.Algo)
	case !slices.Contains(sizes, i.Size):
		return fmt.Errorf("%s has no size %d", i.Algo, i.Size)
	}
	return nil
}

// ParseOperatorKey reads an operator's public key, "ed25519:" and 32 bytes in
// padded standard base64, and returns the bytes. Only one spelling of each key
// is accepted, and no key of zeros, which nobody has made.
func ParseOperatorKey(text string) ([]byte, error) {
	const size = 32 // RFC 8032 section 5.1.5
	encoded, ok := strings.CutPrefix(text, "ed25519:")
	if !ok {
		return nil, errors.New("it does not begin with ed25519:")
	}
	key, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil || strings.ContainsAny(encoded, "\r\n") {
		return nil, errors.New("after ed25519: it is not base64")
	}
	if len(key) != size {
		return nil, fmt.Errorf("it has %d bytes, an Ed25519 public key has %d", len(key), size)
	}
	if !slices.ContainsFunc(key, func(b byte) bool { return b != 0 }) {
		return nil, errors.New("it is all zeros")
	}
	return key, nil
}

// checkRecipient looks at the form only: the build has read the key itself.
func checkRecipient(text string) error {
	const head, tail = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n", "\n-----END PGP PUBLIC KEY BLOCK-----"
	body := strings.TrimRight(text, "\n")
	switch {
	case len(text) > maxRecipient:
		return fmt.Errorf("%d bytes, at most %d", len(text), maxRecipient)
	case !strings.HasPrefix(body, head) || !strings.HasSuffix(body, tail):
		return errors.New("not an armoured OpenPGP public key")
	case strings.Count(text, "-----BEGIN") != 1 || strings.Count(text, "-----END") != 1:
		return errors.New("not exactly one armoured block")
	}
	return nil
}
