package lab_test

// What green does not prove: the guests run under emulation on QEMU's plain
// machine, with a TPM that the host emulates. No SEV-SNP, TDX or GPU silicon
// is here, Secure Boot is not enforced in these boots, and the image under test
// is the minimal profile.

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cc-base/tasks/lab"
	"cc-base/tasks/manifest"
	"cc-base/tasks/seal"
	"cc-base/tasks/sh"
	"cc-base/validation/check"
)

const ready = "cc-base: ready"

// boots is shared by the tests of this package so that its sum can be printed.
var boots lab.Boots

func TestMain(m *testing.M) {
	code := m.Run()
	if enrolment.dir != "" {
		os.RemoveAll(enrolment.dir)
	}
	fmt.Print(boots.Sum())
	os.Exit(code)
}

func contains(lines []string, part string) bool {
	for _, l := range lines {
		if strings.Contains(l, part) {
			return true
		}
	}
	return false
}

// refused fails unless the console has every one of the parts, and never the
// ready line.
func refused(t *testing.T, lines []string, parts ...string) {
	t.Helper()
	if contains(lines, ready) {
		t.Error("the guest called itself ready")
	}
	for _, p := range parts {
		if !contains(lines, p) {
			t.Errorf("the console has no line with %q", p)
		}
	}
	if t.Failed() {
		t.Log("\n" + strings.Join(lines, "\n"))
	}
}

func TestTheBuiltImageBootsToReady(t *testing.T) {
	image := lab.Built(t)
	tools, _ := lab.Tools(t, image.Out)
	lines := boots.Boot(t, tools, lab.Guest{Disk: image.Path("cc-base.qcow2"), Key: image.Path("keys", "image.key")}, ready)
	if !contains(lines, "not against the host") {
		t.Error("the console does not say what the keys protect against")
	}
}

func TestAWrongKeyIsRefused(t *testing.T) {
	image := lab.Built(t)
	tools, tmp := lab.Tools(t, image.Out)
	key := filepath.Join(tmp, "wrong.key")
	if err := os.WriteFile(key, []byte("bm90IHRoZSBrZXksIG5vdCBldmVuIG5lYXIgdG8gaXQ="), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, boots.Boot(t, tools, lab.Guest{Disk: image.Path("cc-base.qcow2"), Key: key}, ""), "cc-base: refused: CC0803")
}

func TestWithoutAKeyItIsRefused(t *testing.T) {
	image := lab.Built(t)
	tools, _ := lab.Tools(t, image.Out)
	refused(t, boots.Boot(t, tools, lab.Guest{Disk: image.Path("cc-base.qcow2")}, ""), "cc-base: refused: CC0803")
}

func TestAnExtendedCommandLineIsRefused(t *testing.T) {
	image := lab.Built(t)
	tools, _ := lab.Tools(t, image.Out)
	lines := boots.Boot(t, tools, lab.Guest{
		Disk: image.Path("cc-base.qcow2"), Key: image.Path("keys", "image.key"),
		// What a host can do without Secure Boot: systemd-stub appends it.
		OEMStrings: []string{"io.systemd.stub.kernel-cmdline-extra=quiet"},
	}, "")
	refused(t, lines, "cc-base: refused: CC0801")
}

// root returns a raw copy of the image and where its root volume's plaintext
// begins.
func root(t *testing.T, image lab.Image, tools sh.Runner, tmp string) (raw string, p manifest.Partition, data int64) {
	t.Helper()
	raw = image.Raw(t, tools, tmp)
	p, ok := image.Manifest.Disk.Partition("cc-root")
	if !ok || p.Verity == nil {
		t.Fatal("the image has no verity root")
	}
	data = p.Start
	if p.Encrypted {
		data += seal.HeaderSize
	}
	return raw, p, data
}

func TestAFlippedByteInRootDataThatTheBootReadsStopsIt(t *testing.T) {
	image := lab.Built(t)
	tools, tmp := lab.Tools(t, image.Out)
	raw, _, data := root(t, image, tools, tmp)
	lab.Flip(t, raw, data+1024) // the file system's superblock: always read
	lines := boots.Boot(t, tools, lab.Guest{Disk: raw, Key: image.Path("keys", "image.key")}, "")
	refused(t, lines, "dm-verity device corrupted")
}

func TestAFlippedByteInTheHashTreeStopsTheBoot(t *testing.T) {
	image := lab.Built(t)
	tools, tmp := lab.Tools(t, image.Out)
	raw, p, data := root(t, image, tools, tmp)
	lab.Flip(t, raw, data+p.Verity.HashOffset+seal.BlockSize) // the tree's top block, behind the superblock
	lines := boots.Boot(t, tools, lab.Guest{Disk: raw, Key: image.Path("keys", "image.key")}, "")
	refused(t, lines, "dm-verity device corrupted")
}

func TestReadingAllOfAnUntouchedImageFindsNothing(t *testing.T) {
	image := lab.Built(t)
	tools, tmp := lab.Tools(t, image.Out)
	raw := image.Raw(t, tools, tmp)
	image.WithCommandLine(t, tools, raw, image.Manifest.CommandLine+" cc.readall=1")
	lines := boots.Boot(t, tools, lab.Guest{Disk: raw, Key: image.Path("keys", "image.key")}, ready)
	if !contains(lines, "bytes match") {
		t.Errorf("the guest did not read its volumes:\n%s", strings.Join(lines, "\n"))
	}
}

