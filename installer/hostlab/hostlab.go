// Package hostlab gives tests a host of virtual machines: a Debian tree with
// libvirt, QEMU and swtpm, its daemons running, in namespaces of its own. No
// libvirt is needed on the machine that runs the tests, and nothing of it is
// touched.
//
//	host := hostlab.Start(t)
//	domains, err := host.Virt().List(ctx)
//	err = sh.Do(ctx, host, "ip", "link", "add", "br0", "type", "bridge")
//
// What it needs: root, for the mounts and for libvirtd, and the tree, which
// `mage test` makes and names in CC_TEST_HOST. What the host has of its own:
// mounts, with the tree below an overlay in memory, so that the tree stays as it
// is; network, in which only lo is there at first; processes, which all end
// with the test, kill -9 included; System V IPC and host name; /dev, with the
// few nodes that libvirt wants. It shares the kernel, its modules and the
// machine's memory.
//
// What a green test on it does not prove: that a host with systemd, AppArmor,
// SELinux, cgroups, firewalld or libvirt's modular daemons does the same. There
// is no KVM in it, and QEMU runs without its own mount namespace.
package hostlab

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cc-base/installer/virt"
	"cc-base/tasks/domain"
	"cc-base/tasks/lab"
	"cc-base/tasks/sh"
)

// Host is a running host. As an sh.Runner it runs programs of the tree, as
// root, in the host's namespaces.
type Host struct {
	Tmp string // a folder that this process and the host see under one path; QEMU's user may enter it

	pid     string // of the host's first process, as this process sees it
	outside sh.Runner
}

// boot is run as the host's first process. $1 is the tree; the folders after it
// are seen by the host, too. /proc is still the machine's at first, so that the
// number read there is the one by which the machine knows this process.
//
// Device nodes are made anew and not bound: libvirt changes the owner of those
// that it gives to QEMU.
const boot = `
read -r pid rest </proc/self/stat
tree=$1
shift
mount --make-rprivate /
mount -t tmpfs -o mode=0755 tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o "lowerdir=$tree,upperdir=/mnt/upper,workdir=/mnt/work" overlay /mnt/root
root=/mnt/root
mount -t proc proc $root/proc
mount -t sysfs sysfs $root/sys
mount -t tmpfs -o mode=0755 tmpfs $root/run
mount -t tmpfs -o mode=1777 tmpfs $root/tmp
mount -t tmpfs -o mode=0755 tmpfs $root/dev
mkdir $root/dev/pts $root/dev/shm $root/dev/net
mount -t devpts -o newinstance,ptmxmode=0666 devpts $root/dev/pts
mount -t tmpfs tmpfs $root/dev/shm
for node in null:3 zero:5 full:7 random:8 urandom:9; do
	mknod -m 0666 $root/dev/${node%:*} c 1 ${node#*:}
done
mknod -m 0666 $root/dev/tty c 5 0
mknod -m 0666 $root/dev/net/tun c 10 200
ln -s pts/ptmx $root/dev/ptmx
ln -s /proc/self/fd $root/dev/fd
ln -s fd/0 $root/dev/stdin
ln -s fd/1 $root/dev/stdout
ln -s fd/2 $root/dev/stderr
for dir; do
	mkdir -p "$root$dir"
	mount --rbind "$dir" "$root$dir"
done
exec chroot $root env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 sh -euc "$DAEMONS" sh "$pid"
`

// daemons is the rest of it, inside the tree. A tree's files all belong to root,
// but swtpm's folders must be its user's. QEMU's own mount namespace and
// the cgroups, which the host has not, are switched off. The shell stays, to
// collect ended processes whose parents have gone.
const daemons = `
ip link set lo up
hostname host
chown -R tss:root /var/lib/swtpm-localca
cat >/etc/libvirt/qemu.conf <<-END
	namespaces = []
	cgroup_controllers = []
	max_core = 0
END
virtlogd &
libvirtd --pid-file /run/libvirtd.pid &
echo "$1"
while :; do wait; sleep 1; done
`

// Start starts a host and ends it with the test. It sees the given folders
// under their own paths. Without root or the tree the test is skipped, and
// fails under CI=true.
func Start(t testing.TB, binds ...string) *Host {
	t.Helper()
	tree := os.Getenv(lab.HostEnv)
	if tree == "" {
		lab.Absent(t, "%s is not set: run `go tool mage test`, which builds the tree", lab.HostEnv)
	}
	if os.Geteuid() != 0 {
		lab.Absent(t, "a host with libvirt needs root, for its mounts and for libvirtd")
	}
	log := &output{}
	tmp := shared(t)
	h := &Host{Tmp: tmp, outside: sh.Host{Log: log}}
	// The end of the context of a test would come after its cleanup.
	ctx, end := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	first := &output{}
	go func() {
		args := []string{"--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child", "sh", "-euc", boot, "host", tree, tmp}
		ended <- sh.Host{Log: log}.Run(ctx, sh.Cmd{Name: "unshare", Args: append(args, binds...), Env: []string{"DAEMONS=" + daemons}, Stdout: first})
	}()
	t.Cleanup(func() {
		if t.Failed() {
			_ = h.Run(ctx, sh.Cmd{Name: "sh", Args: []string{"-c", "tail -n 30 /var/log/libvirt/*.log /var/log/libvirt/qemu/*.log /var/log/swtpm/libvirt/qemu/*.log 2>/dev/null"}})
			t.Log("the host's output:\n" + log.String())
		}
		end()
		<-ended
	})
	wait(t, "the host did not start", ended, log, func() bool {
		h.pid = strings.TrimSpace(first.String())
		return h.pid != ""
	})
	h.awaitLibvirt(t, ended, log)
	return h
}

