// Package pcr predicts what a TPM's platform configuration registers (PCRs)
// will hold after a boot of our image, from files alone, and compares it with
// what a machine has logged.
//
// A prediction is not a set of hashes but a [Log]: the list of measurements in
// the order in which a real machine makes them, each with a text. A real event
// log is read into the same type by [Parse], so that [Diff] can say which
// measurement differed first, and not only that a hash is another one.
//
// What is modelled is OVMF (edk2 2025.02) that starts the UKI from the ESP of a
// disk, systemd-stub 257 in it, and the EFI stub of Linux 6.12. A test holds the
// prediction against logs recorded from such a machine, with Secure Boot and
// without.
//
// The predicted registers are
//
//	4   boot programs: the UKI and, without Secure Boot, the kernel in it
//	5   partition table, end of the boot services
//	7   Secure Boot: variables and the certificate that the UKI was accepted by
//	9   kernel command line and initrd, measured by the kernel's EFI stub
//	11  the UKI's sections, measured by systemd-stub, and boot phases
//	12  additions to the command line, credentials: none, so zero
//	13  system extensions: none, so zero
//
// PCRs 0, 1, 2, 3 and 6 belong to the firmware and to the virtual machine's
// shape and are not predicted.
package pcr

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"slices"
)

// Bank is a TPM's set of PCRs with one hash algorithm.
type Bank string

// The banks that are predicted. SHA-1 is not: nothing may be bound to it.
const (
	SHA256 Bank = "sha256"
	SHA384 Bank = "sha384"
)

// Banks returns the predicted banks.
func Banks() []Bank { return []Bank{SHA256, SHA384} }

// New returns the bank's hash function, or nil for an unknown bank.
func (b Bank) New() hash.Hash {
	switch b {
	case SHA256:
		return sha256.New()
	case SHA384:
		return sha512.New384()
	}
	return nil
}

// Hex is a digest; as text it is lower-case hexadecimal.
type Hex []byte

// String returns the digits.
func (h Hex) String() string { return hex.EncodeToString(h) }

// MarshalText implements encoding.TextMarshaler.
func (h Hex) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hex) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err != nil {
		return err
	}
	*h = b
	return nil
}

// Digests is one measurement in every bank.
type Digests map[Bank]Hex

// sum returns the digests of data.
func sum(data []byte) Digests {
	d := Digests{}
	for _, b := range Banks() {
		h := b.New()
		h.Write(data)
		d[b] = h.Sum(nil)
	}
	return d
}

// EventType is the kind of a measurement (TCG PC Client Platform Firmware
// Profile 1.06, section 10.4.1).
type EventType uint32

// The types that OVMF, systemd-stub and Linux write.
const (
	NoAction        EventType = 0x3
	Separator       EventType = 0x4
	EventTag        EventType = 0x6
	SCRTMVersion    EventType = 0x8
	PlatformConfig  EventType = 0xa
	IPL             EventType = 0xd
	VariableConfig  EventType = 0x80000001
	VariableBoot    EventType = 0x80000002
	BootApplication EventType = 0x80000003
	BootDriver      EventType = 0x80000004
	RuntimeDriver   EventType = 0x80000005
	GPT             EventType = 0x80000006
	Action          EventType = 0x80000007
	FirmwareBlob    EventType = 0x80000008
	HandoffTables   EventType = 0x80000009
	FirmwareBlob2   EventType = 0x8000000a
	HandoffTables2  EventType = 0x8000000b
	VariableBoot2   EventType = 0x8000000c
	Authority       EventType = 0x800000e0
)

// eventNames has the types' names in the specification.
func eventNames() map[EventType]string {
	return map[EventType]string{
		NoAction: "EV_NO_ACTION", Separator: "EV_SEPARATOR", EventTag: "EV_EVENT_TAG", SCRTMVersion: "EV_S_CRTM_VERSION",
		PlatformConfig: "EV_PLATFORM_CONFIG_FLAGS", IPL: "EV_IPL",
		VariableConfig: "EV_EFI_VARIABLE_DRIVER_CONFIG", VariableBoot: "EV_EFI_VARIABLE_BOOT",
		BootApplication: "EV_EFI_BOOT_SERVICES_APPLICATION", BootDriver: "EV_EFI_BOOT_SERVICES_DRIVER",
		RuntimeDriver: "EV_EFI_RUNTIME_SERVICES_DRIVER", GPT: "EV_EFI_GPT_EVENT", Action: "EV_EFI_ACTION",
		FirmwareBlob: "EV_EFI_PLATFORM_FIRMWARE_BLOB", HandoffTables: "EV_EFI_HANDOFF_TABLES",
		FirmwareBlob2: "EV_EFI_PLATFORM_FIRMWARE_BLOB2", HandoffTables2: "EV_EFI_HANDOFF_TABLES2",
		VariableBoot2: "EV_EFI_VARIABLE_BOOT2", Authority: "EV_EFI_VARIABLE_AUTHORITY",
	}
}

// String returns the name in the specification, or the number.
func (t EventType) String() string {
	if name, ok := eventNames()[t]; ok {
		return name
	}
	return fmt.Sprintf("%#x", uint32(t))
}

// MarshalText implements encoding.TextMarshaler.
func (t EventType) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// Event is one measurement: the PCR is extended with the digest of its bank.
type Event struct {
	PCR     int       `json:"pcr"`
	Type    EventType `json:"type"`
	What    string    `json:"what"` // in words
	Digests Digests   `json:"digests"`
}

// Log is a list of measurements in order, and the PCRs of which it claims to
// hold every one. A PCR without a measurement is all zeros.
type Log struct {
	PCRs   []int   `json:"pcrs"`
	Events []Event `json:"events"`
}

// Of returns the log's measurements of one PCR.
func (l Log) Of(pcr int) []Event {
	var found []Event
	for _, e := range l.Events {
		if e.PCR == pcr {
			found = append(found, e)
		}
	}
	return found
}

// Replay returns the values that the bank's PCRs have after the log: each
// starts as zeros, and every measurement replaces the value v by H(v ‖ digest).
// A measurement without a digest for the bank, or with one of another length,
// is an error.
func (l Log) Replay(bank Bank) (map[int]Hex, error) {
	h := bank.New()
	if h == nil {
		return nil, fmt.Errorf("there is no bank %q", bank)
	}
	values := map[int]Hex{}
	for _, pcr := range l.PCRs {
		values[pcr] = make(Hex, h.Size())
	}
	for i, e := range l.Events {
		if e.Type == NoAction || !slices.Contains(l.PCRs, e.PCR) {
			continue
		}
		d := e.Digests[bank]
		if len(d) != h.Size() {
			return nil, fmt.Errorf("event %d (%s) has no digest for bank %s", i+1, e.What, bank)
		}
		h.Reset()
		h.Write(values[e.PCR])
		h.Write(d)
		values[e.PCR] = h.Sum(nil)
	}
	return values, nil
}
