package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cc-base/tasks/fault"
	"cc-base/tasks/hw/hwtest"
)

var making sync.Mutex

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
	// Two at once may open the same free device, and the slower one is then seen
	// as a program that uses it.
	making.Lock()
	out, err := exec.Command("losetup", append(options, "-f", "--show", file)...).Output()
	making.Unlock()
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
	if err := a.run(t.Context(), []string{"install", "--disk-only", device, "--dir", dir, "--state", filepath.Join(dir, "state")}); err != nil {
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
			for _, command := range [][]string{{"install", "--disk-only", "--yes"}, {"plan", "--disk-only"}, {"verify"}} {
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
	point := ext4(t, device)
	dir := installer(t)
	before := sample(t, device)
	a, out := inProcess(os.DirFS("/"), "", false)
	err := a.run(t.Context(), []string{"install", "--disk-only", device, "--yes", "--dir", dir, "--state", filepath.Join(dir, "state")})
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

// put writes a signature to a disk.
func put(t *testing.T, path string, s hwtest.Sectors) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for off, b := range s.Blocks {
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// wholeDigest is of a whole disk, to tell that nobody wrote to it.
func wholeDigest(t *testing.T, file string) [sha256.Size]byte {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(raw)
}

func TestAMemberIsRefusedThoughItIsNamed(t *testing.T) {
	t.Parallel()
	const size = 32 * hwtest.MiB
	dir := installer(t)
	for name, test := range map[string]struct {
		disk hwtest.Sectors
		want string
	}{
		"md 0.90": {hwtest.RAID(size, "0.90"), "a member of a RAID array (a Linux RAID superblock 0.90)"},
		"md 1.0":  {hwtest.RAID(size, "1.0"), "superblock 1.0"},
		"md 1.1":  {hwtest.RAID(size, "1.1"), "superblock 1.1"},
		"md 1.2":  {hwtest.RAID(size, "1.2"), "superblock 1.2"},
		"lvm":     {hwtest.LVM(size), "belongs to LVM"},
		"zfs":     {hwtest.ZFS(size), "belongs to ZFS"},
		"ceph":    {hwtest.Ceph(size), "belongs to Ceph"},
		"lvm in a partition": {hwtest.GPT(size, hwtest.Slot{Label: "pv", Start: hwtest.MiB, Size: 8 * hwtest.MiB}).
			Put(hwtest.MiB, hwtest.LVM(8*hwtest.MiB)), "an LVM physical volume in partition 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			device, file := loopDevice(t, 32)
			put(t, device, test.disk)
			before := wholeDigest(t, file)
			for _, command := range [][]string{{"install", "--disk-only", "--yes"}, {"plan", "--disk-only"}, {"verify"}} {
				a, out := inProcess(os.DirFS("/"), "", false)
				err := a.run(t.Context(), append(command, device, "--dir", dir, "--state", t.TempDir()))
				if fault.Exit(err) != fault.ExitUnsafe || !strings.Contains(err.Error(), test.want) ||
					!strings.Contains(fault.Render(err), "hint: if nothing needs "+device) {
					t.Errorf("%v: error %v, want one with %q\n%s", command, err, test.want, out)
				}
			}
			if wholeDigest(t, file) != before {
				t.Error("the disk was written to")
			}
		})
	}
}

// Data yields to the name that was given, and verify tells what would be lost.
func TestADiskWithDataIsATargetIfNamed(t *testing.T) {
	t.Parallel()
	device, file := loopDevice(t, 32)
	put(t, device, hwtest.XFS(32*hwtest.MiB))
	dir, before := installer(t), wholeDigest(t, file)
	a, out := inProcess(os.DirFS("/"), "", false)
	if err := a.run(t.Context(), []string{"verify", device, "--dir", dir, "--state", filepath.Join(dir, "state")}); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for _, want := range []string{"no cc-base on it", "accepted as a target:\n  ok       unreadable\n", "  named    data          it holds an xfs file system\n",
		"  named    virtual       it is a virtual device\n", "  ok       lvm\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	if wholeDigest(t, file) != before {
		t.Error("the disk was written to")
	}
	a, out = inProcess(os.DirFS("/"), "", false)
	if err := a.run(t.Context(), []string{"install", "--disk-only", "--yes", device, "--dir", dir, "--state", filepath.Join(dir, "state")}); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestADeviceThatAProgramWritesToIsRefused(t *testing.T) {
	t.Parallel()
	device, file := loopDevice(t, 32)
	f, err := os.OpenFile(device, os.O_RDWR, 0) // not exclusively, like QEMU
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a, out := inProcess(os.DirFS("/"), "", false)
	err = a.run(t.Context(), []string{"install", "--disk-only", device, "--yes", "--dir", installer(t), "--state", t.TempDir()})
	if fault.Exit(err) != fault.ExitUnsafe || !strings.Contains(err.Error(), fmt.Sprintf("(process %d)", os.Getpid())) {
		t.Errorf("error %v\n%s", err, out)
	}
	unchanged(t, file)
}

// ext4 makes a file system on a node and mounts it.
func ext4(t *testing.T, device string) (point string) {
	t.Helper()
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		t.Skip("mkfs.ext4 is not installed")
	}
	if out, err := exec.Command(mkfs, "-q", "-F", device).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	point = t.TempDir()
	// Read-only: a file system that may write does so by itself, some time after.
	if err := syscall.Mount(device, point, "ext4", syscall.MS_RDONLY, "noload"); err != nil {
		t.Skip("mounting is not allowed here: ", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(point, 0); err != nil {
			t.Error(err)
		}
	})
	return point
}

func TestADeviceThatIsMountedByAnotherNodeIsRefused(t *testing.T) {
	t.Parallel()
	if inOwnMounts(t) {
		return
	}
	device, _ := loopDevice(t, 32)
	other := filepath.Join(t.TempDir(), "other")
	node(t, device, other)
	point := ext4(t, other)
	link := filepath.Join(t.TempDir(), "by-id")
	if err := os.Symlink(device, link); err != nil {
		t.Fatal(err)
	}
	dir := installer(t)
	for _, path := range []string{device, other, link} {
		a, out := inProcess(os.DirFS("/"), "", false)
		err := a.run(t.Context(), []string{"install", "--disk-only", path, "--yes", "--dir", dir, "--state", filepath.Join(dir, "state")})
		if fault.Exit(err) != fault.ExitUnsafe || !strings.Contains(err.Error(), "mounted at "+point) {
			t.Errorf("%s: error %v\n%s", path, err, out)
		}
	}
}

// ownMountsEnv marks the run of a test in a mount namespace of its own.
const ownMountsEnv = "CC_TEST_OWN_MOUNTS"

// inOwnMounts runs the test again, alone, in a mount namespace of its own, and tells
// that this was done: the caller returns. What it mounts is then in nobody else's
// namespace. A host of virtual machines that another test starts meanwhile has copies
// of all mounts, and keeps their devices busy for as long as it lives.
func inOwnMounts(t *testing.T) (done bool) {
	t.Helper()
	if os.Getenv(ownMountsEnv) != "" {
		return false
	}
	cmd := exec.Command("unshare", "--mount", os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), ownMountsEnv+"=1")
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil || !bytes.Contains(out, []byte(t.Name())):
		t.Errorf("%v\n%s", err, out)
	case bytes.Contains(out, []byte("--- SKIP: "+t.Name())):
		t.Skipf("%s", out)
	}
	return true
}

