package doctor

import (
	"fmt"
	"slices"
	"strings"

	"cc-base/tasks/hw"
)

func teeChecks() []Check {
	return []Check{
		{"tee.available", "the host can start confidential guests", "SNP or TDX off in the firmware's setup or in KVM's module", teeAvailable},
		{"tee.domcapabilities", "libvirt itself says which guests it can start", "sysfs says yes and QEMU or libvirt cannot", domCapabilities},
		{"tee.tdx-claimed", "libvirt's word for TDX agrees with the kernel", "libvirt 11.6 to 11.9 claim TDX where there is none", tdxClaimed},
		{"tee.firmware", "there is a guest firmware for the TEE", "flash firmware or one without the TEE's metadata: the launch fails", teeFirmware},
		{"tee.vtpm", "what a virtual TPM proves is understood", "swtpm runs on the host: its PCRs protect nothing against the host", vTPM},
	}
}

func teeAvailable(s Subject) (Verdict, bool) {
	if s.TEE.Kind != hw.NoTEE {
		return ok("%s: %s", s.TEE.Kind, s.TEE.Why)
	}
	fix := "use a host with an AMD EPYC of the third generation or later, or an Intel Xeon with TDX"
	switch {
	case s.amd():
		fix = "switch SEV-SNP and SNP memory coverage on in the firmware's setup, boot without iommu=pt, load kvm_amd"
	case s.intel():
		fix = "switch TDX on in the firmware's setup, boot with nohibernate, load kvm_intel with tdx=1"
	}
	return s.confidential("none: "+s.TEE.Why, "the guest would not be protected against this host", fix)
}

func domCapabilities(s Subject) (Verdict, bool) {
	if s.Program("virsh").Version == "" {
		return silent()
	}
	byKernel := hw.NoTEE
	switch {
	case s.TEE.SNPParameter == "Y":
		byKernel = hw.SEVSNP
	case s.TEE.TDXParameter == "Y":
		byKernel = hw.TDX
	}
	switch {
	case len(s.TEE.SecTypes) == 0:
		return note("libvirt gives no list of launch security types", "it is older than 10.5, its daemon does not answer, or QEMU offers none; sysfs was asked instead", "start libvirtd or virtqemud, then run this again as root")
	case byKernel != hw.NoTEE && s.TEE.By != "domcapabilities":
		return warn(fmt.Sprintf("the kernel has %s, libvirt offers only %s", byKernel, strings.Join(s.TEE.SecTypes, ", ")), "QEMU or libvirt is too old for it, or libvirt remembers the capabilities of a former QEMU",
			"update them, then remove libvirt's cache of capabilities and restart it")
	}
	return ok("%s", strings.Join(s.TEE.SecTypes, ", "))
}

func tdxClaimed(s Subject) (Verdict, bool) {
	if !slices.Contains(s.TEE.SecTypes, "tdx") {
		return silent()
	}
	version := s.Program("virsh").Version
	if s.TEE.TDXParameter == "Y" {
		return ok("kvm_intel has tdx on")
	}
	return warn(fmt.Sprintf("libvirt %s offers tdx, but kvm_intel's parameter tdx reads %q", version, s.TEE.TDXParameter),
		"libvirt before 11.10 claims TDX by QEMU's abilities alone", "trust the kernel: switch TDX on, or update libvirt to 11.10")
}

func teeFirmware(s Subject) (Verdict, bool) {
	feature := map[hw.TEE]string{hw.SEVSNP: "amd-sev-snp", hw.TDX: "intel-tdx"}[s.TEE.Kind]
	if feature == "" {
		return silent()
	}
	var wrong []string
	for _, f := range s.Firmware {
		switch {
		case !f.Has(feature):
		case f.Device != "memory":
			wrong = append(wrong, f.Descriptor+" maps it as "+f.Device+", which is not measured")
		case !f.Exists:
			wrong = append(wrong, f.Descriptor+" names "+f.File+", which is not there")
		default:
			return ok("%s (%s)", f.File, f.Descriptor)
		}
	}
	found := "no firmware descriptor has the feature " + feature
	if len(wrong) > 0 {
		found = strings.Join(wrong, "; ")
	}
	return warn(found, "a confidential guest needs one firmware image in memory, without flash", "install the distribution's OVMF with "+feature+", or name the firmware that comes with the installer")
}

