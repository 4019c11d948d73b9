package tpm_test

// What green does not prove: systemd is the version in the tools tree, 257, and
// its own unseal code is reached through systemd-cryptenroll. systemd-cryptsetup
// in an initrd, other versions and other TPM stacks are not run.

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"cc-base/tasks/lab"
	"cc-base/tasks/sh"
	"cc-base/tasks/toolbox"
	"cc-base/tasks/tpm"
	"cc-base/tasks/tpm/token"
	"cc-base/tasks/tpm/tpmtest"
)

func fromHex(t testing.TB, text string) []byte {
	t.Helper()
	data, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func privatePEM(t testing.TB, key *rsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// stock is a LUKS2 volume, a TPM, and others' tools for both.
type stock struct {
	tools  toolbox.Tree
	dir    string // bound
	tpm    string // data socket
	volume string
	key    string // file with a passphrase of slot 0
}

func newStock(t *testing.T, tpmSocket string, passphrase []byte) stock {
	t.Helper()
	tools, dir := lab.Tools(t, filepath.Dir(tpmSocket))
	s := stock{tools: tools, dir: dir, tpm: tpmSocket, volume: filepath.Join(dir, "volume")}
	s.key = s.write(t, "key", passphrase)
	s.write(t, "volume", nil)
	if err := os.Truncate(s.volume, 24<<20); err != nil {
		t.Fatal(err)
	}
	s.run(t, sh.Cmd{Name: "cryptsetup", Args: []string{"luksFormat", "-q", "--type=luks2",
		"--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", "--key-file=" + s.key, s.volume}})
	return s
}

func (s stock) write(t *testing.T, name string, data []byte) string {
	t.Helper()
	file := filepath.Join(s.dir, name)
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func (s stock) run(t *testing.T, c sh.Cmd) {
	t.Helper()
	if err := s.tools.Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

// token exports token 0.
func (s stock) token(t *testing.T) token.Token {
	t.Helper()
	var text bytes.Buffer
	s.run(t, sh.Cmd{Name: "cryptsetup", Args: []string{"token", "export", "--token-id=0", s.volume}, Stdout: &text})
	made, err := token.Parse(text.Bytes())
	if err != nil {
		t.Fatalf("%v: %s", err, text.Bytes())
	}
	return made
}

// opens tries a passphrase on one slot.
func (s stock) opens(t *testing.T, slot string, passphrase []byte) error {
	t.Helper()
	return s.tools.Run(t.Context(), sh.Cmd{Name: "cryptsetup", Stdin: bytes.NewReader(passphrase),
		Args: []string{"open", "--test-passphrase", "--key-slot=" + slot, "--key-file=-", s.volume}})
}

// unlock has stock systemd unlock the volume with the TPM, by enrolling a
// recovery key. It finds signatures in /run/systemd, which is fresh for each
// command of the tools tree.
func (s stock) unlock(t *testing.T, signatures []byte) error {
	t.Helper()
	file := s.write(t, "tpm2-pcr-signature.json", signatures)
	return s.tools.Run(t.Context(), sh.Cmd{Name: "sh", Args: []string{"-euc",
		`if [ -s "$1" ]; then mkdir -p /run/systemd; cp "$1" /run/systemd/; fi
		 exec systemd-cryptenroll --unlock-tpm2-device="$2" --recovery-key "$3" >/dev/null`,
		"unlock", file, tpmtest.TCTI(s.tpm), s.volume}})
}

func TestWhatSystemdEnrolsWeOpen(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name            string
		signed, offline bool
		pcrs            string
		literal         []int
	}{
		{"literal", false, false, "7", []int{7}},
		{"signed", true, false, "", nil},
		{"signed and literal", true, false, "7+12", []int{7, 12}},
		{"offline", false, true, "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := tpmtest.Start(t)
			device := tpmtest.Dial(t, path)
			tpmtest.Boot(t, device, "firmware")
			extend(t, device, 11, "enter-initrd")
			s := newStock(t, path, []byte("a passphrase"))
			key := newKey(t)
			sigs, err := tpm.SignPCR11(key, pcr(t, device, 11))
			if err != nil {
				t.Fatal(err)
			}
			text, err := sigs.Encode()
			if err != nil {
				t.Fatal(err)
			}
			args := []string{"--unlock-key-file=" + s.key, "--tpm2-pcrs=" + tt.pcrs}
			if tt.signed {
				args = append(args, "--tpm2-public-key="+s.write(t, "pub.pem", publicPEM(t, &key.PublicKey)),
					"--tpm2-public-key-pcrs=11", "--tpm2-signature="+s.write(t, "sig.json", text))
			} else {
				args = append(args, "--tpm2-public-key=")
				sigs = nil
			}
			device7 := pcr(t, device, 7)
			if tt.offline {
				srk, err := device.EnsureSRK()
				if err != nil {
					t.Fatal(err)
				}
				// With no TPM at hand PCR values must be given.
				args = append(args, "--tpm2-device-key="+s.write(t, "srk.pub", srk.Public))
				args[1] = "--tpm2-pcrs=7:sha256=" + hex.EncodeToString(device7[:])
				tt.literal = []int{7}
			} else {
				args = append(args, "--tpm2-device="+tpmtest.TCTI(path))
			}
			_ = device.Close() // swtpm serves one client
			s.run(t, sh.Cmd{Name: "systemd-cryptenroll", Args: append(args, s.volume)})
			made := s.token(t)

			device = tpmtest.Dial(t, path)
			srk, err := device.ReadSRK()
			if err != nil {
				t.Fatal(err)
			}
			if got := token.SerializeSRK(srk); !bytes.Equal(got, made.SRK) {
				t.Errorf("systemd writes the storage root key as\n%x, we as\n%x", made.SRK, got)
			}
			if name, err := made.SRKName(); err != nil || !bytes.Equal(name, srk.Name) {
				t.Errorf("its name is %x, not %x, %v", name, srk.Name, err)
			}
			if tt.offline != (len(made.Sealed.Seed) > 0) {
				t.Errorf("a seed of %d bytes", len(made.Sealed.Seed))
			}
			values, err := device.ReadPCRs(tt.literal...)
			if err != nil {
				t.Fatal(err)
			}
			digest, err := tpm.Policy{Literal: values, Key: made.Key, SignedPCRs: made.SignedPCRs}.Digest()
			if err != nil || !bytes.Equal(digest[:], made.PolicyHash) {
				t.Errorf("policy %x, systemd's %x, %v", digest, made.PolicyHash, err)
			}
			secret, err := device.Unseal(made.Sealed, srk, made.PCRs, made.Key, made.SignedPCRs, sigs)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.opens(t, made.Keyslots[0], []byte(base64.StdEncoding.EncodeToString(secret))); err != nil {
				t.Errorf("the slot does not open: %v", err)
			}
			if err := s.opens(t, made.Keyslots[0], []byte("something else")); err == nil {
				t.Error("the slot opens with anything")
			}
		})
	}
}

func TestWhatWeSealSystemdOpens(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name            string
		signed, offline bool
		literal         []int
		spoil           int // extending this PCR must stop systemd
	}{
		{"literal", false, false, []int{0, 1, 2, 3, 7}, 3},
		{"literal, sealed elsewhere", false, true, []int{7}, 7},
		{"signed", true, false, nil, 11},
		{"signed and literal", true, false, []int{7, 12, 13}, 13},
		{"signed and literal, sealed elsewhere", true, true, []int{7, 12, 13}, 11},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := tpmtest.Start(t)
			device := tpmtest.Dial(t, path)
			tpmtest.Boot(t, device, "firmware")
			extend(t, device, 11, "enter-initrd")
			s := newStock(t, path, []byte(base64.StdEncoding.EncodeToString([]byte(testSecret))))
			b := bind(t, device, tt.signed, tt.offline, tt.literal...)
			_ = device.Close()
			digest, err := b.policy.Digest()
			if err != nil {
				t.Fatal(err)
			}
			made := token.Token{
				Keyslots: []string{"0"}, Sealed: b.sealed, PCRs: tt.literal, Bank: "sha256", PrimaryAlg: "ecc",
				PolicyHash: digest[:], Key: b.policy.Key, SignedPCRs: b.policy.SignedPCRs, SRK: token.SerializeSRK(b.srk),
				Extra: map[string]json.RawMessage{"cc-epoch": json.RawMessage(`3`)},
			}
			text, err := made.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			s.run(t, sh.Cmd{Name: "cryptsetup", Args: []string{"token", "import", "--token-id=0", "--json-file=-", s.volume}, Stdin: bytes.NewReader(text)})
			if back := s.token(t); string(back.Extra["cc-epoch"]) != "3" {
				t.Errorf("the header keeps %s of our own field", back.Extra["cc-epoch"])
			}
			signatures, err := b.sigs.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if err := s.unlock(t, signatures); err != nil {
				t.Errorf("systemd does not open it: %v", err)
			}
			device = tpmtest.Dial(t, path)
			extend(t, device, tt.spoil, "something else")
			_ = device.Close()
			if err := s.unlock(t, signatures); err == nil {
				t.Errorf("systemd opens it with PCR %d extended", tt.spoil)
			}
		})
	}
}

