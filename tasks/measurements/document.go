// Package measurements is the document that says, before any boot, what a
// genuine machine will measure: measurements.json. It is computed from the
// built files alone, so whoever has them can compute it again:
//
//	in, err := measurements.Load(m, disk, names, read)
//	in.Machines = …
//	doc, err := measurements.Compute(in)
//
// and [Verify] does so for a document that is there. docs/measurements.md
// explains every field and what the numbers depend on that no file says.
//
// The rules:
//
//   - A row names everything that its numbers depend on; what cannot be computed
//     is left out, and NotComputed says why. A row is never half a row: a
//     register that is unknown would match any value.
//   - Equal files give equal bytes. There is no time in it but the build's
//     SOURCE_DATE_EPOCH, and no path.
//   - Only what may be trusted gets a row. A key profile whose secrets the host
//     can know has none under a TEE beside one whose secrets it cannot: a
//     verifier that accepts a row accepts the profile.
package measurements

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"

	"cc-base/tasks/fault"
)

// Schema is the version of the format. A reader refuses any other.
const Schema = 2

// Names of files in the installer; measurements.json and rvps.json also lie in
// the output folder of a build.
const (
	File        = "measurements.json"
	RVPSFile    = "rvps.json"
	UKI         = "cc-base.efi"
	SNPFirmware = "firmware/OVMF.amdsev.fd"
	TDXFirmware = "firmware/OVMF.inteltdx.ms.fd"
	// TDXEnrolled is TDXFirmware with the build's Secure Boot keys in place of
	// those that it came with, by which it would refuse our boot image on a disk.
	TDXEnrolled = "firmware/OVMF.inteltdx.cc-base.fd"
)

// MaxSize bounds a document, in bytes.
const MaxSize = 32 << 20

// Document is measurements.json. Digests are lower-case hexadecimal.
type Document struct {
	Schema          int    `json:"schema"`
	Name            string `json:"name"`            // cc-base
	Profile         string `json:"profile"`         // of the build: default, minimal, …
	Program         string `json:"program"`         // SHA-256 of the text of the program that built and measured
	SourceDateEpoch int64  `json:"sourceDateEpoch"` // seconds since 1970, as in the manifest

	UKI          string        `json:"uki"`          // SHA-256 of cc-base.efi
	Kernel       string        `json:"kernel"`       // SHA-256 of its .linux, the kernel of direct boots
	Initrd       string        `json:"initrd"`       // SHA-256 of its .initrd, the initrd of direct boots
	CommandLines []CommandLine `json:"commandLines"` // by key profile
	Disk         Disk          `json:"disk"`         // as shipped
	Firmware     []Firmware    `json:"firmware"`     // that the installer carries

	Machines    Machines      `json:"machines"` // those that have rows
	SNP         []SNPRow      `json:"snp"`
	TDX         []TDXRow      `json:"tdx"`
	TPM         []TPMRow      `json:"tpm"`
	PCR11       []PCR11       `json:"pcr11"` // by boot phase, the same in every row of TPM
	NotComputed []NotComputed `json:"notComputed"`
}

// CommandLine is the kernel command line of a key profile.
type CommandLine struct {
	Profile string `json:"profile"` // tpm, snp or attested; empty in an image without key profiles
	Line    string `json:"line"`    // exact
	SHA256  string `json:"sha256"`  // of its bytes, without a final NUL
	Disk    bool   `json:"disk"`    // it is the boot image's own
}

// Disk is the disk image as it is shipped. An installation on a larger device
// has another partition table, and with it another PCR 5 and, for boots from
// disk, another RTMR1.
type Disk struct {
	GUID           string `json:"guid"`
	Size           int64  `json:"size"`           // bytes
	PartitionTable string `json:"partitionTable"` // SHA-256 of what firmware measures of it
}

// Firmware is one firmware file.
type Firmware struct {
	File    string `json:"file"` // name in the installer
	SHA256  string `json:"sha256"`
	Package string `json:"package,omitempty"` // name and version of the one that it is from, where that is known
	MRTD    string `json:"mrtd,omitempty"`    // of the firmware for TDX, whatever keys are in it
}

// Machines says for which guests there are rows: every combination of the
// numbers, models and features, for the kinds of TEE that the image is for.
type Machines struct {
	TEE           string   `json:"tee"` // auto, sev-snp, tdx or none, as TEE_TYPE
	VCPUs         []int    `json:"vcpus"`
	CPUModels     []string `json:"cpuModels"`     // QEMU's names
	GuestFeatures []uint64 `json:"guestFeatures"` // SEV_FEATURES
}

// SNPRow is the launch digest of one SEV-SNP guest.
type SNPRow struct {
	Firmware      string `json:"firmware"` // name in the installer
	VCPUs         int    `json:"vcpus"`
	CPUModel      string `json:"cpuModel"`
	GuestFeatures uint64 `json:"guestFeatures"`
	BootMode      string `json:"bootMode"` // direct, with kernel hashes
	Profile       string `json:"profile"`  // key profile of the command line
	Digest        string `json:"digest"`   // MEASUREMENT of the report
}

