package main

// What green does not prove: the guest is emulated, its TPM is the host's, and
// the host is a tree in namespaces of its own. No SEV-SNP or TDX guest was
// started; that their definitions are right, tasks/domain's schemas say.

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cc-base/installer/hostlab"
	"cc-base/installer/virt"
	"cc-base/tasks/lab"
	"cc-base/tasks/sh"
)

// admin is somebody who unpacked the built tarball on a host with libvirt.
type admin struct {
	host *hostlab.Host
	dir  string // the unpacked installer
	root string // for etc/cc
	lib  string // for the deployments
}

func newAdmin(t *testing.T) admin {
	t.Helper()
	image := lab.Built(t)
	host := hostlab.Start(t)
	o := admin{host, filepath.Join(host.Tmp, "installer"), filepath.Join(host.Tmp, "root"), filepath.Join(host.Tmp, "lib")}
	if out, err := exec.Command("tar", "-C", host.Tmp, "-xzf", image.Path("nvidia-cc-installer.tar.gz")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, dir := range []string{o.root, o.lib} {
		if err := os.Mkdir(dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

// do runs a command of the installer on the host.
func (o admin) do(ctx context.Context, name string, args ...string) (string, error) {
	var out bytes.Buffer
	command := "exec \"$0\" \"$@\" 2>&1"
	err := o.host.Run(ctx, sh.Cmd{
		Name: "sh", Args: append([]string{"-c", command, filepath.Join(o.dir, name)}, args...),
		Env: []string{"CC_STATE_DIR=" + o.lib, "CC_SETTINGS_ROOT=" + o.root}, Stdout: &out,
	})
	return out.String(), err
}

// listing is everything that an installation could leave on the host, beside
// what libvirt keeps.
func (o admin) listing(t *testing.T) string {
	t.Helper()
	var names []string
	for _, dir := range []string{o.root, o.lib, o.host.Path("/run/cc-base"), o.host.Path("/etc/tmpfiles.d")} {
		err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
			if err == nil {
				names = append(names, path)
			}
			return nil
		})
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	return o.host.Snapshot(t) + strings.Join(names, "\n")
}

// device is a block device of the host: a loop device over a used disk.
func (o admin) device(t *testing.T) (path, file string) {
	t.Helper()
	outside, file := loopDevice(t, 640)
	number := strings.TrimPrefix(outside, "/dev/loop")
	if err := sh.Do(t.Context(), o.host, "mknod", "-m", "0660", outside, "b", "7", number); err != nil {
		t.Fatal(err)
	}
	return outside, file
}

// The way people go: look, edit, install, and it runs; after a reboot of the
// host it runs again by itself, with no secret left; settings are edited and
// taken over; and it is gone without a trace.
func TestFromABlockDeviceToAVMThatComesBackByItself(t *testing.T) {
	o := newAdmin(t)
	ctx := t.Context()
	device, file := o.device(t)

	before := o.listing(t)
	out, err := o.do(ctx, "install.sh", device, "--dry-run", "--emulate", "--allow-plain")
	if err != nil || !strings.Contains(out, "define the domain cc-base") || !strings.Contains(out, "nothing was written") {
		t.Fatalf("%v\n%s", err, out)
	}
	unchanged(t, file)
	if diff := cmp.Diff(before, o.listing(t)); diff != "" {
		t.Fatalf("a dry run left (-before +after):\n%s", diff)
	}

	// validate.sh writes the settings; the admin edits what may be edited.
	out, _ = o.do(ctx, "validate.sh") // this host has no KVM to show; its verdicts are validation's to test
	if !strings.Contains(out, "network_settings") {
		t.Errorf("no settings were written:\n%s", out)
	}
	for name, line := range map[string][2]string{
		"etc/cc/qemu/network_settings": {`NETWORK_TYPE="[a-z]*"`, `NETWORK_TYPE="nat"`},
		"etc/cc/qemu/gpu_settings":     {`NVIDIA_GPU_INDEX="[^"]*"`, `NVIDIA_GPU_INDEX="none"`},
	} {
		edit(t, filepath.Join(o.root, name), line[0], line[1])
	}
	settled := o.listing(t)

	out, err = o.do(ctx, "install.sh", device, "--yes", "--emulate", "--allow-plain")
	if err != nil || !strings.Contains(out, "is defined and ready") {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := o.do(ctx, "install.sh", "--verify", device); err != nil || !strings.Contains(out, "installed and unchanged") {
		t.Errorf("%v\n%s", err, out)
	}
	v := o.host.Virt()
	domains, err := v.List(ctx)
	if err != nil || len(domains) != 1 || domains[0].Name != "cc-base" || domains[0].State != virt.Running {
		t.Errorf("virsh list --all: %+v, %v", domains, err)
	}
	xml, err := v.XML(ctx, "cc-base")
	if err != nil || strings.Contains(xml, "opt/org.cc-base/enroll") {
		t.Errorf("the enrolment secret is in the definition (%v)", err)
	}
	if _, err := os.Stat(filepath.Join(o.lib, "cc-base", "enroll.key")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the enrolment secret is still on the host: %v", err)
	}
	if out, err := o.do(ctx, "install.sh", device, "--yes", "--emulate", "--allow-plain"); err == nil || !strings.Contains(out, "CC0701") && !strings.Contains(out, "CC1004") {
		t.Errorf("a running VM's disk is written over: %v\n%s", err, out)
	}

	// Settings that may change, and one that may not.
	tee := filepath.Join(o.root, "etc/cc/config/tee.conf")
	vcpus := edit(t, tee, `TEE_VCPUS="\d+"`, `TEE_VCPUS="1"`)
	out, err = o.do(ctx, "cc-install", "apply", "cc-base")
	if err != nil || !regexp.MustCompile(`(?m)^\+.*<vcpu[^>]*>1</vcpu>`).MatchString(out) {
		t.Errorf("apply: %v\n%s", err, out)
	}
	if out, err = o.do(ctx, "cc-install", "apply", "cc-base", "--undo"); err != nil || !regexp.MustCompile(`(?m)^-.*<vcpu[^>]*>1</vcpu>`).MatchString(out) {
		t.Errorf("apply --undo: %v\n%s", err, out)
	}
	security := filepath.Join(o.root, "etc/cc/config/security.conf")
	edit(t, security, `LUKS_HASH="sha512"`, `LUKS_HASH="sha256"`)
	if out, err = o.do(ctx, "cc-install", "apply", "cc-base"); err == nil || !strings.Contains(out, "LUKS_HASH") || !strings.Contains(out, "build the image again") {
		t.Errorf("an edit that needs another image: %v\n%s", err, out)
	}
	edit(t, security, `LUKS_HASH="sha256"`, `LUKS_HASH="sha512"`)

	// The host is switched off and on: the guest comes back with no help.
	o.host.Reboot(t)
	awaitReady(t, filepath.Join(o.lib, "cc-base", "console.log"))

	// A file that was edited would stay: it is somebody's work.
	edit(t, tee, `TEE_VCPUS="1"`, vcpus)
	if out, err = o.do(ctx, "cc-install", "uninstall", "cc-base", "--wipe", "--yes"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if diff := cmp.Diff(settled, o.listing(t)); diff != "" {
		t.Errorf("uninstall left (-before the installation +after):\n%s", diff)
	}
	if out, err := o.do(ctx, "install.sh", "--verify", device); err != nil || !strings.Contains(out, "no cc-base on it") {
		t.Errorf("after --wipe: %v\n%s", err, out)
	}
}

// edit changes a line of a settings file and returns what it was.
func edit(t *testing.T, file, from, to string) (was string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	re := regexp.MustCompile("(?m)^" + from)
	if !re.Match(text) {
		t.Fatalf("%s has no line %s:\n%s", file, from, text)
	}
	if err := os.WriteFile(file, re.ReplaceAll(text, []byte(to)), 0o644); err != nil {
		t.Fatal(err)
	}
	return string(re.Find(text))
}

// awaitReady waits for a ready line behind one that says that the guest has
// opened its volumes by itself.
func awaitReady(t *testing.T, console string) {
	t.Helper()
	for end := time.Now().Add(6 * time.Minute); ; time.Sleep(time.Second) {
		text, err := os.ReadFile(console)
		if _, after, found := bytes.Cut(text, []byte("cc-root machine, cc-app machine")); found && bytes.Contains(after, []byte("cc-base: ready")) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the guest did not come back by itself: %v\n%s", err, text)
		}
	}
}
