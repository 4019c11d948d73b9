package header_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"cc-base/tasks/filetest"
	"cc-base/tasks/seal/header"
)

// between returns the header of a volume for which cryptsetup has begun to
// change the key, with one token.
func (c tool) between(name string) []byte {
	c.t.Helper()
	c.format(name, 512, "sha256")
	c.addToken(name, "0", object{"type": "cc-base", "keyslots": []string{"0"}, "cc-volume": "cc-root"})
	c.do(append(strings.Fields(cheap), "reencrypt", "--init-only", "--force-offline-reencrypt", "--resilience=journal",
		"--key-slot=0", "--hash=sha256", "--key-file=first", name)...)
	return filetest.Read(c.t, c.file(name))[:header.Size]
}

// reached changes the header to how far a change has come: the segments of the
// data, each with the digests that cover it.
func reached(segments ...object) func(object) {
	return func(o object) {
		all, digests := object{}, at(o, "digests")
		flagged := map[string]object{}
		for _, s := range at(o, "segments") {
			if f, ok := s.(object)["flags"].([]any); ok {
				flagged[f[0].(string)] = s.(object)
			}
		}
		covers := map[string][]string{}
		for i, s := range segments {
			s, id := maps.Clone(s), fmt.Sprint(i)
			for _, d := range s["digests"].([]string) {
				covers[d] = append(covers[d], id)
			}
			delete(s, "digests")
			for name, value := range (object{"type": "crypt", "encryption": "aes-xts-plain64", "sector_size": 4096}) {
				if s[name] == nil {
					s[name] = value
				}
			}
			all[id] = s
		}
		for i, flag := range []string{"backup-previous", "backup-final"} {
			id := fmt.Sprint(len(segments) + i)
			all[id] = flagged[flag]
			covers[fmt.Sprint(i)] = append(covers[fmt.Sprint(i)], id)
		}
		o["segments"] = all
		for d, ids := range covers {
			digests[d].(object)["segments"] = ids
		}
	}
}

func part(offset int64, size string, digests ...string) object {
	return object{"offset": fmt.Sprint(header.Size + offset), "size": size, "iv_tweak": fmt.Sprint(offset / 512), "digests": digests}
}

func hot(o object) object { o["flags"] = []string{"in-reencryption"}; return o }

func TestAChangeOfTheKeyIsReadAsCryptsetupWritesIt(t *testing.T) {
	t.Parallel()
	c := newTool(t)
	area := c.between("volume")
	for name, tt := range map[string]struct {
		change    func(object)
		hot, done bool
	}{
		"begun":            {func(object) {}, false, false},
		"the first part":   {reached(hot(part(0, "1048576", "0", "1")), part(1<<20, "dynamic", "0")), true, false},
		"a part is done":   {reached(part(0, "1048576", "1"), part(1<<20, "dynamic", "0")), false, false},
		"one in between":   {reached(part(0, "1048576", "1"), hot(part(1<<20, "1048576", "0", "1")), part(2<<20, "dynamic", "0")), true, false},
		"the last part":    {reached(part(0, "1048576", "1"), hot(part(1<<20, "3145728", "0", "1"))), true, false},
		"all in one":       {reached(hot(part(0, "4194304", "0", "1"))), true, false},
		"everything":       {reached(part(0, "dynamic", "1")), false, true},
		"without old ones": {func(o object) { reached(part(0, "dynamic", "1"))(o); killOld(o) }, false, true},
	} {
		h := parse(t, edit(area, tt.change))
		if !h.Renewing() || h.Check(rules()) == nil {
			t.Errorf("%s: renewing %v, or the ordinary rules accept it", name, h.Renewing())
		}
		n, err := h.CheckRenewal(rules())
		if err != nil || n.Hot != tt.hot || n.Done != tt.done || !slices.Equal(n.New, []string{"1"}) {
			t.Errorf("%s: %+v, %v", name, n, err)
		}
		if _, err := h.VolumeKey("1", first); err != nil {
			t.Errorf("%s: the new slot: %v", name, err)
		}
		if _, err := h.VolumeKey("1", second); err == nil {
			t.Errorf("%s: another passphrase opens the new slot", name)
		}
		after, err := h.Renewed(n)
		if (err == nil) != tt.done {
			t.Errorf("%s: the end of it: %v", name, err)
		}
		if err == nil {
			c.ended(name, h, after)
		}
	}
	if h := c.read(c.format("plain", 512, "sha256")); h.Renewing() {
		t.Error("a volume with one key is called renewing")
	} else if _, err := h.CheckRenewal(rules()); !strings.Contains(codes(err), "CC0908") {
		t.Errorf("a volume with one key: %v", err)
	}
}

