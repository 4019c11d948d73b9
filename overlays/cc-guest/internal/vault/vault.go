// Package vault keeps the keyslots of a LUKS2 volume in the hands of the
// machine: it opens a volume with what the machine's key source gives back,
// binds a volume to the machine, and replaces the secret.
//
// A header on the disk is read once. It is judged, opened and changed as a
// copy in memory, and goes back by writes after each of which, cut off at any
// byte, the volume still opens. So a rotation has no journal: whatever state
// it was left in, [Vault.Settle] finds the one token that opens the volume
// and takes everything else away.
package vault

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"cc-base/tasks/fault"
	"cc-base/tasks/seal/header"
)

const (
	// maxSlots and maxTokens are LUKS2's (On-Disk Format Specification, 3.2
	// and 3.5).
	maxSlots, maxTokens = 32, 32
)

// Source is where the secrets of one key profile come from.
type Source interface {
	// TokenType is the type of the tokens that the source makes and reads.
	TokenType() string
	// New makes the secret of a volume's epoch and the token that gets it
	// back. The caller wipes the passphrase.
	New(ctx context.Context, volume string, epoch int) (passphrase []byte, token map[string]json.RawMessage, err error)
	// Passphrase gets the secret of a token back. The caller wipes it.
	Passphrase(ctx context.Context, volume string, token json.RawMessage) ([]byte, error)
	// Prove checks that the token will give the passphrase back, as far as that
	// can be tried now.
	Prove(ctx context.Context, volume string, token json.RawMessage, passphrase []byte) error
	// Trusted tells whether a token that carries no authentication code may be
	// used: one that systemd-cryptenroll made has none.
	Trusted() bool
}

// Vault is the header of one volume.
type Vault struct {
	Label  string        // of the partition: cc-root, cc-app, cc-dynamic
	Device header.Device // where the header goes; nil for a vault that is only read
	File   string        // the header's copy, in memory
	Header *header.Copy
	Runner Runner
	Rules  header.Rules
	Now    func() time.Time
}

// Open is what opens a volume now.
type Open struct {
	Slot       string
	Passphrase []byte
	Key        []byte // the volume key
	Token      string // id of the token; empty for the enrolment or recovery slot
	Epoch      int
}

// Wipe clears the secrets.
func (o *Open) Wipe() {
	if o == nil {
		return
	}
	clear(o.Passphrase)
	clear(o.Key)
}

// Load judges the header that c is the one reading of, and keeps it in a file
// under dir for the tools.
func Load(label string, c *header.Copy, rules header.Rules, dir string) (*Vault, error) {
	if err := c.Check(rules); err != nil {
		return nil, fmt.Errorf("%s: %w", label, err)
	}
	v := &Vault{Label: label, File: filepath.Join(dir, label), Header: c, Rules: rules, Now: time.Now}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return v, v.write()
}

func (v *Vault) write() error { return os.WriteFile(v.File, v.Header.Bytes(), 0o600) }

// ByMachine opens the volume with the newest token of the source that works.
// With no such token it returns nil and no error; when every token fails, the
// first one's error, because it belongs to the secret in force.
func (v *Vault) ByMachine(ctx context.Context, s Source) (*Open, error) {
	candidates, err := tokens(v.Header.Metadata().Tokens, s.TokenType())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", v.Label, err)
	}
	var first error
	for _, t := range candidates {
		o, err := v.try(ctx, s, t)
		if err == nil {
			return o, nil
		}
		if first == nil {
			first = fmt.Errorf("%s: %w", v.Label, err)
		}
	}
	return nil, first
}

func (v *Vault) try(ctx context.Context, s Source, t bound) (*Open, error) {
	if t.Volume != "" && t.Volume != v.Label {
		return nil, fault.Newf(fault.GuestSwapped, "its token was made for %s", t.Volume)
	}
	passphrase, err := s.Passphrase(ctx, v.Label, t.raw)
	if err != nil {
		return nil, err
	}
	o, err := v.open(t.slot, passphrase)
	if err != nil {
		clear(passphrase)
		return nil, err
	}
	o.Token, o.Epoch = t.id, t.Epoch
	if err := v.authentic(s, t, passphrase); err != nil {
		o.Wipe()
		return nil, err
	}
	return o, nil
}

func (v *Vault) open(slot string, passphrase []byte) (*Open, error) {
	key, err := v.Header.VolumeKey(slot, passphrase)
	if errors.Is(err, header.ErrPassphrase) {
		return nil, fault.Newf(fault.GuestKey, "keyslot %s: %w", slot, err)
	}
	if err != nil {
		return nil, fmt.Errorf("keyslot %s: %w", slot, err)
	}
	return &Open{Slot: slot, Passphrase: passphrase, Key: key}, nil
}

