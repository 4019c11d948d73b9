package rootfs

// What green does not prove: the archive is a dozen made-up stanzas, signed with
// a key of the test, and nothing is installed from it. That a real suite's
// resolution is what mmdebstrap then installs is seen by every build with
// LOCKED=yes, which compares the two.

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cc-base/tasks/deb"
	"cc-base/tasks/digest"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/firmware/firmwaretest"
	"cc-base/tasks/golden"
	"cc-base/tasks/sh"
)

func TestArgumentsOfAResolution(t *testing.T) {
	t.Parallel()
	spec := Spec{
		Suite: "trixie", Sources: []string{"deb https://mirror.example.org/debian trixie main"}, Keyring: "/usr/share/keyrings/debian-archive-keyring.gpg",
		Packages: []string{"systemd", "dracut"}, Pins: []deb.Package{{Name: "dracut", Version: "1"}},
	}
	golden.Compare(t, "resolving.golden", strings.Join(resolving(spec, true, "/build/out/resolved.list"), "\n")+"\n")
	golden.Compare(t, "arguments-pinned.golden", strings.Join(arguments(spec, true, "/build/out/packages.list"), "\n")+"\n")
}

// archive serves suites, each with the stanzas as its index.
func archive(t *testing.T, suites map[string][]string) *firmwaretest.Archive {
	t.Helper()
	a := firmwaretest.New(t, time.Now().Truncate(time.Second))
	for name, stanzas := range suites {
		index := []byte(strings.Join(stanzas, "\n"))
		a.Serve("dists/"+name+"/main/binary-amd64/Packages", index)
		a.Sign(t, name, fmt.Sprintf("Origin: Debian\nSuite: %s\nCodename: %s\nDate: %s\nArchitectures: amd64\nComponents: main\nSHA256:\n %s %d main/binary-amd64/Packages\n",
			name, name, a.At.AddDate(0, 0, -1).UTC().Format("Mon, 02 Jan 2006 15:04:05 MST"), digest.Bytes(index), len(index)))
	}
	return a
}

// entry is a stanza with a digest that follows from name and version.
func entry(name, version string, more ...string) string {
	return fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: amd64\nMaintainer: Nobody <nobody@test.invalid>\nFilename: pool/main/x/%s_%s_amd64.deb\nSize: 1\nSHA256: %s\nDescription: test\n%s",
		name, version, name, version, digest.Bytes([]byte(name+version)), strings.Join(append(more, ""), "\n"))
}

func TestResolveChoosesWhatABootstrapWould(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("mmdebstrap"); err != nil || os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" && err != nil {
			t.Fatal(err)
		}
		t.Skip("needs mmdebstrap and root")
	}
	a := archive(t, map[string][]string{
		"trixie": {
			entry("base", "1", "Essential: yes", "Depends: awk | gawk"),
			entry("awk", "1"), entry("gawk", "1"),
			entry("required", "1", "Priority: required"),
			// Either alternative will do, and the essential set already has one.
			entry("tool", "1", "Depends: other-awk | awk, library (>= 1)", "Recommends: manual"),
			entry("other-awk", "1"), entry("library", "1"), entry("manual", "1"), entry("unwanted", "1"),
		},
		"trixie-security": {entry("library", "2"), entry("base", "2", "Essential: yes", "Depends: awk")},
	})
	spec := func(change func(*Spec)) Spec {
		s := Spec{
			Suite: "trixie", Keyring: a.Keyring, Packages: []string{"tool"}, TempDir: t.TempDir(),
			Sources: []string{"deb " + a.Mirror() + " trixie main", "deb " + a.Mirror() + " trixie-security main"},
		}
		change(&s)
		return s
	}
	for _, tt := range []struct {
		name string
		spec Spec
		want string // packages, or what the error says
		err  bool
	}{
		{"the newest of all sources", spec(func(*Spec) {}), "awk=1 base=2 library=2 required=1 tool=1", false},
		{"nothing beyond the suite's own", spec(func(s *Spec) { s.Packages = nil }), "awk=1 base=2 required=1", false},
		{"locked versions that one source still has", spec(func(s *Spec) {
			s.Pins = []deb.Package{{Name: "library", Version: "1"}, {Name: "base", Version: "1"}, {Name: "gone", Version: "7"}}
		}), "awk=1 base=1 library=1 required=1 tool=1", false},
		{"a locked version that no source has", spec(func(s *Spec) { s.Pins = []deb.Package{{Name: "library", Version: "0.9"}} }),
			"awk=1 base=2 library=2 required=1 tool=1", false},
		{"a package that is not there", spec(func(s *Spec) { s.Packages = []string{"tool", "nonesuch"} }), "Unable to locate package nonesuch", true},
		{"another key", spec(func(s *Spec) { s.Keyring = firmwaretest.Keyring(t, firmwaretest.NewKey(t, a.At, 0)) }), "mmdebstrap: exit status", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			packages, err := Resolve(t.Context(), sh.Host{}, tt.spec, filepath.Join(dir, "it's a \"list\""))
			filetest.Only(t, dir)
			if tt.err {
				faulttest.Want(t, err, fault.Bootstrap, tt.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range packages {
				got = append(got, p.Name+"="+p.Version)
				if p.SHA256 != digest.Bytes([]byte(p.Name+p.Version)) || p.Size != 1 || p.Filename == "" || p.Architecture != "amd64" {
					t.Errorf("%+v", p)
				}
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("got %s, want %s", strings.Join(got, " "), tt.want)
			}
		})
	}
	if asked := a.Requests(); slices.ContainsFunc(asked, func(name string) bool { return strings.HasSuffix(name, ".deb") }) {
		t.Errorf("it downloaded packages: %v", asked)
	}
}

