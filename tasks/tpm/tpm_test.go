package tpm_test

// What green does not prove: the TPM is swtpm, which whoever runs it can read
// and change; that is the point of the threat table, not of these tests. No
// hardware TPM, no kernel resource manager and no /dev/tpm0 is here: Open is
// tested as far as the choice and the refusal of a device.

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"cc-base/tasks/lab"
	"cc-base/tasks/sh"
	"cc-base/tasks/tpm"
	"cc-base/tasks/tpm/tpmtest"
)

// testSecret is what is sealed, and must be seen nowhere.
const testSecret = "thirty-two bytes nobody may see."

// bound is an object and what is needed to open it.
type bound struct {
	sealed  tpm.Sealed
	srk     tpm.SRK
	policy  tpm.Policy
	literal []int
	sigs    tpm.Signatures
}

func (b bound) unseal(device *tpm.TPM) (string, error) {
	secret, err := device.Unseal(b.sealed, b.srk, b.literal, b.policy.Key, b.policy.SignedPCRs, b.sigs)
	return string(secret), err
}

// opens fails unless the TPM gives the secret back.
func (b bound) opens(t *testing.T, device *tpm.TPM) {
	t.Helper()
	if secret, err := b.unseal(device); err != nil || secret != testSecret {
		t.Errorf("%q, %v", secret, err)
	}
}

// refuses fails unless the TPM's refusal is the wanted one and gives nothing
// away.
func (b bound) refuses(t *testing.T, device *tpm.TPM, want error) {
	t.Helper()
	secret, err := b.unseal(device)
	if !errors.Is(err, want) || secret != "" {
		t.Errorf("%q, %v, not %v", secret, err, want)
	}
	if err != nil && strings.Contains(err.Error(), testSecret) {
		t.Error("the secret is in the error")
	}
}

// bind seals to the present state: literally, and by a signature over PCR 11 if
// signed.
func bind(t *testing.T, device *tpm.TPM, signed, offline bool, literal ...int) bound {
	t.Helper()
	b := bound{literal: literal}
	var err error
	if b.srk, err = device.EnsureSRK(); err != nil {
		t.Fatal(err)
	}
	if b.policy.Literal, err = device.ReadPCRs(literal...); err != nil {
		t.Fatal(err)
	}
	if signed {
		key := newKey(t)
		b.policy.Key, b.policy.SignedPCRs = &key.PublicKey, []int{11}
		if b.sigs, err = tpm.SignPCR11(key, [32]byte{0xee}, pcr(t, device, 11)); err != nil {
			t.Fatal(err)
		}
	}
	digest, err := b.policy.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if offline {
		b.sealed, err = tpm.SealTo(b.srk.Public, []byte(testSecret), digest)
	} else {
		b.sealed, err = device.Seal(b.srk, []byte(testSecret), digest)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func pcr(t *testing.T, device *tpm.TPM, n int) [32]byte {
	t.Helper()
	values, err := device.ReadPCRs(n)
	if err != nil {
		t.Fatal(err)
	}
	return values[n]
}

func extend(t *testing.T, device *tpm.TPM, n int, data string) {
	t.Helper()
	if err := device.Extend(n, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

// measured returns a TPM after a boot up to the initrd.
func measured(t *testing.T) *tpm.TPM {
	t.Helper()
	device := tpmtest.Dial(t, tpmtest.Start(t))
	tpmtest.Boot(t, device, "firmware")
	extend(t, device, 11, "enter-initrd")
	return device
}

// loaded returns how many objects and sessions the TPM holds.
func loaded(t *testing.T, device *tpm.TPM) int {
	t.Helper()
	n := 0
	for _, kind := range []uint32{0x80000000, 0x02000000, 0x03000000} { // transient, HMAC session, policy session
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: kind, PropertyCount: 64}.Execute(device.Raw())
		if err != nil {
			t.Fatal(err)
		}
		handles, err := rsp.CapabilityData.Data.Handles()
		if err != nil {
			t.Fatal(err)
		}
		n += len(handles.Handle)
	}
	return n
}

func TestASecretComesBackInTheSameStateOnly(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name            string
		signed, offline bool
		literal         []int
	}{
		{"literal", false, false, []int{7}},
		{"literal, several", false, false, []int{0, 1, 2, 3, 7, 12, 13}},
		{"literal, more than one read gives", false, false, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 15, 23}},
		{"signed", true, false, nil},
		{"signed and literal", true, false, []int{7, 12}},
		{"literal, sealed elsewhere", false, true, []int{7}},
		{"signed and literal, sealed elsewhere", true, true, []int{7, 12}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			device := measured(t)
			b := bind(t, device, tt.signed, tt.offline, tt.literal...)
			for range 8 { // a TPM has three slots for objects: all must be freed
				b.opens(t, device)
			}
			if tt.signed {
				without := b
				without.sigs = nil
				without.refuses(t, device, tpm.ErrSignature)
			}
			extend(t, device, 16, "a PCR that nobody asked for")
			b.opens(t, device)
			if len(tt.literal) > 0 {
				last := tt.literal[len(tt.literal)-1]
				extend(t, device, last, "something else")
				for range 8 {
					b.refuses(t, device, tpm.ErrPolicy)
				}
			}
			if tt.signed {
				extend(t, device, 11, "leave-initrd")
				for range 8 {
					b.refuses(t, device, tpm.ErrSignature)
				}
			}
			if n := loaded(t, device); n != 0 {
				t.Errorf("%d objects or sessions are still loaded", n)
			}
		})
	}
}

