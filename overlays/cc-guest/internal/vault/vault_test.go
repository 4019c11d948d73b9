package vault

// Green here means that real LUKS2 headers, changed by the real cryptsetup,
// open after every rotation and after a power cut at every write of one. The
// key source is a map in memory and the disk a byte slice: that a TPM gives its
// secret back, and that a real disk keeps the order of its writes, is for the
// boots to show.

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/lab"
	"cc-base/tasks/seal/header"
	"cc-base/tasks/sh"
)

// memory is a key source: the token names the secret.
type memory struct {
	secrets map[string][]byte
	lost    bool // it gives nothing back
	trusted bool
}

func (m *memory) TokenType() string { return "cc-base" }
func (m *memory) Trusted() bool     { return m.trusted }

func (m *memory) New(_ context.Context, volume string, epoch int) ([]byte, map[string]json.RawMessage, error) {
	secret := []byte(base64.StdEncoding.EncodeToString([]byte(rand.Text() + rand.Text())[:32]))
	name := fmt.Sprintf("%s/%d/%s", volume, epoch, rand.Text())
	m.secrets[name] = secret
	text, err := json.Marshal(name)
	return slices.Clone(secret), map[string]json.RawMessage{"type": json.RawMessage(`"cc-base"`), "name": text}, err
}

func (m *memory) Passphrase(_ context.Context, _ string, raw json.RawMessage) ([]byte, error) {
	var t struct{ Name string }
	if err := json.Unmarshal(raw, &t); err != nil {
		return nil, err
	}
	secret, ok := m.secrets[t.Name]
	if !ok || m.lost {
		return nil, fault.Newf(fault.GuestPCR, "the source gives nothing back")
	}
	return slices.Clone(secret), nil
}

func (m *memory) Prove(ctx context.Context, volume string, raw json.RawMessage, passphrase []byte) error {
	back, err := m.Passphrase(ctx, volume, raw)
	if err == nil && !bytes.Equal(back, passphrase) {
		err = errors.New("another secret")
	}
	return err
}

// disk is a disk that loses power after some bytes were written.
type disk struct {
	data []byte
	left int   // bytes until the power goes; negative: never
	done int   // bytes
	ends []int // after each write, done
}

var errPower = errors.New("power cut")

func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(d.data).ReadAt(p, off)
}

func (d *disk) WriteAt(p []byte, off int64) (int, error) {
	n := len(p)
	if d.left >= 0 && d.done+n > d.left {
		n = max(d.left-d.done, 0)
	}
	copy(d.data[off:], p[:n])
	d.done += n
	d.ends = append(d.ends, d.done)
	if n < len(p) {
		return n, errPower
	}
	return n, nil
}

func (d *disk) Sync() error {
	if d.left >= 0 && d.done >= d.left {
		return errPower
	}
	return nil
}

// inTree runs cryptsetup from the tools tree.
type inTree struct{ run sh.Runner }

func (r inTree) Run(ctx context.Context, secrets [][]byte, stdin []byte, program string, args ...string) (string, int, error) {
	var files []*os.File
	for _, s := range secrets {
		read, write, err := os.Pipe()
		if err != nil {
			return "", -1, err
		}
		defer read.Close()
		if _, err := write.Write(s); err != nil {
			return "", -1, err
		}
		write.Close()
		files = append(files, read)
	}
	var out bytes.Buffer
	err := r.run.Run(ctx, sh.Cmd{Name: program, Args: args, Stdin: bytes.NewReader(stdin), Stdout: &out, Files: files})
	var failed *sh.Error
	if errors.As(err, &failed) {
		return out.String(), 1, nil
	}
	return out.String(), 0, err
}

func rules() header.Rules {
	return header.Rules{Cipher: "aes-xts-plain64", KeyBits: 512, Hash: "sha512", SectorSize: 4096, HeaderSize: 16 << 20}
}

const firstSecret = "the secret of the installation, with 32 bytes"

