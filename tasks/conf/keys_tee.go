package conf

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const keySettingsName = "TEE_KEY_SETTINGS"

func teeKeys() []key {
	return []key{
		{name: "TEE_TYPE", def: []string{"auto"}, allowed: "auto, sev-snp, tdx, none", when: AtBuild,
			meaning:     "Kind of confidential VM. auto serves all and is settled when the image is installed, from the host.",
			consequence: "none is an ordinary VM: its host can read everything in it.",
			field:       oneOf(func(c *Config) *string { return &c.TEE.Type }, "auto", "sev-snp", "tdx", "none")},
		{name: "TEE_VCPUS", def: []string{"4"}, allowed: "1 to 512", when: AtRun,
			meaning:     "Number of virtual CPUs.",
			consequence: "It is part of the SEV-SNP launch digest and of TDX's RTMR0.",
			field:       number(func(c *Config) *int { return &c.TEE.VCPUs }, 1, 512)},
		{name: "TEE_CPU_MODEL", def: []string{"auto"}, allowed: "auto, " + strings.Join(cpuModels(), ", "), when: AtInstall,
			meaning:     "CPU model of SEV-SNP guests. auto takes the one for the host's generation.",
			consequence: "It is part of the launch digest; TDX guests always see the host's CPU.",
			field:       oneOf(func(c *Config) *string { return &c.TEE.CPUModel }, append([]string{"auto"}, cpuModels()...)...)},
		{name: "MEASURE_VCPUS", def: []string{"1", "2", "4", "8", "16", "32", "64"}, allowed: "at least one whole number of 1 to 512, each once", when: AtBuild,
			meaning:     "Numbers of virtual CPUs for which measurements.json holds SEV-SNP launch digests; that of TEE_VCPUS is there in any case.",
			consequence: "A VM with another number starts all the same, but its report matches no row.",
			field: someOf(func(c *Config) *[]int { return &c.TEE.Measure.VCPUs }, func(s string) (int, error) {
				n, err := strconv.Atoi(s)
				switch {
				case err != nil || strconv.Itoa(n) != s:
					return 0, fmt.Errorf("%q is not a whole number", s)
				case n < 1 || n > 512:
					return 0, fmt.Errorf("%d is out of range", n)
				}
				return n, nil
			}, strconv.Itoa)},
		{name: "MEASURE_CPU_MODELS", def: []string{"EPYC-v4", "EPYC-Milan", "EPYC-Genoa", "EPYC-Turin"}, allowed: "at least one of " + strings.Join(cpuModels(), ", "), when: AtBuild,
			meaning:     "CPU models for which measurements.json holds SEV-SNP launch digests; TEE_CPU_MODEL is there in any case.",
			consequence: "Each one multiplies the rows.",
			field: someOf(func(c *Config) *[]string { return &c.TEE.Measure.CPUModels }, func(s string) (string, error) {
				if !slices.Contains(cpuModels(), s) {
					return "", fmt.Errorf("%q is not known", s)
				}
				return s, nil
			}, same).suggesting(cpuModels())},
		{name: "MEASURE_GUEST_FEATURES", def: []string{"0x01", "0x21"}, allowed: "at least one hexadecimal word with bit 0 (SEV-SNP) set", when: AtBuild,
			meaning:     "Guest features (SEV_FEATURES) for which measurements.json holds SEV-SNP launch digests. Bit 5 is debug_swap, which the host's kernel sets by itself where it can.",
			consequence: "They are part of the launch digest, and the host decides them.",
			field: someOf(func(c *Config) *[]uint64 { return &c.TEE.Measure.GuestFeatures }, func(s string) (uint64, error) {
				n, err := parseWord(s)
				if err == nil && n&1 == 0 {
					err = fmt.Errorf("%s has bit 0 clear: that is no SEV-SNP guest", s)
				}
				return n, err
			}, formatWord)},
		{name: "BOOT_MODE", def: []string{"auto"}, allowed: "auto, direct, disk", when: AtInstall,
			meaning:     "How the VM starts: direct hands kernel and initrd to QEMU, disk boots the ESP. auto: direct for SEV-SNP and TDX, else disk.",
			consequence: "Only direct puts the system into the SEV-SNP launch digest.",
			field:       oneOf(func(c *Config) *string { return &c.TEE.BootMode }, "auto", "direct", "disk")},
		{name: "FIRMWARE_CONFIDENTIAL", def: []string{"auto"}, allowed: "auto, no", when: AtBuild,
			meaning:     "Firmware for SEV-SNP and TDX, which no stable Debian has. auto fetches what TEE_TYPE calls for from the mirror's testing suite; no leaves it out.",
			consequence: "Without it, installation on such a host is refused.",
			field:       oneOf(func(c *Config) *string { return &c.TEE.Firmware }, "auto", "no")},
		{name: "TEE_POLICY", def: []string{"0x03"}, allowed: "a legacy SEV word: bits 0 (no debugging) and 1 (no key sharing) set, bits 2 to 5 free", when: AtInstall,
			meaning:     "What the host may do, as a legacy SEV word; it is translated for SEV-SNP and TDX.",
			consequence: "0x03 becomes SEV-SNP 0x30000 and TDX 0x10000000; the words below override it.",
			field:       policyField(func(c *Config) *uint64 { return &c.TEE.Policy }, false)},
		{name: "TEE_POLICY_SNP", def: []string{""}, allowed: `"" or a word with bit 17 set and none above bit 25`, when: AtInstall,
			meaning:     "SEV-SNP guest policy; empty translates TEE_POLICY.",
			consequence: "The processor refuses to start a guest under a policy that the host does not meet.",
			field:       policyField(func(c *Config) *uint64 { return &c.TEE.PolicySNP }, true)},
		{name: "TEE_POLICY_TDX", def: []string{""}, allowed: `"" or a word of bits 28 (required), 30, 31, 63`, when: AtInstall,
			meaning:     "TDX attributes; empty translates TEE_POLICY.",
			consequence: "They are part of every TDX quote.",
			field:       policyField(func(c *Config) *uint64 { return &c.TEE.PolicyTDX }, true)},
		{name: "INSECURE_DEBUG", def: []string{"no"}, allowed: "yes, no", when: AtInstall,
			meaning:     "Permits debug bits in the policy words.",
			consequence: "With such a bit the host can read and change the guest's memory: nothing is confidential.",
			field:       yesNo(func(c *Config) *bool { return &c.TEE.InsecureDebug })},
		{name: "TEE_MEMORY_SIZE", def: []string{"8G"}, allowed: "2G to 16T, a multiple of 2M", when: AtRun,
			meaning:     "Memory of the VM, such as 8G or 6144M.",
			consequence: "With a GPU assigned all of it is pinned on the host from the start.",
			field:       size(func(c *Config) *int64 { return &c.TEE.MemorySize }, false, 2*gib, 16*tib, 2*mib)},
		{name: "TEE_MEMORY_SLOTS", def: []string{"4"}, allowed: "0 to 256", when: AtRun,
			meaning:     "Slots for memory added later; used for plain VMs only.",
			consequence: "Confidential VMs cannot take memory while they run, so theirs get no slots.",
			field:       number(func(c *Config) *int { return &c.TEE.MemorySlots }, 0, 256)},
		{name: "SWIOTLB_SIZE", def: []string{"auto"}, allowed: "auto, or 64M to 8G in whole M", when: AtBuild,
			meaning:     "Memory through which a confidential VM passes data to its devices (bounce buffer). auto leaves it to the kernel: 6 % of the memory, 64M to 1G.",
			consequence: "A GPU that stages much data at once needs more (\"swiotlb buffer is full\"). It is on the measured command line.",
			field:       size(func(c *Config) *int64 { return &c.TEE.SWIOTLB }, true, 64*mib, 8*gib, mib)},
		{name: keySettingsName, def: []string{"KEY_DIR=/etc/cc/keys", "KEY_SIZE=4096", "KEY_ALGO=rsa"},
			allowed: "KEY_DIR (absolute path), KEY_ALGO (rsa, ecdsa, ed25519), KEY_SIZE (rsa: 2048, 3072, 4096; ecdsa: 256, 384; ed25519: 256, or none)", when: AtBuild,
			meaning:     "The key pair that the guest makes for itself: folder, bits, algorithm.",
			consequence: "Larger RSA keys take longer to make at first boot.",
			field:       keySettingsField()},
	}
}

