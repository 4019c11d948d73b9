package ready

// Green here means that the checks read mountinfo and tables rightly; the text
// below follows that of a real boot. It does not prove that a damaged block stops
// the kernel: the negative boots do.

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/fstest"

	"cc-base/overlays/cc-guest/internal/cmdline"
	"cc-base/overlays/cc-guest/settings"
)

const (
	hash      = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	mountinfo = `27 1 253:1 / / ro,relatime shared:1 - erofs /dev/mapper/cc-root ro,user_xattr,acl,cache_strategy=readaround
30 27 0:31 / /etc rw,nosuid,nodev,relatime shared:2 - overlay cc-etc rw,lowerdir=/sysroot/etc,upperdir=/run/cc/etc/upper,workdir=/run/cc/etc/work
31 27 0:32 / /var rw,nosuid,nodev,noexec,relatime shared:3 - tmpfs cc-var rw,size=262144k,nr_inodes=32768,mode=755
32 27 253:3 / /opt/cc ro,nosuid,nodev,relatime shared:4 - erofs /dev/mapper/cc-app ro,user_xattr,acl
33 30 253:4 / /etc/cc/config ro,nosuid,nodev,noexec,relatime shared:5 - erofs /dev/mapper/cc-config ro,user_xattr,acl
34 27 253:6 / /mnt/dynamic rw,nosuid,nodev,noexec,relatime shared:6 - ext4 /dev/mapper/cc-dynamic rw
35 31 253:6 /persistent/var/log /var/log rw,nosuid,nodev,noexec,relatime shared:6 - ext4 /dev/mapper/cc-dynamic rw
`
)

type tables struct{ table string }

func (r tables) Run(context.Context, [][]byte, []byte, string, ...string) (string, int, error) {
	if r.table == "" {
		return "", 1, nil
	}
	return r.table, 0, nil
}

func checker() Checker {
	sys := fstest.MapFS{}
	for node, name := range map[string]string{"dm-1": "cc-root", "dm-3": "cc-app", "dm-4": "cc-config", "dm-6": "cc-dynamic"} {
		sys["class/block/"+node+"/dm/name"] = &fstest.MapFile{Data: []byte(name + "\n")}
		sys["class/block/"+node+"/dev"] = &fstest.MapFile{Data: []byte("253:" + node[3:] + "\n")}
	}
	v := func(name string) cmdline.Volume {
		return cmdline.Volume{Name: name, Encrypted: true, RootHash: hash, HashOffset: 8192}
	}
	return Checker{
		Params:    cmdline.Params{Root: v("cc-root"), App: v("cc-app"), Config: v("cc-config")},
		Settings:  settings.Default(),
		Sys:       sys,
		Runner:    tables{"0 16 verity 1 253:0 253:0 4096 4096 2 3 sha256 " + hash + " abcd 1 panic_on_corruption\n"},
		MountInfo: mountinfo,
	}
}

func TestCheckAcceptsTheVerifiedSystem(t *testing.T) {
	t.Parallel()
	if err := checker().Check(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCheckRefusesEveryOtherSystem(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ old, replacement, want string }{
		"root on another device": {"253:1 / / ", "254:2 / / ", "not on cc-root"},
		"root writable":          {"/ / ro", "/ / rw", "not mounted ro"},
		"root ext4":              {"erofs /dev/mapper/cc-root", "ext4 /dev/mapper/cc-root", "not erofs"},
		"writable superblock":    {"cc-root ro", "cc-root rw", "writable"},
		"app missing":            {"/opt/cc", "/opt/dd", "/opt/cc: it is not mounted"},
		"app with devices":       {"ro,nosuid,nodev,relatime shared:4", "ro,nosuid,relatime shared:4", "not mounted nodev"},
		"app swapped for config": {"253:3", "253:4", "not on cc-app"},
		"etc not an overlay":     {"overlay cc-etc", "tmpfs cc-etc", "/etc"},
		"var executable":         {"nodev,noexec,relatime shared:3", "nodev,relatime shared:3", "/var: it is not mounted noexec"},
		"var missing":            {"/var", "/srv", "/var"},
		"something over usr":     {"33 30", "39 27 0:40 / /usr/bin rw - tmpfs x rw\n33 30", "over it"},
		"root covered":           {"33 30", "39 27 0:40 / / rw - tmpfs x rw\n33 30", "not on cc-root"},
		"dynamic missing":        {"/ /mnt/dynamic", "/ /mnt/other", "/mnt/dynamic: it is not mounted"},
		"dynamic unencrypted":    {"253:6 / /mnt", "254:5 / /mnt", "not the ext4 of cc-dynamic"},
		"dynamic executable":     {"nodev,noexec,relatime shared:6", "nodev,relatime shared:6", "not mounted noexec"},
		"unknown form":           {" - erofs", " erofs", "unknown form"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := checker()
			c.MountInfo = strings.Replace(c.MountInfo, tc.old, tc.replacement, 1)
			if err := c.Check(t.Context()); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v does not say %q", err, tc.want)
			}
		})
	}
	late := checker()
	late.Params.LateLockdown = true
	for mode, good := range map[string]bool{"integrity": true, "confidentiality": true, "none": false, "": false} {
		late.Lockdown = mode
		if err := late.Check(t.Context()); (err == nil) != good {
			t.Errorf("lockdown %q: %v", mode, err)
		}
	}
	for name, table := range map[string]string{"device gone": "", "not verity": "0 16 linear 253:0 0\n"} {
		c := checker()
		c.Runner = tables{table}
		if c.Check(t.Context()) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestReadAllReadsEveryVolumeToItsEnd(t *testing.T) {
	t.Parallel()
	var opened []string
	n, err := ReadAll(checker().Params, func(path string) (io.ReadCloser, error) {
		opened = append(opened, path)
		return io.NopCloser(strings.NewReader(strings.Repeat("x", 3<<20))), nil
	})
	if err != nil || n != 9<<20 || len(opened) != 3 {
		t.Errorf("read %d bytes of %v: %v", n, opened, err)
	}
	if _, err = ReadAll(checker().Params, func(string) (io.ReadCloser, error) { return nil, errors.New("gone") }); err == nil {
		t.Error("a device that cannot be opened gave no error")
	}
	if _, err = ReadAll(checker().Params, func(string) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader("")), nil
	}); err == nil {
		t.Error("an empty device gave no error")
	}
}
