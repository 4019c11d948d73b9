package domain_test

// Green here means: the XML and the arguments are the ones that were looked at,
// libvirt 11.3's schema accepts the XML, QEMU accepts the arguments of plain
// guests, and wrong specifications are refused. libvirt's own checks behind the
// schema, which come with a running libvirtd, and everything that needs an
// SEV-SNP or TDX processor or a GPU are not tried. For launch security of TDX and
// for iommufd that schema is too old: what libvirt 11.6 and 12.1 accept there was
// taken from its documentation, in testdata/newer-libvirt.rng.

import (
	"encoding/binary"
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"libvirt.org/go/libvirtxml"

	"cc-base/tasks/domain"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/golden"
	"cc-base/tasks/lab"
	"cc-base/tasks/sh"
)

func base() domain.Spec {
	return domain.Spec{
		Name: "cc-base", MemoryMiB: 8192, VCPUs: 4,
		Disk:          domain.Volume{Path: "/dev/disk/by-id/nvme-a", Block: true},
		Network:       domain.Network{Bridge: "br0"},
		EnrollFile:    "/etc/cc-base/cc-base/enroll.key",
		ControlSocket: "/run/cc-base/cc-base/control.sock",
	}
}

func plainFirmware() domain.Firmware {
	return domain.Firmware{Code: "/usr/share/OVMF/OVMF_CODE_4M.fd", Vars: "/usr/share/OVMF/OVMF_VARS_4M.fd", NVRAM: "/var/lib/cc-base/cc-base/vars.fd"}
}

func plainDisk() domain.Spec {
	s := base()
	s.Boot, s.Firmware = domain.Disk, plainFirmware()
	s.Firmware.Code, s.Firmware.SecureBoot = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", true
	s.TPM = domain.TPM{Present: true, Socket: "/run/cc-base/cc-base/tpm.sock"}
	s.Network.MAC = "52:54:00:12:34:56"
	return s
}

func plainDirect() domain.Spec {
	s := base()
	s.Boot, s.Firmware, s.Kernel = domain.Direct, plainFirmware(), "/var/lib/cc-base/cc-base.efi"
	s.Disk = domain.Volume{Path: "/var/lib/cc-base/disk,a.qcow2", Format: "qcow2"}
	s.Network, s.Emulated, s.ConsoleFile = domain.Network{}, true, "/var/log/cc-base/console.log"
	s.UUID = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"
	return s
}

func snpDirect() domain.Spec {
	s := base()
	s.Boot, s.Kernel = domain.Direct, "/var/lib/cc-base/cc-base.efi"
	s.Firmware = domain.Firmware{Image: "/usr/share/ovmf/OVMF.amdsev.fd"}
	s.CPUModel, s.ReleaseSocket = "EPYC-v4", "/run/cc-base/cc-base/release.sock"
	s.SiteFile = "/etc/cc/cc-base/site.conf"
	s.SNP = &domain.SNP{Policy: 0x30000, KernelHashes: true, HostData: filetest.Noise(1, 32)}
	return s
}

func snpGPU() domain.Spec {
	s := snpDirect()
	s.CPUModel, s.TPM = "EPYC-Genoa", domain.TPM{Present: true, Socket: "/run/cc-base/cc-base/tpm.sock"}
	s.Host.VFIO, s.GPUs = true, []string{"0000:45:00.0", "0000:a1:00.0", "0001:c1:1f.7"}
	s.SNP.AuthorKey, s.SNP.IDAuth = true, filetest.Noise(2, 4096)
	s.SNP.IDBlock = append(filetest.Noise(3, 88), 0, 0, 3, 0, 0, 0, 0, 0)
	return s
}

func snpIOMMUFD() domain.Spec {
	s := snpDirect()
	s.Host, s.GPUs = domain.Host{VFIO: true, IOMMUFD: true}, []string{"0000:45:00.0"}
	return s
}

func tdxDirect() domain.Spec {
	s := base()
	s.Boot, s.Kernel = domain.Direct, "/var/lib/cc-base/vmlinuz"
	s.Initrd, s.CommandLine = "/var/lib/cc-base/initrd.img", "root=/dev/mapper/cc-root ro console=ttyS0 a=1,2"
	s.Firmware = domain.Firmware{Image: "/usr/share/ovmf/OVMF.inteltdx.fd"}
	s.ReleaseSocket = "/run/cc-base/cc-base/release.sock"
	s.SiteFile = "/etc/cc/cc-base/site.conf"
	s.TDX = &domain.TDX{Attributes: 0x10000000, MRConfigID: filetest.Noise(4, 48)}
	return s
}