func TestASignatureMustBeTheKeysOwn(t *testing.T) {
	t.Parallel()
	device := measured(t)
	b := bind(t, device, true, false, 7)
	good := b.sigs["sha256"][1]
	if len(b.sigs["sha256"]) != 2 {
		t.Fatal("the wanted signature is not behind one of another value")
	}
	forged, err := tpm.SignPCR11(newKey(t), pcr(t, device, 11))
	if err != nil {
		t.Fatal(err)
	}
	claim := forged["sha256"][0]
	claim.Fingerprint = good.Fingerprint
	flipped := good
	flipped.Value = bytes.Clone(good.Value)
	flipped.Value[100] ^= 1
	for name, entries := range map[string][]tpm.Signature{
		"another key's":                     forged["sha256"],
		"another key's in the name of ours": {claim},
		"of another value":                  b.sigs["sha256"][:1],
		"one bit off":                       {flipped},
		"for another PCR":                   {{PCRs: []int{12}, Fingerprint: good.Fingerprint, Policy: good.Policy, Value: good.Value}},
	} {
		other := b
		other.sigs = tpm.Signatures{"sha256": entries}
		t.Run(name, func(t *testing.T) { other.refuses(t, device, tpm.ErrSignature) })
	}
	b.sigs = tpm.Signatures{"sha256": {claim, flipped, good}} // what does not verify is passed over
	b.opens(t, device)
	b.sigs = tpm.Signatures{"sha1": {good}}
	b.refuses(t, device, tpm.ErrSignature)
	other := newKey(t)
	b.policy.Key = &other.PublicKey
	if b.sigs, err = tpm.SignPCR11(other, pcr(t, device, 11)); err != nil {
		t.Fatal(err)
	}
	b.refuses(t, device, tpm.ErrPolicy) // a good signature by a key that the object does not know
}

func TestAfterARebootTheSameMeasurementsOpenIt(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	path, stop := tpmtest.StartState(t, state)
	device := tpmtest.Dial(t, path)
	tpmtest.Boot(t, device, "firmware")
	extend(t, device, 11, "enter-initrd")
	b := bind(t, device, true, false, 0, 7)
	_ = device.Close()
	stop()

	path, stop = tpmtest.StartState(t, state)
	device = tpmtest.Dial(t, path)
	b.refuses(t, device, tpm.ErrSignature) // nothing was measured yet
	tpmtest.Boot(t, device, "firmware")
	extend(t, device, 11, "enter-initrd")
	b.opens(t, device)
	_ = device.Close()
	stop()

	path, _ = tpmtest.StartState(t, state)
	device = tpmtest.Dial(t, path)
	tpmtest.Boot(t, device, "other firmware")
	extend(t, device, 11, "enter-initrd")
	b.refuses(t, device, tpm.ErrPolicy)
}

