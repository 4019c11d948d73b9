package conf

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// Resolved returns every key with its effective value, by file and then in
// table order, with nothing that depends on where it was set. The text is
// accepted as a profile; [Config.File] gives it file by file.
func (c Config) Resolved() []byte {
	var b bytes.Buffer
	for i, f := range files() {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "# %s\n", f.name)
		b.Write(c.File(f.name))
	}
	return b.Bytes()
}

// File returns one configuration file (os.conf, …) with the effective values
// and no comments: with all of them in a folder, [Load] gives c again. A name
// that is not one of the six gives nothing.
func (c Config) File(name string) []byte {
	var b bytes.Buffer
	for _, k := range table() {
		if k.file == name {
			fmt.Fprintln(&b, k.shell(k.get(&c)))
		}
	}
	return b.Bytes()
}

// Show writes every key with its effective value and origin (file:line or
// default); verbose adds meaning, consequence, what is allowed, and the policy
// words bit by bit. The error is that of w.
func (c Config) Show(w io.Writer, verbose bool) error {
	var b bytes.Buffer
	if c.Profile != "" {
		fmt.Fprintf(&b, "profile %s\n\n", c.Profile)
	}
	for i, f := range files() {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s: %s\n", f.name, f.about)
		for _, k := range table() {
			if k.file == f.name {
				c.showKey(&b, k, verbose)
			}
		}
	}
	for i, n := range c.Notes() {
		if i == 0 {
			b.WriteString("\nnotes\n")
		}
		fmt.Fprintf(&b, "  %s\n", n)
	}
	_, err := w.Write(b.Bytes())
	return err
}

func (c Config) showKey(b *bytes.Buffer, k key, verbose bool) {
	fmt.Fprintf(b, "  %-44s %s\n", k.shell(k.get(&c)), c.Origin(k.name))
	if !verbose {
		return
	}
	fmt.Fprintf(b, "      %s\n      %s\n      allowed: %s\n      a change takes effect: %s\n",
		k.meaning, k.consequence, k.allowed, k.when.explain())
	words := map[string]uint64{"TEE_POLICY": c.TEE.Policy, "TEE_POLICY_SNP": c.TEE.PolicySNP, "TEE_POLICY_TDX": c.TEE.PolicyTDX}
	if word, ok := words[k.name]; ok {
		for _, line := range ExplainPolicy(k.name, word) {
			fmt.Fprintf(b, "      %s\n", line)
		}
	}
}

func (w When) explain() string {
	switch w {
	case AtInstall:
		return "at the next installation"
	case AtRun:
		return "when the VM is next defined and started"
	}
	return "at the next build"
}

// Notes returns what is right but worth knowing before relying on it, one
// sentence each: the advice of `config:validate`.
func (c Config) Notes() []string {
	var notes []string
	add := func(cond bool, format string, args ...any) {
		if cond {
			notes = append(notes, fmt.Sprintf(format, args...))
		}
	}
	profiles := strings.Join(c.KeyProfiles(), " ")
	debug := c.TEE.PolicySNP&snpDebug != 0 || c.TEE.PolicyTDX&tdxDebug != 0
	add(debug, "INSECURE: the policy allows debugging, so the host can read and change the guest's memory.")
	add(c.TEE.InsecureDebug && !debug, "INSECURE_DEBUG=yes has no effect: no policy word has a debug bit.")
	add(c.TEE.Type == "none", "TEE_TYPE=none: an ordinary VM; its host can read everything in it.")
	add(c.TEE.Type != "none", "TEE_POLICY=%s is a legacy SEV word; in force are SEV-SNP %s and TDX %s.",
		formatWord(c.TEE.Policy), formatWord(c.TEE.PolicySNP), formatWord(c.TEE.PolicyTDX))
	notes = append(notes, c.contradictions()...)
	add(c.TEE.Type != "none" && c.TEE.Firmware == "no", "FIRMWARE_CONFIDENTIAL=no: there is no firmware for SEV-SNP and TDX in the installer, so installation on such a host will be refused.")
	add(strings.Contains(profiles, "tpm"), "Key profile tpm: a TPM that the host emulates protects a stolen disk, not against the host.")
	add(c.Security.KeyProfile == "auto" && c.TEE.Type == "auto" && c.Security.OperatorKey == "", "Key profile attested is left out, so installation on a TDX host will be refused: OPERATOR_KEY is empty, and nobody could release a key.")
	add(c.Security.OperatorKey != "" && !strings.Contains(profiles, "attested"), "OPERATOR_KEY is not used: the key profile is %s.", profiles)
	add(c.Security.DynamicIntegrity == "off" && profiles != "tpm", "DYNAMIC_INTEGRITY=off: the host can change data on the writable volume unnoticed, though not read it.")
	add(len(c.Security.KeyRecipients) == 0, "KEY_RECIPIENTS is empty: there will be no recovery key for the writable volume.")
	add(c.Security.TPMSRK != "", "TPM_SRK: the image opens on that one TPM without being enrolled there; TPM_PCR counts from its first boot on.")
	add(c.Security.KeyProfile == "tpm" && c.TEE.Type == "auto", "KEY_PROFILE=tpm: installation on a TDX host will be refused, its firmware has no TPM driver.")
	add(c.Security.KeyProfile == "snp" && c.TEE.Type == "auto", "KEY_PROFILE=snp: installation on anything but a SEV-SNP host will be refused.")
	add(c.TEE.BootMode == "disk" && c.TEE.Type == "auto" && c.Security.KeyProfile == "auto", "BOOT_MODE=disk: installation on a SEV-SNP host will be refused, what boots from disk is not in its launch digest.")
	for _, n := range c.Security.TPMPCR {
		add((n == 4 || n == 9) && strings.Contains(profiles, "tpm"), "TPM_PCR contains %d, which changes with every new boot image; the recovery key is needed unless the guest was told of the new one before.", n)
		add((n == 8 || n == 14) && strings.Contains(profiles, "tpm"), "TPM_PCR contains %d, which nothing in this boot extends: it only proves that no other loader took part.", n)
		add(n == 1 && strings.Contains(profiles, "tpm"), "TPM_PCR contains 1, which changes with boot order, vCPU count and memory size; after such a change the recovery key is needed.")
	}
	add(c.TEE.MemorySlots > 0 && c.TEE.Type != "none", "TEE_MEMORY_SLOTS is not used for confidential VMs: they cannot take memory while they run.")
	add(c.TEE.MemorySize < 3*gib && c.TEE.Type != "none" && c.TEE.Type != "sev-snp", "TEE_MEMORY_SIZE below 3G: with QEMU older than 10.2 the TDX measurement RTMR1 depends on the size; 3G or more avoids it.")
	add(c.Security.ConsoleRecovery, "CONSOLE_RECOVERY=yes: a recovery key typed at the console is seen by the host.")
	add(!c.Security.Lockdown, "LOCKDOWN=no: root in the guest can change the running kernel.")
	add(!c.Disk.Partitions[1].Encrypt, "ROOT_ENCRYPT=no: the root volume can be read by whoever has the disk; changes to it are still found.")
	add(c.OS.Distribution == "ubuntu", "DISTRIBUTION=ubuntu is unproven.")
	return notes
}
