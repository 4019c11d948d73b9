package conf

import (
	"fmt"
	"slices"
	"strings"
)

// rule is a condition that spans keys. A broken rule is reported where the
// first of its keys that was written stands; it is not looked at when one of
// its keys has a problem of its own, whose consequence it might be.
type rule struct {
	keys  []string
	text  string // for the documentation
	check func(c *Config) string
}

func rules() []rule {
	return []rule{
		{[]string{"DISTRIBUTION", "EXPERIMENTAL"}, "DISTRIBUTION=ubuntu needs EXPERIMENTAL=yes.", func(c *Config) string {
			return when(c.OS.Distribution == "ubuntu" && !c.OS.Experimental,
				"ubuntu images have not been proven by a boot; EXPERIMENTAL=yes permits them")
		}},
		{[]string{"SUITE", "DISTRIBUTION"}, "SUITE must be a release of DISTRIBUTION.", func(c *Config) string {
			owner := distributionOf(c.OS.Suite)
			return when(owner != c.OS.Distribution,
				"%s is a release of %s, not of DISTRIBUTION=%s", c.OS.Suite, owner, c.OS.Distribution)
		}},
		{[]string{"COMPONENTS", "DISTRIBUTION"}, "COMPONENTS must be those of DISTRIBUTION, main among them.", checkComponents},
		{[]string{"KEY_PROFILE", "TEE_TYPE", "OPERATOR_KEY"}, "KEY_PROFILE must exist for TEE_TYPE: tpm for none and sev-snp, snp for sev-snp, attested for sev-snp and tdx; all for auto. Where attested is the only one, OPERATOR_KEY is needed.", checkKeyProfile},
		{[]string{"TPM_SRK", "KEY_PROFILE", "TEE_TYPE"}, "TPM_SRK goes with the tpm key profile only.", func(c *Config) string {
			return when(c.Security.TPMSRK != "" && !slices.Contains(c.KeyProfiles(), "tpm"),
				"%s has no use: the key profile is %s, and no volume is bound to a TPM alone", c.Security.TPMSRK, strings.Join(c.KeyProfiles(), " "))
		}},
		{[]string{"BOOT_MODE", "TEE_TYPE", "KEY_PROFILE"}, "BOOT_MODE=disk does not go with KEY_PROFILE=snp, nor with TEE_TYPE=sev-snp unless KEY_PROFILE=tpm.", func(c *Config) string {
			snp := c.Security.KeyProfile == "snp" || c.TEE.Type == "sev-snp" && c.Security.KeyProfile != "tpm"
			return when(c.TEE.BootMode == "disk" && snp,
				"disk cannot work with SEV-SNP keys: what boots from disk is not in the launch digest, so any disk would get the key; use direct or auto")
		}},
		{[]string{"TEE_CPU_MODEL", "TEE_TYPE"}, "TEE_CPU_MODEL must be auto with TEE_TYPE=tdx.", func(c *Config) string {
			return when(c.TEE.Type == "tdx" && c.TEE.CPUModel != "auto",
				"%s cannot work with TEE_TYPE=tdx: TDX guests see the host's CPU; use auto", c.TEE.CPUModel)
		}},
		{[]string{"QEMU_CPU_TYPE", "TEE_TYPE"}, "QEMU_CPU_TYPE must be host-passthrough with TEE_TYPE=tdx.", func(c *Config) string {
			return when(c.TEE.Type == "tdx" && c.QEMU.CPUType != "host-passthrough",
				"%s cannot work with TEE_TYPE=tdx; use host-passthrough", c.QEMU.CPUType)
		}},
		{[]string{"TEE_POLICY", "INSECURE_DEBUG"}, "TEE_POLICY must be translatable; a debug bit in any policy word needs INSECURE_DEBUG=yes.", checkLegacyPolicy},
		{[]string{"TEE_POLICY_SNP", "TEE_POLICY", "INSECURE_DEBUG"}, "TEE_POLICY_SNP must have bit 17 and no reserved bit.", checkSNPPolicy},
		{[]string{"TEE_POLICY_TDX", "TEE_POLICY", "INSECURE_DEBUG"}, "TEE_POLICY_TDX must have bit 28 and no reserved bit.", checkTDXPolicy},
		{[]string{"DYNAMIC_MOUNT", "APP_MOUNT", "CONFIG_MOUNT"}, "No volume is mounted inside another.", checkMounts},
		{[]string{"PERSISTENT_PATHS", "APP_MOUNT", "CONFIG_MOUNT", "DYNAMIC_MOUNT"}, "PERSISTENT_PATHS lie neither inside each other nor in a volume's mount point, nor around one.", checkPersistent},
		{[]string{keySettingsName, "APP_MOUNT", "CONFIG_MOUNT"}, "KEY_DIR of TEE_KEY_SETTINGS must be writable in the guest: not in /usr, /boot, APP_MOUNT or CONFIG_MOUNT.", checkKeyDir},
	}
}