// cpuModels are the CPU models of SEV-SNP guests, oldest first. EPYC-v4 is the
// one that moves between generations.
func cpuModels() []string {
	return []string{"EPYC-v4", "EPYC-Milan", "EPYC-Milan-v2", "EPYC-Genoa", "EPYC-Turin"}
}

// policyField is a hexadecimal word; empty, where allowed, is stored as 0 and
// replaced when the words are translated.
func policyField(at func(*Config) *uint64, empty bool) field {
	return scalar(at, func(s string) (uint64, error) {
		if empty && s == "" {
			return 0, nil
		}
		n, err := parseWord(s)
		if err == nil && empty && n == 0 {
			err = fmt.Errorf("%s has none of the required bits", s)
		}
		return n, err
	}, formatWord)
}

// keySettingsField reads an array of NAME=value words.
func keySettingsField() field {
	names := []string{"KEY_DIR", "KEY_SIZE", "KEY_ALGO"}
	return field{
		array: true,
		enum:  names,
		set: func(c *Config, words []string, bad report) {
			k := KeySettings{Dir: "/etc/cc/keys", Size: 4096, Algo: "rsa"}
			sizeAt, algoAt, seen := 0, 0, map[string]bool{}
			for i, w := range words {
				name, value, ok := strings.Cut(w, "=")
				if !ok || !slices.Contains(names, name) {
					bad(i, "%q is not known", name)
					continue
				}
				if seen[name] {
					bad(i, "%s is there twice", name)
				}
				seen[name] = true
				switch name {
				case "KEY_DIR":
					if err := absolute(value); err != nil {
						bad(i, "KEY_DIR: %v", err)
					}
					k.Dir = value
				case "KEY_SIZE":
					n, err := strconv.Atoi(value)
					if err != nil || strconv.Itoa(n) != value {
						bad(i, "KEY_SIZE: %q is not a whole number", value)
						return
					}
					k.Size, sizeAt = n, i
				case "KEY_ALGO":
					k.Algo, algoAt = value, i
					if keySizes(value) == nil {
						bad(i, "KEY_ALGO: %q is not known", value)
						return
					}
				}
			}
			if k.Algo == "ed25519" && !seen["KEY_SIZE"] {
				k.Size = 256 // there is no other
			}
			if !seen["KEY_SIZE"] {
				sizeAt = algoAt
			}
			if !slices.Contains(keySizes(k.Algo), k.Size) {
				bad(sizeAt, "KEY_SIZE: %s has no size %d", k.Algo, k.Size)
			}
			c.TEE.Keys = k
		},
		get: func(c *Config) []string {
			k := c.TEE.Keys
			return []string{"KEY_DIR=" + k.Dir, "KEY_SIZE=" + strconv.Itoa(k.Size), "KEY_ALGO=" + k.Algo}
		},
	}
}

// keySizes are an algorithm's lengths in bits; an unknown one has none.
func keySizes(algo string) []int {
	switch algo {
	case "rsa":
		return []int{2048, 3072, 4096}
	case "ecdsa":
		return []int{256, 384}
	case "ed25519":
		return []int{256}
	}
	return nil
}

// quoteSettings writes NAME="value" as the original files did.
func quoteSettings(words []string) []string {
	out := make([]string, len(words))
	for i, w := range words {
		name, value, _ := strings.Cut(w, "=")
		out[i] = name + `="` + value + `"`
	}
	return out
}
