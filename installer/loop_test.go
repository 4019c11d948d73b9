package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"cc-base/tasks/fault"
)

// loopDevice makes a loop device over a used disk, or skips where this user or
// this kernel cannot.
func loopDevice(t *testing.T, mib int, options ...string) (device, file string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a loop device needs root; the scripts install to files")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip("no loop devices here: ", err)
	}
	if _, err := exec.LookPath("losetup"); err != nil {
		t.Skip("losetup is not installed")
	}
	file = filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, bytes.Repeat([]byte{used}, mib<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", append(options, "-f", "--show", file)...).Output()
	if err != nil {
		t.Skip("losetup does not work here: ", err)
	}
	device = strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "-d", device).CombinedOutput(); err != nil {
			t.Errorf("losetup -d %s: %s", device, out)
		}
	})
	return device, file
}

// unchanged wants the disk as [loopDevice] made it.
func unchanged(t *testing.T, file string) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Count(raw, []byte{used}) != len(raw) {
		t.Error("the disk was written to")
	}
}

// installer writes an installer folder.
func installer(t *testing.T) string {
	t.Helper()
	f, err := folder()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := f.Write(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestInstallToALoopDevice(t *testing.T) {
	t.Parallel()
	device, file := loopDevice(t, 32)
	dir := installer(t)

	a, out := inProcess(os.DirFS("/"), filepath.Base(device)+"\n", true)
	if err := a.run(t.Context(), []string{"install", device, "--dir", dir, "--state", filepath.Join(dir, "state")}); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	a, out = inProcess(os.DirFS("/"), "", false)
	if err := a.run(t.Context(), []string{"verify", device, "--dir", dir, "--state", filepath.Join(dir, "state")}); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(out.String(), "installed and unchanged") {
		t.Errorf("output:\n%s", out)
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("x"), 3<<20+100_000); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	dropCache(t, device)
	a, out = inProcess(os.DirFS("/"), "", false)
	if err := a.run(t.Context(), []string{"verify", device, "--dir", dir, "--state", filepath.Join(dir, "state")}); fault.Exit(err) != fault.ExitFailed {
		t.Errorf("a flipped byte: error %v\n%s", err, out)
	}
}

func dropCache(t *testing.T, device string) {
	t.Helper()
	d, err := os.Open(device)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := unix.IoctlSetInt(int(d.Fd()), unix.BLKFLSBUF, 0); err != nil {
		t.Fatal(err)
	}
}

func TestADeviceThatIsNotATarget(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		options []string
		prepare func(t *testing.T, device string)
		want    string
	}{
		{"read-only", []string{"-r"}, nil, "read-only"},
		{"4096-byte sectors", []string{"-b", "4096"}, nil, "sectors have 4096 bytes"},
		{"opened exclusively by another program", nil, func(t *testing.T, device string) {
			f, err := os.OpenFile(device, os.O_RDONLY|unix.O_EXCL, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
		}, "exclusive use"},
	}
	dir := installer(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			device, file := loopDevice(t, 32, test.options...)
			if test.prepare != nil {
				test.prepare(t, device)
			}
			for _, command := range [][]string{{"install", "--yes"}, {"plan"}, {"verify"}} {
				a, out := inProcess(os.DirFS("/"), "", false)
				err := a.run(t.Context(), append(command, device, "--dir", dir, "--state", t.TempDir()))
				if fault.Exit(err) != fault.ExitUnsafe || !strings.Contains(err.Error(), test.want) {
					t.Errorf("%v: error %v, want one with %q\n%s", command, err, test.want, out)
				}
			}
			unchanged(t, file)
		})
	}
}

func TestAMountedDeviceIsRefused(t *testing.T) {
	t.Parallel()
	device, _ := loopDevice(t, 32)
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		t.Skip("mkfs.ext4 is not installed")
	}
	if out, err := exec.Command(mkfs, "-q", "-F", device).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	point := t.TempDir()
	if err := syscall.Mount(device, point, "ext4", 0, ""); err != nil {
		t.Skip("mounting is not allowed here: ", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(point, 0); err != nil {
			t.Error(err)
		}
	})
	dir := installer(t)
	before := sample(t, device)
	a, out := inProcess(os.DirFS("/"), "", false)
	err = a.run(t.Context(), []string{"install", device, "--yes", "--dir", dir, "--state", filepath.Join(dir, "state")})
	if fault.Exit(err) != fault.ExitUnsafe || !strings.Contains(err.Error(), "mounted at "+point) {
		t.Errorf("error %v\n%s", err, out)
	}
	if sample(t, device) != before {
		t.Error("the device was written to")
	}
}

