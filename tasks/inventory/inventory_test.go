package inventory

// What green does not prove: the tars here have a handful of files. That the
// sums are those of a real image is checked where one is built (tasks/build,
// the report).

import (
	"archive/tar"
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type entry struct {
	name, content, link string
}

func archive(t *testing.T, entries ...entry) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: 0o644, Size: int64(len(e.content)), Typeflag: tar.TypeReg}
		if e.link != "" {
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

const status = `Package: bash
Status: install ok installed
Architecture: amd64
Version: 5.2
Description: a shell
 with a second line: and a colon

Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.41

Package: gone
Status: deinstall ok config-files
Version: 1
`

func TestEveryByteIsSomebodys(t *testing.T) {
	got, err := Read(archive(t,
		entry{name: "./bin", link: "usr/bin"}, entry{name: "lib", link: "/usr/lib"},
		entry{name: "usr/bin/bash", content: strings.Repeat("b", 1000)},
		entry{name: "usr/lib/libc.so.6", content: strings.Repeat("c", 5000)},
		entry{name: "usr/lib/cc-base/cc-guest", content: strings.Repeat("g", 300)},
		entry{name: "var/lib/dpkg/status", content: status},
		entry{name: "var/lib/dpkg/info/bash.list", content: "/.\n/bin\n/bin/bash\n/usr/share/man/man1/bash.1.gz\n"},
		entry{name: "var/lib/dpkg/info/libc6:amd64.list", content: "/lib/libc.so.6\n/usr/bin/bash\n"},
		entry{name: "top", content: "1234"},
	))
	if err != nil {
		t.Fatal(err)
	}
	want := []Package{{"bash", "5.2", "amd64", 1000, 1}, {"libc6", "2.41", "amd64", 5000, 1}}
	if d := cmp.Diff(want, got.Packages); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	sum := got.Other
	for _, p := range got.Packages {
		sum += p.Bytes
	}
	if sum != got.Bytes || got.Root.Bytes != got.Bytes || got.Root.Name != "/" {
		t.Errorf("packages and others have %d, all is %d, the root %d", sum, got.Bytes, got.Root.Bytes)
	}
	usr := got.Root.Folders[0]
	if usr.Name != "usr" || usr.Bytes != 6300 || usr.Folders[1].Name != "lib" || usr.Folders[1].Bytes != 5300 {
		t.Errorf("%+v", got.Root)
	}
}

func TestFoldersTooSmallToSeeAreNotNamed(t *testing.T) {
	got, err := Read(archive(t,
		entry{name: "var/lib/dpkg/status", content: ""},
		entry{name: "big/file", content: strings.Repeat("b", 100_000)},
		entry{name: "big/small/file", content: strings.Repeat("s", 99)},
		entry{name: "big/seen/file", content: strings.Repeat("s", 200)},
	))
	if err != nil {
		t.Fatal(err)
	}
	want := Folder{Name: "/", Bytes: 100_299, Folders: []Folder{{Name: "big", Bytes: 100_299, Folders: []Folder{{Name: "seen", Bytes: 200}}}}}
	if d := cmp.Diff(want, got.Root); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

func TestWhatIsNoRootFileSystemIsAnError(t *testing.T) {
	for name, data := range map[string]*bytes.Buffer{
		"no package database": archive(t, entry{name: "usr/bin/bash", content: "x"}),
		"no tar":              bytes.NewBufferString(strings.Repeat("no tar ", 100)),
		"cut off":             bytes.NewBuffer(archive(t, entry{name: "var/lib/dpkg/status", content: status}).Bytes()[:600]),
	} {
		if _, err := Read(data); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
