package header

import (
	"crypto/aes"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"slices"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/xts"

	"cc-base/tasks/fault"
)

// ErrPassphrase is returned by [Copy.VolumeKey] for a passphrase that does not
// open the keyslot.
var ErrPassphrase = errors.New("the passphrase does not open the keyslot")

// areaSector is the unit in which keyslot areas are encrypted, in bytes,
// whatever the sectors of the data are (specification, 4.1).
const areaSector = 512

func hashes() map[string]func() hash.Hash {
	return map[string]func() hash.Hash{"sha256": sha256.New, "sha512": sha512.New}
}

// VolumeKey opens a keyslot and returns the volume key, which the caller wipes:
// with dm-integrity the cipher's key and then that of the authentication code.
// A slot or digest that the rules of [Copy.Check] refuse is not tried: that
// bounds the cost to ten seconds and a GiB, and without a hostile header it is a
// millisecond. Copies of the secrets inside hash and cipher states stay behind
// until the memory is used again.
func (c *Copy) VolumeKey(slot string, passphrase []byte) ([]byte, error) {
	k, area, d, err := c.openable(slot)
	if err != nil {
		return nil, err
	}
	key, err := derive(k.KDF, passphrase, k.Area.KeySize)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	split := make([]byte, k.KeySize*stripes)
	defer clear(split)
	if err := decrypt(split, area, key); err != nil {
		return nil, err
	}
	volume := merge(split, k.KeySize, hashes()[k.AF.Hash])
	sum, err := pbkdf2.Key(hashes()[d.Hash], string(volume), d.Salt, d.Iterations, len(d.Digest))
	if err != nil || subtle.ConstantTimeCompare(sum, d.Digest) != 1 {
		clear(volume)
		return nil, errors.Join(ErrPassphrase, err)
	}
	return volume, nil
}

// openable judges everything that opening a slot relies on.
func (c *Copy) openable(slot string) (Keyslot, []byte, Digest, error) {
	k, ok := c.meta.Keyslots[slot]
	if !ok {
		return k, nil, Digest{}, fault.Newf(fault.HeaderSlots, "there is no keyslot %q", slot)
	}
	f := slices.Clone(findings(c.findings))
	r := Rules{}
	if i := c.meta.Segments["0"].Integrity; i != nil {
		r.Integrity = i.Type
	}
	apply(&f, keyslotRules(), k, r, "keyslot "+slot)
	s, err := c.span(k)
	if err != nil {
		f.add(fault.HeaderArea, "keyslot %s: %w", slot, err)
	}
	d := c.digestOf(&f, r, slot)
	if err := errors.Join(f...); err != nil {
		return k, nil, Digest{}, err
	}
	return k, c.area[s.from:s.to], d, nil
}

// digestOf judges the digests and returns the slot's: the only one there is,
// except between two volume keys.
func (c *Copy) digestOf(f *findings, r Rules, slot string) Digest {
	if !c.Renewing() {
		c.digests(f, r)
		for _, d := range c.meta.Digests {
			return d
		}
	}
	for _, id := range sorted(c.meta.Digests) {
		if d := c.meta.Digests[id]; slices.Contains(d.Keyslots, slot) {
			apply(f, digestRules(), d, r, "digest "+id)
			return d
		}
	}
	f.add(fault.HeaderDigest, "keyslot %s has no digest", slot)
	return Digest{}
}

// derive makes an area's key; its cost was judged before.
func derive(d KDF, passphrase []byte, size int) ([]byte, error) {
	if d.Type == "argon2id" {
		return argon2.IDKey(passphrase, d.Salt, uint32(d.Time), uint32(d.Memory), uint8(d.CPUs), uint32(size)), nil
	}
	return pbkdf2.Key(hashes()[d.Hash], string(passphrase), d.Salt, d.Iterations, size)
}

// decrypt fills to from the start of an area.
func decrypt(to, area, key []byte) error {
	c, err := xts.NewCipher(aes.NewCipher, key)
	if err != nil {
		return err
	}
	if len(to)%areaSector != 0 || len(to) > len(area) {
		return fmt.Errorf("%d bytes of an area of %d cannot be decrypted", len(to), len(area))
	}
	for at := 0; at < len(to); at += areaSector {
		c.Decrypt(to[at:at+areaSector], area[at:at+areaSector], uint64(at/areaSector))
	}
	return nil
}

// merge joins the stripes of a key: all but the last are spread over the next
// by the hash, so that a lost bit anywhere loses the key (LUKS1 On-Disk Format
// Specification 1.2.3, 2.4).
func merge(split []byte, size int, h func() hash.Hash) []byte {
	key := make([]byte, size)
	last := len(split) - size
	for at := 0; at < last; at += size {
		subtle.XORBytes(key, key, split[at:at+size])
		diffuse(key, h())
	}
	subtle.XORBytes(key, key, split[last:])
	return key
}

// diffuse replaces each block, as long as the hash, by the hash of its number
// and itself; the last one may be shorter.
func diffuse(key []byte, h hash.Hash) {
	for i, at := 0, 0; at < len(key); i, at = i+1, at+h.Size() {
		block := key[at:min(at+h.Size(), len(key))]
		h.Reset()
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(i)))
		h.Write(block)
		copy(block, h.Sum(nil))
	}
}
