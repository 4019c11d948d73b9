package vault

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"strings"

	"cc-base/tasks/fault"
	"cc-base/tasks/seal/header"
)

// noteToken is the type of a token that opens nothing: it says something about
// the volume.
const noteToken = "cc-base"

// Renewal says how far the change of a volume's key has come.
type Renewal string

// The steps of a change. It is asked for in the running system, and runs from
// the moment at which the header has two volume keys until the volume is bound
// anew.
const (
	None    Renewal = ""
	Asked   Renewal = "asked"
	Running Renewal = "running"
)

// noteJSON is what tokens of ours say beside the fields of [Fields]. The code
// is keyed by the volume key, so that it holds whatever slot opens the volume.
type noteJSON struct {
	Type       string   `json:"type"`
	Keyslots   []string `json:"keyslots"`
	Volume     string   `json:"cc-volume"`
	Renewal    Renewal  `json:"cc-renewal,omitempty"`
	Message    []string `json:"cc-message,omitempty"`    // armoured OpenPGP, by lines: a header holds no line ends
	Recipients string   `json:"cc-recipients,omitempty"` // whom the message is for
	MAC        []byte   `json:"cc-mac,omitempty"`
}

// sign returns the token with its code.
func (v *Vault) sign(key []byte, n noteJSON) (json.RawMessage, error) {
	n.Volume, n.MAC = v.Label, nil
	raw, err := json.Marshal(n)
	if err != nil {
		return nil, err
	}
	if n.MAC, err = v.noteMAC(key, raw); err != nil {
		return nil, err
	}
	return json.Marshal(n)
}

func (v *Vault) noteMAC(key []byte, raw json.RawMessage) ([]byte, error) {
	mac, err := hkdf.Key(sha256.New, key, nil, "cc-base/v1/note/"+v.Label, sha256.Size)
	if err != nil {
		return nil, err
	}
	defer clear(mac)
	return v.Header.TokenMAC(mac, v.Label, raw)
}

// signed reads a token, and tells whether the guest wrote it for a volume with
// this key.
func (v *Vault) signed(key []byte, raw json.RawMessage) (noteJSON, bool) {
	var n noteJSON
	if json.Unmarshal(raw, &n) != nil || n.Volume != v.Label {
		return n, false
	}
	want, err := v.noteMAC(key, raw)
	return n, err == nil && hmac.Equal(want, n.MAC)
}

// Renewal returns what the header says of a change of the volume key. With a
// key it believes the guest alone; without one it tells what is there.
func (v *Vault) Renewal(key []byte) Renewal {
	for _, id := range sorted(v.Header.Metadata().Tokens) {
		n, ours := v.signed(key, v.Header.Metadata().Tokens[id])
		if n.Type == noteToken && n.Renewal != None && (ours || key == nil) {
			return n.Renewal
		}
	}
	return None
}

// Ask records that the volume is to get another key at the next boot. It may
// be asked for more than once.
func (v *Vault) Ask(ctx context.Context, current *Open) error {
	if v.Renewal(current.Key) == Asked {
		return nil
	}
	id := unused(maxTokens, v.Header.Metadata().Tokens)
	if id == "" {
		return fault.Newf(fault.GuestRenew, "every token is taken")
	}
	raw, err := v.sign(current.Key, noteJSON{Type: noteToken, Keyslots: []string{}, Renewal: Asked})
	if err != nil {
		return err
	}
	return v.change(ctx, func(t tool) error { return t.putToken(ctx, id, raw) })
}

// asked tells whether a token is the guest's note that asks for another key.
func (v *Vault) asked(raw json.RawMessage, current *Open) bool {
	n, ours := v.signed(current.Key, raw)
	return ours && n.Type == noteToken && len(n.Keyslots) == 0 && n.Renewal == Asked
}

// Started returns the header h, which is this volume's with a second volume
// key, with the note that says so in place of the one that asked for it. The
// new key is what vouches for it, for the old one is gone in the end.
func (v *Vault) Started(h *header.Copy, newKey []byte) (*header.Copy, error) {
	raw, err := v.sign(newKey, noteJSON{Type: noteToken, Keyslots: []string{}, Renewal: Running})
	if err != nil {
		return nil, err
	}
	for _, id := range sorted(h.Metadata().Tokens) {
		var n noteJSON
		if json.Unmarshal(h.Metadata().Tokens[id], &n) == nil && n.Type == noteToken && n.Renewal != None {
			return h.WithToken(id, raw)
		}
	}
	return nil, fault.Newf(fault.GuestRenew, "nobody asked for it")
}

// Clear takes away what the former key has left in the keyslot area.
func (v *Vault) Clear() error {
	after, err := v.Header.Cleared()
	if err != nil {
		return err
	}
	if err := header.Store(v.Device, v.Header, after); err != nil {
		return err
	}
	v.Header = after
	return v.write()
}

// Waits tells whether a secret for another boot image is in the header. It
// opens the present volume key only.
func (v *Vault) Waits(s Source) bool { return len(v.inState(s.TokenType(), Next)) > 0 }

// Recovery returns the encrypted recovery key that belongs to the volume key,
// and whom it is for; nothing where there is none.
func (v *Vault) Recovery(key []byte) (message, recipients string) {
	for _, t := range v.recovery() {
		if n, ours := v.signed(key, t.raw); ours && len(n.Message) > 0 {
			return strings.Join(n.Message, "\n") + "\n", n.Recipients
		}
	}
	return "", ""
}

// recovery are the tokens of recovery slots.
func (v *Vault) recovery() []bound {
	list, err := tokens(v.Header.Metadata().Tokens, RecoveryToken)
	if err != nil {
		return nil // Check has accepted every token
	}
	return list
}

// SetRecovery replaces the recovery slot that the guest made: by one that
// passphrase opens and that carries the message, or, without a passphrase, by
// none. Recovery slots that carry no message are somebody else's and stay. Cut
// off anywhere, there is the former slot, both, or the new one.
func (v *Vault) SetRecovery(ctx context.Context, current *Open, passphrase []byte, message, recipients string) error {
	former := v.recovery()
	if len(passphrase) > 0 {
		if err := v.addRecovery(ctx, current, passphrase, message, recipients); err != nil {
			return err
		}
	}
	for _, t := range former {
		var n noteJSON
		if json.Unmarshal(t.raw, &n) != nil || len(n.Message) == 0 {
			continue
		}
		if err := v.remove(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

func (v *Vault) addRecovery(ctx context.Context, current *Open, passphrase []byte, message, recipients string) error {
	_, slot, id, err := v.free()
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSuffix(message, "\n"), "\n")
	raw, err := v.sign(current.Key, noteJSON{Type: RecoveryToken, Keyslots: []string{slot}, Message: lines, Recipients: recipients})
	if err != nil {
		return err
	}
	return v.change(ctx, func(t tool) error {
		if err := t.addKey(ctx, current.Passphrase, current.Slot, passphrase, slot); err != nil {
			return err
		}
		return t.putToken(ctx, id, raw)
	})
}
