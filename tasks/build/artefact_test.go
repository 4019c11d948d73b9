package build_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/boot"
	"cc-base/tasks/filetest"
	"cc-base/tasks/lab"
	"cc-base/tasks/measurements"
	"cc-base/tasks/sh"
	"cc-base/tasks/tpm"
)

// The independent second opinion: what other people's tools say of the image
// that was built.
func TestOtherPeoplesToolsAcceptTheImage(t *testing.T) {
	image := lab.Built(t)
	tools, tmp := lab.Tools(t, image.Out)
	ctx := t.Context()
	raw := image.Raw(t, tools, tmp)
	run := func(t *testing.T, name string, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		if err := tools.Run(ctx, sh.Cmd{Name: name, Args: args, Stdout: &out}); err != nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
		return out.String()
	}
	t.Run("qemu-img check", func(t *testing.T) {
		run(t, "qemu-img", "check", image.Path("cc-base.qcow2"))
	})
	t.Run("sgdisk -v", func(t *testing.T) {
		if out := run(t, "sgdisk", "-v", raw); !strings.Contains(out, "No problems found") {
			t.Error(out)
		}
	})
	t.Run("sbverify", func(t *testing.T) {
		run(t, "sbverify", "--cert", image.Path("keys", "secureboot", "db.crt"), image.Path("cc-base.efi"))
	})
	t.Run("fsck.vfat", func(t *testing.T) {
		esp := filepath.Join(tmp, "esp")
		if _, err := image.Extract(raw, "cc-esp", esp); err != nil {
			t.Fatal(err)
		}
		run(t, "fsck.vfat", "-n", esp)
		copied := filepath.Join(tmp, "copied.efi")
		run(t, "mcopy", "-i", esp, "::EFI/BOOT/BOOTX64.EFI", copied)
		if !same(t, copied, image.Path("cc-base.efi")) {
			t.Error("the ESP does not hold cc-base.efi")
		}
	})
	for _, label := range []string{"cc-root", "cc-app", "cc-config"} {
		t.Run(label, func(t *testing.T) {
			volume := filepath.Join(tmp, label)
			p, err := image.Extract(raw, label, volume)
			if err != nil {
				t.Fatal(err)
			}
			if p.Encrypted {
				dump := run(t, "cryptsetup", "luksDump", volume)
				want := 1
				if _, err := os.Stat(image.Path("keys", "recovery.key")); err == nil {
					want++
				}
				if slots := strings.Count(dump, ": luks2\n"); slots != want {
					t.Errorf("%d keyslots, want %d:\n%s", slots, want, dump)
				}
				run(t, "cryptsetup", "reencrypt", "--decrypt", "--force-offline-reencrypt", "--disable-locks", "--batch-mode",
					"--header", volume+".header", "--key-file", image.Path("keys", "image.key"), volume)
			}
			if p.Verity == nil {
				t.Fatal("no verity")
			}
			offset := []string{"--hash-offset", itoa(p.Verity.HashOffset), volume, volume}
			run(t, "veritysetup", append([]string{"verify"}, append(offset, p.Verity.RootHash)...)...)
			if err := os.Truncate(volume, p.Verity.HashOffset); err != nil {
				t.Fatal(err)
			}
			run(t, "fsck.erofs", volume)
		})
	}
}

func TestTheBootImageHoldsTheKeyThatSignedItsMeasurement(t *testing.T) {
	image := lab.Built(t)
	uki := filetest.Read(t, image.Path("cc-base.efi"))
	sections, err := boot.Sections(uki)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(sections[".pcrpkey"], filetest.Read(t, image.Path("keys", "pcr", "pcr.pub"))) {
		t.Error(".pcrpkey is not the build's key")
	}
	key, _, err := boot.LoadOrMakePCRKey(image.Path("keys", "pcr"))
	if err != nil {
		t.Fatal(err)
	}
	measured, err := boot.PCR11(uki, boot.PCRPhase)
	if err != nil {
		t.Fatal(err)
	}
	signatures, err := tpm.SignPCR11(key.Private, measured)
	if err != nil {
		t.Fatal(err)
	}
	if want, err := signatures.Encode(); err != nil || !bytes.Equal(sections[".pcrsig"], want) {
		t.Errorf(".pcrsig is not the signature of what is measured, %v", err)
	}
	m := image.Manifest
	if len(m.CommandLines) == 0 || string(sections[".cmdline"]) != m.CommandLine {
		t.Errorf("%d command lines; .cmdline is %q", len(m.CommandLines), sections[".cmdline"])
	}
	for profile, line := range m.CommandLines {
		if !bytes.Contains(sections[".initrd"], []byte(line)) {
			t.Errorf("the initrd does not hold the command line of %s", profile)
		}
	}
}

func itoa(n int64) string {
	data, _ := json.Marshal(n)
	return string(data)
}

