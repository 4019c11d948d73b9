package build

// What green does not prove: mmdebstrap is a script that copies a list, so that
// apt keeps to the pins is seen in package rootfs, for a dozen packages, and
// that a real mirror's resolution is what is then installed only in a real build
// with LOCKED=yes.

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cc-base/tasks/deb"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/firmware"
	"cc-base/tasks/firmware/firmwaretest"
	"cc-base/tasks/lockfile"
)

// copyingMmdebstrap resolves what the file offered has, or installs what
// installed has. It says in asked which it was, and keeps the pins.
const copyingMmdebstrap = `#!/bin/sh
set -eu
here=${0%/*} what=install from=installed
for a in "$@"; do
	case $a in
	--variant=custom) what=resolve from=offered ;;
	--setup-hook=upload*) f=${a#*\'} && cat "${f%%\'*}" >"$here/pins" ;;
	--customize-hook=download*) f=${a#*\'} list=${f%\'} ;;
	esac
done
echo "$what" >>"$here/asked"
cat "$here/$from" >"$list"
[ "$what" = resolve ] || tar -cf - -C "$here" installed
`

// moving is a mirror that has one list of packages when it is asked for what it
// offers and another when it is installed from.
type moving struct{ dir string }

// movingMirror puts one in the place of mmdebstrap, and of the machine's apt.
func movingMirror(t *testing.T) moving {
	t.Helper()
	m := moving{t.TempDir()}
	for name, text := range map[string]string{"mmdebstrap": copyingMmdebstrap, "apt-get": "#!/bin/sh\n", "apt-config": "#!/bin/sh\n"} {
		if err := os.WriteFile(filepath.Join(m.dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", m.dir+":"+os.Getenv("PATH"))
	return m
}

func (m moving) has(t *testing.T, offered, installed []deb.Package) {
	t.Helper()
	for name, list := range map[string][]deb.Package{"offered": offered, "installed": installed} {
		_, stanzas, _ := strings.Cut(string(lockfile.Lock{Sections: []lockfile.Section{section("image", list...)}}.Encode()), "\n\n")
		filetest.Write(t, filepath.Join(m.dir, name), []byte(stanzas))
	}
	if err := os.RemoveAll(filepath.Join(m.dir, "asked")); err != nil {
		t.Fatal(err)
	}
}

// asked is what mmdebstrap was run for since has.
func (m moving) asked(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(m.dir, "asked"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(data)), " ")
}

func listed(name, version string) deb.Package {
	return deb.Package{Name: name, Version: version, Architecture: "amd64", Filename: "pool/main/x/" + name + "_amd64.deb", Size: 1, SHA256: strings.Repeat("a", 64)}
}

func section(name string, packages ...deb.Package) lockfile.Section {
	return lockfile.Section{Name: name, From: "debian trixie main", Packages: packages}
}

// writeLock makes the sections the configuration's lock.
func writeLock(t *testing.T, o Options, sections ...lockfile.Section) {
	t.Helper()
	filetest.Write(t, filepath.Join(o.ConfigDir, "packages.lock"), lockfile.Lock{Sections: sections}.Encode())
}

// lockedOptions are those of a build with LOCKED=yes.
func lockedOptions(t *testing.T) Options {
	t.Helper()
	o := planOptions(t)
	o.Profile = "locked"
	filetest.Write(t, filepath.Join(o.ConfigDir, "profiles", "locked.conf"), []byte("LOCKED=\"yes\"\n"))
	return o
}

func opened(t *testing.T, o Options) *Build {
	t.Helper()
	config, err := o.config()
	if err != nil {
		t.Fatal(err)
	}
	b, done, err := Open(o, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(done)
	return b
}

func TestALockBindsWhatIsInstalled(t *testing.T) {
	m := movingMirror(t)
	o := lockedOptions(t)
	one := []deb.Package{listed("awk", "1"), listed("libc6", "1")}
	two := []deb.Package{listed("libc6", "2")}
	writeLock(t, o, section("tools", one...), section("image/locked", one...))
	b := opened(t, o)
	for stage, tt := range map[string]struct {
		run     func() error
		outputs []string // what must not be there after a failure
	}{
		"prepare":   {func() error { return prepare(t.Context(), b) }, []string{b.toolsDir(), b.toolsList(), b.toolsDir() + ".tar"}},
		"bootstrap": {func() error { return bootstrap(t.Context(), b) }, bootstrapStage().outputs(b)},
	} {
		t.Run(stage, func(t *testing.T) {
			nothing := func(when string) {
				t.Helper()
				for _, file := range tt.outputs {
					if exists(file) {
						t.Errorf("%s: %s is there", when, file)
					}
				}
			}
			m.has(t, two, two)
			faulttest.Want(t, tt.run(), fault.NotLocked, "in the lock, 2 differences:\n  awk 1: in the lock, but not among these packages\n  libc6 2: locked 1")
			if got := m.asked(t); got != "resolve" {
				t.Errorf("before anything is downloaded: %s", got)
			}
			nothing("another version is offered")
			const pins = "Package: awk\nPin: version 1\nPin-Priority: 1001\n\nPackage: libc6\nPin: version 1\nPin-Priority: 1001\n\n"
			if got := string(filetest.Read(t, filepath.Join(m.dir, "pins"))); got != pins {
				t.Errorf("the pins are %q", got)
			}

			m.has(t, one, two)
			faulttest.Want(t, tt.run(), fault.NotLocked, "libc6 2: locked 1")
			nothing("the mirror moves")

			m.has(t, one, one)
			if err := tt.run(); err != nil {
				t.Fatal(err)
			}
			if got := m.asked(t); got != "resolve install" {
				t.Errorf("a build that the mirror can serve: %s", got)
			}
			for _, file := range tt.outputs[:2] {
				if !exists(file) {
					t.Errorf("%s is not there", file)
				}
			}
		})
	}
}

func TestALockIsReadBeforeTheBuildStarts(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		lock     string
		unlocked bool
		code     fault.Code
		want     string
	}{
		"none":              {code: fault.NoLock, want: "LOCKED=yes needs a lock: "},
		"none, not wanted":  {unlocked: true},
		"nonsense":          {lock: "nonsense\n", code: fault.Config, want: "packages.lock:1: "},
		"without sections":  {lock: "Format: 1\n", code: fault.NoLock, want: "has no section tools and no section image/locked"},
		"another profile's": {lock: "Format: 1\n\nSection: tools\nFrom: debian trixie main\n\nSection: image\nFrom: debian trixie main\n", code: fault.NoLock, want: "has no section image/locked"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := lockedOptions(t)
			o.Unlocked = tt.unlocked
			if tt.lock != "" {
				filetest.Write(t, filepath.Join(o.ConfigDir, "packages.lock"), []byte(tt.lock))
			}
			if tt.code == "" {
				opened(t, o)
				return
			}
			_, err := Plan(o)
			faulttest.Want(t, err, tt.code, tt.want)
			config, err := o.config()
			if err != nil {
				t.Fatal(err)
			}
			_, _, err = Open(o, config)
			faulttest.Want(t, err, tt.code, tt.want)
			filetest.Only(t, o.OutDir)
		})
	}
}

// A stage is made again when its section changes, and not for another one's.
func TestASectionIsAnInputOfWhatItBinds(t *testing.T) {
	t.Parallel()
	o := lockedOptions(t)
	type inputs struct{ tools, bootstrap string }
	look := func(sections ...lockfile.Section) inputs {
		o.OutDir = t.TempDir() // the former one is taken
		writeLock(t, o, sections...)
		b := opened(t, o)
		return inputs{b.toolsName(), b.lockDigest(imageSection(o.Profile))}
	}
	tools, image := section("tools", listed("awk", "1")), section("image/locked", listed("libc6", "1"))
	was := look(tools, image)
	for name, tt := range map[string]struct {
		sections         []lockfile.Section
		tools, bootstrap bool // changes
	}{
		"nothing":               {[]lockfile.Section{image, tools}, false, false},
		"another profile":       {[]lockfile.Section{image, tools, section("image", listed("zlib", "1"))}, false, false},
		"the tools":             {[]lockfile.Section{image, section("tools", listed("awk", "2"))}, true, false},
		"the image":             {[]lockfile.Section{section("image/locked", listed("libc6", "2")), tools}, false, true},
		"where it is to be had": {[]lockfile.Section{{Name: "image/locked", From: "debian sid main", Packages: image.Packages}, tools}, false, true},
	} {
		is := look(tt.sections...)
		if got := [2]bool{is.tools != was.tools, is.bootstrap != was.bootstrap}; got != [2]bool{tt.tools, tt.bootstrap} {
			t.Errorf("%s: tools and image change: %v", name, got)
		}
	}

	// Without LOCKED=yes a lock changes neither.
	o = planOptions(t)
	before := opened(t, o).toolsName()
	o.OutDir = t.TempDir()
	writeLock(t, o, tools, section("image", listed("libc6", "1")))
	if b := opened(t, o); b.toolsName() != before || b.lockDigest("image") != "" {
		t.Error("LOCKED=no, but the lock counts")
	}
}

func TestALockBindsTheFirmware(t *testing.T) {
	t.Parallel()
	a := firmwaretest.New(t, time.Now())
	o := planOptions(t)
	b, _ := firmwareBuild(t, o, a, "")
	_, first := runFirmware(t, b)
	free, err := lockfile.Parse("", first.Lock())
	if err != nil {
		t.Fatal(err)
	}
	pins := free.Sections[0].Packages
	others := []lockfile.Section{section("tools"), section("image/firmware")}

	lockedBuild := func(pins ...deb.Package) *Build {
		t.Helper()
		o := o
		o.OutDir = t.TempDir()
		o.CacheDir = filepath.Join(o.OutDir, "cache")
		writeLock(t, o, append(others, firmware.LockSection(pins))...)
		b, _ := firmwareBuild(t, o, a, `LOCKED="yes"`)
		return b
	}
	a.Suite(t, "testing", a.Put(t, firmwaretest.SNP("2.0-1")), a.Put(t, firmwaretest.TDX("2.0-1")))
	_, report := runFirmware(t, lockedBuild(pins...))
	if len(report.Images) != 2 || report.Images[0].Package.Version != "1.0-1" {
		t.Errorf("the locked ones: %+v", report)
	}
	_, report = runFirmware(t, lockedBuild(pins[:1]...))
	if len(report.Images) != 1 || len(report.Missing) != 1 || report.Missing[0].Reason != firmware.NotLocked {
		t.Errorf("one that is not in the lock: %+v", report)
	}
	a.Change(t, "ovmf-amdsev_1.0-1", func([]byte) []byte { return nil })
	b = lockedBuild(pins...)
	_, err = b.one(t.Context(), firmwareStage())
	faulttest.Want(t, err, fault.NotLocked, "ovmf-amdsev: in the lock, but the mirror does not have the pinned version any more")
}