// The byte lies in a block that a plain boot may never touch; the read that
// meets it must fail all the same.
func TestAFlippedByteElsewhereFailsTheReadThatMeetsIt(t *testing.T) {
	image := lab.Built(t)
	tools, tmp := lab.Tools(t, image.Out)
	raw, p, data := root(t, image, tools, tmp)
	image.WithCommandLine(t, tools, raw, image.Manifest.CommandLine+" cc.readall=1")
	lab.Flip(t, raw, data+p.Verity.HashOffset/2)
	lines := boots.Boot(t, tools, lab.Guest{Disk: raw, Key: image.Path("keys", "image.key")}, "")
	if !contains(lines, "dm-verity device corrupted") {
		t.Errorf("nothing noticed the byte:\n%s", strings.Join(lines, "\n"))
	}
	refused(t, lines)
}

// The way a user goes: unpack the tarball, run its install.sh on a disk, boot
// that disk. The disk is a file, as large as a small real one.
func TestWhatTheInstallerWritesBoots(t *testing.T) {
	boots.LongOnly(t) // the short mode has the installer's own boots, under libvirt
	image := lab.Built(t)
	tools, tmp := lab.Tools(t, image.Out)
	if out, err := exec.Command("tar", "-C", tmp, "-xzf", image.Path("nvidia-cc-installer.tar.gz")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	target := filepath.Join(tmp, "target.raw")
	if err := os.WriteFile(target, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(target, 4<<30); err != nil {
		t.Fatal(err)
	}
	install := filepath.Join(tmp, "installer", "install.sh")
	path := lab.OnPath(t, tools, "cryptsetup") + string(os.PathListSeparator) + os.Getenv("PATH")
	for _, args := range [][]string{{target, "--disk-only", "--allow-file", "--allow-plain", "--yes"}, {"--verify", target, "--allow-file"}} {
		cmd := exec.Command(install, args...)
		cmd.Env = append(os.Environ(), "CC_STATE_DIR="+filepath.Join(tmp, "state"), "PATH="+path)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("install.sh %v: %v\n%s", args, err, out)
		}
	}
	// The shipped image's key opens nothing there.
	refused(t, boots.Boot(t, tools, lab.Guest{Disk: target, Key: filepath.Join(tmp, "installer", "image.key")}, ""), "cc-base: refused: CC0803")
	boots.Boot(t, tools, lab.Guest{Disk: target, Key: filepath.Join(tmp, "state", "cc-base", "enroll.key")}, ready)
}

func TestMageVMShowsTheConsoleOfTheBuiltImage(t *testing.T) { mageVM(t, "vm") }

func TestMageVMStartsTheBuiltImageUnderSecureBoot(t *testing.T) {
	boots.LongOnly(t)
	seen := mageVM(t, "vm", "-secureBoot")
	if contains(seen, accessDenied) {
		t.Error("the firmware refused something on the way")
	}
	if !contains(seen, "UEFI Secure Boot is enabled") {
		t.Errorf("the kernel did not see Secure Boot:\n%s", strings.Join(seen, "\n"))
	}
}

// The way a user goes on test hardware: one command boots what was built, asks
// the guest, and says what passed.
func TestMageValidateChecksTheBuiltImageInABoot(t *testing.T) {
	boots.LongOnly(t)
	image := lab.Built(t)
	done := boots.Count(t)
	defer done()
	cmd := exec.Command("go", "tool", "mage", "validate", "-format=json")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CC_PROFILE=minimal", "CC_OUT_DIR="+image.Out)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var report check.Report
	if err != nil || json.Unmarshal(out, &report) != nil {
		t.Fatalf("%v\n%s%s", err, out, stderr.String())
	}
	ran := map[check.Where]int{}
	for _, r := range report.Results {
		if r.Status == check.Pass {
			ran[r.Where]++
		}
	}
	if report.Failed() || ran[check.Host] == 0 || ran[check.Guest] < 50 || ran[check.VM] == 0 {
		t.Errorf("passed: %v\n%s", ran, out)
	}
}

// mageVM runs the target until the machine is ready, ends it as a user at a
// terminal does and returns what it showed.
func mageVM(t *testing.T, target ...string) []string {
	t.Helper()
	image := lab.Built(t)
	done := boots.Count(t)
	defer done()
	cmd := exec.Command("go", append([]string{"tool", "mage"}, target...)...)
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CC_PROFILE=minimal", "CC_OUT_DIR="+image.Out)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	limit := time.AfterFunc(6*time.Minute, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer limit.Stop()
	var seen []string
	found := false
	lines := bufio.NewScanner(stdout)
	for !found && lines.Scan() {
		seen = append(seen, lines.Text())
		found = strings.Contains(lines.Text(), ready)
	}
	if !found {
		t.Errorf("no ready line on standard output:\n%s", strings.Join(seen, "\n"))
	}
	// Ctrl-C on a terminal reaches the whole group.
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
	}
	_ = cmd.Wait()
	return seen
}
