package installertest

import (
	"crypto/sha256"
	"encoding/binary"
)

// LUKS2JSON returns the metadata of a volume as cryptsetup makes it when it
// encrypts a file offline.
func LUKS2JSON() string {
	const bytes32 = `"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="`
	return `{"keyslots":{"0":{"type":"luks2","key_size":64,"af":{"type":"luks1","stripes":4000,"hash":"sha256"},` +
		`"area":{"type":"raw","offset":"32768","size":"258048","encryption":"aes-xts-plain64","key_size":64},` +
		`"kdf":{"type":"pbkdf2","hash":"sha256","iterations":1000,"salt":` + bytes32 + `}}},"tokens":{},` +
		`"segments":{"0":{"type":"crypt","offset":"16777216","size":"dynamic","iv_tweak":"0","encryption":"aes-xts-plain64","sector_size":4096}},` +
		`"digests":{"0":{"type":"pbkdf2","keyslots":["0"],"segments":["0"],"hash":"sha256","iterations":1000,"salt":` + bytes32 + `,"digest":` + bytes32 + `}},` +
		`"config":{"json_size":"12288","keyslots_size":"16744448"}}`
}

// LUKS2 returns both copies of a header with right checksums.
func LUKS2(json string) []byte {
	const size = 16384
	out := make([]byte, 2*size)
	for i, magic := range []string{"LUKS\xba\xbe", "SKUL\xba\xbe"} {
		h := out[i*size : (i+1)*size]
		copy(h, magic)
		binary.BigEndian.PutUint16(h[6:], 2)
		binary.BigEndian.PutUint64(h[8:], size)
		binary.BigEndian.PutUint64(h[16:], 1)
		copy(h[72:], "sha256")
		copy(h[168:], "11111111-2222-3333-4444-555555555555")
		binary.BigEndian.PutUint64(h[256:], uint64(i*size))
		copy(h[4096:], json)
		sum := sha256.Sum256(h)
		copy(h[448:], sum[:])
	}
	return out
}
