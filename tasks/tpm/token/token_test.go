package token_test

// What green does not prove: the samples are of systemd 252 and 257 and hold no
// PIN, pcrlock or sharded object. That systemd accepts what is written here is
// shown in package tpm, with the version of the tools tree.

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/filetest"
	"cc-base/tasks/tpm"
	"cc-base/tasks/tpm/token"
)

const signedSample = "signed-policy.json"

// samples returns the recorded tokens by the file's name and, where it holds
// several, their number.
func samples(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) != 3 {
		t.Fatalf("%v, %v", files, err)
	}
	found := map[string][]byte{}
	for _, f := range files {
		data := filetest.Read(t, f)
		_, name, _ := strings.Cut(filepath.Base(f), ".")
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(data, &fields); err != nil {
			t.Fatal(err)
		}
		if _, one := fields["type"]; one {
			found[name] = data
			continue
		}
		for id, one := range fields {
			found[name+" "+id] = one
		}
	}
	return found
}

// fields returns a token's fields, each without white space.
func fields(t testing.TB, data []byte) map[string]string {
	t.Helper()
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		t.Fatalf("%v: %s", err, data)
	}
	compact := map[string]string{}
	for name, value := range raw {
		var b bytes.Buffer
		if err := json.Compact(&b, value); err != nil {
			t.Fatal(err)
		}
		compact[name] = b.String()
	}
	return compact
}

func parse(t testing.TB, data []byte) token.Token {
	t.Helper()
	made, err := token.Parse(data)
	if err != nil {
		t.Fatalf("%v: %s", err, data)
	}
	return made
}

func TestWhatSystemdWroteIsWrittenAgainByteForByte(t *testing.T) {
	t.Parallel()
	all := samples(t)
	if len(all) != 4 {
		t.Fatalf("%d samples", len(all))
	}
	for name, data := range all {
		made := parse(t, data)
		again, err := made.Marshal()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(fields(t, data), fields(t, again)); diff != "" {
			t.Errorf("%s (-systemd +ours):\n%s", name, diff)
		}
		if twice, err := parse(t, again).Marshal(); err != nil || !bytes.Equal(twice, again) {
			t.Errorf("%s: not stable: %v\n%s\n%s", name, err, again, twice)
		}
		made.KeyPEM = nil // the PEM text of a key is what systemd takes from a file: OpenSSL's form, and ours
		if fresh, err := made.Marshal(); err != nil || !bytes.Equal(fresh, again) {
			t.Errorf("%s: the key is written in another form: %v\n%s", name, err, fresh)
		}
	}
}

func TestTheOrderOfFieldsIsSystemds(t *testing.T) {
	t.Parallel()
	made := parse(t, samples(t)[signedSample])
	made.Extra = map[string]json.RawMessage{"zz": json.RawMessage("1"), "cc-epoch": json.RawMessage("3")}
	data, err := made.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	at := -1
	for _, name := range []string{"type", "keyslots", "tpm2-blob", "tpm2-pcrs", "tpm2-pcr-bank", "tpm2-primary-alg",
		"tpm2-policy-hash", "tpm2_pubkey_pcrs", "tpm2_pubkey", "tpm2_srk", "cc-epoch", "zz"} {
		next := bytes.Index(data, []byte(`"`+name+`":`))
		if next <= at {
			t.Errorf("%s is at %d, behind %d", name, next, at)
		}
		at = next
	}
}

func TestTheSamplesMeanWhatIsKnownOfThem(t *testing.T) {
	t.Parallel()
	made := parse(t, samples(t)[signedSample])
	digest, err := tpm.Policy{Key: made.Key, SignedPCRs: made.SignedPCRs}.Digest()
	if got := hex.EncodeToString(digest[:]); err != nil || got != "f5b3c7e7aa097666e81793393d2c9722653002b38c034172f4ffa8f16e826875" || got != hex.EncodeToString(made.PolicyHash) {
		t.Errorf("the policy is %s, systemd 257 wrote %x, %v", got, made.PolicyHash, err)
	}
	const name = "000b703f886833bad0b0a402e9eaa1c949f8824d672c4d229015997a622807ce878d"
	if got, err := made.SRKName(); err != nil || hex.EncodeToString(got) != name {
		t.Errorf("the storage root key is %x, %v", got, err)
	}
	public := made.SRK[len(made.SRK)-92:]
	if back := token.SerializeSRK(tpm.SRK{Handle: tpm.SRKHandle, Name: made.SRK[6:40], Public: public}); !bytes.Equal(back, made.SRK) {
		t.Errorf("written again as %x, not %x", back, made.SRK)
	}
	if _, err := tpm.ParseSRKPublic(public); err != nil {
		t.Error(err)
	}

	old := parse(t, samples(t)["v252.json 0"])
	digest, err = tpm.Policy{Literal: tpm.PCRs{7: {}}}.Digest()
	if err != nil || !bytes.Equal(digest[:], old.PolicyHash) {
		t.Errorf("the policy is %x, systemd 252 wrote %x, %v", digest, old.PolicyHash, err)
	}
	if _, err := old.SRKName(); err == nil || old.SRK != nil {
		t.Error("a token of 252 has a storage root key")
	}
	if string(old.Extra["tpm2-pin"]) != "false" {
		t.Errorf("extra fields: %v", old.Extra)
	}
}

