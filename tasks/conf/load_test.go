package conf

import (
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// changed sets every key that can differ from its default to something else.
const changed = `
# a comment with "quotes', $signs and (brackets
DISTRIBUTION='ubuntu' SUITE="noble" ; EXPERIMENTAL=yes
MIRROR="https://mirror.example:8443/archive/~x" # after a value
SNAPSHOT=20260101T000000Z
COMPONENTS=(
  main      # one per line
  "universe"
)
PACKAGES=( vim-tiny g++ libc6 )
KERNEL=generic TOOLS_SUITE=sid HOSTNAME=a1-b LOCALE=de_DE.UTF-8 TIMEZONE=America/Argentina/Salta
SOURCE_DATE_EPOCH=1700000000
TEE_TYPE=sev-snp TEE_VCPUS=512 TEE_CPU_MODEL=EPYC-Genoa BOOT_MODE=direct FIRMWARE_CONFIDENTIAL=no
MEASURE_VCPUS=( 512 3 ) MEASURE_CPU_MODELS=( EPYC-Milan-v2 ) MEASURE_GUEST_FEATURES=( 0x0201 )
TEE_POLICY=0x07 TEE_POLICY_SNP=0x1b001A TEE_POLICY_TDX=0x50000001 INSECURE_DEBUG=yes
TEE_MEMORY_SIZE=6146M TEE_MEMORY_SLOTS=0 SWIOTLB_SIZE=512M
TEE_KEY_SETTINGS=( KEY_ALGO='ecdsa' KEY_SIZE=384 KEY_DIR="/var/lib/cc/keys" )
LUKS_KEY_SIZE=256 LUKS_HASH=sha256 TPM_DEVICE=/dev/tpmrm1 TPM_PCR=0,7,14 KEY_PROFILE=attested TPM_SRK=
OPERATOR_KEY='ed25519:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=' DYNAMIC_INTEGRITY=on KEY_RECIPIENTS=( ops/a.asc b@site.asc )
KEY_ROTATION_INTERVAL=36h CONSOLE_RECOVERY=yes LOCKDOWN=no PANIC_ON_OOPS=no
QEMU_CPU_TYPE=max QEMU_FIRMWARE=/fw/OVMF.fd GPU_SETTINGS_FILE=/g NETWORK_SETTINGS_FILE=/n
NETWORK_TYPE=nat NETWORK_ISOLATION=no
ESP_SIZE=1024M ROOT_SIZE=2G ROOT_ENCRYPT=no APP_SIZE=65536K APP_ENCRYPT=no APP_MOUNT=/srv/app
CONFIG_SIZE=2M CONFIG_MOUNT=/etc/cc/c DYNAMIC_SIZE=1T DYNAMIC_MOUNT=/srv/data
VAR_SIZE=1G ETC_SIZE=16M PERSISTENT_PATHS=( /home )
APPS=( )
`

func mustLoad(t *testing.T, text string) Config {
	t.Helper()
	c, problems := load([]source{{path: "test.conf", text: []byte(text)}})
	if len(problems) > 0 {
		t.Fatalf("refused:\n%v", problems)
	}
	return c
}

func equal(t *testing.T, want, got Config) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Config{})); diff != "" {
		t.Errorf("configurations differ (-want +got):\n%s", diff)
	}
}

