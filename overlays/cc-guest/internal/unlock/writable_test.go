package unlock

// Green here means that cc-dynamic gets its recovery key and another volume key
// as promised, through the whole of a boot, with the real cryptsetup on files.
// Package renewal has what a power cut leaves of a change of the volume key.

import (
	"bytes"
	"crypto/aes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"golang.org/x/crypto/xts"

	"cc-base/overlays/cc-guest/internal/cmdline"
	"cc-base/overlays/cc-guest/internal/vault"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/lab"
	"cc-base/tasks/seal/header"
)

// operator makes a key, and its armoured public half.
func operator(t *testing.T) (*openpgp.Entity, string) {
	t.Helper()
	e, err := openpgp.NewEntity("Operator", "", "operator@site.invalid", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Serialize(w); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return e, b.String() + "\n"
}

// onDisk returns the volume as the next boot finds it, and what opens it.
func (m *machine) onDisk(label string) (*vault.Vault, *vault.Open) {
	m.t.Helper()
	f, err := os.OpenFile(m.path(label), os.O_RDWR, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { f.Close() })
	u := m.unlocker()
	v, err := u.vault(label, file{f, m.power}, false)
	if err != nil {
		m.t.Fatal(err)
	}
	o, err := v.ByMachine(m.t.Context(), m.source())
	if err != nil || o == nil {
		m.t.Fatalf("%s: the machine's own token does not open it: %v", label, err)
	}
	return v, o
}

// kinds are the keyslots by what they are for.
func kinds(t *testing.T, v *vault.Vault) string {
	t.Helper()
	slots, err := v.Slots()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, s := range slots {
		out = append(out, strings.TrimSpace(s.Kind+" "+string(s.State)))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// recoveryKey decrypts the message in the header.
func recoveryKey(t *testing.T, v *vault.Vault, o *vault.Open, e *openpgp.Entity) string {
	t.Helper()
	message, _ := v.Recovery(o.Key)
	raw, err := armor.Decode(strings.NewReader(message))
	if err != nil {
		t.Fatalf("no message in the header: %v", err)
	}
	md, err := openpgp.ReadMessage(raw.Body, openpgp.EntityList{e}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(md.UnverifiedBody); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func (m *machine) mustBoot() {
	m.t.Helper()
	if _, err := m.boot(); err != nil {
		m.t.Fatal(err)
	}
}

func TestTheGuestMakesARecoveryKeyForPeople(t *testing.T) {
	t.Parallel()
	for _, profile := range []string{cmdline.TPM, cmdline.SNP} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			m := installed(t, profile)
			e, public := operator(t)
			m.recipients = []string{public}
			m.mustBoot()
			v, o := m.onDisk("cc-dynamic")
			key := recoveryKey(t, v, o, e)
			own, both := "cc-base active", "cc-base active, systemd-recovery"
			if profile == cmdline.TPM {
				own, both = "systemd-tpm2 active", "systemd-recovery, systemd-tpm2 active"
			}
			if got := kinds(t, v); got != both {
				t.Fatalf("slots: %s", got)
			}
			slots, err := v.RecoverySlots()
			if err != nil || len(slots) != 1 {
				t.Fatalf("recovery slots %v, %v", slots, err)
			}
			r, err := v.ByPassphrase([]byte(key), slots)
			if err != nil || r == nil || !bytes.Equal(r.Key, o.Key) {
				t.Fatalf("the recovery key does not open the volume, %v", err)
			}
			text := strings.Join(append(m.calls, m.said...), "\n") + string(filetest.Read(t, m.path("cc-dynamic"))[:header.Size])
			if strings.Contains(text, key) || strings.Contains(text, key[:8]) {
				t.Error("the recovery key is in an argument, a line or the header")
			}

			before := filetest.Read(t, m.path("cc-dynamic"))
			m.mustBoot()
			if !bytes.Equal(before, filetest.Read(t, m.path("cc-dynamic"))) {
				t.Error("the next boot changes something")
			}

			// Other people: another key, and the former one is gone.
			e2, public2 := operator(t)
			m.recipients = []string{public2}
			m.mustBoot()
			v, o = m.onDisk("cc-dynamic")
			other := recoveryKey(t, v, o, e2)
			slots, err = v.RecoverySlots()
			if err != nil || len(slots) != 1 || other == key {
				t.Fatalf("recovery slots %v, the same key: %v, %v", slots, other == key, err)
			}
			for id := range v.Header.Metadata().Keyslots {
				if r, err := v.ByPassphrase([]byte(key), []string{id}); r != nil || err != nil {
					t.Errorf("the former recovery key opens slot %s, %v", id, err)
				}
			}
			m.recipients = nil
			m.mustBoot()
			if v, _ = m.onDisk("cc-dynamic"); kinds(t, v) != own {
				t.Errorf("without recipients: %s", kinds(t, v))
			}
		})
	}
}

func TestTheRecoveryKeyOfPeopleOpensTheVolumeWhereTheHostIsTrusted(t *testing.T) {
	t.Parallel()
	for _, profile := range []string{cmdline.TPM, cmdline.SNP} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			m := installed(t, profile)
			e, public := operator(t)
			m.recipients = []string{public}
			m.addRecovery("cc-root")
			m.addRecovery("cc-app")
			m.mustBoot()
			v, o := m.onDisk("cc-dynamic")
			key := recoveryKey(t, v, o, e)
			m.root = fixedRoot(bytes.Repeat([]byte("n"), 32)) // another TPM, or processor
			m.typed = []string{recovery, key}
			_, err := m.boot()
			if profile == cmdline.SNP {
				faulttest.Want(t, err, fault.GuestKey)
				if m.asked != 1 {
					t.Errorf("asked %d times: once is for cc-root and cc-app", m.asked)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			v, o = m.onDisk("cc-dynamic")
			if got := kinds(t, v); got != "systemd-recovery, systemd-tpm2 active" || recoveryKey(t, v, o, e) != key {
				t.Errorf("afterwards: %s", got)
			}
		})
	}
}

// A host may add a slot to the guest's own volume: its token's code leaves the
// list of slots out. But the host does not know the volume key.
func TestASlotThatTheHostAddsOpensNothing(t *testing.T) {
	t.Parallel()
	for _, profile := range []string{cmdline.SNP, cmdline.Attested} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			m := installed(t, profile)
			m.mustBoot()
			_, o := m.onDisk("cc-dynamic")
			m.format("hosts", recovery) // which the host can open
			m.graft("hosts", "cc-dynamic")
			m.typed = []string{recovery, recovery, recovery}
			m.mustBoot()
			v, again := m.onDisk("cc-dynamic")
			if !bytes.Equal(again.Key, o.Key) || again.Slot != o.Slot || m.asked != 0 {
				t.Errorf("slot %s, was %s; asked %d times", again.Slot, o.Slot, m.asked)
			}
			slots, err := v.RecoverySlots()
			if err != nil || len(slots) != 1 {
				t.Fatalf("the host's slot is not there: %v, %v", slots, err)
			}
			if r, err := v.ByPassphrase([]byte(recovery), slots); r != nil || err != nil {
				t.Errorf("the host's slot opens the volume, %v", err)
			}
			// Nor does it help to have the digest say that it is right.
			m.graftDigest("hosts", "cc-dynamic")
			_, err = m.boot()
			faulttest.Want(t, err, fault.GuestKey) // the guest's own slot does not fit the digest
		})
	}
}

