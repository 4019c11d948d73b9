package header_test

// What green does not prove: no kernel maps these volumes here. That dm-crypt
// sees what was judged rests on cryptsetup reading the same bytes, which is
// asked in user space; a header with dm-integrity is made by the tests, because
// cryptsetup formats one only with device-mapper. Crashes are simulated on a
// slice of bytes: a disk that lies about having written is beyond this, and so
// is an old but whole header played back by the host. That secrets are wiped
// cannot be seen from outside.

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/seal"
	"cc-base/tasks/seal/header"
)

func TestTheSizeIsThatOfTheBuild(t *testing.T) {
	t.Parallel()
	if header.Size != seal.HeaderSize {
		t.Errorf("%d, the build has %d", header.Size, seal.HeaderSize)
	}
}

// once gives each byte one time only.
type once struct {
	data []byte
	read []bool
	t    *testing.T
}

func (o *once) ReadAt(p []byte, off int64) (int, error) {
	n := copy(p, o.data[min(off, int64(len(o.data))):])
	for i := range n {
		if o.read[off+int64(i)] {
			o.t.Fatalf("byte %d is read twice", off+int64(i))
		}
		o.read[off+int64(i)] = true
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func TestReadReadsEachByteOnceAndNotTheData(t *testing.T) {
	t.Parallel()
	data := make([]byte, header.Size+4096)
	copy(data, sample().bytes())
	o := &once{data: data, read: make([]bool, len(data)), t: t}
	c, err := header.Read(o)
	if err != nil || len(c.Bytes()) != header.Size {
		t.Fatal(err)
	}
	if o.read[header.Size] || !o.read[header.Size-1] {
		t.Error("another stretch was read")
	}
	if c.UUID() != uuid || c.SeqID() != 4 || c.Damage() != nil {
		t.Errorf("UUID %s, number %d, damage %v", c.UUID(), c.SeqID(), c.Damage())
	}
}

type failing struct{}

func (failing) ReadAt([]byte, int64) (int, error) { return 0, errors.New("the disk is broken") }

func TestADiskThatCannotBeReadIsNamed(t *testing.T) {
	t.Parallel()
	_, err := header.Read(failing{})
	faulttest.Want(t, err, fault.HeaderUnreadable, "the disk is broken")
}

func TestIsLUKS(t *testing.T) {
	t.Parallel()
	for start, want := range map[string]bool{"LUKS\xba\xbe\x00\x01": true, "LUKS\xba\xbe": true, "SKUL\xba\xbe": false, "LUKS": false, "": false} {
		if header.IsLUKS([]byte(start)) != want {
			t.Errorf("%q: not %v", start, want)
		}
	}
}

// older returns a header and the same with a later change.
func older() (before, after []byte) {
	f := sample()
	before = f.bytes()
	return before, f.token("2", "cc-base").bytes()
}

func TestTheNewerWholeCopyCounts(t *testing.T) {
	t.Parallel()
	before, after := older()
	join := func(one, two []byte) []byte {
		out := bytes.Clone(after)
		copy(out[:copySize], one[:copySize])
		copy(out[copySize:2*copySize], two[copySize:2*copySize])
		return out
	}
	torn := bytes.Clone(after)
	torn[5000] ^= 1
	torn[copySize+5000] ^= 1
	gone := bytes.Clone(after)
	clear(gone[:2*copySize])
	for name, tt := range map[string]struct {
		area   []byte
		seq    uint64
		damage string
	}{
		"both newer":    {join(after, after), 5, ""},
		"both older":    {join(before, before), 4, ""},
		"first newer":   {join(after, before), 5, "second copy is older"},
		"second newer":  {join(before, after), 5, "first copy is older"},
		"first torn":    {join(torn, before), 4, "first copy: its checksum"},
		"second torn":   {join(before, torn), 4, "second copy: its checksum"},
		"first erased":  {join(gone, after), 5, "first copy: there is no"},
		"second erased": {join(after, gone), 5, "second copy: there is no"},
	} {
		c, err := header.Parse(tt.area)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		damage := ""
		if c.Damage() != nil {
			damage = c.Damage().Error()
		}
		if c.SeqID() != tt.seq || !strings.Contains(damage, tt.damage) || (damage == "") != (tt.damage == "") {
			t.Errorf("%s: number %d, damage %q", name, c.SeqID(), damage)
		}
		if _, there := c.Metadata().Tokens["2"]; there != (tt.seq == 5) {
			t.Errorf("%s: it is the other header", name)
		}
		whole, err := header.Parse(c.Bytes())
		if err != nil || whole.Damage() != nil || whole.SeqID() != tt.seq || !bytes.Equal(whole.Bytes()[2*copySize:], tt.area[2*copySize:]) {
			t.Errorf("%s: Bytes gives another header: %v", name, err)
		}
		if c.Damage() == nil && !bytes.Equal(c.Bytes(), tt.area) {
			t.Errorf("%s: Bytes changed a whole header", name)
		}
	}
}

func TestASecondCopyIsFoundForEverySize(t *testing.T) {
	t.Parallel()
	small := sample().bytes()
	for size := 16 << 10; size <= 4<<20; size *= 2 {
		area := make([]byte, 2*size)
		for i := range 2 {
			b := area[i*size : (i+1)*size]
			copy(b, small[i*copySize:(i+1)*copySize])
			binary.BigEndian.PutUint64(b[8:], uint64(size))
			binary.BigEndian.PutUint64(b[256:], uint64(i*size))
			fix(b)
		}
		if c := parse(t, area); c.Damage() != nil {
			t.Errorf("%d: %v", size, c.Damage())
		}
		clear(area[:4096])
		if c := parse(t, area); c.Damage() == nil || c.UUID() != uuid {
			t.Errorf("%d: damage %v", size, c.Damage())
		}
	}
}

func TestOnlyTheRightPassphraseOpens(t *testing.T) {
	t.Parallel()
	f := sample()
	c := parse(t, f.bytes())
	key, err := c.VolumeKey("1", second)
	if err != nil || !bytes.Equal(key, f.key) {
		t.Errorf("got %x, %v", key, err)
	}
	// A NUL behind it would open: HMAC fills short keys up with zeros.
	for _, wrong := range [][]byte{nil, first, second[1:], append(bytes.Clone(second), '\n')} {
		if key, err := c.VolumeKey("1", wrong); !errors.Is(err, header.ErrPassphrase) || key != nil {
			t.Errorf("%q: got %x, %v", wrong, key, err)
		}
	}
	_, err = c.VolumeKey("2", first)
	faulttest.Want(t, err, fault.HeaderSlots)
	// One bit anywhere in the split key is enough to lose it.
	area := f.bytes()
	for _, at := range []int{0, 511, 512, 100000, 255999} {
		changed := bytes.Clone(area)
		changed[2*copySize+at] ^= 1
		if _, err := parse(t, changed).VolumeKey("0", first); !errors.Is(err, header.ErrPassphrase) {
			t.Errorf("byte %d: %v", at, err)
		}
	}
	area[2*copySize+256000] ^= 1
	if _, err := parse(t, area).VolumeKey("0", first); err != nil {
		t.Errorf("a byte behind the key counts: %v", err)
	}
}

// What Check refuses in a slot or digest is not tried, or a header could make
// the guest work for years, allocate terabytes or panic.
func TestARefusedSlotIsNotOpened(t *testing.T) {
	t.Parallel()
	area := sample().bytes()
	for _, m := range inJSON() {
		c, err := header.Parse(m.do(area))
		if err != nil {
			t.Fatal(err)
		}
		key, err := c.VolumeKey("0", first)
		found := codes(c.Check(rules()))
		for _, other := range []string{"CC0902", "CC0905", "CC0908", "CC0909", "CC0910"} {
			found = strings.TrimSpace(strings.ReplaceAll(found, other, ""))
		}
		// Opening relies on the slot, its area and the digest alone.
		if err == nil && found != "" && !strings.Contains(m.name, "json_size") && !strings.Contains(m.name, "keyslots_size") {
			t.Errorf("%s: opened, with %s", m.name, found)
		}
		if err != nil && key != nil {
			t.Errorf("%s: a key and an error", m.name)
		}
	}
}

// The header may name more or less than there is; what is opened lies in both.
func TestAnAreaOutsideOfWhatIsThereIsNotOpened(t *testing.T) {
	t.Parallel()
	area := sample().bytes()
	size := 2 * copySize
	for name, changed := range map[string][]byte{
		"not read":                    edit(area, set("keyslots.0.area.offset", "8388608")),
		"read but for a block":        area[:size+258048-4096],
		"not in the keyslot area":     edit(area, set("config.keyslots_size", "4096")),
		"a block behind the keyslots": edit(area, set("config.keyslots_size", "253952")),
		"an unknown field":            edit(area, set("keyslots.0.kdf.pepper", "x")),
	} {
		c := parse(t, changed)
		key, err := c.VolumeKey("0", first)
		if err == nil || errors.Is(err, header.ErrPassphrase) || key != nil {
			t.Errorf("%s: %v", name, err)
		}
		if name == "an unknown field" {
			continue
		}
		r := newRecorder()
		faulttest.Want(t, header.Store(r, c, c), fault.HeaderArea)
		if r.n > 0 {
			t.Errorf("%s: it was written", name)
		}
	}
	for _, whole := range [][]byte{area[:size+258048*2], edit(area, set("config.keyslots_size", "516096"))} {
		if _, err := parse(t, whole).VolumeKey("1", second); err != nil {
			t.Errorf("just enough room: %v", err)
		}
	}
}

func TestTheMACCoversWhatARotationLeavesAlone(t *testing.T) {
	t.Parallel()
	key := bytes.Repeat([]byte{5}, 32)
	mac := func(area []byte, volume, token string) string {
		sum, err := parse(t, area).MAC(key, volume, token)
		if err != nil {
			t.Fatal(err)
		}
		return string(sum)
	}
	base := sample().bytes()
	want := mac(base, "cc-root", "0")

	same := map[string][]byte{
		"a slot more":          sample().slot("2", 2, second, nil).bytes(),
		"a slot and its token": sample().slot("2", 2, second, nil).token("5", "systemd-recovery", "2").bytes(),
		"a slot less":          sample().kill("1", 1).token("1", "systemd-recovery").bytes(),
		"its code and state":   edit(base, func(o object) { set("tokens.0.cc-mac", "AAAA")(o); set("tokens.0.cc-state", "active")(o) }),
		"another spelling": text(base, func(s string) string {
			return strings.ReplaceAll(strings.ReplaceAll(s, ":", " : "), "aes-", "\\u0061es-")
		}),
		"no requirements": edit(base, set("config.requirements", object{"mandatory": []string{}})),
	}
	for name, area := range same {
		if mac(area, "cc-root", "0") != want {
			t.Errorf("%s: another code", name)
		}
	}

	other := map[string][]byte{
		"segment":           edit(base, set("segments.0.encryption", "cipher_null-ecb")),
		"segment offset":    edit(base, set("segments.0.offset", "0")),
		"a second segment":  edit(base, set("segments.1", object{"type": "linear"})),
		"digest":            edit(base, set("digests.0.digest", make([]byte, 32))),
		"salt":              edit(base, set("digests.0.salt", make([]byte, 32))),
		"iterations":        edit(base, set("digests.0.iterations", 1001)),
		"digest's segments": edit(base, set("digests.0.segments", []string{})),
		"a second digest":   edit(base, set("digests.1", object{})),
		"requirements":      edit(base, set("config.requirements", object{"mandatory": []string{"x"}})),
		"the token's type":  edit(base, set("tokens.0.type", "systemd-tpm2")),
		"the token's slots": edit(base, set("tokens.0.keyslots", []string{"1"})),
		"a token's field":   edit(base, set("tokens.0.cc-epoch", 2)),
		"UUID":              both(base, func(b []byte) { copy(b[168:], "00000000") }),
	}
	seen := map[string]string{want: "the header itself", mac(base, "cc-app", "0"): "another volume"}
	if len(seen) != 2 {
		t.Error("the volume's name does not count")
	}
	for name, area := range other {
		sum := mac(area, "cc-root", "0")
		if twin, ok := seen[sum]; ok {
			t.Errorf("%s: the code of %s", name, twin)
		}
		seen[sum] = name
	}
	sum, err := parse(t, base).MAC(bytes.Repeat([]byte{6}, 32), "cc-root", "0")
	if err != nil || string(sum) == want {
		t.Errorf("another key gives the same code; %v", err)
	}

	c := parse(t, base)
	_, err = c.MAC(key, "cc-root", "9")
	faulttest.Want(t, err, fault.HeaderToken)
	if _, err := c.MAC(key[:31], "cc-root", "0"); err == nil {
		t.Error("a short key is taken")
	}
	broken := parse(t, edit(base, set("tokens.0", "text")))
	_, err = broken.MAC(key, "cc-root", "0")
	faulttest.Want(t, err, fault.HeaderToken)
}

// The code is on disks: its input must never change.
func TestTheMACIsOverThisText(t *testing.T) {
	t.Parallel()
	f := newFixture(64, "sha256").slot("0", 0, first, nil)
	f.json["tokens"] = object{"3": object{"type": "cc-base", "keyslots": []string{"0"}, "text": "<é/>", "cc-epoch": 7, "cc-state": "pending", "cc-mac": "x"}}
	at(f.json, "digests.0")["digest"] = make([]byte, 32)
	at(f.json, "digests.0")["salt"] = make([]byte, 32)
	zeros := strings.Repeat("A", 43) + "="
	want := `{"digests":{"0":{"digest":"` + zeros + `","hash":"sha256","iterations":1000,"salt":"` + zeros + `","segments":["0"],"type":"pbkdf2"}},` +
		`"purpose":"cc-base/v1/header","requirements":"","segments":{"0":{"encryption":"aes-xts-plain64","iv_tweak":"0","offset":"16777216",` +
		`"sector_size":4096,"size":"dynamic","type":"crypt"}},"token":{"cc-epoch":7,"keyslots":["0"],"text":"<é/>","type":"cc-base"},` +
		`"uuid":"` + uuid + `","volume":"cc-dynamic"}` + "\n"
	key := bytes.Repeat([]byte{1}, 32)
	got, err := parse(t, f.bytes()).MAC(key, "cc-dynamic", "3")
	if err != nil || !bytes.Equal(got, hmacSHA256(key, want)) {
		t.Errorf("not the code of %s; %v", want, err)
	}
}