// As mmdebstrap does, killed before it has unmounted.
func TestWhatAKilledMmdebstrapMountedIsNotLeft(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	bin, spec := t.TempDir(), Spec{Suite: "trixie", TempDir: t.TempDir()}
	if err := os.WriteFile(filepath.Join(bin, "mmdebstrap"), []byte("#!/bin/sh\nmount -t tmpfs none \"$TMPDIR\" && kill -9 $$\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	dir := t.TempDir()
	_, err := Resolve(t.Context(), sh.Host{}, spec, filepath.Join(dir, "list"))
	faulttest.Want(t, err, fault.Bootstrap, "killed")
	_, err = Bootstrap(t.Context(), sh.Host{}, spec, filepath.Join(dir, "tar"), filepath.Join(dir, "list"))
	faulttest.Want(t, err, fault.Bootstrap, "killed")
	if mounts := string(filetest.Read(t, "/proc/self/mountinfo")); strings.Contains(mounts, spec.TempDir) {
		t.Errorf("still mounted:\n%s", mounts)
	}
}

func TestPinsAreWrittenForAptAndGoneAfterwards(t *testing.T) {
	t.Parallel()
	pins := []deb.Package{{Name: "libc6", Version: "2.41-12"}, {Name: "auditd", Version: "1:4.0.2-2"}}
	const want = "Package: libc6\nPin: version 2.41-12\nPin-Priority: 1001\n\nPackage: auditd\nPin: version 1:4.0.2-2\nPin-Priority: 1001\n\n"
	for name, do := range map[string]func(run sh.Runner, spec Spec, dir string) error{
		"resolution": func(run sh.Runner, spec Spec, dir string) error {
			_, err := Resolve(t.Context(), run, spec, filepath.Join(dir, "list"))
			return err
		},
		"bootstrap": func(run sh.Runner, spec Spec, dir string) error {
			_, err := Bootstrap(t.Context(), run, spec, filepath.Join(dir, "tar"), filepath.Join(dir, "list"))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, failed := t.TempDir(), errors.New("exit status 25")
			run := &sh.Recorder{Answer: func(c sh.Cmd) (string, error) {
				file := filepath.Join(dir, "list.pins")
				if got := string(filetest.Read(t, file)); got != want {
					t.Errorf("the pins are %q", got)
				}
				if !slices.Contains(c.Args, "--setup-hook=upload '"+file+"' /etc/apt/preferences.d/cc-lock") {
					t.Errorf("nothing takes the pins into the tree: %q", c.Args)
				}
				return "", failed
			}}
			if err := do(run, Spec{Suite: "trixie", Pins: pins}, dir); !errors.Is(err, failed) {
				t.Errorf("got %v", err)
			}
			filetest.Only(t, dir)
		})
	}
}
