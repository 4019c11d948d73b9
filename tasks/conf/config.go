package conf

import "time"

// Config is the whole configuration, checked and in machine units: sizes in
// bytes, policy words as numbers, durations as time.Duration. Automatic values
// that the build can settle are settled (Kernel, the policy words); those that
// only the installer can settle stay "auto" (TEE.Type, TEE.CPUModel,
// TEE.BootMode, Security.KeyProfile).
//
// Config holds no secret, and must not: it is written to out/config.resolved,
// to logs and to the image.
type Config struct {
	Profile  string // the overlay of config/profiles in force, "" for none
	OS       OS
	TEE      TEE
	Security Security
	QEMU     QEMU
	Disk     Disk
	Apps     Apps

	origin map[string]string // key -> file:line where it was written
}

// OS is os.conf: the distribution inside the image.
type OS struct {
	Distribution    string   // debian or ubuntu
	Suite           string   // release name, such as trixie
	Mirror          string   // URL, "" for the host's own mirror
	Snapshot        string   // 20260101T000000Z, "" for the newest packages
	Components      []string // archive components, never empty
	Packages        []string // added to the built-in base set
	Kernel          string   // cloud or generic; auto is settled on loading
	ToolsSuite      string   // Debian release of the tools tree
	Locked          bool     // packages.lock binds the build
	Hostname        string
	Locale          string
	Timezone        string
	SourceDateEpoch int64 // seconds since 1970, every time stamp in the image
	Experimental    bool
}

// TEE is tee.conf: the trusted execution environment.
type TEE struct {
	Type          string // auto, sev-snp, tdx or none
	VCPUs         int    // 1 to 512
	CPUModel      string // auto or a QEMU model of the measurement table
	Measure       Measure
	BootMode      string // auto, direct or disk
	Firmware      string // auto or no: that of SEV-SNP and TDX
	Policy        uint64 // TEE_POLICY as written: a legacy SEV word
	PolicySNP     uint64 // effective SEV-SNP guest policy
	PolicyTDX     uint64 // effective TDX attributes
	InsecureDebug bool   // the host may read the guest's memory
	MemorySize    int64  // bytes, a multiple of 2 MiB
	SWIOTLB       int64  // bytes of the bounce buffer, a multiple of 1 MiB; 0 leaves it to the kernel
	MemorySlots   int    // accepted for compatibility, never given to a TEE guest
	Keys          KeySettings
}

// KeySettings is TEE_KEY_SETTINGS: the guest's own key pair.
type KeySettings struct {
	Dir  string // absolute path in the guest
	Size int    // bits
	Algo string // rsa, ecdsa or ed25519
}

// Measure says for which SEV-SNP guests launch digests are computed: every
// combination of these.
type Measure struct {
	VCPUs         []int    // each 1 to 512
	CPUModels     []string // QEMU's names
	GuestFeatures []uint64 // SEV_FEATURES, bit 0 set
}

// Security is security.conf: volume encryption, TPM and hardening.
type Security struct {
	LUKSCipher          string
	LUKSKeySize         int      // bits: 512 is AES-256 in XTS mode, 256 is AES-128
	LUKSHash            string   // sha256 or sha512
	TPMDevice           string   // the guest's device, never the build machine's
	TPMVersion          string   // 2.0
	TPMPCR              []int    // of 0 to 9 and 12 to 14, ascending, each once
	TPMSRK              string   // file below the configuration's folder, "" for none
	KeyProfile          string   // auto, tpm, snp or attested; see [Config.KeyProfiles]
	OperatorKey         string   // "" or ed25519: and the public key in base64
	DynamicIntegrity    string   // auto, on or off; see [Config.Integrity]
	KeyRecipients       []string // files below the configuration's folder
	KeyRotationInterval time.Duration
	ConsoleRecovery     bool // a recovery key may be typed at the console
	Lockdown            bool // lockdown=integrity on the kernel command line
	PanicOnOops         bool // oops=panic on the kernel command line
	DebugImage          bool // a root shell on the console; see [manifest.DebugMark]
}

