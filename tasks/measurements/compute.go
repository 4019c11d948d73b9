package measurements

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"

	"cc-base/tasks/boot"
	"cc-base/tasks/boot/measured"
	"cc-base/tasks/boot/varstore"
	"cc-base/tasks/digest"
	"cc-base/tasks/fault"
	"cc-base/tasks/manifest"
	"cc-base/tasks/tee/snp"
	"cc-base/tasks/tee/tdx"
	"cc-base/tasks/tpm/pcr"
)

// Ways to start a guest, as BOOT_MODE names them.
const (
	direct = "direct"
	disk   = "disk"
)

// The key profiles that have a say in what gets a row.
const (
	profileTPM      = "tpm"
	profileAttested = "attested"
)

// Inputs are the artefacts that a document is computed from, and the things in it
// that no artefact says.
type Inputs struct {
	Manifest manifest.Manifest
	UKI      []byte
	Disk     io.ReaderAt       // the disk image as shipped
	Firmware map[string][]byte // by name in the installer
	Keys     *pcr.Keys         // the Secure Boot certificates; nil for none

	Program  string            // digest of the program's text
	Packages map[string]string // of firmware, by its name in the installer
	Machines Machines
}

// Compute returns the document of the artefacts. What is wrong with the boot
// image is an error of code fault.BootImage, with the disk fault.DiskImage, and
// with firmware or certificates fault.Measurements.
func Compute(in Inputs) (Document, error) {
	c := computation{Inputs: in, mrtd: map[string]string{}, doc: Document{
		Schema: Schema, Name: in.Manifest.Name, Profile: in.Manifest.Profile,
		Program: in.Program, SourceDateEpoch: in.Manifest.SourceDateEpoch, Machines: in.Machines,
		Firmware: []Firmware{}, SNP: []SNPRow{}, TDX: []TDXRow{}, TPM: []TPMRow{}, PCR11: []PCR11{}, NotComputed: []NotComputed{},
	}}
	for _, step := range []func() error{c.bootImage, c.disk, c.firmware, c.snp, c.tdx, c.tpm} {
		if err := step(); err != nil {
			return Document{}, err
		}
	}
	return c.doc, nil
}

// computation is a document in the making.
type computation struct {
	Inputs
	doc      Document
	sections map[string][]byte // of the UKI
	table    []byte            // what firmware measures of the disk's partition table
	mrtd     map[string]string // of the firmware images for TDX, by name
}

func (c *computation) leftOut(what, format string, args ...any) {
	c.doc.NotComputed = append(c.doc.NotComputed, NotComputed{What: what, Why: fmt.Sprintf(format, args...)})
}

func (c *computation) bootImage() (err error) {
	if c.sections, err = boot.Sections(c.UKI); err != nil {
		return err
	}
	for _, name := range []string{".linux", ".initrd", ".cmdline"} {
		if len(c.sections[name]) == 0 {
			return fault.Newf(fault.BootImage, "the UKI has no %s", name)
		}
	}
	m := c.Manifest
	if string(c.sections[".cmdline"]) != m.CommandLine {
		return fault.Newf(fault.BootImage, "the UKI's command line is not the manifest's")
	}
	c.doc.UKI, c.doc.Kernel, c.doc.Initrd = digest.Bytes(c.UKI), digest.Bytes(c.sections[".linux"]), digest.Bytes(c.sections[".initrd"])
	lines := m.CommandLines
	if len(lines) == 0 {
		lines = map[string]string{"": m.CommandLine}
	}
	for _, profile := range slices.Sorted(maps.Keys(lines)) {
		line := lines[profile]
		c.doc.CommandLines = append(c.doc.CommandLines, CommandLine{
			Profile: profile, Line: line, SHA256: digest.Bytes([]byte(line)), Disk: line == m.CommandLine,
		})
	}
	return nil
}

// onDisk returns the key profile of the boot image on the disk.
func (c *computation) onDisk() string {
	i := slices.IndexFunc(c.doc.CommandLines, func(l CommandLine) bool { return l.Disk })
	if i < 0 {
		return ""
	}
	return c.doc.CommandLines[i].Profile
}

