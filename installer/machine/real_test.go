package machine_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cc-base/installer/hostlab"
	"cc-base/installer/machine"
	"cc-base/tasks/domain"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/sh"
)

const realNetwork = `<network><name>cct0</name><uuid>22222222-2fa1-41d2-883f-0016d3cca427</uuid>
<bridge name='cct0' stp='off' delay='0'/><ip address='10.99.7.1' prefix='24'/></network>`

const realFilter = `<filter name='cct-filter' chain='root'><uuid>11111111-2fa1-41d2-883f-0016d3cca427</uuid>
<rule action='drop' direction='out' priority='100'><mac protocolid='0x88cc'/></rule></filter>`

func realWanted(t *testing.T, host *hostlab.Host) machine.Wanted {
	t.Helper()
	s := host.Tiny(t, "real")
	s.Network = domain.Network{Name: "cct0"}
	s.ControlSocket = filepath.Join(host.Tmp, "run", "c.sock")
	s.EnrollFile = filepath.Join(host.Tmp, "secret")
	if err := os.WriteFile(s.EnrollFile, []byte("enrolment secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	return machine.Wanted{
		Spec: s, Autostart: true,
		Filters:  []machine.Resource{{Name: "cct-filter", UUID: "11111111-2fa1-41d2-883f-0016d3cca427", XML: realFilter}},
		Networks: []machine.Resource{{Name: "cct0", UUID: "22222222-2fa1-41d2-883f-0016d3cca427", XML: realNetwork}},
		Files:    []machine.File{{Path: filepath.Join(host.Tmp, "etc", "settings"), Mode: 0o644, Data: []byte("A=\"b\"\n")}},
	}
}

// The whole way on a real libvirt: failures that libvirt itself finds leave
// nothing; a machine is made, gets ready, loses its secret, survives a reboot of
// the host, is changed and changed back, and is removed without a trace.
func TestAMachineLivesUnderARealLibvirt(t *testing.T) {
	lab := hostlab.Start(t)
	ctx := t.Context()
	h := machine.Host{Virt: lab.Virt(), Root: filepath.Join(lab.Tmp, "lib"), Log: t.Logf, Ready: time.Minute}
	w := realWanted(t, lab)
	image := func() string {
		return lab.Snapshot(t) + strings.Join(filetest.Names(t, lab.Tmp), "\n")
	}
	before := image()

	for name, spoil := range map[string]func(w *machine.Wanted){
		"a network in the way of another one": func(w *machine.Wanted) {
			w.Networks[0].XML = strings.Replace(realNetwork, "10.99.7.1", "127.0.0.1", 1)
			w.Networks[0].XML = strings.Replace(w.Networks[0].XML, "cct0' stp", "lo' stp", 1)
		},
		"a network card without its network": func(w *machine.Wanted) { w.Spec.Network.Name = "none" },
		"a firmware that is not there":       func(w *machine.Wanted) { w.Spec.Firmware.Code = "/nonexistent.fd" },
		"a filter that means nothing":        func(w *machine.Wanted) { w.Filters[0].XML = strings.Replace(realFilter, "drop", "frob", 1) },
	} {
		bad := realWanted(t, lab)
		spoil(&bad)
		err := h.Make(ctx, bad)
		faulttest.Want(t, err, fault.Libvirt)
		if diff := cmp.Diff(before, image()); diff != "" {
			t.Fatalf("%s left (-before +after):\n%s", name, diff)
		}
	}

	plan, err := h.Plan(ctx, w)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Define(ctx, plan); err != nil {
		t.Fatal(err)
	}
	// There is no system that would say it is ready. The console is virtlogd's,
	// which only appends.
	said := make(chan error, 1)
	go func() { said <- say(w.Spec.ConsoleFile, "cc-base: ready\r\n") }()
	if err := errors.Join(h.FirstBoot(ctx, "real"), <-said); err != nil {
		t.Fatal(err)
	}
	xml, err := lab.Virt().XML(ctx, "real")
	if err != nil || strings.Contains(xml, domain.EnrollKey) || !strings.Contains(xml, plan.Spec.UUID) || !strings.Contains(xml, plan.Spec.Network.MAC) {
		t.Errorf("%v\n%s", err, xml)
	}
	if _, err := os.Stat(w.Spec.EnrollFile); !errors.Is(err, os.ErrNotExist) {
		t.Error("the secret is still there")
	}
	if err := sh.Do(ctx, lab, "ip", "link", "show", "cct0"); err != nil {
		t.Errorf("no bridge: %v", err)
	}

	lab.Reboot(t)
	if err := sh.Do(ctx, lab, "ip", "link", "show", "cct0"); err != nil {
		t.Errorf("no bridge after a reboot: %v", err)
	}
	if state, err := lab.Virt().State(ctx, "real"); state != "running" || err != nil {
		t.Errorf("after a reboot: %q %v", state, err)
	}

	w.Spec.VCPUs = 2
	change, err := h.Apply(ctx, "real", w)
	if err != nil || !strings.Contains(change.Diff, `+  <vcpu placement="static">2</vcpu>`) {
		t.Errorf("%v\n%s", err, change.Diff)
	}
	if xml, err = lab.Virt().XML(ctx, "real"); err != nil || !strings.Contains(xml, "<vcpu placement='static'>2</vcpu>") {
		t.Errorf("%v\n%s", err, xml)
	}
	if _, err := h.UndoApply(ctx, "real"); err != nil {
		t.Error(err)
	}
	if xml, err = lab.Virt().XML(ctx, "real"); err != nil || !strings.Contains(xml, "<vcpu placement='static'>1</vcpu>") {
		t.Errorf("%v\n%s", err, xml)
	}

	if kept, err := h.Undefine(ctx, "real"); err != nil || len(kept) != 0 {
		t.Fatal(kept, err)
	}
	realWanted(t, lab) // the secret, again
	if diff := cmp.Diff(before, image()); diff != "" {
		t.Errorf("uninstalled (-before +after):\n%s", diff)
	}
}

// say appends a line to the console, once the machine has one.
func say(file, line string) error {
	for late := time.Now().Add(time.Minute); time.Now().Before(late); time.Sleep(100 * time.Millisecond) {
		f, err := os.OpenFile(file, os.O_WRONLY|syscall.O_APPEND, 0)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if info, err := f.Stat(); err != nil || info.Size() == 0 {
			f.Close()
			continue // the firmware prints first
		}
		_, err = f.WriteString("\r\n" + line)
		return errors.Join(err, f.Close())
	}
	return errors.New("there was no console")
}