func TestADiskWithAMountedPartitionIsRefused(t *testing.T) {
	t.Parallel()
	if inOwnMounts(t) {
		return
	}
	device, _ := loopDevice(t, 32)
	put(t, device, hwtest.GPT(32*hwtest.MiB, hwtest.Slot{Label: "data", Start: 4 * hwtest.MiB, Size: 24 * hwtest.MiB}))
	// This adds the partition also where the kernel knows no GPT.
	if out, err := exec.Command("partx", "--add", device).CombinedOutput(); err != nil {
		t.Skipf("partx does not work here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		// Whoever looks at all disks of this machine has the partition open for a moment.
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			out, err := exec.Command("partx", "--delete", device).CombinedOutput()
			if err == nil {
				return
			}
			if time.Now().After(end) {
				t.Errorf("partx --delete: %s", out)
				return
			}
		}
	})
	name := filepath.Base(device)
	raw, err := os.ReadFile(filepath.Join("/sys/block", name, name+"p1", "dev"))
	if err != nil {
		t.Fatal(err)
	}
	var major, minor uint32
	if _, err := fmt.Sscanf(string(raw), "%d:%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(t.TempDir(), "part")
	if err := unix.Mknod(part, unix.S_IFBLK|0o600, int(unix.Mkdev(major, minor))); err != nil {
		t.Skip("this user may not make device nodes: ", err)
	}
	point := ext4(t, part)
	a, out := inProcess(os.DirFS("/"), "", false)
	err = a.run(t.Context(), []string{"install", "--disk-only", device, "--yes", "--dir", installer(t), "--state", t.TempDir()})
	if fault.Exit(err) != fault.ExitUnsafe || !strings.Contains(err.Error(), "mounted at "+point) {
		t.Errorf("error %v\n%s", err, out)
	}
}

