package header

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"fmt"

	"cc-base/tasks/fault"
)

// MAC returns the authentication code (HMAC-SHA256, 32 bytes) that the token
// carries as cc-mac: over the name of the volume, the UUID, the segments, the
// digests without their lists of keyslots, the requirements, and the token
// itself without the fields cc-mac and cc-state. Adding and removing other slots
// and tokens does not change it, so that a rotation needs no moment in which
// header and code disagree. key must come from a secret of the volume that the
// token opens, and is at least 32 bytes long.
//
// The code is over one line of JSON with sorted names and no blanks, as
// encoding/json writes it: cryptsetup may spell a text differently each time.
func (c *Copy) MAC(key []byte, volume, tokenID string) ([]byte, error) {
	raw, ok := c.meta.Tokens[tokenID]
	if !ok {
		return nil, fault.Newf(fault.HeaderToken, "there is no token %q", tokenID)
	}
	mac, err := c.MACWith(key, volume, raw)
	if err != nil {
		return nil, fmt.Errorf("token %s: %w", tokenID, err)
	}
	return mac, nil
}

// MACWith returns the code of a token that is yet to be written, so that there
// is no moment in which it lies on the disk without one.
func (c *Copy) MACWith(key []byte, volume string, raw json.RawMessage) ([]byte, error) {
	if len(key) < sha256.Size {
		return nil, fmt.Errorf("a key of %d bytes is too short for an authentication code", len(key))
	}
	token, err := without(raw, "cc-mac", "cc-state")
	if err != nil {
		return nil, fault.New(fault.HeaderToken, err)
	}
	digests, err := allWithout(c.chosen.top.Digests, "keyslots")
	if err != nil {
		return nil, fault.Newf(fault.HeaderDigest, "digest %w", err)
	}
	segments, err := allWithout(c.chosen.top.Segments)
	if err != nil {
		return nil, fault.Newf(fault.HeaderSegment, "segment %w", err)
	}
	return authenticate(key, map[string]any{
		"purpose": "cc-base/v1/header", "volume": volume, "uuid": c.UUID(), "token": token,
		"segments": segments, "digests": digests, "requirements": requirements(c.meta.Config.Requirements),
	})
}

// TokenMAC returns the code of a token that opens nothing by itself, so that
// what it says does not depend on the rest of the header: over the name of the
// volume, the UUID, and the token without its field cc-mac. key comes from the
// volume key and is at least 32 bytes long.
func (c *Copy) TokenMAC(key []byte, volume string, raw json.RawMessage) ([]byte, error) {
	if len(key) < sha256.Size {
		return nil, fmt.Errorf("a key of %d bytes is too short for an authentication code", len(key))
	}
	token, err := without(raw, "cc-mac")
	if err != nil {
		return nil, fault.New(fault.HeaderToken, err)
	}
	return authenticate(key, map[string]any{"purpose": "cc-base/v1/token", "volume": volume, "uuid": c.UUID(), "token": token})
}

func authenticate(key []byte, content map[string]any) ([]byte, error) {
	h := hmac.New(sha256.New, key)
	text := json.NewEncoder(h)
	text.SetEscapeHTML(false)
	if err := text.Encode(content); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}

// without decodes an object and drops some of its members.
func without(raw json.RawMessage, names ...string) (map[string]any, error) {
	var object map[string]any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(&object); err != nil {
		return nil, err
	}
	for _, name := range names {
		delete(object, name)
	}
	return object, nil
}

func allWithout(objects map[string]json.RawMessage, names ...string) (map[string]any, error) {
	out := map[string]any{}
	for id, raw := range objects {
		object, err := without(raw, names...)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", id, err)
		}
		out[id] = object
	}
	return out, nil
}
