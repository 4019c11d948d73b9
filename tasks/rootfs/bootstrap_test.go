package rootfs

// What green does not prove: no distribution is installed. The commands are
// compared with golden files and run against recorded answers; that mmdebstrap
// accepts them, and that a tree boots, is seen where an image is built. Ubuntu's
// rows have no other proof than these tests.

import (
	"archive/tar"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/deb"
	"cc-base/tasks/fault"
	"cc-base/tasks/filetest"
	"cc-base/tasks/golden"
	"cc-base/tasks/sh"
)

func putFile(t *testing.T, file, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
}

func TestArgumentsOfMmdebstrap(t *testing.T) {
	t.Parallel()
	debian, err := DistributionByName("debian")
	if err != nil {
		t.Fatal(err)
	}
	exclude, include := Unneeded()
	mirror := Mirror{Main: "https://mirror.example.org/debian", Security: "https://mirror.example.org/debian-security"}
	full := Spec{
		Suite: "trixie", Sources: mirror.Sources(debian, "trixie", []string{"main"}), Keyring: debian.Keyring,
		Packages: []string{"systemd", "dracut", "erofs-utils"}, Epoch: 1767225600, Exclude: exclude, Include: include,
		AptOpts: []string{`Acquire::http::Proxy "http://proxy.invalid:3128";`}, Locale: "de_DE.UTF-8",
	}
	snapshot := full
	snapshot.Sources = Mirror{Main: "https://snapshot.example.org/20260101T000000Z", Snapshot: true}.Sources(debian, "trixie", []string{"main"})
	snapshot.Locale, snapshot.AptOpts = "C.UTF-8", nil
	tests := []struct {
		name string
		spec Spec
		root bool
		list string
	}{
		{"root", full, true, "/build/out/packages.list"},
		{"unshare", full, false, "/build/out/packages.list"},
		{"snapshot", snapshot, false, "/build/out/packages.list"},
		{"default-mirror", Spec{Suite: "noble", Packages: []string{"systemd"}}, true, "/build/it's an \"odd\" $path/ä\\"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			before := slices.Clone(tt.spec.Packages)
			golden.Compare(t, "arguments-"+tt.name+".golden", strings.Join(arguments(tt.spec, tt.root, tt.list), "\n")+"\n")
			if !slices.Equal(before, tt.spec.Packages) {
				t.Error("the caller's packages were sorted")
			}
		})
	}
}

func TestAQuotedWordIsOneWordForShellAndPerl(t *testing.T) {
	t.Parallel()
	words := []string{"plain", "a b", "it's", `"`, `\`, `a\`, `\'`, `a\b`, "$HOME `id`", "ä", "*", "", "'", "a\tb"}
	var quoted []string
	for _, w := range words {
		quoted = append(quoted, quote(w))
	}
	line := strings.Join(quoted, " ")
	want := strings.Join(words, "\n") + "\n"
	got, err := sh.Text(t.Context(), sh.Host{}, "sh", "-c", `printf '%s\n' `+line).String()
	if err != nil || got != want {
		t.Errorf("the shell reads %q, %v, want %q", got, err, want)
	}
	if _, err := exec.LookPath("perl"); err != nil {
		t.Skip("perl is not here; mmdebstrap, which is written in it, brings it")
	}
	got, err = sh.Text(t.Context(), sh.Host{}, "perl", "-MText::ParseWords", "-e", `print map { "$_\n" } shellwords $ARGV[0]`, line).String()
	if err != nil || got != want {
		t.Errorf("Text::ParseWords reads %q, %v, want %q", got, err, want)
	}
}

// stanza is a package as apt-cache prints it.
const stanza = "Package: base\nVersion: 1\nArchitecture: amd64\nSHA256: " + sum + "\n"

const sum = "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1"

func TestBootstrapWritesTreeAndList(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tarFile, list := filepath.Join(dir, "base.tar"), filepath.Join(dir, "packages.list")
	putFile(t, list, "Package: stale\n", 0o644)
	var seen sh.Cmd
	run := &sh.Recorder{Answer: func(c sh.Cmd) (string, error) {
		seen = c
		if _, err := os.Stat(list); !errors.Is(err, os.ErrNotExist) {
			t.Error("the list of an earlier run is still there")
		}
		return "tree", os.WriteFile(list, []byte(stanza), 0o644)
	}}
	spec := Spec{Suite: "trixie", Packages: []string{"systemd"}, Epoch: 1767225600}
	got, err := Bootstrap(t.Context(), run, spec, tarFile, list)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]deb.Package{{Name: "base", Version: "1", Architecture: "amd64", SHA256: sum}}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if data, err := os.ReadFile(tarFile); err != nil || string(data) != "tree" {
		t.Errorf("the tree is %q, %v", data, err)
	}
	if seen.Name != "mmdebstrap" || !slices.Equal(seen.Env, []string{"SOURCE_DATE_EPOCH=1767225600", "INITRD=No"}) ||
		!slices.Equal(seen.Args, arguments(spec, os.Geteuid() == 0, list)) {
		t.Errorf("ran %+v", seen)
	}
}