func tdxDisk() domain.Spec {
	s := tdxDirect()
	s.Boot, s.Kernel, s.Initrd, s.CommandLine = domain.Disk, "", "", ""
	s.SiteFile = ""
	s.TDX = &domain.TDX{Attributes: 0x10000000, QuoteSocket: "/run/qgs.sock"}
	return s
}

// isolated is the plain guest of a network of libvirt, shut off from its
// neighbours, for XML alone.
func isolated() domain.Spec {
	s := plainDisk()
	s.Network = domain.Network{Name: "ccbr0", MAC: "52:54:00:12:34:56", Filter: "cc-base-isolated", Isolated: true}
	return s
}

func specs() map[string]domain.Spec {
	return map[string]domain.Spec{
		"plain-disk": plainDisk(), "plain-direct": plainDirect(), "snp-direct": snpDirect(), "snp-gpu": snpGPU(),
		"snp-iommufd": snpIOMMUFD(), "tdx-direct": tdxDirect(), "tdx-disk": tdxDisk(),
	}
}

func text(t testing.TB, s domain.Spec) string {
	t.Helper()
	x, err := domain.XML(s)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func argv(t testing.TB, s domain.Spec) []string {
	t.Helper()
	args, err := domain.Argv(s)
	if err != nil {
		t.Fatal(err)
	}
	return args
}

func TestDomainsAndArgumentsMatchTheirGoldenFiles(t *testing.T) {
	t.Parallel()
	for name, s := range specs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			golden.Compare(t, name+".xml", text(t, s))
			golden.Compare(t, name+".argv", strings.Join(argv(t, s), "\n")+"\n")
		})
	}
}

func TestAnIsolatedDomainMatchesItsGoldenFile(t *testing.T) {
	t.Parallel()
	golden.Compare(t, "isolated.xml", text(t, isolated()))
	_, err := domain.Argv(isolated())
	faulttest.Want(t, err, fault.Config, "leave it open")
}

// The schema of the tools tree, and the same with two newer parts; see there.
const (
	installedSchema = "/usr/share/libvirt/schemas/domain.rng"
	newerSchema     = "testdata/newer-libvirt.rng"
)

