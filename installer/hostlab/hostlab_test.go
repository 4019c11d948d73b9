package hostlab_test

// What green does not prove: see the package. The virtual machine here has no
// system in it; the image that was built is booted elsewhere.

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cc-base/installer/hostlab"
	"cc-base/installer/virt"
	"cc-base/tasks/domain"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/sh"
)

// A virtual machine's life under a real libvirt: defined, listed, started,
// counted, destroyed, undefined, and no trace left.
func TestAVirtualMachineComesAndGoes(t *testing.T) {
	host := hostlab.Start(t)
	v, ctx := host.Virt(), t.Context()
	before := host.Snapshot(t)
	spec := host.Tiny(t, "tiny")
	text, err := domain.XML(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Define(ctx, text); err != nil {
		t.Fatal(err)
	}
	if domains, err := v.List(ctx); err != nil || !slices.Equal(domains, []virt.Domain{{Name: "tiny", State: virt.ShutOff}}) {
		t.Errorf("%v %v", domains, err)
	}
	if err := errors.Join(v.Autostart(ctx, "tiny", true), v.Start(ctx, "tiny")); err != nil {
		t.Fatal(err)
	}
	if state, err := v.State(ctx, "tiny"); state != virt.Running || err != nil {
		t.Errorf("%q %v", state, err)
	}
	stats, err := v.Stats(ctx, "tiny")
	if err != nil || stats.State != 1 || stats.VCPUs != 1 || stats.CPU == 0 || stats.MemoryBytes != 1<<30 || len(stats.Blocks) != 1 || stats.Blocks[0].Name != "vda" {
		t.Errorf("%+v %v", stats, err)
	}
	for late := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		console, err := os.ReadFile(spec.ConsoleFile)
		if err == nil && len(console) > 0 {
			break
		}
		if time.Now().After(late) {
			t.Fatalf("the firmware printed nothing: %v", err)
		}
	}
	if err := v.Start(ctx, "tiny"); err == nil {
		t.Error("started twice")
	} else {
		faulttest.Want(t, err, fault.Libvirt, "already active")
	}
	if during := host.Snapshot(t); during == before || !strings.Contains(during, "tiny") {
		t.Errorf("the snapshot does not see a running machine:\n%s", during)
	}
	if err := errors.Join(v.Destroy(ctx, "tiny"), v.Undefine(ctx, "tiny")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, host.Snapshot(t)); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
	_, err = v.State(ctx, "tiny")
	faulttest.Want(t, err, fault.NoVM, "tiny")
	if !errors.Is(err, virt.ErrNotFound) {
		t.Error(err)
	}
}

func TestOthersAreNotFound(t *testing.T) {
	host := hostlab.Start(t)
	v, ctx := host.Virt(), t.Context()
	_, net := v.NetXML(ctx, "nope")
	_, filter := v.FilterXML(ctx, "nope")
	for _, err := range []error{net, filter, v.BindingDelete(ctx, "nope"), v.Undefine(ctx, "nope")} {
		if !errors.Is(err, virt.ErrNotFound) {
			t.Errorf("%v", err)
		}
	}
	versions, err := v.Version(ctx)
	if err != nil || !versions.Daemon.AtLeast(11, 3) || !versions.Hypervisor.AtLeast(10, 0) {
		t.Errorf("%+v %v", versions, err)
	}
	v.URI = "qemu+unix:///system?socket=/nonexistent"
	_, err = v.List(ctx)
	faulttest.Want(t, err, fault.NoLibvirt, "/nonexistent")
}

// What happens in the host stays there.
func TestTheMachineSeesNothingOfTheHost(t *testing.T) {
	host := hostlab.Start(t)
	if err := sh.Do(t.Context(), host, "sh", "-euc", "ip link add hostlab0 type bridge; mount -t tmpfs tmpfs /mnt; echo x >/usr/bin/hostlab-file"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/sys/class/net/hostlab0"); !errors.Is(err, os.ErrNotExist) {
		t.Error("the bridge is the machine's")
	}
	if _, err := os.Stat(filepath.Join(os.Getenv("CC_TEST_HOST"), "usr/bin/hostlab-file")); !errors.Is(err, os.ErrNotExist) {
		t.Error("the tree was written to")
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), os.Getenv("CC_TEST_HOST")) {
		t.Errorf("the mounts are the machine's: %v", err)
	}
}
