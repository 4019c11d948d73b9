package pcr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"cc-base/tasks/boot"
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

// sectionOrder is the order in which systemd-stub measures into PCR 11; a test
// holds it against boot.PCR11.
func sectionOrder() []string {
	return []string{".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey", ".profile", ".dtbauto", ".hwids"}
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
	if m.Authenticode, err = Authenticode(uki); err != nil {
		return Image{}, err
	}
	if m.Kernel, err = Authenticode(sections[".linux"]); err != nil {
		return Image{}, fmt.Errorf("section .linux: %w", err)
	}
	for _, name := range sectionOrder() {
		if data, ok := sections[name]; ok {
			m.Sections = append(m.Sections, Section{Name: name, Digests: sum(data)})
		}
	}
	options, err := loadOptions(sections[".cmdline"])
	if err != nil {
		return Image{}, err
	}
	m.LoadOptions = sum(options)
	if initrd := initrd(sections); len(initrd) > 0 {
		m.Initrd = sum(initrd)
	}
	m.Signer, err = signer(uki, m.Authenticode)
	return m, err
}

// loadOptions returns the command line as systemd-stub hands it to the kernel
// and the kernel measures it: UTF-16 with a final NUL. The stub would replace
// control characters and trim the line; what it would change is refused.
func loadOptions(line []byte) ([]byte, error) {
	text := string(line)
	if text == "" || !utf8.ValidString(text) || text != strings.TrimSpace(text) || strings.IndexFunc(text, func(r rune) bool { return r < ' ' }) >= 0 {
		return nil, errors.New("the command line in the image is not one trimmed line of text")
	}
	var b []byte
	for _, unit := range append(utf16.Encode([]rune(text)), 0) {
		b = binary.LittleEndian.AppendUint16(b, unit)
	}
	return b, nil
}

// initrd returns what the kernel gets as its initrd: the sections .ucode and
// .initrd, and an archive of one file for each of .pcrsig, .pcrpkey, .osrel and
// .profile; with more than one part, each padded to four bytes (systemd 257
// src/boot/efi/stub.c and initrd.c).
func initrd(sections map[string][]byte) []byte {
	var parts [][]byte
	for _, name := range []string{".ucode", ".initrd"} {
		if data := sections[name]; len(data) > 0 {
			parts = append(parts, data)
		}
	}
	for _, f := range []struct{ section, file string }{
		{".pcrsig", "tpm2-pcr-signature.json"}, {".pcrpkey", "tpm2-pcr-public-key.pem"}, {".osrel", "os-release"}, {".profile", "profile"},
	} {
		if data := sections[f.section]; len(data) > 0 {
			parts = append(parts, extra(f.file, data))
		}
	}
	if len(parts) == 1 {
		return parts[0]
	}
	var all []byte
	for _, p := range parts {
		all = pad4(append(all, p...))
	}
	return all
}

// extra returns the archive (newc cpio) in which systemd-stub passes one of the
// image's own sections on: the folder .extra and the file in it, without owner
// or time. Only the end marker's length is in upper case.
func extra(name string, data []byte) []byte {
	var b []byte
	entry := func(inode, mode int, name string, data []byte) {
		b = fmt.Appendf(b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
		b = pad4(append(append(b, name...), 0))
		b = pad4(append(b, data...))
	}
	const folder, file = 0o040555, 0o100444
	entry(1, folder, ".extra", nil)
	entry(2, file, ".extra/"+name, data)
	const end = "TRAILER!!!"
	b = fmt.Appendf(b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08X%08x", 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, len(end)+1, 0)
	return pad4(append(append(b, end...), 0))
}

func pad4(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}