func vTPM(s Subject) (Verdict, bool) {
	if s.TEE.Kind == hw.NoTEE {
		return silent()
	}
	return note("a virtual TPM here is swtpm, a program of the host", "its registers say what the host lets them say; they are no part of the processor's evidence",
		"bind keys to the launch measurement (attested or snp); a TPM guards a lost disk and nothing more")
}

func snpChecks() []Check {
	return []Check{
		{"snp.parameter", "kvm_amd has SNP on", "the module's parameter counts, not the processor's flags", snpParameter},
		{"snp.device", "the secure processor's driver is loaded", "sev_snp reads Y and /dev/sev is missing", snpDevice},
		{"snp.iommu-passthrough", "the IOMMU is not in passthrough mode", "GPU guides say iommu=pt; on AMD the kernel then switches SNP off", snpPassthrough},
		{"snp.iommu-tables", "the IOMMU uses its first kind of page tables", "amd_iommu=pgtbl_v2 switches SNP off", snpTables},
		{"snp.firmware-abi", "the secure processor's firmware is recent", "old firmware refuses launches and has an old TCB", snpABI},
		{"snp.asids", "the processor has identities left for SNP guests", "the firmware's setup gives all ASIDs to SEV: no SNP guest starts", snpASIDs},
		{"snp.smt", "the launch policy agrees with simultaneous multithreading", "a policy that forbids SMT on a host that has it: the launch is refused", snpSMT},
		{"snp.certificates", "certificates for attestation do not depend on a server at boot time", "AMD's key server is out or slow: cold starts failed a whole night", snpCertificates},
	}
}

func snpParameter(s Subject) (Verdict, bool) {
	if !s.amd() {
		return silent()
	}
	switch s.TEE.SNPParameter {
	case "Y", "1":
		return ok("kvm_amd.sev_snp=Y")
	case "":
		return s.confidential("kvm_amd shows no parameter sev_snp", "the module is not loaded, or the kernel is older than 6.11", "modprobe kvm_amd; install a newer kernel")
	}
	cause := "SEV-SNP is off in the firmware's setup, or the kernel gave it up while it booted"
	if line, ok := s.Kernel.Logged("SNP cannot be supported"); ok {
		cause = "the kernel says: " + line
	}
	return s.confidential("kvm_amd.sev_snp="+s.TEE.SNPParameter, cause, "switch SEV-SNP, SME and SNP memory coverage on in the firmware's setup")
}

func snpDevice(s Subject) (Verdict, bool) {
	switch {
	case !s.amd() || s.TEE.SNPParameter != "Y":
		return silent()
	case !s.TEE.DevSEV:
		return s.confidential("/dev/sev is missing", "the driver ccp is not loaded", "modprobe ccp; see the kernel's log for its reason")
	}
	return ok("/dev/sev is there")
}

