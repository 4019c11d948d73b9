package conf

import (
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"cc-base/overlays/cc-guest/settings"
)

func securityKeys() []key {
	return []key{
		{name: "LUKS_CIPHER", def: []string{"aes-xts-plain64"}, allowed: "aes-xts-plain64", when: AtBuild,
			meaning:     "Cipher of the encrypted volumes.",
			consequence: "The guest refuses a volume whose header names another one.",
			field:       cipherField()},
		{name: "LUKS_KEY_SIZE", def: []string{"512"}, allowed: "256, 512", when: AtBuild,
			meaning:     "Bits of the volume key; XTS uses two keys, so 512 is AES-256 and 256 is AES-128.",
			consequence: "256 is a little faster on processors with slow AES.",
			field:       keySizeField()},
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
		{name: "TPM_PCR", def: []string{"0,1,2,3,7"}, allowed: "numbers of 0 to 9 and 12 to 14 in ascending order, each once", when: AtBuild,
			meaning:     "TPM registers (PCRs) that must be unchanged to unlock in the tpm key profile, beside 11, 12 and 13, which are always bound.",
			consequence: "More of them means more updates after which the recovery key is needed; PCR 1 changes with boot order and memory size.",
			field:       pcrField()},
		{name: "TPM_SRK", def: []string{""}, allowed: `"" or a file below the configuration's folder`, when: AtBuild,
			meaning:     "File with the public storage root key of the one TPM that the image is bound to while it is built.",
			consequence: "The volumes then open on that machine from its first boot, before anything was enrolled there; empty binds them at the first boot.",
			field:       text(func(c *Config) *string { return &c.Security.TPMSRK }, optional(fileName))},
		{name: "KEY_PROFILE", def: []string{"auto"}, allowed: "auto, tpm, snp, attested", when: AtBuild,
			meaning:     "Where the volume keys come from. auto: tpm for plain VMs, snp on SEV-SNP, attested on TDX where OPERATOR_KEY is set.",
			consequence: "tpm protects a stolen disk, not against the host; attested needs an operator who releases the key.",
			field:       oneOf(func(c *Config) *string { return &c.Security.KeyProfile }, "auto", "tpm", "snp", "attested")},
		{name: "OPERATOR_KEY", def: []string{""}, allowed: `"" or ed25519: and 32 bytes in base64`, when: AtBuild,
			meaning:     "Public key of the operator who may release keys in the attested key profile.",
			consequence: "Whoever holds its private half decides which machines run; it is measured with the image. Empty leaves the profile out.",
			field: text(func(c *Config) *string { return &c.Security.OperatorKey }, optional(func(s string) error {
				_, err := settings.ParseOperatorKey(s)
				return err
			}))},
		{name: "KEY_ROTATION_INTERVAL", def: []string{"30d"}, allowed: "1h to 365d, as 90m, 12h or 30d", when: AtBuild,
			meaning:     "How often the guest replaces the secrets that open its volumes.",
			consequence: "Rotation is safe at any time; a shorter interval writes the volume header more often.",
			field:       interval(func(c *Config) *time.Duration { return &c.Security.KeyRotationInterval }, time.Hour, 365*day)},
		{name: "DYNAMIC_INTEGRITY", def: []string{"auto"}, allowed: "auto, on, off", when: AtBuild,
			meaning:     "Finds changes to the writable volume that were made behind the guest's back (dm-integrity). auto: in the key profiles snp and attested.",
			consequence: "Every write goes to a journal first and takes twice as long; without it changed data decrypts to noise, unnoticed.",
			field:       oneOf(func(c *Config) *string { return &c.Security.DynamicIntegrity }, "auto", "on", "off")},
		{name: "KEY_RECIPIENTS", def: []string{}, allowed: "files below the configuration's folder, each one armoured OpenPGP public key", when: AtBuild,
			meaning:     "To whom recovery keys are encrypted, the writable volume's among them.",
			consequence: "Without a recipient the recovery key of the writable volume is never made: what a lost machine wrote is lost.",
			field:       list(func(c *Config) *[]string { return &c.Security.KeyRecipients }, nil, fileName)},
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
		{name: "DEBUG_IMAGE", def: []string{"no"}, allowed: "yes, no", when: AtBuild,
			meaning:     "Puts a root shell on the VM's console, for looking around; see config/profiles/debug.conf.",
			consequence: "Whoever has the console has the machine. The command line is marked cc.debug=1, which is measured, and the image is signed with keys of its own below keys/debug, which no production machine accepts.",
			field:       yesNo(func(c *Config) *bool { return &c.Security.DebugImage })},
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
		case unusablePCR(n) != "":
			return nil, fmt.Errorf("PCR %d cannot be bound: %s", n, unusablePCR(n))
		case len(pcrs) > 0 && n == pcrs[len(pcrs)-1]:
			return nil, fmt.Errorf("PCR %d is there twice", n)
		case len(pcrs) > 0 && n < pcrs[len(pcrs)-1]:
			return nil, fmt.Errorf("PCR %d comes after %d", n, pcrs[len(pcrs)-1])
		}
		pcrs = append(pcrs, n)
	}
	return pcrs, nil
}

