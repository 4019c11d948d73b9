package build

// What green does not prove: the mirror is a small one on the loopback
// interface, signed with a key of the test, and dpkg-deb is the machine's but
// in one test. Package firmware has the tests of what can go wrong with it.

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/deb"
	"cc-base/tasks/filetest"
	"cc-base/tasks/firmware"
	"cc-base/tasks/firmware/firmwaretest"
	"cc-base/tasks/lab"
	"cc-base/tasks/lockfile"
	"cc-base/tasks/sh"
	"cc-base/tasks/toolbox"
)

// onHost stands in for the tools tree: dpkg-deb of the machine, the last three
// words of what would enter the tree.
type onHost struct{}

func (onHost) Run(ctx context.Context, c sh.Cmd) error {
	c.Name, c.Args = c.Args[len(c.Args)-3], c.Args[len(c.Args)-2:]
	return sh.Host{}.Run(ctx, c)
}

// firmwareBuild is a build with the settings, whose prepare stage is finished
// and whose tools tree has the archive's keyring. It returns what it says.
func firmwareBuild(t *testing.T, o Options, a *firmwaretest.Archive, settings string) (*Build, *bytes.Buffer) {
	t.Helper()
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		lab.Absent(t, "no dpkg-deb here")
	}
	said := &bytes.Buffer{}
	o.Profile, o.Stderr = "firmware", said
	profile := "MIRROR=\"" + a.Mirror() + "\"\n" + settings + "\n"
	filetest.Write(t, filepath.Join(o.ConfigDir, "profiles", "firmware.conf"), []byte(profile))
	config, err := o.config()
	if err != nil {
		t.Fatal(err)
	}
	b, done, err := Open(o, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(done)
	ring := filepath.Join(b.Tools.Dir, "usr/share/keyrings/debian-archive-keyring.gpg")
	if err := os.MkdirAll(filepath.Dir(ring), 0o755); err != nil {
		t.Fatal(err)
	}
	filetest.Write(t, ring, filetest.Read(t, a.Keyring))
	filetest.Write(t, b.toolsList(), nil)
	b.Tools = toolbox.Tree{Dir: b.Tools.Dir, Host: onHost{}}
	prepared := prepareStage()
	in, err := b.inputs(prepared)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.record(prepared, in, 0); err != nil {
		t.Fatal(err)
	}
	return b, said
}

// runFirmware runs the stage unless it is up to date, and returns what it got.
func runFirmware(t *testing.T, b *Build) (ran bool, report firmware.Report) {
	t.Helper()
	o, err := b.one(t.Context(), firmwareStage())
	if err != nil {
		t.Fatal(err)
	}
	if report, err = firmware.ReadReport(b.firmwareReport()); err != nil {
		t.Fatal(err)
	}
	names := []string{"firmware.json", "packages.lock"}
	for _, image := range report.Images {
		names = append(names, image.File)
	}
	slices.Sort(names)
	filetest.Only(t, b.scratch("firmware"), names...)
	return o.action == "run", report
}

func TestFirmwareIsGotOnceAndThenNeedsNoMirror(t *testing.T) {
	t.Parallel()
	a := firmwaretest.New(t, time.Now())
	o := planOptions(t)
	b, said := firmwareBuild(t, o, a, "")
	ran, first := runFirmware(t, b)
	if !ran || len(first.Images) != 2 {
		t.Fatalf("%t, %+v\n%s", ran, first, said)
	}
	if got := strings.Count(said.String(), "firmware: OVMF."); got != 2 {
		t.Errorf("%d lines about images in\n%s", got, said)
	}
	a.Requests()
	if ran, _ := runFirmware(t, b); ran {
		t.Error("nothing has changed, but it ran")
	}
	if err := os.WriteFile(b.scratch("firmware", "OVMF.amdsev.fd"), []byte("other"), 0o644); err != nil {
		t.Fatal(err)
	}
	ran, again := runFirmware(t, b)
	if diff := cmp.Diff(first, again); diff != "" || !ran {
		t.Errorf("after a change of its output: %t\n%s", ran, diff)
	}
	if asked := a.Requests(); len(asked) > 0 {
		t.Errorf("asked the mirror for %v", asked)
	}

	// Another output folder, the same cache, no mirror.
	a.Close()
	elsewhere := o
	elsewhere.OutDir = t.TempDir()
	b, said = firmwareBuild(t, elsewhere, a, "")
	if _, other := runFirmware(t, b); !cmp.Equal(first, other) {
		t.Errorf("in another output folder:\n%s\n%s", cmp.Diff(first, other), said)
	}
}

func TestUpdateAsksForNewerFirmware(t *testing.T) {
	t.Parallel()
	a := firmwaretest.New(t, time.Now())
	o := planOptions(t)
	b, _ := firmwareBuild(t, o, a, "")
	runFirmware(t, b)
	a.Suite(t, "testing", a.Put(t, firmwaretest.SNP("2.0-1")))
	o.Stderr = &bytes.Buffer{}
	if err := Update(o); err != nil {
		t.Fatal(err)
	}
	ran, report := runFirmware(t, b)
	if !ran || len(report.Images) != 1 || report.Images[0].Package.Version != "2.0-1" || report.Missing[0].Reason != firmware.NoPackage {
		t.Errorf("%t, %+v", ran, report)
	}
}

