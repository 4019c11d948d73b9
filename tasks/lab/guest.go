package lab

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cc-base/tasks/toolbox"
	"cc-base/tasks/vm"
)

// Guest is one boot to be made. Paths are this process's, unless they say
// otherwise, and absolute.
type Guest struct {
	Disk       string    // raw or, with the ending .qcow2, qcow2; empty for a guest without one
	Persistent bool      // the guest's writes stay on Disk
	Before     []vm.Disk // other disks, which the machine has in front of Disk
	Key        string    // file with the image key
	OEMStrings []string
	FWCfg      []vm.FWCfg // beside the key

	// Dir, from [ShortDir], holds what a machine keeps while it is off: TPM and
	// EFI variables. Guests with the same Dir are one machine that is switched
	// on again. Empty means a machine of its own.
	Dir      string
	PCRBanks []string // of a TPM that is not in Dir yet; see vm.Machine

	SecureBoot bool   // firmware that refuses what Vars does not trust
	Vars       string // EFI variables to begin with; those of OVMF, with no keys, when empty
	BIOS       string // of the tools tree; firmware that measures nothing, such as [QBoot]

	Kernel, Initrd, Append string // what the host starts instead of the disk

	QMP     bool          // a socket qmp.sock in Dir, where [PowerButton] presses
	Ports   []vm.Port     // sockets in Dir unless they have a path in a folder that tools binds
	Answers []Answer      // given in order, before anything else is waited for
	Within  time.Duration // for all of it; a few minutes when zero
}

// Answer is what is typed on the console after a line with Question was seen.
type Answer struct{ Question, Text string }

// QBoot is the tools tree's firmware that starts a kernel and measures nothing.
const QBoot = "/usr/share/qemu/qboot.rom"

// bootTime bounds a boot; a loaded machine needs a minute for a good one.
const bootTime = 6 * time.Minute

// ShortDir returns a folder that ends with the test, with a path that leaves
// room for a socket's name: its limit is 107 bytes, and t.TempDir is longer.
func ShortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lab")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Machine returns the guest's machine, not started.
func (g Guest) Machine(t testing.TB, tools toolbox.Tree) *vm.Machine {
	t.Helper()
	if g.Dir == "" {
		g.Dir = ShortDir(t)
	}
	code := "/usr/share/OVMF/OVMF_CODE_4M.fd"
	if g.SecureBoot {
		code = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
	}
	if g.Vars == "" {
		g.Vars = filepath.Join(tools.Dir, "usr/share/OVMF/OVMF_VARS_4M.fd")
	}
	m := &vm.Machine{
		Runner: tools.With(g.Dir), Dir: g.Dir, MemoryMiB: 1024, TPM: true, OEMStrings: g.OEMStrings,
		Firmware: vm.Firmware{Code: code, Vars: g.Vars}, SecureBoot: g.SecureBoot, BIOS: g.BIOS, PCRBanks: g.PCRBanks,
		Kernel: g.Kernel, Initrd: g.Initrd, Append: g.Append, Ports: g.Ports,
	}
	m.Disks = append(m.Disks, g.Before...)
	if g.Disk != "" {
		m.Disks = append(m.Disks, vm.Disk{Path: g.Disk, Format: strings.TrimPrefix(filepath.Ext(g.Disk), "."), Persistent: g.Persistent})
	}
	m.FWCfg = append(m.FWCfg, g.FWCfg...)
	if g.QMP {
		m.Extra = append(m.Extra, "-qmp", "unix:"+filepath.Join(g.Dir, qmpSocket)+",server=on,wait=off")
	}
	if g.Key != "" {
		m.FWCfg = append(m.FWCfg, vm.FWCfg{Name: vm.EnrollKey, Path: g.Key})
	}
	return m
}

// Run starts the guest, gives its answers, lets do talk with it and ends it.
// The context ends when the time for a boot is over. The console is shown when
// the test has failed.
func (b *Boots) Run(t testing.TB, tools toolbox.Tree, g Guest, do func(ctx context.Context, m *vm.Machine)) {
	t.Helper()
	m := g.Machine(t, tools)
	done := b.Count(t)
	defer done()
	ctx, cancel := context.WithTimeout(context.Background(), cmp.Or(g.Within, bootTime))
	defer cancel()
	if err := m.Start(ctx); err != nil {
		t.Fatal(err)
	}
	defer func() {
		m.Close()
		if t.Failed() {
			t.Log("the console:\n" + strings.Join(m.Lines(), "\n"))
		}
	}()
	for _, a := range g.Answers {
		if _, err := m.Expect(ctx, a.Question); err != nil {
			t.Fatal(err)
		}
		if err := m.Type(a.Text + "\n"); err != nil {
			t.Fatal(err)
		}
	}
	do(ctx, m)
}

// Boot starts the guest, waits for one of the lines and for the machine's end
// if it is to end, and returns the console. until is matched as a part of a
// line; empty means that the machine must end by itself.
func (b *Boots) Boot(t testing.TB, tools toolbox.Tree, g Guest, until string) (lines []string) {
	t.Helper()
	b.Run(t, tools, g, func(ctx context.Context, m *vm.Machine) {
		t.Helper()
		err := error(nil)
		if until != "" {
			_, err = m.Expect(ctx, until)
		} else {
			err = m.Wait(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
		lines = m.Lines()
	})
	return lines
}

const qmpSocket = "qmp.sock"

// PowerButton presses the machine's, as `virsh shutdown` does.
func (g Guest) PowerButton(ctx context.Context) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", filepath.Join(g.Dir, qmpSocket))
	if err != nil {
		return err
	}
	defer conn.Close()
	answers := json.NewDecoder(conn)
	var greeting any
	if err := answers.Decode(&greeting); err != nil {
		return err
	}
	for _, command := range []string{"qmp_capabilities", "system_powerdown"} {
		if _, err := fmt.Fprintf(conn, "{\"execute\":%q}\n", command); err != nil {
			return err
		}
		for {
			var answer struct {
				Return *struct{} `json:"return"`
				Error  any       `json:"error"`
			}
			if err := answers.Decode(&answer); err != nil {
				return err
			}
			if answer.Error != nil {
				return fmt.Errorf("%s: %v", command, answer.Error)
			}
			if answer.Return != nil {
				break // and no event
			}
		}
	}
	return nil
}