// String returns the row in words, without its digest.
func (r SNPRow) String() string {
	return fmt.Sprintf("%s boot in key profile %s, %s, %s, %s, guest features %#x", r.BootMode, r.Profile, r.Firmware, plural(r.VCPUs, "virtual processor"), r.CPUModel, r.GuestFeatures)
}

// TDXRow is what one way of starting a TDX guest measures.
type TDXRow struct {
	Firmware   string `json:"firmware"`   // name in the installer
	BootMode   string `json:"bootMode"`   // direct or disk
	SecureBoot bool   `json:"secureBoot"` // the firmware demands our signature of what it starts from disk
	Profile    string `json:"profile"`    // key profile of the command line
	MRTD       string `json:"mrtd"`
	RTMR1      string `json:"rtmr1"`
	RTMR2      string `json:"rtmr2"`
}

// String returns the row in words, without its registers.
func (r TDXRow) String() string {
	secure := ""
	if r.SecureBoot {
		secure = " with Secure Boot"
	}
	return fmt.Sprintf("%s boot%s in key profile %s, %s", r.BootMode, secure, r.Profile, r.Firmware)
}

// TPMRow is what a TPM's registers hold after a boot of the image, PCR 11
// apart.
type TPMRow struct {
	BootMode   string `json:"bootMode"`   // disk
	SecureBoot string `json:"secureBoot"` // absent, or on with the build's own keys
	Profile    string `json:"profile"`    // key profile of the command line
	PCRs       []PCR  `json:"pcrs"`
}

// PCR is the value of one register in both banks.
type PCR struct {
	PCR    int    `json:"pcr"`
	SHA256 string `json:"sha256"`
	SHA384 string `json:"sha384"`
}

// PCR11 is the value of PCR 11 at one point of the boot.
type PCR11 struct {
	After  string `json:"after"` // "uki", or the boot phase as systemd-pcrphase names it
	SHA256 string `json:"sha256"`
	SHA384 string `json:"sha384"`
}

// NotComputed is something that the document does not hold, and why.
type NotComputed struct {
	What string `json:"what"`
	Why  string `json:"why"`
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

// Read decodes and checks a document. It is strict: what the build would not
// have written is an error, because another reader of the same file could see
// other rows. Its errors have the code fault.Damaged.
func Read(raw []byte) (Document, error) {
	d, err := read(raw)
	if err != nil {
		return Document{}, fault.New(fault.Damaged, err)
	}
	return d, nil
}

func read(raw []byte) (Document, error) {
	if len(raw) > MaxSize {
		return Document{}, fmt.Errorf("larger than %d bytes", MaxSize)
	}
	// The version first: of another one, no field is known.
	var version struct {
		Schema int `json:"schema"`
	}
	if err := json.Unmarshal(raw, &version); err != nil {
		return Document{}, err
	}
	if version.Schema != Schema {
		return Document{}, fmt.Errorf("schema %d, this program reads %d", version.Schema, Schema)
	}
	var d Document
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return Document{}, err
	}
	if err := d.check(); err != nil {
		return Document{}, err
	}
	if same, err := d.Encode(); err != nil || !bytes.Equal(same, raw) {
		return Document{}, errors.New("not in the form that the build writes")
	}
	return d, nil
}

// check looks at the form of every digest: one that is cut short or written
// otherwise would match nothing, without a word.
func (d Document) check() error {
	var errs []error
	digits := func(what, value string, n int) {
		if !regexp.MustCompile(`^[0-9a-f]*$`).MatchString(value) || len(value) != n {
			errs = append(errs, fmt.Errorf("%s: %.100q is not of %d lower-case hexadecimal digits", what, value, n))
		}
	}
	const sha256, sha384 = 64, 96
	digits("program", d.Program, sha256)
	digits("uki", d.UKI, sha256)
	digits("kernel", d.Kernel, sha256)
	digits("initrd", d.Initrd, sha256)
	digits("partition table", d.Disk.PartitionTable, sha256)
	for _, c := range d.CommandLines {
		digits("command line", c.SHA256, sha256)
	}
	for _, f := range d.Firmware {
		digits(f.File, f.SHA256, sha256)
		if f.MRTD != "" {
			digits(f.File, f.MRTD, sha384)
		}
	}
	for i, r := range d.SNP {
		digits(fmt.Sprintf("snp row %d: launch digest", i+1), r.Digest, sha384)
	}
	for i, r := range d.TDX {
		digits(fmt.Sprintf("tdx row %d: MRTD", i+1), r.MRTD, sha384)
		digits(fmt.Sprintf("tdx row %d: RTMR1", i+1), r.RTMR1, sha384)
		digits(fmt.Sprintf("tdx row %d: RTMR2", i+1), r.RTMR2, sha384)
	}
	for i, r := range d.TPM {
		for _, p := range r.PCRs {
			digits(fmt.Sprintf("tpm row %d: PCR %d", i+1, p.PCR), p.SHA256, sha256)
			digits(fmt.Sprintf("tpm row %d: PCR %d", i+1, p.PCR), p.SHA384, sha384)
		}
	}
	for _, p := range d.PCR11 {
		digits("PCR 11 after "+p.After, p.SHA256, sha256)
		digits("PCR 11 after "+p.After, p.SHA384, sha384)
	}
	return errors.Join(errs...)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
