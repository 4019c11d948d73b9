package build

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/conf"
	"cc-base/tasks/filetest"
	"cc-base/tasks/golden"
)

// finished makes an output folder in which every stage looks finished, made
// from the checkout and the configuration as they are, with a few bytes for
// every output.
func finished(t *testing.T, o Options) {
	t.Helper()
	b, err := look(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{b.scratch("firmware"), b.scratch("enrolled"), b.stateDir(), filepath.Dir(b.toolsList())} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range stages() {
		for _, path := range s.outputs(b) {
			if err := os.WriteFile(path, []byte("[]"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		in, err := b.inputs(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.record(s, in, 1); err != nil {
			t.Fatal(err)
		}
	}
}

// writeNamedFiles makes the files that keys may name: operator.asc, an OpenPGP
// key, and srk.pub, a TPM's storage root key. It returns the private OpenPGP key.
func writeNamedFiles(t *testing.T, dir string) *openpgp.Entity {
	t.Helper()
	e, err := openpgp.NewEntity("Operator", "", "operator@site.invalid", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	w, err := armor.Encode(&text, openpgp.PublicKeyType, nil)
	if err == nil {
		err = errors.Join(e.Serialize(w), w.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	filetest.Write(t, filepath.Join(dir, "operator.asc"), text.Bytes())
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	filetest.Write(t, filepath.Join(dir, "srk.pub"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	return e
}

func planOptions(t *testing.T) Options {
	t.Helper()
	config, out := t.TempDir(), t.TempDir()
	if err := os.CopyFS(config, os.DirFS(filepath.Join(repo(t), "config"))); err != nil {
		t.Fatal(err)
	}
	writeNamedFiles(t, config)
	return Options{
		Repo: repo(t), ConfigDir: config, OutDir: out, CacheDir: filepath.Join(out, "cache"), CacheLimit: defaultLimit, Stderr: io.Discard,
		LookupEnv: func(string) (string, bool) { return "", false },
	}
}

// direct returns the stages whose own inputs have changed.
func direct(t *testing.T, o Options) []string {
	t.Helper()
	steps, err := Plan(o)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range steps {
		if len(s.Changes) > 0 || s.Action == "run" {
			names = append(names, s.Stage)
		}
	}
	return names
}

const operatorKey = "OPERATOR_KEY=ed25519:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

// other gives every key a value that is not its default. A key whose change
// needs another one to be valid brings it along.
func other() map[string]string {
	return map[string]string{
		"DISTRIBUTION": "DISTRIBUTION=ubuntu\nEXPERIMENTAL=yes\nSUITE=noble", "SUITE": "SUITE=forky", "MIRROR": "MIRROR=http://mirror.invalid/debian",
		"SNAPSHOT": "SNAPSHOT=20260101T000000Z\nMIRROR=http://snapshot.invalid/debian", "COMPONENTS": "COMPONENTS=( main contrib )", "PACKAGES": "PACKAGES=( jq )",
		"KERNEL": "KERNEL=generic", "TOOLS_SUITE": "TOOLS_SUITE=forky", "LOCKED": "LOCKED=yes", "HOSTNAME": "HOSTNAME=other", "LOCALE": "LOCALE=de_DE.UTF-8", "TIMEZONE": "TIMEZONE=Europe/Berlin",
		"SOURCE_DATE_EPOCH": "SOURCE_DATE_EPOCH=1767225601", "EXPERIMENTAL": "EXPERIMENTAL=yes",
		"TEE_TYPE": "TEE_TYPE=sev-snp", "TEE_VCPUS": "TEE_VCPUS=8", "TEE_CPU_MODEL": "TEE_CPU_MODEL=EPYC-Milan", "BOOT_MODE": "BOOT_MODE=direct",
		"MEASURE_VCPUS": "MEASURE_VCPUS=( 3 )", "MEASURE_CPU_MODELS": "MEASURE_CPU_MODELS=( EPYC-Milan )", "MEASURE_GUEST_FEATURES": "MEASURE_GUEST_FEATURES=( 0x21 )",
		"FIRMWARE_CONFIDENTIAL": "FIRMWARE_CONFIDENTIAL=no", "TEE_POLICY": "TEE_POLICY=0x07",
		"TEE_POLICY_SNP": "TEE_POLICY_SNP=0x20000", "TEE_POLICY_TDX": "TEE_POLICY_TDX=0x50000000", "INSECURE_DEBUG": "INSECURE_DEBUG=yes", "TEE_MEMORY_SIZE": "TEE_MEMORY_SIZE=16G",
		"TEE_MEMORY_SLOTS": "TEE_MEMORY_SLOTS=8", "SWIOTLB_SIZE": "SWIOTLB_SIZE=512M", "TEE_KEY_SETTINGS": `TEE_KEY_SETTINGS=( KEY_DIR="/run/keys" KEY_SIZE="4096" KEY_ALGO="rsa" )`,
		"LUKS_CIPHER": "", "LUKS_KEY_SIZE": "LUKS_KEY_SIZE=256", "LUKS_HASH": "LUKS_HASH=sha256", "TPM_DEVICE": "TPM_DEVICE=/dev/tpm1", "TPM_VERSION": "",
		"TPM_PCR": "TPM_PCR=0,7", "TPM_SRK": "TPM_SRK=srk.pub", "KEY_PROFILE": "KEY_PROFILE=attested\n" + operatorKey,
		"OPERATOR_KEY": operatorKey, "DYNAMIC_INTEGRITY": "DYNAMIC_INTEGRITY=off", "KEY_RECIPIENTS": "KEY_RECIPIENTS=( operator.asc )", "KEY_ROTATION_INTERVAL": "KEY_ROTATION_INTERVAL=7d", "CONSOLE_RECOVERY": "CONSOLE_RECOVERY=yes", "DEBUG_IMAGE": "DEBUG_IMAGE=yes",
		"LOCKDOWN": "LOCKDOWN=no", "PANIC_ON_OOPS": "PANIC_ON_OOPS=no",
		"QEMU_MACHINE": "", "QEMU_CPU_TYPE": "QEMU_CPU_TYPE=max", "QEMU_FIRMWARE": "QEMU_FIRMWARE=/opt/OVMF.fd", "GPU_SETTINGS_FILE": "GPU_SETTINGS_FILE=/etc/other/gpu",
		"NETWORK_SETTINGS_FILE": "NETWORK_SETTINGS_FILE=/etc/other/network", "NETWORK_TYPE": "NETWORK_TYPE=nat", "NETWORK_ISOLATION": "NETWORK_ISOLATION=no",
		"ESP_SIZE": "ESP_SIZE=256M", "ROOT_SIZE": "ROOT_SIZE=2G", "ROOT_ENCRYPT": "ROOT_ENCRYPT=no", "ROOT_VERITY": "", "APP_SIZE": "APP_SIZE=1G", "APP_ENCRYPT": "APP_ENCRYPT=no",
		"APP_VERITY": "", "APP_MOUNT": "APP_MOUNT=/srv/cc", "CONFIG_SIZE": "CONFIG_SIZE=64M", "CONFIG_ENCRYPT": "", "CONFIG_VERITY": "", "CONFIG_MOUNT": "CONFIG_MOUNT=/etc/cc/settings",
		"DYNAMIC_SIZE": "", "DYNAMIC_ENCRYPT": "", "DYNAMIC_MOUNT": "DYNAMIC_MOUNT=/mnt/data", "VAR_SIZE": "VAR_SIZE=512M", "ETC_SIZE": "ETC_SIZE=64M",
		"PERSISTENT_PATHS": "PERSISTENT_PATHS=( /var/log )", "APPS": "",
	}
}

// The golden file is the claim: which key makes which stages run. A key that
// only the installer or the guest reads still reaches the configuration volume
// and the installer, so apps and package.
func TestEveryKeyRunsExactlyTheStagesThatDependOnIt(t *testing.T) {
	o := planOptions(t)
	writeLock(t, o, section("tools"), section("image/other")) // LOCKED=yes wants one
	finished(t, o)
	if ran := direct(t, o); len(ran) > 0 {
		t.Fatalf("with nothing changed: %v", ran)
	}
	var got strings.Builder
	values := other()
	for _, key := range conf.Keys() {
		text, ok := values[key]
		if !ok {
			t.Errorf("no other value for %s", key)
			continue
		}
		if text == "" {
			fmt.Fprintf(&got, "%-22s (only one value is allowed)\n", key)
			continue
		}
		if err := os.WriteFile(filepath.Join(o.ConfigDir, "profiles", "other.conf"), []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		changed := o
		changed.Profile = "other"
		steps, err := Plan(changed)
		if err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		var names []string
		for _, s := range steps {
			b, err := look(changed)
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(stages(), func(x stage) bool { return x.name == s.Stage })
			in := b.Config.Subset(stages()[i].keys...)
			plain, err := look(o)
			if err != nil {
				t.Fatal(err)
			}
			was := plain.Config.Subset(stages()[i].keys...)
			if in[key] != was[key] {
				names = append(names, s.Stage)
				if s.Action == "none" {
					t.Errorf("%s: %s depends on it and would not run", key, s.Stage)
				}
			}
		}
		fmt.Fprintf(&got, "%-22s %s\n", key, strings.Join(names, " "))
	}
	golden.Compare(t, "keys-and-stages.golden", got.String())
}

func TestEveryAttributeOfAnOverlayRunsBaseOS(t *testing.T) {
	o := planOptions(t)
	copied := t.TempDir()
	for _, dir := range []string{"overlays", "tasks", "installer", "validation"} {
		if err := os.CopyFS(filepath.Join(copied, dir), os.DirFS(filepath.Join(o.Repo, dir))); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(o.Repo, "go.sum"), filepath.Join(copied, "go.sum")); err != nil {
		data, rerr := os.ReadFile(filepath.Join(o.Repo, "go.sum"))
		if rerr != nil {
			t.Fatal(rerr)
		}
		if err := os.WriteFile(filepath.Join(copied, "go.sum"), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	o.Repo = copied
	tree := filepath.Join(copied, "overlays", "base", "tree", "etc")
	file, symlink := filepath.Join(tree, "cc-file"), filepath.Join(tree, "cc-link")
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		name   string
		change func()
		runs   bool
	}{
		{"nothing", func() {}, false},
		{"a new file", func() { check(os.WriteFile(file, []byte("a"), 0o644)) }, true},
		{"its content", func() { check(os.WriteFile(file, []byte("b"), 0o644)) }, true},
		{"its execute bit", func() { check(os.Chmod(file, 0o755)) }, true},
		{"a mode bit that the image does not take over", func() { check(os.Chmod(file, 0o700)) }, false},
		{"a link", func() { check(os.Symlink("cc-file", symlink)) }, true},
		{"the target of a link", func() { check(os.Remove(symlink)); check(os.Symlink("other", symlink)) }, true},
		{"an empty directory", func() { check(os.Mkdir(filepath.Join(tree, "cc-dir"), 0o755)) }, true},
		{"owner and mode", func() {
			modes := filepath.Join(copied, "overlays", "base", "modes")
			data, err := os.ReadFile(modes)
			check(err)
			check(os.WriteFile(modes, append(data, "0440 0:42 /etc/cc-file\n"...), 0o644))
		}, true},
		{"a removed file", func() { check(os.Remove(symlink)) }, true},
		{"a text for people", func() {
			check(os.WriteFile(filepath.Join(copied, "overlays", "base", "OVERLAY.md"), []byte("other"), 0o644))
		}, false},
	} {
		finished(t, o)
		step.change()
		var want []string
		if step.runs {
			want = []string{"baseos"}
		}
		if got := direct(t, o); !slices.Equal(got, want) {
			t.Errorf("%s: %v would run, want %v", step.name, got, want)
		}
	}
}

func TestThePlanNamesWhatChangedFromWhatToWhat(t *testing.T) {
	o := planOptions(t)
	finished(t, o)
	if err := os.WriteFile(filepath.Join(o.ConfigDir, "profiles", "other.conf"), []byte("HOSTNAME=other\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	o.Profile = "other"
	var text bytes.Buffer
	if err := WritePlan(o, &text, false); err != nil {
		t.Fatal(err)
	}
	if want := `config:HOSTNAME: "cc-base" → "other"`; !strings.Contains(text.String(), want) {
		t.Errorf("no %q in\n%s", want, text.String())
	}
	var why bytes.Buffer
	if err := Why(o, &why, "baseos"); err != nil {
		t.Fatal(err)
	}
	if got, want := why.String(), "baseos would run\n  config:HOSTNAME: \"cc-base\" → \"other\"\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	var data bytes.Buffer
	if err := WritePlan(o, &data, true); err != nil {
		t.Fatal(err)
	}
	var steps []Step
	if err := json.Unmarshal(data.Bytes(), &steps); err != nil {
		t.Fatal(err)
	}
	actions := map[string]string{}
	for _, s := range steps {
		actions[s.Stage] = s.Action
	}
	want := map[string]string{"prepare": "none", "bootstrap": "none", "baseos": "run", "tee": "behind", "initrd": "behind", "encrypt": "behind", "apps": "run", "firmware": "none", "package": "behind", "sign": "behind"}
	if d := cmp.Diff(want, actions); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	if err := Why(o, io.Discard, "nothing"); err == nil {
		t.Error("why of an unknown stage: no error")
	}
}
