package header_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"strings"
	"testing"

	"cc-base/tasks/fault"
	"cc-base/tasks/filetest"
	"cc-base/tasks/seal/header"
)

func TestWhatCCBaseWritesPassesAndOpens(t *testing.T) {
	t.Parallel()
	argon := func() object { return object{"type": "argon2id", "time": 4, "memory": 1024, "cpus": 2} }
	withIntegrity := func(f *fixture, typ string) *fixture {
		at(f.json, "segments.0")["integrity"] = object{"type": typ, "journal_encryption": "none", "journal_integrity": "none"}
		return f
	}
	change := func(do func(*header.Rules)) header.Rules { r := rules(); do(&r); return r }
	for name, tt := range map[string]struct {
		f *fixture
		r header.Rules
	}{
		"two slots with tokens": {sample(), rules()},
		"sha512":                {newFixture(64, "sha512").slot("0", 0, first, nil), change(func(r *header.Rules) { r.Hash = "sha512" })},
		"256 bits":              {newFixture(32, "sha256").slot("0", 0, first, nil), change(func(r *header.Rules) { r.KeyBits = 256 })},
		"any size and hash":     {newFixture(32, "sha512").slot("0", 0, first, nil), change(func(r *header.Rules) { r.KeyBits, r.Hash, r.DeviceSize = 0, "", 0 })},
		"argon2id":              {newFixture(64, "sha256").slot("7", 0, first, argon()), rules()},
		"integrity":             {withIntegrity(newFixture(96, "sha256").slot("0", 0, first, nil), "hmac(sha256)"), change(func(r *header.Rules) { r.Integrity = "hmac(sha256)" })},
		"integrity, 256 bits":   {withIntegrity(newFixture(64, "sha256").slot("0", 0, first, nil), "hmac(sha256)"), change(func(r *header.Rules) { r.KeyBits, r.Integrity = 256, "hmac(sha256)" })},
		"integrity, long":       {withIntegrity(newFixture(128, "sha512").slot("0", 0, first, nil), "hmac(sha512)"), change(func(r *header.Rules) { r.Hash, r.Integrity = "sha512", "hmac(sha512)" })},
		"a token without slots": {newFixture(64, "sha256").slot("0", 0, first, nil).token("31", "systemd-tpm2"), rules()},
	} {
		c := parse(t, tt.f.bytes())
		if err := c.Check(tt.r); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for id := range c.Metadata().Keyslots {
			if id == "1" {
				continue
			}
			key, err := c.VolumeKey(id, first)
			if err != nil || !bytes.Equal(key, tt.f.key) {
				t.Errorf("%s: slot %s gives %x, not %x; %v", name, id, key, tt.f.key, err)
			}
		}
	}
}

// mutation changes a whole header; codes are all that Check must find, or
// Parse.
type mutation struct {
	name  string
	codes string
	do    func(area []byte) []byte
}

