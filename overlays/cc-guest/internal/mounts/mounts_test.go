package mounts

// Green here means that the plan is the intended one. Whether the kernel
// accepts it is for a boot to show.

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"cc-base/overlays/cc-guest/settings"
)

type recorder struct {
	calls []string
	fail  string
}

func (r *recorder) call(text string) error {
	r.calls = append(r.calls, text)
	if r.fail != "" && strings.Contains(text, r.fail) {
		return errors.New("refused")
	}
	return nil
}

func (r *recorder) Mkdir(target string, perm uint32) error {
	return r.call(fmt.Sprintf("mkdir %04o %s", perm, target))
}

func (r *recorder) Mount(source, target, fstype string, flags uintptr, data string) error {
	var names []string
	for _, f := range []struct {
		bit  uintptr
		name string
	}{{unix.MS_RDONLY, "ro"}, {unix.MS_NOSUID, "nosuid"}, {unix.MS_NODEV, "nodev"}, {unix.MS_NOEXEC, "noexec"}} {
		if flags&f.bit != 0 {
			names = append(names, f.name)
		}
	}
	return r.call(strings.TrimSpace(fmt.Sprintf("mount %s %s %s %s %s", fstype, source, target, strings.Join(names, ","), data)))
}

func TestPlanMountsCapsAndReadOnlyVolumes(t *testing.T) {
	t.Parallel()
	r := &recorder{}
	if err := Apply(r, Plan(settings.Default(), "/sysroot")); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"mkdir 0700 /run/cc",
		"mkdir 0700 /run/cc/etc",
		"mount tmpfs cc-etc /run/cc/etc nosuid,nodev size=33554432,nr_inodes=4096,mode=0700",
		"mkdir 0755 /run/cc/etc/upper",
		"mkdir 0700 /run/cc/etc/work",
		"mount overlay cc-etc /sysroot/etc nosuid,nodev lowerdir=/sysroot/etc,upperdir=/run/cc/etc/upper,workdir=/run/cc/etc/work",
		"mount tmpfs cc-var /sysroot/var nosuid,nodev,noexec size=268435456,nr_inodes=32768,mode=0755",
		"mount erofs /dev/mapper/cc-app /sysroot/opt/cc ro,nosuid,nodev",
		"mkdir 0755 /sysroot/etc/cc/config",
		"mount erofs /dev/mapper/cc-config /sysroot/etc/cc/config ro,nosuid,nodev,noexec",
		"mount ext4 /dev/mapper/cc-dynamic /sysroot/mnt/dynamic nosuid,nodev,noexec",
		"mkdir 0755 /sysroot/mnt/dynamic/persistent/var/log",
		"mkdir 0755 /sysroot/var/log",
		"mount bind /sysroot/mnt/dynamic/persistent/var/log /sysroot/var/log",
		"mkdir 0755 /sysroot/mnt/dynamic/persistent/var/lib/cc",
		"mkdir 0755 /sysroot/var/lib/cc",
		"mount bind /sysroot/mnt/dynamic/persistent/var/lib/cc /sysroot/var/lib/cc",
		"mkdir 0700 /sysroot/etc/cc/keys",
		"mount tmpfs cc-identity /sysroot/etc/cc/keys nosuid,nodev,noexec size=1048576,nr_inodes=128,mode=0700,noswap",
	}
	if diff := cmp.Diff(want, r.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestApplyStopsAtTheFirstFailure(t *testing.T) {
	t.Parallel()
	r := &recorder{fail: "mount overlay"}
	err := Apply(r, Plan(settings.Default(), "/sysroot"))
	if err == nil || err.Error() != "mounting overlay on /sysroot/etc: refused" {
		t.Errorf("error is %v", err)
	}
	if last := r.calls[len(r.calls)-1]; !strings.HasPrefix(last, "mount overlay") {
		t.Errorf("went on to %q", last)
	}
}
