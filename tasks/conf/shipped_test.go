// What green does not prove here: that a value which is accepted also works.
// Whether a package, a mirror, a locale or a time zone exists is known only to
// the build that uses it; whether a host can run a policy word only to that
// host's processor. These tests prove that the files are read as documented,
// that what is documented is what the code does, and that every mistake in the
// table of broken configurations gets its exact message. The policy words are
// compared with the manufacturers' documents by hand, not with silicon.
package conf

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"cc-base/tasks/golden"
)

const shippedDir = "../../config"

// sameFile compares a committed file with what generates it, or writes it.
func sameFile(t *testing.T, path string, want []byte) {
	t.Helper()
	if golden.Updating() {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs from the table in tasks/conf; go test ./tasks/conf -run 'TestReference|TestShipped' -update (-want +got):\n%s", path, diff)
	}
}

func TestReferenceIsWhatTheTableSays(t *testing.T) {
	sameFile(t, "../../docs/configuration.md", Reference())
}

func TestShippedFilesAreTheTablesDefaults(t *testing.T) {
	for _, f := range files() {
		sameFile(t, filepath.Join(shippedDir, f.name), template(f))
	}
}

func TestShippedConfigurationLoadsAndEqualsTheDefaults(t *testing.T) {
	t.Parallel()
	got, err := Load(Options{Dir: shippedDir})
	if err != nil {
		t.Fatal(err)
	}
	want, problems := load(nil)
	if len(problems) > 0 {
		t.Fatalf("the defaults of the table are wrong:\n%v", problems)
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Config{})); diff != "" {
		t.Errorf("shipped files differ from the defaults (-want +got):\n%s", diff)
	}
	for _, name := range Keys() {
		if got.Origin(name) == "default" {
			t.Errorf("%s is not in the shipped files", name)
		}
	}
}

// The documented defaults, as text: a change here is a change for users.
func TestDefaultsAreTheDocumentedOnes(t *testing.T) {
	t.Parallel()
	c, _ := load(nil)
	want := map[string]string{
		"DISTRIBUTION": "debian", "SUITE": "trixie", "MIRROR": "", "SNAPSHOT": "", "COMPONENTS": "main",
		"PACKAGES": "", "KERNEL": "cloud", "TOOLS_SUITE": "trixie", "LOCKED": "no", "HOSTNAME": "cc-base", "LOCALE": "C.UTF-8",
		"TIMEZONE": "UTC", "SOURCE_DATE_EPOCH": "1767225600", "EXPERIMENTAL": "no",
		"TEE_TYPE": "auto", "TEE_VCPUS": "4", "TEE_CPU_MODEL": "auto", "BOOT_MODE": "auto",
		"MEASURE_VCPUS": "1 2 4 8 16 32 64", "MEASURE_CPU_MODELS": "EPYC-v4 EPYC-Milan EPYC-Genoa EPYC-Turin", "MEASURE_GUEST_FEATURES": "0x01 0x21",
		"FIRMWARE_CONFIDENTIAL": "auto", "TEE_POLICY": "0x03",
		"TEE_POLICY_SNP": "0x30000", "TEE_POLICY_TDX": "0x10000000", "INSECURE_DEBUG": "no",
		"TEE_MEMORY_SIZE": "8G", "TEE_MEMORY_SLOTS": "4", "SWIOTLB_SIZE": "auto",
		"TEE_KEY_SETTINGS": "KEY_DIR=/etc/cc/keys KEY_SIZE=4096 KEY_ALGO=rsa",
		"LUKS_CIPHER":      "aes-xts-plain64", "LUKS_KEY_SIZE": "512", "LUKS_HASH": "sha512",
		"TPM_DEVICE": "/dev/tpm0", "TPM_VERSION": "2.0", "TPM_PCR": "0,1,2,3,7", "TPM_SRK": "", "KEY_PROFILE": "auto",
		"OPERATOR_KEY": "", "DYNAMIC_INTEGRITY": "auto", "KEY_RECIPIENTS": "",
		"KEY_ROTATION_INTERVAL": "30d", "CONSOLE_RECOVERY": "no", "DEBUG_IMAGE": "no", "LOCKDOWN": "yes", "PANIC_ON_OOPS": "yes",
		"QEMU_MACHINE": "q35", "QEMU_CPU_TYPE": "host-passthrough", "QEMU_FIRMWARE": "/usr/share/OVMF/OVMF_CODE.fd",
		"GPU_SETTINGS_FILE": "/etc/cc/qemu/gpu_settings", "NETWORK_SETTINGS_FILE": "/etc/cc/qemu/network_settings",
		"NETWORK_TYPE": "bridge", "NETWORK_ISOLATION": "yes",
		"ESP_SIZE": "auto", "ROOT_SIZE": "auto", "ROOT_ENCRYPT": "yes", "ROOT_VERITY": "yes",
		"APP_SIZE": "auto", "APP_ENCRYPT": "yes", "APP_VERITY": "yes", "APP_MOUNT": "/opt/cc",
		"CONFIG_SIZE": "auto", "CONFIG_ENCRYPT": "no", "CONFIG_VERITY": "yes", "CONFIG_MOUNT": "/etc/cc/config",
		"DYNAMIC_SIZE": "auto", "DYNAMIC_ENCRYPT": "yes", "DYNAMIC_MOUNT": "/mnt/dynamic",
		"VAR_SIZE": "256M", "ETC_SIZE": "32M", "PERSISTENT_PATHS": "/var/log /var/lib/cc",
		"APPS": "cc-attest",
	}
	if diff := cmp.Diff(want, c.Subset(Keys()...)); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
}

