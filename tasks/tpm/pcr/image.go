package pcr

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"cc-base/tasks/boot"
	"cc-base/tasks/boot/measured"
	"cc-base/tasks/fault"
)

// Image is what of a UKI gets into PCRs. It is small, and enough for every
// prediction once the file itself is gone.
type Image struct {
	Authenticode Digests   `json:"authenticode"` // of the whole file
	Kernel       Digests   `json:"kernel"`       // Authenticode digest of .linux
	Sections     []Section `json:"sections"`     // in the order of measurement
	LoadOptions  Digests   `json:"loadOptions"`  // of the command line as the kernel gets it
	Initrd       Digests   `json:"initrd"`       // of the initrd as the kernel gets it; none without one

	// Signer is the certificate (DER) whose key has signed the file; empty for
	// an unsigned one. The signature itself has been verified.
	Signer []byte `json:"signer,omitempty"`
}

// Section is one measured section of a UKI.
type Section struct {
	Name    string  `json:"name"`
	Digests Digests `json:"digests"` // of its content
}

// ReadUKI measures a UKI, signed or not. Its errors have the code
// fault.BootImage.
func ReadUKI(uki []byte) (Image, error) {
	m, err := readUKI(uki)
	if err != nil {
		return Image{}, fault.New(fault.BootImage, err)
	}
	return m, nil
}

func readUKI(uki []byte) (Image, error) {
	sections, err := boot.Sections(uki)
	if err != nil {
		return Image{}, err
	}
	var m Image
	if m.Authenticode, err = program(uki); err != nil {
		return Image{}, err
	}
	if m.Kernel, err = program(sections[".linux"]); err != nil {
		return Image{}, fmt.Errorf("section .linux: %w", err)
	}
	for _, s := range boot.MeasuredSections(sections) {
		m.Sections = append(m.Sections, Section{Name: s.Name, Digests: sum(s.Data)})
	}
	options, err := loadOptions(sections[".cmdline"])
	if err != nil {
		return Image{}, err
	}
	m.LoadOptions = sum(options)
	if initrd := measured.Initrd(sections); len(initrd) > 0 {
		m.Initrd = sum(initrd)
	}
	m.Signer, err = signer(uki, m.Authenticode)
	return m, err
}

// loadOptions returns the command line as systemd-stub hands it to the kernel
// and the kernel measures it. The stub would replace control characters and trim the line; what it would change is refused.
func loadOptions(line []byte) ([]byte, error) {
	text := string(line)
	if text == "" || !utf8.ValidString(text) || text != strings.TrimSpace(text) || strings.IndexFunc(text, func(r rune) bool { return r < ' ' }) >= 0 {
		return nil, errors.New("the command line in the image is not one trimmed line of text")
	}
	return measured.LoadOptions(text), nil
}
