package idblock_test

// What green does not prove: no secure processor took one of these blocks. The
// block and a key's digest are compared with published vectors, and the key
// with go-sev-guest's reading of the ABI; signatures are checked by the code
// that made them and by the offsets of the ABI's tables.

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-sev-guest/abi"

	"cc-base/tasks/tee/snp/idblock"
)

const policy = 0x30000

func keys(t testing.TB) (id, author *ecdsa.PrivateKey) {
	t.Helper()
	id, err := idblock.GenerateKey()
	if err == nil {
		author, err = idblock.GenerateKey()
	}
	if err != nil {
		t.Fatal(err)
	}
	return id, author
}

func sample() idblock.Block {
	return idblock.Block{LaunchDigest: [48]byte{1, 2, 3}, FamilyID: [16]byte{4}, ImageID: [16]byte{15: 5}, GuestSVN: 6, Policy: policy}
}

// TestBlockAndKeyAreThePublishedOnes takes virtee/sev-snp-measure
// tests/test_id_block.py and the public half of its test key.
func TestBlockAndKeyAreThePublishedOnes(t *testing.T) {
	t.Parallel()
	digest, err := base64.StdEncoding.DecodeString("B28FLQi9p6cAqipgjFyqawDrrSl7bWioWkWx5mmlWLZ+G5HShKMB/mPE+gdQRn7t")
	if err != nil {
		t.Fatal(err)
	}
	b := idblock.Block{LaunchDigest: [48]byte(digest), Policy: policy}.Marshal()
	want := "B28FLQi9p6cAqipgjFyqawDrrSl7bWioWkWx5mmlWLZ+G5HShKMB/mPE+gdQRn7tAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABAAAAAAAAAAAAAwAAAAAA"
	if got := base64.StdEncoding.EncodeToString(b[:]); got != want {
		t.Errorf("block: %s, want %s", got, want)
	}
	point, err := hex.DecodeString("04b20fd1a1c2bd2b65183a76e2390ac805f6d8e5e2af725e5a8e93cf87ec029f9d45eb326b04b92beb714e14fa986f8a9a2c94a0b8ab30cc76352675944876891e954ff6ef5826a6231ba6d6d7f6ebfb68ce330e1e59394efb7080883ddc69364b")
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P384(), point)
	if err != nil {
		t.Fatal(err)
	}
	sum, err := idblock.KeyDigest(pub)
	if want := "hwt+NcU/inLQ0yL3WrKvgmJ5Kq9leWIs5BMcPyHyied8sFYKXjuQs5MuZ07HCcsU"; err != nil || base64.StdEncoding.EncodeToString(sum[:]) != want {
		t.Errorf("key digest: %x, %v, want %s", sum, err, want)
	}
}

func TestABlockThatWasSignedVerifies(t *testing.T) {
	t.Parallel()
	id, author := keys(t)
	for _, a := range []*ecdsa.PrivateKey{nil, author} {
		s, err := idblock.Sign(sample(), id, a)
		if err != nil {
			t.Fatal(err)
		}
		again, err := idblock.Sign(sample(), id, a)
		if err != nil || again != s {
			t.Errorf("signed twice, it is not the same: %v", err)
		}
		b, gotID, gotAuthor, err := idblock.Verify(s.Block[:], s.Auth[:])
		if err != nil {
			t.Fatal(err)
		}
		if b != sample() || !gotID.Equal(&id.PublicKey) {
			t.Errorf("block or ID key changed: %+v", b)
		}
		if (a == nil) != (gotAuthor == nil) || a != nil && !gotAuthor.Equal(&a.PublicKey) {
			t.Errorf("author key: %v", gotAuthor)
		}
	}
}