func TestEveryProfileLoads(t *testing.T) {
	t.Parallel()
	found, err := filepath.Glob(filepath.Join(shippedDir, "profiles", "*.conf"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no profiles: %v", err)
	}
	for _, path := range found {
		name := strings.TrimSuffix(filepath.Base(path), ".conf")
		c, err := Load(Options{Dir: shippedDir, Profile: name})
		if err != nil {
			t.Error(err)
		}
		if c.Profile != name {
			t.Errorf("Profile = %q, want %q", c.Profile, name)
		}
	}
}

func TestEveryRowOfTheTableIsComplete(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, k := range table() {
		if seen[k.name] {
			t.Errorf("%s is there twice", k.name)
		}
		seen[k.name] = true
		if k.allowed == "" || k.meaning == "" || k.consequence == "" || k.def == nil || k.set == nil || k.get == nil {
			t.Errorf("%s: the row is not complete", k.name)
		}
		if !slices.Contains([]When{AtBuild, AtInstall, AtRun}, k.when) {
			t.Errorf("%s: when = %q", k.name, k.when)
		}
		if !strings.HasSuffix(k.meaning, ".") || !strings.HasSuffix(k.consequence, ".") || strings.HasSuffix(k.allowed, ".") {
			t.Errorf("%s: meaning and consequence are sentences, allowed is none", k.name)
		}
		c := blank()
		k.set(&c, k.def, func(_ int, format string, args ...any) {
			t.Errorf("%s: the default is refused: "+format, append([]any{k.name}, args...)...)
		})
		if n := len(k.comment()); n > 3 {
			t.Errorf("%s: the comment takes %d lines, want at most 3", k.name, n)
		}
	}
	for _, r := range rules() {
		for _, name := range r.keys {
			if !seen[name] {
				t.Errorf("rule %q names the unknown key %s", r.text, name)
			}
		}
	}
}

func TestShowExplainsEveryKeyAndBit(t *testing.T) {
	t.Parallel()
	c, err := Load(Options{Dir: shippedDir, Profile: "minimal"})
	if err != nil {
		t.Fatal(err)
	}
	var short, long bytes.Buffer
	if err := c.Show(&short, false); err != nil {
		t.Fatal(err)
	}
	if err := c.Show(&long, true); err != nil {
		t.Fatal(err)
	}
	for _, k := range table() {
		if !strings.Contains(short.String(), k.name+"=") {
			t.Errorf("%s is not shown", k.name)
		}
		if !strings.Contains(long.String(), k.meaning) || !strings.Contains(long.String(), k.consequence) {
			t.Errorf("%s is not explained", k.name)
		}
	}
	for _, want := range []string{
		`TEE_VCPUS="2"`, shippedDir + "/profiles/minimal.conf:",
		"bit 19 = 0  debugging forbidden", "bit 17 = 1  reserved, always 1", "bits 15:8 = 0",
		"bit 28 = 1  removed pages", "bit 0 = 1  debugging forbidden",
	} {
		if !strings.Contains(long.String(), want) {
			t.Errorf("verbose text lacks %q", want)
		}
	}
}