// sample returns the first MiB, where an installer would write first.
func sample(t *testing.T, device string) string {
	t.Helper()
	f, err := os.Open(device)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1<<20)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestTheNameMustBeTypedBack(t *testing.T) {
	t.Parallel()
	device, file := loopDevice(t, 32)
	dir := installer(t)
	for _, answer := range []string{"", "\n", "yes\n", "loop\n", filepath.Base(device)} {
		a, out := inProcess(os.DirFS("/"), answer, true)
		if err := a.run(t.Context(), []string{"install", device, "--dir", dir, "--state", filepath.Join(dir, "state")}); fault.Exit(err) != fault.ExitUsage {
			t.Errorf("answer %q: error %v\n%s", answer, err, out)
		}
	}
	unchanged(t, file)
}

func TestAHostWithoutTEE(t *testing.T) {
	t.Parallel()
	f, err := folder()
	if err != nil {
		t.Fatal(err)
	}
	dir, disk := t.TempDir(), filepath.Join(t.TempDir(), "disk")
	f.Files["config/tee.conf"] = []byte("TEE_TYPE=\"auto\"\n")
	if err := errors.Join(f.Write(dir), os.WriteFile(disk, bytes.Repeat([]byte{used}, 20<<20), 0o600)); err != nil {
		t.Fatal(err)
	}
	empty := os.DirFS(t.TempDir())
	a, _ := inProcess(empty, "", false)
	err = a.run(t.Context(), []string{"install", disk, "--yes", "--allow-file", "--dir", dir, "--state", filepath.Join(dir, "state")})
	if fault.Exit(err) != fault.ExitUnsupported {
		t.Errorf("error %v", err)
	}
	unchanged(t, disk)
	a, out := inProcess(empty, "", false)
	if err := a.run(t.Context(), []string{"install", disk, "--yes", "--allow-file", "--allow-plain", "--dir", dir, "--state", filepath.Join(dir, "state")}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "will NOT be protected against the host") {
		t.Errorf("no warning in:\n%s", out)
	}
}

func TestInterruptedWhileWriting(t *testing.T) {
	t.Parallel()
	dir, disk := installer(t), filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, bytes.Repeat([]byte{used}, 20<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	a, _ := inProcess(os.DirFS("/"), "", false)
	a.err = cancelOn{cancel, "writing"}
	err := a.run(ctx, []string{"install", disk, "--yes", "--allow-file", "--dir", dir, "--state", filepath.Join(dir, "state")})
	if fault.Exit(err) != fault.ExitFailed || !strings.Contains(fault.Render(err), "holds no valid installation") {
		t.Errorf("error %v", err)
	}
	a, out := inProcess(os.DirFS("/"), "", false)
	err = a.run(t.Context(), []string{"verify", disk, "--dir", dir, "--state", filepath.Join(dir, "state")})
	if err == nil || !strings.Contains(out.String(), "no cc-base on it") {
		t.Errorf("error %v\n%s", err, out)
	}
}

// cancelOn cancels at the first line that holds a word.
type cancelOn struct {
	cancel context.CancelFunc
	word   string
}

func (c cancelOn) Write(p []byte) (int, error) {
	if strings.Contains(string(p), c.word) {
		c.cancel()
	}
	return len(p), nil
}

func TestQuoting(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"/dev/sda": "/dev/sda", "a b": "'a b'", "it's": `'it'\''s'`, "": "''", "$HOME": "'$HOME'"} {
		if got := quote(in); got != want {
			t.Errorf("quote(%q) = %s, want %s", in, got, want)
		}
		if in == "" {
			continue
		}
		if out, err := exec.Command("sh", "-c", "printf %s "+quote(in)).Output(); err != nil || string(out) != in {
			t.Errorf("a shell makes %q of %s", out, quote(in))
		}
	}
	if got := comma("/a,b"); got != "/a,,b" {
		t.Error(got)
	}
	if got := fmt.Sprint(human(0), " ", human(999), " ", human(1500), " ", human(480_000_000_000)); got != "0 B 999 B 1.5 kB 480.0 GB" {
		t.Error(got)
	}
}