// unusablePCR returns why a volume bound to the PCR could not be opened or would
// not be protected, or nothing. The others are the same at the moment of
// unlocking in every boot of one image on one machine: 4 and 9 hold the boot
// image, 5 the partition table, and 8 and 14 stay zero because neither GRUB nor
// shim takes part in the boot (uapi-group.org, Linux TPM PCR Registry; for 9
// Linux drivers/firmware/efi/libstub/efi-stub-helper.c).
func unusablePCR(n int) string {
	switch {
	case n == 10:
		return "IMA extends it with each file that it measures, in the order of their use"
	case n == 11:
		return "it changes while the guest boots; it is always bound, by signature"
	case n == 15:
		return "it holds the volume keys, each measured as its volume is unlocked"
	case n == 16 || n == 23:
		return "any program can reset it, so it protects nothing"
	case n >= 17 && n <= 22:
		return "it is all ones without a dynamic launch (DRTM), which a virtual machine does not have"
	}
	return ""
}

// cipherField names the danger of what people try instead of aes-xts-plain64.
func cipherField() field {
	f := oneOf(func(c *Config) *string { return &c.Security.LUKSCipher }, "aes-xts-plain64")
	known := f.set
	f.set = func(c *Config, words []string, bad report) {
		switch s := words[0]; {
		case strings.Contains(s, "null"):
			bad(0, "%s encrypts nothing, so the guest would not open the volume", s)
		case strings.Contains(s, "-cbc-") || strings.Contains(s, "-ecb"):
			bad(0, "%s lets chosen bits be flipped or blocks be compared, so the guest would not open the volume", s)
		default:
			known(c, words, bad)
		}
	}
	return f
}

// keySizeField explains the one mistake that everybody makes once.
func keySizeField() field {
	f := choice(func(c *Config) *int { return &c.Security.LUKSKeySize }, 256, 512)
	known := f.set
	f.set = func(c *Config, words []string, bad report) {
		if words[0] == "128" {
			bad(0, "128 cannot work: XTS splits the key, and AES has no 64-bit one; 256 is AES-128")
			return
		}
		known(c, words, bad)
	}
	return f
}

var fileWord = regexp.MustCompile(`^[A-Za-z0-9._@+-]+(/[A-Za-z0-9._@+-]+)*$`)

// fileName accepts the name of a file below the configuration's folder.
func fileName(s string) error {
	switch {
	case s == "" || strings.HasPrefix(s, "/"):
		return fmt.Errorf("%q is not a path below the configuration's folder", s)
	case path.Clean(s) != s || s == "." || s == ".." || strings.HasPrefix(s, "../"):
		return fmt.Errorf("%q is not a clean path below the configuration's folder", s)
	case !fileWord.MatchString(s):
		return fmt.Errorf("%q has characters other than A-Z a-z 0-9 . _ @ + -", s)
	}
	return nil
}

// optional is check for a value that may be empty.
func optional(check func(string) error) func(string) error {
	return func(s string) error {
		if s == "" {
			return nil
		}
		return check(s)
	}
}
