package machine_test

// Green here means: whatever step of a definition fails, nothing of it is left;
// the ready line, a refusal and an end are told apart; the secret is gone when
// the machine is ready. Most of it is tried on a libvirt that is only played
// (libvirt_test.go), the whole way once on a real one (real_test.go), with a
// machine that has no system in it: the lines that it should print are written
// to its console by the test. A failure of the host's disk is not tried.

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cc-base/installer/machine"
	"cc-base/tasks/domain"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
)

const (
	filterXML  = `<filter name='f'><uuid>11111111-2fa1-41d2-883f-0016d3cca427</uuid></filter>`
	networkXML = `<network><name>n</name><uuid>22222222-2fa1-41d2-883f-0016d3cca427</uuid></network>`
)

// place is a host with a libvirt that is played and a folder for everything.
type place struct {
	*libvirt
	host machine.Host
	tmp  string
}

func newPlace(t *testing.T) place {
	t.Helper()
	l, tmp := newLibvirt(), t.TempDir()
	p := place{libvirt: l, tmp: tmp, host: machine.Host{Virt: l.client(), Root: filepath.Join(tmp, "lib"), Ready: 2 * time.Second}}
	l.things["network other"], l.things["domain other"], l.things["filter other"] = "<uuid>o</uuid>", "<uuid>o</uuid>", "<uuid>o</uuid>"
	filetest.Write(t, p.in("edited.conf"), []byte("by hand\n"))
	filetest.Write(t, p.in("secret"), []byte("enrolment secret"))
	return p
}

func (p place) in(name string) string { return filepath.Join(p.tmp, name) }

// prints makes the guest print the text when it starts.
func (p place) prints(t *testing.T, text string) {
	p.started = func() { filetest.Write(t, p.in("log/console"), []byte(text)) }
}

func (p place) wanted() machine.Wanted {
	return machine.Wanted{
		Spec: domain.Spec{
			Name: "vm", MemoryMiB: 1024, VCPUs: 1, Boot: domain.Disk, Emulated: true,
			Firmware:   domain.Firmware{Code: "/code", Vars: "/vars", NVRAM: p.in("lib/vm/vars.fd")},
			Disk:       domain.Volume{Path: "/disk"},
			Network:    domain.Network{Name: "n"},
			EnrollFile: p.in("secret"), ConsoleFile: p.in("log/console"), ControlSocket: p.in("run/vm/c.sock"),
		},
		Autostart: true,
		Filters:   []machine.Resource{{Name: "f", UUID: "11111111-2fa1-41d2-883f-0016d3cca427", XML: filterXML}},
		Networks:  []machine.Resource{{Name: "n", UUID: "22222222-2fa1-41d2-883f-0016d3cca427", XML: networkXML}},
		Files: []machine.File{
			{Path: p.in("etc/cc/new.conf"), Mode: 0o644, Data: []byte("new\n")},
			{Path: p.in("edited.conf"), Mode: 0o644, Data: []byte("ours\n")},
		},
	}
}

