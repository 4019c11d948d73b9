// Package domain describes the virtual machine on the host: as libvirt's
// domain XML, and as QEMU's arguments for hosts and tests without libvirt. Both
// are pure functions of a [Spec], so that golden files hold them and an
// installer can show what it is about to define.
//
//	text, err := domain.XML(spec)
//	argv, err := domain.Argv(spec)
//
// What libvirt's schema cannot refuse is refused by [Spec.Check]: policy words
// that mean something else than they seem to, devices that a confidential guest
// must not have, and combinations in which the measurement would not cover what
// is started.
package domain

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-sev-guest/abi"

	"cc-base/tasks/fault"
	"cc-base/tasks/site"
	"cc-base/tasks/tee/snp"
)

// Names under which guest and host meet.
const (
	EnrollKey   = "opt/org.cc-base/enroll" // fw_cfg file with the enrolment secret
	SiteKey     = site.FWCfg               // fw_cfg file with the settings of the place
	ReleasePort = "org.cc-base.release"    // virtio-serial port of attested key release
	ControlPort = "org.cc-base.control"    // virtio-serial port of commands to the guest
)

// Boot is how the guest is started.
type Boot string

// The ways to start a guest.
const (
	// Direct: the host hands the UKI, or kernel, initrd and command line, to
	// QEMU, which passes them to the firmware.
	Direct Boot = "direct"
	// Disk: the firmware starts the UKI on the disk's EFI system partition.
	Disk Boot = "disk"
)

// Spec is everything that decides a virtual machine.
type Spec struct {
	Name      string // libvirt's and QEMU's name of the guest
	UUID      string // empty lets libvirt choose one
	MemoryMiB int    // even; at least 1024, 2048 with SNP, 3072 with TDX
	VCPUs     int    // 1 to snp.MaxVCPUs
	CPUModel  string // SNP: one that snp.Signature knows; empty is the host's processor otherwise

	Boot     Boot
	Firmware Firmware
	Kernel   string // Direct: the UKI, or a kernel with Initrd and CommandLine
	Initrd   string // Direct
	// CommandLine is of a kernel that is not a UKI, which brings its own.
	CommandLine string

	Disk    Volume
	Network Network
	GPUs    []string // PCI addresses such as 0000:45:00.0, NVSwitches among them
	// ApertureMiB is the 64-bit PCI address space for the GPUs, a power of two;
	// zero is that of GPUs with BARs of 128 GiB each.
	ApertureMiB int
	Host        Host
	TPM         TPM

	// At most one of SNP and TDX; with neither, the host can read and change
	// the guest.
	SNP *SNP
	TDX *TDX
	// InsecureDebug accepts a policy that lets the host debug the guest.
	InsecureDebug bool
	// Emulated runs the guest without KVM, for tests; not with SNP, TDX or GPUs.
	Emulated bool

	EnrollFile string // file with the enrolment secret; never its value
	// SiteFile is site.conf (package site). The launch of a confidential guest has
	// to name it, in HostData or MRConfigID, or the guest refuses it.
	SiteFile      string
	ReleaseSocket string // unix socket of ReleasePort; empty leaves the port out
	ControlSocket string // unix socket of ControlPort; empty leaves the port out
	ConsoleFile   string // file that gets the serial console; empty makes a terminal
}

// Firmware is OVMF. SNP and TDX take one stateless image; a plain guest takes
// code and variables apart, in flash.
type Firmware struct {
	Image      string // SNP, TDX: .fd with SEV or TDVF metadata
	Code       string // plain: OVMF_CODE_4M.fd or OVMF_CODE_4M.secboot.fd
	Vars       string // plain: the template of the guest's variables
	NVRAM      string // plain: the guest's own variables, made from Vars
	SecureBoot bool   // plain: Code enforces Secure Boot; needs SMM
}

// Volume is the guest's only disk.
type Volume struct {
	Path   string // block device or file
	Block  bool   // it is a block device
	Format string // raw when empty, or qcow2 for a file
}