// inJSON are mutations of the metadata. They need a header whose keyslot 0 is
// that of a volume with 512 bits and sha256.
func inJSON() []mutation {
	var out []mutation
	add := func(name, codes string, change func(object)) {
		out = append(out, mutation{name, codes, func(area []byte) []byte { return edit(area, change) }})
	}
	for _, cipher := range []string{
		"cipher_null-ecb", "cipher_null", "null", "", "aes", "aes-ecb", "aes-cbc-essiv:sha256", "aes-xts-plain", "capi:xts(ecb(cipher_null))-plain64",
		"capi:xts(aes)-plain64", "aes-xts-plain64 ", "AES-XTS-PLAIN64", "serpent-xts-plain64", "aes-xts-random", "paes-xts-plain64",
	} {
		add("data with cipher "+cipher, "CC0902", set("segments.0.encryption", cipher))
		add("keyslot with cipher "+cipher, "CC0903", set("keyslots.0.area.encryption", cipher))
	}
	for name, value := range map[string]any{"linear": "linear", "of no type": nil, "of a number": 1} {
		add("a segment "+name, "CC0905", set("segments.0.type", value))
	}
	add("a segment at 0", "CC0905", set("segments.0.offset", "0"))
	add("a segment over the keyslots", "CC0905", set("segments.0.offset", "16773120"))
	add("a segment that begins later", "CC0905", set("segments.0.offset", "33554432"))
	add("an offset with a zero in front", "CC0905", set("segments.0.offset", "016777216"))
	add("an offset as a number", "CC0905", set("segments.0.offset", 16777216))
	add("a segment of a fixed size", "CC0905", set("segments.0.size", "1048576"))
	add("a segment of no size", "CC0905", set("segments.0.size", nil))
	add("another tweak", "CC0905", set("segments.0.iv_tweak", "8"))
	add("sectors of 512", "CC0905", set("segments.0.sector_size", 512))
	add("sectors of 0", "CC0905", set("segments.0.sector_size", 0))
	add("sectors as text", "CC0905", set("segments.0.sector_size", "4096"))
	add("integrity", "CC0905", set("segments.0.integrity", object{"type": "hmac(sha256)", "journal_encryption": "none", "journal_integrity": "none"}))
	add("integrity of no type", "CC0905", set("segments.0.integrity", object{}))
	add("a segment with flags", "CC0905", set("segments.0.flags", []string{"backup-final"}))
	add("a segment with more", "CC0905", set("segments.0.opal_key_size", 32))
	add("no segment", "CC0905 CC0907", set("segments.0", nil))
	add("a segment of another number", "CC0905 CC0907", func(o object) {
		s := at(o, "segments")
		s["1"] = s["0"]
		delete(s, "0")
	})
	add("a second segment", "CC0905 CC0907", func(o object) { s := at(o, "segments"); s["1"] = s["0"] })
	add("a second, plain segment", "CC0902 CC0905 CC0907", set("segments.1", object{"type": "linear", "offset": "0", "size": "512"}))

	add("a reencryption slot", "CC0903", set("keyslots.0.type", "reencrypt"))
	add("a slot of no type", "CC0903", set("keyslots.0.type", nil))
	add("a slot that is text", "CC0903 CC0904 CC0906", set("keyslots.0", "x"))
	add("a volume key of 256 bits", "CC0903", set("keyslots.0.key_size", 32))
	add("a volume key of 0 bytes", "CC0903 CC0906", set("keyslots.0.key_size", 0))
	add("a volume key of -1 bytes", "CC0903 CC0906", set("keyslots.0.key_size", -1))
	add("a volume key of 2^62 bytes", "CC0903 CC0906", set("keyslots.0.key_size", 1<<62))
	add("a slot with priority", "CC0903", set("keyslots.0.priority", 2))
	add("a slot to be ignored", "CC0903", set("keyslots.0.priority", 0))
	add("a slot with more", "CC0903", set("keyslots.0.mode", "encrypt"))
	add("a split of no type", "CC0903", set("keyslots.0.af.type", nil))
	add("no split", "CC0903", set("keyslots.0.af", nil))
	add("one stripe", "CC0903", set("keyslots.0.af.stripes", 1))
	add("a split with md5", "CC0903", set("keyslots.0.af.hash", "md5"))
	add("an area of another type", "CC0903", set("keyslots.0.area.type", "journal"))
	add("an area with more", "CC0903", set("keyslots.0.area.shift_size", "4096"))
	add("no area", "CC0903 CC0906", set("keyslots.0.area", nil))
	add("an area's key of 128 bits", "CC0903", set("keyslots.0.area.key_size", 16))
	add("an area's key of 2^40 bytes", "CC0903", set("keyslots.0.area.key_size", 1<<40))

	add("pbkdf2 with sha1", "CC0904", set("keyslots.0.kdf.hash", "sha1"))
	add("pbkdf2 with 999 iterations", "CC0904", set("keyslots.0.kdf.iterations", 999))
	add("pbkdf2 with -1 iterations", "CC0904", set("keyslots.0.kdf.iterations", -1))
	add("pbkdf2 with too many iterations", "CC0904", set("keyslots.0.kdf.iterations", 10_000_001))
	add("pbkdf2 with 2^63-1 iterations", "CC0904", set("keyslots.0.kdf.iterations", uint64(1<<63-1)))
	add("argon2i", "CC0904", set("keyslots.0.kdf.type", "argon2i"))
	add("no key derivation", "CC0904", set("keyslots.0.kdf", nil))
	add("a salt of 3 bytes", "CC0904", set("keyslots.0.kdf.salt", "AAAA"))
	add("a salt of 1000 bytes", "CC0904", set("keyslots.0.kdf.salt", make([]byte, 1000)))
	add("a salt that is not base64", "CC0904", set("keyslots.0.kdf.salt", "*"))
	add("a key derivation with more", "CC0904", set("keyslots.0.kdf.pepper", "x"))
	argon := func(name string, time, memory, cpus any) {
		add("argon2id with "+name, "CC0904", func(o object) {
			at(o, "keyslots.0")["kdf"] = object{"type": "argon2id", "time": time, "memory": memory, "cpus": cpus, "salt": make([]byte, 32)}
		})
	}
	argon("0 passes", 0, 32768, 1)
	argon("no memory", 4, 0, 1)
	argon("too much memory", 4, 1<<20+1, 1)
	argon("2^40 KiB", 4, 1<<40, 1)
	argon("too much work", 17, 1<<20, 1)
	argon("2^32+4 passes", 1<<32+4, 32, 1)
	argon("no lanes", 4, 32768, 0)
	argon("256 lanes", 4, 32768, 256)
	argon("a negative time", -4, 32768, 1)

	add("an area at 0", "CC0906", set("keyslots.0.area.offset", "0"))
	add("an area over the second metadata", "CC0906", set("keyslots.0.area.offset", "16384"))
	add("an area over the data", "CC0906", set("keyslots.0.area.offset", "16777216"))
	add("an area that reaches the data", "CC0906", set("keyslots.0.area.offset", "16744448"))
	add("an area that was not read", "CC0906", set("keyslots.0.area.offset", "8388608"))
	add("an area beyond everything", "CC0906", set("keyslots.0.area.offset", "9223372036854771712"))
	add("an area at 2^64", "CC0906", set("keyslots.0.area.offset", "18446744073709551616"))
	add("an area at -4096", "CC0906", set("keyslots.0.area.offset", "-4096"))
	add("an area at no number", "CC0906", set("keyslots.0.area.offset", "0x8000"))
	add("an area that is not aligned", "CC0906", set("keyslots.0.area.offset", "32769"))
	add("an area that is too small", "CC0906", set("keyslots.0.area.size", "253952"))
	add("an area of no size", "CC0906", set("keyslots.0.area.size", "0"))
	add("an area of 2^63-4096 bytes", "CC0906", set("keyslots.0.area.size", "9223372036854771712"))
	add("an offset that is a number", "CC0903 CC0906", set("keyslots.0.area.offset", 32768))
	add("an area that was read half", "CC0906", set("keyslots.0.area.offset", "2064384"))
	add("two slots in one area", "CC0906 CC0907", func(o object) {
		k := at(o, "keyslots")
		k["9"] = k["0"]
	})
	add("another json_size", "CC0906", set("config.json_size", "12287"))
	add("another keyslots_size", "CC0906", set("config.keyslots_size", "16740352"))
	add("a huge keyslots_size", "CC0906", set("config.keyslots_size", "9223372036854771712"))
	add("no keyslots_size", "CC0906", set("config.keyslots_size", nil))

	add("no digest", "CC0907", set("digests.0", nil))
	add("a second digest", "CC0907", func(o object) {
		o["digests"].(object)["1"] = object{"type": "pbkdf2", "keyslots": []string{}, "segments": []string{}, "hash": "sha256", "iterations": 1000,
			"salt": make([]byte, 32), "digest": make([]byte, 32)}
	})
	add("a digest of no slot", "CC0907", set("digests.0.keyslots", []string{}))
	add("a digest of a slot that is not there", "CC0907", func(o object) {
		d := at(o, "digests.0")
		d["keyslots"] = append(d["keyslots"].([]any), "30")
	})
	add("a digest that names a slot twice", "CC0907", func(o object) {
		d := at(o, "digests.0")
		d["keyslots"] = append(d["keyslots"].([]any), "0")
	})
	add("a digest of no segment", "CC0907", set("digests.0.segments", []string{}))
	add("a digest of 3 bytes", "CC0907", set("digests.0.digest", "AAAA"))
	add("a digest with more", "CC0907", set("digests.0.x", "y"))
	add("a digest of another type", "CC0904", set("digests.0.type", "none"))
	add("a digest with sha1", "CC0904", set("digests.0.hash", "sha1"))
	add("a digest with another hash", "CC0904 CC0907", set("digests.0.hash", "sha512"))
	add("a digest with 999 iterations", "CC0904", set("digests.0.iterations", 999))
	add("a digest with 2^62 iterations", "CC0904", set("digests.0.iterations", 1<<62))
	add("a digest without a salt", "CC0904", set("digests.0.salt", ""))

	add("a pending re-encryption", "CC0908", set("config.requirements", object{"mandatory": []string{"online-reencrypt-v2"}}))
	add("an unknown requirement", "CC0908", set("config.requirements", object{"optional": []string{}}))
	add("requirements that are a list", "CC0908", set("config.requirements", []string{}))
	add("flags", "CC0908", set("config.flags", []string{"allow-discards"}))
	add("a config with more", "CC0908", set("config.x", 1))

	add("no keyslot", "CC0907 CC0909", set("keyslots", object{}))
	add("a slot 32", "CC0906 CC0907 CC0909", func(o object) { k := at(o, "keyslots"); k["32"] = k["0"] })
	add("a slot 00", "CC0906 CC0907 CC0909", func(o object) { k := at(o, "keyslots"); k["00"] = k["0"] })
	add("a token of a slot that is not there", "CC0909", set("tokens.9", object{"type": "cc-base", "keyslots": []string{"30"}}))
	add("a slot of two tokens", "CC0909", func(o object) {
		o["tokens"].(object)["9"] = object{"type": "cc-base", "keyslots": []string{"0"}}
		o["tokens"].(object)["10"] = object{"type": "cc-base", "keyslots": []string{"0"}}
	})
	add("a token that names a slot twice", "CC0909", func(o object) {
		o["tokens"] = object{"0": object{"type": "cc-base", "keyslots": []string{"0", "0"}}}
	})

	add("a token 32", "CC0910", set("tokens.32", object{"type": "cc-base", "keyslots": []string{}}))
	add("a token x", "CC0910", set("tokens.x", object{"type": "cc-base", "keyslots": []string{}}))
	add("a token that is text", "CC0910", set("tokens.9", "x"))
	add("a token of no type", "CC0910", set("tokens.9", object{"keyslots": []string{}}))
	add("a token of systemd-empty", "CC0910", set("tokens.9", object{"type": "systemd-empty", "keyslots": []string{}}))
	add("a token of luks2-keyring", "CC0910", set("tokens.9", object{"type": "luks2-keyring", "keyslots": []string{}, "key_description": "x"}))
	add("a token without keyslots", "CC0910", set("tokens.9", object{"type": "cc-base"}))
	add("a token with a number for a slot", "CC0910", set("tokens.9", object{"type": "cc-base", "keyslots": []int{0}}))
	return out
}

