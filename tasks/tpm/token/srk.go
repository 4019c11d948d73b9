package token

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"

	"cc-base/tasks/tpm"
)

// keyResource is IESYSC_KEY_RSRC of tpm2-tss: what follows is a key.
const keyResource = 1

// SerializeSRK writes the storage root key as ESYS_TR_Serialize of tpm2-tss does
// (systemd: tpm2_calculate_serialize): handle, TPM2B_NAME, kind, TPM2B_PUBLIC;
// all big endian.
func SerializeSRK(srk tpm.SRK) []byte {
	out := binary.BigEndian.AppendUint32(nil, srk.Handle)
	out = binary.BigEndian.AppendUint16(out, uint16(len(srk.Name)))
	out = append(out, srk.Name...)
	out = binary.BigEndian.AppendUint32(out, keyResource)
	return slices.Concat(out, srk.Public)
}

// SRKName returns the name, 34 bytes, of the storage root key that the token was
// made for. It refuses a key at another handle than the storage root key's, and
// a name that is not the one of the public area beside it.
func (t Token) SRKName() ([]byte, error) {
	if len(t.SRK) == 0 {
		return nil, fmt.Errorf("systemd-tpm2 token: %s is missing", fieldSRK)
	}
	var handle, kind uint32
	var name, area cryptobyte.String
	rest := cryptobyte.String(t.SRK)
	if !rest.ReadUint32(&handle) || !rest.ReadUint16LengthPrefixed(&name) ||
		!rest.ReadUint32(&kind) || kind != keyResource ||
		!rest.ReadUint16LengthPrefixed(&area) || !rest.Empty() {
		return nil, fmt.Errorf("systemd-tpm2 token: %s is malformed", fieldSRK)
	}
	if handle != tpm.SRKHandle {
		return nil, fmt.Errorf("systemd-tpm2 token: %w: the key is at handle %#x", ErrUnsupported, handle)
	}
	sum := sha256.Sum256(area)
	if string(name) != "\x00\x0b"+string(sum[:]) {
		return nil, errors.New("systemd-tpm2 token: the storage root key's name is not that of its public area")
	}
	return slices.Clone([]byte(name)), nil
}