func snpPassthrough(s Subject) (Verdict, bool) {
	if !s.amd() {
		return silent()
	}
	const cause = "with the IOMMU off or in passthrough mode the kernel cannot keep devices from guests' memory, and clears SNP"
	if line, logged := s.Kernel.Logged("IOMMU disabled or configured in passthrough mode"); logged {
		return s.confidential("the kernel says: "+line, cause, "remove iommu=pt and amd_iommu=off from the kernel's command line")
	}
	for _, option := range [][2]string{{"iommu", "pt"}, {"iommu", "off"}, {"amd_iommu", "off"}, {"iommu.passthrough", "1"}} {
		if value, set := s.Kernel.Option(option[0]); set && slices.Contains(strings.Split(value, ","), option[1]) {
			return s.confidential("the kernel's command line has "+option[0]+"="+option[1], cause, "remove it and boot again")
		}
	}
	if n := s.IOMMU.Types["identity"]; n > 0 && n == s.IOMMU.Groups {
		return s.confidential(fmt.Sprintf("all %d IOMMU groups are in passthrough mode", n), cause, "build or boot the kernel with translation as its default")
	}
	if s.IOMMU.Groups == 0 {
		return silent() // iommu.on says it
	}
	return ok("translation is on")
}

func snpTables(s Subject) (Verdict, bool) {
	if !s.amd() {
		return silent()
	}
	if value, set := s.Kernel.Option("amd_iommu"); set && strings.Contains(value, "pgtbl_v2") {
		return s.confidential("the kernel's command line has amd_iommu="+value, "SNP works with the IOMMU's v1 page tables only", "remove it and boot again")
	}
	return ok("no option asks for v2")
}

// leastABI is what NVIDIA's reference for such hosts asks for (June 2026).
const leastABI = "1.55"

func snpABI(s Subject) (Verdict, bool) {
	switch {
	case s.TEE.Kind != hw.SEVSNP:
		return silent()
	case s.TEE.SNPAPI == "":
		return note("the firmware's version is not in the kernel's log", "the log was overwritten, or may not be read", "run this as root after a boot; a guest's report has the exact TCB")
	case !atLeast(s.TEE.SNPAPI, leastABI):
		return warn("SEV-SNP API "+s.TEE.SNPAPI, leastABI+" is what NVIDIA's reference configuration has", "update the machine's firmware, or put a newer SEV firmware into /lib/firmware/amd")
	}
	return ok("SEV-SNP API %s", s.TEE.SNPAPI)
}

func snpASIDs(s Subject) (Verdict, bool) {
	n, known := s.TEE.Guests["sev_es"]
	switch {
	case s.TEE.Kind != hw.SEVSNP || !known:
		return silent()
	case n == 0:
		return fail("no identity is left for SEV-ES and SNP guests", "the firmware's setup gives the whole ASID space to plain SEV guests", "raise the SEV-ES ASID space limit in the firmware's setup")
	}
	return ok("%d SNP guests at a time", n)
}

func snpSMT(s Subject) (Verdict, bool) {
	if s.TEE.Kind != hw.SEVSNP {
		return silent()
	}
	if s.CPU.SMT {
		return ok("SMT is on: the policy must allow it (bit 16, as in 0x30000)")
	}
	return note("SMT is off", "", "TEE_POLICY_SNP=0x20000 then proves to a verifier that no other thread shares the core")
}

func snpCertificates(s Subject) (Verdict, bool) {
	if s.TEE.Kind != hw.SEVSNP {
		return silent()
	}
	return note("a verifier needs this processor's VCEK certificate", "AMD's key server limits requests and has had outages", "fetch it once and keep it with the verifier")
}

func tdxChecks() []Check {
	return []Check{
		{"tdx.parameter", "kvm_intel has TDX on", "without tdx=1, or a module option, the parameter reads N", tdxParameter},
		{"tdx.hibernation", "the host cannot hibernate", "Linux 7.0 refuses TDX where hibernation is possible; the same host worked on 6.17", tdxHibernation},
		{"tdx.initialized", "the TDX module was initialized", "the parameter reads Y and the module failed, or waits for the first guest", tdxInitialized},
		{"tdx.quotes", "the quote generation service answers", "qgs.conf has its port commented out, QEMU expects one: TDX quotes are empty", tdxQuotes},
		{"tdx.registration", "a host with several processors is registered with Intel", "PCS answers 404 and the verifier only sees an empty quote", tdxRegistration},
		{"tdx.collateral", "quotes are judged by the right collateral", "QGS fails after its cache of 168 hours; verifiers differ between TCB channels", tdxCollateral},
	}
}

