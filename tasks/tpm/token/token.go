// Package token reads and writes LUKS2 tokens of type systemd-tpm2: the JSON
// object in a LUKS2 header that says how a TPM opens a keyslot. What it writes,
// systemd-cryptsetup of version 254 and later opens, and the reverse (systemd
// 257, src/shared/tpm2-util.c, tpm2_make_luks2_json and tpm2_parse_luks2_json).
//
// A token is read from a disk that anybody may have written. It holds no secret
// and its fields are only claims: the TPM decides.
package token

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"golang.org/x/crypto/cryptobyte"

	"cc-base/tasks/tpm"
)

// Type is the token's type in the LUKS2 header.
const Type = "systemd-tpm2"

// ErrUnsupported is a well-formed token that this package does not open: it asks
// for a PIN or a pcrlock policy, or uses another bank or another primary key.
var ErrUnsupported = errors.New("a token that is not supported")

// Token is one token. The passphrase of its keyslot is the base64, with padding,
// of the secret that the TPM unseals.
type Token struct {
	Keyslots   []string       // decimal
	Sealed     tpm.Sealed     // tpm2-blob
	PCRs       []int          // with literal values; may be empty
	Bank       string         // of the PCRs: "sha256", or empty in tokens before systemd 250
	PrimaryAlg string         // of the storage root key: "ecc", or empty in tokens before systemd 250
	PolicyHash []byte         // policy digest, 32 bytes
	Key        *rsa.PublicKey // whose signatures over SignedPCRs count; nil for none
	// KeyPEM is the key as it is written: the PEM text of Key. Nil has Marshal
	// make it.
	KeyPEM     []byte
	SignedPCRs []int
	SRK        []byte // ESYS_TR_Serialize form, see SerializeSRK; nil in tokens before systemd 254

	// Extra are all other fields, untouched. Nobody may drop what a later
	// version, or somebody else, has put there.
	Extra map[string]json.RawMessage
}

// Names of the fields, in the order in which systemd writes them. From 252 on
// it named new ones with an underscore.
const (
	fieldType       = "type"
	fieldKeyslots   = "keyslots"
	fieldBlob       = "tpm2-blob"
	fieldPCRs       = "tpm2-pcrs"
	fieldBank       = "tpm2-pcr-bank"
	fieldPrimaryAlg = "tpm2-primary-alg"
	fieldPolicyHash = "tpm2-policy-hash"
	fieldSignedPCRs = "tpm2_pubkey_pcrs"
	fieldKey        = "tpm2_pubkey"
	fieldSRK        = "tpm2_srk"

	// Kept in Extra, and looked at to tell what is not supported.
	fieldPIN       = "tpm2-pin"
	fieldSalt      = "tpm2_salt"
	fieldPCRLock   = "tpm2_pcrlock"
	fieldPCRLockNV = "tpm2_pcrlock_nv"
)

// known tells whether the field has a place in Token.
func known(field string) bool {
	switch field {
	case fieldType, fieldKeyslots, fieldBlob, fieldPCRs, fieldBank, fieldPrimaryAlg, fieldPolicyHash, fieldSignedPCRs, fieldKey, fieldSRK:
		return true
	}
	return false
}

const (
	// maxToken bounds a token in bytes. One with a key of 4096 bits has 3000.
	maxToken = 64 << 10
	// policySize is the length of a SHA-256 policy digest in bytes.
	policySize = 32
	// keyslots is how many a LUKS2 header can have (LUKS2 On-Disk Format 1.1.3).
	keyslots = 32
)

// Parse reads a token. It refuses what is malformed, also a field that is there
// twice, of which another reader might take the other one; and with
// ErrUnsupported what this package cannot open.
func Parse(data []byte) (Token, error) {
	t, err := parse(data)
	if err != nil {
		return Token{}, fmt.Errorf("systemd-tpm2 token: %w", err)
	}
	return t, nil
}

func parse(data []byte) (Token, error) {
	if len(data) > maxToken {
		return Token{}, fmt.Errorf("%d bytes; at most %d are read", len(data), maxToken)
	}
	fields, err := object(data)
	if err != nil {
		return Token{}, err
	}
	if err := supported(fields); err != nil {
		return Token{}, err
	}
	var t Token
	r := reader{fields: fields}
	if kind := r.text(fieldType, true); r.err == nil && kind != Type {
		return Token{}, errors.New("its type is another one")
	}
	r.json(fieldKeyslots, &t.Keyslots)
	blob := r.base64(fieldBlob, true)
	t.PCRs = r.pcrs(fieldPCRs, true)
	t.Bank = r.text(fieldBank, false)
	t.PrimaryAlg = r.text(fieldPrimaryAlg, false)
	policy := r.text(fieldPolicyHash, true)
	t.SignedPCRs = r.pcrs(fieldSignedPCRs, false)
	t.KeyPEM = r.base64(fieldKey, false)
	t.SRK = r.base64(fieldSRK, false)
	if r.err != nil {
		return Token{}, r.err
	}
	if t.PolicyHash, err = hex.DecodeString(policy); err != nil {
		return Token{}, fmt.Errorf("%s is not hexadecimal", fieldPolicyHash)
	}
	if t.Sealed, err = split(blob); err != nil {
		return Token{}, err
	}
	if t.KeyPEM != nil {
		if t.Key, err = parseKey(t.KeyPEM); err != nil {
			return Token{}, err
		}
	}
	for name, value := range fields {
		if !known(name) {
			if t.Extra == nil {
				t.Extra = map[string]json.RawMessage{}
			}
			t.Extra[name] = value
		}
	}
	return t, t.valid()
}