// graft copies the only keyslot of a volume into another one's header, with a
// token that calls it a recovery slot.
func (m *machine) graft(from, to string) {
	m.t.Helper()
	const slot, offset = "9", 8 << 20
	source := filetest.Read(m.t, m.path(from))
	k := object(readJSON(m.t, source), "keyslots", "0")
	area := object(k, "area")
	var at, size int
	if _, err := fmt.Sscan(area["offset"].(string), &at); err != nil {
		m.t.Fatal(err)
	}
	if _, err := fmt.Sscan(area["size"].(string), &size); err != nil {
		m.t.Fatal(err)
	}
	area["offset"] = fmt.Sprint(offset)
	m.edit(to, func(disk []byte, j map[string]any) {
		copy(disk[offset:], source[at:at+size])
		object(j, "keyslots")[slot] = k
		for _, d := range object(j, "digests") {
			d := d.(map[string]any)
			d["keyslots"] = append(d["keyslots"].([]any), slot)
		}
		object(j, "tokens")["9"] = map[string]any{"type": "systemd-recovery", "keyslots": []string{slot}}
	})
}

// graftDigest has the digest of one volume take the place of another's.
func (m *machine) graftDigest(from, to string) {
	m.t.Helper()
	other := object(readJSON(m.t, filetest.Read(m.t, m.path(from))), "digests", "0")
	m.edit(to, func(_ []byte, j map[string]any) {
		for _, d := range object(j, "digests") {
			for _, name := range []string{"digest", "salt", "iterations", "hash"} {
				d.(map[string]any)[name] = other[name]
			}
		}
	})
}

func object(o map[string]any, path ...string) map[string]any {
	for _, name := range path {
		o = o[name].(map[string]any)
	}
	return o
}

func readJSON(t *testing.T, disk []byte) map[string]any {
	t.Helper()
	size := binary.BigEndian.Uint64(disk[8:])
	text, _, _ := bytes.Cut(disk[4096:size], []byte{0})
	var j map[string]any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&j); err != nil {
		t.Fatal(err)
	}
	return j
}