func tdxParameter(s Subject) (Verdict, bool) {
	switch {
	case !s.intel():
		return silent()
	case s.TEE.TDXParameter == "Y" || s.TEE.TDXParameter == "1":
		return ok("kvm_intel.tdx=Y")
	case s.TEE.TDXParameter == "":
		return s.confidential("kvm_intel shows no parameter tdx", "the module is not loaded, or the kernel has no TDX", "install a kernel with KVM_INTEL_TDX, then modprobe kvm_intel tdx=1")
	}
	cause := "TDX is off in the firmware's setup, or the module was loaded without tdx=1"
	if line, logged := s.Kernel.Logged("tdx: "); logged {
		cause = "the kernel says: " + line
	}
	return s.confidential("kvm_intel.tdx="+s.TEE.TDXParameter, cause, "switch TDX on in the firmware's setup and put kvm_intel.tdx=1 on the kernel's command line")
}

func tdxHibernation(s Subject) (Verdict, bool) {
	const fix = "put nohibernate on the kernel's command line"
	if line, logged := s.Kernel.Logged("Hibernation support is enabled"); logged {
		return s.confidential("the kernel says: "+line, "TDX and hibernation exclude each other", fix)
	}
	_, off := s.Kernel.Option("nohibernate")
	switch {
	case !s.intel() || s.TEE.TDXParameter == "":
		return silent()
	case off || !s.Kernel.Hibernation:
		return ok("the host cannot hibernate")
	case atLeast(s.Kernel.Release, "7.0"):
		return s.confidential("the host can hibernate", "from Linux 7.0 on TDX is not initialized then", fix)
	}
	return warn("the host can hibernate", "from Linux 7.0 on TDX is not initialized then; this kernel does not mind yet", fix)
}

func tdxInitialized(s Subject) (Verdict, bool) {
	if !s.intel() || s.TEE.TDXParameter != "Y" {
		return silent()
	}
	if line, failed := s.Kernel.Logged("tdx: initialization failed"); failed {
		return s.confidential("the kernel says: "+line, "", "the line names the reason")
	}
	if _, done := s.Kernel.Logged("tdx: module initialized"); done {
		return ok("the TDX module is initialized")
	}
	return note("the kernel's log says nothing of the TDX module", "it is initialized with the first guest, or the log may not be read", "run this as root after the first guest was started")
}

func tdxQuotes(s Subject) (Verdict, bool) {
	switch {
	case s.TEE.Kind != hw.TDX:
		return silent()
	case s.TEE.QuoteSocket:
		return ok("the quote generation service has its socket")
	case s.TEE.QuotePort != "":
		return note("the quote generation service is set to vsock port "+s.TEE.QuotePort, "the domain expects its socket", "comment port out in /etc/qgs.conf and restart qgsd, or give the domain the port")
	}
	return warn("no quote generation service was found", "a TDX guest then gets no quotes and cannot prove anything", "install and start Intel's tdx-qgs (qgsd)")
}

func tdxRegistration(s Subject) (Verdict, bool) {
	if s.TEE.Kind != hw.TDX || s.CPU.Sockets < 2 {
		return silent()
	}
	return note(fmt.Sprintf("%d processors", s.CPU.Sockets), "Intel's certificate server knows a platform of several processors only after its registration", "register it with Intel's PCK ID retrieval tool or MPA service, once")
}

func tdxCollateral(s Subject) (Verdict, bool) {
	if s.TEE.Kind != hw.TDX {
		return silent()
	}
	return note("quotes need fresh certificates and a chosen TCB channel", "QGS 1.27 fails once its cache of 168 hours has expired; a verifier of channel early may call out of date what standard accepts",
		"restart qgsd when it reports 0xb011 or 0x11001; set the verifier's channel on purpose")
}