func TestValuesReachTheTypedConfigInMachineUnits(t *testing.T) {
	t.Parallel()
	c := mustLoad(t, changed)
	want := Config{
		OS: OS{Distribution: "ubuntu", Suite: "noble", Mirror: "https://mirror.example:8443/archive/~x",
			Snapshot: "20260101T000000Z", Components: []string{"main", "universe"},
			Packages: []string{"vim-tiny", "g++", "libc6"}, Kernel: "generic", ToolsSuite: "sid",
			Hostname: "a1-b", Locale: "de_DE.UTF-8", Timezone: "America/Argentina/Salta",
			SourceDateEpoch: 1700000000, Experimental: true},
		TEE: TEE{Type: "sev-snp", VCPUs: 512, CPUModel: "EPYC-Genoa",
			Measure:  Measure{VCPUs: []int{512, 3}, CPUModels: []string{"EPYC-Milan-v2"}, GuestFeatures: []uint64{0x201}},
			BootMode: "direct", Firmware: "no", Policy: 7,
			PolicySNP: 0x1b001a, PolicyTDX: 0x50000001, InsecureDebug: true, MemorySize: 6146 << 20, SWIOTLB: 512 << 20,
			Keys: KeySettings{Dir: "/var/lib/cc/keys", Size: 384, Algo: "ecdsa"}},
		Security: Security{LUKSCipher: "aes-xts-plain64", LUKSKeySize: 256, LUKSHash: "sha256",
			TPMDevice: "/dev/tpmrm1", TPMVersion: "2.0", TPMPCR: []int{0, 7, 14}, KeyProfile: "attested",
			OperatorKey: "ed25519:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", DynamicIntegrity: "on", KeyRecipients: []string{"ops/a.asc", "b@site.asc"},
			KeyRotationInterval: 36 * time.Hour, ConsoleRecovery: true},
		QEMU: QEMU{Machine: "q35", CPUType: "max", Firmware: "/fw/OVMF.fd", GPUSettingsFile: "/g",
			NetworkSettingsFile: "/n", NetworkType: "nat"},
		Disk: Disk{VarSize: 1 << 30, EtcSize: 16 << 20, PersistentPaths: []string{"/home"},
			Partitions: []Partition{
				{Number: 1, Name: "esp", Label: "cc-esp", Size: 1 << 30, FS: "vfat"},
				{Number: 2, Name: "root", Label: "cc-root", Size: 2 << 30, Verity: true, ReadOnly: true,
					Mount: "/", FS: "erofs", Options: []string{"ro"}},
				{Number: 3, Name: "app", Label: "cc-app", Size: 64 << 20, Verity: true, ReadOnly: true,
					Mount: "/srv/app", FS: "erofs", Options: []string{"ro", "nosuid", "nodev"}},
				{Number: 4, Name: "config", Label: "cc-config", Size: 2 << 20, Verity: true, ReadOnly: true,
					Mount: "/etc/cc/c", FS: "erofs", Options: []string{"ro", "nosuid", "nodev", "noexec"}},
				{Number: 5, Name: "dynamic", Label: "cc-dynamic", Size: 1 << 40, Encrypt: true,
					Mount: "/srv/data", FS: "ext4", Options: []string{"nosuid", "nodev", "noexec"}},
			}},
		Apps: Apps{Apps: []string{}},
	}
	equal(t, want, c)
}

func TestResolvedIsAProfileThatGivesTheSameConfig(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", changed} {
		want := mustLoad(t, text)
		dir := writeConfig(t, map[string]string{"profiles/resolved.conf": string(want.Resolved())})
		got, err := Load(Options{Dir: dir, Profile: "resolved"})
		if err != nil {
			t.Fatal(err)
		}
		got.Profile = ""
		equal(t, want, got)
		if !bytes.Equal(want.Resolved(), got.Resolved()) {
			t.Errorf("resolved twice:\n%s\nthen\n%s", want.Resolved(), got.Resolved())
		}
	}
}

func TestFilesGiveTheSameConfigInAFolder(t *testing.T) {
	t.Parallel()
	want := mustLoad(t, changed)
	texts := map[string]string{}
	for _, f := range files() {
		texts[f.name] = string(want.File(f.name))
	}
	got, err := Load(Options{Dir: writeConfig(t, texts)})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, want, got)
	if text := want.File("other.conf"); len(text) > 0 {
		t.Errorf("other.conf = %q", text)
	}
}

func TestEqualSettingsHaveOneSpelling(t *testing.T) {
	t.Parallel()
	a := mustLoad(t, "TEE_MEMORY_SIZE=8G\nTEE_POLICY=0x3\nKEY_ROTATION_INTERVAL=48h\nKERNEL=auto\nVAR_SIZE=1048576K\nTEE_POLICY_SNP=0x0030000\n")
	b := mustLoad(t, "TEE_MEMORY_SIZE='8192M'\nTEE_POLICY=0x03\nKEY_ROTATION_INTERVAL=2d\nKERNEL=cloud\nVAR_SIZE=1G\n")
	if diff := cmp.Diff(a.Subset(Keys()...), b.Subset(Keys()...)); diff != "" {
		t.Errorf("values differ:\n%s", diff)
	}
}

