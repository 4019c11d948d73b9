package fault

// The codes, by area (see areas). Numbers are never reused.
const (
	Config        Code = "CC0101"
	HostTools     Code = "CC0201"
	UserNamespace Code = "CC0202"
	HostSpace     Code = "CC0203"
	Busy          Code = "CC0204"
	Command       Code = "CC0205"
	Interrupted   Code = "CC0206"
	OutputFolder  Code = "CC0207"
	Bootstrap     Code = "CC0301"
	Overlay       Code = "CC0302"
	NotLocked     Code = "CC0303"
	NoLock        Code = "CC0304"
	Outdated      Code = "CC0305"
	Sealing       Code = "CC0401"
	DiskImage     Code = "CC0402"
	VolumeTooBig  Code = "CC0403"
	ImageKept     Code = "CC0404"
	ImageLoss     Code = "CC0405"
	ImageFile     Code = "CC0406"
	SharedCache   Code = "CC0411"
	Differs       Code = "CC0412"
	Seeded        Code = "CC0413"
	BootImage     Code = "CC0501"
	Machine       Code = "CC0502"
	Signing       Code = "CC0601"
	SigningKey    Code = "CC0602"
	Damaged       Code = "CC0603"
	Measurements  Code = "CC0604"
	Bill          Code = "CC0605"
	DebugImage    Code = "CC0610"
	DeviceRefused Code = "CC0701"
	NoDevice      Code = "CC0702"
	NoTEE         Code = "CC0703"
	InstallWrite  Code = "CC0704"
	Usage         Code = "CC0705"
	InstallVerify Code = "CC0706"
	Deployment    Code = "CC0707"
	OlderImage    Code = "CC0708"
	ImageKeyLost  Code = "CC0709"

	HostUnfit       Code = "CC0720"
	HostUnsupported Code = "CC0721"
	HostSettings    Code = "CC0722"

	GuestCmdline  Code = "CC0801"
	GuestVolume   Code = "CC0802"
	GuestKey      Code = "CC0803"
	GuestVerity   Code = "CC0804"
	GuestMount    Code = "CC0805"
	GuestBoot     Code = "CC0806"
	GuestTPM      Code = "CC0807"
	GuestOtherTPM Code = "CC0808"
	GuestTokenSRK Code = "CC0809"
	GuestPCR      Code = "CC0810"
	GuestBank     Code = "CC0811"
	GuestPlanted  Code = "CC0812"
	GuestRecovery Code = "CC0813"
	GuestEnrol    Code = "CC0814"
	GuestSwapped  Code = "CC0815"
	GuestTEE      Code = "CC0816"
	GuestDynamic  Code = "CC0817"
	GuestRotate   Code = "CC0818"
	GuestRenew    Code = "CC0819"
	GuestNoKey    Code = "CC0820"

	ReleaseNoAnswer Code = "CC0821"
	ReleaseNonce    Code = "CC0822"
	ReleaseReplay   Code = "CC0823"
	ReleaseForeign  Code = "CC0824"
	ReleaseDenied   Code = "CC0825"
	ReleaseMessage  Code = "CC0826"
	SiteOther       Code = "CC0827"
	SiteInvalid     Code = "CC0828"
	GuestMonitor    Code = "CC0829"
	GuestFirewall   Code = "CC0830"

	HeaderUnreadable  Code = "CC0901"
	HeaderCipher      Code = "CC0902"
	HeaderKeyslot     Code = "CC0903"
	HeaderKDF         Code = "CC0904"
	HeaderSegment     Code = "CC0905"
	HeaderArea        Code = "CC0906"
	HeaderDigest      Code = "CC0907"
	HeaderRequirement Code = "CC0908"
	HeaderSlots       Code = "CC0909"
	HeaderToken       Code = "CC0910"
	HeaderMAC         Code = "CC0911"
	Libvirt           Code = "CC1001"
	NoLibvirt         Code = "CC1002"
	NoVM              Code = "CC1003"
	VMTaken           Code = "CC1004"
	VMNotReady        Code = "CC1005"
	HostNetwork       Code = "CC1006"
	VMState           Code = "CC1007"

	GuestGPU Code = "CC1202"

	ReceiptUnsigned  Code = "CC1301"
	ReceiptForeign   Code = "CC1302"
	ReceiptDuplicate Code = "CC1303"
	ReceiptUnknown   Code = "CC1304"
	ReceiptFailed    Code = "CC1305"
	ReceiptMissing   Code = "CC1306"
	ReceiptManifest  Code = "CC1307"
	ReceiptTier      Code = "CC1308"
	ReceiptEvidence  Code = "CC1309"
	ReceiptExpired   Code = "CC1310"
	ReceiptFuture    Code = "CC1311"
	ReceiptMalformed Code = "CC1312"
	ReceiptIndex     Code = "CC1313"
	ReceiptLog       Code = "CC1314"
	ReceiptKey       Code = "CC1315"

	TrustFile      Code = "CC1401"
	TrustUnsigned  Code = "CC1402"
	TrustSignature Code = "CC1403"
	TrustUnknown   Code = "CC1404"
	TrustRevoked   Code = "CC1405"
	TrustExpired   Code = "CC1406"
	TrustOld       Code = "CC1407"
	TrustContents  Code = "CC1408"

	RegistryReference   Code = "CC1501"
	RegistryDenied      Code = "CC1502"
	RegistryMissing     Code = "CC1503"
	RegistryUnreachable Code = "CC1504"
	RegistryRefused     Code = "CC1505"
	ReleaseIncomplete   Code = "CC1506"
	ReleaseWrong        Code = "CC1507"
	TagNotAllowed       Code = "CC1508"
	PlainHTTP           Code = "CC1509"
)