// edit changes a header as anybody can who has the disk.
func (m *machine) edit(label string, change func(disk []byte, j map[string]any)) {
	m.t.Helper()
	disk := filetest.Read(m.t, m.path(label))
	j := readJSON(m.t, disk)
	change(disk, j)
	text, err := json.Marshal(j)
	if err != nil {
		m.t.Fatal(err)
	}
	size := int(binary.BigEndian.Uint64(disk[8:]))
	for _, at := range []int{0, size} {
		b := disk[at : at+size]
		clear(b[4096:])
		copy(b[4096:], text)
		clear(b[448:512]) // the checksum, over itself as zeros
		sum := sha256.Sum256(b)
		copy(b[448:], sum[:])
	}
	filetest.Write(m.t, m.path(label), disk)
}

// plaintext of the volume under a key, as dm-crypt has it.
func (m *machine) plaintext(key []byte) []byte {
	m.t.Helper()
	data := filetest.Read(m.t, m.path("cc-dynamic"))[header.Size:]
	c, err := xts.NewCipher(aes.NewCipher, key)
	if err != nil {
		m.t.Fatal(err)
	}
	for at := 0; at < len(data); at += cmdline.BlockSize {
		c.Decrypt(data[at:at+cmdline.BlockSize], data[at:at+cmdline.BlockSize], uint64(at/512))
	}
	return data
}

// ask asks for another volume key, as the running system does.
func (m *machine) ask() {
	m.t.Helper()
	v, o := m.onDisk("cc-dynamic")
	if err := v.Ask(m.t.Context(), o); err != nil {
		m.t.Fatal(err)
	}
}

func TestTheNextBootChangesTheVolumeKey(t *testing.T) {
	t.Parallel()
	m := installed(t, cmdline.TPM)
	e, public := operator(t)
	m.recipients = []string{public}
	m.mustBoot()
	v, before := m.onDisk("cc-dynamic")
	former := recoveryKey(t, v, before, e)
	m.ask()
	data := m.plaintext(before.Key)
	m.late = true
	m.mustBoot()
	if m.starts("cryptsetup reencrypt --batch-mode --disable-locks --key-file=/proc/self/fd/3") != 2 || m.starts("cryptsetup repair") != 0 {
		t.Errorf("calls:\n%s", strings.Join(m.calls, "\n"))
	}
	v, after := m.onDisk("cc-dynamic")
	if bytes.Equal(before.Key, after.Key) || after.Epoch != before.Epoch+1 || bytes.Equal(before.Passphrase, after.Passphrase) {
		t.Errorf("epoch %d after %d; another key: %v", after.Epoch, before.Epoch, !bytes.Equal(before.Key, after.Key))
	}
	if !bytes.Equal(data, m.plaintext(after.Key)) {
		t.Error("the data are not what they were")
	}
	if got := kinds(t, v); got != "systemd-recovery, systemd-tpm2 active" || v.Renewal(nil) != vault.None {
		t.Errorf("slots %s, renewal %q", got, v.Renewal(nil))
	}
	if key := recoveryKey(t, v, after, e); key == former {
		t.Error("the recovery key is the former one")
	}
	if m.kept["cc-dynamic"] != string(after.Passphrase) {
		t.Error("the running system does not get the new secret")
	}
	text := strings.Join(append(m.calls, m.said...), "\n")
	if !strings.Contains(text, "it has another volume key") || strings.Contains(text, string(after.Passphrase)) {
		t.Errorf("the console says\n%s", text)
	}
	m.mustBoot()
	if m.starts("cryptsetup reencrypt") != 0 || m.starts("cryptsetup luks") != 0 {
		t.Errorf("the boot after it changes something:\n%s", strings.Join(m.calls, "\n"))
	}
}

func TestAChangeThatWasCutOffIsGoneOnWith(t *testing.T) {
	t.Parallel()
	m := installed(t, cmdline.TPM)
	m.mustBoot()
	_, before := m.onDisk("cc-dynamic")
	data := m.plaintext(before.Key)
	m.ask()
	const run = "cryptsetup reencrypt --batch-mode --disable-locks --key-file=/proc/self/fd/3 --keyfile-size=44 --resume-only"
	m.status = map[string]int{run: 1}
	for range 2 { // the volume is not used before the change has ended
		_, err := m.boot()
		faulttest.Want(t, err, fault.GuestRenew, "exit status 1")
		if m.starts("cryptsetup open --type=luks2 --disable-locks --header="+m.dir) != 0 {
			t.Errorf("it was mapped:\n%s", strings.Join(m.calls, "\n"))
		}
	}
	m.status = nil
	m.mustBoot()
	_, after := m.onDisk("cc-dynamic")
	if bytes.Equal(before.Key, after.Key) || !bytes.Equal(data, m.plaintext(after.Key)) {
		t.Error("it has the same key, or other data")
	}
}