// TestTheStructureIsTheABIs checks fields where AMD publication 56860 has them,
// with go-sev-guest's encoding of keys and numbers.
func TestTheStructureIsTheABIs(t *testing.T) {
	t.Parallel()
	id, author := keys(t)
	s, err := idblock.Sign(sample(), id, author)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []struct {
		name               string
		algorithm, at, sig int
		key, signer        *ecdsa.PrivateKey
		signed             []byte
	}{
		{"ID", 0, 0x240, 0x40, id, id, s.Block[:]},
		{"author", 4, 0x880, 0x680, author, author, s.Auth[0x240 : 0x240+0x404]},
	} {
		want, err := abi.EcdsaPublicKeyToBytes(&k.key.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(s.Auth[k.at:k.at+len(want)], want) {
			t.Errorf("%s key: %x, want %x", k.name, s.Auth[k.at:k.at+len(want)], want)
		}
		if s.Auth[k.algorithm] != 1 {
			t.Errorf("%s key's algorithm: %d", k.name, s.Auth[k.algorithm])
		}
		r, v := abi.AmdBigInt(s.Auth[k.sig:k.sig+72]), abi.AmdBigInt(s.Auth[k.sig+72:k.sig+144])
		sum := sha512.Sum384(k.signed)
		if !ecdsa.Verify(&k.signer.PublicKey, sum[:], r, v) {
			t.Errorf("%s key's signature does not verify", k.name)
		}
	}
	for _, zero := range [][2]int{{0x008, 0x040}, {0x40 + 144, 0x240}, {0x240 + 148, 0x680}, {0x680 + 144, 0x880}, {0x880 + 148, 0x1000}} {
		if part := s.Auth[zero[0]:zero[1]]; !bytes.Equal(part, make([]byte, len(part))) {
			t.Errorf("reserved bytes %#x to %#x are not zero", zero[0], zero[1])
		}
	}
}

func TestAnyChangeIsFound(t *testing.T) {
	t.Parallel()
	id, author := keys(t)
	s, err := idblock.Sign(sample(), id, author)
	if err != nil {
		t.Fatal(err)
	}
	for i := range s.Block {
		c := s
		c.Block[i] ^= 0x40
		if _, _, _, err := idblock.Verify(c.Block[:], c.Auth[:]); err == nil {
			t.Errorf("byte %d of the block was changed and nobody noticed", i)
		}
	}
	for _, i := range []int{0, 4, 0x40, 0x40 + 71, 0x40 + 72, 0x240, 0x244, 0x244 + 47, 0x244 + 50, 0x244 + 72, 0x680, 0x680 + 143, 0x880, 0x884, 0x884 + 143} {
		c := s
		c.Auth[i] ^= 0x40
		if _, _, _, err := idblock.Verify(c.Block[:], c.Auth[:]); err == nil {
			t.Errorf("byte %#x of the authentication was changed and nobody noticed", i)
		}
	}
	other, _ := keys(t)
	o, err := idblock.Sign(sample(), other, author)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := idblock.Verify(s.Block[:], o.Auth[:]); err != nil {
		t.Errorf("the same block by another key: %v", err)
	}
	copy(o.Auth[0x680:0x880], s.Auth[0x680:0x880]) // the author's word on the first ID key
	if _, _, _, err := idblock.Verify(o.Block[:], o.Auth[:]); err == nil {
		t.Error("an author's signature on another ID key was accepted")
	}
	for _, n := range []int{0, 95, 97} {
		if _, _, _, err := idblock.Verify(make([]byte, n), s.Auth[:]); err == nil {
			t.Errorf("a block of %d bytes was accepted", n)
		}
	}
	if _, _, _, err := idblock.Verify(s.Block[:], s.Auth[:4095]); err == nil {
		t.Error("a short authentication block was accepted")
	}
}

func TestABlockThatProtectsNothingIsNotSigned(t *testing.T) {
	t.Parallel()
	id, _ := keys(t)
	for name, change := range map[string]func(*idblock.Block){
		"no digest":              func(b *idblock.Block) { b.LaunchDigest = [48]byte{} },
		"a legacy SEV policy":    func(b *idblock.Block) { b.Policy = 0x03 },
		"a policy for debugging": func(b *idblock.Block) { b.Policy |= 1 << 19 },
		"a policy to come":       func(b *idblock.Block) { b.Policy |= 1 << 40 },
	} {
		b := sample()
		change(&b)
		_, err := idblock.Sign(b, id, nil)
		if err == nil {
			t.Errorf("%s was signed", name)
		}
		if strings.Contains(name, "debug") != errors.Is(err, idblock.ErrDebug) {
			t.Errorf("%s: %v", name, err)
		}
	}
	small, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := idblock.Sign(sample(), small, nil); err == nil {
		t.Error("signed with P-256")
	}
	if _, err := idblock.Sign(sample(), id, small); err == nil {
		t.Error("signed with an author key on P-256")
	}
	if _, err := idblock.KeyDigest(&small.PublicKey); err == nil {
		t.Error("a P-256 key has a digest")
	}
}

func TestKeysAreReadAndWritten(t *testing.T) {
	t.Parallel()
	id, _ := keys(t)
	pkcs8, err := idblock.MarshalKey(id)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(id)
	if err != nil {
		t.Fatal(err)
	}
	sec1 := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	parameters := pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 5, 43, 129, 4, 0, 34}})
	for name, text := range map[string][]byte{"PKCS #8": pkcs8, "SEC 1": sec1, "openssl's": append(parameters, sec1...)} {
		got, err := idblock.ParseKey(text)
		if err != nil || !got.Equal(id) {
			t.Errorf("%s: %v", name, err)
		}
	}
	small, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := idblock.MarshalKey(small)
	if err != nil {
		t.Fatal(err)
	}
	big, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaDER, err := x509.MarshalPKCS8PrivateKey(big)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"nothing":     nil,
		"no PEM":      []byte("key"),
		"P-256":       p256,
		"RSA":         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: rsaDER}),
		"a public":    pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}),
		"encrypted":   pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der}),
		"encrypted 1": pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Headers: map[string]string{"DEK-Info": "AES-256-CBC,00"}, Bytes: der}),
		"cut off":     pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der[:40]}),
	} {
		if _, err := idblock.ParseKey(text); err == nil {
			t.Errorf("%s was taken for a key", name)
		} else if bytes.Contains([]byte(err.Error()), der[8:20]) || strings.Contains(err.Error(), hex.EncodeToString(der[8:20])) {
			t.Errorf("%s: the key is in the error", name)
		}
	}
}

func FuzzVerify(f *testing.F) {
	id, author := keys(f)
	s, err := idblock.Sign(sample(), id, author)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s.Block[:], s.Auth[:0x700])
	f.Fuzz(func(t *testing.T, block, auth []byte) {
		full := make([]byte, idblock.AuthSize)
		copy(full, auth)
		b, pub, _, err := idblock.Verify(block, full)
		if err == nil && (b.Marshal() != [idblock.BlockSize]byte(block) || pub == nil) {
			t.Fatal("what verified is not what was given")
		}
	})
}

func FuzzParseKey(f *testing.F) {
	id, _ := keys(f)
	text, err := idblock.MarshalKey(id)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, data []byte) {
		if key, err := idblock.ParseKey(data); err == nil && key.Curve != elliptic.P384() {
			t.Fatal("a key on another curve")
		}
	})
}