func TestAFailedBootstrapLeavesNothing(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, list string
		err        error
		want, hint string
	}{
		{"mmdebstrap fails", stanza, errors.New("mmdebstrap: exit status 25"), "mmdebstrap: exit status 25", "hint: the mirror comes from"},
		{"the list lacks a digest", "Package: base\nVersion: 1\n", nil, "no version or no SHA256", ""},
		{"the list is not written", "", nil, "no such file", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			list := filepath.Join(dir, "packages.list")
			run := &sh.Recorder{Answer: func(sh.Cmd) (string, error) {
				if tt.list != "" {
					putFile(t, list, tt.list, 0o644)
				}
				return "half a tree", tt.err
			}}
			_, err := Bootstrap(t.Context(), run, Spec{Suite: "trixie"}, filepath.Join(dir, "base.tar"), list)
			if f := fault.Of(err); f == nil || f.Code != fault.Bootstrap || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			if !strings.Contains(fault.Render(err), tt.hint) {
				t.Errorf("no hint %q in %s", tt.hint, fault.Render(err))
			}
			filetest.Only(t, dir)
		})
	}
	if _, err := Bootstrap(t.Context(), &sh.Recorder{}, Spec{}, "/nowhere/base.tar", "/nowhere/list"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
}

func TestDistributionsAreComplete(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"debian", "ubuntu"} {
		d, err := DistributionByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if d.Name != name || d.Origin == "" || d.KeyringPkg == "" || !filepath.IsAbs(d.Keyring) || d.URIEnd == "" || d.Security != "-security" {
			t.Errorf("%s: %+v", name, d)
		}
		if d.Kernels["cloud"] == "" || d.Kernels["generic"] == "" {
			t.Errorf("%s: kernels %v", name, d.Kernels)
		}
		if sorted := slices.Sorted(slices.Values(d.Base)); len(slices.Compact(sorted)) != len(d.Base) {
			t.Errorf("%s: a package is listed twice: %v", name, d.Base)
		}
	}
	if _, err := DistributionByName("fedora"); err == nil || err.Error() != `distribution "fedora" is not known; allowed: debian, ubuntu` {
		t.Errorf("got %v", err)
	}
}

func TestLocalesOfLibcAreNotGenerated(t *testing.T) {
	t.Parallel()
	for locale, want := range map[string]bool{"C": false, "POSIX": false, "C.UTF-8": false, "c.utf-8": false, "en_US.UTF-8": true, "de_DE.ISO-8859-1": true} {
		if got := NeedsLocale(locale); got != want {
			t.Errorf("%s: got %v", locale, got)
		}
	}
}

func TestSettingsBecomeFiles(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "settings.tar")
	if err := Pack(out, 7, Settings{Hostname: "guest", Locale: "C.UTF-8", Timezone: "Europe/Berlin"}.Layer()); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range filetest.ReadTar(t, out) {
		b.WriteString(e.Name)
		if e.Typeflag == tar.TypeSymlink {
			b.WriteString(" -> " + e.Linkname)
		}
		b.WriteString("\n" + e.Data)
	}
	golden.Compare(t, "settings.golden", b.String())
	for _, e := range filetest.ReadTar(t, out) {
		if e.Uid != 0 || e.Gid != 0 || e.ModTime.Unix() != 7 {
			t.Errorf("%s: owner %d:%d, time %s", e.Name, e.Uid, e.Gid, e.ModTime)
		}
	}
}

func TestACancelledMergeStops(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	base := makeTar(t, dir, dirHeader("./"), fileHeader("./a"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Merge(ctx, base, filepath.Join(dir, "out.tar"), nil, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	filetest.Only(t, dir, "base.tar")
}