// supported refuses fields that change how the token is opened.
func supported(fields map[string]json.RawMessage) error {
	for name, off := range map[string]string{fieldPIN: "false", fieldPCRLock: "false", fieldSalt: "", fieldPCRLockNV: ""} {
		if value, ok := fields[name]; ok && string(value) != off {
			return fmt.Errorf("%w: it has %s", ErrUnsupported, name)
		}
	}
	return nil
}

// valid holds the rules that reading and writing share.
func (t Token) valid() error {
	for i, slot := range t.Keyslots {
		n, err := strconv.ParseUint(slot, 10, 8)
		if err != nil || n >= keyslots || strconv.FormatUint(n, 10) != slot || slices.Contains(t.Keyslots[:i], slot) {
			return fmt.Errorf("%s: not a list of keyslots", fieldKeyslots)
		}
	}
	if t.Bank != "" && t.Bank != "sha256" {
		return fmt.Errorf("%w: the PCR bank is not sha256", ErrUnsupported)
	}
	if t.PrimaryAlg != "" && t.PrimaryAlg != "ecc" {
		return fmt.Errorf("%w: the primary key is not ecc", ErrUnsupported)
	}
	if len(t.PolicyHash) != policySize {
		return fmt.Errorf("%s: %d bytes instead of %d", fieldPolicyHash, len(t.PolicyHash), policySize)
	}
	for _, pcrs := range [][]int{t.PCRs, t.SignedPCRs} {
		for i, n := range pcrs {
			if n < 0 || n >= tpm.PCRCount || slices.Contains(pcrs[:i], n) {
				return errors.New("not a list of PCRs")
			}
		}
	}
	if (t.Key == nil) != (len(t.SignedPCRs) == 0) {
		return fmt.Errorf("%s and %s go together", fieldKey, fieldSignedPCRs)
	}
	if t.SRK != nil && len(t.SRK) == 0 {
		return fmt.Errorf("%s is empty", fieldSRK)
	}
	return nil
}

// Marshal writes the token: the known fields in systemd's order, then the others
// by name. Equal tokens give equal bytes. The result is one line.
func (t Token) Marshal() ([]byte, error) {
	data, err := t.marshal()
	if err != nil {
		return nil, fmt.Errorf("systemd-tpm2 token: %w", err)
	}
	return data, nil
}

func (t Token) marshal() ([]byte, error) {
	if err := t.valid(); err != nil {
		return nil, err
	}
	blob := slices.Concat(t.Sealed.Private, t.Sealed.Public, t.Sealed.Seed)
	if again, err := split(blob); err != nil || !bytes.Equal(again.Private, t.Sealed.Private) || !bytes.Equal(again.Public, t.Sealed.Public) {
		return nil, errors.New("the sealed object is malformed")
	}
	keyPEM, err := t.keyPEM()
	if err != nil {
		return nil, err
	}
	w := writer{}
	w.field(fieldType, Type)
	w.field(fieldKeyslots, append([]string{}, t.Keyslots...))
	w.field(fieldBlob, blob)
	w.field(fieldPCRs, append([]int{}, t.PCRs...))
	if t.Bank != "" {
		w.field(fieldBank, t.Bank)
	}
	if t.PrimaryAlg != "" {
		w.field(fieldPrimaryAlg, t.PrimaryAlg)
	}
	w.field(fieldPolicyHash, hex.EncodeToString(t.PolicyHash))
	if t.Key != nil {
		w.field(fieldSignedPCRs, t.SignedPCRs)
		w.field(fieldKey, keyPEM)
	}
	if t.SRK != nil {
		w.field(fieldSRK, t.SRK)
	}
	if err := supported(t.Extra); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(t.Extra)) {
		if known(name) {
			return nil, fmt.Errorf("%s is not an extra field", name)
		}
		w.field(name, t.Extra[name])
	}
	return w.object()
}

