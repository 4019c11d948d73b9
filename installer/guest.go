package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"cc-base/installer/settings"
	"cc-base/tasks/boot"
	"cc-base/tasks/conf"
	"cc-base/tasks/domain"
	"cc-base/tasks/facts"
	"cc-base/tasks/fault"
	"cc-base/tasks/gpu"
	"cc-base/tasks/hw"
	"cc-base/tasks/manifest"
	"cc-base/tasks/measurements"
	"cc-base/tasks/site"
	"cc-base/tasks/tee/snp"
	"cc-base/tasks/tee/snp/idblock"
)

// guest is a virtual machine to be described: the image, the settings of the
// host, and the disk.
type guest struct {
	name     string
	dir      string // of the deployment: the files that the machine starts from are copied there
	manifest manifest.Manifest
	config   conf.Config
	host     settings.Settings
	gpus     []gpu.Function // all of the host
	tee      hw.TEE         // what this machine is to be protected by
	disk     domain.Volume
	enroll   string // file with the enrolment secret; empty for none
	site     []byte // site.conf; nil for none
	emulate  bool

	secureBoot bool // set by bootFiles: the firmware enforces it, with the build's keys
}

// The files of a deployment that a machine starts from.
const (
	kernelFile   = "kernel"
	initrdFile   = "initrd"
	firmwareFile = "firmware.fd" // of a confidential guest
	codeFile     = "OVMF_CODE.fd"
	varsFile     = "OVMF_VARS.fd" // the template of the guest's variables
	siteFile     = "site.conf"
)

func (g *guest) path(name string) string { return filepath.Join(g.dir, name) }

// bootFiles returns what is copied from the installer into the deployment, by
// name there. read reads a file of the installer.
func (g *guest) bootFiles(read func(name string) ([]byte, error)) (map[string][]byte, error) {
	files := map[string][]byte{}
	want := map[string]string{codeFile: secureBootCode, varsFile: secureBootVars}
	switch g.tee {
	case hw.SEVSNP:
		want = map[string]string{firmwareFile: measurements.SNPFirmware}
	case hw.TDX:
		want = map[string]string{firmwareFile: measurements.TDXFirmware}
	default:
		// Both or neither: code that enforces Secure Boot without our keys would
		// start nothing. OVMF starts what is handed over without asking it.
		_, err := read(secureBootVars)
		if g.secureBoot = err == nil && !g.direct(); !g.secureBoot {
			want = map[string]string{codeFile: plainCode, varsFile: plainVars}
		}
	}
	for as, name := range want {
		data, err := read(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fault.Newf(fault.NoTEE, "the installer has no %s", name).Hint("it was not to be had when the image was built: mage build says why")
		}
		if err != nil {
			return nil, err
		}
		files[as] = data
	}
	if g.direct() {
		uki, err := read(measurements.UKI)
		if err != nil {
			return nil, err
		}
		sections, err := boot.Sections(uki)
		if err != nil {
			return nil, err
		}
		files[kernelFile], files[initrdFile] = sections[".linux"], sections[".initrd"]
	}
	if g.site != nil {
		if _, err := site.Parse(g.site); err != nil {
			return nil, err
		}
		files[siteFile] = g.site
	}
	return files, nil
}

// The firmware of plain guests in the installer, with and without the build's
// own Secure Boot keys.
const (
	secureBootCode = "firmware/OVMF_CODE_4M.secboot.fd"
	secureBootVars = "firmware/OVMF_VARS_4M.cc-base.fd"
	plainCode      = "firmware/OVMF_CODE_4M.fd"
	plainVars      = "firmware/OVMF_VARS_4M.fd"
)

// direct tells whether the host hands the kernel over. Of SEV-SNP and TDX auto
// means that: only then does the launch measure what is started.
func (g *guest) direct() bool {
	if g.config.TEE.BootMode == "auto" {
		return g.tee != hw.NoTEE
	}
	return g.config.TEE.BootMode == "direct"
}

// profile is the key profile that the machine starts with.
func (g *guest) profile() string {
	var order []string
	switch g.tee {
	case hw.SEVSNP:
		order = []string{"snp", "attested"}
	case hw.TDX:
		order = []string{"attested"}
	default:
		order = []string{"tpm"}
	}
	for _, p := range order {
		if _, there := g.manifest.CommandLines[p]; there {
			return p
		}
	}
	return ""
}

