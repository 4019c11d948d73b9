package boot_test

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/foxboron/go-uefi/authenticode"

	"cc-base/tasks/boot"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/lab"
	"cc-base/tasks/sh"
)

func newKey(t *testing.T, dir, name string) boot.Key {
	t.Helper()
	key, made, err := boot.LoadOrMakeKey(dir, name, time.Unix(epoch, 0).UTC())
	if err != nil || !made {
		t.Fatal(made, err)
	}
	return key
}

func TestTheSecureBootKeyIsMadeOnceAndKept(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "secureboot")
	key := newKey(t, dir, "db")
	for name, mode := range map[string]os.FileMode{"db.key": 0o600, "db.crt": 0o644, ".": os.ModeDir | 0o700} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != mode {
			t.Errorf("%s: mode %v, want %v", name, info.Mode(), mode)
		}
	}
	if key.Private.N.BitLen() != 2048 || key.Cert.NotBefore.Unix() != epoch || key.Cert.CheckSignature(key.Cert.SignatureAlgorithm, key.Cert.RawTBSCertificate, key.Cert.Signature) != nil {
		t.Errorf("not a self-signed certificate of 2048 bits from the epoch on: %v", key.Cert.NotBefore)
	}
	again, made, err := boot.LoadOrMakeKey(dir, "db", time.Now())
	if err != nil || made || !again.Private.Equal(key.Private) || !again.Cert.Equal(key.Cert) {
		t.Errorf("second time: made %v, %v", made, err)
	}
	if other := newKey(t, dir, "other"); other.Private.Equal(key.Private) {
		t.Error("two keys are equal")
	}
}

func TestHalfAPairOrAForeignOneIsRefusedAndKept(t *testing.T) {
	t.Parallel()
	source := t.TempDir()
	newKey(t, source, "a")
	newKey(t, source, "b")
	keyA, certA, certB := filetest.Read(t, filepath.Join(source, "a.key")), filetest.Read(t, filepath.Join(source, "a.crt")), filetest.Read(t, filepath.Join(source, "b.crt"))
	tests := []struct {
		name, says string
		key, cert  []byte
	}{
		{"key without certificate", "only one", keyA, nil},
		{"certificate without key", "only one", nil, certA},
		{"certificate of another key", "does not belong", keyA, certB},
		{"key that is no PEM", "not PEM", []byte("x"), certA},
		{"certificate that is no PEM", "not PEM", keyA, []byte("")},
		{"certificate as key", "db.key", certA, certA},
		{"key as certificate", "db.crt", keyA, keyA},
	}
	for _, test := range tests {
		dir := t.TempDir()
		for name, data := range map[string][]byte{"db.key": test.key, "db.crt": test.cert} {
			if data != nil {
				filetest.Write(t, filepath.Join(dir, name), data)
			}
		}
		_, made, err := boot.LoadOrMakeKey(dir, "db", time.Unix(epoch, 0))
		faulttest.Want(t, err, fault.BootImage, test.says)
		if made {
			t.Errorf("%s: it says that it made one", test.name)
		}
		for name, data := range map[string][]byte{"db.key": test.key, "db.crt": test.cert} {
			got, err := os.ReadFile(filepath.Join(dir, name))
			if data == nil && err == nil || data != nil && !bytes.Equal(got, data) {
				t.Errorf("%s: %s was changed", test.name, name)
			}
		}
	}
	// A folder that cannot be looked into is not one without a key.
	file := filetest.Write(t, filepath.Join(t.TempDir(), "file"), nil)
	if _, made, err := boot.LoadOrMakeKey(file, "db", time.Unix(epoch, 0)); err == nil || made {
		t.Errorf("made %v, %v", made, err)
	}
}

// signature takes the only signature out of a signed image.
func signature(t *testing.T, signed []byte) *authenticode.Authenticode {
	t.Helper()
	p, err := authenticode.Parse(bytes.NewReader(signed))
	if err != nil {
		t.Fatal(err)
	}
	sigs, err := p.Signatures()
	if err != nil || len(sigs) != 1 {
		t.Fatalf("%d signatures, %v", len(sigs), err)
	}
	sig, err := authenticode.ParseAuthenticode(sigs[0].Certificate)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(sig.Digest, p.Hash(crypto.SHA256)) {
		t.Error("the digest is of another image")
	}
	return sig
}

