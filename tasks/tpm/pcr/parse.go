package pcr

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"cc-base/tasks/fault"
)

// Bounds of a log that is still believed. Linux keeps 64 KiB and more for it; a
// boot of ours needs about 15 KiB.
const (
	maxLog   = 4 << 20
	maxPCR   = 23
	maxBanks = 16
)

// Algorithm identifiers of the TPM (TCG Algorithm Registry).
const (
	algSHA256 = 0x000b
	algSHA384 = 0x000c
)

// Parse reads a firmware's event log as Linux shows it in
// /sys/kernel/security/tpm0/binary_bios_measurements: a header in the form of
// TPM 1.2 that names the banks, then events with a digest for each (TCG PC
// Client Platform Firmware Profile, section 10.2). The log is foreign input:
// what it says of an event is only a text; its digests can be held against PCRs
// with Replay. Banks other than SHA-256 and SHA-384 are left out. Its errors
// have the code fault.Damaged.
func Parse(raw []byte) (Log, error) {
	log, err := parse(raw)
	if err != nil {
		return Log{}, fault.New(fault.Damaged, fmt.Errorf("the event log: %w", err))
	}
	return log, nil
}

func parse(raw []byte) (Log, error) {
	if len(raw) > maxLog {
		return Log{}, fmt.Errorf("it is longer than %d bytes", maxLog)
	}
	r := &reader{left: raw}
	sizes, err := parseHeader(r)
	if err != nil {
		return Log{}, err
	}
	log := Log{Events: []Event{}}
	for pcr := 0; pcr <= maxPCR; pcr++ {
		log.PCRs = append(log.PCRs, pcr)
	}
	for n := 1; len(r.left) > 0; n++ {
		e, err := parseEvent(r, sizes)
		if err != nil {
			return Log{}, fmt.Errorf("event %d: %w", n, err)
		}
		log.Events = append(log.Events, e)
	}
	return log, nil
}

// parseHeader reads the first event and returns the digest size of each
// algorithm.
func parseHeader(r *reader) (map[uint16]int, error) {
	const sha1Size = 20
	pcr, kind := r.u32(), EventType(r.u32())
	r.bytes(sha1Size)
	spec := &reader{left: r.bytes(uint64(r.u32()))}
	if r.short || pcr != 0 || kind != NoAction || string(spec.bytes(16)) != "Spec ID Event03\x00" {
		return nil, errors.New("it does not begin with the header of a TPM 2.0 log")
	}
	spec.bytes(8) // platform class, version of the specification, size of UINTN
	n := spec.u32()
	if n == 0 || n > maxBanks {
		return nil, fmt.Errorf("it has %d banks", n)
	}
	sizes := map[uint16]int{}
	for range n {
		alg, size := spec.u16(), int(spec.u16())
		if _, twice := sizes[alg]; twice || size == 0 || size > 64 {
			return nil, errors.New("its list of banks is wrong")
		}
		sizes[alg] = size
	}
	if spec.short {
		return nil, errors.New("its header is cut short")
	}
	if size, ok := sizes[algSHA256]; ok && size != 32 {
		return nil, errors.New("its list of banks is wrong")
	}
	if size, ok := sizes[algSHA384]; ok && size != 48 {
		return nil, errors.New("its list of banks is wrong")
	}
	return sizes, nil
}

func parseEvent(r *reader, sizes map[uint16]int) (Event, error) {
	pcr, kind, n := r.u32(), EventType(r.u32()), r.u32()
	if pcr > maxPCR {
		return Event{}, fmt.Errorf("there is no PCR %d", pcr)
	}
	if n > uint32(len(sizes)) {
		return Event{}, fmt.Errorf("it has %d digests for %d banks", n, len(sizes))
	}
	e := Event{PCR: int(pcr), Type: kind, Digests: Digests{}}
	for range n {
		alg := r.u16()
		size, ok := sizes[alg]
		if !ok && !r.short {
			return Event{}, fmt.Errorf("it has a digest for bank %#x, which the header does not name", alg)
		}
		d := Hex(r.bytes(uint64(size)))
		switch alg {
		case algSHA256:
			e.Digests[SHA256] = d
		case algSHA384:
			e.Digests[SHA384] = d
		}
	}
	data := r.bytes(uint64(r.u32()))
	if r.short {
		return Event{}, errors.New("it is cut short")
	}
	e.What = describe(kind, data)
	return e, nil
}

// describe says in words what a logged event speaks of. Nothing here is
// trusted, so it is only shown, as one line of printable text.
func describe(kind EventType, data []byte) string {
	switch kind {
	case Separator:
		if bytes.Equal(data, make([]byte, 4)) {
			return "end of the firmware's own measurements"
		}
		return fmt.Sprintf("separator %x: the firmware reports an error", head(data, 8))
	case Action, PlatformConfig, NoAction:
		return printable(string(data))
	case IPL, SCRTMVersion:
		return printable(utf16Text(data))
	case EventTag:
		if len(data) > 8 {
			return printable(string(data[8:]))
		}
	case VariableConfig, VariableBoot, VariableBoot2, Authority:
		r := &reader{left: data}
		r.bytes(16)
		units, size := r.u64(), r.u64()
		if units <= uint64(len(data)) {
			if name := utf16Text(r.bytes(2 * units)); !r.short {
				return printable(fmt.Sprintf("variable %s (%d bytes)", name, size))
			}
		}
	case BootApplication, BootDriver, RuntimeDriver:
		r := &reader{left: data}
		r.u64()
		if size := r.u64(); !r.short {
			return fmt.Sprintf("EFI program of %d bytes", size)
		}
	case GPT:
		const header = 92 // UEFI 2.10, section 5.3.2
		if len(data) >= header {
			return "partition table of disk " + GUID(data[56:72]).String()
		}
	}
	return fmt.Sprintf("%d bytes", len(data))
}

// printable keeps what can be shown in one line of bounded length.
func printable(text string) string {
	const longest = 80
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, text)
	if len(text) > longest {
		text = text[:longest] + "..."
	}
	return text
}

func head(b []byte, n int) []byte { return b[:min(n, len(b))] }

// reader takes little-endian fields off a buffer; once it was too short, short
// is set and every field is zero.
type reader struct {
	left  []byte
	short bool
}

func (r *reader) bytes(n uint64) []byte {
	if r.short || n > uint64(len(r.left)) {
		r.short, r.left = true, nil
		return nil
	}
	b := r.left[:n:n]
	r.left = r.left[n:]
	return b
}

func (r *reader) u16() uint16 {
	if b := r.bytes(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.bytes(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.bytes(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}
