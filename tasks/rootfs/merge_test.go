package rootfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/fault"
	"cc-base/tasks/filetest"
)

const epoch = 1_000_000_000

func header(name string, kind byte, change ...func(*filetest.Entry)) filetest.Entry {
	e := filetest.Entry{Header: tar.Header{Name: name, Typeflag: kind, Mode: 0o755, ModTime: time.Unix(epoch, 0), Format: tar.FormatPAX}}
	for _, f := range change {
		f(&e)
	}
	return e
}

func dirHeader(name string) filetest.Entry { return header(name, tar.TypeDir) }

func fileHeader(name string) filetest.Entry {
	return header(name, tar.TypeReg, func(e *filetest.Entry) { e.Data = "content of " + name })
}

func linkHeader(name string, kind byte, target string) filetest.Entry {
	return header(name, kind, func(e *filetest.Entry) { e.Linkname = target })
}

// makeTar writes dir/base.tar.
func makeTar(t *testing.T, dir string, entries ...filetest.Entry) string {
	t.Helper()
	return filetest.WriteTar(t, filepath.Join(dir, "base.tar"), entries...)
}

// names returns the entries in order: name, link target and content.
func names(t *testing.T, file string) []string {
	t.Helper()
	var out []string
	for _, e := range filetest.ReadTar(t, file) {
		line := e.Name
		if e.Linkname != "" {
			line += " -> " + e.Linkname
		}
		if e.Data != "" {
			line += " = " + e.Data
		}
		out = append(out, line)
	}
	return out
}

// tree is a small distribution.
func tree() []filetest.Entry {
	return []filetest.Entry{
		dirHeader("./"), linkHeader("./bin", tar.TypeSymlink, "usr/bin"), dirHeader("./dev/"),
		header("./dev/null", tar.TypeChar, func(e *filetest.Entry) { e.Devmajor, e.Devminor, e.Mode = 1, 3, 0o666 }),
		dirHeader("./etc/"), fileHeader("./etc/hosts"), fileHeader("./etc/keep"), linkHeader("./etc/mtab", tar.TypeSymlink, "/proc/mounts"),
		dirHeader("./usr/"), dirHeader("./usr/bin/"), fileHeader("./usr/bin/perl"), linkHeader("./usr/bin/perl5", tar.TypeLink, "./usr/bin/perl"),
		dirHeader("./var/"), dirHeader("./var/log/"), fileHeader("./var/log/dpkg.log"),
	}
}