func TestAnotherVolumeKeyWaitsForTheNextImage(t *testing.T) {
	t.Parallel()
	m := installed(t, cmdline.TPM)
	m.mustBoot()
	v, o := m.onDisk("cc-dynamic")
	if err := v.Prepare(t.Context(), m.source(), o); err != nil {
		t.Fatal(err)
	}
	m.ask()
	m.mustBoot()
	if m.starts("cryptsetup reencrypt") != 0 || !strings.Contains(strings.Join(m.said, "\n"), "after the boot image") {
		t.Errorf("it does not wait:\n%s", strings.Join(m.said, "\n"))
	}
	if v, _ := m.onDisk("cc-dynamic"); v.Renewal(o.Key) != vault.Asked {
		t.Error("the request is lost")
	}
}

func TestAChangeThatCannotBeginLeavesTheVolumeInUse(t *testing.T) {
	t.Parallel()
	m := installed(t, cmdline.TPM)
	m.mustBoot()
	m.ask()
	m.status = map[string]int{"cryptsetup reencrypt": 1}
	m.mustBoot()
	if !strings.Contains(strings.Join(m.said, "\n"), "it keeps its volume key; the next boot tries again") {
		t.Errorf("the console says\n%s", strings.Join(m.said, "\n"))
	}
	m.status = nil
	m.mustBoot()
	if v, _ := m.onDisk("cc-dynamic"); v.Renewal(nil) != vault.None {
		t.Error("the next boot did not try again")
	}
}

// Where the host is not trusted nobody may announce a re-encryption, not even
// the guest.
func TestAReencryptionIsRefusedWhereTheHostIsNotTrusted(t *testing.T) {
	t.Parallel()
	for _, profile := range profiles() {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			m := installed(t, profile)
			m.mustBoot()
			m.ask()
			_, o := m.onDisk("cc-dynamic")
			if profile != cmdline.TPM {
				m.mustBoot()
				if m.starts("cryptsetup reencrypt") != 0 {
					t.Error("it was begun")
				}
			}
			m.do([]string{string(o.Passphrase)}, "", "reencrypt", "--batch-mode", "--disable-locks", "--init-only", "--force-offline-reencrypt",
				"--resilience=journal", "--key-slot="+o.Slot, "--key-file=/proc/self/fd/3", fmt.Sprintf("--keyfile-size=%d", len(o.Passphrase)),
				"--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", "--hash=sha512", m.path("cc-dynamic"))
			_, err := m.boot()
			faulttest.Want(t, err, fault.HeaderRequirement)
			if m.starts("cryptsetup reencrypt")+m.starts("cryptsetup repair") != 0 {
				t.Error("it was gone on with")
			}
		})
	}
}

// The power fails at writes to the disk throughout a first boot. The next one
// must end it, and leave in every volume what accounts for its slots.
func TestAFirstBootIsCutAtItsWrites(t *testing.T) {
	t.Parallel()
	for _, profile := range []string{cmdline.TPM, cmdline.SNP} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			m := installed(t, profile)
			_, public := operator(t)
			m.recipients = []string{public}
			blank := map[string][]byte{}
			for _, label := range []string{"cc-root", "cc-app", "cc-dynamic"} {
				blank[label] = filetest.Read(t, m.path(label))
			}
			m.power = &power{left: 1 << 30}
			m.mustBoot()
			writes := m.power.seen
			if writes < 15 {
				t.Fatalf("only %d writes", writes)
			}
			own, both, begin, step := "cc-base active", "cc-base active, systemd-recovery", 3, writes/3+1
			if profile == cmdline.TPM {
				own, both, begin = "systemd-tpm2 active", "systemd-recovery, systemd-tpm2 active", 0
			}
			if lab.Long() {
				begin, step = 0, 1
			}
			for at := begin; at < writes; at += step {
				for label, content := range blank {
					filetest.Write(t, m.path(label), content)
				}
				m.sys[KeyFile].Data = []byte(secret)
				m.power = &power{left: at}
				if _, err := m.boot(); err == nil {
					t.Fatalf("write %d of %d was cut, and nothing failed", at+1, writes)
				}
				m.power = nil
				if _, err := m.boot(); err != nil {
					t.Fatalf("cut at write %d of %d: %v", at+1, writes, err)
				}
				m.sys[KeyFile].Data = []byte("not the secret of the installation any more")
				m.mustBoot()
				for label, want := range map[string]string{"cc-root": own, "cc-app": own, "cc-dynamic": both} {
					v, _ := m.onDisk(label)
					if got := kinds(t, v); got != want {
						t.Fatalf("cut at write %d of %d: %s has %s", at+1, writes, label, got)
					}
				}
			}
		})
	}
}
