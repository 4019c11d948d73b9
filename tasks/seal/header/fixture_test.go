package header_test

import (
	"bytes"
	"crypto/aes"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"maps"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/xts"

	"cc-base/tasks/fault"
	"cc-base/tasks/filetest"
	"cc-base/tasks/seal/header"
)

// first and second stand for passphrases with full entropy.
var (
	first  = []byte("first-passphrase-of-full-entropy-0123456789")
	second = []byte("second-passphrase-of-full-entropy-987654321")
)

const (
	copySize = 16 << 10
	uuid     = "7d6b0365-75b0-5b0a-87f8-d10cda9f67e2"
)

// object is JSON that a test changes.
type object = map[string]any

// fixture is a header in the making, as cryptsetup makes one. It is cut off
// behind 4 keyslots: the rest of its 16 MiB is never used.
type fixture struct {
	area []byte
	json object
	key  []byte // volume key
	hash string
	seq  uint64
}

func hashOf(name string) func() hash.Hash {
	if name == "sha512" {
		return sha512.New
	}
	return sha256.New
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// newFixture has a volume key of so many bytes and no keyslot.
func newFixture(keyBytes int, hash string) *fixture {
	f := &fixture{key: filetest.Noise(byte(keyBytes), keyBytes), hash: hash, seq: 3}
	f.area = filetest.Noise(7, 2*copySize+4*f.areaSize())
	salt := filetest.Noise(9, 32)
	sum := must(pbkdf2.Key(hashOf(hash), string(f.key), salt, 1000, hashOf(hash)().Size()))
	f.json = object{
		"keyslots": object{}, "tokens": object{},
		"segments": object{"0": object{"type": "crypt", "offset": "16777216", "size": "dynamic", "iv_tweak": "0",
			"encryption": "aes-xts-plain64", "sector_size": 4096}},
		"digests": object{"0": object{"type": "pbkdf2", "keyslots": []string{}, "segments": []string{"0"}, "hash": hash,
			"iterations": 1000, "salt": salt, "digest": sum}},
		"config": object{"json_size": "12288", "keyslots_size": "16744448"},
	}
	return f
}

// areaSize is what cryptsetup reserves for a keyslot.
func (f *fixture) areaSize() int { return (len(f.key)*4000 + 4095) / 4096 * 4096 }

// slot adds a keyslot in the place of the given number.
func (f *fixture) slot(id string, place int, passphrase []byte, kdf object) *fixture {
	salt := filetest.Noise(byte(place)+20, 32)
	var key []byte
	if kdf == nil {
		kdf = object{"type": "pbkdf2", "hash": f.hash, "iterations": 1000}
		key = must(pbkdf2.Key(hashOf(f.hash), string(passphrase), salt, 1000, 64))
	} else {
		key = argon2.IDKey(passphrase, salt, uint32(kdf["time"].(int)), uint32(kdf["memory"].(int)), uint8(kdf["cpus"].(int)), 64)
	}
	kdf["salt"] = salt

	// The split is that of LUKS1, written down again from its specification.
	n := len(f.key)
	split := filetest.Noise(byte(place)+30, n*4000)
	state := make([]byte, n)
	for at := 0; at < len(split)-n; at += n {
		for i := range state {
			state[i] ^= split[at+i]
		}
		h := hashOf(f.hash)
		for from, number := 0, uint32(0); from < n; number++ {
			to := min(from+h().Size(), n)
			sum := h()
			sum.Write(binary.BigEndian.AppendUint32(nil, number))
			sum.Write(state[from:to])
			copy(state[from:to], sum.Sum(nil))
			from = to
		}
	}
	for i := range state {
		split[len(split)-n+i] = state[i] ^ f.key[i]
	}
	size := f.areaSize()
	offset := 2*copySize + place*size
	c := must(xts.NewCipher(aes.NewCipher, key))
	for at := 0; at < len(split); at += 512 {
		c.Encrypt(f.area[offset+at:offset+at+512], split[at:at+512], uint64(at/512))
	}
	f.json["keyslots"].(object)[id] = object{
		"type": "luks2", "key_size": n, "af": object{"type": "luks1", "stripes": 4000, "hash": f.hash}, "kdf": kdf,
		"area": object{"type": "raw", "offset": fmt.Sprint(offset), "size": fmt.Sprint(size), "encryption": "aes-xts-plain64", "key_size": 64},
	}
	d := f.json["digests"].(object)["0"].(object)
	d["keyslots"] = append(slices.Clone(d["keyslots"].([]string)), id)
	return f
}

func (f *fixture) kill(id string, place int) *fixture {
	delete(f.json["keyslots"].(object), id)
	d := f.json["digests"].(object)["0"].(object)
	d["keyslots"] = slices.DeleteFunc(slices.Clone(d["keyslots"].([]string)), func(s string) bool { return s == id })
	copy(f.area[2*copySize+place*f.areaSize():], filetest.Noise(99, f.areaSize()))
	return f
}

func (f *fixture) token(id, typ string, slots ...string) *fixture {
	f.json["tokens"].(object)[id] = object{"type": typ, "keyslots": append([]string{}, slots...), "cc-volume": "cc-root"}
	return f
}

// bytes returns the header with the next sequence number.
func (f *fixture) bytes() []byte {
	f.seq++
	out := bytes.Clone(f.area)
	write(out, must(json.Marshal(f.json)), f.seq)
	return out
}

// write puts both copies of the metadata into the area.
func write(area, text []byte, seq uint64) {
	for i, magic := range []string{"LUKS\xba\xbe", "SKUL\xba\xbe"} {
		b := area[i*copySize : (i+1)*copySize]
		clear(b)
		copy(b, magic)
		binary.BigEndian.PutUint16(b[6:], 2)
		binary.BigEndian.PutUint64(b[8:], copySize)
		binary.BigEndian.PutUint64(b[16:], seq)
		copy(b[72:], "sha256")
		copy(b[104:168], filetest.Noise(byte(seq)+byte(i), 64))
		copy(b[168:], uuid)
		binary.BigEndian.PutUint64(b[256:], uint64(i*copySize))
		copy(b[4096:], text)
		fix(b)
	}
}

// fix makes the checksum of a copy right.
func fix(b []byte) {
	clear(b[448:512])
	sum := sha256.Sum256(b)
	copy(b[448:], sum[:])
}

// both changes both copies of the metadata and makes their checksums right.
func both(area []byte, change func(block []byte)) []byte {
	out := bytes.Clone(area)
	for i := range 2 {
		b := out[i*copySize : (i+1)*copySize]
		change(b)
		fix(b)
	}
	return out
}

// text replaces the JSON in both copies by what change makes of it.
func text(area []byte, change func(string) string) []byte {
	return both(area, func(b []byte) {
		old, _, _ := bytes.Cut(b[4096:], []byte{0})
		now := change(string(old))
		clear(b[4096:])
		copy(b[4096:], now)
	})
}

// edit replaces the JSON in both copies by a changed one.
func edit(area []byte, change func(object)) []byte {
	return text(area, func(old string) string {
		var o object
		dec := json.NewDecoder(strings.NewReader(old))
		dec.UseNumber()
		if err := dec.Decode(&o); err != nil {
			panic(err)
		}
		change(o)
		return string(must(json.Marshal(o)))
	})
}

// at returns the object at a path of names with dots.
func at(o object, path string) object {
	for name := range strings.SplitSeq(path, ".") {
		o = o[name].(object)
	}
	return o
}

// set changes one member; nil removes it.
func set(path string, value any) func(object) {
	return func(o object) {
		i := strings.LastIndex(path, ".")
		if i >= 0 {
			o = at(o, path[:i])
		}
		if value == nil {
			delete(o, path[i+1:])
			return
		}
		o[path[i+1:]] = value
	}
}

func parse(t testing.TB, area []byte) *header.Copy {
	t.Helper()
	c, err := header.Parse(area)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// rules are those of a volume that the build makes.
func rules() header.Rules {
	return header.Rules{Cipher: "aes-xts-plain64", KeyBits: 512, Hash: "sha256", SectorSize: 4096, HeaderSize: header.Size, DeviceSize: 20 << 20}
}

// codes returns the codes in a tree of errors, sorted, each once.
func codes(err error) string {
	found := map[string]bool{}
	var walk func(error)
	walk = func(err error) {
		if f, ok := err.(*fault.Error); ok {
			found[string(f.Code)] = true
		}
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			for _, inner := range joined.Unwrap() {
				walk(inner)
			}
		} else if inner := errors.Unwrap(err); inner != nil {
			walk(inner)
		}
	}
	walk(err)
	return strings.Join(slices.Sorted(maps.Keys(found)), " ")
}

// sample is the header that most tests begin with: two keyslots, each with its
// token.
func sample() *fixture {
	return newFixture(64, "sha256").slot("0", 0, first, nil).slot("1", 1, second, nil).
		token("0", "cc-base", "0").token("1", "systemd-recovery", "1")
}

func hmacSHA256(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}