// shared makes a folder that users other than root may pass through, which
// t.TempDir is not, and with a path that leaves room for a socket's name.
func shared(t testing.TB) string {
	dir, err := os.MkdirTemp("", "host")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// patience is how long a daemon may take to answer on a loaded machine.
const patience = time.Minute

func (h *Host) awaitLibvirt(t testing.TB, ended chan error, log *output) {
	t.Helper()
	wait(t, "libvirtd does not answer", ended, log, func() bool {
		_, err := h.Virt().Version(t.Context())
		return err == nil
	})
}

func wait(t testing.TB, what string, ended chan error, log *output, done func() bool) {
	t.Helper()
	for late := time.Now().Add(patience); !done(); time.Sleep(100 * time.Millisecond) {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("%s: it ended: %v\n%s", what, err, log)
		default:
		}
		if time.Now().After(late) {
			t.Fatalf("%s within %v\n%s", what, patience, log)
		}
	}
}

// Run implements sh.Runner.
func (h *Host) Run(ctx context.Context, c sh.Cmd) error {
	dir := c.Dir
	if dir == "" {
		dir = "/"
	}
	args := []string{"--target", h.pid, "--mount", "--pid", "--net", "--ipc", "--uts", "--root", "--", "env", "-C", dir, "-i",
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "TZ=UTC"}
	args = append(append(append(args, c.Env...), c.Name), c.Args...)
	err := h.outside.Run(ctx, sh.Cmd{Name: "nsenter", Args: args, Stdin: c.Stdin, Stdout: c.Stdout, Files: c.Files})
	var failed *sh.Error
	if errors.As(err, &failed) {
		failed.Name = c.Name
	}
	return err
}

// Virt returns a client of the host's libvirt.
func (h *Host) Virt() virt.Client { return virt.Client{Run: h, URI: virt.System} }

// Path returns where this process finds a file of the host, to look at what
// libvirt left there.
func (h *Host) Path(file string) string {
	return filepath.Join("/proc", h.pid, "root", file)
}

// Reboot does to libvirt and the network what a reboot of the host would:
// domains and networks are gone, what is under /run is gone, and libvirtd starts
// what is marked for it.
func (h *Host) Reboot(t testing.TB) {
	t.Helper()
	v := h.Virt()
	ctx := t.Context()
	domains, err := v.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range domains {
		if d.State == virt.Running {
			if err := v.Destroy(ctx, d.Name); err != nil {
				t.Fatal(err)
			}
		}
	}
	networks, err := v.RunningNetworks(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range networks {
		if err := v.NetDestroy(ctx, n); err != nil {
			t.Fatal(err)
		}
	}
	err = sh.Do(ctx, h, "sh", "-euc", `
		pid=$(cat /run/libvirtd.pid)
		kill "$pid"
		while [ -e "/proc/$pid/exe" ]; do sleep 0.1; done
		rm -rf /run/libvirt/network /run/libvirt/qemu
		libvirtd --daemon --pid-file /run/libvirtd.pid`)
	if err != nil {
		t.Fatal(err)
	}
	h.awaitLibvirt(t, make(chan error, 1), &output{})
}

// Tiny describes a virtual machine without a system: firmware, an empty disk of
// 1 MiB, a TPM, a console in Tmp. It runs emulated, from its start to its end.
func (h *Host) Tiny(t testing.TB, name string) domain.Spec {
	t.Helper()
	disk := filepath.Join(h.Tmp, name+".raw")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	return domain.Spec{
		Name: name, MemoryMiB: 1024, VCPUs: 1, Boot: domain.Disk, Emulated: true,
		Firmware: domain.Firmware{
			Code: "/usr/share/OVMF/OVMF_CODE_4M.fd", Vars: "/usr/share/OVMF/OVMF_VARS_4M.fd",
			NVRAM: filepath.Join(h.Tmp, name+".fd"),
		},
		Disk: domain.Volume{Path: disk}, TPM: domain.TPM{Present: true}, ConsoleFile: filepath.Join(h.Tmp, name+".console"),
	}
}

// Snapshot is everything that libvirt and the kernel keep for virtual machines:
// two of them that are equal show that nothing was left behind.
func (h *Host) Snapshot(t testing.TB) string {
	t.Helper()
	var out bytes.Buffer
	err := h.Run(t.Context(), sh.Cmd{Name: "sh", Args: []string{"-euc", `
		export LC_ALL=C
		echo domains; virsh list --all --name | sort
		echo networks; virsh -q net-list --all | sort
		echo filters; virsh -q nwfilter-list | sed 's/^ *[^ ]* *//' | sort
		echo bindings; virsh -q nwfilter-binding-list | sort
		echo links; ip -o link | sed -e 's/^[0-9]*: //' -e 's/[:@].*//' | sort
		echo firewall; nft list ruleset | sed -e 's/counter packets [0-9]* bytes [0-9]*/counter/' | grep iifname -c || :
		echo files
		find /etc/libvirt /var/lib/libvirt /run/libvirt /run/cc-base /var/lib/cc-base -type f ! -name '*.log' ! -name '*.pid' ! -path '*/cache/*' 2>/dev/null | sort`},
		Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// output collects what a process prints while it runs.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
