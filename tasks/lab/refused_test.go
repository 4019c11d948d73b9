package lab_test

// Machines that must not open their volumes. Each ends by itself, without the
// ready line, with the code of its own reason.
//
// What green does not prove: these are the ways that were thought of.

import (
	"context"
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cc-base/overlays/cc-guest/settings"
	"cc-base/tasks/boot"
	"cc-base/tasks/lab"
	"cc-base/tasks/sh"
	"cc-base/tasks/tpm/tpmtest"
)

const headerSize = 16 << 20 // of a LUKS2 volume of ours, bytes

func TestATPMInWhichNothingWasMeasuredIsRefused(t *testing.T) {
	image := lab.Built(t)
	tools, tmp := lab.Tools(t, image.Out)
	kernel, initrd := lab.Direct(t, image.Path("cc-base.efi"), tmp)
	refused(t, boots.Boot(t, tools, lab.Guest{
		Disk: image.Path("cc-base.qcow2"), Key: image.Path("keys", "image.key"),
		Kernel: kernel, Initrd: initrd, Append: image.Manifest.CommandLine, BIOS: lab.QBoot,
	}, ""), "cc-base: refused: CC0811")
}

func TestATPMWithoutASHA256BankIsRefused(t *testing.T) {
	boots.LongOnly(t)
	m := install(t)
	g := m.first()
	g.PCRBanks = []string{"sha384"}
	m.refused(t, g, "cc-base: refused: CC0811")
}

func TestAnotherSecureBootStateIsRefused(t *testing.T) {
	boots.LongOnly(t)
	m := install(t)
	first := m.first()
	first.SecureBoot, first.Vars = true, enrolledVars(t, m.image, m.tools, m.tmp)
	m.boot(t, first, nil)
	// The same machine and firmware, whose variables were emptied.
	later := m.guest
	later.SecureBoot = true
	if err := os.Remove(filepath.Join(m.guest.Dir, "vars.fd")); err != nil {
		t.Fatal(err)
	}
	m.refused(t, later, "cc-base: refused: CC0810", "PCR 7")
}

func TestABootImageOfAnotherMakerGetsNoKey(t *testing.T) {
	boots.LongOnly(t)
	m := enrolled(t)
	// Without Secure Boot the firmware starts it. Its PCR 11 has no signature
	// that the volumes accept.
	key, _, err := boot.LoadOrMakePCRKey(filepath.Join(m.tmp, "foreign"))
	if err != nil {
		t.Fatal(err)
	}
	m.image.WithBootImage(t, m.tools, m.guest.Disk, lab.BootImage{Build: func(ctx context.Context, tools sh.Runner, u boot.UKI, out string) error {
		image, err := boot.BuildMeasured(ctx, tools, u, key, out)
		if err != nil {
			return err
		}
		return os.WriteFile(out, image, 0o600)
	}})
	m.refused(t, m.guest, "cc-base: refused: CC0810")
}

func TestAnImageWithOneByteChangedIsRefusedByTheFirmware(t *testing.T) {
	boots.LongOnly(t)
	m := install(t)
	uki, err := os.ReadFile(m.image.Path("cc-base.efi"))
	if err != nil {
		t.Fatal(err)
	}
	uki[len(uki)/2] ^= 1
	changed := filepath.Join(m.tmp, "changed.efi")
	if err := os.WriteFile(changed, uki, 0o600); err != nil {
		t.Fatal(err)
	}
	m.image.PutUKI(t, m.tools, m.guest.Disk, changed)
	refusedByFirmware(t, m.image, m.tools, m.guest.Disk, m.tmp)
}

// systemd-stub takes the addition from the host's tables whether Secure Boot is on
// or not, but in a confidential VM (src/boot/stub.c of systemd 257).
func TestAnExtendedCommandLineIsRefusedUnderSecureBootToo(t *testing.T) {
	boots.LongOnly(t)
	m := install(t)
	g := m.first()
	g.SecureBoot, g.Vars = true, enrolledVars(t, m.image, m.tools, m.tmp)
	g.OEMStrings = []string{"io.systemd.stub.kernel-cmdline-extra=quiet"}
	m.refused(t, g, "cc-base: refused: CC0801")
}

