package measured

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"slices"
)

// Program is an EFI program, as the parts of its file that firmware hashes, in
// order.
type Program [][]byte

// Sum returns the program's digest, by which firmware knows it; h is at its
// beginning.
func (p Program) Sum(h hash.Hash) []byte {
	for _, part := range p {
		h.Write(part)
	}
	return h.Sum(nil)
}

// Offsets in a PE32+ file from its PE header (Microsoft's PE format).
const (
	sectionCount   = 4 + 2
	optionalSize   = 4 + 16
	optionalHeader = 4 + 20
	headerSize     = optionalHeader + 60
	checksum       = optionalHeader + 64
	directoryCount = optionalHeader + 108
	certificates   = optionalHeader + 112 + 8*certificateDirectory

	certificateDirectory = 4 // its index among the data directories
	sectionHeader        = 40
)

// ReadProgram returns what firmware hashes of a 64-bit PE file: everything but
// its checksum, its certificate table and the entry that points to that
// (Windows Authenticode Portable Executable Signature Format, "Calculating the
// PE Image Hash"). It follows edk2 (SecurityPkg/Library/DxeTpm2MeasureBootLib
// and OvmfPkg/Tcg/TdTcg2Dxe/MeasureBootPeCoff.c) where Microsoft's text leaves
// room: nothing is padded, so a file whose length is not a multiple of 8 has
// another digest than the one that a signature holds.
//
// A malformed file is an error, and so is one whose certificates are not at its
// end: firmware would hash a part of them.
func ReadProgram(file []byte) (Program, error) {
	le := binary.LittleEndian
	if len(file) < 64 || string(file[:2]) != "MZ" {
		return nil, errors.New("not a PE file: no MZ at its start")
	}
	// 64-bit arithmetic throughout: offsets are 32-bit numbers of the file's.
	size, pe := uint64(len(file)), uint64(le.Uint32(file[0x3c:]))
	if pe+certificates+8 > size || string(file[pe:pe+4]) != "PE\x00\x00" {
		return nil, fmt.Errorf("not a PE file: no PE header at %#x", pe)
	}
	if magic := le.Uint16(file[pe+optionalHeader:]); magic != 0x20b {
		return nil, fmt.Errorf("not a 64-bit PE file: optional header of kind %#x", magic)
	}
	sections := uint64(le.Uint16(file[pe+sectionCount:]))
	table := pe + optionalHeader + uint64(le.Uint16(file[pe+optionalSize:]))
	headers := uint64(le.Uint32(file[pe+headerSize:]))
	if le.Uint32(file[pe+directoryCount:]) <= certificateDirectory || pe+certificates+8 > table || table+sectionHeader*sections > size {
		return nil, errors.New("malformed PE file: its headers end too early")
	}
	if headers < pe+certificates+8 || headers > size {
		return nil, fmt.Errorf("malformed PE file: headers of %#x bytes", headers)
	}
	parts := Program{file[:pe+checksum], file[pe+checksum+4 : pe+certificates], file[pe+certificates+8 : headers]}

	type extent struct{ offset, size uint64 }
	var raw []extent
	for i := range sections {
		header := file[table+sectionHeader*i:]
		s := extent{offset: uint64(le.Uint32(header[20:])), size: uint64(le.Uint32(header[16:]))}
		if s.size == 0 {
			continue
		}
		if s.offset+s.size > size {
			return nil, fmt.Errorf("malformed PE file: section %d ends at %#x, the file at %#x", i, s.offset+s.size, size)
		}
		raw = append(raw, s)
	}
	slices.SortStableFunc(raw, func(a, b extent) int { return cmp.Compare(a.offset, b.offset) })
	done := headers
	for _, s := range raw {
		parts = append(parts, file[s.offset:s.offset+s.size])
		done += s.size
	}
	// What follows the sections, but for the certificates at its end, counts.
	place, length := uint64(le.Uint32(file[pe+certificates:])), uint64(le.Uint32(file[pe+certificates+4:]))
	switch {
	case done+length > size:
		return nil, fmt.Errorf("malformed PE file: certificates of %#x bytes", length)
	case length > 0 && place+length != size:
		return nil, errors.New("malformed PE file: the certificates are not at its end")
	}
	return append(parts, file[done:size-length]), nil
}