// Network is the guest's only network card. At most one of Bridge and Name may
// be set; with neither, the guest has no network.
type Network struct {
	Bridge string // a bridge of the host
	Name   string // a network of libvirt
	MAC    string // empty lets libvirt choose one; with Bridge or Name only

	// Filter is a network filter of libvirt that every packet has to pass.
	Filter string
	// Isolated keeps the card from other cards of the bridge that are isolated,
	// too; not with a network of libvirt that has no bridge (libvirt 6.1).
	Isolated bool
}

// Host is what the host offers for passing devices through.
type Host struct {
	VFIO bool // an IOMMU is on and vfio-pci is there
	// IOMMUFD: /dev/iommu is there and libvirt is 12.1 or later. Without it, a
	// confidential guest with a GPU exhausts 65535 DMA mappings, unless the
	// host raises vfio_iommu_type1.dma_entry_limit.
	IOMMUFD bool
}

// TPM is a TPM 2.0 emulated by swtpm. libvirt runs swtpm itself; Socket is for
// QEMU without libvirt.
type TPM struct {
	Present bool
	Socket  string
}

// SNP is AMD SEV-SNP launch security.
type SNP struct {
	Policy       uint64 // guest policy, as conf.Config.TEE.PolicySNP
	KernelHashes bool   // the launch digest covers what Direct starts
	HostData     []byte // 32 bytes, or none
	IDBlock      []byte // 96 bytes, with IDAuth, or none
	IDAuth       []byte // 4096 bytes
	AuthorKey    bool   // IDAuth has an author key
	// CBitPos is the page table bit that marks encrypted memory, CPUID
	// 0x8000001f EBX[5:0]; 51 when zero. For Argv only: libvirt asks the host.
	CBitPos int
}

// TDX is Intel TDX launch security.
type TDX struct {
	Attributes  uint64 // TD attributes, as conf.Config.TEE.PolicyTDX
	MRConfigID  []byte // 48 bytes, or none
	QuoteSocket string // of the quote generation service; DefaultQuoteSocket when empty
}

// DefaultQuoteSocket is where Intel's quote generation service listens.
const DefaultQuoteSocket = "/var/run/tdx-qgs/qgs.socket"

// Bits of TD attributes (Intel TDX Module ABI, TD_ATTRIBUTES).
const (
	tdxDebug         = 1 << 0
	tdxSEPTVE        = 1 << 28
	tdxKnown  uint64 = tdxDebug | tdxSEPTVE | 1<<30 | 1<<31 | 1<<63
)

// Limits and sizes.
const (
	maxSocket       = 107 // sizeof(sockaddr_un.sun_path) less its final NUL, unix(7)
	maxCommandLine  = 2047
	hostDataSize    = 32
	idBlockSize     = 96
	idAuthSize      = 4096
	mrConfigIDSize  = 48
	apertureMiB     = 262144  // per GPU: the power of two above 80 to 141 GB
	maxApertureMiB  = 1 << 24 // 16 TiB, what OVMF accepts
	defaultCBitPos  = 51      // EPYC Milan and later
	overheadMiB     = 2048    // QEMU, bounce buffers and page tables of a guest with pinned memory
	idBlockPolicyAt = 88
)

// tee tells whether the guest is a confidential one.
func (s Spec) tee() bool { return s.SNP != nil || s.TDX != nil }

// handedOver is what the guest reads over fw_cfg, by file: a value would stand in
// the domain's definition and in QEMU's arguments.
func (s Spec) handedOver() []struct{ name, path string } {
	files := []struct{ name, path string }{{EnrollKey, s.EnrollFile}, {SiteKey, s.SiteFile}}
	return slices.DeleteFunc(files, func(f struct{ name, path string }) bool { return f.path == "" })
}

// Check returns everything that is wrong with the specification, one line
// each, or nil. The error has the code fault.Config.
func (s Spec) Check() error {
	var wrong []error
	refuse := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	s.checkMachine(refuse)
	s.checkBoot(refuse)
	s.checkPaths(refuse)
	s.checkDevices(refuse)
	s.checkSNP(refuse)
	s.checkTDX(refuse)
	if len(wrong) == 0 {
		return nil
	}
	return fault.New(fault.Config, fmt.Errorf("the virtual machine %q: %w", s.Name, errors.Join(wrong...)))
}

