package pcr

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// GUID is an identifier of EFI in the byte order of its structures: the first
// three groups little endian, the rest as written.
type GUID [16]byte

// ParseGUID reads the usual text, such as
// a0baa8a3-041d-48a8-bc87-c36d121b5e3d.
func ParseGUID(text string) (GUID, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(b) != 16 || len(text) != 36 {
		return GUID{}, fmt.Errorf("%q is not a GUID", text)
	}
	var g GUID
	copy(g[:], b)
	g.swap()
	return g, nil
}

// String returns the usual text.
func (g GUID) String() string {
	g.swap()
	return fmt.Sprintf("%x-%x-%x-%x-%x", g[:4], g[4:6], g[6:8], g[8:10], g[10:])
}

func (g *GUID) swap() {
	binary.LittleEndian.PutUint32(g[:], binary.BigEndian.Uint32(g[:]))
	binary.LittleEndian.PutUint16(g[4:], binary.BigEndian.Uint16(g[4:]))
	binary.LittleEndian.PutUint16(g[6:], binary.BigEndian.Uint16(g[6:]))
}

// known returns a GUID that is written in this program.
func known(text string) GUID {
	g, err := ParseGUID(text)
	if err != nil {
		panic(err) // a constant of this package is misspelt
	}
	return g
}

// The GUIDs of variables and signature lists (UEFI 2.10, sections 3.3 and
// 32.4; edk2 SecurityPkg).
func guidGlobal() GUID           { return known("8be4df61-93ca-11d2-aa0d-00e098032b8c") }
func guidImageSecurity() GUID    { return known("d719b2cb-3d3a-4596-a3bc-dad00e67656f") }
func guidSecureBootEnable() GUID { return known("f0a30bc7-af08-4556-99c4-001009c93a44") }
func guidX509() GUID             { return known("a5c059a1-94e4-4aa7-87b5-ab155c2bf072") }
func guidSHA256() GUID           { return known("c1c41626-504c-4092-aca9-41f936934328") }
func guidVolumeOfVars() GUID     { return known("fff12b8d-7696-4c8b-a985-2747075b4f50") }
func guidStore() GUID            { return known("aaf32c78-947b-439a-a180-2e144ec37792") }