func TestValueAndOriginOfAnUnknownKey(t *testing.T) {
	t.Parallel()
	c := mustLoad(t, "")
	if c.Value("NONE") != "" || c.Origin("NONE") != "default" || (Config{}).Origin("SUITE") != "default" {
		t.Error("an unknown key has a value or an origin")
	}
}

func TestProfileWinsAndOriginSaysSo(t *testing.T) {
	t.Parallel()
	dir := writeConfig(t, map[string]string{
		"os.conf":             "SUITE=sid\nHOSTNAME=base\n",
		"profiles/small.conf": "\n\nHOSTNAME=small\nVAR_SIZE=16M\n",
	})
	c, err := Load(Options{Dir: dir, Profile: "small"})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, k := range []string{"SUITE", "HOSTNAME", "VAR_SIZE", "LOCALE"} {
		got[k] = c.Value(k) + " " + strings.TrimPrefix(c.Origin(k), dir+string(filepath.Separator))
	}
	want := map[string]string{"SUITE": "sid os.conf:1", "HOSTNAME": "small profiles/small.conf:3",
		"VAR_SIZE": "16M profiles/small.conf:4", "LOCALE": "C.UTF-8 default"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, none := range []string{"", "default"} {
		if c, err := Load(Options{Dir: dir, Profile: none}); err != nil || c.OS.Hostname != "base" || c.Profile != "" {
			t.Errorf("profile %q: host name %q, profile %q, %v", none, c.OS.Hostname, c.Profile, err)
		}
	}
}

func TestPolicyIsTranslated(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		text     string
		snp, tdx uint64
	}{
		{"", 0x30000, 0x10000000},
		{"TEE_POLICY=0x07", 0x30000, 0x10000000},
		{"TEE_POLICY=0x3f", 0x30000, 0x10000000},
		{"TEE_POLICY=0x02 INSECURE_DEBUG=yes", 0xb0000, 0x10000001},
		{"TEE_POLICY_SNP=0x20000", 0x20000, 0x10000000},
		{"TEE_POLICY_TDX=0x8000000050000000", 0x30000, 0x8000000050000000},
		{"TEE_POLICY=0x02 TEE_POLICY_SNP=0x30000 TEE_POLICY_TDX=0x10000000 INSECURE_DEBUG=yes", 0x30000, 0x10000000},
	} {
		c := mustLoad(t, tc.text)
		if c.TEE.PolicySNP != tc.snp || c.TEE.PolicyTDX != tc.tdx {
			t.Errorf("%q: SNP %#x TDX %#x, want %#x %#x", tc.text, c.TEE.PolicySNP, c.TEE.PolicyTDX, tc.snp, tc.tdx)
		}
	}
}

// operator is a public key that would do.
const operator = "OPERATOR_KEY=ed25519:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

