package vault

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"cc-base/tasks/lab"
)

func TestANoteOfSomebodyElseIsNotBelieved(t *testing.T) {
	t.Parallel()
	run, dir := lab.Tools(t)
	d := &disk{data: fresh(t, run, dir), left: -1}
	s := &memory{secrets: map[string][]byte{}}
	v := load(t, run, dir, d)
	o, err := v.Bind(t.Context(), s, enrolled(t, v))
	if err != nil {
		t.Fatal(err)
	}
	put := func(id string, raw []byte) {
		t.Helper()
		if err := v.change(t.Context(), func(x tool) error { return x.putToken(t.Context(), id, raw) }); err != nil {
			t.Fatal(err)
		}
	}
	put("9", []byte(`{"type":"cc-base","keyslots":[],"cc-volume":"cc-root","cc-renewal":"asked"}`))
	if v.Renewal(nil) != Asked || v.Renewal(o.Key) != None {
		t.Errorf("a note without a code: %q, %q", v.Renewal(nil), v.Renewal(o.Key))
	}
	if err := v.Ask(t.Context(), o); err != nil || v.Renewal(o.Key) != Asked {
		t.Fatalf("asked beside it: %q, %v", v.Renewal(o.Key), err)
	}
	if v.Renewal(bytes.Repeat([]byte{1}, 64)) != None {
		t.Error("the note holds for another volume key")
	}
	for id, raw := range v.Header.Metadata().Tokens { // as the running one, which it is not
		if bytes.Contains(raw, []byte("cc-mac")) && bytes.Contains(raw, []byte("cc-renewal")) {
			put("8", bytes.Replace(raw, []byte(`"asked"`), []byte(`"running"`), 1))
			w := &Vault{Label: "cc-dynamic", Header: v.Header}
			if w.Renewal(o.Key) != None {
				t.Errorf("note %s holds for another volume", id)
			}
		}
	}
	if err := v.Settle(t.Context(), s, o); err != nil {
		t.Fatal(err)
	}
	if n := len(v.Header.Metadata().Tokens); n != 2 || v.Renewal(o.Key) != Asked {
		t.Errorf("%d tokens, renewal %q", n, v.Renewal(o.Key))
	}
}

func TestSomebodyElsesRecoverySlotStays(t *testing.T) {
	t.Parallel()
	run, dir := lab.Tools(t)
	d := &disk{data: fresh(t, run, dir), left: -1}
	v := load(t, run, dir, d)
	s := &memory{secrets: map[string][]byte{}}
	o, err := v.Bind(t.Context(), s, enrolled(t, v))
	if err != nil {
		t.Fatal(err)
	}
	theirs, ours := []byte("a recovery key that systemd-cryptenroll made"), []byte("a recovery key that the guest has made")
	err = v.change(t.Context(), func(x tool) error {
		if err := x.addKey(t.Context(), o.Passphrase, o.Slot, theirs, "5"); err != nil {
			return err
		}
		return x.putToken(t.Context(), "9", []byte(`{"type":"systemd-recovery","keyslots":["5"]}`))
	})
	if err != nil {
		t.Fatal(err)
	}
	const message = "one\n\ntwo\n"
	if err := v.SetRecovery(t.Context(), o, ours, message, "somebody"); err != nil {
		t.Fatal(err)
	}
	if m, who := v.Recovery(o.Key); m != message || who != "somebody" {
		t.Errorf("%q for %q", m, who)
	}
	if m, _ := v.Recovery(bytes.Repeat([]byte{1}, 64)); m != "" {
		t.Errorf("for another volume key: %q", m)
	}
	if err := v.SetRecovery(t.Context(), o, nil, "", ""); err != nil {
		t.Fatal(err)
	}
	slots, err := v.RecoverySlots()
	if err != nil || !slices.Equal(slots, []string{"5"}) {
		t.Fatalf("slots %v, %v", slots, err)
	}
	if r, err := v.ByPassphrase(theirs, slots); r == nil || err != nil {
		t.Errorf("theirs does not open it: %v", err)
	}
	// A message that a header has no room for is an error, and changes nothing.
	before := slices.Clone(d.data)
	err = v.SetRecovery(t.Context(), o, ours, strings.Repeat("x", 16<<10), "many")
	if err == nil || !bytes.Equal(before, d.data) {
		t.Errorf("a message that is too long: %v", err)
	}
}
