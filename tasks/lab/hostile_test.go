package lab_test

// A host that works against the guest with what it owns: SMBIOS, fw_cfg, other
// disks. The machine must come up as if none of it were there, pass its own
// checks, and go down in order.
//
// What green does not prove: that nothing else can be slipped in. What is tried
// here is what systemd reads of a host by default.

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cc-base/overlays/cc-guest/control"
	"cc-base/tasks/disk"
	"cc-base/tasks/lab"
	"cc-base/tasks/vm"
	"cc-base/validation/check"
	"cc-base/validation/guest"
)

// plantedUnit would say so on the console if systemd started it.
const plantedUnit = `[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
StandardOutput=tty
TTYPath=/dev/console
ExecStart=/bin/echo planted: the unit of the host runs
`

// credentials are what systemd takes from a host by default: systemd.exec(5),
// systemd.system-credentials(7).
func credentials() map[string]string {
	return map[string]string{
		"systemd.extra-unit.planted.service":    plantedUnit,
		"systemd.unit-dropin.multi-user.target": "[Unit]\nWants=planted.service\n",
		"passwd.hashed-password.root":           "$6$planted$L0bd0ciH1HnJ0qfS0T7SL9Sd8C1Y8G5ZbXIJmN3sR4YlVtrGmHjSAlbqZLXzNpDHf0bmoyjOWGNRxT0QWlPKn0",
		"passwd.shell.root":                     "/bin/sh",
		"getty.ttys.serial":                     "ttyS0",
		"ssh.authorized_keys.root":              "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPLANTEDPLANTEDPLANTEDPLANTEDPLANTEDPLANTED planted",
		"sysctl.extra":                          "kernel.sysrq=1\n",
		"tmpfiles.extra":                        "f /run/planted 0644 root root - planted\n",
		"journal.forward_to_socket":             "vsock:2:1234",
		"fstab.extra":                           "/dev/vda1 /mnt auto defaults 0 0\n",
	}
}

// offer puts the credentials into the machine's SMBIOS tables and its fw_cfg.
func offer(t *testing.T, g *lab.Guest, tmp string) {
	t.Helper()
	for name, value := range credentials() {
		g.OEMStrings = append(g.OEMStrings, "io.systemd.credential.binary:"+name+"="+base64.StdEncoding.EncodeToString([]byte(value)))
		file := filepath.Join(tmp, name)
		if err := os.WriteFile(file, []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
		if fw := "opt/io.systemd.credentials/" + name; len(fw) < 56 { // FW_CFG_MAX_FILE_PATH
			g.FWCfg = append(g.FWCfg, vm.FWCfg{Name: fw, Path: file})
		}
	}
}

// foreignDisk makes a disk with partitions that systemd would mount by their
// types (Discoverable Partitions Specification).
func foreignDisk(t *testing.T, file string) {
	t.Helper()
	var volumes []disk.Volume
	for n, p := range []struct{ label, kind string }{
		{"root", "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"}, {"usr", "8484680C-9521-48C6-9C11-B0720656F69E"},
		{"home", "933AC7E1-2EB4-4F13-B844-0E14E2AEF915"}, {"srv", "3B8F8425-20E0-4F3B-907F-1A25A76F98E8"},
		{"var", "4D21B016-B534-45C2-A9FB-5C16E091FD2D"}, {"swap", "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F"},
	} {
		volumes = append(volumes, disk.Volume{Label: p.label, TypeGUID: p.kind, GUID: fmt.Sprintf("00000000-0000-4000-8000-%012X", n+16), Size: 4 << 20})
	}
	if _, err := disk.Assemble(context.Background(), file, "00000000-0000-4000-8000-00000000FFFF", volumes); err != nil {
		t.Fatal(err)
	}
}

func TestWhatTheHostSlipsInHasNoEffectAndTheGuestsChecksPass(t *testing.T) {
	m := install(t)
	g := m.first()
	g.QMP = true
	offer(t, &g, m.tmp)
	foreign := filepath.Join(m.tmp, "foreign.raw")
	foreignDisk(t, foreign)
	g.Before = []vm.Disk{{Path: foreign, Format: "raw"}}
	var lines []string
	boots.Run(t, m.tools, g, func(ctx context.Context, machine *vm.Machine) {
		t.Helper()
		if _, err := machine.Expect(ctx, ready); err != nil {
			t.Fatal(err)
		}
		c, err := control.Dial(ctx, filepath.Join(g.Dir, control.PortName+".sock"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		var report check.Report
		if err := c.Ask(ctx, "check", nil, &report); err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		if err := report.Text(&text); err != nil {
			t.Fatal(err)
		}
		t.Log(text.String())
		if report.Failed() || len(report.Results) != len(guest.All(guest.Env{})) {
			t.Error("not every check of the guest has passed")
		}
		if err := g.PowerButton(ctx); err != nil {
			t.Fatal(err)
		}
		if err := machine.Wait(ctx); err != nil {
			t.Fatal(err)
		}
		lines = machine.Lines()
	})
	for _, l := range lines {
		for _, bad := range []string{"planted", "refused", "busy", "Failed unmounting", "Failed to unmount", "Failed to deactivate", "Waiting for process"} {
			if strings.Contains(l, bad) {
				t.Errorf("the console has %q", l)
			}
		}
	}
}

// Copies of one image are machines of their own.
func TestTwoInstancesOfOneImageShareNoIdentity(t *testing.T) {
	boots.LongOnly(t)
	said := map[string]string{}
	for range 2 {
		m := install(t)
		m.boot(t, m.first(), func(ctx context.Context, c *control.Client) {
			var report check.Report
			if err := c.Ask(ctx, "check", nil, &report); err != nil {
				t.Fatal(err)
			}
			for _, r := range report.Results {
				if r.ID != "boot.machine-id" && r.ID != "boot.identity-key" {
					continue
				}
				if r.Status != check.Pass || said[r.ID] == r.Detail {
					t.Errorf("%s: %s: %s, and the other instance has %q", r.ID, r.Status, r.Detail, said[r.ID])
				}
				said[r.ID] = r.Detail
			}
		})
	}
	if len(said) != 2 {
		t.Errorf("the guests said %v", said)
	}
}