// inText are mutations that make the metadata unreadable, however right their
// checksum is.
func inText() []mutation {
	var out []mutation
	add := func(name string, change func(string) string) {
		out = append(out, mutation{name, "CC0901", func(area []byte) []byte { return text(area, change) }})
	}
	replace := func(name, old, now string) {
		add(name, func(s string) string {
			if !strings.Contains(s, old) {
				panic(name)
			}
			return strings.Replace(s, old, now, 1)
		})
	}
	replace("a name twice", `"iv_tweak":"0"`, `"iv_tweak":"0","encryption":"cipher_null-ecb"`)
	replace("a name twice, once escaped", `"iv_tweak":"0"`, `"iv_tweak":"0","encr\u0079ption":"cipher_null-ecb"`)
	replace("a name twice in two cases", `"iv_tweak":"0"`, `"iv_tweak":"0","Encryption":"cipher_null-ecb"`)
	replace("a long s", `"iv_tweak":"0"`, `"iv_tweak":"0","ſector_size":512`)
	replace("a NUL in a name", `"iv_tweak"`, `"iv_tweak\u0000"`)
	replace("a NUL in a text", `"dynamic"`, `"dynamic\u0000"`)
	replace("a tab in a text", `"dynamic"`, `"dynamic\t"`)
	replace("half a surrogate pair", `"dynamic"`, `"\ud800"`)
	replace("a byte that is no UTF-8", `"dynamic"`, "\"dynamic\xff\"")
	replace("null", `"dynamic"`, `null`)
	replace("a fraction", `"sector_size":4096`, `"sector_size":4096.0`)
	replace("an exponent", `"sector_size":4096`, `"sector_size":4096e0`)
	replace("2^64", `"sector_size":4096`, `"sector_size":18446744073709551616`)
	replace("minus zero", `"sector_size":4096`, `"sector_size":-0`)
	replace("a comment", `"sector_size":4096`, `"sector_size":4096/**/`)
	replace("deep nesting", `"dynamic"`, strings.Repeat("[", 100)+strings.Repeat("]", 100))
	replace("a member that is missing", `"tokens"`, `"tokenz"`)
	replace("a member of another type", `"tokens":{`, `"tokens":"","x":{`)
	add("a member too many", func(s string) string { return `{"more":1,` + s[1:] })
	add("half of it", func(s string) string { return s[:len(s)/2] })
	add("nothing", func(string) string { return "" })
	add("a list", func(s string) string { return "[" + s + "]" })
	add("a blank in front", func(s string) string { return " " + s })
	add("a blank behind", func(s string) string { return s + " " })
	add("a second object", func(s string) string { return s + "{}" })
	add("a second object behind a NUL", func(s string) string { return s + "\x00{}" })
	add("no end", func(s string) string { return s[:1] + strings.Repeat(" ", copySize-4096-len(s)) + s[1:] })
	return out
}

