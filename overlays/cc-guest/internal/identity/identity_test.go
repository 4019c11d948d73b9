package identity

// Green here means that the key pair is of the kind that was asked for and that
// its files have the right modes. That the folder is in memory is for a boot to
// show.

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"

	"cc-base/overlays/cc-guest/settings"
)

func TestGenerateMakesEachKindOnce(t *testing.T) {
	t.Parallel()
	for _, s := range []settings.Identity{{Algo: "rsa", Size: 2048}, {Algo: "ecdsa", Size: 256}, {Algo: "ecdsa", Size: 384}, {Algo: "ed25519", Size: 256}} {
		s.Dir = t.TempDir()
		if made, err := Generate(s); err != nil || !made {
			t.Fatalf("%s: %v, %v", s.Algo, made, err)
		}
		first, err := Hash(s.Dir)
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(s.Dir, privateFile))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(text)
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		size := 0
		switch k := key.(type) {
		case *rsa.PrivateKey:
			size = k.N.BitLen()
		case *ecdsa.PrivateKey:
			size = k.Curve.Params().BitSize
		case ed25519.PrivateKey:
			size = 256
		}
		if size != s.Size {
			t.Errorf("%s: %d bits, want %d", s.Algo, size, s.Size)
		}
		info, err := os.Stat(filepath.Join(s.Dir, privateFile))
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: mode %v, %v", s.Algo, info.Mode(), err)
		}
		if made, err := Generate(s); err != nil || made {
			t.Errorf("%s: made again: %v, %v", s.Algo, made, err)
		}
		if second, err := Hash(s.Dir); err != nil || second != first {
			t.Errorf("%s: the hash changed, %v", s.Algo, err)
		}
	}
}

func TestTwoGuestsHaveDifferentKeys(t *testing.T) {
	t.Parallel()
	var sums [2][64]byte
	for i := range sums {
		s := settings.Identity{Dir: t.TempDir(), Algo: "ed25519", Size: 256}
		if _, err := Generate(s); err != nil {
			t.Fatal(err)
		}
		var err error
		if sums[i], err = Hash(s.Dir); err != nil {
			t.Fatal(err)
		}
	}
	if sums[0] == sums[1] {
		t.Error("they are equal")
	}
}

func TestGenerateRefusesAnUnknownKind(t *testing.T) {
	t.Parallel()
	if _, err := Generate(settings.Identity{Dir: t.TempDir(), Algo: "dsa"}); err == nil {
		t.Error("accepted")
	}
	if _, err := Hash(t.TempDir()); err == nil {
		t.Error("a hash without a key")
	}
}
