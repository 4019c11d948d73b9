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

// Section is one section of a UKI.
type Section struct {
	Name string
	Data []byte
}

// MeasuredSections returns those of the sections that systemd-stub measures, in
// the order in which it does so. To the stub, an empty section is none.
func MeasuredSections(sections map[string][]byte) []Section {
	var measured []Section
	for _, name := range measuredNames() {
		if data := sections[name]; len(data) > 0 {
			measured = append(measured, Section{name, data})
		}
	}
	return measured
}

// measuredNames is the order in which systemd-stub measures a UKI's sections,
// whatever their order in the file (systemd 257 src/fundamental/uki.h, enum
// UnifiedSection; .pcrsig is left out because it signs the result).
func measuredNames() []string {
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
	for _, s := range MeasuredSections(sections) {
		extend(append([]byte(s.Name), 0))
		extend(s.Data)
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
		} else if uint64(s.VirtualSize) > uint64(len(data)) && slices.Contains(measuredNames(), s.Name) {
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