func TestLayersAreLaidOverATree(t *testing.T) {
	t.Parallel()
	whole := []string{"./", "bin -> usr/bin", "dev/", "dev/null", "etc/", "etc/hosts = content of ./etc/hosts", "etc/keep = content of ./etc/keep",
		"etc/mtab -> /proc/mounts", "usr/", "usr/bin/", "usr/bin/perl = content of ./usr/bin/perl", "usr/bin/perl5 -> usr/bin/perl", "var/", "var/log/", "var/log/dpkg.log = content of ./var/log/dpkg.log"}
	replaced := func(with map[string]string, more ...string) []string {
		var out []string
		for _, line := range whole {
			name, _, _ := strings.Cut(line, " ")
			if w, ok := with[name]; ok {
				line = w
			}
			if line != "" {
				out = append(out, line)
			}
		}
		return append(out, more...)
	}
	tests := []struct {
		name   string
		drop   func(string) bool
		layers []Layer
		want   []string
	}{
		{"nothing changes", nil, nil, whole},
		{"a replaced file keeps its place and has one entry", nil,
			[]Layer{{Name: "a", Entries: []Entry{File("/etc/keep", 0o600, []byte("new"))}}}, replaced(map[string]string{"etc/keep": "etc/keep = new"})},
		{"a later layer wins", nil, []Layer{
			{Name: "a", Entries: []Entry{File("/etc/keep", 0o600, []byte("one")), File("/etc/new", 0o600, []byte("one"))}},
			{Name: "b", Entries: []Entry{File("/etc/keep", 0o600, []byte("two")), Link("/etc/new", "keep")}}},
			replaced(map[string]string{"etc/keep": "etc/keep = two"}, "etc/new -> keep")},
		{"a symlink replaces a file and the reverse", nil,
			[]Layer{{Name: "a", Entries: []Entry{Link("/etc/hosts", "keep"), File("/etc/mtab", 0o600, nil)}}},
			replaced(map[string]string{"etc/hosts": "etc/hosts -> keep", "etc/mtab": "etc/mtab"})},
		{"new files are sorted and bring their parents", nil,
			[]Layer{{Name: "a", Entries: []Entry{File("/opt/z/file", 0o600, nil), File("/opt/a/b/file", 0o600, nil), File("/etc/a", 0o600, nil)}}},
			replaced(nil, "etc/a", "opt/", "opt/a/", "opt/a/b/", "opt/a/b/file", "opt/z/", "opt/z/file")},
		{"a dropped path stays out", func(p string) bool { return p == "/var/log/dpkg.log" || p == "/dev/null" }, nil,
			replaced(map[string]string{"var/log/dpkg.log": "", "dev/null": ""})},
		{"a dropped path comes back from a layer, as anything", func(p string) bool { return p == "/etc/hosts" },
			[]Layer{{Name: "a", Entries: []Entry{Dir("/etc/hosts", 0o700)}}}, replaced(map[string]string{"etc/hosts": ""}, "etc/hosts/")},
		{"both names of a hard link are replaced", nil,
			[]Layer{{Name: "a", Entries: []Entry{File("/usr/bin/perl", 0o755, []byte("p")), Link("/usr/bin/perl5", "perl")}}},
			replaced(map[string]string{"usr/bin/perl": "usr/bin/perl = p", "usr/bin/perl5": "usr/bin/perl5 -> perl"})},
		{"the second name of a hard link is replaced", nil,
			[]Layer{{Name: "a", Entries: []Entry{File("/usr/bin/perl5", 0o755, []byte("p"))}}}, replaced(map[string]string{"usr/bin/perl5": "usr/bin/perl5 = p"})},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			out := filepath.Join(dir, "out.tar")
			if err := Merge(t.Context(), makeTar(t, dir, tree()...), out, tt.drop, epoch, tt.layers...); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, names(t, out)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			filetest.Only(t, dir, "base.tar", "out.tar")
		})
	}
}

func TestConflictsAreRefusedAndLeaveNothing(t *testing.T) {
	t.Parallel()
	one := func(e ...Entry) []Layer { return []Layer{{Name: "a", Entries: e}} }
	dropped := func(p string) bool { return p == "/usr/bin/perl" }
	tests := []struct {
		name   string
		drop   func(string) bool
		layers []Layer
		want   string
	}{
		{"a file for a directory", nil, one(File("/etc", 0o644, nil)), "a: /etc: would replace a directory of the distribution by something else, or the reverse"},
		{"a symlink for a directory", nil, one(Link("/var/log", "/run/log")), "a: /var/log: would replace a directory"},
		{"a directory for a file", nil, one(Dir("/etc/hosts", 0o755)), "a: /etc/hosts: would replace a directory"},
		{"a directory for a symlink", nil, one(Dir("/bin", 0o755)), "a: /bin: would replace a directory"},
		{"a file through a link", nil, one(File("/bin/tool", 0o755, nil)), "a: /bin/tool: /bin is not a directory; write the path behind the link"},
		{"a directory through a link", nil, one(Dir("/bin/sub/dir", 0o755)), "a: /bin/sub/dir: /bin is not a directory"},
		{"a file below a file", nil, one(File("/etc/hosts/x", 0o755, nil)), "a: /etc/hosts/x: /etc/hosts is not a directory"},
		{"a file below a file of a layer", nil, one(File("/etc/new", 0o755, nil), File("/etc/new/x", 0o755, nil)), "a: /etc/new/x: /etc/new is not a directory"},
		{"one name of a hard link", nil, one(File("/usr/bin/perl", 0o755, nil)), "a: /usr/bin/perl: the distribution has the same file as /usr/bin/perl5; replace both"},
		{"a hard link to what is dropped", dropped, nil, "/usr/bin/perl5: is a hard link to /usr/bin/perl, which is not in the image"},
		{"layers of different kinds", nil, []Layer{{Name: "a", Entries: []Entry{Dir("/opt", 0o755)}}, {Name: "b", Entries: []Entry{File("/opt", 0o644, nil)}}},
			"b: /opt: a has a directory where this has none, or the reverse"},
		{"paths that are none", nil, one(File("etc/x", 0, nil), File("/etc//x", 0, nil), File("/etc/../x", 0, nil), Dir("/", 0o755), File("", 0, nil)),
			"a: \"etc/x\" is not a clean absolute path\na: \"/etc//x\" is not a clean absolute path\na: \"/etc/../x\" is not a clean absolute path\na: \"/\" is not a clean absolute path\na: \"\" is not"},
		{"a source that is not there", nil, one(Entry{Path: "/etc/x", Type: tar.TypeReg, Source: "/nowhere/x"}), "a: open /nowhere/x: no such file or directory"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			err := Merge(t.Context(), makeTar(t, dir, tree()...), filepath.Join(dir, "out.tar"), tt.drop, epoch, tt.layers...)
			if f := fault.Of(err); f == nil || f.Code != fault.Overlay || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			filetest.Only(t, dir, "base.tar")
		})
	}
}