// authentic checks the token's code over the header.
func (v *Vault) authentic(s Source, t bound, passphrase []byte) error {
	if len(t.MAC) == 0 && s.Trusted() {
		return nil
	}
	want, err := v.mac(t.raw, passphrase)
	if err != nil {
		return err
	}
	if !hmac.Equal(want, t.MAC) {
		return fault.Newf(fault.HeaderMAC, "token %s: the header is not the one that the guest wrote", t.id)
	}
	return nil
}

func (v *Vault) mac(token json.RawMessage, passphrase []byte) ([]byte, error) {
	key, err := hkdf.Key(sha256.New, passphrase, nil, "cc-base/v1/mac/"+v.Label, sha256.Size)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	return v.Header.MACWith(key, v.Label, token)
}

// ByPassphrase tries a passphrase on the given slots; nil when none opens.
func (v *Vault) ByPassphrase(passphrase []byte, slots []string) (*Open, error) {
	for _, slot := range slots {
		o, err := v.open(slot, slices.Clone(passphrase))
		if err == nil {
			return o, nil
		}
		if !errors.Is(err, header.ErrPassphrase) {
			return nil, fmt.Errorf("%s: %w", v.Label, err)
		}
	}
	return nil, nil
}

// RecoverySlots are the slots that a recovery token names.
func (v *Vault) RecoverySlots() ([]string, error) {
	list, err := tokens(v.Header.Metadata().Tokens, RecoveryToken)
	var slots []string
	for _, t := range list {
		slots = append(slots, t.slot)
	}
	return slots, err
}

// Bind gives the volume a fresh secret of the source and takes away every slot
// that is not the machine's, a recovery slot or one that waits for the next
// image. It returns what opens the volume from now on. Cut off anywhere, the
// volume opens with the former secret or with the new one.
func (v *Vault) Bind(ctx context.Context, s Source, current *Open) (*Open, error) {
	fresh, err := v.add(ctx, s, current, Active)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", v.Label, err)
	}
	if err := v.Settle(ctx, s, fresh); err != nil {
		fresh.Wipe()
		return nil, fmt.Errorf("%s: %w", v.Label, err)
	}
	return fresh, nil
}

// Prepare adds a secret for a boot image that is not running yet: s must make
// secrets for what that image will measure. Nothing is taken away.
func (v *Vault) Prepare(ctx context.Context, s Source, current *Open) error {
	for _, stale := range v.inState(s.TokenType(), Next) {
		if err := v.remove(ctx, stale); err != nil {
			return fmt.Errorf("%s: %w", v.Label, err)
		}
	}
	fresh, err := v.add(ctx, s, current, Next)
	if err != nil {
		return fmt.Errorf("%s: %w", v.Label, err)
	}
	fresh.Wipe()
	return nil
}

// add puts a new secret in a free slot. Its token is written as pending first,
// with its code, so that the next boot can use it if nothing more was written,
// and gets its state when the secret has been proven.
func (v *Vault) add(ctx context.Context, s Source, current *Open, state State) (*Open, error) {
	epoch, slot, id, err := v.free()
	if err != nil {
		return nil, err
	}
	passphrase, content, err := s.New(ctx, v.Label, epoch)
	if err != nil {
		return nil, err
	}
	f := Fields{Volume: v.Label, Epoch: epoch, State: Pending, Made: v.Now(), content: content}
	raw, err := v.coded(&f, slot, passphrase)
	if err == nil {
		err = v.change(ctx, func(t tool) error {
			if err := t.addKey(ctx, current.Passphrase, current.Slot, passphrase, slot); err != nil {
				return err
			}
			return t.putToken(ctx, id, raw)
		})
	}
	if err != nil {
		clear(passphrase)
		return nil, err
	}
	o, err := v.open(slot, passphrase)
	if err != nil {
		clear(passphrase)
		return nil, err
	}
	o.Token, o.Epoch = id, epoch
	if err := v.finish(ctx, s, f, o, current, state); err != nil {
		o.Wipe()
		return nil, err
	}
	return o, nil
}

// coded returns the token with its code, which f keeps, too.
func (v *Vault) coded(f *Fields, slot string, passphrase []byte) (json.RawMessage, error) {
	raw, err := f.encode(slot)
	if err != nil {
		return nil, err
	}
	if f.MAC, err = v.mac(raw, passphrase); err != nil {
		return nil, err
	}
	return f.encode(slot)
}

// finish proves the new secret and gives its token the state.
func (v *Vault) finish(ctx context.Context, s Source, f Fields, o, current *Open, state State) error {
	if !hmac.Equal(o.Key, current.Key) {
		return errors.New("the new keyslot holds another volume key")
	}
	// What another image will measure, this one cannot try.
	if state == Active {
		if err := s.Prove(ctx, v.Label, v.Header.Metadata().Tokens[o.Token], o.Passphrase); err != nil {
			return fmt.Errorf("proving the new secret: %w", err)
		}
	}
	// The code leaves the state out.
	f.State = state
	raw, err := f.encode(o.Slot)
	if err != nil {
		return err
	}
	return v.change(ctx, func(t tool) error { return t.putToken(ctx, o.Token, raw) })
}