func TestUnknownFieldsAreKeptAsTheyAre(t *testing.T) {
	t.Parallel()
	const odd = `{"b":[1, 2.50e3,"<&>\u00e9"],"a":null}`
	data := bytes.Replace(samples(t)[signedSample], []byte(`{`), []byte(`{"tpm2_of_tomorrow":`+odd+`,"cc-epoch":18446744073709551615,`), 1)
	made := parse(t, data)
	again, err := made.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var want, got map[string]any
	if json.Unmarshal(data, &want) != nil || json.Unmarshal(again, &got) != nil {
		t.Fatalf("%s", again)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if fields(t, again)["cc-epoch"] != "18446744073709551615" {
		t.Errorf("a number was rounded: %s", again)
	}
	made.Extra["tpm2-blob"] = json.RawMessage(`""`)
	if _, err := made.Marshal(); err == nil {
		t.Error("a field of systemd's was overwritten by an extra one")
	}
}

// change replaces text of the sample with a signed policy.
type change struct{ name, from, to string }

func changed(t *testing.T, c change) []byte {
	t.Helper()
	sample := string(samples(t)[signedSample])
	data := strings.Replace(sample, c.from, c.to, 1)
	if data == sample {
		t.Fatalf("%s: nothing is changed", c.name)
	}
	return []byte(data)
}

func TestAMalformedTokenIsRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []change{
		{"another type", `"systemd-tpm2"`, `"systemd-fido2"`},
		{"no type", `"type"`, `"kind"`},
		{"type twice", `"type"`, `"type":"systemd-tpm2","type"`},
		{"blob twice", `"tpm2-blob"`, `"tpm2-blob":"AA==","tpm2-blob"`},
		{"unknown twice", `{`, `{"x":1,"x":2,`},
		{"no keyslots", `"keyslots"`, `"slots"`},
		{"keyslots null", `["5"]`, `null`},
		{"a keyslot as a number", `["5"]`, `[5]`},
		{"a keyslot that is none", `["5"]`, `["32"]`},
		{"a keyslot with a zero", `["5"]`, `["05"]`},
		{"a keyslot with a sign", `["5"]`, `["+5"]`},
		{"a keyslot twice", `["5"]`, `["5","5"]`},
		{"no blob", `"tpm2-blob"`, `"blob"`},
		{"blob cut", `"tpm2-blob":"AJ4A`, `"tpm2-blob":"AZ4A`},
		{"blob empty", `"tpm2-blob":"`, `"tpm2-blob":"","x":"`},
		{"blob not base64", `"tpm2-blob":"AJ4A`, `"tpm2-blob":"AJ4!`},
		{"blob with a line break", `"tpm2-blob":"AJ4A`, `"tpm2-blob":"AJ4A\n`},
		{"no PCRs", `"tpm2-pcrs"`, `"pcrs"`},
		{"PCRs null", `"tpm2-pcrs":[]`, `"tpm2-pcrs":null`},
		{"a PCR that is none", `"tpm2-pcrs":[]`, `"tpm2-pcrs":[24]`},
		{"a negative PCR", `"tpm2-pcrs":[]`, `"tpm2-pcrs":[-1]`},
		{"half a PCR", `"tpm2-pcrs":[]`, `"tpm2-pcrs":[0.5]`},
		{"a PCR twice", `"tpm2-pcrs":[]`, `"tpm2-pcrs":[7,7]`},
		{"no policy", `"tpm2-policy-hash"`, `"policy"`},
		{"policy cut", `"tpm2-policy-hash":"f5`, `"tpm2-policy-hash":"`},
		{"policy not hexadecimal", `"tpm2-policy-hash":"f5`, `"tpm2-policy-hash":"g5`},
		{"sharded policy", `"tpm2-policy-hash":`, `"tpm2-policy-hash":[],"x":`},
		{"no key", `"tpm2_pubkey":`, `"x":`},
		{"key for nothing", `"tpm2_pubkey_pcrs":`, `"x":`},
		{"key for no PCR", `[11]`, `[]`},
		{"key not PEM", `"tpm2_pubkey":"LS0t`, `"tpm2_pubkey":"LS0u`},
		{"SRK empty", `"tpm2_srk":"`, `"tpm2_srk":"","x":"`},
		{"an array", `{`, `[{`},
		{"two objects", `"type":"systemd-tpm2"}`, `"type":"systemd-tpm2"}{}`},
		{"cut", `"type":"systemd-tpm2"}`, `"type":"systemd-tpm2"`},
		{"too long", `{`, `{` + strings.Repeat(" ", 1<<16)},
	} {
		if made, err := token.Parse(changed(t, c)); err == nil {
			t.Errorf("%s: read as %+v", c.name, made)
		}
	}
	for _, text := range []string{"", "null", "[]", `""`, "{", "{}", `{"type"`, "\xff"} {
		if _, err := token.Parse([]byte(text)); err == nil {
			t.Errorf("%q was read", text)
		}
	}
}