func TestAnotherTPMIsToldApart(t *testing.T) {
	t.Parallel()
	first := measured(t)
	online, offline := bind(t, first, false, false, 7), bind(t, first, false, true, 7)
	other := measured(t)
	for _, b := range []bound{online, offline} {
		b.refuses(t, other, tpm.ErrNoSRK)
	}
	if _, err := other.ReadSRK(); !errors.Is(err, tpm.ErrNoSRK) {
		t.Errorf("%v, not %v", err, tpm.ErrNoSRK)
	}
	srk, err := other.EnsureSRK()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range []bound{online, offline} {
		b.refuses(t, other, tpm.ErrOtherSRK)
		b.srk = srk // who ignores that finds that the TPM does not take the object
		if secret, err := b.unseal(other); err == nil || secret != "" {
			t.Errorf("another TPM's object gave %q, %v", secret, err)
		}
	}
	if _, err := other.Seal(online.srk, []byte(testSecret), [32]byte{1}); !errors.Is(err, tpm.ErrOtherSRK) {
		t.Errorf("sealing for another TPM: %v", err)
	}
	if n := loaded(t, other); n != 0 {
		t.Errorf("%d objects or sessions are still loaded", n)
	}
}

func TestTheStorageRootKeyIsMadeOnce(t *testing.T) {
	t.Parallel()
	device := tpmtest.Dial(t, tpmtest.Start(t))
	one, err := device.EnsureSRK()
	if err != nil {
		t.Fatal(err)
	}
	two, err := device.EnsureSRK()
	if err != nil || string(one.Name) != string(two.Name) || string(one.Public) != string(two.Public) || one.Handle != tpm.SRKHandle {
		t.Errorf("%x, then %x, %v", one, two, err)
	}
	if n := loaded(t, device); n != 0 {
		t.Errorf("%d objects or sessions are still loaded", n)
	}
}

// Windows and others put an RSA key at the handle.
func TestAKeyOfAnotherKindIsNoStorageRootKey(t *testing.T) {
	t.Parallel()
	device := tpmtest.Dial(t, tpmtest.Start(t))
	owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	// ECC, and not the template: without noDA, as systemd made it before 254.
	ecc := tpm2.ECCSRKTemplate
	ecc.ObjectAttributes.NoDA = false
	for name, template := range map[string]tpm2.TPMTPublic{"RSA": tpm2.RSASRKTemplate, "ECC without noDA": ecc} {
		made, err := tpm2.CreatePrimary{PrimaryHandle: owner, InPublic: tpm2.New2B(template)}.Execute(device.Raw())
		if err != nil {
			t.Fatal(err)
		}
		object := &tpm2.NamedHandle{Handle: made.ObjectHandle, Name: made.Name}
		evict := tpm2.EvictControl{Auth: owner, ObjectHandle: object, PersistentHandle: tpm.SRKHandle}
		if _, err := evict.Execute(device.Raw()); err != nil {
			t.Fatal(err)
		}
		if srk, err := device.ReadSRK(); !errors.Is(err, tpm.ErrSRKTemplate) {
			t.Errorf("%s: read as %x, %v", name, srk, err)
		}
		if srk, err := device.EnsureSRK(); !errors.Is(err, tpm.ErrSRKTemplate) {
			t.Errorf("%s: taken as %x, %v", name, srk, err)
		}
		evict.ObjectHandle = &tpm2.NamedHandle{Handle: tpm.SRKHandle, Name: made.Name}
		if _, err := evict.Execute(device.Raw()); err != nil {
			t.Fatal(err)
		}
		if _, err := (tpm2.FlushContext{FlushHandle: made.ObjectHandle}).Execute(device.Raw()); err != nil {
			t.Fatal(err)
		}
	}
}

// values returns a PCR in each active bank as tpm2-tools sees it.
func values(t *testing.T, path string, pcr string) map[string]string {
	t.Helper()
	tools, _ := lab.Tools(t, filepath.Dir(path))
	text, err := sh.Text(t.Context(), tools, "tpm2_pcrread", "-T", tpmtest.TCTI(path),
		"sha1:"+pcr+"+sha256:"+pcr+"+sha384:"+pcr+"+sha512:"+pcr).String()
	if err != nil {
		t.Fatal(err)
	}
	found, bank := map[string]string{}, ""
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if value = strings.TrimSpace(value); value == "" {
			bank = name
		} else {
			found[bank] = strings.ToLower(strings.TrimPrefix(value, "0x"))
		}
	}
	return found
}

