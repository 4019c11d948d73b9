package vault

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"cc-base/tasks/fault"
)

// RecoveryToken is the type of the token that marks a recovery slot, as
// systemd-cryptenroll writes it.
const RecoveryToken = "systemd-recovery"

// State says where a token is in its life.
type State string

// The states. A token is written as pending beside its new keyslot, becomes
// active once the slot was proven, and next marks one that waits for another
// boot image.
const (
	Pending State = "pending"
	Active  State = "active"
	Next    State = "next"
)

// Fields are what cc-base adds to the token of a keyslot that a machine opens
// by itself. In a token of type systemd-tpm2, systemd ignores them.
type Fields struct {
	Volume  string    // label of the volume that the token was made for
	Epoch   int       // counts the secrets of a volume, from 1
	State   State     // empty in a token that another program wrote
	Made    time.Time // when the secret was made, by the guest's clock
	MAC     []byte    // see header.Copy.MAC; empty in a token of another program
	slots   []string  // the token's keyslots
	typ     string
	content map[string]json.RawMessage
}

// fieldsJSON is the form on the disk.
type fieldsJSON struct {
	Type     string   `json:"type"`
	Keyslots []string `json:"keyslots"`
	Volume   string   `json:"cc-volume"`
	Epoch    int      `json:"cc-epoch"`
	State    State    `json:"cc-state"`
	Made     string   `json:"cc-made"`
	MAC      []byte   `json:"cc-mac"`
}

// parseFields reads what cc-base needs of any token.
func parseFields(raw json.RawMessage) (Fields, error) {
	var j fieldsJSON
	f := Fields{}
	if err := json.Unmarshal(raw, &j); err != nil {
		return f, fault.New(fault.HeaderToken, err)
	}
	if err := json.Unmarshal(raw, &f.content); err != nil {
		return f, fault.New(fault.HeaderToken, err)
	}
	switch j.State {
	case "", Pending, Active, Next:
	default:
		return f, fault.Newf(fault.HeaderToken, "state %q is not known", j.State)
	}
	if j.Epoch < 0 {
		return f, fault.Newf(fault.HeaderToken, "epoch %d", j.Epoch)
	}
	if j.Made != "" {
		made, err := time.Parse(time.RFC3339, j.Made)
		if err != nil {
			return f, fault.New(fault.HeaderToken, err)
		}
		f.Made = made
	}
	f.Volume, f.Epoch, f.State, f.MAC, f.slots, f.typ = j.Volume, j.Epoch, j.State, j.MAC, j.Keyslots, j.Type
	return f, nil
}

// encode merges f into the token's other fields, which are kept as they are.
func (f Fields) encode(slot string) (json.RawMessage, error) {
	out := make(map[string]json.RawMessage, len(f.content)+6)
	for name, value := range f.content {
		out[name] = value
	}
	slots := []string{}
	if slot != "" {
		slots = append(slots, slot)
	}
	for name, value := range map[string]any{
		"keyslots": slots, "cc-volume": f.Volume, "cc-epoch": f.Epoch, "cc-state": f.State,
		"cc-made": f.Made.UTC().Format(time.RFC3339), "cc-mac": f.MAC,
	} {
		if name == "cc-mac" && len(f.MAC) == 0 {
			delete(out, name)
			continue
		}
		raw, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		out[name] = raw
	}
	var b bytes.Buffer
	err := json.NewEncoder(&b).Encode(out)
	return b.Bytes(), err
}

// bound is a token together with its place.
type bound struct {
	Fields
	id   string
	slot string
	raw  json.RawMessage
}

// tokens returns every token of the given type with exactly one keyslot, the
// most promising first: active ones by falling epoch, then the others.
func tokens(all map[string]json.RawMessage, typ string) ([]bound, error) {
	var out []bound
	for id, raw := range all {
		f, err := parseFields(raw)
		if err != nil {
			return nil, fmt.Errorf("token %s: %w", id, err)
		}
		if f.typ != typ || len(f.slots) != 1 {
			continue
		}
		out = append(out, bound{Fields: f, id: id, slot: f.slots[0], raw: raw})
	}
	slices.SortFunc(out, func(a, b bound) int {
		if x, y := a.rank(), b.rank(); x != y {
			return x - y
		}
		if a.Epoch != b.Epoch {
			return b.Epoch - a.Epoch
		}
		return number(a.id) - number(b.id)
	})
	return out, nil
}

func (f Fields) rank() int {
	return slices.Index([]State{Active, "", Next, Pending}, f.State)
}

func number(id string) int {
	n, err := strconv.Atoi(id)
	if err != nil {
		return 1 << 30
	}
	return n
}