func TestANullCipherIsRefused(t *testing.T) {
	m := enrolled(t)
	file := filepath.Join(m.tmp, "null")
	if err := os.WriteFile(file, make([]byte, 2*headerSize), 0o600); err != nil {
		t.Fatal(err)
	}
	m.cryptsetup(t, []string{m.imageKey(t)}, "", "luksFormat", "--type=luks2", "--cipher=aes-xts-plain64", "--key-size=512", "--sector-size=4096",
		"--hash=sha512", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", "--key-file=/proc/self/fd/3", file)
	// What the guest would write into such a volume, the host could read
	// (CVE-2025-59054).
	reword(t, file, `"encryption":"aes-xts-plain64","sector_size"`, `"encryption":"cipher_null-ecb","sector_size"`)
	m.put(t, "cc-dynamic", file)
	m.refused(t, m.guest, "cc-base: refused: CC0902", "cc-dynamic")
}

// reword replaces a text in both copies of a LUKS2 header's metadata and makes
// their checksums right again (LUKS2 On-Disk Format Specification, 2.1).
func reword(t *testing.T, file, from, to string) {
	t.Helper()
	const copySize, binarySize, sumAt, sumSize = 16 << 10, 4096, 448, 64
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < 2*copySize; at += copySize {
		one := data[at : at+copySize]
		text := strings.TrimRight(string(one[binarySize:]), "\x00")
		if strings.Count(text, from) != 1 {
			t.Fatalf("the metadata has %q not once:\n%s", from, text)
		}
		text = strings.Replace(text, from, to, 1)
		clear(one[binarySize:])
		copy(one[binarySize:], text)
		clear(one[sumAt : sumAt+sumSize])
		sum := sha256.Sum256(one)
		copy(one[sumAt:], sum[:])
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestExchangedVolumesAreRefused(t *testing.T) {
	boots.LongOnly(t)
	m := enrolled(t)
	root, app := filepath.Join(m.tmp, "root"), filepath.Join(m.tmp, "app")
	m.take(t, "cc-root", headerSize, root)
	m.take(t, "cc-app", headerSize, app)
	m.put(t, "cc-root", app)
	m.put(t, "cc-app", root)
	m.refused(t, m.guest, "cc-base: refused: CC0815")
}

func TestATokenOfAnotherTPMsRootKeyIsRefused(t *testing.T) {
	boots.LongOnly(t)
	m := enrolled(t)
	other := m.guest
	other.Dir = lab.ShortDir(t)
	// A TPM that has served another machine, and so has a root key of its own.
	state := filepath.Join(other.Dir, "tpm")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	socket, stop := tpmtest.StartState(t, state)
	device := tpmtest.Dial(t, socket)
	_, err := device.EnsureSRK()
	if err != nil {
		t.Fatal(err)
	}
	device.Close()
	stop()
	m.refused(t, other, "cc-base: refused: CC0809")
}

// recoverable gives the volumes of a machine that was never switched on a
// recovery key, which may be typed at its console.
func recoverable(t *testing.T) (m installed, key string) {
	t.Helper()
	m = install(t)
	key = strings.Repeat("cbdefghi-", 7) + "jklnrtuv"
	for _, label := range []string{"cc-root", "cc-app"} {
		file := filepath.Join(m.tmp, label)
		m.take(t, label, headerSize, file)
		m.cryptsetup(t, []string{m.imageKey(t), key}, "", "luksAddKey", "--new-key-slot=1", "--hash=sha512",
			"--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", "--key-file=/proc/self/fd/3", file, "/proc/self/fd/4")
		m.cryptsetup(t, nil, `{"type":"systemd-recovery","keyslots":["1"]}`, "token", "import", "--json-file=-", file)
		m.put(t, label, file)
	}
	m.withSettings(t, func(s *settings.Settings) { s.Keys.ConsoleRecovery = true })
	return m, key
}

func TestTheRecoveryKeyOpensTheDiskWhereTheTPMCannot(t *testing.T) {
	boots.LongOnly(t)
	m, key := recoverable(t)
	m.boot(t, m.first(), nil)
	// The disk in another machine; what its writable volume held is lost.
	moved := m.guest
	moved.Dir = lab.ShortDir(t)
	blank := filepath.Join(m.tmp, "blank")
	if err := os.WriteFile(blank, make([]byte, headerSize), 0o600); err != nil {
		t.Fatal(err)
	}
	m.put(t, "cc-dynamic", blank)
	moved.Answers = []lab.Answer{{Question: "cc-root: recovery key (1 of 3)", Text: strings.ToUpper(strings.ReplaceAll(key, "-", ""))}}
	lines := m.boot(t, moved, nil)
	if !contains(lines, "cc-root recovery, cc-app recovery, cc-config none, cc-dynamic made") {
		t.Error("the console does not say that the recovery key was used")
	}
	for _, l := range lines {
		if strings.Contains(strings.ToLower(l), "cbdefghi") {
			t.Error("the console shows what was typed")
		}
	}
}

func TestAWrongRecoveryKeyThreeTimesEndsTheMachine(t *testing.T) {
	boots.LongOnly(t)
	m, _ := recoverable(t)
	g := m.guest
	for _, n := range []string{"1", "2", "3"} {
		g.Answers = append(g.Answers, lab.Answer{Question: "cc-root: recovery key (" + n + " of 3)", Text: strings.Repeat("vvvvvvvv-", 7) + "vvvvvvv" + "cbd"[len(g.Answers):][:1]})
	}
	m.refused(t, g, "cc-base: refused: CC0813")
}