// inBinary are mutations of the binary header with right checksums.
func inBinary() []mutation {
	var out []mutation
	add := func(name string, change func(b []byte)) {
		out = append(out, mutation{name, "CC0901", func(area []byte) []byte { return both(area, change) }})
	}
	put := func(at int, value uint64) func([]byte) {
		return func(b []byte) { binary.BigEndian.PutUint64(b[at:], value) }
	}
	add("no magic", func(b []byte) { b[0] = 'X' })
	add("LUKS1", func(b []byte) { b[7] = 1 })
	add("version 3", func(b []byte) { b[7] = 3 })
	add("a size of 0", put(8, 0))
	add("a size of 8192", put(8, 8192))
	add("a size that is no power of two", put(8, 24<<10))
	add("a size of 8 MiB", put(8, 8<<20))
	add("a size of 2^63", put(8, 1<<63))
	add("a size of another place", put(8, 32<<10))
	add("an offset of another place", put(256, 4096))
	add("a label without an end", func(b []byte) { copy(b[24:], bytes.Repeat([]byte("x"), 48)) })
	add("a label with a line break", func(b []byte) { b[24] = '\n' })
	add("a label with more behind its end", func(b []byte) { copy(b[24:], "a\x00b") })
	add("a subsystem without an end", func(b []byte) { copy(b[208:], bytes.Repeat([]byte("x"), 48)) })
	add("checksum sha512", func(b []byte) { copy(b[72:], "sha512") })
	add("checksum without a name", func(b []byte) { clear(b[72:104]) })
	add("a UUID without an end", func(b []byte) { copy(b[168:], bytes.Repeat([]byte("0"), 40)) })
	add("no UUID", func(b []byte) { clear(b[168:208]) })
	add("a UUID with a path", func(b []byte) { copy(b[168:], "../../../../../../../../etc/passwd/xx") })
	add("padding", func(b []byte) { b[300] = 1 })
	add("more padding", func(b []byte) { b[4095] = 1 })
	raw := func(name string, change func(area []byte) []byte) {
		out = append(out, mutation{name, "CC0901", func(area []byte) []byte { return change(bytes.Clone(area)) }})
	}
	raw("two wrong checksums", func(b []byte) []byte { b[448] ^= 1; b[copySize+448] ^= 1; return b })
	raw("more checksum than there is", func(b []byte) []byte { b[511] = 1; b[copySize+511] = 1; return b })
	raw("two flipped bits", func(b []byte) []byte { b[5000] ^= 1; b[copySize+copySize-1] ^= 1; return b })
	raw("zeros", func(b []byte) []byte { clear(b); return b })
	raw("nothing", func(b []byte) []byte { return nil })
	raw("4095 bytes", func(b []byte) []byte { return b[:4095] })
	raw("half a copy", func(b []byte) []byte { return b[:copySize-1] })
	raw("one copy without room for the other", func(b []byte) []byte { return b[:copySize] })
	raw("one copy and half of the other", func(b []byte) []byte { return b[:2*copySize-1] })
	raw("two copies with the same number", func(b []byte) []byte {
		copy(b[:copySize], edit(b, set("config.flags", []string{}))[:copySize])
		return b
	})
	raw("copies of two volumes", func(b []byte) []byte {
		copy(b[168:], "00000000")
		binary.BigEndian.PutUint64(b[16:], 99)
		fix(b[:copySize])
		return b
	})
	return out
}