type refuse func(format string, args ...any)

var (
	namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	// Of the length that a prefix and the name of a machine may have.
	filterPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,126}$`)
	uuidPattern   = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	macPattern    = regexp.MustCompile(`^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$`)
	linkPattern   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$`)
	pciPattern    = regexp.MustCompile(`^[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$`)
)

func (s Spec) checkMachine(no refuse) {
	if !namePattern.MatchString(s.Name) {
		no("its name is not 1 to 63 letters, digits, dots, dashes and underscores")
	}
	if s.UUID != "" && !uuidPattern.MatchString(s.UUID) {
		no("UUID %q is not one in lower case", s.UUID)
	}
	if s.VCPUs < 1 || s.VCPUs > snp.MaxVCPUs {
		no("%d virtual processors are not 1 to %d", s.VCPUs, snp.MaxVCPUs)
	}
	least, why := 1024, ""
	switch {
	case s.TDX != nil:
		// Below 2816 MiB the firmware places the initrd elsewhere, and RTMR1
		// differs with QEMU's version.
		least, why = 3072, " with TDX"
	case s.SNP != nil:
		least, why = 2048, " with SEV-SNP"
	}
	if s.MemoryMiB < least {
		no("%d MiB of memory are less than %d%s", s.MemoryMiB, least, why)
	}
	if s.MemoryMiB%2 != 0 {
		no("%d MiB of memory are not a multiple of 2", s.MemoryMiB)
	}
	if s.SNP != nil && s.TDX != nil {
		no("a guest is either of SEV-SNP or of TDX")
	}
	if s.Emulated && (s.tee() || len(s.GPUs) > 0) {
		no("SEV-SNP, TDX and GPUs cannot be emulated")
	}
}

func (s Spec) checkBoot(no refuse) {
	switch s.Boot {
	case Direct:
		if s.Kernel == "" {
			no("direct boot needs a kernel")
		}
		if (s.Initrd == "") != (s.CommandLine == "") {
			no("direct boot takes a UKI alone, or a kernel with initrd and command line")
		}
		if strings.ContainsAny(s.CommandLine, "\n\x00") || s.CommandLine != strings.TrimSpace(s.CommandLine) || len(s.CommandLine) > maxCommandLine {
			no("the command line is not one trimmed line of at most %d bytes", maxCommandLine)
		}
	case Disk:
		if s.Kernel != "" || s.Initrd != "" || s.CommandLine != "" {
			no("a kernel is given, but the guest boots from its disk")
		}
		if s.SNP != nil {
			no("SEV-SNP does not measure what is booted from a disk; use direct boot")
		}
	default:
		no("boot mode %q is neither direct nor disk", s.Boot)
	}
	f := s.Firmware
	if s.tee() {
		if f.Image == "" || f.Code != "" || f.Vars != "" || f.NVRAM != "" || f.SecureBoot {
			no("a confidential guest takes one firmware image and no flash: flash is neither measured nor kept from the host")
		}
		return
	}
	if f.Image != "" || f.Code == "" || f.Vars == "" || f.NVRAM == "" {
		no("a plain guest takes firmware code, a template of its variables and a place for them")
	}
	if f.SecureBoot && s.Boot == Direct {
		no("OVMF starts what is given directly without asking Secure Boot (CVE-2025-2296); boot from the disk")
	}
}

