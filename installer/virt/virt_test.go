package virt_test

// Green here means: the commands are those of virsh(1), and what virsh 11.3
// prints, copied from runs of it, is understood. Whether libvirt does what is
// asked is tested in installer/hostlab; other versions of virsh are not tried.

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cc-base/installer/virt"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/sh"
)

const versions = `Compiled against library: libvirt 11.3.0
Using library: libvirt 11.3.0
Using API: QEMU 11.3.0
Running hypervisor: QEMU 10.0.13
Running against daemon: 11.3.0
`

// answering is a client whose virsh answers the command with the text.
func answering(answers map[string]string) (virt.Client, *sh.Recorder) {
	r := &sh.Recorder{Answer: func(c sh.Cmd) (string, error) { return answers[c.Args[2]], nil }}
	return virt.Client{Run: r}, r
}

// failing is a client whose virsh prints the lines and fails.
func failing(lines ...string) virt.Client {
	return virt.Client{Run: &sh.Recorder{Answer: func(c sh.Cmd) (string, error) {
		return "", fault.New(fault.Command, &sh.Error{Name: c.Name, Code: 1, Tail: lines})
	}}}
}

func TestEachMethodIsOneCommand(t *testing.T) {
	t.Parallel()
	c, r := answering(map[string]string{"version": versions})
	ctx := t.Context()
	for _, err := range []error{
		c.Define(ctx, "<domain/>"), c.Start(ctx, "n"), c.Destroy(ctx, "n"), c.Shutdown(ctx, "n"),
		c.Autostart(ctx, "n", true), c.Autostart(ctx, "n", false), c.Undefine(ctx, "n"),
		c.NetDefine(ctx, "<network/>"), c.NetStart(ctx, "n"), c.NetAutostart(ctx, "n", true), c.NetDestroy(ctx, "n"), c.NetUndefine(ctx, "n"),
		c.FilterDefine(ctx, "<filter/>"), c.FilterUndefine(ctx, "n"), c.BindingCreate(ctx, "<filterbinding/>"), c.BindingDelete(ctx, "n"),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	want := strings.ReplaceAll(`define /dev/stdin
start --domain n
destroy --domain n
shutdown --domain n
autostart --domain n
autostart --domain n --disable
version --daemon
undefine --domain n --managed-save --nvram --tpm
net-define /dev/stdin
net-start --network n
net-autostart --network n
net-destroy --network n
net-undefine --network n
nwfilter-define /dev/stdin
nwfilter-undefine --nwfilter n
nwfilter-binding-create /dev/stdin
nwfilter-binding-delete --binding n
`, "\n", "\nvirsh -c qemu:///system ")
	want = "virsh -c qemu:///system " + strings.TrimSuffix(want, "virsh -c qemu:///system ")
	if diff := cmp.Diff(want, r.Transcript()); diff != "" {
		t.Error(diff)
	}
}

// Debian 12 has libvirt 9.0, Ubuntu 22.04 has 8.0, which knows no --tpm.
func TestOldLibvirtIsNotAskedForWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	for old, want := range map[string]bool{"8.0.0": false, "8.9.0": true, "9.0.0": true} {
		c, r := answering(map[string]string{"version": strings.ReplaceAll(versions, "against daemon: 11.3.0", "against daemon: "+old)})
		if err := c.Undefine(t.Context(), "n"); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(r.Transcript(), "--tpm"); got != want {
			t.Errorf("%s: --tpm %t", old, got)
		}
	}
}

func TestListsAreRead(t *testing.T) {
	t.Parallel()
	c, _ := answering(map[string]string{
		"list": ` Id   Name            State
---------------------------------
 1    web             running
 -    a b             shut off
 -    cc-base         shut off
 12   idle running    no state

`,
		"net-list":      "default\n ccbr0 \n\n",
		"nwfilter-list": " UUID                                  Name\n----------------------------------------\n 0a1b2c3d-2fa1-41d2-883f-0016d3cca427  z\n 1a1b2c3d-2fa1-41d2-883f-0016d3cca427  a-b\n\n",
		"domstate":      "shut off\n\n",
	})
	domains, err := c.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]virt.Domain{{"a b", virt.ShutOff}, {"cc-base", virt.ShutOff}, {"idle running", "no state"}, {"web", virt.Running}}, domains); diff != "" {
		t.Error(diff)
	}
	networks, err := c.Networks(t.Context())
	if diff := cmp.Diff([]string{"ccbr0", "default"}, networks); diff != "" || err != nil {
		t.Error(diff, err)
	}
	filters, err := c.Filters(t.Context())
	if diff := cmp.Diff([]string{"a-b", "z"}, filters); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if state, err := c.State(t.Context(), "n"); state != virt.ShutOff || err != nil {
		t.Error(state, err)
	}
	c, _ = answering(map[string]string{"list": "a\nb\nnonsense\n"})
	_, err = c.List(t.Context())
	faulttest.Want(t, err, fault.Libvirt, "nonsense")
}