// exchanged is a user who is slow to answer: before the name is typed, the
// node is made to stand for another device of the same size.
type exchanged struct {
	answer io.Reader
	once   sync.Once
	swap   func()
}

func (e *exchanged) Read(p []byte) (int, error) {
	e.once.Do(e.swap)
	return e.answer.Read(p)
}

func TestAnotherDeviceAfterTheConfirmationIsRefused(t *testing.T) {
	t.Parallel()
	judged, judgedFile := loopDevice(t, 32)
	other, otherFile := loopDevice(t, 32)
	path := filepath.Join(t.TempDir(), "disk")
	node(t, judged, path)
	a, out := inProcess(os.DirFS("/"), "", true)
	a.stdin = &exchanged{answer: strings.NewReader("disk\n"), swap: func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
		node(t, other, path)
	}}
	err := a.run(t.Context(), []string{"install", "--disk-only", path, "--dir", installer(t), "--state", t.TempDir()})
	if fault.Exit(err) != fault.ExitUnsafe || !strings.Contains(err.Error(), "no longer the device that was judged") {
		t.Errorf("error %v\n%s", err, out)
	}
	unchanged(t, judgedFile)
	unchanged(t, otherFile)
}

func TestTheNameMustBeTypedBack(t *testing.T) {
	t.Parallel()
	device, file := loopDevice(t, 32)
	dir := installer(t)
	for _, answer := range []string{"", "\n", "yes\n", "loop\n", filepath.Base(device)} {
		a, out := inProcess(os.DirFS("/"), answer, true)
		if err := a.run(t.Context(), []string{"install", "--disk-only", device, "--dir", dir, "--state", filepath.Join(dir, "state")}); fault.Exit(err) != fault.ExitUsage {
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
	err = a.run(t.Context(), []string{"install", "--disk-only", disk, "--yes", "--allow-file", "--dir", dir, "--state", filepath.Join(dir, "state")})
	if fault.Exit(err) != fault.ExitUnsupported {
		t.Errorf("error %v", err)
	}
	unchanged(t, disk)
	a, out := inProcess(empty, "", false)
	if err := a.run(t.Context(), []string{"install", "--disk-only", disk, "--yes", "--allow-file", "--allow-plain", "--dir", dir, "--state", filepath.Join(dir, "state")}); err != nil {
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
	err := a.run(ctx, []string{"install", "--disk-only", disk, "--yes", "--allow-file", "--dir", dir, "--state", filepath.Join(dir, "state")})
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