// Repair writes the header again where the disk holds only one good copy of
// its metadata, as a power cut leaves it. The caller has opened the volume, and
// so knows that the copy is the guest's own.
func (v *Vault) Repair() error {
	if v.Header.Damage() == nil {
		return nil
	}
	return header.Store(v.Device, v.Header, v.Header)
}

// Settle takes away every slot and token but those of current, of recovery,
// those that wait for the next image, and the note that asks for another volume
// key. It changes nothing where there is nothing to take away.
func (v *Vault) Settle(ctx context.Context, s Source, current *Open) error {
	if err := v.Repair(); err != nil {
		return err
	}
	m := v.Header.Metadata()
	keepSlots, keepTokens := map[string]bool{current.Slot: true}, map[string]bool{}
	if current.Token != "" {
		keepTokens[current.Token] = true
	}
	for id, raw := range m.Tokens {
		f, err := parseFields(raw)
		if err != nil {
			return err
		}
		recovery := f.typ == RecoveryToken && len(f.slots) > 0
		if recovery || v.asked(raw, current) || f.typ == s.TokenType() && f.State == Next && id != current.Token {
			keepTokens[id] = true
			for _, slot := range f.slots {
				keepSlots[slot] = true
			}
		}
	}
	for _, slot := range sorted(m.Keyslots) {
		if keepSlots[slot] {
			continue
		}
		if err := v.change(ctx, func(t tool) error { return t.killSlot(ctx, slot) }); err != nil {
			return err
		}
	}
	for _, id := range sorted(m.Tokens) {
		if keepTokens[id] {
			continue
		}
		if err := v.change(ctx, func(t tool) error { return t.removeToken(ctx, id) }); err != nil {
			return err
		}
	}
	return v.activate(ctx, current)
}

// activate makes the token that opened the volume the active one: it may have
// waited for this image.
func (v *Vault) activate(ctx context.Context, current *Open) error {
	if current.Token == "" {
		return nil
	}
	f, err := parseFields(v.Header.Metadata().Tokens[current.Token])
	if err != nil || f.State == Active || f.State == "" {
		return err
	}
	// The code leaves the state out, so that this changes nothing about it.
	f.State = Active
	raw, err := f.encode(current.Slot)
	if err != nil {
		return err
	}
	return v.change(ctx, func(t tool) error { return t.putToken(ctx, current.Token, raw) })
}

// remove takes a token and its slot away.
func (v *Vault) remove(ctx context.Context, b bound) error {
	return v.change(ctx, func(t tool) error {
		if err := t.killSlot(ctx, b.slot); err != nil {
			return err
		}
		return t.removeToken(ctx, b.id)
	})
}

func (v *Vault) inState(typ string, state State) []bound {
	list, err := tokens(v.Header.Metadata().Tokens, typ)
	if err != nil {
		return nil // Check has accepted every token
	}
	return slices.DeleteFunc(list, func(b bound) bool { return b.State != state })
}

// change lets do work on the copy, judges the result, and writes it back.
func (v *Vault) change(ctx context.Context, do func(tool) error) error {
	if err := do(tool{run: v.Runner, file: v.File, hash: v.Rules.Hash}); err != nil {
		return errors.Join(err, v.write()) // the file may hold half of it
	}
	area, err := os.ReadFile(v.File)
	if err != nil {
		return err
	}
	after, err := header.Parse(area)
	if err == nil {
		err = after.Check(v.Rules)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("after the change: %w", err), v.write())
	}
	if err := header.Store(v.Device, v.Header, after); err != nil {
		return fmt.Errorf("writing the header: %w", err)
	}
	v.Header = after
	return nil
}

// free finds the next epoch, an unused slot and an unused token.
func (v *Vault) free() (epoch int, slot, token string, err error) {
	m := v.Header.Metadata()
	for _, raw := range m.Tokens {
		f, err := parseFields(raw)
		if err != nil {
			return 0, "", "", err
		}
		epoch = max(epoch, f.Epoch)
	}
	if slot = unused(maxSlots, m.Keyslots); slot == "" {
		return 0, "", "", errors.New("every keyslot is taken")
	}
	if token = unused(maxTokens, m.Tokens); token == "" {
		return 0, "", "", errors.New("every token is taken")
	}
	return epoch + 1, slot, token, nil
}

func unused[V any](limit int, taken map[string]V) string {
	for n := range limit {
		if _, ok := taken[strconv.Itoa(n)]; !ok {
			return strconv.Itoa(n)
		}
	}
	return ""
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int { return number(a) - number(b) })
	return keys
}
