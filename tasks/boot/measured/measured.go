// Package measured knows what is measured when our image boots: which bytes
// firmware, systemd-stub and Linux take of a program, of a partition table and
// of a unified kernel image (UKI). Into which register they go and by which hash
// is another matter: a TPM and a TDX guest measure the same bytes.
//
//	program, err := measured.ReadProgram(uki)
//	digest := program.Sum(sha512.New384())
//
// What is modelled is edk2 2025.02 (OVMF), systemd-stub 257 and the EFI stub of
// Linux 6.12.
package measured

import (
	"encoding/binary"
	"unicode/utf16"
)

// The actions that firmware measures as their text (TCG PC Client Platform
// Firmware Profile, EV_EFI_ACTION).
const (
	CallingApplication  = "Calling EFI Application from Boot Option"
	ExitingBootServices = "Exit Boot Services Invocation"
	ExitedBootServices  = "Exit Boot Services Returned with Success"
)

// Separator returns what firmware measures between its own events and those of
// the system that it starts (the same text, EV_SEPARATOR).
func Separator() []byte { return make([]byte, 4) }

// Variable returns what is measured of an EFI variable, UEFI_VARIABLE_DATA (the
// same text, 10.2.6): GUID, lengths of name in characters and data in bytes,
// name in UTF-16 without NUL, data. The GUID is in the byte order of EFI's
// structures.
func Variable(vendor [16]byte, name string, data []byte) []byte {
	le, units := binary.LittleEndian, utf16.Encode([]rune(name))
	b := append([]byte{}, vendor[:]...)
	b = le.AppendUint64(b, uint64(len(units)))
	b = le.AppendUint64(b, uint64(len(data)))
	for _, u := range units {
		b = le.AppendUint16(b, u)
	}
	return append(b, data...)
}

// LoadOptions returns a command line as Linux measures it: UTF-16,
// little-endian, with a final NUL.
func LoadOptions(line string) []byte {
	var b []byte
	for _, unit := range append(utf16.Encode([]rune(line)), 0) {
		b = binary.LittleEndian.AppendUint16(b, unit)
	}
	return b
}
