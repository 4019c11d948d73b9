package pcr

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf16"

	"cc-base/tasks/fault"
)

// SecureBoot is the state that the firmware measures into PCR 7. The zero value
// is firmware without Secure Boot and without keys, such as OVMF_CODE_4M.fd with
// a fresh variable store.
type SecureBoot struct {
	// State is the content of the variable SecureBoot: empty in firmware that
	// does not know it, else 0 or 1.
	State []byte `json:"state,omitempty"`
	// The signature databases, as the variables hold them.
	PK  []byte `json:"pk,omitempty"`
	KEK []byte `json:"kek,omitempty"`
	DB  []byte `json:"db,omitempty"`
	DBX []byte `json:"dbx,omitempty"`
}

// On tells whether the firmware refuses images that it does not trust.
func (s SecureBoot) On() bool { return bytes.Equal(s.State, []byte{1}) }

// DefaultOwner is the signature owner that virt-fw-vars and OVMF's own
// enrolment program write.
const DefaultOwner = "a0baa8a3-041d-48a8-bc87-c36d121b5e3d"

// Keys are the certificates of a Secure Boot set.
type Keys struct{ PK, KEK, DB *x509.Certificate }

// Enrolled is [Keys.Enrolled] for one certificate in all three places.
func Enrolled(cert *x509.Certificate, owner GUID) SecureBoot {
	return Keys{PK: cert, KEK: cert, DB: cert}.Enrolled(owner)
}

// Enrolled returns Secure Boot switched on with the certificates, all with the
// owner, and the dbx that virt-fw-vars makes for --secure-boot: the digest of
// nothing, because firmware wants the variable to exist.
func (k Keys) Enrolled(owner GUID) SecureBoot {
	list := func(c *x509.Certificate) []byte { return signatureList(guidX509(), owner, c.Raw) }
	nothing := sha256.Sum256(nil)
	return SecureBoot{State: []byte{1}, PK: list(k.PK), KEK: list(k.KEK), DB: list(k.DB), DBX: signatureList(guidSHA256(), known(DefaultOwner), nothing[:])}
}

// signatureList returns an EFI_SIGNATURE_LIST of one signature (UEFI 2.10,
// section 32.4.1).
func signatureList(kind, owner GUID, data []byte) []byte {
	le := binary.LittleEndian
	size := uint32(len(owner) + len(data))
	b := append([]byte{}, kind[:]...)
	b = le.AppendUint32(b, signatureListHeader+size)
	b = le.AppendUint32(b, 0) // no signature header
	b = le.AppendUint32(b, size)
	b = append(b, owner[:]...)
	return append(b, data...)
}

const signatureListHeader = 16 + 3*4

// signatureData is one entry of a signature database: its kind, and owner and
// content as they are measured.
type signatureData struct {
	kind GUID
	raw  []byte // owner ‖ content
}

func (s signatureData) content() []byte { return s.raw[16:] }

// parseSignatures reads the lists of a signature database.
func parseSignatures(db []byte) ([]signatureData, error) {
	le := binary.LittleEndian
	var found []signatureData
	for len(db) > 0 {
		if len(db) < signatureListHeader {
			return nil, errors.New("a signature list is cut short")
		}
		kind := GUID(db[:16])
		all, header, size := uint64(le.Uint32(db[16:])), uint64(le.Uint32(db[20:])), uint64(le.Uint32(db[24:]))
		if all > uint64(len(db)) || signatureListHeader+header > all || size <= 16 || (all-signatureListHeader-header)%size != 0 {
			return nil, errors.New("the sizes in a signature list contradict each other")
		}
		for s := db[signatureListHeader+header : all]; len(s) > 0; s = s[size:] {
			found = append(found, signatureData{kind, s[:size]})
		}
		db = db[all:]
	}
	return found, nil
}

// authority returns the entry of db because of which the firmware starts the
// image. An image that it would refuse is an error.
func (s SecureBoot) authority(m Image) (signatureData, error) {
	allowed, err := parseSignatures(s.DB)
	if err != nil {
		return signatureData{}, fmt.Errorf("db: %w", err)
	}
	refused, err := parseSignatures(s.DBX)
	if err != nil {
		return signatureData{}, fmt.Errorf("dbx: %w", err)
	}
	if len(m.Signer) == 0 {
		return signatureData{}, errors.New("the image is not signed: firmware with Secure Boot refuses it")
	}
	leaf, err := x509.ParseCertificate(m.Signer)
	if err != nil {
		return signatureData{}, fmt.Errorf("the signer's certificate: %w", err)
	}
	if _, found := matching(refused, m, leaf); found {
		return signatureData{}, errors.New("dbx forbids the image or its signer: the firmware refuses it")
	}
	entry, found := matching(allowed, m, leaf)
	if !found {
		return signatureData{}, fmt.Errorf("no certificate in db is that of the image's signer, %s: the firmware refuses it", leaf.Subject)
	}
	return entry, nil
}

