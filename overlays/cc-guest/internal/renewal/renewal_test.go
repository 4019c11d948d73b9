package renewal

// Green here means that a real LUKS2 volume gets another key by the real
// cryptsetup, that the data are the same afterwards, and that this holds after a
// power cut at any write: of the writes between two syncs, any of them may have
// reached the disk, whole or in part. The disk is a file: that a block device
// and the hypervisor's cache keep a sync's promise is not shown, nor is anything
// with a real TPM.

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/xts"

	"cc-base/overlays/cc-guest/internal/vault"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/lab"
	"cc-base/tasks/seal/header"
)

const (
	size   = header.Size + 2<<20 // of the volume, in bytes
	sector = 4096
	label  = "cc-dynamic"
)

// memory is a key source: the token names the secret.
type memory map[string][]byte

func (memory) TokenType() string { return "cc-base" }
func (memory) Trusted() bool     { return false }

func (m memory) New(_ context.Context, volume string, epoch int) ([]byte, map[string]json.RawMessage, error) {
	name := fmt.Sprintf("%s/%d/%s", volume, epoch, rand.Text())
	m[name] = []byte(rand.Text() + rand.Text())
	text, err := json.Marshal(name)
	return bytes.Clone(m[name]), map[string]json.RawMessage{"type": json.RawMessage(`"cc-base"`), "name": text}, err
}

func (m memory) Passphrase(_ context.Context, _ string, raw json.RawMessage) ([]byte, error) {
	var t struct{ Name string }
	if err := json.Unmarshal(raw, &t); err != nil {
		return nil, err
	}
	if m[t.Name] == nil {
		return nil, fault.Newf(fault.GuestPCR, "the source gives nothing back")
	}
	return bytes.Clone(m[t.Name]), nil
}

func (memory) Prove(context.Context, string, json.RawMessage, []byte) error { return nil }

func rules() header.Rules {
	return header.Rules{Cipher: "aes-xts-plain64", KeyBits: 512, Hash: "sha512", SectorSize: sector, HeaderSize: header.Size, DeviceSize: size}
}

// machine is a guest with one volume.
type machine struct {
	t      *testing.T
	run    *tool
	source memory
	dir    string
	plain  []byte
	oldKey []byte
	disk   []byte // with a bound volume, and a recovery slot, and a change asked for
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	tree, dir := lab.Tools(t)
	m := &machine{t: t, dir: dir, source: memory{}, plain: filetest.Noise(5, size-header.Size)}
	m.run = &tool{tree: tree, disk: filepath.Join(dir, "disk")}
	first := []byte("the secret of the first moment, with 32 bytes")
	filetest.Write(t, m.run.disk, make([]byte, size))
	m.cryptsetup(first, "luksFormat", "--type=luks2", fmt.Sprintf("--offset=%d", header.Size/512), "--cipher=aes-xts-plain64", "--key-size=512",
		"--hash=sha512", "--sector-size=4096", "--luks2-metadata-size=65536", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000")
	v := m.load(open(t, m.run.disk, nil))
	o, err := v.ByPassphrase(first, []string{"0"})
	if err != nil || o == nil {
		t.Fatal(err)
	}
	if o, err = v.Bind(t.Context(), m.source, o); err == nil {
		err = v.SetRecovery(t.Context(), o, []byte("a recovery key with full entropy"), "message", "recipients")
	}
	if err != nil {
		t.Fatal(err)
	}
	m.oldKey = bytes.Clone(o.Key)
	f := open(t, m.run.disk, nil)
	if _, err := f.WriteAt(crypt(t, m.oldKey, m.plain, true), header.Size); err != nil {
		t.Fatal(err)
	}
	if err := v.Ask(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	m.disk = filetest.Read(t, m.run.disk)
	return m
}

// crypt does what dm-crypt does with whole sectors.
func crypt(t *testing.T, key, in []byte, encrypt bool) []byte {
	t.Helper()
	c, err := xts.NewCipher(aes.NewCipher, key)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]byte, len(in))
	for at := 0; at < len(in); at += sector {
		do := c.Decrypt
		if encrypt {
			do = c.Encrypt
		}
		do(out[at:at+sector], in[at:at+sector], uint64(at/512))
	}
	return out
}

