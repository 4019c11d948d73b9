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
	Sealing       Code = "CC0401"
	DiskImage     Code = "CC0402"
	VolumeTooBig  Code = "CC0403"
	BootImage     Code = "CC0501"
	Machine       Code = "CC0502"
	Signing       Code = "CC0601"
	SigningKey    Code = "CC0602"
	Damaged       Code = "CC0603"
	DeviceRefused Code = "CC0701"
	NoDevice      Code = "CC0702"
	NoTEE         Code = "CC0703"
	InstallWrite  Code = "CC0704"
	Usage         Code = "CC0705"
	InstallVerify Code = "CC0706"
	GuestCmdline  Code = "CC0801"
	GuestVolume   Code = "CC0802"
	GuestKey      Code = "CC0803"
	GuestVerity   Code = "CC0804"
	GuestMount    Code = "CC0805"
	GuestBoot     Code = "CC0806"
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
		{Sealing, ExitFailed, "a volume could not be sealed",
			"mkfs.erofs, veritysetup or cryptsetup failed, or its result did not verify",
			"read the lines shown"},
		{DiskImage, ExitFailed, "the disk image could not be assembled",
			"a partition, the ESP or the qcow2 conversion failed or did not verify",
			"read the lines shown"},
		{VolumeTooBig, ExitUsage, "the content does not fit the partition",
			"a size in config/partition.conf is smaller than its content",
			"use size auto, or the number of MiB that the message names"},
		{BootImage, ExitFailed, "the boot image could not be made",
			"dracut or ukify failed, or the signature did not verify",
			"read the lines shown"},
		{Machine, ExitFailed, "the virtual machine did not do what was expected",
			"QEMU or swtpm ended early, or the console never showed the expected line",
			"the console is under out/log"},
		{Signing, ExitFailed, "the installer could not be signed",
			"the key cannot sign or the signature did not verify",
			"`mage keys:signing` makes a project key; CC_SIGNING_KEY_FILE names your own"},
		{SigningKey, ExitUsage, "the signing key cannot be used",
			"CC_SIGNING_KEY_FILE is missing, not an OpenPGP private key, or its passphrase is wrong",
			"give an armoured private key and its passphrase through CC_SIGNING_PASSPHRASE_FD or the prompt"},
		{Damaged, ExitFailed, "a file is not the one that was built",
			"a checksum differs from the recorded one",
			"copy or build it again; do not use it"},
		{DeviceRefused, ExitUnsafe, "the device was refused as unsafe",
			"it is mounted, in use, read-only, too small, removable or the system disk; every reason is listed",
			"choose another device with --list-devices"},
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
	}
}