func TestIntegrityFollowsTheKeyProfile(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"": "false true true", "DYNAMIC_INTEGRITY=on": "true true true", "DYNAMIC_INTEGRITY=off": "false false false"} {
		c := mustLoad(t, text)
		if got := fmt.Sprint(c.Integrity("tpm"), " ", c.Integrity("snp"), " ", c.Integrity("attested")); strings.Join(strings.Fields(got), " ") != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func TestTheGuestsKeyNeedsNoSizeWhereThereIsOneOnly(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"TEE_KEY_SETTINGS=( KEY_ALGO=ed25519 )":              "KEY_DIR=/etc/cc/keys KEY_SIZE=256 KEY_ALGO=ed25519",
		"TEE_KEY_SETTINGS=( KEY_SIZE=256 KEY_ALGO=ed25519 )": "KEY_DIR=/etc/cc/keys KEY_SIZE=256 KEY_ALGO=ed25519",
		"TEE_KEY_SETTINGS=( KEY_ALGO=ecdsa KEY_SIZE=256 )":   "KEY_DIR=/etc/cc/keys KEY_SIZE=256 KEY_ALGO=ecdsa",
		"TEE_KEY_SETTINGS=( )":                               "KEY_DIR=/etc/cc/keys KEY_SIZE=4096 KEY_ALGO=rsa",
	} {
		if got := mustLoad(t, text).Value("TEE_KEY_SETTINGS"); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

// What the build looks at reaches it with its whole path, and what it finds is
// told where the key stands.
func TestFilesThatKeysNameAreLookedAt(t *testing.T) {
	t.Parallel()
	dir := writeConfig(t, map[string]string{
		"security.conf": "TPM_SRK=srk.pub\n\n  KEY_RECIPIENTS=( a.asc ops/b.asc )\nLUKS_HASH=md5\n",
		"a.asc":         "x",
	})
	var seen []string
	_, err := Load(Options{Dir: dir, File: func(key, path string) error {
		rel, _ := filepath.Rel(dir, path)
		seen = append(seen, key+" "+rel)
		_, err := os.Stat(path)
		return err
	}})
	slices.Sort(seen)
	if diff := cmp.Diff([]string{"KEY_RECIPIENTS a.asc", "KEY_RECIPIENTS ops/b.asc", "TPM_SRK srk.pub"}, seen); diff != "" {
		t.Errorf("looked at (-want +got):\n%s", diff)
	}
	want := `security.conf:1:1: TPM_SRK: srk.pub: no such file or directory
security.conf:3:3: KEY_RECIPIENTS: ops/b.asc: no such file or directory
security.conf:4:11: LUKS_HASH: "md5" is not known; allowed: sha256, sha512`
	if err == nil || strings.ReplaceAll(err.Error(), dir+string(filepath.Separator), "") != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	if _, err := Load(Options{Dir: writeConfig(t, map[string]string{"security.conf": "TPM_SRK=none.pub\n"})}); err != nil {
		t.Errorf("without File nothing is looked at: %v", err)
	}
}

func TestKeyProfilesFollowTheTEE(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                              "[tpm snp]",
		operator:                                        "[tpm snp attested]",
		"TEE_TYPE=none":                                 "[tpm]",
		"TEE_TYPE=none\n" + operator:                    "[tpm]",
		"TEE_TYPE=sev-snp":                              "[snp]",
		"TEE_TYPE=sev-snp\n" + operator:                 "[snp]",
		"TEE_TYPE=tdx\n" + operator:                     "[attested]",
		"KEY_PROFILE=attested\n" + operator:             "[attested]",
		"TEE_TYPE=sev-snp KEY_PROFILE=tpm":              "[tpm]",
		"TEE_TYPE=auto KEY_PROFILE=tpm":                 "[tpm]",
		"KEY_PROFILE=tpm TEE_TYPE=none":                 "[tpm]",
		"KEY_PROFILE=attested TEE_TYPE=tdx " + operator: "[attested]",
	} {
		if got := fmt.Sprint(mustLoad(t, text).KeyProfiles()); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func TestNotesWarnOfWhatIsAllowedButWeak(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                    "TPM_PCR contains 1",
		"TEE_TYPE=sev-snp":                    "legacy SEV word; in force are SEV-SNP 0x30000",
		"TEE_TYPE=none\nKEY_PROFILE=tpm":      "its host can read everything",
		"TEE_POLICY=0x02\nINSECURE_DEBUG=yes": "INSECURE: the policy allows debugging",
		"INSECURE_DEBUG=yes":                  "has no effect",
		"KEY_PROFILE=tpm":                     "TDX host will be refused",
		"TEE_MEMORY_SIZE=2G":                  "RTMR1",
		"LOCKDOWN=no":                         "LOCKDOWN=no",
		"FIRMWARE_CONFIDENTIAL=no":            "installation on such a host will be refused",
		"ROOT_ENCRYPT=no":                     "ROOT_ENCRYPT=no",
		"CONSOLE_RECOVERY=yes":                "seen by the host",
		"BOOT_MODE=disk":                      "BOOT_MODE=disk",
		"TEE_TYPE=auto":                       "attested is left out, so installation on a TDX host will be refused: OPERATOR_KEY is empty",
		"KEY_PROFILE=tpm\n" + operator:        "OPERATOR_KEY is not used: the key profile is tpm",
		"DYNAMIC_INTEGRITY=off":               "change data on the writable volume unnoticed",
		"TEE_TYPE=none":                       "KEY_RECIPIENTS is empty",
		"TPM_SRK=a.pub":                       "opens on that one TPM",
		"TPM_PCR=4,7":                         "TPM_PCR contains 4, which changes with every new boot image",
		"TPM_PCR=7,9":                         "TPM_PCR contains 9, which changes with every new boot image",
		"TPM_PCR=8":                           "TPM_PCR contains 8, which nothing in this boot extends",
		"TPM_PCR=7,14":                        "TPM_PCR contains 14, which nothing",
	} {
		notes := strings.Join(mustLoad(t, text).Notes(), "\n")
		if !strings.Contains(notes, want) {
			t.Errorf("%q: notes lack %q:\n%s", text, want, notes)
		}
	}
	if notes := strings.Join(mustLoad(t, "TPM_PCR=0,7\nTEE_TYPE=none").Notes(), "\n"); strings.Contains(notes, "TPM_PCR") {
		t.Errorf("a note about a PCR that is not bound:\n%s", notes)
	}
}

func TestPartitionIsFoundByName(t *testing.T) {
	t.Parallel()
	c := mustLoad(t, "")
	if p, ok := c.Partition("app"); !ok || p.Number != 3 || p.Mount != "/opt/cc" {
		t.Errorf("app = %+v, %v", p, ok)
	}
	if _, ok := c.Partition("boot"); ok {
		t.Error("there is a boot partition")
	}
}

func TestLoadsDoNotShareState(t *testing.T) {
	t.Parallel()
	a, b := mustLoad(t, ""), mustLoad(t, "")
	a.Disk.Partitions[1].Encrypt = false
	a.Disk.Partitions[1].Options[0] = "rw"
	a.OS.Components[0] = "changed"
	equal(t, mustLoad(t, ""), b)
}

// A loader that meets an unreadable file must go on to the others.
func TestUnreadableFileIsOneProblemAmongOthers(t *testing.T) {
	t.Parallel()
	dir := writeConfig(t, map[string]string{"tee.conf": "(remove)", "os.conf": "SUITE=x\n"})
	if err := os.Mkdir(filepath.Join(dir, "tee.conf"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := Load(Options{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "tee.conf: the file cannot be read: is a directory") ||
		!strings.Contains(err.Error(), "os.conf:1:7: SUITE") {
		t.Errorf("err = %v", err)
	}
}

// Every key's effective values, mixed at random, survive the round trip.
func FuzzParse(f *testing.F) {
	f.Add([]byte(changed))
	f.Add((Config{}).File("os.conf"))
	c, _ := load(nil)
	f.Add(c.Resolved())
	for _, group := range [][]broken{brokenSyntax(), brokenKeys(), brokenValues(), brokenCombinations()} {
		for _, b := range group {
			for _, text := range b.files {
				if len(text) < 4096 {
					f.Add([]byte(text))
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, problems := load([]source{{path: "fuzz.conf", text: text}})
		for _, p := range problems {
			if p.Line < 1 || p.Col < 1 || p.What == "" || strings.ContainsAny(p.String(), "\n\r\x00") {
				t.Fatalf("a problem that cannot be shown in one line: %q", p.String())
			}
			if lines := bytes.Count(text, []byte("\n")) + 1; p.Line > lines {
				t.Fatalf("a problem in line %d of %d: %v", p.Line, lines, p)
			}
		}
		if len(problems) > 0 {
			return
		}
		again, problems := load([]source{{path: "again.conf", text: c.Resolved()}})
		if len(problems) > 0 {
			t.Fatalf("what was accepted is refused in its canonical form:\n%v\n%s", problems, c.Resolved())
		}
		if diff := cmp.Diff(c, again, cmpopts.IgnoreUnexported(Config{})); diff != "" {
			t.Fatalf("round trip:\n%s", diff)
		}
	})
}

// Lines of good and bad files in any order: no panic, no lost problem.
func TestShuffledLinesNeverPanic(t *testing.T) {
	t.Parallel()
	lines := strings.Split(changed, "\n")
	for _, group := range [][]broken{brokenSyntax(), brokenValues()} {
		for _, b := range group {
			for _, text := range b.files {
				if len(text) < 4096 {
					lines = append(lines, strings.Split(text, "\n")...)
				}
			}
		}
	}
	random := rand.New(rand.NewSource(1))
	for range 200 {
		random.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
		text := strings.Join(lines[:20], "\n")
		load([]source{{path: "shuffled.conf", text: []byte(text)}})
	}
}