// judge parses and checks.
func judge(area []byte, r header.Rules) error {
	c, err := header.Parse(area)
	if err != nil {
		return err
	}
	return c.Check(r)
}

func try(t *testing.T, area []byte, r header.Rules, list []mutation) {
	t.Helper()
	if err := judge(area, r); err != nil {
		t.Fatal(err)
	}
	for _, m := range list {
		changed := m.do(area)
		err := judge(changed, r)
		if got := codes(err); got != m.codes {
			t.Errorf("%s: found %q, want %s: %v", m.name, got, m.codes, err)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\x00\x1b\t") {
			t.Errorf("%s: its error has control characters: %q", m.name, err)
		}
	}
}

func TestEveryMutationIsFoundWithItsCode(t *testing.T) {
	t.Parallel()
	list := append(append(inJSON(), inText()...), inBinary()...)
	if len(list) < 150 {
		t.Errorf("only %d mutations", len(list))
	}
	try(t, sample().bytes(), rules(), list)
}

func TestRulesThatTheHeaderDoesNotMeet(t *testing.T) {
	t.Parallel()
	c := parse(t, sample().bytes())
	for name, tt := range map[string]struct {
		codes  string
		change func(*header.Rules)
	}{
		"no rules":              {"CC0902 CC0905 CC0906", func(r *header.Rules) { *r = header.Rules{} }},
		"a cipher that is none": {"CC0902", func(r *header.Rules) { r.Cipher = "cipher_null-ecb" }},
		"256 bits":              {"CC0903", func(r *header.Rules) { r.KeyBits = 256 }},
		"7 bits":                {"CC0903", func(r *header.Rules) { r.KeyBits = 7 }},
		"another hash":          {"CC0904", func(r *header.Rules) { r.Hash = "sha512" }},
		"other sectors":         {"CC0905", func(r *header.Rules) { r.SectorSize = 512 }},
		"another header size":   {"CC0905 CC0906", func(r *header.Rules) { r.HeaderSize = 32 << 20; r.DeviceSize = 0 }},
		"integrity":             {"CC0903 CC0905", func(r *header.Rules) { r.Integrity = "hmac(sha256)" }},
		"unknown integrity":     {"CC0903 CC0905", func(r *header.Rules) { r.Integrity = "crc32" }},
		"a device too small":    {"CC0905", func(r *header.Rules) { r.DeviceSize = header.Size }},
		"half a sector":         {"CC0905", func(r *header.Rules) { r.DeviceSize = header.Size + 4096 + 512 }},
	} {
		r := rules()
		tt.change(&r)
		if got := codes(c.Check(r)); got != tt.codes {
			t.Errorf("%s: found %q, want %s", name, got, tt.codes)
		}
	}
}