// image is everything that there is: libvirt's things and every file.
func (p place) everything(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString(p.image())
	err := filepath.WalkDir(p.tmp, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		b.WriteString(path + " " + d.Type().String())
		if !d.IsDir() {
			b.Write(filetest.Read(t, path))
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func (p place) plan(t *testing.T) machine.Plan {
	t.Helper()
	plan, err := p.host.Plan(t.Context(), p.wanted())
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func TestAPlanSaysEverythingAndChangesNothing(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	before := p.everything(t)
	text := p.plan(t).String()
	for _, part := range []string{"new.conf", "filter f", "network n", "domain vm", "started with the host", networkXML, filterXML, "<name>vm</name>", "run/vm"} {
		if !strings.Contains(text, part) {
			t.Errorf("no %q in\n%s", part, text)
		}
	}
	if strings.Contains(text, "enrolment secret") {
		t.Error("the secret is in the plan")
	}
	if diff := cmp.Diff(before, p.everything(t)); diff != "" {
		t.Error(diff)
	}
}

// Each change to libvirt fails in turn, until none is left to fail.
func TestWhicheverStepFailsNothingIsLeft(t *testing.T) {
	t.Parallel()
	for n := 1; ; n++ {
		p := newPlace(t)
		before := p.everything(t)
		plan := p.plan(t)
		p.failAt = n
		err := p.host.Define(t.Context(), plan)
		if err == nil {
			if n < 6 {
				t.Errorf("only %d steps could fail", n-1)
			}
			return
		}
		faulttest.Want(t, err, fault.Libvirt, "injected")
		if diff := cmp.Diff(before, p.everything(t)); diff != "" {
			t.Errorf("step %d left (-before +after):\n%s", n, diff)
		}
	}
}

// A settings file that cannot be written fails in the middle, too.
func TestAFileThatCannotBeWrittenLeavesNothing(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	before := p.everything(t)
	w := p.wanted()
	w.Files = append(w.Files, machine.File{Path: p.in("secret/below-a-file"), Mode: 0o644})
	plan, err := p.host.Plan(t.Context(), w)
	if err == nil {
		err = p.host.Define(t.Context(), plan)
	}
	if err == nil {
		t.Fatal("no error")
	}
	if diff := cmp.Diff(before, p.everything(t)); diff != "" {
		t.Error(diff)
	}
}

func TestAMachineThatCannotStartIsTakenBack(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	before := p.everything(t)
	plan := p.plan(t)
	if err := p.host.Define(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	p.failAt = p.changes + 1
	faulttest.Want(t, p.host.FirstBoot(t.Context(), "vm"), fault.Libvirt, "injected")
	if diff := cmp.Diff(before, p.everything(t)); diff != "" {
		t.Error(diff)
	}
}

// libvirt goes away after each step in turn, as it does for a process that is
// killed: nothing can be taken back, and the record is all that is left. It is
// enough for the next run, and for an uninstallation.
func TestWhatACutOffRunLeftIsTakenBackByTheNext(t *testing.T) {
	t.Parallel()
	for n := 1; ; n++ {
		p := newPlace(t)
		before := p.everything(t)
		plan := p.plan(t)
		p.deadAt = n
		err := p.host.Define(t.Context(), plan)
		if err == nil {
			if n < 6 {
				t.Errorf("only %d steps could be cut off", n-1)
			}
			return
		}
		p.deadAt = 0
		if n%2 == 0 {
			again, err := p.host.Plan(t.Context(), p.wanted())
			if err != nil {
				t.Fatalf("step %d: %v", n, err)
			}
			if err := p.host.Define(t.Context(), again); err != nil {
				t.Fatalf("step %d: %v", n, err)
			}
		}
		if _, err := p.host.Undefine(t.Context(), "vm"); err != nil && fault.Of(err).Code != fault.NoVM {
			t.Fatalf("step %d: %v", n, err)
		}
		filetest.Write(t, p.in("secret"), []byte("enrolment secret"))
		if diff := cmp.Diff(before, p.everything(t)); diff != "" {
			t.Errorf("step %d (-before +after):\n%s", n, diff)
		}
	}
}

// The process is killed just before it would call the machine defined.
func TestADefinitionWithoutItsEndIsMadeAnew(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	before := p.everything(t)
	if err := p.host.Define(t.Context(), p.plan(t)); err != nil {
		t.Fatal(err)
	}
	file := p.in("lib/vm/state.json")
	filetest.Write(t, file, []byte(strings.Replace(string(filetest.Read(t, file)), `"phase": "defined"`, `"phase": "defining"`, 1)))
	faulttest.Want(t, p.host.FirstBoot(t.Context(), "vm"), fault.VMState, "never defined")
	if err := p.host.Define(t.Context(), p.plan(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.host.Undefine(t.Context(), "vm"); err != nil {
		t.Fatal(err)
	}
	filetest.Write(t, p.in("secret"), []byte("enrolment secret"))
	if diff := cmp.Diff(before, p.everything(t)); diff != "" {
		t.Error(diff)
	}
}

func TestTheSecretIsWithdrawnWhenTheGuestIsReady(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	before := p.everything(t)
	p.prints(t, "BdsDxe: starting\r\n[    1.0] Linux\r\n\x1b[0mcc-base: ready\r\n")
	if err := p.host.Make(t.Context(), p.wanted()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p.in("secret")); !errors.Is(err, os.ErrNotExist) {
		t.Error("the secret is still there")
	}
	if x := p.things["domain vm"]; strings.Contains(x, domain.EnrollKey) || !strings.Contains(x, "<name>vm</name>") {
		t.Errorf("the definition:\n%s", x)
	}
	s, err := p.host.State("vm")
	if err != nil || s.Phase != machine.Ready || s.Now.Spec.EnrollFile != "" || s.Now.XML != p.things["domain vm"] {
		t.Errorf("%+v %v", s, err)
	}
	if info, err := os.Stat(p.in("lib/vm/state.json")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	if err := p.host.FirstBoot(t.Context(), "vm"); err != nil {
		t.Errorf("once more: %v", err)
	}
	kept, err := p.host.Undefine(t.Context(), "vm")
	if err != nil || len(kept) != 0 {
		t.Fatal(kept, err)
	}
	filetest.Write(t, p.in("secret"), []byte("enrolment secret"))
	if diff := cmp.Diff(before, p.everything(t)); diff != "" {
		t.Errorf("uninstalled (-before +after):\n%s", diff)
	}
}

func TestAGuestThatIsNotReadyIsAnError(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		prints string
		ends   bool
		code   fault.Code
		says   []string
	}{
		"a refusal":            {"noise\r\ncc-base: refused: CC0803: cc-root: the image key does not open it\r\n", true, fault.GuestKey, []string{"the image key does not open it"}},
		"a code of the future": {"cc-base: refused: CC0899: new\n", false, fault.VMNotReady, []string{"CC0899", "new"}},
		"a panic":              {"Kernel panic - not syncing: dm-verity device corrupted\n", true, fault.VMNotReady, []string{"it ended", "dm-verity device corrupted"}},
		"silence":              {"", false, fault.VMNotReady, []string{"have passed"}},
		"half a line":          {"cc-base: ready", false, fault.VMNotReady, []string{"have passed"}},
		"a terminal's orders":  {"\x1b[2J\x1b]0;title\x07text\n", true, fault.VMNotReady, []string{"text"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			p.prints(t, tc.prints)
			if tc.ends {
				write := p.started
				p.started = func() { write(); delete(p.running, "domain vm") }
			}
			err := p.host.Make(t.Context(), p.wanted())
			faulttest.Want(t, err, tc.code, tc.says...)
			if strings.Contains(err.Error(), "\x1b") {
				t.Errorf("%q", err)
			}
			if _, err := os.Stat(p.in("secret")); err != nil {
				t.Error("the secret is gone, and the guest has not used it")
			}
			// It can be tried again, and an old line does not count.
			p.running["domain vm"] = false
			p.prints(t, "cc-base: ready\n")
			if err := p.host.FirstBoot(t.Context(), "vm"); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTakenNamesAreRefusedTogether(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.things["domain vm"], p.things["network n"], p.things["filter f"] = "<domain/>", "<network/>", "<filter/>"
	before := p.everything(t)
	_, err := p.host.Plan(t.Context(), p.wanted())
	faulttest.Want(t, err, fault.VMTaken, "domain vm", "network n", "filter f")
	if diff := cmp.Diff(before, p.everything(t)); diff != "" {
		t.Error(diff)
	}
}

// Whoever replaced a domain, network or filter of ours keeps it.
func TestOnlyWhatWasMadeIsRemoved(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	if err := p.host.Define(t.Context(), p.plan(t)); err != nil {
		t.Fatal(err)
	}
	p.things["network n"] = "<network><name>n</name><uuid>99999999-2fa1-41d2-883f-0016d3cca427</uuid></network>"
	filetest.Write(t, p.in("etc/cc/new.conf"), []byte("edited by hand\n"))
	filetest.Write(t, p.in("run/vm/note"), []byte("of somebody else\n"))
	if _, err := p.host.Undefine(t.Context(), "vm"); err != nil {
		t.Fatal(err)
	}
	if p.things["network n"] == "" || string(filetest.Read(t, p.in("etc/cc/new.conf"))) != "edited by hand\n" || string(filetest.Read(t, p.in("run/vm/note"))) == "" {
		t.Error("something of somebody else is gone")
	}
	if p.things["domain vm"] != "" || p.things["filter f"] != "" || string(filetest.Read(t, p.in("edited.conf"))) != "by hand\n" {
		t.Error("something of ours is still there, or what was there before is not back")
	}
	_, err := p.host.Undefine(t.Context(), "vm")
	faulttest.Want(t, err, fault.NoVM, "vm")
}

func TestANetworkThatOthersUseIsHandedOver(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	before := p.everything(t)
	if err := p.host.Define(t.Context(), p.plan(t)); err != nil {
		t.Fatal(err)
	}
	second := p.wanted()
	second.Spec.Name, second.Spec.ControlSocket, second.Spec.ConsoleFile = "second", p.in("run/second/c.sock"), p.in("log/second")
	second.Filters, second.Networks, second.Files = nil, nil, nil
	plan, err := p.host.Plan(t.Context(), second)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.host.Define(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	kept, err := p.host.Undefine(t.Context(), "vm")
	if err != nil || !slices.Equal(kept, []string{"n"}) || p.things["network n"] == "" {
		t.Errorf("%v %v", kept, err)
	}
	if kept, err = p.host.Undefine(t.Context(), "second"); err != nil || len(kept) != 0 || p.things["network n"] != "" {
		t.Errorf("the heir left it: %v %v", kept, err)
	}
	// The folders above both went to the heir, too.
	filetest.Write(t, p.in("secret"), []byte("enrolment secret"))
	if diff := cmp.Diff(before, p.everything(t)); diff != "" {
		t.Errorf("both uninstalled (-before +after):\n%s", diff)
	}
}

func ready(t *testing.T) place {
	t.Helper()
	p := newPlace(t)
	p.prints(t, "cc-base: ready\n")
	if err := p.host.Make(t.Context(), p.wanted()); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAChangeIsShownAppliedAndUndone(t *testing.T) {
	t.Parallel()
	p := ready(t)
	first := p.things["domain vm"]
	w := p.wanted()
	w.Spec.MemoryMiB, w.Spec.EnrollFile = 2048, ""
	w.Filters[0].XML = strings.Replace(filterXML, "</filter>", "<rule/></filter>", 1)
	before := p.everything(t)
	change, err := p.host.Preview("vm", w)
	if err != nil || before != p.everything(t) {
		t.Errorf("%v, or the preview changed something", err)
	}
	for _, line := range []string{"\n-  <memory unit=\"MiB\">1024</memory>\n", "\n+  <memory unit=\"MiB\">2048</memory>\n", "<rule/>"} {
		if !strings.Contains(change.Diff, line) {
			t.Errorf("no %q in\n%s", line, change.Diff)
		}
	}
	for _, line := range strings.Split(change.Diff, "\n") {
		if strings.Contains(line, "<mac") && strings.ContainsAny(line[:1], "+-") || strings.Contains(line, "uuid") && strings.HasPrefix(line, "+  <") {
			t.Errorf("changed by itself: %s", line)
		}
	}
	if applied, err := p.host.Apply(t.Context(), "vm", w); err != nil || applied != change {
		t.Errorf("%v %v", applied, err)
	}
	if !strings.Contains(p.things["domain vm"], "2048") || !strings.Contains(p.things["filter f"], "<rule/>") {
		t.Error("not applied")
	}
	if again, err := p.host.Apply(t.Context(), "vm", w); err != nil || again.Diff != "" {
		t.Errorf("the same once more: %v %v", again, err)
	}
	if _, err := p.host.UndoApply(t.Context(), "vm"); err != nil || p.things["domain vm"] != first || p.things["filter f"] != filterXML {
		t.Errorf("not undone: %v\n%s", err, p.things["domain vm"])
	}
	xml, err := p.host.VMXML("vm")
	if err != nil || xml != first {
		t.Errorf("%v\n%s", err, xml)
	}
}

func TestAChangeThatFailsChangesNothing(t *testing.T) {
	t.Parallel()
	for n := 1; ; n++ {
		p := ready(t)
		w := p.wanted()
		w.Spec.MemoryMiB = 2048
		w.Filters[0].XML = strings.Replace(filterXML, "</filter>", "<rule/></filter>", 1)
		w.Networks = append(w.Networks, machine.Resource{Name: "n2", UUID: "33333333-2fa1-41d2-883f-0016d3cca427",
			XML: `<network><name>n2</name><uuid>33333333-2fa1-41d2-883f-0016d3cca427</uuid></network>`})
		before := p.image()
		p.failAt = p.changes + n
		_, err := p.host.Apply(t.Context(), "vm", w)
		if err == nil {
			if n < 6 {
				t.Errorf("only %d steps could fail", n-1)
			}
			return
		}
		faulttest.Want(t, err, fault.Libvirt, "injected")
		after := p.image()
		if n > 3 { // the network is made by then, recorded, and harms nobody
			after = strings.Replace(after, "network n2 running true autostart true\n"+w.Networks[1].XML+"\n", "", 1)
		}
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("step %d (-before +after):\n%s", n, diff)
		}
		if s, err := p.host.State("vm"); err != nil || s.Now.Spec.MemoryMiB != 1024 {
			t.Errorf("%+v %v", s.Now.Spec, err)
		}
		if _, err := p.host.Undefine(t.Context(), "vm"); err != nil || strings.Contains(p.image(), "n2") {
			t.Errorf("uninstalled: %v\n%s", err, p.image())
		}
	}
}

func TestNothingIsAppliedBeforeTheFirstBoot(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	if err := p.host.Define(t.Context(), p.plan(t)); err != nil {
		t.Fatal(err)
	}
	_, err := p.host.Apply(t.Context(), "vm", p.wanted())
	faulttest.Want(t, err, fault.VMState, "defined")
	_, err = ready(t).host.UndoApply(t.Context(), "vm")
	faulttest.Want(t, err, fault.VMState, "nothing was applied")
	_, err = p.host.Preview("nobody", p.wanted())
	faulttest.Want(t, err, fault.NoVM, "nobody")
}

func TestTheLaunchDigestIsOfExactlyThisDomain(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.host.Digest = func(s domain.Spec) ([]byte, error) { return []byte{byte(s.VCPUs), 0xab}, nil }
	p.prints(t, "cc-base: ready\n")
	w := p.wanted()
	w.Spec.Boot, w.Spec.Kernel, w.Spec.Emulated, w.Spec.MemoryMiB, w.Spec.CPUModel = domain.Direct, "/uki.efi", false, 2048, "EPYC-v4"
	w.Spec.Firmware = domain.Firmware{Image: "/OVMF.amdsev.fd"}
	w.Spec.SNP = &domain.SNP{Policy: 0x30000, KernelHashes: true}
	if err := p.host.Make(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	if s, err := p.host.State("vm"); err != nil || s.Now.LaunchDigest != "01ab" {
		t.Errorf("%q %v", s.Now.LaunchDigest, err)
	}
	w.Spec.VCPUs = 2
	change, err := p.host.Apply(t.Context(), "vm", w)
	if err != nil || change.LaunchDigest != "02ab" || change.FormerDigest != "01ab" {
		t.Errorf("%+v %v", change, err)
	}
	p = newPlace(t)
	p.host.Digest = func(domain.Spec) ([]byte, error) { return nil, errors.New("no such firmware") }
	if _, err := p.host.Plan(t.Context(), w); err == nil || !strings.Contains(err.Error(), "no such firmware") {
		t.Error(err)
	}
}

func TestARecordThatCannotBeReadIsNotGuessedAt(t *testing.T) {
	t.Parallel()
	p := ready(t)
	for _, bad := range []string{"{", `{"version": 2}`, `{"version": 1, "now": {"spec": {"Name": "other"}}}`} {
		filetest.Write(t, p.in("lib/vm/state.json"), []byte(bad))
		_, err := p.host.Undefine(t.Context(), "vm")
		faulttest.Want(t, err, fault.VMState, "state.json")
	}
	for _, name := range []string{"..", ".", "a/b", "", "/"} {
		if _, err := p.host.State(name); fault.Of(err) == nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// A folder under /run is gone after a reboot, and libvirt does not make it.
func TestFoldersUnderRunAreMadeAtEachBootOfTheHost(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	w := p.wanted()
	w.Spec.ControlSocket, w.Spec.ReleaseSocket = "/run/cc-base-test-none/vm/control.sock", "/run/cc-base-test-none/vm/release.sock"
	plan, err := p.host.Plan(t.Context(), w)
	if err != nil {
		t.Fatal(err)
	}
	f := plan.Files[len(plan.Files)-1]
	if f.Path != "/etc/tmpfiles.d/cc-base-vm.conf" || string(f.Data) != "d /run/cc-base-test-none/vm 0711 root root -\n" {
		t.Errorf("%s: %q", f.Path, f.Data)
	}
	w.Spec.ControlSocket = "/run/a %h/c.sock"
	_, err = p.host.Plan(t.Context(), w)
	faulttest.Want(t, err, fault.Config, "tmpfiles.d")
}