// when returns the formatted text if broken, else "".
func when(broken bool, format string, args ...any) string {
	if !broken {
		return ""
	}
	return fmt.Sprintf(format, args...)
}

func (l *loader) applyRules() {
	for _, r := range rules() {
		if slices.ContainsFunc(r.keys, func(k string) bool { return l.failed[k] }) {
			continue
		}
		what := r.check(&l.config)
		if what == "" {
			continue
		}
		for _, k := range r.keys {
			s, ok := l.written[k]
			if !ok {
				continue
			}
			at := l.at[k]
			if k != r.keys[0] {
				what = fmt.Sprintf("with %s=%s: %s", r.keys[0], l.config.Value(r.keys[0]), what)
			}
			l.problems = append(l.problems, Problem{File: s.path, Line: at.Line, Col: at.Col, Key: k, What: what})
			break
		}
	}
}

func checkComponents(c *Config) string {
	known := components(c.OS.Distribution)
	for _, comp := range c.OS.Components {
		if !slices.Contains(known, comp) {
			return fmt.Sprintf("%s has no component %s; it has %s", c.OS.Distribution, comp, strings.Join(known, " "))
		}
	}
	return when(!slices.Contains(c.OS.Components, "main"), "main is missing: the base system comes from it")
}

func checkKeyProfile(c *Config) string {
	profile, tee := c.Security.KeyProfile, c.TEE.Type
	switch {
	case profile == "tpm" && tee == "tdx":
		return "tpm cannot work with TEE_TYPE=tdx: the TDX firmware has no TPM driver, so nothing would be measured into it; use attested"
	case profile == "snp" && (tee == "tdx" || tee == "none"):
		return fmt.Sprintf("snp cannot work with TEE_TYPE=%s: only SEV-SNP derives such keys", tee)
	case profile == "attested" && tee == "none":
		return "attested cannot work with TEE_TYPE=none: a plain VM has nothing to attest with; use tpm"
	case c.Security.OperatorKey != "" || !slices.Equal(c.KeyProfiles(), []string{"attested"}):
		return ""
	case profile == "auto":
		return "auto means attested with TEE_TYPE=tdx, which cannot work without OPERATOR_KEY: nobody could release the key that opens the volumes"
	}
	return "attested cannot work without OPERATOR_KEY: nobody could release the key that opens the volumes"
}

func checkMounts(c *Config) string {
	ps := c.Disk.Partitions
	for i, a := range ps {
		for _, b := range ps[i+1:] {
			if a.Mount == "" || a.Mount == "/" || b.Mount == "" {
				continue
			}
			if under(a.Mount, b.Mount) || under(b.Mount, a.Mount) {
				return fmt.Sprintf("%s (%s) and %s (%s) overlap", a.Mount, a.Name, b.Mount, b.Name)
			}
		}
	}
	return ""
}

func checkPersistent(c *Config) string {
	paths := c.Disk.PersistentPaths
	for i, a := range paths {
		for _, b := range paths[i+1:] {
			if under(a, b) || under(b, a) {
				return fmt.Sprintf("%s and %s lie inside each other", a, b)
			}
		}
		for _, p := range c.Disk.Partitions {
			if p.Mount != "" && p.Mount != "/" && (under(a, p.Mount) || under(p.Mount, a)) {
				return fmt.Sprintf("%s overlaps %s, where the %s volume is mounted", a, p.Mount, p.Name)
			}
		}
	}
	return ""
}

func checkKeyDir(c *Config) string {
	readOnly := []string{"/usr", "/boot"}
	for _, p := range c.Disk.Partitions {
		if p.ReadOnly && p.Mount != "/" {
			readOnly = append(readOnly, p.Mount)
		}
	}
	for _, dir := range readOnly {
		if under(c.TEE.Keys.Dir, dir) {
			return fmt.Sprintf("KEY_DIR %s is in %s, which is read-only in the guest", c.TEE.Keys.Dir, dir)
		}
	}
	return ""
}