func TestABrokenTreeIsAnErrorAndKeepsTheOldResult(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	base, out := makeTar(t, dir, tree()...), filepath.Join(dir, "out.tar")
	putFile(t, out, "old", 0o644)
	if err := os.Truncate(base, 5000); err != nil {
		t.Fatal(err)
	}
	if err := Merge(t.Context(), base, out, nil, epoch); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("half a tree: %v", err)
	}
	if data, err := os.ReadFile(out); err != nil || string(data) != "old" {
		t.Errorf("the result is now %q, %v", data, err)
	}
	filetest.Only(t, dir, "base.tar", "out.tar")
	if err := Merge(t.Context(), filepath.Join(dir, "none"), out, nil, epoch); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no tree: %v", err)
	}
	if err := Pack(filepath.Join(dir, "none", "out.tar"), epoch); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}

func TestWhatAHeaderSaysIsKept(t *testing.T) {
	t.Parallel()
	const capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	records := map[string]string{"SCHILY.xattr.security.capability": capability, "SCHILY.xattr.user.note": "x=y\n"}
	dir := t.TempDir()
	long := "./usr/" + strings.Repeat("long/", 60) + "ä"
	base := makeTar(t, dir,
		dirHeader("./"),
		header("./usr/bin/ping", tar.TypeReg, func(e *filetest.Entry) {
			e.PAXRecords, e.Data = maps.Clone(records), "ping"
			e.Uid, e.Gid, e.Uname, e.Gname, e.Mode = 3, 1<<21, "sys", "people", 0o4755
			e.ModTime, e.AccessTime, e.ChangeTime = time.Unix(epoch-5, 0), time.Unix(epoch+9, 0), time.Unix(epoch+9, 0)
		}),
		header("./usr/pipe", tar.TypeFifo), header("./usr/disk", tar.TypeBlock, func(e *filetest.Entry) { e.Devmajor, e.Devminor = 8, 300 }),
		header(long, tar.TypeReg, func(e *filetest.Entry) { e.ModTime = time.Unix(epoch+1, 500) }),
	)
	out := filepath.Join(dir, "out.tar")
	if err := Merge(t.Context(), base, out, nil, epoch, Layer{Name: "a", Entries: []Entry{File("/usr/new", 0o2640, nil)}}); err != nil {
		t.Fatal(err)
	}
	got := map[string]filetest.Entry{}
	for _, e := range filetest.ReadTar(t, out) {
		if e.ModTime.After(time.Unix(epoch, 0)) || !e.AccessTime.IsZero() || !e.ChangeTime.IsZero() || e.Uname != "" || e.Gname != "" {
			t.Errorf("%s: times %s %s %s, names %q %q", e.Name, e.ModTime, e.AccessTime, e.ChangeTime, e.Uname, e.Gname)
		}
		got[e.Name] = e
	}
	ping := got["usr/bin/ping"]
	for key, want := range records {
		if ping.PAXRecords[key] != want {
			t.Errorf("%s is %q, want %q", key, ping.PAXRecords[key], want)
		}
	}
	if ping.Uid != 3 || ping.Gid != 1<<21 || ping.Mode != 0o4755 || ping.ModTime.Unix() != epoch-5 || ping.Data != "ping" {
		t.Errorf("ping is %+v", ping)
	}
	if disk := got["usr/disk"]; disk.Typeflag != tar.TypeBlock || disk.Devmajor != 8 || disk.Devminor != 300 {
		t.Errorf("a block device is %+v", disk)
	}
	if got["usr/pipe"].Typeflag != tar.TypeFifo {
		t.Errorf("a pipe is %+v", got["usr/pipe"])
	}
	if _, ok := got[strings.TrimPrefix(long, "./")]; !ok {
		t.Error("a long name is lost")
	}
	if e := got["usr/new"]; e.Mode != 0o2640 || e.ModTime.Unix() != epoch {
		t.Errorf("a layer's file is %+v", e)
	}
}