// spec describes the machine; files are those of [guest.bootFiles], which are
// in the deployment when it starts.
func (g *guest) spec(root fs.FS, files map[string][]byte) (domain.Spec, error) {
	c := g.config.TEE
	control, err := domain.ControlSocketOf(g.name)
	if err != nil {
		return domain.Spec{}, err
	}
	s := domain.Spec{
		Name: g.name, Boot: domain.Disk, Disk: g.disk, Emulated: g.emulate, EnrollFile: g.enroll,
		ControlSocket: control, ConsoleFile: g.path("console.log"),
	}
	if g.direct() {
		line, there := g.manifest.CommandLines[g.profile()]
		if !there {
			return s, fault.Newf(fault.NoTEE, "the image has no key profile for %s", g.tee).Hint("build it with TEE_TYPE=%s or auto", g.tee)
		}
		s.Boot, s.Kernel, s.Initrd, s.CommandLine = domain.Direct, g.path(kernelFile), g.path(initrdFile), line
	}
	var hostData, mrConfigID []byte
	if g.site != nil {
		s.SiteFile = g.path(siteFile)
		data, id := site.HostData(g.site), site.MRConfigID(g.site)
		hostData, mrConfigID = data[:], id[:]
	}
	switch g.tee {
	case hw.SEVSNP:
		if s.CPUModel = c.CPUModel; s.CPUModel == "auto" {
			model, err := hw.SNPModel(root)
			if err != nil {
				return s, fault.New(fault.NoTEE, err).Hint("TEE_CPU_MODEL in tee.conf names one")
			}
			s.CPUModel = model
		}
		s.Firmware.Image = g.path(firmwareFile)
		s.SNP = &domain.SNP{Policy: c.PolicySNP, KernelHashes: true, HostData: hostData}
	case hw.TDX:
		s.Firmware.Image = g.path(firmwareFile)
		s.TDX = &domain.TDX{Attributes: c.PolicyTDX, MRConfigID: mrConfigID}
	default:
		s.Firmware = domain.Firmware{Code: g.path(codeFile), Vars: g.path(varsFile), NVRAM: g.path("nvram.fd"), SecureBoot: g.secureBoot}
		s.TPM.Present = true
	}
	if g.profile() == "attested" {
		if s.ReleaseSocket, err = domain.ReleaseSocketOf(g.name); err != nil {
			return s, err
		}
	}
	err = g.settle(&s, root, func(path string) ([]byte, error) {
		data, there := files[filepath.Base(path)]
		if !there {
			return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
		}
		return data, nil
	})
	return s, err
}

// settle sets what may change from one start to the next: memory, processors and
// GPUs, and with them what the launch is bound to. read reads a file that the
// machine starts from.
func (g *guest) settle(s *domain.Spec, root fs.FS, read func(path string) ([]byte, error)) error {
	c := g.config.TEE
	s.MemoryMiB, s.VCPUs, s.InsecureDebug = int(c.MemorySize>>20), c.VCPUs, c.InsecureDebug
	chosen, err := g.host.GPU.Chosen(g.gpus)
	if err != nil {
		return err
	}
	plan := gpu.PlanFor(chosen, g.gpus, gpu.ReadPassthrough(root, facts.Release(root)))
	if len(chosen) > 0 && len(plan.Problems) > 0 {
		return fault.Newf(fault.HostUnfit, "the GPUs cannot go to the VM: %s", strings.Join(plan.Problems, "; ")).
			Hint("cc-install doctor says what to do; NVIDIA_GPU_INDEX=\"none\" in gpu_settings makes the VM without")
	}
	s.GPUs, s.ApertureMiB = plan.Functions, 0
	if len(s.GPUs) > 0 {
		s.ApertureMiB = plan.ApertureMiB
	}
	s.Host = domain.Host{VFIO: len(chosen) > 0, IOMMUFD: plan.IOMMUFD}
	if s.SNP == nil {
		return nil
	}
	// With an ID block the processor refuses to start a guest whose digest is
	// another one. Its key is made for it and thrown away: it says nothing of who
	// made the image.
	digest, err := launch(root, read)(*s)
	if err != nil {
		return err
	}
	key, err := idblock.GenerateKey()
	if err != nil {
		return err
	}
	signed, err := idblock.Sign(idblock.Block{LaunchDigest: [48]byte(digest), Policy: s.SNP.Policy}, key, nil)
	if err != nil {
		return err
	}
	s.SNP.IDBlock, s.SNP.IDAuth = signed.Block[:], signed.Auth[:]
	return nil
}

// launch returns the function that computes what SEV-SNP will report of a
// domain.
func launch(root fs.FS, read func(path string) ([]byte, error)) func(domain.Spec) ([]byte, error) {
	return func(s domain.Spec) ([]byte, error) {
		image, err := read(s.Firmware.Image)
		if err != nil {
			return nil, err
		}
		kernel, err := read(s.Kernel)
		if err != nil {
			return nil, err
		}
		initrd, err := read(s.Initrd)
		if err != nil {
			return nil, err
		}
		hashes, err := snp.HashBoot(bytes.NewReader(kernel), bytes.NewReader(initrd), s.CommandLine)
		if err != nil {
			return nil, err
		}
		d, err := snp.Launch(image, snp.Options{VCPUs: s.VCPUs, Model: s.CPUModel, Features: guestFeatures(root), Kernel: &hashes})
		return d[:], err
	}
}

// guestFeatures are the SEV_FEATURES that KVM gives to a guest of this host:
// debug registers are swapped where the module has that on (Linux
// arch/x86/kvm/svm/sev.c, debug_swap).
func guestFeatures(root fs.FS) uint64 {
	const debugSwap = 1 << 5
	if text, err := fs.ReadFile(root, "sys/module/kvm_amd/parameters/debug_swap"); err == nil && bytes.HasPrefix(text, []byte("Y")) {
		return snp.FeatureSNP | debugSwap
	}
	return snp.FeatureSNP
}