// A null cipher hidden where integrity is asked for: the segment's own object
// must not switch the rule off.
func TestIntegrityThatTheHeaderLeavesOut(t *testing.T) {
	t.Parallel()
	f := newFixture(96, "sha256").slot("0", 0, first, nil)
	r := rules()
	r.Integrity = "hmac(sha256)"
	if got := codes(judge(f.bytes(), r)); got != "CC0905" {
		t.Errorf("found %q", got)
	}
	at(f.json, "segments.0")["integrity"] = object{"type": "hmac(sha256)", "journal_encryption": "none", "journal_integrity": "hmac(sha256)"}
	if got := codes(judge(f.bytes(), r)); got != "CC0905" {
		t.Errorf("found %q", got)
	}
}

func TestAllFindingsAreReported(t *testing.T) {
	t.Parallel()
	area := edit(sample().bytes(), func(o object) {
		set("segments.0.encryption", "cipher_null-ecb")(o)
		set("keyslots.0.area.encryption", "cipher_null-ecb")(o)
		set("keyslots.1.kdf.iterations", 1)(o)
		set("config.flags", []string{"no-journal"})(o)
		set("tokens.0.type", "x")(o)
	})
	err := judge(area, rules())
	if got := codes(err); got != "CC0902 CC0903 CC0904 CC0908 CC0910" {
		t.Errorf("found %q", got)
	}
	if f := fault.Of(err); f == nil || f.Code != fault.HeaderCipher {
		t.Errorf("the first is %v, want the cipher of the data", f)
	}
}