// QEMU is qemu.conf: the virtual machine on the host.
type QEMU struct {
	Machine             string
	CPUType             string
	Firmware            string // path on the host, plain guests only
	GPUSettingsFile     string // path on the host
	NetworkSettingsFile string // path on the host
	NetworkType         string // bridge or nat
	NetworkIsolation    bool   // the guest cannot reach other guests of the host
}

// Disk is partition.conf: the one table that GPT, fstab, crypttab and the
// documentation are made from.
type Disk struct {
	Partitions      []Partition // in disk order, always the same five
	VarSize         int64       // bytes, cap of the tmpfs on /var
	EtcSize         int64       // bytes, cap of the tmpfs above /etc
	PersistentPaths []string    // kept on the dynamic volume, ascending order not implied
}

// Partition is one row of the disk table.
type Partition struct {
	Number   int    // 1 to 5
	Name     string // esp, root, app, config or dynamic
	Label    string // GPT partition label, "cc-" and the name
	Size     int64  // bytes; 0 fits the content, for dynamic the rest of the disk
	Encrypt  bool   // LUKS2
	Verity   bool   // dm-verity, root hash on the measured command line
	ReadOnly bool
	Mount    string   // mount point in the guest, "" when it is not mounted
	FS       string   // vfat, erofs or ext4
	Options  []string // mount options
}

// Apps is apps.conf: what the application volume carries.
type Apps struct {
	Apps []string
}

// Partition returns the row named name (esp, root, app, config, dynamic) and
// whether there is one.
func (c Config) Partition(name string) (Partition, bool) {
	for _, p := range c.Disk.Partitions {
		if p.Name == name {
			return p, true
		}
	}
	return Partition{}, false
}

// KeyProfiles returns the key profiles to build for, resolved from KEY_PROFILE
// and TEE_TYPE: one of tpm, snp, attested, or several, in that order, when the
// kind of host is not known before installation. There attested needs an
// operator, without whom it could never open a volume.
func (c Config) KeyProfiles() []string {
	if c.Security.KeyProfile != "auto" {
		return []string{c.Security.KeyProfile}
	}
	switch c.TEE.Type {
	case "none":
		return []string{"tpm"}
	case "sev-snp":
		return []string{"snp"}
	case "tdx":
		return []string{"attested"}
	}
	if c.Security.OperatorKey == "" {
		return []string{"tpm", "snp"}
	}
	return []string{"tpm", "snp", "attested"}
}

// Integrity tells whether the writable volume has dm-integrity in the key
// profile, resolved from DYNAMIC_INTEGRITY: by default where the host is not
// trusted with what it stores.
func (c Config) Integrity(profile string) bool {
	if c.Security.DynamicIntegrity != "auto" {
		return c.Security.DynamicIntegrity == "on"
	}
	return profile != "tpm"
}

// blank returns a Config with everything that no key can change.
func blank() Config {
	return Config{
		origin: map[string]string{},
		Disk: Disk{Partitions: []Partition{
			{Number: 1, Name: "esp", Label: "cc-esp", FS: "vfat"},
			{Number: 2, Name: "root", Label: "cc-root", FS: "erofs", ReadOnly: true, Mount: "/",
				Options: []string{"ro"}},
			{Number: 3, Name: "app", Label: "cc-app", FS: "erofs", ReadOnly: true,
				Options: []string{"ro", "nosuid", "nodev"}},
			{Number: 4, Name: "config", Label: "cc-config", FS: "erofs", ReadOnly: true,
				Options: []string{"ro", "nosuid", "nodev", "noexec"}},
			{Number: 5, Name: "dynamic", Label: "cc-dynamic", FS: "ext4",
				Options: []string{"nosuid", "nodev", "noexec"}},
		}},
	}
}
