package build

// What green does not prove: that a key is random, or that whoever holds a
// fingerprint got it from the right machine. The tables are compared as they are
// printed; that the boot image, the volumes and the guest use these keys is
// shown by the artefact tests and the boots.

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/google/go-cmp/cmp"

	"cc-base/overlays/cc-guest/settings"
	"cc-base/tasks/conf"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/manifest"
)

// allKeys are the files of every build key, and whether each is for its owner
// alone.
func allKeys() map[string]bool {
	return map[string]bool{
		"signing-key.private.asc": true, "signing-key.asc": false, "pcr/pcr.key": true, "pcr/pcr.pub": false, "image.key": true, "recovery.key": true,
		"secureboot/PK.key": true, "secureboot/PK.crt": false, "secureboot/KEK.key": true, "secureboot/KEK.crt": false,
		"secureboot/db.key": true, "secureboot/db.crt": false,
	}
}

// writeKey puts something in the place of a key.
func writeKey(t *testing.T, o Options, name, text string) string {
	t.Helper()
	path := filepath.Join(o.OutDir, "keys", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func keyFiles(t *testing.T, o Options) map[string]string {
	t.Helper()
	files := map[string]string{}
	for name, private := range allKeys() {
		path := filepath.Join(o.OutDir, "keys", name)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if want := map[bool]os.FileMode{true: 0o600, false: 0o644}[private]; info.Mode() != want {
			t.Errorf("%s: mode %v, want %v", name, info.Mode(), want)
		}
		files[name] = string(filetest.Read(t, path))
	}
	return files
}

// column returns the last word of each row of the table, by key.
func column(table string) map[string]string {
	got := map[string]string{}
	for _, line := range strings.Split(table, "\n")[1:] {
		cells := regexp.MustCompile(` {2,}`).Split(line, -1)
		if len(cells) > 1 {
			got[cells[0]] = cells[len(cells)-1]
		}
	}
	return got
}

func TestEveryMissingKeyIsMadeAndNoneOverwritten(t *testing.T) {
	o := planOptions(t)
	var said, first, second, shown bytes.Buffer
	o.Stderr = &said
	writeKey(t, o, "image.key", "an image key that somebody made before it was asked for")
	if err := GenerateKeys(o, &first); err != nil {
		t.Fatal(err)
	}
	files := keyFiles(t, o)
	want := map[string]string{
		"signing": "made", "secure boot PK": "made", "secure boot KEK": "made", "secure boot db": "made", "PCR signing": "made", "image": "kept", "recovery": "made",
	}
	if diff := cmp.Diff(want, column(first.String())); diff != "" {
		t.Errorf("the first time (-want +got):\n%s\n%s", diff, first.String())
	}
	if !strings.Contains(said.String(), "the next build adds the recovery key") {
		t.Errorf("it said %q", said.String())
	}
	said.Reset()
	if err := GenerateKeys(o, &second); err != nil {
		t.Fatal(err)
	}
	for k := range want {
		want[k] = "kept"
	}
	if diff := cmp.Diff(want, column(second.String())); diff != "" {
		t.Errorf("the second time (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(files, keyFiles(t, o)); diff != "" {
		t.Errorf("a key was changed:\n%s", diff)
	}
	if said.Len() != 0 {
		t.Errorf("the second time it said %q", said.String())
	}

	o.Debug = true
	for _, print := range []func(Options, io.Writer) error{ShowKeys, GenerateKeys} {
		if err := print(o, &shown); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(shown.String(), "CN=cc-base Secure Boot KEK") || !strings.Contains(shown.String(), "mode 0600, 71 bytes") {
		t.Errorf("no detail:\n%s", shown.String())
	}
	all := first.String() + second.String() + shown.String() + said.String()
	for name, private := range allKeys() {
		if !private {
			continue
		}
		// Any 16 bytes of a secret in a row.
		for at := 0; at+16 <= len(files[name]); at++ {
			part := files[name][at : at+16]
			if !strings.Contains(part, "-----") && !strings.Contains(part, "\n") && strings.Contains(all, part) {
				t.Fatalf("a part of %s is printed", name)
			}
		}
	}
	// The keys are all different, and each is told by its fingerprint.
	prints := regexp.MustCompile(`(sha256:[0-9a-f]{64}|[0-9A-F]{40})`).FindAllString(second.String(), -1)
	slices.Sort(prints)
	if len(prints) != 5 || len(slices.Compact(prints)) != 5 {
		t.Errorf("fingerprints %v", prints)
	}
}

func TestAKeyThatCannotBeReadStopsNoOther(t *testing.T) {
	o := planOptions(t)
	bad := writeKey(t, o, "recovery.key", "hunter2")
	writeKey(t, o, "secureboot/PK.key", "x")
	var table bytes.Buffer
	err := GenerateKeys(o, &table)
	if err == nil || !strings.Contains(err.Error(), "recovery: "+bad) || !strings.Contains(err.Error(), "secure boot PK: ") {
		t.Errorf("%v", err)
	}
	got := column(strings.Split(table.String(), "warning:")[0])
	if got["recovery"] != "FAILED" || got["secure boot PK"] != "FAILED" || got["secure boot db"] != "made" || got["image"] != "made" {
		t.Errorf("%v", got)
	}
	if string(filetest.Read(t, bad)) != "hunter2" || strings.Contains(err.Error(), "hunter2") {
		t.Error("it was overwritten or repeated")
	}
}

func TestShowingKeysMakesNone(t *testing.T) {
	o := planOptions(t)
	var table bytes.Buffer
	if err := ShowKeys(o, &table); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(table.String(), "missing"); n != 7 {
		t.Errorf("%d of 7 keys are missing:\n%s", n, table.String())
	}
	if names := filetest.Names(t, o.OutDir); len(names) != 0 {
		t.Errorf("it made %v", names)
	}
	loose := writeKey(t, o, "image.key", "x")
	if err := os.Chmod(loose, 0o644); err != nil {
		t.Fatal(err)
	}
	table.Reset()
	if err := ShowKeys(o, &table); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(table.String(), "warning: "+loose+" has mode 0644") {
		t.Errorf("no warning:\n%s", table.String())
	}
}

func TestTheSecureBootSetIsMadeAlone(t *testing.T) {
	o := planOptions(t)
	var table bytes.Buffer
	if err := GenerateSecureBootKeys(o, &table); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"secure boot PK": "made", "secure boot KEK": "made", "secure boot db": "made"}, column(table.String())); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"secureboot"}, filetest.Names(t, filepath.Join(o.OutDir, "keys"))); diff != "" {
		t.Error(diff)
	}
}