// checkPaths wants absolute, plain paths, and short ones for sockets.
func (s Spec) checkPaths(no refuse) {
	var quote string
	if s.TDX != nil {
		quote = s.TDX.QuoteSocket
	}
	for _, p := range []struct {
		what, path string
		socket     bool
	}{
		{"firmware", s.Firmware.Image, false}, {"firmware code", s.Firmware.Code, false},
		{"firmware variables", s.Firmware.Vars, false}, {"firmware variables of the guest", s.Firmware.NVRAM, false},
		{"kernel", s.Kernel, false}, {"initrd", s.Initrd, false}, {"disk", s.Disk.Path, false},
		{"enrolment secret", s.EnrollFile, false}, {"site.conf", s.SiteFile, false}, {"console", s.ConsoleFile, false},
		{"release port", s.ReleaseSocket, true}, {"control port", s.ControlSocket, true}, {"TPM", s.TPM.Socket, true}, {"quote service", quote, true},
	} {
		if p.path == "" {
			continue
		}
		if !filepath.IsAbs(p.path) || filepath.Clean(p.path) != p.path || strings.ContainsFunc(p.path, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }) {
			no("the path of the %s, %q, is not an absolute one in plain form", p.what, p.path)
		}
		if p.socket && len(p.path) > maxSocket {
			no("the path of the %s is longer than %d bytes", p.what, maxSocket)
		}
	}
	if s.ReleaseSocket != "" && s.ReleaseSocket == s.ControlSocket {
		no("the release port and the control port share a socket")
	}
}

func (s Spec) checkDevices(no refuse) {
	d := s.Disk
	switch {
	case d.Path == "":
		no("it has no disk")
	case d.Format != "" && d.Format != "raw" && d.Format != "qcow2":
		no("disk format %q is neither raw nor qcow2", d.Format)
	case d.Block && d.Format == "qcow2":
		no("a block device holds a raw disk")
	}
	n := s.Network
	if n.Bridge != "" && n.Name != "" {
		no("the network card is on a bridge or on a network of libvirt, not both")
	}
	if n.Bridge != "" && !linkPattern.MatchString(n.Bridge) {
		no("bridge %q has no name of a network interface", n.Bridge)
	}
	if n.Name != "" && !namePattern.MatchString(n.Name) {
		no("network %q has no name that libvirt accepts", n.Name)
	}
	if n.MAC != "" && (!macPattern.MatchString(n.MAC) || n.Bridge == "" && n.Name == "") {
		no("MAC address %q is not one in lower case for a single network card", n.MAC)
	}
	if n.Filter != "" && !filterPattern.MatchString(n.Filter) {
		no("network filter %q has no name that libvirt accepts", n.Filter)
	}
	if (n.Filter != "" || n.Isolated) && n.Bridge == "" && n.Name == "" {
		no("a network card is to be filtered or isolated, and there is none")
	}
	if s.TDX != nil && s.TPM.Present {
		no("the firmware for TDX has no driver for a TPM, so nothing would be measured into it")
	}
	seen := map[string]bool{}
	for _, g := range s.GPUs {
		switch {
		case !pciPattern.MatchString(g):
			no("%q is no PCI address such as 0000:45:00.0", g)
		case seen[g]:
			no("device %s is given twice", g)
		}
		seen[g] = true
	}
	if len(s.GPUs) > 0 && !s.Host.VFIO {
		no("a GPU needs VFIO: switch the IOMMU on and load vfio-pci")
	}
	if n := s.ApertureMiB; n < 0 || n&(n-1) != 0 || n != 0 && len(s.GPUs) == 0 {
		no("a PCI window of %d MiB is not a power of two for GPUs", n)
	}
	if s.aperture() > maxApertureMiB {
		no("%d devices need more address space than OVMF accepts", len(s.GPUs))
	}
}

