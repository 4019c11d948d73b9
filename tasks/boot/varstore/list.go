package varstore

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"cc-base/tasks/fault"
	"cc-base/tasks/tpm/pcr"
)

// Kind is what a signature in a store is.
type Kind string

// The kinds that this project writes. Of others, Kind is the GUID's text.
const (
	X509   Kind = "x509"   // a certificate in DER
	SHA256 Kind = "sha256" // the Authenticode digest of one image
)

// Entry is one signature of a database.
type Entry struct {
	Kind  Kind
	Owner uuid.UUID
	Data  []byte
}

// Store is what a variable store, or firmware with one, says of Secure Boot.
type Store struct {
	On               bool // images that DB does not vouch for are refused
	PK, KEK, DB, DBX []Entry
}

// List reads the keys of a variable store, or of firmware that begins with one,
// as OVMF's builds do. Its errors have the code fault.BootImage.
func List(data []byte) (Store, error) {
	raw, err := pcr.ReadVars(data)
	if err != nil {
		return Store{}, err
	}
	s := Store{On: raw.On()}
	for _, v := range []struct {
		name string
		raw  []byte
		to   *[]Entry
	}{{"PK", raw.PK, &s.PK}, {"KEK", raw.KEK, &s.KEK}, {"db", raw.DB, &s.DB}, {"dbx", raw.DBX, &s.DBX}} {
		if *v.to, err = signatures(v.raw); err != nil {
			return Store{}, fault.New(fault.BootImage, fmt.Errorf("%s: %w", v.name, err))
		}
	}
	return s, nil
}

// Sizes of an EFI_SIGNATURE_LIST's head and of a signature's owner, in bytes
// (UEFI 2.10, section 32.4.1).
const (
	listHead  = 16 + 3*4
	ownerSize = 16
)

// signatures reads the lists of a signature database.
func signatures(db []byte) ([]Entry, error) {
	le := binary.LittleEndian
	var entries []Entry
	for len(db) > 0 {
		if len(db) < listHead {
			return nil, errors.New("a signature list is cut short")
		}
		list, head, size := uint64(le.Uint32(db[16:])), uint64(le.Uint32(db[20:])), uint64(le.Uint32(db[24:]))
		if list > uint64(len(db)) || listHead+head > list || size < ownerSize || (list-listHead-head)%size != 0 {
			return nil, errors.New("the sizes in a signature list contradict each other")
		}
		kind := kindOf(guid(db))
		for rest := db[listHead+head : list]; len(rest) > 0; rest = rest[size:] {
			entries = append(entries, Entry{Kind: kind, Owner: guid(rest), Data: rest[ownerSize:size]})
		}
		db = db[list:]
	}
	return entries, nil
}

func kindOf(id uuid.UUID) Kind {
	switch text := id.String(); text {
	case "a5c059a1-94e4-4aa7-87b5-ab155c2bf072":
		return X509
	case "c1c41626-504c-4092-aca9-41f936934328":
		return SHA256
	default:
		return Kind(text)
	}
}

// guid reads an identifier as EFI stores it: its first three groups little
// endian.
func guid(b []byte) uuid.UUID {
	g := pcr.GUID(b[:16])
	return uuid.MustParse(g.String())
}

// volumeSize returns the length of the firmware volume with the variables, with
// which the data begins (UEFI Platform Initialization 1.7, volume 3, section
// 3.2.1: FvLength behind the zero vector and the file system's GUID). The file
// itself is longer where code follows.
func volumeSize(data []byte) (uint64, error) {
	const length = 16 + 16
	if len(data) < length+8 {
		return 0, errors.New("too short for a firmware volume")
	}
	size := binary.LittleEndian.Uint64(data[length:])
	if size > uint64(len(data)) {
		return 0, fmt.Errorf("a volume of %d bytes does not fit into the %d of the file", size, len(data))
	}
	return size, nil
}
