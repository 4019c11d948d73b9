// Package tdx computes the measurements of an Intel TDX guest without one: MRTD
// from the firmware image, RTMR 1 and 2 from what is booted, RTMR 0 from what
// the host tells the guest about itself.
//
//	mrtd, err := tdx.MRTD(image, tdx.SinglePass)
//	log, err := tdx.RTMR2(tdx.Boot{UKI: uki})
//	rtmr2 := log.Register()
//
// A register is the fold of a [Log]: each event extends it by SHA-384. The logs
// are returned rather than the registers, because whoever finds a difference on
// a real machine wants to know which event it is in.
//
// What is proven and what is not. MRTD agrees with two other calculators on two
// images. The events of the RTMRs are those of the sources named at each of
// them: edk2-stable202502 (OvmfPkg/Tcg/TdTcg2Dxe, SecurityPkg/Library/
// DxeTpm2MeasureBootLib), systemd 257 (src/boot) and Linux 6.12
// (drivers/firmware/efi/libstub). No RTMR was compared with a quote from
// hardware. Assumed everywhere: one boot attempt, no option ROMs (a network
// card without romfile), no shim, and QEMU 10.2 or later, which measures a
// kernel given by -kernel as the file is; earlier ones rewrite its setup header
// first, differently for each memory size.
package tdx

import (
	"crypto/sha512"
	"encoding/hex"
	"fmt"

	"cc-base/tasks/boot/measured"
)

// Digest is a measurement, SHA-384.
type Digest [48]byte

// String returns the digest in lower-case hexadecimal.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText makes JSON of a digest hexadecimal.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (d *Digest) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err != nil {
		return err
	}
	if len(b) != len(d) {
		return fmt.Errorf("a digest of %d bytes, want %d", len(b), len(d))
	}
	copy(d[:], b)
	return nil
}

// Event is one extension of a register.
type Event struct {
	Name   string `json:"name"`
	Digest Digest `json:"digest"`
}

// Log is everything that extends a register, in order.
type Log []Event

// Register returns the register's value after all events, from zeros: SHA-384
// of the former value and the event's digest.
func (l Log) Register() Digest {
	var r Digest
	for _, e := range l {
		r = sha512.Sum384(append(r[:], e.Digest[:]...))
	}
	return r
}

// add appends the event whose digest is that of data.
func (l *Log) add(data []byte, format string, args ...any) {
	*l = append(*l, Event{Name: fmt.Sprintf(format, args...), Digest: Hash(data)})
}

// separator appends the event between the firmware's own and those of the
// system that it starts.
func (l *Log) separator() { l.add(measured.Separator(), "separator") }

// efiGlobal and imageSecurity are the vendor GUIDs of the Secure Boot variables
// (UEFI 2.10, 32.3 and 32.4.1).
const (
	efiGlobal     = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
	imageSecurity = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
)

// Hash returns the digest of an event's data.
func Hash(data []byte) Digest { return sha512.Sum384(data) }