const stats = `Domain: 'n'
  state.state=1
  state.reason=1
  cpu.time=14256339000
  cpu.user=120
  balloon.current=1048576
  balloon.maximum=1048576
  balloon.rss=300000
  vcpu.current=2
  vcpu.maximum=4
  net.count=1
  net.0.name=vnet3
  net.0.rx.bytes=100
  net.0.rx.drop=7
  net.0.tx.bytes=200
  block.count=1
  block.0.name=vda
  block.0.path=/dev/a=b
  block.0.rd.reqs=3
  block.0.rd.bytes=4096
  block.0.wr.reqs=1
  block.0.wr.bytes=512

`

func TestStatisticsAreRead(t *testing.T) {
	t.Parallel()
	c, _ := answering(map[string]string{"domstats": stats})
	got, err := c.Stats(t.Context(), "n")
	if err != nil {
		t.Fatal(err)
	}
	want := virt.Stats{
		State: 1, CPU: 14256339 * time.Microsecond, VCPUs: 2, MemoryBytes: 1 << 30, RSSBytes: 300000 << 10,
		Blocks: []virt.Block{{Name: "vda", Reads: 3, ReadBytes: 4096, Writes: 1, WriteBytes: 512}},
		Nets:   []virt.Net{{Name: "vnet3", RxBytes: 100, TxBytes: 200, RxDrop: 7}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for bad, says := range map[string]string{
		"":              "no state",
		"state.state=x": "state.state=x",
		"state.state=1\nblock.count=99999\nblock.0.rd.reqs=-x": "block.0.rd.reqs",
		"state.state=1\nnet.count=1\nnet.0.rx.bytes=1e3":       "net.0.rx.bytes",
	} {
		c, _ := answering(map[string]string{"domstats": bad})
		_, err := c.Stats(t.Context(), "n")
		faulttest.Want(t, err, fault.Libvirt, says)
	}
}

func TestFailuresHaveTheirCode(t *testing.T) {
	t.Parallel()
	_, err := failing("error: failed to get domain 'nope'").State(t.Context(), "nope")
	faulttest.Want(t, err, fault.NoVM, "nope")
	if !errors.Is(err, virt.ErrNotFound) {
		t.Error("not told apart")
	}
	_, err = failing("error: failed to get network 'nope'", "error: Network not found: no network with matching name 'nope'").NetXML(t.Context(), "nope")
	faulttest.Want(t, err, fault.Libvirt, "no network with matching name")
	if !errors.Is(err, virt.ErrNotFound) {
		t.Error("not told apart")
	}
	_, err = failing("error: failed to connect to the hypervisor", "error: Failed to connect socket to '/run/libvirt/libvirt-sock': No such file or directory").List(t.Context())
	faulttest.Want(t, err, fault.NoLibvirt, "Failed to connect socket")
	err = failing("error: Failed to start domain 'n'", "error: internal error: process exited").Start(t.Context(), "n")
	faulttest.Want(t, err, fault.Libvirt, "virsh start: Failed to start domain 'n': internal error: process exited")
	if errors.Is(err, virt.ErrNotFound) {
		t.Error("called not found")
	}
	err = failing("Segmentation fault").Start(t.Context(), "n")
	faulttest.Want(t, err, fault.Libvirt, "Segmentation fault")
}

func TestAHostWithoutVirshIsTold(t *testing.T) {
	t.Parallel()
	c := virt.Client{Run: sh.Host{Env: []string{"PATH=/nonexistent"}}}
	_, err := c.List(t.Context())
	faulttest.Want(t, err, fault.NoLibvirt, "virsh")
	if !errors.Is(err, exec.ErrNotFound) {
		t.Error(err)
	}
}