func TestTheRecoveryKeyIsEncryptedToWhomItIsFor(t *testing.T) {
	o := planOptions(t)
	operator := writeNamedFiles(t, o.ConfigDir)
	var said bytes.Buffer
	o.Stderr = &said
	faulttest.Want(t, WriteRecovery(o, ""), fault.Usage, "to whom?")
	faulttest.Want(t, WriteRecovery(o, filepath.Join(o.ConfigDir, "operator.asc")), fault.Sealing, "no recovery key")
	faulttest.Want(t, WriteRecovery(o, filepath.Join(o.ConfigDir, "os.conf")), fault.SigningKey, "os.conf", "not an armoured")
	if err := GenerateKeys(o, io.Discard); err != nil {
		t.Fatal(err)
	}
	key := filetest.Read(t, filepath.Join(o.OutDir, "keys", "recovery.key"))
	read := func() []byte {
		t.Helper()
		file := filetest.Read(t, filepath.Join(o.OutDir, "keys", "recovery.asc"))
		if bytes.Contains(file, key[:16]) {
			t.Error("the key is in the file")
		}
		return decrypted(t, operator, file)
	}
	if err := WriteRecovery(o, filepath.Join(o.ConfigDir, "operator.asc")); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(), key) {
		t.Error("the operator reads another key")
	}
	// The same by way of the configuration, in place of the older file.
	filetest.Write(t, filepath.Join(o.ConfigDir, "profiles", "other.conf"), []byte("KEY_RECIPIENTS=( operator.asc )\n"))
	o.Profile = "other"
	if err := WriteRecovery(o, ""); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(), key) || bytes.Contains(said.Bytes(), key[:16]) {
		t.Error("the operator reads another key, or it is printed")
	}
	if !strings.Contains(said.String(), "Operator <operator@site.invalid>") {
		t.Errorf("it said %q", said.String())
	}
}

