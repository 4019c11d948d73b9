package conf

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

func securityKeys() []key {
	return []key{
		{name: "LUKS_CIPHER", def: []string{"aes-xts-plain64"}, allowed: "aes-xts-plain64", when: AtBuild,
			meaning:     "Cipher of the encrypted volumes.",
			consequence: "The guest refuses a volume whose header names another one.",
			field:       oneOf(func(c *Config) *string { return &c.Security.LUKSCipher }, "aes-xts-plain64")},
		{name: "LUKS_KEY_SIZE", def: []string{"512"}, allowed: "256, 512", when: AtBuild,
			meaning:     "Bits of the volume key; XTS uses two keys, so 512 is AES-256 and 256 is AES-128.",
			consequence: "256 is a little faster on processors with slow AES.",
			field:       choice(func(c *Config) *int { return &c.Security.LUKSKeySize }, 256, 512)},
		{name: "LUKS_HASH", def: []string{"sha512"}, allowed: "sha256, sha512", when: AtBuild,
			meaning:     "Hash in the header of the encrypted volumes.",
			consequence: "Keys are random and long, so either is strong enough.",
			field:       oneOf(func(c *Config) *string { return &c.Security.LUKSHash }, "sha256", "sha512")},
		{name: "TPM_DEVICE", def: []string{"/dev/tpm0"}, allowed: "/dev/tpmN or /dev/tpmrmN", when: AtBuild,
			meaning:     "The guest's TPM; /dev/tpm0 means its resource manager /dev/tpmrm0. The build never opens it.",
			consequence: "The guest looks for its TPM there and nowhere else.",
			field: text(func(c *Config) *string { return &c.Security.TPMDevice },
				matching(`/dev/tpm(rm)?[0-9]{1,2}`, "a TPM device"))},
		{name: "TPM_VERSION", def: []string{"2.0"}, allowed: "2.0", when: AtBuild,
			meaning:     "Version of the guest's TPM.",
			consequence: "Nothing else can work: older ones have no policies that seal a key to a signed image.",
			field:       oneOf(func(c *Config) *string { return &c.Security.TPMVersion }, "2.0")},
		{name: "TPM_PCR", def: []string{"0,1,2,3,7"}, allowed: "numbers 0 to 23 in ascending order, each once, without 11, 16 and 23", when: AtBuild,
			meaning:     "TPM registers (PCRs) that must be unchanged to unlock in the tpm key profile, beside 11, 12 and 13, which are always bound.",
			consequence: "More of them means more updates after which the recovery key is needed; PCR 1 changes with boot order and memory size.",
			field:       pcrField()},
		{name: "KEY_PROFILE", def: []string{"auto"}, allowed: "auto, tpm, snp, attested", when: AtBuild,
			meaning:     "Where the volume keys come from. auto: tpm for plain VMs, snp on SEV-SNP, attested on TDX.",
			consequence: "tpm protects a stolen disk, not against the host; attested needs an operator who releases the key.",
			field:       oneOf(func(c *Config) *string { return &c.Security.KeyProfile }, "auto", "tpm", "snp", "attested")},
		{name: "KEY_ROTATION_INTERVAL", def: []string{"30d"}, allowed: "1h to 365d, as 90m, 12h or 30d", when: AtBuild,
			meaning:     "How often the guest replaces the secrets that open its volumes.",
			consequence: "Rotation is safe at any time; a shorter interval writes the volume header more often.",
			field:       interval(func(c *Config) *time.Duration { return &c.Security.KeyRotationInterval }, time.Hour, 365*day)},
		{name: "CONSOLE_RECOVERY", def: []string{"no"}, allowed: "yes, no", when: AtBuild,
			meaning:     "Lets a recovery key be typed at the VM's console when nothing else opens the volumes.",
			consequence: "The console belongs to the host, which then sees the key.",
			field:       yesNo(func(c *Config) *bool { return &c.Security.ConsoleRecovery })},
		{name: "LOCKDOWN", def: []string{"yes"}, allowed: "yes, no", when: AtBuild,
			meaning:     "Starts the kernel with lockdown=integrity: not even root may change the running kernel.",
			consequence: "Unsigned kernel modules and kexec are refused.",
			field:       yesNo(func(c *Config) *bool { return &c.Security.Lockdown })},
		{name: "PANIC_ON_OOPS", def: []string{"yes"}, allowed: "yes, no", when: AtBuild,
			meaning:     "Stops the VM on a kernel error (oops=panic) instead of going on in an unknown state.",
			consequence: "no keeps a VM with a faulty driver running.",
			field:       yesNo(func(c *Config) *bool { return &c.Security.PanicOnOops })},
	}
}

func pcrField() field {
	return scalar(func(c *Config) *[]int { return &c.Security.TPMPCR }, parsePCRs, func(pcrs []int) string {
		out := make([]string, len(pcrs))
		for i, n := range pcrs {
			out[i] = strconv.Itoa(n)
		}
		return strings.Join(out, ",")
	})
}

// parsePCRs reads 0,1,2,3,7: ascending, so that one set has one spelling.
func parsePCRs(s string) ([]int, error) {
	var pcrs []int
	for _, part := range strings.Split(s, ",") {
		n, err := strconv.Atoi(part)
		switch {
		case err != nil || strconv.Itoa(n) != part:
			return nil, fmt.Errorf("%q is not a PCR number", part)
		case n < 0 || n > 23:
			return nil, fmt.Errorf("there is no PCR %d", n)
		case n == 11:
			return nil, fmt.Errorf("PCR 11 changes while the guest boots; it is always bound, by signature")
		case n == 16 || n == 23:
			return nil, fmt.Errorf("PCR %d can be reset by any program and protects nothing", n)
		case len(pcrs) > 0 && n == pcrs[len(pcrs)-1]:
			return nil, fmt.Errorf("PCR %d is there twice", n)
		case len(pcrs) > 0 && n < pcrs[len(pcrs)-1]:
			return nil, fmt.Errorf("PCR %d comes after %d", n, pcrs[len(pcrs)-1])
		}
		pcrs = append(pcrs, n)
	}
	return pcrs, nil
}
