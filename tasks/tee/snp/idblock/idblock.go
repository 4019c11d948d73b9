// Package idblock makes and checks the ID block of an AMD SEV-SNP guest: the
// owner's signed statement of the launch digest that a guest must have. The
// processor's firmware refuses to start a guest whose digest or policy differs
// from the block, so a host cannot start a changed image even once, and the
// report names the key that signed.
//
//	s, err := idblock.Sign(idblock.Block{LaunchDigest: d, Policy: 0x30000}, idKey, authorKey)
//	// -object sev-snp-guest,id-block=BASE64(s.Block),id-auth=BASE64(s.Auth),author-key-enabled=on
//
// Layouts are those of the SEV-SNP firmware ABI, AMD publication 56860,
// chapter 8.15 (SNP_LAUNCH_FINISH, tables of the structures ID_BLOCK and
// ID_AUTH) and of its chapter 10 for keys and signatures.
package idblock

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/google/go-sev-guest/abi"
)

// Sizes in bytes.
const (
	BlockSize = 96
	AuthSize  = 4096

	keySize       = 1028 // curve, two coordinates of 72 bytes, reserved
	signatureSize = 512  // two numbers of 72 bytes, reserved
	numberSize    = 72
)

// Offsets in the ID_AUTH structure.
const (
	atIDAlgorithm     = 0x000
	atAuthorAlgorithm = 0x004
	atBlockSignature  = 0x040
	atIDKey           = 0x240
	atKeySignature    = 0x680
	atAuthorKey       = 0x880
)

// Values of the ABI.
const (
	version   = 1 // of ID_BLOCK
	ecdsaP384 = 1 // ECDSA P-384 with SHA-384, as algorithm of a key
	curveP384 = 2 // as curve of a public key
)

// policyDebug is the policy bit that lets the host read the guest's memory.
const policyDebug = 1 << 19

// Block is what the owner states.
type Block struct {
	LaunchDigest [48]byte // see package snp
	FamilyID     [16]byte // free, returned in the report
	ImageID      [16]byte // free, returned in the report
	GuestSVN     uint32   // security version of the image; goes into derived keys
	Policy       uint64   // guest policy; must equal the launch's
}

// ErrDebug is returned for a policy that allows debugging.
var ErrDebug = errors.New("the policy allows debugging: the host could read the guest's memory")

// check refuses what no guest could be started with or what protects nothing.
func (b Block) check() error {
	if b.LaunchDigest == [48]byte{} {
		return fmt.Errorf("the launch digest is all zeros")
	}
	if _, err := abi.ParseSnpPolicy(b.Policy); err != nil {
		return fmt.Errorf("policy %#x: %w", b.Policy, err)
	}
	if b.Policy&policyDebug != 0 {
		return fmt.Errorf("policy %#x: %w", b.Policy, ErrDebug)
	}
	return nil
}

// Marshal returns the ID_BLOCK structure.
func (b Block) Marshal() [BlockSize]byte {
	var out [BlockSize]byte
	copy(out[0:], b.LaunchDigest[:])
	copy(out[48:], b.FamilyID[:])
	copy(out[64:], b.ImageID[:])
	binary.LittleEndian.PutUint32(out[80:], version)
	binary.LittleEndian.PutUint32(out[84:], b.GuestSVN)
	binary.LittleEndian.PutUint64(out[88:], b.Policy)
	return out
}

// Parse reads an ID_BLOCK structure.
func Parse(data []byte) (Block, error) {
	if len(data) != BlockSize {
		return Block{}, fmt.Errorf("an ID block has %d bytes, not %d", BlockSize, len(data))
	}
	if v := binary.LittleEndian.Uint32(data[80:]); v != version {
		return Block{}, fmt.Errorf("the ID block has version %d, want %d", v, version)
	}
	return Block{
		LaunchDigest: [48]byte(data[0:48]), FamilyID: [16]byte(data[48:64]), ImageID: [16]byte(data[64:80]),
		GuestSVN: binary.LittleEndian.Uint32(data[84:]), Policy: binary.LittleEndian.Uint64(data[88:]),
	}, nil
}

// Signed is what QEMU's options id-block and id-auth take, before base64.
type Signed struct {
	Block [BlockSize]byte
	Auth  [AuthSize]byte
}

// Sign signs the block with the ID key and the ID key with the author key. A
// nil author key leaves that half empty; the launch then must not say
// author-key-enabled. Signatures are deterministic (RFC 6979), so equal inputs
// give equal bytes. A zero digest, a malformed policy and one that allows
// debugging are errors.
func Sign(b Block, id, author *ecdsa.PrivateKey) (Signed, error) {
	if err := b.check(); err != nil {
		return Signed{}, err
	}
	s := Signed{Block: b.Marshal()}
	binary.LittleEndian.PutUint32(s.Auth[atIDAlgorithm:], ecdsaP384)
	key, err := marshalKey(&id.PublicKey)
	if err != nil {
		return Signed{}, fmt.Errorf("ID key: %w", err)
	}
	copy(s.Auth[atIDKey:], key)
	if err := sign(s.Auth[atBlockSignature:], id, s.Block[:]); err != nil {
		return Signed{}, fmt.Errorf("ID key: %w", err)
	}
	if author == nil {
		return s, nil
	}
	binary.LittleEndian.PutUint32(s.Auth[atAuthorAlgorithm:], ecdsaP384)
	authorKey, err := marshalKey(&author.PublicKey)
	if err != nil {
		return Signed{}, fmt.Errorf("author key: %w", err)
	}
	copy(s.Auth[atAuthorKey:], authorKey)
	if err := sign(s.Auth[atKeySignature:], author, key); err != nil {
		return Signed{}, fmt.Errorf("author key: %w", err)
	}
	return s, nil
}