// Meaning is what `mage explain` prints for a code.
type Meaning struct {
	Code  Code
	Exit  int
	Title string // one line, lower case
	Cause string // when it happens
	Cure  string // what to do
}

// Explain returns the meaning of code; an unknown code gets a Meaning that
// says so, with exit status 1.
func Explain(code Code) Meaning {
	for _, m := range Meanings() {
		if m.Code == code {
			return m
		}
	}
	return Meaning{Code: code, Exit: ExitFailed, Title: "unknown code"}
}

// Meanings returns every code in order.
func Meanings() []Meaning {
	return []Meaning{
		{Config, ExitUsage, "the configuration is wrong",
			"a file under config/ has an unknown key, a value outside its range or a combination that cannot work; all problems are listed with file:line:column",
			"correct the lines named; `mage config:show` prints what is in force"},
		{HostTools, ExitUnsupported, "the build machine lacks a program",
			"the build needs Go, mmdebstrap and, for an ordinary user, uidmap on the host; everything else comes from the tools tree",
			"run the one command that was printed, then build again"},
		{UserNamespace, ExitUnsupported, "user namespaces are not available",
			"the kernel or a security module (AppArmor on Ubuntu 24.04) refuses unprivileged user namespaces, or /etc/subuid has no range for this user",
			"follow the hint; or build as root in a container"},
		{HostSpace, ExitUnsupported, "not enough disk or memory for the build",
			"the free space under out/ or the memory is below what this configuration was measured to need",
			"free some, or point CC_OUT_DIR at a larger disk"},
		{Busy, ExitFailed, "another build runs in this output folder",
			"a build was started on an out/ that another one, whose process is named, writes to",
			"wait for the other one, or give this one its own CC_OUT_DIR"},
		{Command, ExitFailed, "a program that the build ran has failed",
			"a program ended with an error that has no code of its own; the last lines it printed are shown",
			"read the lines shown; the whole log is under out/log"},
		{Interrupted, ExitFailed, "the build was interrupted",
			"Ctrl-C or SIGTERM; children were ended and half-written outputs removed",
			"build again: finished stages are not repeated"},
		{OutputFolder, ExitFailed, "the output folder cannot be used",
			"CC_OUT_DIR, or out/ in the checkout, cannot be made or written to: it lies below a file, on a read-only file system or belongs to somebody else",
			"point CC_OUT_DIR at a folder that you may write to"},
		{Bootstrap, ExitFailed, "the distribution could not be bootstrapped",
			"the mirror does not answer, a package does not exist, or a signature does not verify",
			"the mirror is read from the host's apt configuration; check it, or set MIRROR in config/os.conf"},
		{Overlay, ExitUsage, "an overlay cannot be applied",
			"a file under overlays/ has no declared owner and mode that make sense, or replaces a directory by a file",
			"correct the entry named in the message"},
		{NotLocked, ExitFailed, "packages are not the locked ones",
			"with LOCKED=yes, what the mirror offers or what was installed differs from config/packages.lock: another version or digest, a package that is not in it, or one that is missing; every difference is listed",
			"look at the differences; `mage lock` takes what the mirror has now, a mirror with old versions (SNAPSHOT) has what was locked"},
		{NoLock, ExitUsage, "there is no lock for this build",
			"LOCKED=yes, or `mage outdated`, and config/packages.lock is not there or has no section for the tools or for this profile",
			"run `mage lock` and keep config/packages.lock with the configuration"},
		{Outdated, ExitFailed, "the mirror has other packages than the lock",
			"`mage outdated` found that a lock written now would differ; the table says in what",
			"`mage lock` takes the newer ones; nothing is wrong with a build by the old lock while the mirror still has its versions"},
		{Sealing, ExitFailed, "a volume could not be sealed",
			"mkfs.erofs, veritysetup or cryptsetup failed, or its result did not verify",
			"read the lines shown"},
		{DiskImage, ExitFailed, "the disk image could not be assembled",
			"a partition, the ESP or the qcow2 conversion failed or did not verify",
			"read the lines shown"},
		{VolumeTooBig, ExitUsage, "the content does not fit the partition",
			"a size in config/partition.conf is smaller than its content",
			"use size auto, or the number of MiB that the message names"},
		{ImageKept, ExitUnsafe, "the image was changed and is kept",
			"cc-base.qcow2 is not the file that the last build made: `mage image:resize`, `image:snapshot`, `image:compress` or another program has changed it, and this build would write it anew",
			"copy it with `mage image:convert -to=qcow2 -o=FILE` where it is still wanted, then build with CC_FORCE=1, or with -force where the target takes it"},
		{ImageLoss, ExitUnsafe, "something would be lost for good",
			"a file would be replaced, snapshots dropped, or a machine that is in use would open its volumes no more by itself",
			"say -force if that is wanted; nothing was changed"},
		{ImageFile, ExitFailed, "the image cannot be worked on",
			"it is damaged, in use, made of several files, not laid out as the command needs it, or a tool failed; the file is as it was",
			"read the reason in the message; `mage image:info -file=FILE` shows what the image holds"},
		{SharedCache, ExitFailed, "an archive of stage results cannot be written or used",
			"it is not signed by a key that was named, is cut off, was changed, or could not be written; nothing of it is trusted, and builds go on without",
			"get it again, name its maker's key with -keys=FILE, or build without it"},
		{Differs, ExitFailed, "an image could not be reproduced",
			"a build from this checkout and configuration differs from the one that its manifest describes, or that manifest cannot be read",
			"read where the first difference is; most often packages have moved since: build with the package lock of whoever made the image"},
		{Seeded, ExitUnsafe, "volume keys from a seed are for tests",
			"CC_SEED_FILE is set: it cannot be read or is too short, or the image would be signed with a key that was given, and volumes whose keys can be computed are no secret",
			"unset CC_SEED_FILE, or CC_SIGNING_KEY_FILE"},
		{BootImage, ExitFailed, "the boot image could not be made",
			"dracut or ukify failed, or the signature did not verify",
			"read the lines shown"},
		{Machine, ExitFailed, "the virtual machine did not do what was expected",
			"QEMU or swtpm ended early, the console never showed the expected line, or a VM that is asked for something is not there, does not answer or runs something else",
			"start the VM, or give its socket; the console of `mage vm` is under out/log"},
		{Signing, ExitFailed, "the installer could not be signed",
			"the key cannot sign or the signature did not verify",
			"`mage keys:signing` makes a project key; CC_SIGNING_KEY_FILE names your own"},
		{SigningKey, ExitUsage, "the signing key cannot be used",
			"CC_SIGNING_KEY_FILE is missing, not an OpenPGP private key, or its passphrase is wrong",
			"give an armoured private key and its passphrase through CC_SIGNING_PASSPHRASE_FD or the prompt"},
		{Damaged, ExitFailed, "a file is not the one that was built",
			"a checksum differs from the recorded one",
			"copy or build it again; do not use it"},
		{Measurements, ExitFailed, "the measurements are not those of the files",
			"measurements.json or rvps.json holds another value than the one that boot image, disk, firmware and certificates give, and the first such field is named; or one of them cannot be measured",
			"trust no value in it; build again, or unpack the installer again after checking its signature"},
		{Bill, ExitFailed, "the bill of materials is none",
			"sbom.cdx.json or sbom.spdx.json was to be made of packages and programs that contradict each other, each of which is named; or a file that was to be read is in neither format",
			"bring the tree up to date with `mage update`, then build; take a bill from an installer whose signature was checked"},
		{DebugImage, ExitUnsafe, "a debug image is no production image",
			"DEBUG_IMAGE=yes puts a root shell on the console: such an image was to be signed with a given key, or installed without --allow-debug",
			"build without CC_PROFILE=debug; to look around on a test machine, sign with the key below keys/debug and install with --allow-debug"},
		{DeviceRefused, ExitUnsafe, "the device was refused as unsafe",
			"it is mounted, in use, a member of RAID, LVM, ZFS or Ceph, read-only, too small, removable or the system disk, or no free disk is there to choose; every reason is listed",
			"choose another device with --list-devices; --verify DEVICE shows every rule"},
		{NoDevice, ExitUsage, "no such device",
			"the path does not exist or is not a block device",
			"choose a device with --list-devices"},
		{NoTEE, ExitUnsupported, "this host has no trusted execution environment",
			"neither SEV-SNP nor TDX is enabled in firmware and kernel",
			"enable it, or install with --allow-plain and lose confidentiality against the host"},
		{InstallWrite, ExitFailed, "the image could not be written to the device",
			"an I/O error, or the device was taken by another program",
			"the device holds no valid installation; run the installer again"},
		{Usage, ExitUsage, "the command line is wrong",
			"an unknown command or flag, or an argument is missing",
			"run it with --help"},
		{InstallVerify, ExitFailed, "the disk does not hold this installation",
			"a partition is missing or its content differs from the manifest",
			"install again"},
		{Deployment, ExitFailed, "what the host remembers of the installation cannot be used",
			"the folder of the deployment under /var/lib/cc-base is damaged, locked by another installer, or cannot be written to",
			"run as root; a record that is damaged can be moved away, then the disk is installed anew"},
		{OlderImage, ExitUnsafe, "the image is older than the installed one",
			"its date is before that of the image that this deployment has: an attacker may want a hole back that was mended",
			"take the newest installer, or say --allow-downgrade"},
		{ImageKeyLost, ExitUsage, "the key of the shipped image is needed",
			"the volumes get keys of their own at installation, for which they have to be opened once",
			"name the key with --image-key FILE; image.key of the build's out/keys, or decrypt image-key.asc"},
		{HostUnfit, ExitFailed, "the host is not ready for a confidential VM",
			"`cc-install doctor` has findings that are failures; each has its cause and what to do",
			"do what the findings say, then run `cc-install doctor` again"},
		{HostUnsupported, ExitUnsupported, "the host cannot run virtual machines",
			"there is no /dev/kvm: virtualization is off, its module is not loaded, or this is a container",
			"switch virtualization on in the firmware's setup and load kvm_amd or kvm_intel"},
		{HostSettings, ExitUsage, "a settings file of the host is wrong",
			"gpu_settings or network_settings has an unknown key, a value outside its range, or names a GPU, an address or a bridge that this host does not have; all problems are listed by line",
			"correct the lines named; or remove the file and run `cc-install detect`"},
		{GuestCmdline, ExitFailed, "the guest refused its kernel command line",
			"a parameter that fixes a root hash is missing, malformed or given twice",
			"boot the image with its own UKI and nothing added"},
		{GuestVolume, ExitFailed, "the guest found no usable volume",
			"a partition with the expected label is missing or is there twice",
			"attach exactly one cc-base disk, unchanged"},
		{GuestKey, ExitFailed, "the guest could not unlock a volume",
			"no key was given, or the key is wrong",
			"give the image key through fw_cfg opt/org.cc-base/enroll"},
		{GuestVerity, ExitFailed, "a volume failed its integrity check",
			"the data or its hash tree differ from what the measured root hash says",
			"the disk was changed; install again"},
		{GuestMount, ExitFailed, "the guest could not set up its file systems",
			"the settings in the image are malformed, or a mount was refused by the kernel",
			"build the image again; if it stays, the kernel lacks a file system"},
		{GuestBoot, ExitFailed, "the guest could not finish its boot",
			"a unit that the boot needs has failed; there is no emergency shell to look from",
			"read the console above the line; a disk that was cut short or a missing device is the usual cause"},
		{GuestTPM, ExitFailed, "the guest cannot use its TPM",
			"there is no TPM 2.0 at TPM_DEVICE, or it does not answer as one must",
			"give the virtual machine a TPM 2.0 (swtpm); a running VM keeps the one it was defined with"},
		{GuestOtherTPM, ExitFailed, "the TPM is not the one that the volumes are bound to",
			"the storage root key of the enrolment is not in this TPM: its state was lost or replaced, or the disk was moved to another VM",
			"give the VM its own TPM state back, or open the volumes with the recovery key"},
		{GuestTokenSRK, ExitFailed, "a volume's token names another TPM's storage root key",
			"the TPM is the VM's own, but the token on the disk was made for another one",
			"the disk was changed or exchanged; attach the right one, or use the recovery key"},
		{GuestPCR, ExitFailed, "the machine has not booted as when the volumes were enrolled",
			"a TPM register (PCR) that the key is bound to differs; the message names it: 0-3 firmware, 7 Secure Boot, 11 the boot image, 12 additions to the command line",
			"boot it as before; after a wanted change use the recovery key once, then it is enrolled anew"},
		{GuestBank, ExitFailed, "the TPM's registers were never written",
			"a PCR that the firmware always extends is all zeros or all ones, or the SHA-256 bank is missing: nothing was measured",
			"use OVMF and a TPM with an active SHA-256 bank"},
		{GuestPlanted, ExitFailed, "the writable volume was not made by this guest",
			"cc-dynamic opens, or claims to open, with a secret that the host can know: in this key profile only the guest's own key may",
			"attach the VM's own disk; to begin anew, erase the partition cc-dynamic"},
		{GuestRecovery, ExitFailed, "no valid recovery key was typed",
			"three tries were wrong, or nobody typed",
			"start the VM again and type the key as it was shown at installation"},
		{GuestEnrol, ExitFailed, "the volumes could not be bound to this machine",
			"the TPM or the disk failed while the first boot enrolled them",
			"start the VM again: enrolment continues where it was cut off"},
		{GuestSwapped, ExitFailed, "a volume stands in another one's place",
			"its token was made for a volume of another name: partitions were exchanged",
			"attach the disk as it was installed"},
		{GuestTEE, ExitFailed, "the TEE gave no usable key or report",
			"the processor's key is all zeros, the request was refused, or there is no such device",
			"check that the VM was started as a confidential one with the policy of the installation"},
		{GuestDynamic, ExitFailed, "the writable volume could not be made",
			"formatting cc-dynamic or its file system failed",
			"look at the disk for errors, then start the VM again"},
		{GuestRotate, ExitFailed, "the secrets could not be replaced",
			"a step of the rotation failed; the volumes still open with the former ones",
			"`cc-guest keys status` shows the state; the next timer run tries again"},
		{GuestRenew, ExitFailed, "the volume key could not be changed",
			"`cc-guest keys renew-volume` does not fit this key profile or volume, or the change, which runs in the initrd, failed",
			"read the reason in the message; a change that was cut off goes on when the VM is started again"},
		{GuestNoKey, ExitFailed, "the writable volume has no recovery key",
			"KEY_RECIPIENTS was empty when the image was built",
			"name OpenPGP keys in KEY_RECIPIENTS and build; the guest makes the key at its next boot"},
		{ReleaseNoAnswer, ExitFailed, "nobody released the key in time",
			"the VM waits for `cc-install release` on the port org.cc-base.release",
			"start the release service where the VM's port is connected, then start the VM again"},
		{ReleaseNonce, ExitFailed, "the released key answers another question",
			"the answer does not carry this boot's nonce",
			"something between guest and operator mixes messages up, or tampers with them"},
		{ReleaseReplay, ExitFailed, "the released key is a former one, played back",
			"the answer is for the key exchange of another boot",
			"something between guest and operator replays messages"},
		{ReleaseForeign, ExitFailed, "the released key is not signed by the operator",
			"the signature does not verify with OPERATOR_KEY of the image",
			"release with the operator's own key, or build the image with the right OPERATOR_KEY"},
		{ReleaseDenied, ExitFailed, "the operator did not release the key",
			"the evidence does not satisfy the policy; the operator's audit log has the reason",
			"compare the measurement with measurements.json: `cc-install compare`"},
		{ReleaseMessage, ExitFailed, "a message of the key release cannot be read",
			"it is malformed, too long or of another version",
			"use guest and cc-install of the same version"},
		{SiteOther, ExitFailed, "site.conf is not the one that the VM was launched with",
			"its SHA-256 is not the host data (SEV-SNP) or MRCONFIGID (TDX) of the guest's own report, or one of the two is there without the other",
			"launch the VM with the digest of the file it is given: `sha256sum site.conf` (docs/site.md)"},
		{SiteInvalid, ExitFailed, "site.conf cannot be used",
			"it is malformed or too long, has an unknown key, or a value outside its range; all problems are listed by line and column",
			"correct the lines named; docs/site.md lists the keys"},
		{GuestMonitor, ExitFailed, "the running guest is no longer what called itself ready",
			"a mount or a verified volume is not as it was at the end of the boot, the writable file system has found itself damaged, or the program that looks after this was ended or does not answer",
			"start the VM again; if it stays, the disk was changed or is failing, or something in the VM works against cc-base"},
		{GuestFirewall, ExitFailed, "the guest could not load its firewall",
			"the kernel or nft refused the rules; a guest without them does not go on booting",
			"build the image again with a kernel that has nf_tables; the journal of a debug image shows nft's message"},
		{HeaderUnreadable, ExitFailed, "the volume's header cannot be read",
			"neither copy of the LUKS2 header is whole: magic, version, size, checksum or JSON is wrong",
			"the disk was damaged or changed; install again"},
		{HeaderCipher, ExitFailed, "the header names a cipher that is not allowed",
			"a segment is to be read with the null cipher or with one that cc-base never writes (CVE-2025-59054)",
			"the header was tampered with; do not use the disk"},
		{HeaderKeyslot, ExitFailed, "a keyslot is not one that cc-base writes",
			"its type, size, stripes or the cipher of its area differ; a null cipher there reveals the key (CVE-2025-58356)",
			"the header was tampered with; do not use the disk"},
		{HeaderKDF, ExitFailed, "a keyslot or digest uses a key derivation that is not allowed",
			"its type, hash, cost or salt is out of bounds",
			"the header was tampered with; do not use the disk"},
		{HeaderSegment, ExitFailed, "the header maps the volume in a way that cc-base never writes",
			"there is not exactly one encrypted segment from the header's end to the end of the volume",
			"the header was tampered with; do not use the disk"},
		{HeaderArea, ExitFailed, "a keyslot lies outside the header",
			"its area overlaps another one, the metadata or the data",
			"the header was tampered with; do not use the disk"},
		{HeaderDigest, ExitFailed, "the header's digests do not cover its keyslots and segment",
			"a slot or the segment has no digest, or a digest names what is not there",
			"the header was tampered with; do not use the disk"},
		{HeaderRequirement, ExitFailed, "the header has requirement flags",
			"a re-encryption is pending, or a feature is asked for that cc-base does not use",
			"the header was tampered with, or a re-encryption was cut off; do not use the disk"},
		{HeaderSlots, ExitFailed, "the header holds a keyslot or token that nobody accounts for",
			"a token names a slot that is not there, or two tokens name the same one",
			"the header was tampered with; do not use the disk"},
		{HeaderToken, ExitFailed, "a token in the header cannot be read",
			"it is malformed, of an unknown version, or lacks a required field",
			"the header was tampered with; do not use the disk"},
		{HeaderMAC, ExitFailed, "the header is not the one that the guest wrote",
			"its authentication code, keyed by the volume's own secret, does not match",
			"the header was tampered with; do not use the disk"},
		{Libvirt, ExitFailed, "libvirt refused a request",
			"a domain, network or filter could not be defined, started, changed or removed; libvirt's reason is in the message",
			"read the reason; `journalctl -u libvirtd -u virtqemud` has more"},
		{NoLibvirt, ExitUnsupported, "libvirt does not answer",
			"virsh is not installed, the daemon does not run, or this user may not use it",
			"install and start libvirt, and run the program as root"},
		{NoVM, ExitUsage, "there is no VM of that name",
			"libvirt has no domain of that name, or the installer has made none",
			"`virsh list --all` shows the names"},
		{VMTaken, ExitUnsafe, "the name is taken",
			"libvirt has a domain, network or filter of that name already, or the installer keeps the state of a VM of that name",
			"choose another --name, or remove the former one with `cc-install uninstall NAME`"},
		{VMNotReady, ExitFailed, "the VM did not become ready",
			"its console has neither the ready line nor a refusal with a code: it ended, or the time was over",
			"read the console whose file is named; under emulation, or on a slow disk, allow more time"},
		{HostNetwork, ExitUnsupported, "the VM's network cannot be made on this host",
			"the bridge that was named is not there, or every private network that could be given to a bridge of our own is in use",
			"name a bridge of the host, or a free network; `ip route` shows those in use"},
		{VMState, ExitFailed, "what is recorded of the VM cannot be used",
			"state.json is damaged, of another version or there is nothing of the kind that was asked for in it",
			"keep the folder for the operator of the host; `cc-install uninstall NAME` removes what it names"},
		{GuestGPU, ExitFailed, "the guest could not deal with its GPU",
			"the PCI bus cannot be read, or the kernel could not be locked behind the GPU's driver; a GPU that is missing or not trusted is none of these, but a state on the console",
			"build the image again; the journal of a debug image shows more"},
		{ReceiptUnsigned, ExitFailed, "a receipt is not signed",
			"it has no signature, or the signature does not fit: the file was changed after it was signed",
			"believe nothing in it; run the checks again with --receipts"},
		{ReceiptForeign, ExitFailed, "a receipt is signed by a key that is not trusted",
			"the key is not in the file of trusted keys",
			"if the host is yours, add the line that `cc-install receipts key` prints there"},
		{ReceiptDuplicate, ExitFailed, "two receipts are of the same claim",
			"one check has two verdicts at the same place and tier, so nobody can say which one counts",
			"write each round of checks into a folder of its own"},
		{ReceiptUnknown, ExitFailed, "a receipt is of no check that there is",
			"its check is not in the registry of this version, claims something else there, or does not run at that place",
			"verify with the version of cc-install that made the receipts, or run the checks again"},
		{ReceiptFailed, ExitFailed, "a receipt says that a check failed",
			"the verdict is fail or error; the message has the detail",
			"follow the remedy of the check: `cc-install check` shows it"},
		{ReceiptMissing, ExitFailed, "a receipt is missing",
			"a check that runs at a place of which there are receipts has none, or one that the index of its run lists is gone",
			"run all checks of that place; `cc-install check` without names, and `cc-install check host gpu`"},
		{ReceiptManifest, ExitFailed, "a receipt is about another image",
			"the hash of the manifest in it is not that of the manifest given",
			"give the manifest.json of the image that was checked, or check this one"},
		{ReceiptTier, ExitFailed, "a receipt claims a higher tier than it can prove",
			"the tier is above what its check, its place or its key can vouch for; silicon needs evidence by a processor",
			"do not use the receipts: cc-install writes none like it"},
		{ReceiptEvidence, ExitFailed, "the evidence of a receipt does not hold",
			"the report is not about this receipt, not by a genuine processor, or not of a machine that the policy accepts",
			"give the policy of these machines with --policy; `cc-install verify-evidence` shows each claim"},
		{ReceiptExpired, ExitFailed, "a receipt is too old",
			"it was made longer ago than is accepted, 90 days unless --max-age says otherwise",
			"run the checks again"},
		{ReceiptFuture, ExitFailed, "a receipt is of a time to come",
			"its time is more than five minutes ahead of the verifier's clock",
			"set the clocks of both machines, then run the checks again"},
		{ReceiptMalformed, ExitFailed, "a receipt cannot be read",
			"it is not in the one encoding that receipts have, of another version, or has a field that cannot be",
			"use cc-install of the version that made it; do not edit receipts"},
		{ReceiptIndex, ExitFailed, "a run of receipts and its index disagree",
			"a file is not listed, has another content than the listed one, or is of another run",
			"do not mix the files of runs; copy whole folders"},
		{ReceiptLog, ExitFailed, "the log of a run is not the one that it had",
			"log.txt is missing or was changed",
			"copy the whole folder of the run again"},
		{ReceiptKey, ExitUsage, "a key for receipts cannot be used",
			"the host's receipt key cannot be made or read, or is open to others; or the file of trusted keys is malformed",
			"read the reason in the message; a line of trusted keys is tier, public key in hexadecimal and name"},
		{TrustFile, ExitUsage, "the trust file cannot be used",
			"it is not there, or has lines that are no rules; all of them are listed by line",
			"correct the lines named; docs/trust.md lists the rules"},
		{TrustUnsigned, ExitUnsafe, "the installer is not signed",
			"no signature lies beside it, and the trust file does not have allow-unsigned",
			"get the .asc of the same build, or have it signed by whoever built it"},
		{TrustSignature, ExitUnsafe, "the signature of the installer is not good",
			"it cannot be read, or was made of other bytes: the installer was changed after it was signed",
			"do not use the installer; get it again"},
		{TrustUnknown, ExitUnsafe, "the installer is signed by a key that is not trusted",
			"the trust file has no line with the key's fingerprint, or the public key was not given",
			"ask whoever signs for the fingerprint, by another way than the installer came, and add its line"},
		{TrustRevoked, ExitUnsafe, "the installer is signed by a revoked key",
			"the trust file has a line that revokes it, or the key itself says so",
			"get an installer that is signed by the key that replaces it"},
		{TrustExpired, ExitUnsafe, "the installer is signed by a key whose time is over",
			"the day that the trust file, or the key itself, names has passed by this machine's clock",
			"get an installer that is signed by the key that replaces it; look at the clock"},
		{TrustOld, ExitUnsafe, "the installer is older than the trust file accepts",
			"the sources of its image are from before minimum-epoch",
			"get a newer installer; an older one may have faults that were repaired since"},
		{TrustContents, ExitUnsafe, "the files of the installer do not belong together",
			"a file is missing, was changed or added, or checksum, list, manifest, disk and measurements do not agree with each other",
			"do not use the installer; get it again"},
		{RegistryReference, ExitUsage, "the name of a release in a registry is wrong",
			"it is not REGISTRY/REPO:TAG or REGISTRY/REPO@sha256:DIGEST, or it holds a password",
			"write it as `registry.example/team/cc-base:v1`; passwords come from docker's config.json"},
		{RegistryDenied, ExitFailed, "the registry does not let you",
			"it wants a login, knows another one, or this login may not read or write that repository",
			"`docker login` or `oras login` keeps one in docker's config.json, which is read; DOCKER_CONFIG names another folder"},
		{RegistryMissing, ExitFailed, "the registry has nothing of that name",
			"the repository, the tag, the digest or a part of the release is not there",
			"compare the name with what `mage publish` has printed; a release that lacks a part is completed by publishing it again"},
		{RegistryUnreachable, ExitFailed, "the registry does not answer as one should",
			"it cannot be reached, breaks off, says nothing for too long, fails by itself (status 5xx) or redirects in circles or to a less safe address",
			"run the same command again: what has arrived is not sent again"},
		{RegistryRefused, ExitFailed, "the registry refuses what it was asked for",
			"a request got a status 4xx that is about neither login nor name: a quota, a tag that may not be moved, or no registry at all",
			"read the reason in the message"},
		{ReleaseIncomplete, ExitFailed, "what was built cannot be published",
			"a file of the release is missing, or differs from the one in the installer: a build was cut off, or a file was changed since",
			"`mage build`, then publish again"},
		{ReleaseWrong, ExitFailed, "what was pulled is not what its digest promises",
			"a part has another size or digest, or the digest is of something else than a release of cc-base",
			"do not use it; ask the publisher for the digest, and let them publish again"},
		{TagNotAllowed, ExitUsage, "a release is pulled by its digest",
			"a tag was given: whoever may write to the registry can move it to another release at any time",
			"use the digest that `mage publish` has printed and the publisher has told you; --allow-tag takes what the tag names now, with --trust to say whose"},
		{PlainHTTP, ExitUsage, "the registry may not be talked to without TLS",
			"plain HTTP shows and lets change what is sent, a login included, so it is for registries on this machine only",
			"give the registry a certificate; or set CC_PLAIN_HTTP=HOST:PORT to that very registry"},
	}
}