// Nothing is left out of a domain to make it fit: it is held against libvirt's
// schema as it is installed, or, where that one is too old, against it and what
// newer-libvirt.rng adds. Without the tools tree the test is skipped, and under
// CI=true it fails.
func TestTheSchemaOfLibvirtAcceptsTheDomains(t *testing.T) {
	t.Parallel()
	tools, dir := lab.Tools(t)
	newer := filetest.Write(t, filepath.Join(dir, "newer.rng"), filetest.Read(t, newerSchema))
	judge := func(schema, text string) error {
		file := filetest.Write(t, filepath.Join(dir, "domain.xml"), []byte(text))
		return sh.Do(t.Context(), tools, "xmllint", "--noout", "--relaxng", schema, file)
	}
	all := specs()
	all["isolated"] = isolated()
	for name, s := range all {
		x, needs := text(t, s), ""
		switch {
		case s.TDX != nil:
			needs = "launch security of TDX, libvirt 11.6"
		case s.Host.IOMMUFD:
			needs = "iommufd, libvirt 12.1"
		}
		err := judge(installedSchema, x)
		switch {
		case needs == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case needs != "" && err == nil:
			t.Errorf("%s: the installed schema knows %s now: take the part out of %s", name, needs, newerSchema)
		case needs != "":
			t.Logf("%s: the installed schema is too old for %s; %s adds it", name, needs, newerSchema)
			if err := judge(newer, x); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	// The judges judge.
	for _, tc := range []struct {
		schema   string
		spec     domain.Spec
		old, new string
	}{
		{installedSchema, snpDirect(), "<policy>0x00030000</policy>", "<policy>none</policy>"},
		{installedSchema, snpDirect(), `kernelHashes="yes"`, `kernelHashes="maybe"`},
		{installedSchema, snpDirect(), "<devices>", "<devices><gpu/>"},
		{newer, tdxDirect(), "<policy>0x10000000</policy>", "<policy>none</policy>"},
		{newer, tdxDirect(), "<mrConfigId>", "<mrConfigId>AAAA"},
		{newer, tdxDirect(), "<quoteGenerationService>", `<quoteGenerationService port="4050">`},
		{newer, tdxDirect(), `<vmport state="off">`, `<vmport state="none">`},
		{newer, tdxDisk(), `path="/run/qgs.sock"`, `path="qgs.sock"`},
		{newer, snpIOMMUFD(), `iommufd="yes"`, `iommufd="1"`},
	} {
		x := text(t, tc.spec)
		bad := strings.Replace(x, tc.old, tc.new, 1)
		if bad == x || judge(tc.schema, bad) == nil {
			t.Errorf("%s accepts %s", filepath.Base(tc.schema), tc.new)
		}
	}
}

// What libvirt reads must be what was meant: texts with markup included.
func TestWhatIsWrittenIsReadBack(t *testing.T) {
	t.Parallel()
	s := tdxDirect()
	s.CommandLine, s.Disk.Path = `a="<b>&c" d='e'`, "/dev/disk/by-id/a&b<c>"
	var d libvirtxml.Domain
	if err := d.Unmarshal(text(t, s)); err != nil {
		t.Fatal(err)
	}
	if d.OS.Cmdline != s.CommandLine || d.Devices.Disks[0].Source.Block.Dev != s.Disk.Path {
		t.Errorf("%q %q", d.OS.Cmdline, d.Devices.Disks[0].Source.Block.Dev)
	}
	if d.LaunchSecurity.TDX == nil || *d.LaunchSecurity.TDX.Policy != 0x10000000 || d.LaunchSecurity.TDX.QuoteGenerationService == nil {
		t.Errorf("%+v", d.LaunchSecurity)
	}
}

func TestTheApertureIsAPowerOfTwoForAllGPUs(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]int{1: 262144, 2: 524288, 3: 1048576, 4: 1048576, 5: 2097152, 8: 2097152, 12: 4194304} {
		s := snpDirect()
		s.Host.VFIO = true
		for i := range n {
			s.GPUs = append(s.GPUs, fmt.Sprintf("0000:%02x:00.0", i))
		}
		arg := fmt.Sprintf("name=opt/ovmf/X-PciMmio64Mb,string=%d", want)
		if !strings.Contains(text(t, s), arg) || !strings.Contains(strings.Join(argv(t, s), "\n"), arg) {
			t.Errorf("%d GPUs: no %s", n, arg)
		}
	}
}

// QEMU reads the arguments, makes every device and waits without starting a
// processor; a specification with a typo in it would end it at once.
func TestQEMUAcceptsTheArgumentsOfPlainGuests(t *testing.T) {
	t.Parallel()
	tools, _ := lab.Tools(t)
	dir, err := os.MkdirTemp("", "dom") // sockets want short paths
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	tools = tools.With(dir)
	in := func(name string) string { return filepath.Join(dir, name) }
	filetest.Write(t, in("key"), []byte("not a key"))
	filetest.Write(t, in("disk.raw"), make([]byte, 1<<20))
	filetest.Write(t, in("kernel"), make([]byte, 1<<16))
	filetest.Write(t, in("vars.fd"), filetest.Read(t, filepath.Join(tools.Dir, "usr/share/OVMF/OVMF_VARS_4M.fd")))
	for name, s := range map[string]domain.Spec{"disk": plainDisk(), "direct": plainDirect()} {
		s.Emulated, s.TPM, s.Network, s.MemoryMiB = true, domain.TPM{}, domain.Network{}, 1024
		s.Firmware.NVRAM, s.EnrollFile, s.ConsoleFile = in("vars.fd"), in("key"), in("console")
		s.ControlSocket, s.ReleaseSocket = in("c.sock"), in("r.sock")
		s.Disk = domain.Volume{Path: in("disk.raw")}
		if s.Boot == domain.Direct {
			s.Kernel = in("kernel")
		}
		args := argv(t, s)
		for i, a := range args {
			if a == "-monitor" {
				args[i+1] = "stdio"
			}
			// The test's folder may lie in memory, which has no direct I/O.
			args[i] = strings.ReplaceAll(args[i], `"direct":true`, `"direct":false`)
		}
		var out strings.Builder
		err := tools.Run(t.Context(), sh.Cmd{Name: "qemu-system-x86_64", Args: append(args, "-S"), Stdin: strings.NewReader("info status\nquit\n"), Stdout: &out})
		if err != nil || !strings.Contains(out.String(), "paused") {
			t.Errorf("%s: %v\n%s", name, err, out.String())
		}
	}
}

func TestWhatTheSchemaCannotRefuseIsRefused(t *testing.T) {
	t.Parallel()
	long := "/" + strings.Repeat("x", 107)
	tests := []struct {
		name, says string
		spec       domain.Spec
		change     func(s *domain.Spec)
	}{
		{"no name", "its name", plainDisk(), func(s *domain.Spec) { s.Name = "" }},
		{"a name with a slash", "its name", plainDisk(), func(s *domain.Spec) { s.Name = "../x" }},
		{"no UUID", "UUID", plainDisk(), func(s *domain.Spec) { s.UUID = "1234" }},
		{"no processor", "processors", plainDisk(), func(s *domain.Spec) { s.VCPUs = 0 }},
		{"too many processors", "processors", plainDisk(), func(s *domain.Spec) { s.VCPUs = 4097 }},
		{"odd memory", "multiple of 2", plainDisk(), func(s *domain.Spec) { s.MemoryMiB = 4095 }},
		{"little memory", "1023", plainDisk(), func(s *domain.Spec) { s.MemoryMiB = 1023 }},
		{"little memory for SNP", "with SEV-SNP", snpDirect(), func(s *domain.Spec) { s.MemoryMiB = 2046 }},
		{"little memory for TDX", "with TDX", tdxDirect(), func(s *domain.Spec) { s.MemoryMiB = 2816 }},
		{"both TEEs", "either", snpDirect(), func(s *domain.Spec) { s.TDX = &domain.TDX{Attributes: 0x10000000} }},
		{"an emulated TEE", "emulated", snpDirect(), func(s *domain.Spec) { s.Emulated = true }},
		{"an emulated GPU", "emulated", plainDirect(), func(s *domain.Spec) { s.GPUs, s.Host.VFIO = []string{"0000:01:00.0"}, true }},

		{"no boot mode", "boot mode", plainDisk(), func(s *domain.Spec) { s.Boot = "" }},
		{"direct without a kernel", "needs a kernel", plainDirect(), func(s *domain.Spec) { s.Kernel = "" }},
		{"an initrd alone", "UKI alone", plainDirect(), func(s *domain.Spec) { s.Initrd = "/i" }},
		{"a command line for a UKI", "UKI alone", plainDirect(), func(s *domain.Spec) { s.CommandLine = "init=/bin/sh" }},
		{"two lines", "one trimmed line", tdxDirect(), func(s *domain.Spec) { s.CommandLine = "a\nb" }},
		{"a long line", "one trimmed line", tdxDirect(), func(s *domain.Spec) { s.CommandLine = strings.Repeat("a", 2048) }},
		{"a kernel for a disk", "boots from its disk", plainDisk(), func(s *domain.Spec) { s.Kernel = "/k" }},
		{"SNP from a disk", "does not measure", snpDirect(), func(s *domain.Spec) { s.Boot, s.Kernel = domain.Disk, "" }},
		{"SNP with flash", "no flash", snpDirect(), func(s *domain.Spec) { s.Firmware = plainFirmware() }},
		{"TDX with a variable store", "no flash", tdxDirect(), func(s *domain.Spec) { s.Firmware.NVRAM = "/v" }},
		{"plain with an image", "plain guest", plainDisk(), func(s *domain.Spec) { s.Firmware = domain.Firmware{Image: "/f"} }},
		{"Secure Boot around the disk", "CVE-2025-2296", plainDirect(), func(s *domain.Spec) { s.Firmware.SecureBoot = true }},

		{"a relative path", "absolute", plainDisk(), func(s *domain.Spec) { s.Disk.Path = "disk.raw" }},
		{"a path with dots", "absolute", plainDisk(), func(s *domain.Spec) { s.EnrollFile = "/etc/../key" }},
		{"a path with a line end", "absolute", plainDisk(), func(s *domain.Spec) { s.EnrollFile = "/etc/\nkey" }},
		{"a long socket", "longer than 107", plainDisk(), func(s *domain.Spec) { s.ControlSocket = long }},
		{"a long socket of the quote service", "longer than 107", tdxDisk(), func(s *domain.Spec) { s.TDX.QuoteSocket = long }},
		{"two ports on a socket", "share", snpDirect(), func(s *domain.Spec) { s.ReleaseSocket = s.ControlSocket }},

		{"no disk", "no disk", plainDisk(), func(s *domain.Spec) { s.Disk = domain.Volume{} }},
		{"a disk of vmdk", "vmdk", plainDisk(), func(s *domain.Spec) { s.Disk.Format = "vmdk" }},
		{"qcow2 on a block device", "raw disk", plainDisk(), func(s *domain.Spec) { s.Disk.Format = "qcow2" }},
		{"two networks", "not both", plainDisk(), func(s *domain.Spec) { s.Network.Name = "default" }},
		{"a bridge with a comma", "bridge", plainDisk(), func(s *domain.Spec) { s.Network.Bridge = "br0,script=x" }},
		{"a network with markup", "network", plainDisk(), func(s *domain.Spec) { s.Network = domain.Network{Name: "<x>"} }},
		{"a MAC address of a group", "MAC", plainDisk(), func(s *domain.Spec) { s.Network.MAC = "53:54:00:12:34:56" }},
		{"a MAC address without a card", "MAC", plainDisk(), func(s *domain.Spec) { s.Network.Bridge = "" }},
		{"a filter with markup", "network filter", plainDisk(), func(s *domain.Spec) { s.Network.Filter = "<x>" }},
		{"a filter without a card", "there is none", plainDisk(), func(s *domain.Spec) { s.Network = domain.Network{Filter: "f"} }},
		{"isolation without a card", "there is none", plainDisk(), func(s *domain.Spec) { s.Network = domain.Network{Isolated: true} }},
		{"a TPM with TDX", "no driver for a TPM", tdxDirect(), func(s *domain.Spec) { s.TPM.Present = true }},
		{"a GPU by name", "PCI address", snpGPU(), func(s *domain.Spec) { s.GPUs = []string{"gpu0"} }},
		{"a GPU in another spelling", "PCI address", snpGPU(), func(s *domain.Spec) { s.GPUs = []string{"45:00.0"} }},
		{"a GPU of slot 32", "PCI address", snpGPU(), func(s *domain.Spec) { s.GPUs = []string{"0000:45:20.0"} }},
		{"a GPU twice", "twice", snpGPU(), func(s *domain.Spec) { s.GPUs = append(s.GPUs, s.GPUs[0]) }},
		{"a GPU without VFIO", "needs VFIO", snpGPU(), func(s *domain.Spec) { s.Host = domain.Host{} }},
		{"65 GPUs", "address space", snpGPU(), func(s *domain.Spec) {
			s.GPUs = nil
			for i := range 65 {
				s.GPUs = append(s.GPUs, fmt.Sprintf("0000:%02x:00.0", i))
			}
		}},

		{"SNP with an unknown processor", "CPU model", snpDirect(), func(s *domain.Spec) { s.CPUModel = "Skylake" }},
		{"SNP with the host's processor", "CPU model", snpDirect(), func(s *domain.Spec) { s.CPUModel = "" }},
		{"a legacy policy", "policy 0x3", snpDirect(), func(s *domain.Spec) { s.SNP.Policy = 0x03 }},
		{"SNP with reserved bits", "policy 0x80030000", snpDirect(), func(s *domain.Spec) { s.SNP.Policy = 1<<31 | 0x30000 }},
		{"SNP with debugging", "bit 19", snpDirect(), func(s *domain.Spec) { s.SNP.Policy = 0xb0000 }},
		{"SNP with a migration agent", "bit 18", snpDirect(), func(s *domain.Spec) { s.SNP.Policy = 0x70000 }},
		{"SNP without kernel hashes", "kernel hashes", snpDirect(), func(s *domain.Spec) { s.SNP.KernelHashes = false }},
		{"a window that is no power of two", "power of two", snpGPU(), func(s *domain.Spec) { s.ApertureMiB = 3 << 18 }},
		{"a window without GPUs", "power of two", snpDirect(), func(s *domain.Spec) { s.ApertureMiB = 1 << 18 }},
		{"a site.conf that no host data names", "go together", snpDirect(), func(s *domain.Spec) { s.SNP.HostData = nil }},
		{"host data that name no site.conf", "go together", snpDirect(), func(s *domain.Spec) { s.SiteFile = "" }},
		{"a site.conf that no MRCONFIGID names", "go together", tdxDirect(), func(s *domain.Spec) { s.TDX.MRConfigID = nil }},
		{"short host data", "31 bytes", snpDirect(), func(s *domain.Spec) { s.SNP.HostData = make([]byte, 31) }},
		{"an ID block alone", "ID block", snpGPU(), func(s *domain.Spec) { s.SNP.IDAuth = nil }},
		{"an author key alone", "author key", snpDirect(), func(s *domain.Spec) { s.SNP.AuthorKey = true }},
		{"an ID block for another policy", "for policy 0x20000", snpGPU(), func(s *domain.Spec) { binary.LittleEndian.PutUint64(s.SNP.IDBlock[88:], 0x20000) }},
		{"an ID block for nothing", "no launch digest", snpGPU(), func(s *domain.Spec) { clear(s.SNP.IDBlock[:48]) }},
		{"bit 64", "page table", snpDirect(), func(s *domain.Spec) { s.SNP.CBitPos = 64 }},

		{"TDX with a processor", "cannot be chosen", tdxDirect(), func(s *domain.Spec) { s.CPUModel = "SapphireRapids" }},
		{"TDX with a legacy policy", "reserved or unknown", tdxDirect(), func(s *domain.Spec) { s.TDX.Attributes = 0x03 }},
		{"TDX with debugging", "bit 0", tdxDirect(), func(s *domain.Spec) { s.TDX.Attributes |= 1 }},
		{"TDX without SEPT_VE_DISABLE", "bit 28", tdxDirect(), func(s *domain.Spec) { s.TDX.Attributes = 1 << 30 }},
		{"a short MRCONFIGID", "47 bytes", tdxDirect(), func(s *domain.Spec) { s.TDX.MRConfigID = make([]byte, 47) }},
	}
	for _, test := range tests {
		s := test.spec
		if err := s.Check(); err != nil {
			t.Fatalf("%s: before the change: %v", test.name, err)
		}
		test.change(&s)
		_, xmlErr := domain.XML(s)
		_, argvErr := domain.Argv(s)
		for _, err := range []error{s.Check(), xmlErr, argvErr} {
			if err == nil {
				t.Errorf("%s: no error", test.name)
				continue
			}
			faulttest.Want(t, err, fault.Config, test.says)
		}
	}
}

func TestEverythingWrongIsSaidAtOnce(t *testing.T) {
	t.Parallel()
	faulttest.Want(t, domain.Spec{SNP: &domain.SNP{}}.Check(), fault.Config, "its name", "processors", "memory", "boot mode", "no disk", "CPU model", "policy 0x0")
}

func TestADebugPolicyNeedsToBeAskedFor(t *testing.T) {
	t.Parallel()
	for _, s := range []domain.Spec{snpDirect(), tdxDirect()} {
		s.InsecureDebug = true
		if s.SNP != nil {
			s.SNP.Policy |= 1 << 19
		} else {
			s.TDX.Attributes |= 1
		}
		if err := s.Check(); err != nil {
			t.Error(err)
		}
	}
}

func TestQEMUAloneNeedsABridgeAndASocket(t *testing.T) {
	t.Parallel()
	s := plainDisk()
	s.Network = domain.Network{Name: "default"}
	if !strings.Contains(text(t, s), `<source network="default">`) {
		t.Error("the network is not in the XML")
	}
	_, err := domain.Argv(s)
	faulttest.Want(t, err, fault.Config, "bridge")
	s = plainDisk()
	s.TPM.Socket = ""
	_, err = domain.Argv(s)
	faulttest.Want(t, err, fault.Config, "swtpm")
}

// Whatever a specification holds: what is accepted is well-formed, and says
// nothing but its own values.
func FuzzXML(f *testing.F) {
	f.Add("cc-base", "/dev/vda", "ro quiet", "br0", "0000:45:00.0", 8192)
	f.Add("x", "/a&b", "<evil/>", "<", ":", 3)
	f.Fuzz(func(t *testing.T, name, disk, line, bridge, gpu string, memory int) {
		s := tdxDirect()
		s.Name, s.Disk.Path, s.CommandLine, s.Network.Bridge, s.GPUs, s.MemoryMiB = name, disk, line, bridge, []string{gpu}, memory
		s.Host.VFIO = true
		x, err := domain.XML(s)
		if err != nil {
			return
		}
		var d libvirtxml.Domain
		if err := xml.Unmarshal([]byte(x), &d); err != nil {
			t.Fatalf("%v\n%s", err, x)
		}
		if d.Name != name || d.Devices.Disks[0].Source.Block.Dev != disk || len(d.Devices.Hostdevs) != 1 || d.LaunchSecurity.TDX == nil {
			t.Errorf("it reads otherwise:\n%s", x)
		}
	})
}
