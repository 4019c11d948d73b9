package tdx

import (
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Authenticode returns what firmware measures of an EFI program: SHA-384 over
// the PE file without its checksum, its certificate table and the entry that
// points to that. It follows edk2 (OvmfPkg/Tcg/TdTcg2Dxe/MeasureBootPeCoff.c)
// where Microsoft's text leaves room: nothing is padded, so a file whose
// length is not a multiple of 8 has another digest than the one that a
// signature holds. A malformed file is an error.
func Authenticode(file []byte) (Digest, error) {
	le := binary.LittleEndian
	if len(file) < 64 || string(file[:2]) != "MZ" {
		return Digest{}, errors.New("not a PE file: no MZ at its start")
	}
	// 64-bit arithmetic throughout: offsets are 32-bit numbers of the file's.
	size := uint64(len(file))
	pe := uint64(le.Uint32(file[0x3c:]))
	optional := pe + 24
	if optional+2 > size || string(file[pe:pe+4]) != "PE\x00\x00" {
		return Digest{}, fmt.Errorf("not a PE file: no PE header at %#x", pe)
	}
	sections := uint64(le.Uint16(file[pe+6:]))
	optionalSize := uint64(le.Uint16(file[pe+20:]))
	var directories uint64 // the number of data directories; they follow it
	switch magic := le.Uint16(file[optional:]); magic {
	case 0x10b:
		directories = optional + 92
	case 0x20b:
		directories = optional + 108
	default:
		return Digest{}, fmt.Errorf("not a PE file: optional header of kind %#x", magic)
	}
	table := optional + optionalSize
	if directories+4 > table || table+40*sections > size {
		return Digest{}, errors.New("malformed PE file: its headers end too early")
	}
	checksum := optional + 64
	headers := uint64(le.Uint32(file[optional+60:]))
	skipFrom, skipTo, certificates := headers, headers, uint64(0)
	const security = 4 // index of the certificate table's directory
	if count := uint64(le.Uint32(file[directories:])); count > security {
		skipFrom = directories + 4 + 8*security
		skipTo = skipFrom + 8
		if skipTo > table {
			return Digest{}, errors.New("malformed PE file: its headers end too early")
		}
		certificates = uint64(le.Uint32(file[skipFrom+4:]))
	}
	if headers < skipTo || headers < checksum+4 || headers > size {
		return Digest{}, fmt.Errorf("malformed PE file: headers of %#x bytes", headers)
	}

	h := sha512.New384()
	h.Write(file[:checksum])
	h.Write(file[checksum+4 : skipFrom])
	h.Write(file[skipTo:headers])
	type extent struct{ offset, size uint64 }
	var raw []extent
	for i := range sections {
		header := file[table+40*i:]
		s := extent{offset: uint64(le.Uint32(header[20:])), size: uint64(le.Uint32(header[16:]))}
		if s.size == 0 {
			continue
		}
		if s.offset+s.size > size {
			return Digest{}, fmt.Errorf("malformed PE file: section %d ends at %#x, the file at %#x", i, s.offset+s.size, size)
		}
		raw = append(raw, s)
	}
	slices.SortStableFunc(raw, func(a, b extent) int {
		return int(int64(a.offset) - int64(b.offset))
	})
	done := headers
	for _, s := range raw {
		h.Write(file[s.offset : s.offset+s.size])
		done += s.size
	}
	// What follows the sections, but for the certificates at its end, counts.
	if size > done {
		if done+certificates > size {
			return Digest{}, fmt.Errorf("malformed PE file: certificates of %#x bytes", certificates)
		}
		h.Write(file[done : size-certificates])
	}
	return Digest(h.Sum(nil)), nil
}