// installerFiles is exactly what the tarball holds. Firmware for confidential
// guests is among it where the build could have it.
func installerFiles(image lab.Image) []string {
	files := []string{
		"SHA256SUMS", "cc-base.efi", "cc-base.qcow2", "cc-install",
		"config/apps.conf", "config/os.conf", "config/partition.conf", "config/qemu.conf", "config/security.conf", "config/tee.conf",
		"firmware/OVMF_CODE_4M.fd", "firmware/OVMF_VARS_4M.fd", "firmware/OVMF_CODE_4M.secboot.fd", "firmware/OVMF_VARS_4M.cc-base.fd", "image.key", "install.sh", "manifest.json", "measurements.json", "rvps.json", "sbom.cdx.json", "sbom.spdx.json", "validate.sh",
		"secureboot/PK.crt", "secureboot/KEK.crt", "secureboot/db.crt",
		"validation/common.sh", "validation/test_03_device.sh", "validation/test_04_keys.sh", "validation/test_05_cc_apps.sh", "validation/test_06_partition.sh",
	}
	for _, name := range []string{measurements.SNPFirmware, measurements.TDXFirmware} {
		if _, err := os.Stat(image.Path("scratch", name)); err == nil {
			files = append(files, name)
			if name == measurements.TDXFirmware {
				files = append(files, measurements.TDXEnrolled)
			}
		}
	}
	for i := range files {
		files[i] = "installer/" + files[i]
	}
	slices.Sort(files)
	return files
}

func TestTheInstallerHoldsExactlyItsFilesAndNoEmptyOne(t *testing.T) {
	image := lab.Built(t)
	var got []string
	filetest.EachInTar(t, filetest.Gunzip(t, image.Path("nvidia-cc-installer.tar.gz")), func(h *tar.Header, _ io.Reader) {
		if h.Typeflag == tar.TypeDir {
			return
		}
		got = append(got, h.Name)
		if h.Size == 0 {
			t.Errorf("%s is empty", h.Name)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.ModTime.Unix() != image.Manifest.SourceDateEpoch {
			t.Errorf("%s: owner %d:%d %q, time %d", h.Name, h.Uid, h.Gid, h.Uname, h.ModTime.Unix())
		}
	})
	slices.Sort(got)
	if d := cmp.Diff(installerFiles(image), got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

func TestChecksumAndSignatureAreAcceptedByTheUsersTools(t *testing.T) {
	image := lab.Built(t)
	tools, tmp := lab.Tools(t, image.Out)
	tarball := image.Path("nvidia-cc-installer.tar.gz")
	do := func(c sh.Cmd) error {
		c.Env = append(c.Env, "GNUPGHOME="+tmp)
		return tools.Run(context.Background(), c)
	}
	if err := do(sh.Cmd{Name: "sha256sum", Args: []string{"-c", filepath.Base(tarball) + ".sha256"}, Dir: image.Out}); err != nil {
		t.Error(err)
	}
	if err := do(sh.Cmd{Name: "gpg", Args: []string{"--batch", "--import", image.Path("keys", "signing-key.asc")}}); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{tarball, image.Path("measurements.json"), image.Path("rvps.json")} {
		if err := do(sh.Cmd{Name: "gpg", Args: []string{"--batch", "--verify", file + ".asc", file}}); err != nil {
			t.Error(err)
		}
	}
}

func TestTheUnpackedInstallerChecksItself(t *testing.T) {
	image := lab.Built(t)
	dir := unpack(t, image)
	if out, err := exec.Command("sh", "-c", "cd \"$1\" && sha256sum -c --quiet SHA256SUMS", "sh", dir).CombinedOutput(); err != nil {
		t.Errorf("SHA256SUMS: %v\n%s", err, out)
	}
	for _, script := range []string{"validation/test_04_keys.sh", "validation/test_05_cc_apps.sh", "validation/test_06_partition.sh"} {
		if out, err := exec.Command(filepath.Join(dir, script)).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
	}
	out, err := exec.Command(filepath.Join(dir, "validate.sh"), "--json", "bundle", "keys", "apps", "partition", "measurements").Output()
	if err != nil {
		t.Fatalf("validate.sh: %v\n%s", err, out)
	}
	if !json.Valid(out) {
		t.Errorf("not JSON: %s", out)
	}
}

// The image tells nothing of the machine that built it.
func TestNoPathOfTheBuildMachineIsInWhatIsShipped(t *testing.T) {
	image := lab.Built(t)
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"scratch/root.tar", "cc-base.efi", "scratch/cc-install", "sbom.cdx.json", "sbom.spdx.json", "manifest.json", "measurements.json", "rvps.json"} {
		data, err := os.ReadFile(image.Path(f))
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{repo + "/", image.Out + "/", "/root/go/", os.Getenv("HOME") + "/go/"} {
			if bytes.Contains(data, []byte(secret)) {
				t.Errorf("%s holds %s", f, secret)
			}
		}
	}
}

func unpack(t *testing.T, image lab.Image) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("tar", "-C", dir, "-xzf", image.Path("nvidia-cc-installer.tar.gz")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return filepath.Join(dir, "installer")
}