func TestEveryActiveBankIsExtended(t *testing.T) {
	t.Parallel()
	path := tpmtest.Start(t)
	device := tpmtest.Dial(t, path)
	extend(t, device, 11, "enter-initrd")
	volumeKey := []byte(testSecret)
	if err := device.ExtendSecret(15, []byte("cryptsetup:root:uuid"), volumeKey); err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha256.New, volumeKey)
	mac.Write([]byte("cryptsetup:root:uuid"))
	want := sha256.Sum256(append(make([]byte, 32), mac.Sum(nil)...))
	if got := pcr(t, device, 15); got != want {
		t.Errorf("PCR 15 is %x, not %x", got, want)
	}
	word := sha256.Sum256([]byte("enter-initrd"))
	if got := pcr(t, device, 11); got != sha256.Sum256(append(make([]byte, 32), word[:]...)) {
		t.Errorf("PCR 11 is %x", got)
	}
	_ = device.Close()
	for _, n := range []string{"11", "15"} {
		banks := values(t, path, n)
		if len(banks) < 2 {
			t.Errorf("PCR %s: only the banks %v are active, which proves little", n, banks)
		}
		for bank, value := range banks {
			if strings.Trim(value, "0") == "" {
				t.Errorf("PCR %s was not extended in bank %s", n, bank)
			}
		}
	}
	device = tpmtest.Dial(t, path)
	for _, err := range []error{device.Extend(24, nil), device.Extend(-1, nil), device.ExtendSecret(15, []byte("x"), nil)} {
		if err == nil || strings.Contains(err.Error(), testSecret) {
			t.Error(err)
		}
	}
}

func TestAMissingBankIsRefused(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	path, stop := tpmtest.StartState(t, state)
	tools, _ := lab.Tools(t, filepath.Dir(path))
	if err := sh.Do(t.Context(), tools, "tpm2_pcrallocate", "-T", tpmtest.TCTI(path), "sha1:all+sha256:none+sha384:all+sha512:none"); err != nil {
		t.Fatal(err)
	}
	stop()
	path, _ = tpmtest.StartState(t, state)
	device := tpmtest.Dial(t, path)
	if values, err := device.ReadPCRs(0, 7); !errors.Is(err, tpm.ErrBank) {
		t.Errorf("%v, %v", values, err)
	}
	extend(t, device, 11, "the other banks go on")
}

func TestAFreshBankIsNotSane(t *testing.T) {
	t.Parallel()
	device := tpmtest.Dial(t, tpmtest.Start(t))
	fresh, err := device.ReadPCRs(0, 1, 2, 3, 4, 5, 6, 7, 11, 17)
	if err != nil {
		t.Fatal(err)
	}
	if err := fresh.Sane(); !errors.Is(err, tpm.ErrBank) {
		t.Errorf("%v", err)
	}
	tpmtest.Boot(t, device, "firmware")
	if measured, err := device.ReadPCRs(0, 1, 2, 3, 4, 5, 6, 7, 11, 17); err != nil || measured.Sane() != nil || len(measured) != 10 {
		t.Errorf("%v, %v", measured, err)
	}
	if _, err := device.ReadPCRs(24); err == nil {
		t.Error("PCR 24 was read")
	}
}

// code returns a command's code.
func code(command []byte) tpm2.TPMCC { return tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])) }

func TestTheWireDoesNotSeeTheSecret(t *testing.T) {
	t.Parallel()
	device := measured(t)
	var seen bytes.Buffer
	spied := device.Between(func(command []byte, next func([]byte) ([]byte, error)) ([]byte, error) {
		seen.Write(command)
		response, err := next(command)
		seen.Write(response)
		return response, err
	})
	b := bind(t, spied, true, false, 7)
	b.opens(t, spied)
	if err := spied.ExtendSecret(15, []byte("volume"), []byte(testSecret)); err != nil {
		t.Fatal(err)
	}
	plain := sha256.Sum256([]byte(testSecret))
	for name, data := range map[string][]byte{"secret": []byte(testSecret), "half the secret": []byte(testSecret[8:24]), "secret's hash": plain[:]} {
		if bytes.Contains(seen.Bytes(), data) {
			t.Errorf("the %s crossed the wire", name)
		}
	}
	if !bytes.Contains(seen.Bytes(), b.srk.Name[2:]) && seen.Len() < 1000 {
		t.Error("the wire was not listened to")
	}
}