func (c *computation) disk() error {
	const enough = 1 << 20 // where the first partition begins
	head, err := io.ReadAll(io.NewSectionReader(c.Disk, 0, enough))
	if err != nil {
		return fault.Newf(fault.DiskImage, "the disk image: %w", err)
	}
	if c.table, err = measured.PartitionTable(bytes.NewReader(head)); err != nil {
		return err
	}
	c.doc.Disk = Disk{GUID: c.Manifest.Disk.GUID, Size: c.Manifest.Disk.VirtualSize, PartitionTable: digest.Bytes(c.table)}
	return nil
}

func (c *computation) firmware() error {
	for _, name := range slices.Sorted(maps.Keys(c.Firmware)) {
		f := Firmware{File: name, SHA256: digest.Bytes(c.Firmware[name]), Package: c.Packages[name]}
		if name == TDXFirmware || name == TDXEnrolled {
			mrtd, err := tdx.MRTD(c.Firmware[name], tdx.SinglePass)
			if err != nil {
				return fault.Newf(fault.Measurements, "%s: %w", name, err)
			}
			f.MRTD = mrtd.String()
			c.mrtd[name] = f.MRTD
		}
		c.doc.Firmware = append(c.doc.Firmware, f)
	}
	// The keys are outside of what a launch measures; other code is not.
	if enrolled, there := c.mrtd[TDXEnrolled]; there && enrolled != c.mrtd[TDXFirmware] {
		return fault.Newf(fault.Measurements, "%s is not %s with other keys: their MRTDs differ", TDXEnrolled, TDXFirmware)
	}
	return nil
}

// tdxDisk names the firmware that starts the boot image on a disk.
func (c *computation) tdxDisk() string {
	if _, there := c.mrtd[TDXEnrolled]; there {
		return TDXEnrolled
	}
	return TDXFirmware
}

// snp makes the table of launch digests: direct boots, for a boot from disk is
// not in the launch digest.
func (c *computation) snp() error {
	image, there := c.Firmware[SNPFirmware]
	switch {
	case c.Machines.TEE != "auto" && c.Machines.TEE != "sev-snp":
		c.leftOut("snp", "TEE_TYPE is %s", c.Machines.TEE)
		return nil
	case !there:
		c.leftOut("snp", "%s was not there", SNPFirmware)
		return nil
	}
	for _, line := range c.snpLines() {
		hashes, err := snp.HashBoot(bytes.NewReader(c.sections[".linux"]), bytes.NewReader(c.sections[".initrd"]), line.Line)
		if err != nil {
			return fault.New(fault.BootImage, err)
		}
		table, err := snp.Table(image, &hashes, c.Machines.VCPUs, c.Machines.CPUModels, c.Machines.GuestFeatures)
		if err != nil {
			return fault.Newf(fault.Measurements, "%s: %w", SNPFirmware, err)
		}
		for _, r := range table {
			c.doc.SNP = append(c.doc.SNP, SNPRow{
				Firmware: SNPFirmware, VCPUs: r.VCPUs, CPUModel: r.Model, GuestFeatures: r.Features,
				BootMode: direct, Profile: line.Profile, Digest: r.Digest.String(),
			})
		}
	}
	return nil
}

// snpLines are the command lines that an SEV-SNP guest may be started with. The
// profile tpm is among them only where the image has no other: its keys are
// those of a TPM that the host emulates.
func (c *computation) snpLines() []CommandLine {
	strict := slices.DeleteFunc(slices.Clone(c.doc.CommandLines), func(l CommandLine) bool { return l.Profile == profileTPM })
	if len(strict) == 0 {
		return c.doc.CommandLines
	}
	return strict
}

