package main

// What green does not prove: the machine that the disk is chosen from is a
// tree in memory, only its disk is a real device. No test lets the program
// choose among the disks of the machine under it.

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"cc-base/tasks/fault"
	"cc-base/tasks/hw/hwtest"
)

// node makes a second node of a device, named as a whole disk would be.
func node(t *testing.T, device, path string) (number string) {
	t.Helper()
	info, err := os.Stat(device)
	if err != nil {
		t.Fatal(err)
	}
	rdev := info.Sys().(*syscall.Stat_t).Rdev
	if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(rdev)); err != nil {
		t.Skip("this user may not make device nodes: ", err)
	}
	return fmt.Sprintf("%d:%d", unix.Major(rdev), unix.Minor(rdev))
}

// machine is a host whose best disk is a real loop device of 32 MiB under the
// name disk; another one is mounted.
func chosenHost(t *testing.T) (host hwtest.Host, path, file string) {
	t.Helper()
	device, file := loopDevice(t, 32)
	path = filepath.Join(t.TempDir(), "disk")
	number := node(t, device, path)
	name := ".." + strings.ReplaceAll(path, "/", "!") // sysfs's way to write a path below /dev
	host = hwtest.New().Disk("nvme0n1", "259:0", hwtest.TiB).Mount("259:0", "/", "ext4", "/dev/nvme0n1").
		Disk(name, number, 32*hwtest.MiB)
	return host, path, file
}

// choosing returns the program with AUTO_SELECT and more variables.
func choosing(host hwtest.Host, typed string, terminal bool, more ...string) (*app, fmt.Stringer) {
	a, out := inProcess(host, typed, terminal)
	a.getenv = func(name string) string {
		for _, pair := range append(more, "AUTO_SELECT=true") {
			if value, ok := strings.CutPrefix(pair, name+"="); ok {
				return value
			}
		}
		return ""
	}
	return a, out
}