// Somebody on the wire who changes any byte of the answer that holds the secret
// gets an error, not another secret.
func TestAnAnswerThatWasChangedIsNotBelieved(t *testing.T) {
	t.Parallel()
	device := measured(t)
	b := bind(t, device, false, false, 7)
	for at := 10; ; at += 7 {
		size := 0
		changed := device.Between(func(command []byte, next func([]byte) ([]byte, error)) ([]byte, error) {
			response, err := next(command)
			if code(command) == tpm2.TPMCCUnseal {
				if size = len(response); at < size {
					response[at] ^= 0x20
				}
			}
			return response, err
		})
		secret, err := b.unseal(changed)
		if size == 0 {
			t.Fatalf("byte %d: nothing was unsealed: %v", at, err)
		}
		if at >= size {
			break
		}
		if err == nil || secret != "" {
			t.Errorf("byte %d of %d was changed: %q, %v", at, size, secret, err)
		}
		// A changed flag can have our side believe that the session has gone.
		for _, kind := range []uint32{0x80000000, 0x03000000} {
			flushAll(t, device, kind)
		}
	}
	b.opens(t, device)
}

func flushAll(t *testing.T, device *tpm.TPM, kind uint32) {
	t.Helper()
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: kind, PropertyCount: 64}.Execute(device.Raw())
	if err != nil {
		t.Fatal(err)
	}
	handles, err := rsp.CapabilityData.Data.Handles()
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range handles.Handle {
		if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(device.Raw()); err != nil {
			t.Fatal(err)
		}
	}
}

// The TPM refuses a policy session when any PCR was extended since: another
// service of the boot may do that at any time.
func TestAPCRThatMovesMeanwhileIsTriedAgain(t *testing.T) {
	t.Parallel()
	device := measured(t)
	b := bind(t, device, true, false, 7)
	tries, disturb := 0, 3
	disturbed := device.Between(func(command []byte, next func([]byte) ([]byte, error)) ([]byte, error) {
		if code(command) == tpm2.TPMCCUnseal {
			if tries++; tries <= disturb {
				extend(t, device, 14, "another service")
			}
		}
		return next(command)
	})
	b.opens(t, disturbed)
	if tries != disturb+1 {
		t.Errorf("%d tries", tries)
	}
	tries, disturb = 0, 1000
	if secret, err := b.unseal(disturbed); err == nil || secret != "" || tries > 100 {
		t.Errorf("%q, %v after %d tries", secret, err, tries)
	}
	if n := loaded(t, device); n != 0 {
		t.Errorf("%d objects or sessions are still loaded", n)
	}
}

func TestATPMInLockoutIsToldApart(t *testing.T) {
	t.Parallel()
	device := measured(t)
	b := bind(t, device, false, false, 7)
	// TPM_RC_LOCKOUT, as a TPM answers for objects without noDA: those of
	// systemd before 256.
	locked := device.Between(func(command []byte, next func([]byte) ([]byte, error)) ([]byte, error) {
		if code(command) == tpm2.TPMCCUnseal {
			return []byte{0x80, 1, 0, 0, 0, 10, 0, 0, 0x09, 0x21}, nil
		}
		return next(command)
	})
	b.refuses(t, locked, tpm.ErrLockout)
	failing := device.Between(func(command []byte, next func([]byte) ([]byte, error)) ([]byte, error) {
		if code(command) == tpm2.TPMCCUnseal {
			return []byte{0x80, 1, 0, 0, 0, 10, 0, 0, 0x09, 0x9d}, nil // TPM_RC_POLICY_FAIL, session 1
		}
		return next(command)
	})
	b.refuses(t, failing, tpm.ErrPolicy)
	if n := loaded(t, device); n != 0 {
		t.Errorf("%d objects or sessions are still loaded", n)
	}
}