// fresh formats a volume as the build does and returns its header area.
func fresh(t *testing.T, run sh.Runner, dir string) []byte {
	t.Helper()
	file := filepath.Join(dir, "volume")
	if err := os.WriteFile(file, make([]byte, 17<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	_, status, err := inTree{run}.Run(t.Context(), [][]byte{[]byte(firstSecret)}, nil, cryptsetup,
		"luksFormat", "--batch-mode", "--disable-locks", "--type=luks2", "--cipher=aes-xts-plain64", "--key-size=512", "--hash=sha512",
		"--sector-size=4096", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", "--key-file=/proc/self/fd/3", file)
	if err != nil || status != 0 {
		t.Fatalf("luksFormat: %d, %v", status, err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data[:16<<20]
}

func load(t *testing.T, run sh.Runner, dir string, d *disk) *Vault {
	t.Helper()
	c, err := header.Read(d)
	if err != nil {
		t.Fatal(err)
	}
	v, err := Load("cc-root", c, rules(), filepath.Join(dir, "work"))
	if err != nil {
		t.Fatal(err)
	}
	v.Device, v.Runner = d, inTree{run}
	return v
}

func enrolled(t *testing.T, v *Vault) *Open {
	t.Helper()
	o, err := v.ByPassphrase([]byte(firstSecret), v.Header.Unbound())
	if err != nil || o == nil {
		t.Fatalf("the first secret does not open the volume: %v", err)
	}
	return o
}

func TestBindDestroysTheFirstSecretAndEveryFormerOne(t *testing.T) {
	t.Parallel()
	run, dir := lab.Tools(t)
	d := &disk{data: fresh(t, run, dir), left: -1}
	v := load(t, run, dir, d)
	s := &memory{secrets: map[string][]byte{}}
	if o, err := v.ByMachine(t.Context(), s); o != nil || err != nil {
		t.Fatalf("without a token: %v, %v", o, err)
	}
	current := enrolled(t, v)
	key := slices.Clone(current.Key)
	var former [][]byte
	for epoch := 1; epoch <= 3; epoch++ {
		next, err := v.Bind(t.Context(), s, current)
		if err != nil {
			t.Fatal(err)
		}
		former, current = append(former, current.Passphrase), next
		if next.Epoch != epoch || !bytes.Equal(next.Key, key) {
			t.Errorf("epoch %d, want %d; the volume key is the same: %v", next.Epoch, epoch, bytes.Equal(next.Key, key))
		}
	}
	again := load(t, run, dir, d) // from the disk, as the next boot does
	o, err := again.ByMachine(t.Context(), s)
	if err != nil || o == nil || o.Epoch != 3 {
		t.Fatalf("the next boot: %+v, %v", o, err)
	}
	slots, err := again.Slots()
	if err != nil || len(slots) != 1 || slots[0].State != Active || slots[0].Epoch != 3 {
		t.Errorf("slots are %+v, %v", slots, err)
	}
	if n := len(again.Header.Metadata().Tokens); n != 1 {
		t.Errorf("%d tokens", n)
	}
	for i, secret := range append(former, []byte(firstSecret)) {
		if o, err := again.ByPassphrase(secret, []string{slots[0].Slot}); o != nil || err != nil {
			t.Errorf("secret %d still opens the volume, %v", i, err)
		}
	}
}

func TestTheRecoverySlotStays(t *testing.T) {
	t.Parallel()
	run, dir := lab.Tools(t)
	d := &disk{data: fresh(t, run, dir), left: -1}
	v := load(t, run, dir, d)
	current := enrolled(t, v)
	recovery := []byte("vvvvvvvv-cccccccc-dddddddd-eeeeeeee-ffffffff-gggggggg-hhhhhhhh-iiiiiiii")
	err := v.change(t.Context(), func(x tool) error {
		if err := x.addKey(t.Context(), current.Passphrase, current.Slot, recovery, "5"); err != nil {
			return err
		}
		return x.putToken(t.Context(), "9", []byte(`{"type":"systemd-recovery","keyslots":["5"]}`))
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Bind(t.Context(), &memory{secrets: map[string][]byte{}}, current); err != nil {
		t.Fatal(err)
	}
	slots, err := v.RecoverySlots()
	if err != nil || !slices.Equal(slots, []string{"5"}) {
		t.Fatalf("recovery slots are %v, %v", slots, err)
	}
	if o, err := v.ByPassphrase(recovery, slots); o == nil || err != nil {
		t.Errorf("the recovery key does not open it: %v", err)
	}
	if o, err := v.ByPassphrase([]byte("another one"), slots); o != nil || err != nil {
		t.Errorf("another key opens it: %v, %v", o, err)
	}
}

// next does what the next boot does, and returns what opens the volume.
func next(t *testing.T, v *Vault, s *memory) *Open {
	t.Helper()
	o, err := v.ByMachine(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if o == nil {
		if o, err = v.Bind(t.Context(), s, enrolled(t, v)); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.Settle(t.Context(), s, o); err != nil {
		t.Fatal(err)
	}
	return o
}

// counts are the keyslots by what they are for, and tokens that open nothing.
func counts(t *testing.T, v *Vault) string {
	t.Helper()
	slots, err := v.Slots()
	if err != nil {
		t.Fatal(err)
	}
	n := map[string]int{}
	for _, s := range slots {
		n[strings.TrimSpace(s.Kind+" "+string(s.State))]++
	}
	n["notes"] = len(v.Header.Metadata().Tokens) - len(slots)
	return fmt.Sprint(n)
}

// Every write of everything that changes a header is cut, at its beginning and
// in it. The next boot must open the volume and leave no slot that nobody
// accounts for; done again, it is as if nothing had been.
func TestAPowerCutAtAnyWriteLosesNothing(t *testing.T) {
	t.Parallel()
	run, dir := lab.Tools(t)
	s := &memory{secrets: map[string][]byte{}}
	first := fresh(t, run, dir)
	// after returns the disk after the next boot has done something with it.
	after := func(before []byte, do func(*Vault, *Open) error) []byte {
		d := &disk{data: slices.Clone(before), left: -1}
		v := load(t, run, dir, d)
		if err := do(v, next(t, v, s)); err != nil {
			t.Fatal(err)
		}
		return d.data
	}
	bind := func(v *Vault, o *Open) error { _, err := v.Bind(t.Context(), s, o); return err }
	ask := func(v *Vault, o *Open) error { return v.Ask(t.Context(), o) }
	prepare := func(v *Vault, o *Open) error { return v.Prepare(t.Context(), s, o) }
	recovery := func(of string) func(v *Vault, o *Open) error {
		return func(v *Vault, o *Open) error {
			return v.SetRecovery(t.Context(), o, []byte(of+"-recovery-key-with-full-entropy"), "message to "+of, of)
		}
	}
	none := func(v *Vault, o *Open) error { return v.SetRecovery(t.Context(), o, nil, "", "") }
	bound := after(first, bind)
	full := after(after(after(bound, recovery("a")), ask), prepare)
	for name, tc := range map[string]struct {
		before []byte
		do     func(*Vault, *Open) error
		want   string
	}{
		"enrolment":            {first, bind, "map[cc-base active:1 notes:0]"},
		"rotation":             {bound, bind, "map[cc-base active:1 notes:0]"},
		"rotation of all":      {full, bind, "map[cc-base active:1 cc-base next:1 notes:1 systemd-recovery:1]"},
		"preparation":          {bound, prepare, "map[cc-base active:1 cc-base next:1 notes:0]"},
		"another preparation":  {full, prepare, "map[cc-base active:1 cc-base next:1 notes:1 systemd-recovery:1]"},
		"request of a key":     {bound, ask, "map[cc-base active:1 notes:1]"},
		"recovery slot":        {bound, recovery("a"), "map[cc-base active:1 notes:0 systemd-recovery:1]"},
		"another recovery":     {full, recovery("b"), "map[cc-base active:1 cc-base next:1 notes:1 systemd-recovery:1]"},
		"no recovery any more": {full, none, "map[cc-base active:1 cc-base next:1 notes:1]"},
	} {
		whole := &disk{data: slices.Clone(tc.before), left: -1}
		v := load(t, run, dir, whole)
		o := next(t, v, s)
		whole.done, whole.ends = 0, nil
		if err := tc.do(v, o); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := counts(t, load(t, run, dir, whole)); got != tc.want {
			t.Fatalf("%s: %s, want %s", name, got, tc.want)
		}
		if name == "enrolment" { // next has enrolled it already
			whole = &disk{data: slices.Clone(tc.before), left: -1}
			if err := bind(load(t, run, dir, whole), enrolled(t, load(t, run, dir, whole))); err != nil {
				t.Fatal(err)
			}
		}
		var cuts []int
		for i, end := range whole.ends {
			begin := 0
			if i > 0 {
				begin = whole.ends[i-1]
			}
			cuts = append(cuts, begin, (begin+end)/2)
		}
		step := 1
		if !lab.Long() {
			step = max(len(cuts)/3, 1)
		}
		for i := 0; i < len(cuts); i += step {
			cut := &disk{data: slices.Clone(tc.before), left: -1}
			v := load(t, run, dir, cut)
			var o *Open
			if name == "enrolment" {
				o = enrolled(t, v)
			} else {
				o = next(t, v, s)
			}
			cut.done, cut.left = 0, cuts[i]
			if err := tc.do(v, o); !errors.Is(err, errPower) {
				t.Fatalf("%s: cut after %d bytes: %v", name, cuts[i], err)
			}
			cut.left = -1 // power is back
			v = load(t, run, dir, cut)
			o = next(t, v, s)
			if unbound := v.Header.Unbound(); len(unbound) > 0 || strings.Contains(counts(t, v), "pending") {
				t.Fatalf("%s: cut after %d bytes, the next boot leaves %s", name, cuts[i], counts(t, v))
			}
			if err := tc.do(v, o); err != nil {
				t.Fatalf("%s: cut after %d of %d bytes: %v", name, cuts[i], whole.done, err)
			}
			v = load(t, run, dir, cut)
			next(t, v, s)
			if got := counts(t, v); got != tc.want {
				t.Fatalf("%s: cut after %d bytes and done again: %s, want %s", name, cuts[i], got, tc.want)
			}
		}
	}
}

func TestWhatAHostCanDoToTokensIsRefused(t *testing.T) {
	t.Parallel()
	run, dir := lab.Tools(t)
	d := &disk{data: fresh(t, run, dir), left: -1}
	v := load(t, run, dir, d)
	s := &memory{secrets: map[string][]byte{}}
	bound, err := v.Bind(t.Context(), s, enrolled(t, v))
	if err != nil {
		t.Fatal(err)
	}
	good := v.Header.Metadata().Tokens[bound.Token]
	put := func(change func(map[string]any)) *Vault {
		var token map[string]any
		if err := json.Unmarshal(good, &token); err != nil {
			t.Fatal(err)
		}
		change(token)
		raw, err := json.Marshal(token)
		if err != nil {
			t.Fatal(err)
		}
		other := &disk{data: slices.Clone(d.data), left: -1}
		w := load(t, run, t.TempDir(), other)
		w.File = filepath.Join(dir, "header-"+rand.Text())
		if err := w.write(); err != nil {
			t.Fatal(err)
		}
		if err := w.change(t.Context(), func(x tool) error { return x.putToken(t.Context(), bound.Token, raw) }); err != nil {
			t.Fatal(err)
		}
		return w
	}
	for name, tc := range map[string]struct {
		change func(map[string]any)
		code   fault.Code
	}{
		"of another volume": {func(m map[string]any) { m["cc-volume"] = "cc-app" }, fault.GuestSwapped},
		"of another epoch":  {func(m map[string]any) { m["cc-epoch"] = 9 }, fault.HeaderMAC},
		"without a code":    {func(m map[string]any) { delete(m, "cc-mac") }, fault.HeaderMAC},
		"unknown state":     {func(m map[string]any) { m["cc-state"] = "open" }, fault.HeaderToken},
		"negative epoch":    {func(m map[string]any) { m["cc-epoch"] = -1 }, fault.HeaderToken},
		"not a time":        {func(m map[string]any) { m["cc-made"] = "yesterday" }, fault.HeaderToken},
	} {
		o, err := put(tc.change).ByMachine(t.Context(), s)
		if o != nil {
			t.Errorf("%s: it opens", name)
			continue
		}
		faulttest.Want(t, err, tc.code)
	}
	s.lost = true
	_, err = v.ByMachine(t.Context(), s)
	faulttest.Want(t, err, fault.GuestPCR)
}

func TestPrepareWaitsForTheNextImage(t *testing.T) {
	t.Parallel()
	run, dir := lab.Tools(t)
	d := &disk{data: fresh(t, run, dir), left: -1}
	v := load(t, run, dir, d)
	now, next := &memory{secrets: map[string][]byte{}}, &memory{secrets: map[string][]byte{}}
	current, err := v.Bind(t.Context(), now, enrolled(t, v))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // a second preparation takes the place of the first
		if err := v.Prepare(t.Context(), next, current); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(v.Header.Metadata().Keyslots); n != 2 {
		t.Fatalf("%d keyslots, want the present one and the next one", n)
	}
	// The present image boots again and keeps it.
	v = load(t, run, dir, d)
	o, err := v.ByMachine(t.Context(), now)
	if err != nil || o == nil {
		t.Fatal(err)
	}
	if err := v.Settle(t.Context(), now, o); err != nil || len(v.Header.Metadata().Keyslots) != 2 {
		t.Fatalf("%d keyslots after a boot of the present image, %v", len(v.Header.Metadata().Keyslots), err)
	}
	// The next image boots, and the former way is gone.
	v = load(t, run, dir, d)
	if o, err = v.ByMachine(t.Context(), next); err != nil || o == nil {
		t.Fatal(err)
	}
	if err := v.Settle(t.Context(), next, o); err != nil {
		t.Fatal(err)
	}
	slots, err := v.Slots()
	if err != nil || len(slots) != 1 || slots[0].State != Active {
		t.Errorf("slots are %+v, %v", slots, err)
	}
	if o, _ := v.ByMachine(t.Context(), now); o != nil {
		t.Error("the former image still opens the volume")
	}
}

var (
	_ header.Device = (*disk)(nil)
	_ io.ReaderAt   = (*disk)(nil)
)
