package boot

import (
	"bytes"
	"crypto/sha256"
	"debug/pe"
	"fmt"
	"slices"
	"strings"

	"cc-base/tasks/fault"
)

// measuredSections is the order in which systemd-stub extends PCR 11 with the
// UKI's sections, whatever their order in the file (systemd 257
// src/fundamental/uki.h, enum UnifiedSection; .pcrsig is left out because it
// signs the result).
func measuredSections() []string {
	return []string{".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey", ".profile", ".dtbauto", ".hwids"}
}

// PCR11 returns the SHA-256 value of PCR 11 after systemd-stub has measured
// the UKI and after each of the phases in turn, such as "enter-initrd": for
// each section present, the name with its final NUL, then the content; then
// each phase word (systemd.io UAPI.5, systemd-measure(1)).
func PCR11(uki []byte, phases ...string) ([32]byte, error) {
	sections, err := Sections(uki)
	if err != nil {
		return [32]byte{}, err
	}
	var pcr [32]byte
	extend := func(data []byte) {
		d := sha256.Sum256(data)
		pcr = sha256.Sum256(append(pcr[:], d[:]...))
	}
	for _, name := range measuredSections() {
		data, ok := sections[name]
		if !ok {
			continue
		}
		extend(append([]byte(name), 0))
		extend(data)
	}
	for _, phase := range phases {
		extend([]byte(phase))
	}
	return pcr, nil
}

// Sections returns the content of the UKI's sections by name, each as long as
// its virtual size says: the padding up to the file alignment is not measured.
func Sections(uki []byte) (map[string][]byte, error) {
	f, err := pe.NewFile(bytes.NewReader(uki))
	if err != nil {
		return nil, fault.New(fault.BootImage, fmt.Errorf("not a PE file: %w", err))
	}
	out := map[string][]byte{}
	for _, s := range f.Sections {
		if !strings.HasPrefix(s.Name, ".") {
			continue
		}
		data, err := s.Data()
		if err != nil {
			return nil, fault.New(fault.BootImage, fmt.Errorf("section %s: %w", s.Name, err))
		}
		if uint64(s.VirtualSize) < uint64(len(data)) {
			data = data[:s.VirtualSize]
		} else if uint64(s.VirtualSize) > uint64(len(data)) && slices.Contains(measuredSections(), s.Name) {
			// The stub would measure zeros that are not in the file.
			return nil, fault.Newf(fault.BootImage, "section %s has %d bytes, its header says %d", s.Name, len(data), s.VirtualSize)
		}
		if _, twice := out[s.Name]; twice {
			return nil, fault.Newf(fault.BootImage, "section %s is there twice", s.Name)
		}
		out[s.Name] = data
	}
	return out, nil
}