func TestUnboundSlotsAreListed(t *testing.T) {
	t.Parallel()
	f := sample().slot("10", 2, first, nil).slot("2", 3, second, nil)
	c := parse(t, f.bytes())
	if err := c.Check(rules()); err != nil {
		t.Error(err)
	}
	if got := strings.Join(c.Unbound(), " "); got != "2 10" {
		t.Errorf("got %s", got)
	}
	if got := parse(t, sample().bytes()).Unbound(); len(got) != 0 {
		t.Errorf("got %s", got)
	}
}

func TestTokensKeepTheirFields(t *testing.T) {
	t.Parallel()
	f := sample()
	at(f.json, "tokens.0")["some-field"] = object{"a": []int{1}}
	var got object
	if err := json.Unmarshal(parse(t, f.bytes()).Metadata().Tokens["0"], &got); err != nil {
		t.Fatal(err)
	}
	if got["cc-volume"] != "cc-root" || got["some-field"] == nil {
		t.Errorf("got %v", got)
	}
}

// A short run by hand needs -fuzzminimizetime=1x, as `mage test` has it: go test
// otherwise spends the time on making what it finds smaller.
func FuzzRead(f *testing.F) {
	whole := sample().bytes()
	f.Add(whole[:2*copySize])
	f.Add(whole[:copySize])
	f.Add(edit(whole, set("segments.0.encryption", "cipher_null-ecb"))[:2*copySize])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		if c, err := header.Parse(raw); err == nil {
			use(t, c)
		}
	})
}

// FuzzJSON gives the metadata a right checksum and the areas that they may
// name.
func FuzzJSON(f *testing.F) {
	f.Add(must(json.Marshal(sample().json)))
	f.Add(must(json.Marshal(newFixture(32, "sha512").slot("3", 0, first, object{"type": "argon2id", "time": 4, "memory": 32, "cpus": 4}).json)))
	f.Add([]byte(`{"keyslots":{"0":{}},"tokens":{"0":{}},"segments":{"0":{}},"digests":{"0":{}},"config":{"requirements":[]}}`))
	for _, m := range inJSON() {
		if strings.Contains(m.name, "2^") {
			b := m.do(sample().bytes())[4096:copySize]
			f.Add(bytes.TrimRight(b, "\x00"))
		}
	}
	area := filetest.Noise(1, 700<<10)
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) > copySize-4096 {
			return
		}
		b := bytes.Clone(area)
		write(b, raw, 1)
		if c, err := header.Parse(b); err == nil {
			use(t, c)
		}
	})
}

// use calls everything that works on a header. Derivations that are allowed but
// slow are left out.
func use(t *testing.T, c *header.Copy) {
	err := c.Check(rules())
	if again, parseErr := header.Parse(c.Bytes()); parseErr != nil || again.Damage() != nil || codes(again.Check(rules())) != codes(err) {
		t.Fatalf("what cryptsetup gets is another header: %v", parseErr)
	}
	_ = c.Unbound()
	for id := range c.Metadata().Tokens {
		_, _ = c.MAC(make([]byte, 32), "cc-root", id)
	}
	_ = header.Store(nothing{}, c, c)
	if n, err := c.CheckRenewal(rules()); err == nil {
		_, _ = c.Renewed(n)
	}
	_, _ = c.Cleared()
	if _, err := c.Earlier(); err != nil {
		t.Fatalf("the earlier copy: %v", err)
	}
	for _, d := range c.Metadata().Digests {
		if d.Iterations > 1000 {
			return
		}
	}
	for id, k := range c.Metadata().Keyslots {
		if k.KDF.Iterations > 1000 || k.KDF.Time*k.KDF.Memory > 1<<12 && k.KDF.Memory <= 1<<20 && k.KDF.Time <= 1<<20 {
			continue
		}
		if _, err := c.VolumeKey(id, first); err == nil && !bytes.Contains(c.Bytes(), sample().area[2*copySize:3*copySize]) {
			t.Fatal("noise was opened")
		}
	}
}

// nothing is a device that forgets.
type nothing struct{}

func (nothing) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (nothing) Sync() error                            { return nil }