// matching returns the first entry that is the image's digest, its signer or
// the issuer of its signer.
func matching(entries []signatureData, m Image, leaf *x509.Certificate) (signatureData, bool) {
	for _, e := range entries {
		switch e.kind {
		case guidSHA256():
			if bytes.Equal(e.content(), m.Authenticode[SHA256]) {
				return e, true
			}
		case guidX509():
			trusted, err := x509.ParseCertificate(e.content())
			if err == nil && (trusted.Equal(leaf) || leaf.CheckSignatureFrom(trusted) == nil) {
				return e, true
			}
		}
	}
	return signatureData{}, false
}

// Sizes in a variable store (edk2 MdeModulePkg/Include/Guid/VariableFormat.h).
const (
	volumeHeader   = 56 // without the block map
	storeHeader    = 28
	variableHeader = 60
	variableStart  = 0x55aa
	storeFormatted = 0x5a
	storeHealthy   = 0xfe
	stateAdded     = 0x3f
	stateReplacing = 0x3e // added, and in transition to a new value that may not be there
)

// ReadVars reads the Secure Boot state out of an OVMF variable store
// (OVMF_VARS*.fd, or a whole OVMF.fd, which begins with one). A store without a
// platform key is taken to belong to firmware without Secure Boot: a store does
// not tell. Its errors have the code fault.BootImage.
func ReadVars(fd []byte) (SecureBoot, error) {
	found, err := readVars(fd)
	if err != nil {
		return SecureBoot{}, fault.New(fault.BootImage, fmt.Errorf("the EFI variable store: %w", err))
	}
	s := SecureBoot{
		PK: found[variable{guidGlobal(), "PK"}], KEK: found[variable{guidGlobal(), "KEK"}],
		DB: found[variable{guidImageSecurity(), "db"}], DBX: found[variable{guidImageSecurity(), "dbx"}],
	}
	if len(s.PK) > 0 {
		s.State = []byte{0}
		// Missing means on: the firmware makes it so when it finds a PK.
		if enable, ok := found[variable{guidSecureBootEnable(), "SecureBootEnable"}]; !ok || bytes.Equal(enable, []byte{1}) {
			s.State = []byte{1}
		}
	}
	return s, nil
}

type variable struct {
	vendor GUID
	name   string
}

// readVars returns every variable that is in force.
func readVars(fd []byte) (map[variable][]byte, error) {
	le := binary.LittleEndian
	if len(fd) < volumeHeader || GUID(fd[16:32]) != guidVolumeOfVars() || string(fd[40:44]) != "_FVH" {
		return nil, errors.New("it does not begin with a volume of variables")
	}
	start := uint64(le.Uint16(fd[48:]))
	if start < volumeHeader || start+storeHeader > uint64(len(fd)) {
		return nil, errors.New("its header is outside the file")
	}
	store := fd[start:]
	size := uint64(le.Uint32(store[16:]))
	if GUID(store[:16]) != guidStore() || store[20] != storeFormatted || store[21] != storeHealthy {
		return nil, errors.New("it holds no authenticated variables")
	}
	if size < storeHeader || size > uint64(len(store)) {
		return nil, errors.New("it is longer than the file")
	}
	found, added := map[variable][]byte{}, map[variable]bool{}
	for at := uint64(storeHeader); at+variableHeader <= size && le.Uint16(store[at:]) == variableStart; {
		h := store[at:]
		state, name, data := h[2], uint64(le.Uint32(h[36:])), uint64(le.Uint32(h[40:]))
		if name > size || data > size || at+variableHeader+name+data > size || name%2 != 0 {
			return nil, errors.New("a variable is outside the store")
		}
		v := variable{GUID(h[44:60]), utf16Text(h[variableHeader : variableHeader+name])}
		if state == stateAdded || state == stateReplacing && !added[v] {
			found[v], added[v] = h[variableHeader+name:variableHeader+name+data], state == stateAdded
		}
		at += (variableHeader + name + data + 3) &^ 3
	}
	return found, nil
}

// utf16Text returns UTF-16 up to its final NUL.
func utf16Text(b []byte) string {
	var units []uint16
	for ; len(b) >= 2; b = b[2:] {
		u := binary.LittleEndian.Uint16(b)
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}