// killOld takes the old key's slot away, as cryptsetup does near the end.
func killOld(o object) {
	delete(at(o, "keyslots"), "0")
	at(o, "digests.0")["keyslots"] = []string{}
	at(o, "tokens.0")["keyslots"] = []string{"1"}
}

// ended looks at what follows a change that has come to its end.
func (c tool) ended(name string, before, after *header.Copy) {
	c.t.Helper()
	if err := after.Check(rules()); err != nil {
		c.t.Errorf("%s: %v", name, err)
	}
	m := after.Metadata()
	if len(m.Keyslots) != 1 || len(m.Digests) != 1 || after.SeqID() != before.SeqID()+1 || after.UUID() != before.UUID() || after.Damage() != nil {
		c.t.Errorf("%s: %d keyslots, %d digests, number %d after %d", name, len(m.Keyslots), len(m.Digests), after.SeqID(), before.SeqID())
	}
	if string(m.Tokens["0"]) != `{"cc-volume":"cc-root","keyslots":["1"],"type":"cc-base"}` {
		c.t.Errorf("%s: token %s", name, m.Tokens["0"])
	}
	a, err1 := before.VolumeKey("1", first)
	b, err2 := after.VolumeKey("1", first)
	if err1 != nil || err2 != nil || !bytes.Equal(a, b) {
		c.t.Errorf("%s: %v, %v", name, err1, err2)
	}
	// Behind the slot that is left there are zeros.
	used := 0
	for at, bytes := 2*copySize, after.Bytes(); at < len(bytes); at += 4096 {
		if strings.Trim(string(bytes[at:at+4096]), "\x00") != "" {
			used++
		}
	}
	if used != 258048/4096 {
		c.t.Errorf("%s: %d blocks of the keyslot area are used", name, used)
	}
	c.place("ended", after.Bytes())
	if key := c.volumeKey("ended", "first"); !bytes.Equal(key, b) {
		c.t.Errorf("%s: cryptsetup has another key", name)
	}
	c.do(append(strings.Fields(cheap), "luksAddKey", "--key-file=first", "--new-keyfile=second", "ended")...)
}

