// Package measurements is the document that says, before any boot, what a
// genuine machine will measure: measurements.json. It is computed from the
// built files alone.
//
// At this schema it holds the digests of everything that is started and PCR 11;
// nothing here speaks of a TEE's launch measurement.
package measurements

import (
	"bytes"
	"encoding/hex"
	"encoding/json"

	"cc-base/tasks/boot"
	"cc-base/tasks/digest"
	"cc-base/tasks/fault"
	"cc-base/tasks/manifest"
)

// Schema is the version of the format.
const Schema = 1

// Document is measurements.json. Digests are lower-case hexadecimal SHA-256.
type Document struct {
	Schema      int        `json:"schema"`
	Name        string     `json:"name"`
	Profile     string     `json:"profile"`
	CommandLine string     `json:"commandLine"` // exact
	UKI         string     `json:"uki"`         // of the file cc-base.efi
	Kernel      string     `json:"kernel"`      // of its .linux section
	Initrd      string     `json:"initrd"`      // of its .initrd section
	Cmdline     string     `json:"cmdline"`     // of its .cmdline section
	PCR11       []PCRValue `json:"pcr11"`       // by boot phase
	Firmware    []Firmware `json:"firmware"`    // that the installer carries
}

// PCRValue is what a PCR holds at one point of the boot.
type PCRValue struct {
	After  string `json:"after"` // "uki", or the boot phase as systemd-pcrphase names it
	SHA256 string `json:"sha256"`
}

// Firmware is one firmware file.
type Firmware struct {
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
}

// Of computes the document for a UKI; the caller adds the firmware.
func Of(uki []byte, m manifest.Manifest) (Document, error) {
	sections, err := boot.Sections(uki)
	if err != nil {
		return Document{}, err
	}
	for _, name := range []string{".linux", ".initrd", ".cmdline"} {
		if len(sections[name]) == 0 {
			return Document{}, fault.Newf(fault.BootImage, "the UKI has no %s", name)
		}
	}
	if string(sections[".cmdline"]) != m.CommandLine {
		return Document{}, fault.Newf(fault.BootImage, "the UKI's command line is not the manifest's")
	}
	d := Document{
		Schema: Schema, Name: m.Name, Profile: m.Profile, CommandLine: m.CommandLine,
		UKI: digest.Bytes(uki), Kernel: digest.Bytes(sections[".linux"]), Initrd: digest.Bytes(sections[".initrd"]), Cmdline: digest.Bytes(sections[".cmdline"]),
		Firmware: []Firmware{},
	}
	phases := []string{"enter-initrd", "leave-initrd", "sysinit", "ready"}
	for n := 0; n <= len(phases); n++ {
		pcr, err := boot.PCR11(uki, phases[:n]...)
		if err != nil {
			return Document{}, err
		}
		after := "uki"
		if n > 0 {
			after = phases[n-1]
		}
		d.PCR11 = append(d.PCR11, PCRValue{After: after, SHA256: hex.EncodeToString(pcr[:])})
	}
	return d, nil
}

// Encode returns the file's bytes: indented, with a final line end.
func (d Document) Encode() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(d); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