func TestTheChosenDiskIsWrittenAfterItsNameWasTyped(t *testing.T) {
	t.Parallel()
	host, path, file := chosenHost(t)
	dir := installer(t)

	for name, try := range map[string]struct {
		typed    string
		terminal bool
		args     []string
		exit     int
	}{
		"no terminal":             {"disk\n", false, []string{"install", "--disk-only"}, fault.ExitUsage},
		"another name":            {"nvme0n1\n", true, []string{"install", "--disk-only"}, fault.ExitUsage},
		"nothing typed":           {"", true, []string{"install", "--disk-only"}, fault.ExitUsage},
		"a plan":                  {"", false, []string{"plan", "--disk-only"}, 0},
		"a dry run":               {"", false, []string{"install", "--disk-only", "--dry-run"}, 0},
		"a plan for programs":     {"", false, []string{"plan", "--disk-only", "--json"}, 0},
		"a dry run that says yes": {"", false, []string{"install", "--disk-only", "--dry-run", "--yes"}, 0},
	} {
		a, out := choosing(host, try.typed, try.terminal)
		err := a.run(t.Context(), append(try.args, "--dir", dir, "--state", filepath.Join(dir, "state")))
		if fault.Exit(err) != try.exit {
			t.Errorf("%s: error %v, want exit status %d\n%s", name, err, try.exit, out)
		}
		if reason := path + " is the only free disk"; !strings.Contains(out.String(), reason) {
			t.Errorf("%s: no %q in:\n%s", name, reason, out)
		}
	}
	unchanged(t, file)

	a, out := choosing(host, "disk\n", true, "DEBUG=true")
	if err := a.run(t.Context(), []string{"install", "--disk-only", "--dir", dir, "--state", filepath.Join(dir, "state")}); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, line := range []string{
		path + " ssd disk 33.6 MB: accepted\n  ok       unreadable\n",
		"/dev/nvme0n1 nvme disk 1.1 TB: refused\n",
		"  refused  mounted       it is mounted at /\n",
		path + " is the only free disk\n",
		path + " (33.6 MB ssd) will be overwritten:\n",
	} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("no %q in:\n%s", line, out)
		}
	}
	a, out = inProcess(host, "", false)
	if err := a.run(t.Context(), []string{"verify", path, "--dir", dir, "--state", filepath.Join(dir, "state")}); err != nil || !strings.Contains(out.String(), "installed and unchanged") {
		t.Errorf("error %v\n%s", err, out)
	}

	// Once more without a terminal, onto what is now a former installation.
	a, out = choosing(host, "", false)
	if err := a.run(t.Context(), []string{"install", "--disk-only", "--yes", "--dir", dir, "--state", filepath.Join(dir, "state")}); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestNoChoiceIsAnAnswerToo(t *testing.T) {
	t.Parallel()
	dir := installer(t)
	taken := hwtest.New().Disk("sda", "8:0", hwtest.TiB, "ro=1").Sectors("sda", hwtest.LVM(hwtest.TiB)).Disk("sdb", "8:16", 0)
	a, out := choosing(taken, "sda\n", true)
	err := a.run(t.Context(), []string{"install", "--disk-only", "--dir", dir, "--state", filepath.Join(dir, "state")})
	want := "no free disk to choose\n/dev/sda: it belongs to LVM (an LVM physical volume); it is read-only"
	if fault.Exit(err) != fault.ExitUnsafe || err.Error() != want {
		t.Errorf("error %v, want %s\n%s", err, want, out)
	}

	// The node stands for another device than the one that was chosen.
	host, path, file := chosenHost(t)
	other, otherFile := loopDevice(t, 32)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	number := node(t, other, path)
	host.Disk("loop9", number, 32*hwtest.MiB)
	a, out = choosing(host, "", false)
	err = a.run(t.Context(), []string{"install", "--disk-only", "--yes", "--dir", dir, "--state", filepath.Join(dir, "state")})
	if fault.Exit(err) != fault.ExitUnsafe || !strings.Contains(err.Error(), "is the device "+number+", not the chosen") {
		t.Errorf("error %v\n%s", err, out)
	}
	unchanged(t, file)
	unchanged(t, otherFile)
}

func TestWithoutADeviceTheDisksAreListed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() // not even an installer is needed
	host := hwtest.New().Disk("sda", "8:0", hwtest.TiB).Disk("sdb", "8:16", hwtest.TiB, "ro=1")
	for _, command := range []string{"install", "plan"} {
		a, out := inProcess(host, "", true)
		err := a.run(t.Context(), []string{command, "--dir", dir, "--state", filepath.Join(dir, "state")})
		if fault.Exit(err) != fault.ExitUsage {
			t.Errorf("%s: error %v", command, err)
		}
		for _, want := range []string{"/dev/sda  ssd    1.1 TB         yes, choice 1\n", "no: it is read-only\n", "usage: ./install.sh DEVICE"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: no %q in:\n%s", command, want, out)
			}
		}
	}
	a, out := inProcess(host, "", true)
	a.getenv = func(name string) string { return map[string]string{"DEBUG": "1"}[name] }
	if err := a.run(t.Context(), []string{"install", "--disk-only", "--dir", dir, "--state", filepath.Join(dir, "state")}); fault.Exit(err) != fault.ExitUsage {
		t.Errorf("error %v", err)
	}
	if want := "/dev/sdb ssd disk 1.1 TB: refused\n  ok       unreadable\n"; !strings.Contains(out.String(), want) {
		t.Errorf("no %q in:\n%s", want, out)
	}
	// Even where the kernel tells of no disks, the exit status is that of a
	// wrong command line.
	a, _ = inProcess(os.DirFS(dir), "", true)
	if err := a.run(t.Context(), []string{"install", "--disk-only", "--dir", dir, "--state", filepath.Join(dir, "state")}); fault.Exit(err) != fault.ExitUsage {
		t.Errorf("error %v", err)
	}
}