// The key comes from the TPM's seed and the template alone: once ours is
// removed, systemd must make the same one, byte for byte.
func TestWeMakeTheStorageRootKeyThatSystemdMakes(t *testing.T) {
	t.Parallel()
	path := tpmtest.Start(t)
	device := tpmtest.Dial(t, path)
	srk, err := device.EnsureSRK()
	if err != nil {
		t.Fatal(err)
	}
	_ = device.Close()
	s := newStock(t, path, []byte("a passphrase"))
	file := filepath.Join(s.dir, "public")
	s.run(t, sh.Cmd{Name: "tpm2_readpublic", Args: []string{"-T", tpmtest.TCTI(path), "-c", "0x81000001", "-o", file}})
	seen, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if public, err := tpm.ParseSRKPublic(seen); err != nil || !bytes.Equal(public, srk.Public) {
		t.Errorf("tpm2_readpublic sees %x, not %x, %v", seen, srk.Public, err)
	}

	s.run(t, sh.Cmd{Name: "tpm2_evictcontrol", Args: []string{"-T", tpmtest.TCTI(path), "-C", "o", "-c", "0x81000001"}})
	device = tpmtest.Dial(t, path)
	if _, err := device.ReadSRK(); !errors.Is(err, tpm.ErrNoSRK) {
		t.Fatalf("the key was not removed: %v", err)
	}
	_ = device.Close()
	s.run(t, sh.Cmd{Name: "systemd-cryptenroll", Args: []string{
		"--unlock-key-file=" + s.key, "--tpm2-device=" + tpmtest.TCTI(path), "--tpm2-pcrs=7", "--tpm2-public-key=", s.volume}})
	if made := s.token(t); !bytes.Equal(made.SRK, token.SerializeSRK(srk)) {
		t.Errorf("systemd makes\n%x, we make\n%x", made.SRK, token.SerializeSRK(srk))
	}
}