func TestOnlyWhatTheSettingsCallForIsGot(t *testing.T) {
	t.Parallel()
	a := firmwaretest.New(t, time.Now())
	o := planOptions(t)
	const snp, tdx = "OVMF.amdsev.fd", "OVMF.inteltdx.ms.fd"
	for _, tc := range []struct {
		settings string
		want     []string
	}{
		{"TEE_TYPE=auto", []string{snp, tdx}},
		{"TEE_TYPE=sev-snp", []string{snp}},
		{"TEE_TYPE=tdx\n" + operatorKey, []string{tdx}},
		{"TEE_TYPE=none", nil},
		{"FIRMWARE_CONFIDENTIAL=no", nil},
	} {
		t.Run(tc.settings, func(t *testing.T) {
			o := o
			o.OutDir = t.TempDir()
			a.Requests()
			b, _ := firmwareBuild(t, o, a, tc.settings)
			_, report := runFirmware(t, b)
			var got []string
			for _, image := range report.Images {
				got = append(got, image.File)
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
			asked := a.Requests()
			if tc.want == nil && (len(asked) > 0 || len(report.Missing) != 2 || report.Missing[0].Reason != firmware.NotWanted) {
				t.Errorf("asked for %v, %+v", asked, report.Missing)
			}
		})
	}
}

// A build in which there is none is a good one; the reason is on the console and
// in the report, and what a former build got is gone.
func TestABuildWithoutFirmwareGoesOn(t *testing.T) {
	t.Parallel()
	a := firmwaretest.New(t, time.Now())
	o := planOptions(t)
	b, _ := firmwareBuild(t, o, a, "")
	runFirmware(t, b)
	a.Close()
	gone := deb.Package{Name: "ovmf-amdsev", Version: "9", Architecture: "all", Filename: "pool/main/a.deb", Size: 1, SHA256: strings.Repeat("a", 64)}
	lock := lockfile.Lock{Sections: []lockfile.Section{firmware.LockSection([]deb.Package{gone})}}
	filetest.Write(t, filepath.Join(o.ConfigDir, "packages.lock"), lock.Encode())
	o.Stderr = &bytes.Buffer{}
	if err := Update(o); err != nil {
		t.Fatal(err)
	}
	said := b.log.to.(*bytes.Buffer)
	said.Reset()
	ran, report := runFirmware(t, b)
	if !ran || len(report.Missing) != 2 || report.Missing[0].Reason != firmware.Unreachable {
		t.Errorf("%t, %+v", ran, report)
	}
	for _, want := range []string{"firmware: without OVMF.amdsev.fd: the mirror does not answer", "firmware: without OVMF.inteltdx.ms.fd: ", "will be refused; `mage update`"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("no %q in\n%s", want, said)
		}
	}
	if ran, _ := runFirmware(t, b); ran {
		t.Error("nothing has changed, but it asked again")
	}
}

// The lock that a build writes is what pins: `cp out/scratch/firmware/packages.lock config/`.
func TestTheWrittenLockPins(t *testing.T) {
	t.Parallel()
	a := firmwaretest.New(t, time.Now())
	o := planOptions(t)
	b, _ := firmwareBuild(t, o, a, "")
	runFirmware(t, b)
	if page := filetest.Read(t, "../../docs/design.md"); !bytes.Contains(page, []byte("\ncp out/scratch/firmware/packages.lock config/\n")) {
		t.Error("docs/design.md has another command")
	}
	lock := filepath.Join(o.ConfigDir, "packages.lock")
	if err := exec.Command("cp", b.scratch("firmware", "packages.lock"), o.ConfigDir+"/").Run(); err != nil {
		t.Fatal(err)
	}
	a.Suite(t, "testing", a.Put(t, firmwaretest.SNP("2.0-1")), a.Put(t, firmwaretest.TDX("2.0-1")))
	ran, report := runFirmware(t, b)
	if !ran || len(report.Images) != 2 || report.Images[0].Package.Version != "1.0-1" || report.Images[0].From != firmware.FromLock {
		t.Errorf("%t, %+v", ran, report)
	}
	filetest.Write(t, lock, []byte("nonsense\n"))
	if _, err := b.one(t.Context(), firmwareStage()); err == nil {
		t.Error("a malformed lock was accepted")
	}
}

// The tools tree's own dpkg-deb, in the tree. Its keyring is Debian's, so a lock
// stands in for the suite.
func TestFirmwareIsUnpackedInTheToolsTree(t *testing.T) {
	t.Parallel()
	a := firmwaretest.New(t, time.Now())
	o := planOptions(t)
	b, _ := firmwareBuild(t, o, a, "")
	runFirmware(t, b)
	if err := exec.Command("cp", b.scratch("firmware", "packages.lock"), o.ConfigDir+"/").Run(); err != nil {
		t.Fatal(err)
	}
	b.Tools, _ = lab.Tools(t, b.OutDir, b.CacheDir)
	if ran, report := runFirmware(t, b); !ran || len(report.Images) != 2 {
		t.Errorf("%t, %+v", ran, report)
	}
}

func TestWhatWasNotRunIsNamedOnce(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := showNotRun(&out, strings.NewReader("TestB: vectors of b\nTestA: vectors of a\nTestB: vectors of b\n")); err != nil {
		t.Fatal(err)
	}
	if want := "test: not run: TestA: vectors of a\ntest: not run: TestB: vectors of b\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	out.Reset()
	if err := showNotRun(&out, strings.NewReader("")); err != nil || out.Len() > 0 {
		t.Errorf("%q, %v", out.String(), err)
	}
}