// keyPEM returns the key as it is to be written.
func (t Token) keyPEM() ([]byte, error) {
	if t.Key == nil {
		if t.KeyPEM != nil {
			return nil, errors.New("a key in PEM that is not set")
		}
		return nil, nil
	}
	if _, err := tpm.KeyName(t.Key); err != nil {
		return nil, err
	}
	if t.KeyPEM == nil {
		der, err := x509.MarshalPKIXPublicKey(t.Key)
		if err != nil {
			return nil, err
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
	}
	key, err := parseKey(t.KeyPEM)
	if err != nil {
		return nil, err
	}
	if !key.Equal(t.Key) {
		return nil, errors.New("the key in PEM is another one")
	}
	return t.KeyPEM, nil
}

// parseKey reads the PEM text of a key that a policy can name.
func parseKey(text []byte) (*rsa.PublicKey, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) != 0 {
		return nil, fmt.Errorf("%s: not exactly one public key in PEM", fieldKey)
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", fieldKey, err)
	}
	key, ok := parsed.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: %s is not RSA", ErrUnsupported, fieldKey)
	}
	if _, err := tpm.KeyName(key); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrUnsupported, fieldKey, err)
	}
	return key, nil
}

// split takes tpm2-blob apart: TPM2B_PRIVATE, TPM2B_PUBLIC and, of an object
// that must be imported, TPM2B_ENCRYPTED_SECRET.
func split(blob []byte) (tpm.Sealed, error) {
	rest := cryptobyte.String(blob)
	next := func() []byte {
		var content cryptobyte.String
		whole := []byte(rest)
		if !rest.ReadUint16LengthPrefixed(&content) || content.Empty() {
			return nil
		}
		return bytes.Clone(whole[:2+len(content)])
	}
	var s tpm.Sealed
	s.Private, s.Public = next(), next()
	imported := !rest.Empty()
	if imported {
		s.Seed = next()
	}
	if s.Private == nil || s.Public == nil || imported && s.Seed == nil || !rest.Empty() {
		return tpm.Sealed{}, fmt.Errorf("%s: not a sealed object", fieldBlob)
	}
	return s, nil
}

// object reads a JSON object's fields, each of which may be there once.
func object(data []byte) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	fields := map[string]json.RawMessage{}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, errors.New("malformed JSON")
		}
		text, ok := name.(string)
		if !ok {
			return nil, errors.New("malformed JSON")
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, errors.New("malformed JSON")
		}
		if _, twice := fields[text]; twice {
			return nil, fmt.Errorf("%q is there twice", text)
		}
		fields[text] = value
	}
	if _, err := d.Token(); err != nil {
		return nil, errors.New("malformed JSON")
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows the JSON object")
	}
	return fields, nil
}

// reader takes typed values out of the fields and keeps the first error.
type reader struct {
	fields map[string]json.RawMessage
	err    error
}

// json reads a field that must be there and not null.
func (r *reader) json(name string, to any) {
	if r.err != nil {
		return
	}
	value, ok := r.fields[name]
	switch {
	case !ok:
		r.err = fmt.Errorf("%s is missing", name)
	case string(value) == "null" || json.Unmarshal(value, to) != nil:
		r.err = fmt.Errorf("%s is malformed", name)
	}
}

func (r *reader) text(name string, must bool) string {
	var s string
	if _, ok := r.fields[name]; ok || must {
		if r.json(name, &s); r.err == nil && s == "" {
			r.err = fmt.Errorf("%s is empty", name)
		}
	}
	return s
}

func (r *reader) base64(name string, must bool) []byte {
	s := r.text(name, must)
	if s == "" {
		return nil
	}
	data, err := base64.StdEncoding.DecodeString(s)
	// Compared, so that what is read is written again as it was: the decoder
	// passes over line breaks and spare bits.
	if (err != nil || base64.StdEncoding.EncodeToString(data) != s) && r.err == nil {
		r.err = fmt.Errorf("%s is not base64", name)
	}
	return data
}

func (r *reader) pcrs(name string, must bool) []int {
	var list []int
	if _, ok := r.fields[name]; ok || must {
		r.json(name, &list)
	}
	return list
}

// writer puts a JSON object together.
type writer struct {
	buf bytes.Buffer
	err error
}

// field adds a value; bytes become base64.
func (w *writer) field(name string, value any) {
	quoted, err := json.Marshal(name)
	if err == nil {
		var text []byte
		if text, err = json.Marshal(value); err == nil {
			if w.buf.Len() > 0 {
				w.buf.WriteByte(',')
			}
			fmt.Fprintf(&w.buf, "%s:%s", quoted, text)
		}
	}
	if err != nil && w.err == nil {
		w.err = fmt.Errorf("%s cannot be written", name)
	}
}

func (w *writer) object() ([]byte, error) {
	return slices.Concat([]byte("{"), w.buf.Bytes(), []byte("}")), w.err
}
