package vault

import (
	"encoding/json"
	"time"
)

// Slot is one keyslot and what accounts for it.
type Slot struct {
	Slot   string  `json:"slot"`
	Kind   string  `json:"kind"` // type of the token, or "passphrase"
	Epoch  int     `json:"epoch,omitempty"`
	State  State   `json:"state,omitempty"`
	Made   string  `json:"made,omitempty"` // RFC 3339
	Policy *Policy `json:"policy,omitempty"`
}

// Policy is what a TPM asks for before it gives a secret back.
type Policy struct {
	PCRs   []int  `json:"pcrs"`       // bound to their values at enrolment
	Signed []int  `json:"signedPCRs"` // bound to a signature of the image's maker
	Hash   string `json:"hash"`       // of the policy
}

// Slots lists the keyslots in order.
func (v *Vault) Slots() ([]Slot, error) {
	m := v.Header.Metadata()
	bySlot := map[string]Slot{}
	for _, raw := range m.Tokens {
		f, err := parseFields(raw)
		if err != nil {
			return nil, err
		}
		for _, slot := range f.slots {
			bySlot[slot] = Slot{Slot: slot, Kind: f.typ, Epoch: f.Epoch, State: f.State, Made: made(f.Made), Policy: policyOf(raw)}
		}
	}
	list := []Slot{}
	for _, slot := range sorted(m.Keyslots) {
		s, ok := bySlot[slot]
		if !ok {
			s = Slot{Slot: slot, Kind: "passphrase"}
		}
		list = append(list, s)
	}
	return list, nil
}

func made(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// policyOf reads the fields of a systemd-tpm2 token; nil where there are none.
func policyOf(raw json.RawMessage) *Policy {
	var j struct {
		PCRs   []int  `json:"tpm2-pcrs"`
		Signed []int  `json:"tpm2_pubkey_pcrs"`
		Hash   string `json:"tpm2-policy-hash"`
	}
	if json.Unmarshal(raw, &j) != nil || j.Hash == "" {
		return nil
	}
	return &Policy{PCRs: j.PCRs, Signed: j.Signed, Hash: j.Hash}
}