func TestAFileThatAKeyNamesIsPartOfTheConfiguration(t *testing.T) {
	o := planOptions(t)
	o.Profile = "other"
	filetest.Write(t, filepath.Join(o.ConfigDir, "none.asc"), []byte("no key"))
	filetest.Write(t, filepath.Join(o.ConfigDir, "none.pub"), []byte("no key"))
	for text, says := range map[string]string{
		"KEY_RECIPIENTS=( operator.asc missing.asc )": "KEY_RECIPIENTS: missing.asc: no such file",
		"KEY_RECIPIENTS=( none.asc )":                 "KEY_RECIPIENTS: none.asc: not an armoured OpenPGP key",
		"TPM_SRK=missing.pub":                         "TPM_SRK: missing.pub: no such file",
		"TPM_SRK=none.pub":                            "TPM_SRK: none.pub: ",
		"TPM_SRK=profiles":                            "TPM_SRK: profiles: is a directory",
	} {
		filetest.Write(t, filepath.Join(o.ConfigDir, "profiles", "other.conf"), []byte(text+"\n"))
		_, err := o.config()
		faulttest.Want(t, err, fault.Config, says)
	}
}

func lookOther(t *testing.T, o Options, text string) *Build {
	t.Helper()
	filetest.Write(t, filepath.Join(o.ConfigDir, "profiles", "other.conf"), []byte(text+"\n"))
	o.Profile = "other"
	b, err := look(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// decrypted returns what a person reads of a message.
func decrypted(t *testing.T, person *openpgp.Entity, message []byte) []byte {
	t.Helper()
	block, err := armor.Decode(bytes.NewReader(message))
	if err != nil {
		t.Fatal(err)
	}
	md, err := openpgp.ReadMessage(block.Body, openpgp.EntityList{person}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(md.UnverifiedBody)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestTheImageKeyTravelsForItsRecipientsAlone(t *testing.T) {
	o := planOptions(t)
	operator := writeNamedFiles(t, o.ConfigDir)
	key := []byte("the key of an image, as long as such a key is")
	writeKey(t, o, "image.key", string(key))
	entry, err := lookOther(t, o, "").imageKeyEntry()
	if err != nil || entry.Name != "installer/image.key" || entry.Source == "" || entry.Mode != 0o600 {
		t.Errorf("without recipients: %+v, %v", entry, err)
	}
	entry, err = lookOther(t, o, "KEY_RECIPIENTS=( operator.asc )").imageKeyEntry()
	if err != nil || entry.Name != "installer/image-key.asc" || entry.Source != "" || bytes.Contains(entry.Data, key) {
		t.Fatalf("with a recipient: %+v, %v", entry, err)
	}
	if got := decrypted(t, operator, entry.Data); !bytes.Equal(got, key) {
		t.Errorf("the operator reads %q", got)
	}
}

func TestTheGuestIsToldWhatTheConfigurationSays(t *testing.T) {
	o := planOptions(t)
	read := func(b *Build) settings.Settings {
		t.Helper()
		text, err := b.guestSettings()
		if err != nil {
			t.Fatal(err)
		}
		s, err := settings.Decode(text)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if diff := cmp.Diff(settings.Default(), read(lookOther(t, o, ""))); diff != "" {
		t.Errorf("the shipped configuration is not the guest's default (-want +got):\n%s", diff)
	}
	got := read(lookOther(t, o, `TPM_DEVICE=/dev/tpm1 TPM_PCR=0,4,7,12,13,14 LUKS_KEY_SIZE=256 LUKS_HASH=sha256 CONSOLE_RECOVERY=yes
DYNAMIC_INTEGRITY=off KEY_ROTATION_INTERVAL=36h `+operatorKey+` KEY_RECIPIENTS=( operator.asc )
DYNAMIC_MOUNT=/srv/data PERSISTENT_PATHS=( /home ) ETC_SIZE=16M VAR_SIZE=1G
TEE_KEY_SETTINGS=( KEY_DIR=/var/lib/k KEY_ALGO=ed25519 )`))
	if n := len(got.Keys.RecoveryRecipients); n != 1 || !strings.HasPrefix(got.Keys.RecoveryRecipients[0], "-----BEGIN PGP PUBLIC KEY BLOCK-----\n") {
		t.Errorf("%d recipients", n)
	}
	got.Keys.RecoveryRecipients = nil
	want := settings.Default()
	want.EtcSize, want.VarSize = 16<<20, 1<<30
	want.Dynamic.Mount, want.Persistent = "/srv/data", []string{"/home"}
	want.Keys = settings.Keys{
		TPMDevice: "/dev/tpmrm1", PCRs: []int{0, 4, 7, 14}, LUKS: settings.LUKS{Cipher: "aes-xts-plain64", KeyBits: 256, Hash: "sha256"},
		ConsoleRecovery: true, DynamicIntegrity: "off", RotationInterval: int64(36 * time.Hour / time.Second),
		OperatorKey: strings.TrimPrefix(operatorKey, "OPERATOR_KEY="), Identity: settings.Identity{Dir: "/var/lib/k", Size: 256, Algo: "ed25519"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	for device, rm := range map[string]string{"/dev/tpm0": "/dev/tpmrm0", "/dev/tpmrm0": "/dev/tpmrm0", "/dev/tpm12": "/dev/tpmrm12", "/dev/tpmrm12": "/dev/tpmrm12"} {
		if got := read(lookOther(t, o, "TPM_DEVICE="+device)).Keys.TPMDevice; got != rm {
			t.Errorf("%s is %s, want %s", device, got, rm)
		}
	}
	if got := read(lookOther(t, o, "TPM_PCR=12")).Keys.PCRs; got == nil || len(got) != 0 {
		t.Errorf("TPM_PCR=12 gives %v", got)
	}
}

// Every key that the guest reads is one that its stage depends on.
func TestEverySettingOfTheGuestIsAnInputOfItsStage(t *testing.T) {
	o := planOptions(t)
	writeLock(t, o, section("tools"), section("image/other")) // LOCKED=yes wants one
	plain, err := lookOther(t, o, "").guestSettings()
	if err != nil {
		t.Fatal(err)
	}
	tee := stages()[slices.IndexFunc(stages(), func(s stage) bool { return s.name == "tee" })]
	for _, key := range conf.Keys() {
		text := other()[key]
		if text == "" {
			continue
		}
		got, err := lookOther(t, o, text).guestSettings()
		if err != nil {
			t.Fatal(err)
		}
		named := slices.ContainsFunc(tee.keys, func(k string) bool { return strings.Contains("\n"+text, "\n"+k+"=") })
		if !bytes.Equal(plain, got) && !named {
			t.Errorf("%s changes guest.json and the stage does not depend on it", key)
		}
	}
}

func TestThereIsACommandLineForEachKeyProfile(t *testing.T) {
	o := planOptions(t)
	for text, profiles := range map[string][]string{
		"": {"tpm", "snp"}, operatorKey: {"tpm", "snp", "attested"}, "TEE_TYPE=none": {"tpm"}, "TEE_TYPE=sev-snp": {"snp"},
		"TEE_TYPE=tdx\n" + operatorKey: {"attested"}, "TEE_TYPE=sev-snp\nKEY_PROFILE=attested\n" + operatorKey: {"attested"},
	} {
		b := lookOther(t, o, text)
		if err := os.MkdirAll(b.scratch(), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, v := range map[string]any{
			"kernel.json": kernel{Release: "6.12.0"}, "root.json": manifest.Verity{RootHash: strings.Repeat("a", 64), HashOffset: 4096},
			"app.json": manifest.Verity{RootHash: strings.Repeat("b", 64), HashOffset: 4096}, "config.json": manifest.Verity{RootHash: strings.Repeat("c", 64), HashOffset: 4096},
		} {
			if err := b.keep(name, v); err != nil {
				t.Fatal(err)
			}
		}
		m, err := b.describeImage()
		if err != nil {
			t.Fatal(err)
		}
		if m.CommandLine != m.CommandLines[profiles[0]] || len(m.CommandLines) != len(profiles) {
			t.Errorf("%q: %d command lines, the boot image has %q", text, len(m.CommandLines), m.CommandLine)
		}
		for i, line := range b.commandLines(m) {
			if line != m.CommandLines[profiles[i]] || !strings.Contains(line, ":4096 cc.keys="+profiles[i]+" root=") {
				t.Errorf("%q: line %d is not that of %s: %s", text, i, profiles[i], line)
			}
		}
	}
}

func TestTheVolumesDependOnWhatOpensThem(t *testing.T) {
	o := planOptions(t)
	b := lookOther(t, o, "")
	digests := func() map[string]string {
		t.Helper()
		facts, err := volumeKeyDigests(b)
		if err != nil {
			t.Fatal(err)
		}
		return facts
	}
	if diff := cmp.Diff(map[string]string{"image key": toBeMade}, digests()); diff != "" {
		t.Error(diff)
	}
	for _, name := range []string{"image.key", "recovery.key"} {
		writeKey(t, o, name, name+strings.Repeat("x", 40))
	}
	first := digests()
	if len(first) != 2 || len(first["image key"]) != 64 || len(first["recovery key"]) != 64 || first["image key"] == first["recovery key"] {
		t.Errorf("%v", first)
	}
	writeKey(t, o, "recovery.key", "image.key"+strings.Repeat("x", 40))
	second := digests()
	if second["image key"] != first["image key"] || second["recovery key"] == first["recovery key"] || second["recovery key"] == second["image key"] {
		t.Errorf("%v, then %v", first, second)
	}
}