func TestAMalformedObjectIsRefused(t *testing.T) {
	t.Parallel()
	device := measured(t)
	good := bind(t, device, false, false, 7)
	change := func(data []byte, at int, to byte) []byte {
		out := bytes.Clone(data)
		out[at] = to
		return out
	}
	for name, sealed := range map[string]tpm.Sealed{
		"nothing":         {},
		"no private":      {Public: good.sealed.Public},
		"no public":       {Private: good.sealed.Private},
		"cut":             {Private: good.sealed.Private, Public: good.sealed.Public[:40]},
		"one byte more":   {Private: append(bytes.Clone(good.sealed.Private), 0), Public: good.sealed.Public},
		"userWithAuth":    {Private: good.sealed.Private, Public: change(good.sealed.Public, 9, 0x52)},
		"without noDA":    {Private: good.sealed.Private, Public: change(good.sealed.Public, 8, 0)},
		"other policy":    {Private: good.sealed.Private, Public: change(good.sealed.Public, 20, good.sealed.Public[20]^1)},
		"other private":   {Private: change(good.sealed.Private, 60, good.sealed.Private[60]^1), Public: good.sealed.Public},
		"a seed too many": {Private: good.sealed.Private, Public: good.sealed.Public, Seed: []byte{0, 1, 9}},
		"a seed cut":      {Private: good.sealed.Private, Public: good.sealed.Public, Seed: []byte{0, 9}},
	} {
		b := good
		b.sealed = sealed
		if secret, err := b.unseal(device); err == nil || secret != "" || strings.Contains(err.Error(), testSecret) {
			t.Errorf("%s: %q, %v", name, secret, err)
		}
	}
	if _, err := device.Unseal(good.sealed, good.srk, nil, nil, nil, nil); err == nil {
		t.Error("unsealed by a policy that binds nothing")
	}
	if _, err := device.Seal(good.srk, []byte(testSecret), [32]byte{}); err == nil || strings.Contains(err.Error(), testSecret) {
		t.Errorf("sealed to an empty policy: %v", err)
	}
	if n := loaded(t, device); n != 0 {
		t.Errorf("%d objects or sessions are still loaded", n)
	}
}

func TestOnlyADeviceIsOpened(t *testing.T) {
	t.Parallel()
	if _, err := tpm.Open(filepath.Join(t.TempDir(), "tpm0")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no device: %v", err) // the guest waits for the driver on this
	}
	file := filepath.Join(t.TempDir(), "tpm0")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := tpm.Open(file); err == nil {
		t.Error("a file was opened as a TPM")
	}
	if _, err := tpm.Open("/dev/null"); err == nil {
		t.Error("/dev/null was opened as a TPM")
	}
}

// systemd-measure writes the file that a UKI carries.
func TestSignaturesAreThoseOfSystemdMeasure(t *testing.T) {
	t.Parallel()
	tools, dir := lab.Tools(t)
	key := newKey(t)
	write := func(name string, data []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	args := []string{
		"--linux=" + write("linux", []byte("a kernel")), "--osrel=" + write("osrel", []byte("ID=debian\n")),
		"--cmdline=" + write("cmdline", []byte("ro")), "--bank=sha256", "--phase=enter-initrd", "--json=short",
	}
	const measure = "/usr/lib/systemd/systemd-measure"
	text, err := sh.Text(t.Context(), tools, measure, append([]string{"calculate"}, args...)...).String()
	if err != nil {
		t.Fatal(err)
	}
	var calculated struct{ SHA256 []struct{ Hash string } }
	if err := json.Unmarshal([]byte(text), &calculated); err != nil || len(calculated.SHA256) != 1 {
		t.Fatalf("%v: %s", err, text)
	}
	text, err = sh.Text(t.Context(), tools, measure, append([]string{"sign",
		"--private-key=" + write("key.pem", privatePEM(t, key)), "--public-key=" + write("pub.pem", publicPEM(t, &key.PublicKey))}, args...)...).String()
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := tpm.ParseSignatures([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	ours, err := tpm.SignPCR11(key, [32]byte(fromHex(t, calculated.SHA256[0].Hash)))
	if err != nil {
		t.Fatal(err)
	}
	a, errA := ours.Encode()
	b, errB := theirs.Encode()
	if errA != nil || errB != nil || string(a) != string(b) {
		t.Errorf("ours\n%s\ntheirs\n%s\n%v %v", a, b, errA, errB)
	}
}