func TestAChangeOfTheKeyThatTheGuestWouldNotMakeIsFound(t *testing.T) {
	t.Parallel()
	c := newTool(t)
	area := c.between("volume")
	done := reached(part(0, "1048576", "1"), part(1<<20, "dynamic", "0"))
	with := func(change func(object)) func(object) { return func(o object) { done(o); change(o) } }
	journal := ""
	for id, k := range c.read("volume").Metadata().Keyslots {
		if k.Type == "reencrypt" {
			journal = id
		}
	}
	for name, tt := range map[string]struct {
		codes  string
		change func(object)
	}{
		"decryption":                  {"CC0903", set("keyslots."+journal+".mode", "decrypt")},
		"encryption":                  {"CC0903", set("keyslots."+journal+".mode", "encrypt")},
		"backward":                    {"CC0903", set("keyslots."+journal+".direction", "backward")},
		"no journal":                  {"CC0903", set("keyslots."+journal+".area.type", "none")},
		"an area in the data":         {"CC0906", set("keyslots."+journal+".area.offset", "16777216")},
		"an area over another":        {"CC0906", set("keyslots."+journal+".area.offset", "32768")},
		"no slot for the journal":     {"CC0905 CC0907", func(o object) { delete(at(o, "keyslots"), journal) }},
		"the old way of cryptsetup":   {"CC0908", set("config.requirements", object{"mandatory": []string{"online-reencrypt"}})},
		"another requirement as well": {"CC0908", set("config.requirements", object{"mandatory": []string{"online-reencrypt-v2", "opal"}})},
		"a null cipher in the data":   {"CC0902", with(func(o object) { at(o, "segments.1")["encryption"] = "cipher_null-ecb" })},
		"plaintext in the data":       {"CC0902 CC0905", with(func(o object) { at(o, "segments.0")["type"] = "linear"; delete(at(o, "segments.0"), "encryption") })},
		"a null cipher to come":       {"CC0902", with(func(o object) { at(o, "segments.3")["encryption"] = "cipher_null-ecb" })},
		"a null cipher of a slot":     {"CC0903", set("keyslots.1.area.encryption", "cipher_null-ecb")},
		"a gap":                       {"CC0905", reached(part(0, "1048576", "1"), part(2<<20, "dynamic", "0"))},
		"a size that is no sector's":  {"CC0905", reached(part(0, "1048577", "1"), part(1048577, "dynamic", "0"))},
		"an end":                      {"CC0905", reached(part(0, "1048576", "1"), part(1<<20, "1048576", "0"))},
		"the new part behind":         {"CC0905", reached(part(0, "1048576", "0"), part(1<<20, "dynamic", "1"))},
		"a part of no key":            {"CC0905", reached(part(0, "1048576"), part(1<<20, "dynamic", "0"))},
		"a part of both keys":         {"CC0905", reached(part(0, "1048576", "0", "1"), part(1<<20, "dynamic", "0"))},
		"two at once":                 {"CC0905", reached(hot(part(0, "1048576", "0", "1")), hot(part(1<<20, "1048576", "0", "1")), part(2<<20, "dynamic", "0"))},
		"no data":                     {"CC0905", reached()},
		"another flag":                {"CC0905", with(func(o object) { at(o, "segments.0")["flags"] = []string{"backup-moved-segment"} })},
		"a second backup":             {"CC0905", with(func(o object) { at(o, "segments.0")["flags"] = []string{"backup-previous"} })},
		"a slot of no key":            {"CC0907", func(o object) { at(o, "digests.0")["keyslots"] = []string{} }},
		"a slot of both keys":         {"CC0907", func(o object) { at(o, "digests.0")["keyslots"] = []string{"0", "1"} }},
		"no new slot":                 {"CC0907 CC0909", func(o object) { at(o, "digests.1")["keyslots"] = []string{} }},
		"a digest of nothing there":   {"CC0907", func(o object) { at(o, "digests.0")["segments"] = []string{"0", "1", "9"} }},
		"a third key":                 {"CC0905", func(o object) { at(o, "digests")["3"] = maps.Clone(at(o, "digests.2")) }},
		"a dear digest":               {"CC0904", set("digests.1.iterations", 2000000000)},
		"the old slot gone too early": {"CC0909", killOld},
		"a token without a slot":      {"CC0909", func(o object) { at(o, "tokens.0")["keyslots"] = []string{"7"} }},
	} {
		h := parse(t, edit(area, tt.change))
		n, err := h.CheckRenewal(rules())
		found := codes(err)
		for _, code := range strings.Fields(tt.codes) {
			if !strings.Contains(found, code) {
				t.Errorf("%s: found %q, want %s: %v", name, found, tt.codes, err)
			}
		}
		if _, err := h.Renewed(n); err == nil && !n.Done {
			t.Errorf("%s: it is ended", name)
		}
	}
}