func (m *machine) cryptsetup(secret []byte, action string, args ...string) {
	m.t.Helper()
	all := append([]string{action, "--batch-mode", "--disable-locks", "--key-file=/proc/self/fd/3"}, args...)
	out, status, err := m.run.Run(m.t.Context(), [][]byte{secret}, nil, "", append(all, m.run.disk)...)
	if err != nil || status != 0 {
		m.t.Fatalf("cryptsetup %s: %d, %v\n%s", action, status, err, out)
	}
}

func (m *machine) load(f *file) *vault.Vault {
	m.t.Helper()
	h, err := header.Read(f)
	if err != nil {
		m.t.Fatal(err)
	}
	v, err := vault.Load(label, h, rules(), filepath.Join(m.dir, "work"))
	if err != nil {
		m.t.Fatal(err)
	}
	v.Device, v.Runner = f, m.run
	return v
}

func (m *machine) changer(f *file) Changer {
	return Changer{Runner: m.run, Source: m.source, Rules: rules(), Device: f, Label: label, Node: m.run.disk}
}

// boot does with the disk what the initrd does, and returns what opens it.
func (m *machine) boot(f *file) (*vault.Vault, *vault.Open, error) {
	ctx, c := m.t.Context(), m.changer(f)
	h, err := header.Read(f)
	if err != nil {
		return nil, nil, err
	}
	if h.Renewing() {
		if err := c.Resume(ctx, h); err != nil {
			return nil, nil, err
		}
	}
	v := m.load(f)
	o, err := c.Adopt(ctx, v)
	if err != nil {
		return v, nil, err
	}
	if o == nil {
		if o, err = v.ByMachine(ctx, m.source); err == nil && o != nil {
			err = v.Settle(ctx, m.source, o)
		}
	}
	if err != nil || o == nil {
		return v, nil, errors.Join(errors.New("it does not open"), err)
	}
	if v.Renewal(o.Key) != vault.Asked {
		return v, o, nil
	}
	if err := c.Start(ctx, v, o); err != nil {
		return v, nil, err
	}
	v = m.load(f)
	o, err = c.Adopt(ctx, v)
	return v, o, err
}

// check looks at a disk after a boot: one slot, another key, the same data.
func (m *machine) check(f *file, o *vault.Open, where string) {
	m.t.Helper()
	v := m.load(f)
	if o == nil {
		m.t.Fatalf("%s: it does not open", where)
	}
	slots, err := v.Slots()
	if err != nil || len(slots) != 1 || slots[0].State != vault.Active || len(v.Header.Metadata().Tokens) != 1 || v.Header.Damage() != nil {
		m.t.Fatalf("%s: slots %+v, %d tokens, damage %v, %v", where, slots, len(v.Header.Metadata().Tokens), v.Header.Damage(), err)
	}
	again, err := v.ByMachine(m.t.Context(), m.source)
	if err != nil || again == nil || again.Epoch < 2 || !bytes.Equal(again.Key, o.Key) {
		m.t.Fatalf("%s: the next boot: %+v, %v", where, again, err)
	}
	if bytes.Equal(o.Key, m.oldKey) {
		m.t.Fatalf("%s: it has the same key", where)
	}
	data := filetest.Read(m.t, m.run.disk)[header.Size:]
	if !bytes.Equal(crypt(m.t, o.Key, data, false), m.plain) {
		m.t.Fatalf("%s: the data are not what they were", where)
	}
}