func TestATokenThatWeDoNotOpenIsToldApart(t *testing.T) {
	t.Parallel()
	for _, c := range []change{
		{"PIN", `{`, `{"tpm2-pin":true,`},
		{"PIN as text", `{`, `{"tpm2-pin":"false",`},
		{"salt", `{`, `{"tpm2_salt":"AAAA",`},
		{"pcrlock", `{`, `{"tpm2_pcrlock":true,`},
		{"pcrlock index", `{`, `{"tpm2_pcrlock_nv":"AAAA",`},
		{"another bank", `"sha256"`, `"sha384"`},
		{"another primary key", `"ecc"`, `"rsa"`},
	} {
		if _, err := token.Parse(changed(t, c)); !errors.Is(err, token.ErrUnsupported) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for _, c := range []change{{"no PIN", `{`, `{"tpm2-pin":false,`}, {"no pcrlock", `{`, `{"tpm2_pcrlock":false,`}} {
		if _, err := token.Parse(changed(t, c)); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestTheNameOfTheStorageRootKeyIsChecked(t *testing.T) {
	t.Parallel()
	good := parse(t, samples(t)[signedSample]).SRK
	at := func(i int) []byte {
		data := bytes.Clone(good)
		data[i] ^= 1
		return data
	}
	for name, srk := range map[string][]byte{
		"cut": good[:len(good)-1], "longer": append(bytes.Clone(good), 0), "nothing": nil,
		"another handle": at(3), "length of the name": at(5), "name algorithm": at(7), "name": at(20), "kind": at(43), "key": at(len(good) - 1),
	} {
		if got, err := (token.Token{SRK: srk}).SRKName(); err == nil {
			t.Errorf("%s: %x", name, got)
		}
	}
}

func TestOnlyAWholeTokenIsWritten(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*token.Token){
		"no object":      func(t *token.Token) { t.Sealed = tpm.Sealed{} },
		"cut object":     func(t *token.Token) { t.Sealed.Private = t.Sealed.Private[:10] },
		"swapped":        func(t *token.Token) { t.Sealed.Public = append(t.Sealed.Public, t.Sealed.Public...) },
		"no policy":      func(t *token.Token) { t.PolicyHash = nil },
		"no such PCR":    func(t *token.Token) { t.PCRs = []int{24} },
		"key only":       func(t *token.Token) { t.SignedPCRs = nil },
		"PEM only":       func(t *token.Token) { t.Key, t.SignedPCRs = nil, nil },
		"another PEM":    func(t *token.Token) { k := *t.Key; k.E = 3; t.Key = &k },
		"another bank":   func(t *token.Token) { t.Bank = "sha1" },
		"no such slot":   func(t *token.Token) { t.Keyslots = []string{"-1"} },
		"extra not JSON": func(t *token.Token) { t.Extra = map[string]json.RawMessage{"x": json.RawMessage(`{`)} },
		"a PIN":          func(t *token.Token) { t.Extra = map[string]json.RawMessage{"tpm2-pin": json.RawMessage(`true`)} },
	} {
		made := parse(t, samples(t)[signedSample])
		spoil(&made)
		if data, err := made.Marshal(); err == nil {
			t.Errorf("%s: written as %s", name, data)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, data := range samples(f) {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		made, err := token.Parse(data)
		if err != nil {
			return
		}
		again, err := made.Marshal()
		if err != nil {
			t.Fatalf("what was read cannot be written: %v\n%s", err, data)
		}
		twice, err := parse(t, again).Marshal()
		if err != nil || !bytes.Equal(again, twice) {
			t.Fatalf("not stable: %v\n%s\n%s", err, again, twice)
		}
		_, _ = made.SRKName()
	})
}