func (s Spec) checkSNP(no refuse) {
	if s.SNP == nil {
		return
	}
	if _, err := snp.Signature(s.CPUModel); err != nil {
		no("SEV-SNP measures the CPU model: %w", err)
	}
	p, err := abi.ParseSnpPolicy(s.SNP.Policy)
	switch {
	case err != nil:
		no("SEV-SNP policy %#x: %w", s.SNP.Policy, err)
	case p.Debug && !s.InsecureDebug:
		no("SEV-SNP policy %#x allows debugging (bit 19): the host could read and change the guest's memory", s.SNP.Policy)
	case p.MigrateMA:
		no("SEV-SNP policy %#x allows a migration agent (bit 18), which nothing here would attest", s.SNP.Policy)
	}
	if s.Boot == Direct && !s.SNP.KernelHashes {
		no("without kernel hashes SEV-SNP does not measure what is started")
	}
	if (s.SiteFile == "") != (len(s.SNP.HostData) == 0) {
		no("a site.conf and host data with its digest go together: the guest refuses one without the other")
	}
	if n := len(s.SNP.HostData); n != 0 && n != hostDataSize {
		no("host data of %d bytes are not %d", n, hostDataSize)
	}
	block, auth := s.SNP.IDBlock, s.SNP.IDAuth
	switch {
	case len(block) == 0 && len(auth) == 0:
		if s.SNP.AuthorKey {
			no("an author key is given without an ID block")
		}
	case len(block) != idBlockSize || len(auth) != idAuthSize:
		no("ID block and its authentication of %d and %d bytes are not %d and %d", len(block), len(auth), idBlockSize, idAuthSize)
	case binary.LittleEndian.Uint64(block[idBlockPolicyAt:]) != s.SNP.Policy:
		no("the ID block is for policy %#x, not %#x: the processor would refuse the launch", binary.LittleEndian.Uint64(block[idBlockPolicyAt:]), s.SNP.Policy)
	case bytes.Equal(block[:48], make([]byte, 48)):
		no("the ID block holds no launch digest")
	}
	if s.SNP.CBitPos < 0 || s.SNP.CBitPos > 63 {
		no("bit %d is not in a page table entry", s.SNP.CBitPos)
	}
}

func (s Spec) checkTDX(no refuse) {
	if s.TDX == nil {
		return
	}
	if s.CPUModel != "" {
		no("TDX runs the host's processor; a CPU model cannot be chosen")
	}
	w := s.TDX.Attributes
	switch {
	case w&^tdxKnown != 0:
		no("TD attributes %#x have bits that are reserved or unknown", w)
	case w&tdxSEPTVE == 0:
		no("TD attributes %#x lack bit 28 (SEPT_VE_DISABLE), without which Linux refuses to start", w)
	case w&tdxDebug != 0 && !s.InsecureDebug:
		no("TD attributes %#x allow debugging (bit 0): the host could read and change the guest's memory", w)
	}
	if (s.SiteFile == "") != (len(s.TDX.MRConfigID) == 0) {
		no("a site.conf and an MRCONFIGID with its digest go together: the guest refuses one without the other")
	}
	if n := len(s.TDX.MRConfigID); n != 0 && n != mrConfigIDSize {
		no("an MRCONFIGID of %d bytes is not %d", n, mrConfigIDSize)
	}
}

// aperture is the 64-bit PCI address space that the guest's GPUs need, in MiB:
// a power of two, because OVMF aligns it to its size. Zero without GPUs.
func (s Spec) aperture() int {
	switch {
	case len(s.GPUs) == 0:
		return 0
	case s.ApertureMiB != 0:
		return s.ApertureMiB
	}
	return 1 << bits.Len(uint(len(s.GPUs)*apertureMiB-1))
}

// apertureArg is the fw_cfg entry by which OVMF learns of the aperture.
func (s Spec) apertureArg() string {
	return fmt.Sprintf("name=opt/ovmf/X-PciMmio64Mb,string=%d", s.aperture())
}

// pinnedMiB is the memory that QEMU may lock for a guest with GPUs. All of a
// guest's memory is pinned for their DMA, in a confidential guest possibly
// twice, private and shared; iommufd counts the devices' own memory, too.
func (s Spec) pinnedMiB() int {
	n := s.MemoryMiB + overheadMiB
	if s.tee() {
		n += s.MemoryMiB
	}
	if s.Host.IOMMUFD {
		n += s.aperture()
	}
	return n
}

func (t TDX) quoteSocket() string {
	if t.QuoteSocket == "" {
		return DefaultQuoteSocket
	}
	return t.QuoteSocket
}

func (v Volume) format() string {
	if v.Format == "" {
		return "raw"
	}
	return v.Format
}