func TestBetweenTwoKeysTheEarlierCopyCounts(t *testing.T) {
	t.Parallel()
	c := newTool(t)
	before := c.between("volume")
	h := parse(t, before)
	raw := must(json.Marshal(object{"type": "cc-base", "keyslots": []string{}, "cc-renewal": "running"}))
	after := must(h.WithToken("5", raw))
	if after.SeqID() != h.SeqID()+1 || string(after.Metadata().Tokens["5"]) != string(raw) || len(h.Metadata().Tokens) != 1 {
		t.Errorf("number %d, tokens %s", after.SeqID(), after.Metadata().Tokens)
	}
	for place := range 2 {
		area := bytes.Clone(before)
		copy(area[place*copySize:(place+1)*copySize], after.Bytes()[place*copySize:])
		if got := parse(t, area); got.SeqID() != after.SeqID() {
			t.Errorf("copy %d is newer: number %d counts", place, got.SeqID())
		}
		early := must(parse(t, area).Earlier())
		if early.SeqID() != h.SeqID() || early.Damage() == nil || parse(t, early.Bytes()).Damage() != nil || len(parse(t, early.Bytes()).Metadata().Tokens) != 1 {
			t.Errorf("copy %d is newer: number %d is the earlier one, damage %v", place, early.SeqID(), early.Damage())
		}
		r := newRecorder()
		if err := header.Store(r, early, early); err != nil || len(r.steps) == 0 {
			t.Errorf("copy %d is newer: %v", place, err)
		}
		area[(1-place)*copySize+300] ^= 1 // the earlier one is torn: the other counts
		if got := must(parse(t, area).Earlier()); got.SeqID() != after.SeqID() {
			t.Errorf("the earlier one is torn: number %d counts", got.SeqID())
		}
	}
	if got := must(h.Earlier()); got.Damage() != nil || got.SeqID() != h.SeqID() {
		t.Error("of two equal copies one is the earlier")
	}
	big := must(json.Marshal(object{"type": "cc-base", "keyslots": []string{}, "text": strings.Repeat("x", 12<<10)}))
	if _, err := h.WithToken("5", big); err == nil {
		t.Error("a token that does not fit is taken")
	}
}

func TestTheCodeOfATokenIsOverTheTokenAndTheVolume(t *testing.T) {
	t.Parallel()
	h := parse(t, sample().bytes())
	key := bytes.Repeat([]byte{7}, 32)
	raw := json.RawMessage(`{"type":"cc-base","keyslots":[],"n":1}`)
	want := must(h.TokenMAC(key, "cc-root", raw))
	same := json.RawMessage(`{ "n": 1, "cc-mac": "AAAA", "keyslots": [], "type": "cc-base" }`)
	if got := must(h.TokenMAC(key, "cc-root", same)); !bytes.Equal(got, want) {
		t.Error("spelled otherwise it has another code")
	}
	for name, got := range map[string][]byte{
		"another volume": must(h.TokenMAC(key, "cc-app", raw)),
		"another token":  must(h.TokenMAC(key, "cc-root", json.RawMessage(`{"type":"cc-base","keyslots":[],"n":2}`))),
		"another state":  must(h.TokenMAC(key, "cc-root", json.RawMessage(`{"type":"cc-base","keyslots":[],"n":1,"cc-state":"active"}`))),
		"another key":    must(h.TokenMAC(bytes.Repeat([]byte{8}, 32), "cc-root", raw)),
	} {
		if bytes.Equal(got, want) {
			t.Errorf("%s has the same code", name)
		}
	}
	if _, err := h.TokenMAC(key[:31], "cc-root", raw); err == nil {
		t.Error("a short key is taken")
	}
	if _, err := h.TokenMAC(key, "cc-root", json.RawMessage(`[]`)); codes(err) != "CC0910" {
		t.Errorf("no token: %v", err)
	}
}