// Verify checks both signatures and returns the block and the keys that made
// them; author is nil when there is none. Whether the keys are the right ones
// is for the caller to compare, by [KeyDigest].
func Verify(block, auth []byte) (b Block, id, author *ecdsa.PublicKey, err error) {
	if b, err = Parse(block); err != nil {
		return Block{}, nil, nil, err
	}
	if len(auth) != AuthSize {
		return Block{}, nil, nil, fmt.Errorf("an ID authentication block has %d bytes, not %d", AuthSize, len(auth))
	}
	key := auth[atIDKey : atIDKey+keySize]
	if id, err = verify(auth[atIDAlgorithm:], key, auth[atBlockSignature:], block); err != nil {
		return Block{}, nil, nil, fmt.Errorf("ID key: %w", err)
	}
	authorKey := auth[atAuthorKey : atAuthorKey+keySize]
	if binary.LittleEndian.Uint32(auth[atAuthorAlgorithm:]) == 0 && !slices.ContainsFunc(authorKey, func(c byte) bool { return c != 0 }) {
		return b, id, nil, nil
	}
	if author, err = verify(auth[atAuthorAlgorithm:], authorKey, auth[atKeySignature:], key); err != nil {
		return Block{}, nil, nil, fmt.Errorf("author key: %w", err)
	}
	return b, id, author, nil
}

// KeyDigest is what a report holds of a key in ID_KEY_DIGEST or
// AUTHOR_KEY_DIGEST: SHA-384 of the key as it stands in the authentication
// block.
func KeyDigest(pub *ecdsa.PublicKey) ([48]byte, error) {
	key, err := marshalKey(pub)
	if err != nil {
		return [48]byte{}, err
	}
	return sha512.Sum384(key), nil
}

// marshalKey returns curve and coordinates, little-endian, with zeros up to
// keySize.
func marshalKey(pub *ecdsa.PublicKey) ([]byte, error) {
	if pub.Curve != elliptic.P384() {
		return nil, errNotP384
	}
	point, err := pub.Bytes() // 4, X, Y, big-endian
	if err != nil {
		return nil, err
	}
	out := make([]byte, keySize)
	binary.LittleEndian.PutUint32(out, curveP384)
	little(out[4:], point[1:49])
	little(out[4+numberSize:], point[49:])
	return out, nil
}

func parseKey(data []byte) (*ecdsa.PublicKey, error) {
	if c := binary.LittleEndian.Uint32(data); c != curveP384 {
		return nil, fmt.Errorf("curve %d: %w", c, errNotP384)
	}
	point := []byte{4}
	for _, n := range [][]byte{data[4 : 4+numberSize], data[4+numberSize : 4+2*numberSize]} {
		if slices.ContainsFunc(n[48:], func(c byte) bool { return c != 0 }) {
			return nil, errors.New("a coordinate has more than 384 bits")
		}
		n = slices.Clone(n[:48])
		slices.Reverse(n)
		point = append(point, n...)
	}
	return ecdsa.ParseUncompressedPublicKey(elliptic.P384(), point)
}

// sign writes the signature over data to out.
func sign(out []byte, key *ecdsa.PrivateKey, data []byte) error {
	sum := sha512.Sum384(data)
	der, err := key.Sign(nil, sum[:], crypto.SHA384)
	if err != nil {
		return err
	}
	r, s, err := parseSignature(der)
	if err != nil {
		return err
	}
	little(out, r.FillBytes(make([]byte, 48)))
	little(out[numberSize:], s.FillBytes(make([]byte, 48)))
	return nil
}

func verify(algorithm, key, signature, data []byte) (*ecdsa.PublicKey, error) {
	if a := binary.LittleEndian.Uint32(algorithm); a != ecdsaP384 {
		return nil, fmt.Errorf("algorithm %d, want %d, ECDSA P-384", a, ecdsaP384)
	}
	pub, err := parseKey(key)
	if err != nil {
		return nil, err
	}
	number := func(b []byte) *big.Int {
		b = slices.Clone(b[:numberSize])
		slices.Reverse(b)
		return new(big.Int).SetBytes(b)
	}
	sum := sha512.Sum384(data)
	if !ecdsa.Verify(pub, sum[:], number(signature), number(signature[numberSize:])) {
		return nil, errors.New("the signature does not verify")
	}
	return pub, nil
}

// little writes a big-endian number in little-endian order to the start of
// out.
func little(out, number []byte) {
	for i, c := range number {
		out[len(number)-1-i] = c
	}
}