func TestMadeParentsAreAsDeclaredOrPlain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	// The tree lists a directory after what is in it.
	base := makeTar(t, dir, dirHeader("./"), fileHeader("./srv/data/file"), dirHeader("./srv/data/"))
	out := filepath.Join(dir, "out.tar")
	err := Merge(t.Context(), base, out, nil, epoch, Layer{Name: "a", Entries: []Entry{
		File("/srv/data/file", 0o600, nil), {Path: "/srv/data", Type: tar.TypeDir, Mode: 0o700, UID: 4}, File("/opt/x/file", 0o600, nil),
		{Path: "/opt/x", Type: tar.TypeDir, Mode: 0o711, UID: 5, GID: 6},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"./", "srv/", "srv/data/", "srv/data/file", "opt/", "opt/x/", "opt/x/file"}, names(t, out)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, e := range filetest.ReadTar(t, out) {
		switch e.Name {
		case "srv/data/":
			if e.Mode != 0o700 || e.Uid != 4 {
				t.Errorf("%s: mode %o of %d", e.Name, e.Mode, e.Uid)
			}
		case "opt/x/":
			if e.Mode != 0o711 || e.Uid != 5 || e.Gid != 6 {
				t.Errorf("%s: mode %o of %d:%d", e.Name, e.Mode, e.Uid, e.Gid)
			}
		case "opt/", "srv/":
			if e.Mode != 0o755 || e.Uid != 0 {
				t.Errorf("%s: mode %o of %d", e.Name, e.Mode, e.Uid)
			}
		}
	}
}

func TestTheSameInputsGiveTheSameBytes(t *testing.T) {
	t.Parallel()
	source := overlay(t, "0755 0:0 /var/lib/a/\n0755 0:0 /var/lib/b/\n0755 0:0 /var/lib/c/\n")
	var first []byte
	for range 5 {
		dir := t.TempDir()
		layer, err := ReadOverlay(source)
		if err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(dir, "out.tar")
		if err := Merge(t.Context(), makeTar(t, dir, tree()...), out, Dropped, epoch, layer); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = data
		}
		if !bytes.Equal(first, data) {
			t.Fatal("two merges differ")
		}
		// A checkout's times and umask are not inputs.
		for _, file := range []string{"tree/etc/plain", "tree/usr/bin/tool"} {
			if err := os.Chtimes(filepath.Join(source, file), time.Now(), time.Now().Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(filepath.Join(source, "tree/etc/plain"), 0o664); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPackHoldsTheLayersAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	source := filepath.Join(dir, "source")
	putFile(t, source, "from a file", 0o600)
	out := filepath.Join(dir, "out.tar")
	err := Pack(out, epoch, Layer{Name: "a", Entries: []Entry{
		Link("/z", "b/file"), {Path: "/b/file", Type: tar.TypeReg, Mode: 0o640, Source: source}, File("/a", 0o644, []byte("data")),
	}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"./", "a = data", "b/", "b/file = from a file", "z -> b/file"}, names(t, out)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := Pack(filepath.Join(dir, "bad.tar"), epoch, Layer{Name: "a", Entries: []Entry{File("/a", 0, nil), File("/a/b", 0, nil)}}); err == nil {
		t.Error("a file below a file is packed")
	}
	if err := Pack(filepath.Join(dir, "bad.tar"), epoch, Layer{Name: "a", Entries: []Entry{File("a", 0, nil)}}); err == nil {
		t.Error("a relative path is packed")
	}
	filetest.Only(t, dir, "out.tar", "source")
}