func TestTheVolumeGetsAnotherKey(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	oldHeader := bytes.Clone(m.disk[:header.Size])
	f := open(t, m.run.disk, nil)
	v, o, err := m.boot(f)
	if err != nil {
		t.Fatal(err)
	}
	m.check(f, o, "after the change")
	if got := v.Renewal(nil); got != vault.None || o.Epoch != 2 {
		t.Errorf("renewal %q, epoch %d", got, o.Epoch)
	}
	if !slices.Equal(m.run.runs[1:], []string{"reencrypt"}) { // the first formatted it
		t.Errorf("runs: %v", m.run.runs)
	}

	// Whoever kept the old header, and what opened it, has the old key and
	// nothing to use it on: not in the data, not in what is left of the journal.
	disk := filetest.Read(t, m.run.disk)
	h, err := header.Parse(oldHeader)
	if err != nil {
		t.Fatal(err)
	}
	old := &vault.Vault{Label: label, Header: h}
	before, err := old.ByMachine(t.Context(), m.source)
	if err != nil || !bytes.Equal(before.Key, m.oldKey) {
		t.Fatalf("the old header alone: %v", err)
	}
	with := crypt(t, before.Key, disk[header.Size:], false)
	for at := 0; at < len(with); at += sector {
		if bytes.Equal(with[at:at+sector], m.plain[at:at+sector]) {
			t.Fatalf("the old key reads sector %d", at/sector)
		}
	}
	for at := header.Size; at < len(m.disk); at += sector {
		if bytes.Contains(disk, m.disk[at:at+sector]) {
			t.Fatalf("what sector %d held under the old key is on the disk still", (at-header.Size)/sector)
		}
	}
	if n, err := v.ByPassphrase(before.Passphrase, []string{o.Slot}); n != nil || err != nil {
		t.Errorf("the old passphrase: %v, %v", n, err)
	}

	// The header is one that cryptsetup goes on with.
	m.cryptsetup(o.Passphrase, "open", "--test-passphrase")
	m.cryptsetup(o.Passphrase, "luksDump")
	m.cryptsetup(o.Passphrase, "reencrypt", "--force-offline-reencrypt", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000")
}

// cut is what a power cut leaves: of the writes after a sync, those in the set
// reached the disk, the last of them perhaps in half.
type cut struct {
	sync, set, writes int
	torn              bool
}

func (c cut) String() string {
	return fmt.Sprintf("after sync %d, with %0*b of the next writes, torn: %v", c.sync, c.writes, c.set, c.torn)
}

// cuts calls each with every disk that a power cut can leave. The writes
// between two syncs are few, so that every choice of them is tried.
func cuts(disk []byte, events []event, each func(disk []byte, c cut)) {
	var open []event // since the last sync
	sync := 0
	for _, e := range append(events, event{}) {
		if e.data != nil {
			open = append(open, e)
			continue
		}
		for set := range 1 << len(open) {
			for _, torn := range []bool{false, true} {
				now, last := bytes.Clone(disk), bits.Len(uint(set))-1
				if torn && last < 0 {
					continue
				}
				for i, w := range open {
					data := w.data
					if torn && i == last {
						data = data[:len(data)/2]
					}
					if set&(1<<i) != 0 {
						copy(now[w.off:], data)
					}
				}
				each(now, cut{sync, set, len(open), torn})
			}
		}
		for _, w := range open {
			copy(disk[w.off:], w.data)
		}
		open, sync = nil, sync+1
	}
}

func TestAPowerCutAtAnyWriteIsGoneOnWith(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	var events []event
	see := func(e event) { events = append(events, e) }
	m.run.see = see
	_, o, err := m.boot(open(t, m.run.disk, see))
	if err != nil {
		t.Fatal(err)
	}
	m.check(open(t, m.run.disk, nil), o, "without a cut")
	m.run.see = nil
	all, tried, outcomes := 0, 0, map[string]int{}
	cuts(bytes.Clone(m.disk), events, func(disk []byte, c cut) {
		// The short mode takes some, and those where a header reached the disk
		// before the journal that it counts on, which was written first.
		early := c.writes == 4 && c.set == 0b1110 && !c.torn
		if all++; !lab.Long() && all%20 != 0 && !early {
			return
		}
		tried++
		filetest.Write(t, m.run.disk, disk)
		f := open(t, m.run.disk, nil)
		defer f.Close()
		m.run.runs = nil
		_, o, err := m.boot(f)
		if err != nil {
			t.Fatalf("%s: %v", c, err)
		}
		m.check(f, o, c.String())
		outcomes[strings.Join(m.run.runs, " ")]++
	})
	t.Logf("%d writes and syncs; %d cuts of %d, after which cryptsetup ran: %v", len(events), tried, all, outcomes)
	for _, want := range []string{"", "reencrypt", "repair", "repair reencrypt"} {
		if outcomes[want] == 0 {
			t.Errorf("no cut led to %q", want)
		}
	}
}

func TestAKilledCryptsetupIsGoneOnWith(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	for at := 1; ; at += 19 {
		filetest.Write(t, m.run.disk, m.disk)
		f := open(t, m.run.disk, nil)
		m.run.killAt, m.run.writes = at, 0
		_, o, err := m.boot(f)
		if err == nil { // it ended before
			m.check(f, o, "not killed")
			if at < 40 {
				t.Errorf("only %d writes", m.run.writes)
			}
			return
		}
		faulttest.Want(t, err, fault.GuestRenew, "killed")
		if !errors.Is(err, ErrBegun) {
			t.Errorf("write %d: %v", at, err)
		}
		// The next boot is killed, too, while it repairs or goes on.
		m.run.killAt, m.run.writes = 4, 0
		if _, o, err = m.boot(f); err != nil {
			m.run.killAt = 0
			_, o, err = m.boot(f)
		}
		if err != nil {
			t.Fatalf("killed at write %d: %v", at, err)
		}
		m.check(f, o, fmt.Sprintf("killed at write %d", at))
	}
}

func TestAChangeThatTheGuestHasNotAnnouncedIsRefused(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	// Somebody who has the passphrase, but is not the guest.
	f := open(t, m.run.disk, nil)
	v := m.load(f)
	o, err := v.ByMachine(t.Context(), m.source)
	if err != nil {
		t.Fatal(err)
	}
	m.cryptsetup(o.Passphrase, "reencrypt", "--init-only", "--force-offline-reencrypt", "--resilience=journal", "--key-slot="+o.Slot,
		"--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", "--hash=sha512")
	before := filetest.Read(t, m.run.disk)
	m.run.runs = nil
	_, _, err = m.boot(f)
	faulttest.Want(t, err, fault.HeaderRequirement, "this guest has not begun")
	if !bytes.Equal(before, filetest.Read(t, m.run.disk)) || len(m.run.runs) > 0 {
		t.Errorf("something was done about it: %v", m.run.runs)
	}

	// The guest's own, but the machine is another one.
	filetest.Write(t, m.run.disk, m.disk)
	f = open(t, m.run.disk, nil)
	m.run.killAt, m.run.writes = 12, 0
	if _, _, err := m.boot(f); err == nil {
		t.Fatal("it was not killed")
	}
	m.run.killAt = 0
	m.source, m.run.runs = memory{}, nil
	_, _, err = m.boot(f)
	faulttest.Want(t, err, fault.GuestPCR)
	if len(m.run.runs) > 0 {
		t.Errorf("cryptsetup ran: %v", m.run.runs)
	}
}

func TestWhatCannotBeginChangesNothing(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	f := open(t, m.run.disk, nil)
	v := m.load(f)
	o, err := v.ByMachine(t.Context(), m.source)
	if err != nil {
		t.Fatal(err)
	}
	c := m.changer(f)
	o.Passphrase = []byte("not what opens it")
	err = c.Start(t.Context(), v, o)
	faulttest.Want(t, err, fault.GuestRenew, "exit status")
	if errors.Is(err, ErrBegun) || !bytes.Equal(m.disk, filetest.Read(t, m.run.disk)) || !bytes.Equal(v.Header.Bytes(), filetest.Read(t, v.File)) {
		t.Errorf("something changed: %v", err)
	}
	for profile, integrity := range map[string]bool{"snp": false, "attested": false, "tpm": true} {
		if Possible(profile, integrity) {
			t.Errorf("%s, integrity %v: possible", profile, integrity)
		}
	}
	if !Possible("tpm", false) {
		t.Error("not possible in profile tpm")
	}
	os.Remove(m.run.disk)
}
