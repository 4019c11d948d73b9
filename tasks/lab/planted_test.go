package lab_test

// A writable volume that the host has made and can read, offered to a guest
// that must not write into it.
//
// What green does not prove: the processor is a test's own, as the measured
// mark cc.test=1 says. That a volume of the guest's own is taken is shown where
// keys are enrolled and released.

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cc-base/overlays/cc-guest/settings"
	"cc-base/tasks/lab"
	"cc-base/tasks/release/operator"
)

// plants are the three ways in that a host can know.
func plants() []struct{ name, token string } {
	return []struct{ name, token string }{
		{"the secret of the installation", ""},
		{"a recovery key", `{"type":"systemd-recovery","keyslots":["0"]}`},
		{"its own TPM", `{"type":"systemd-tpm2","keyslots":["0"],"tpm2-blob":"","tpm2-pcrs":[],"tpm2-policy-hash":""}`},
	}
}

const plantedUUID = "9a3c0b52-7d5e-4a55-8c0e-0d5a41c7d1f2"

// plant makes a volume that opens with the secret of the installation, or
// carries the token, in place of the machine's own.
func (i installed) plant(t *testing.T, token string) {
	t.Helper()
	file := filepath.Join(i.tmp, "planted")
	if err := os.WriteFile(file, make([]byte, 2*headerSize), 0o600); err != nil {
		t.Fatal(err)
	}
	i.cryptsetup(t, []string{i.imageKey(t)}, "", "luksFormat", "--type=luks2", "--cipher=aes-xts-plain64", "--key-size=512", "--hash=sha512",
		"--sector-size=4096", "--uuid="+plantedUUID, "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", "--key-file=/proc/self/fd/3", file)
	if token != "" {
		i.cryptsetup(t, nil, token, "token", "import", "--json-file=-", file)
	}
	i.put(t, "cc-dynamic", file)
}

func noIntegrity(s *settings.Settings) { s.Keys.DynamicIntegrity = "off" }

func TestAPlantedVolumeIsRefusedBySNP(t *testing.T) {
	for n, p := range plants() {
		t.Run(strings.ReplaceAll(p.name, " ", "-"), func(t *testing.T) {
			if n > 0 {
				boots.LongOnly(t)
			}
			m := install(t)
			m.withTestBuild(t, "snp", noIntegrity, nil)
			m.plant(t, p.token)
			m.refused(t, m.first(), "cc-base: refused: CC0812", "cc-dynamic")
		})
	}
}

func TestAPlantedVolumeIsRefusedWhereAnOperatorReleasesKeys(t *testing.T) {
	boots.LongOnly(t)
	for _, p := range plants() {
		t.Run(strings.ReplaceAll(p.name, " ", "-"), func(t *testing.T) {
			a := installAttested(t)
			a.plant(t, p.token)
			first := a.first()
			// The operator knows the machine: it has served it before.
			store, err := operator.OpenFolder(a.path("store"))
			if err == nil {
				_, err = store.Enrol(plantedUUID)
			}
			if err != nil {
				t.Fatal(err)
			}
			result := a.service(t, first)
			a.refused(t, first, "cc-base: refused: CC0812", "cc-dynamic")
			if out, err := result(); err != nil {
				t.Errorf("cc-install release: %v\n%s", err, out)
			}
		})
	}
}

func TestASNPMachineEnrolsAndComesBack(t *testing.T) {
	boots.LongOnly(t)
	m := install(t)
	// As such a machine is started: kernel, initrd and command line from the
	// host, under firmware that holds them against the launch digest.
	uki, line := m.withTestBuild(t, "snp", noIntegrity, nil)
	m.guest.Kernel, m.guest.Initrd = lab.Direct(t, uki, m.tmp)
	m.guest.Append = line
	m.boot(t, m.first(), nil)
	lines := m.boot(t, m.guest, nil)
	if !contains(lines, "profile snp: cc-root machine, cc-app machine, cc-config none, cc-dynamic machine") {
		t.Error("the second boot did not unlock by itself")
	}
}

func TestATestBuildStartsNothingWithoutItsMark(t *testing.T) {
	boots.LongOnly(t)
	m := install(t)
	m.image.WithInitrdFiles(t, m.tools, m.guest.Disk, "", map[string][]byte{"usr/lib/cc/cc-guest": testProgram(t, m)})
	m.refused(t, m.first(), "cc-base: refused: CC0801")
	// And the shipped program nothing with it.
	g := m.first()
	g.Dir = lab.ShortDir(t)
	m.image.WithCommandLine(t, m.tools, m.guest.Disk, m.image.Manifest.CommandLine+" cc.test=1")
	m.refused(t, g, "cc-base: refused: CC0801")
}