func TestASignatureHasNoTimeAndIsTheSameTwice(t *testing.T) {
	t.Parallel()
	key := newKey(t, t.TempDir(), "db")
	for _, sections := range [][]section{every(), {{".text", "\x90"}}} {
		unsigned := image(sections...)
		original := bytes.Clone(unsigned)
		signed, err := boot.Sign(unsigned, key)
		if err != nil {
			t.Fatal(err)
		}
		again, err := boot.Sign(unsigned, key)
		if err != nil || !bytes.Equal(signed, again) {
			t.Errorf("signed twice, the bytes differ; %v", err)
		}
		if !bytes.Equal(unsigned, original) {
			t.Error("the image that was passed in was changed")
		}
		sig := signature(t, signed)
		if n := len(sig.Pkcs.SignerInfo); n != 1 {
			t.Fatalf("%d signers", n)
		}
		info := sig.Pkcs.SignerInfo[0]
		if info.AuthenticatedAttributes != nil {
			t.Error("there are authenticated attributes")
		}
		// What is signed is the content of SpcIndirectDataContent, without its
		// own tag and length (RFC 2315 section 9.3).
		var content asn1.RawValue
		if _, err := asn1.Unmarshal(sig.Pkcs.ContentInfo, &content); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(content.Bytes)
		if err := rsa.VerifyPKCS1v15(&key.Private.PublicKey, crypto.SHA256, sum[:], info.EncryptedDigest); err != nil {
			t.Error(err)
		}
		before, errA := boot.PCR11(unsigned)
		after, errB := boot.PCR11(signed)
		if errA != nil || errB != nil || before != after {
			t.Errorf("signing changes PCR 11; %v, %v", errA, errB)
		}
	}
}

func TestWhatCannotBeSignedInWholeIsRefused(t *testing.T) {
	t.Parallel()
	key := newKey(t, t.TempDir(), "db")
	le := binary.LittleEndian
	tests := malformed()
	// These are for the stub to refuse; a signature covers them as they are.
	delete(tests, "section twice")
	delete(tests, "more measured than is there")
	change := func(f func(b []byte)) []byte {
		b := image(every()...)
		f(b)
		return b
	}
	const optional = peOffset + 4 + 20
	tests["32 bit"] = change(func(b []byte) { le.PutUint16(b[optional:], 0x10b) })
	tests["no directory for it"] = change(func(b []byte) { le.PutUint32(b[optional+108:], 4) })
	tests["headers beyond the end"] = change(func(b []byte) { le.PutUint32(b[optional+60:], 1<<31) })
	tests["headers shorter than they are"] = change(func(b []byte) { le.PutUint32(b[optional+60:], 100) })
	tests["a gap that no digest covers"] = change(func(b []byte) { le.PutUint32(b[tableStart+20:], le.Uint32(b[tableStart+20:])+16) })
	signed, err := boot.Sign(image(every()...), key)
	if err != nil {
		t.Fatal(err)
	}
	tests["signed already"] = signed
	for name, b := range tests {
		if _, err := boot.Sign(b, key); err == nil {
			t.Errorf("%s: it was signed", name)
		} else {
			faulttest.Want(t, err, fault.BootImage)
		}
	}
}

func TestSbverifyAcceptsOurSignatureAndNoOther(t *testing.T) {
	t.Parallel()
	run, dir := lab.Tools(t)
	key := newKey(t, dir, "db")
	newKey(t, dir, "foreign")
	verify := func(cert, image string) error {
		return sh.Do(t.Context(), run, "sbverify", "--cert", filepath.Join(dir, cert), image)
	}
	// systemd's stub is a real program; and lengths that are no multiple of
	// eight are where padding goes wrong.
	stub := filetest.Read(t, filepath.Join(run.Dir, "usr/lib/systemd/boot/efi/linuxx64.efi.stub"))
	for i, unsigned := range [][]byte{stub, append(bytes.Clone(stub), "trail"...), image(every()...)} {
		file := filetest.Write(t, filepath.Join(dir, "image.efi"), unsigned)
		if err := verify("db.crt", file); err == nil {
			t.Errorf("%d: unsigned, it is accepted", i)
		}
		signed, err := boot.Sign(unsigned, key)
		if err != nil {
			t.Fatal(err)
		}
		filetest.Write(t, file, signed)
		if err := verify("db.crt", file); err != nil {
			t.Errorf("%d: %v", i, err)
		}
		if err := verify("foreign.crt", file); err == nil {
			t.Errorf("%d: a foreign certificate accepts it", i)
		}
		for _, at := range []int{2, tableStart, len(unsigned) / 2, len(unsigned) - 1} {
			flipped := bytes.Clone(signed)
			flipped[at] ^= 1
			filetest.Write(t, file, flipped)
			if err := verify("db.crt", file); err == nil {
				t.Errorf("%d: byte %d flipped, it is accepted", i, at)
			}
		}
		// The signature itself is the last field before at most seven bytes
		// of padding.
		flipped := bytes.Clone(signed)
		flipped[len(flipped)-100] ^= 1
		filetest.Write(t, file, flipped)
		if err := verify("db.crt", file); err == nil {
			t.Errorf("%d: the signature flipped, it is accepted", i)
		}
	}
}

func TestTheBuiltImageIsSignedByItsOwnKey(t *testing.T) {
	t.Parallel()
	run, dir := lab.Tools(t)
	built := lab.Built(t)
	uki := filetest.Read(t, built.Path("cc-base.efi"))
	signature(t, uki)
	file := filetest.Write(t, filepath.Join(dir, "image.efi"), uki)
	cert := filetest.Read(t, built.Path("keys", "secureboot", "db.crt"))
	if block, _ := pem.Decode(cert); block == nil {
		t.Fatal("the certificate is not PEM")
	}
	if err := sh.Do(t.Context(), run, "sbverify", "--cert", filetest.Write(t, filepath.Join(dir, "db.crt"), cert), file); err != nil {
		t.Error(err)
	}
}