// tdx makes the rows for TDX. Its only key profile is attested: the processor
// derives no key, and the firmware knows no TPM.
func (c *computation) tdx() error {
	i := slices.IndexFunc(c.doc.CommandLines, func(l CommandLine) bool { return l.Profile == profileAttested })
	switch {
	case c.Machines.TEE != "auto" && c.Machines.TEE != "tdx":
		c.leftOut("tdx", "TEE_TYPE is %s", c.Machines.TEE)
		return nil
	case c.mrtd[TDXFirmware] == "":
		c.leftOut("tdx", "%s was not there", TDXFirmware)
		return nil
	case i < 0:
		c.leftOut("tdx", "the image has no key profile %s, the only one for TDX", profileAttested)
		return nil
	}
	c.leftOut("tdx rtmr0", "it depends on the QEMU and the devices of the host; docs/measurements.md says how far it can be computed there")
	type start struct {
		mode, firmware string
		boot           tdx.Boot
	}
	starts := []start{{direct, TDXFirmware, tdx.Boot{Kernel: c.sections[".linux"], Initrd: c.sections[".initrd"], CommandLine: c.doc.CommandLines[i].Line}}}
	if c.doc.CommandLines[i].Disk {
		// This firmware always has Secure Boot.
		starts = append(starts, start{disk, c.tdxDisk(), tdx.Boot{UKI: c.UKI, GPT: c.table, SecureBoot: true}})
	} else {
		c.leftOut("tdx, disk boot", "the boot image on the disk is of key profile %s", c.onDisk())
	}
	for _, s := range starts {
		one, err := tdx.RTMR1(s.boot)
		if err != nil {
			return fault.New(fault.BootImage, err)
		}
		two, err := tdx.RTMR2(s.boot)
		if err != nil {
			return fault.New(fault.BootImage, err)
		}
		c.doc.TDX = append(c.doc.TDX, TDXRow{
			Firmware: s.firmware, BootMode: s.mode, SecureBoot: s.boot.SecureBoot, Profile: profileAttested,
			MRTD: c.mrtd[s.firmware], RTMR1: one.Register().String(), RTMR2: two.Register().String(),
		})
	}
	return nil
}

// phases are what systemd-pcrphase measures into PCR 11, in order.
func phases() []string { return []string{"enter-initrd", "leave-initrd", "sysinit", "ready"} }

// tpm predicts the registers of a TPM for a boot from disk.
func (c *computation) tpm() error {
	image, err := pcr.ReadUKI(c.UKI)
	if err != nil {
		return err
	}
	b := pcr.Boot{Image: image, GPT: c.table}
	if err := c.tpmRow("absent", b); err != nil {
		return err
	}
	if c.Keys == nil {
		c.leftOut("tpm, Secure Boot on", "the certificates of the Secure Boot keys were not there")
	} else {
		owner, err := pcr.ParseGUID(varstore.Owner().String())
		if err != nil {
			return err
		}
		enrolled := b
		enrolled.SecureBoot = c.Keys.Enrolled(owner)
		if err := c.tpmRow("on", enrolled); err != nil {
			return err
		}
	}
	for n := range len(phases()) + 1 {
		b.Phases = phases()[:n]
		after := "uki"
		if n > 0 {
			after = phases()[n-1]
		}
		values, err := predict(b)
		if err != nil {
			return err
		}
		c.doc.PCR11 = append(c.doc.PCR11, PCR11{After: after, SHA256: values[11].SHA256, SHA384: values[11].SHA384})
	}
	return nil
}

func (c *computation) tpmRow(secureBoot string, b pcr.Boot) error {
	values, err := predict(b)
	if err != nil {
		return err
	}
	delete(values, 11)
	row := TPMRow{BootMode: disk, SecureBoot: secureBoot, Profile: c.onDisk()}
	for _, n := range slices.Sorted(maps.Keys(values)) {
		row.PCRs = append(row.PCRs, values[n])
	}
	c.doc.TPM = append(c.doc.TPM, row)
	return nil
}

// predict returns the registers after a boot, in both banks.
func predict(b pcr.Boot) (map[int]PCR, error) {
	log, err := pcr.Predict(b)
	if err != nil {
		return nil, err
	}
	small, err := log.Replay(pcr.SHA256)
	if err != nil {
		return nil, err
	}
	large, err := log.Replay(pcr.SHA384)
	if err != nil {
		return nil, err
	}
	values := map[int]PCR{}
	for n := range small {
		values[n] = PCR{PCR: n, SHA256: hex.EncodeToString(small[n]), SHA384: hex.EncodeToString(large[n])}
	}
	return values, nil
}
