package deb

// What green does not prove: that the licences which a copyright file names are
// those of the files that were built into the package, or that its maintainer
// named them rightly. The files here are made up in the format's own words; the
// tests of a built image read 140 real ones.

import (
	"archive/tar"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/github/go-spdx/v2/spdxexp"
	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/filetest"
)

func TestStanzas(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		text string
		want []Stanza
		err  string
	}{
		"two, with a comment, a value of several lines and blanks around": {
			"\n\n# x\nPackage:  a \nDescription: short\n  indented\n .\n\ttab\nEmpty:\n \n\nPackage: b\r\n",
			[]Stanza{{"package": "a", "description": "short\n indented\n.\ntab", "empty": ""}, {"package": "b"}}, ""},
		"nothing":                 {"", nil, ""},
		"a value with a colon":    {"Homepage: https://x\n", []Stanza{{"homepage": "https://x"}}, ""},
		"no field":                {"A: b\n\nfree text\n", []Stanza{{"a": "b"}}, "line 3: not a field"},
		"continues nothing":       {"A: b\n\n c\n", []Stanza{{"a": "b"}}, "line 3: continues no field"},
		"a field twice":           {"A: b\na: c\n", nil, "line 2: a is there twice"},
		"a line beyond all limit": {"A: " + strings.Repeat("x", maxLine), nil, "line 1: "},
	} {
		t.Run(name, func(t *testing.T) {
			var got []Stanza
			var failed error
			for s, err := range Stanzas(strings.NewReader(tc.text)) {
				if err != nil {
					failed = err
					continue
				}
				got = append(got, s)
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Error(d)
			}
			if (failed == nil) != (tc.err == "") || failed != nil && !strings.HasPrefix(failed.Error(), tc.err) {
				t.Errorf("got %v, want %q", failed, tc.err)
			}
		})
	}
	for range Stanzas(strings.NewReader("A: b\n\nA: c\n")) {
		break // must not be called again
	}
}

// status is a package of dpkg's status file.
func status(name, arch string, fields ...string) string {
	return fmt.Sprintf("Package: %s\nStatus: install ok installed\nArchitecture: %s\nVersion: 1\n%s\n\n", name, arch, strings.Join(fields, "\n"))
}

func TestWhatIsInstalledAndWhatItNeeds(t *testing.T) {
	t.Parallel()
	got, err := ReadStatus(strings.NewReader(
		status("z", "all", "Depends: awk, lib (>= 2) | other, none | mawk:any, gone, z", "Pre-Depends: lib [amd64]") +
			status("mawk", "amd64", "Provides: awk (= 1), pager", "Source: mawk (1.3)", "Maintainer: Some One <one@example.org>") +
			status("lib", "i386") + status("lib", "amd64", "Depends: lib") +
			"Package: removed\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n\n" +
			"Package: held\nStatus: hold ok installed\nArchitecture: i386\nVersion: 1\nDepends: lib\n\n" +
			"Package: half\nStatus: install ok half-installed\nArchitecture: i386\nVersion: 1\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []Installed{
		{Name: "held", Version: "1", Architecture: "i386", Needs: []string{"lib:i386"}},
		{Name: "lib", Version: "1", Architecture: "amd64"},
		{Name: "lib", Version: "1", Architecture: "i386"},
		{Name: "mawk", Version: "1", Architecture: "amd64", Source: "mawk (1.3)", Maintainer: "Some One <one@example.org>"},
		{Name: "z", Version: "1", Architecture: "all", Needs: []string{"lib:i386", "mawk:amd64"}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for _, bad := range []string{"Status: install ok installed\n", "Package: a\nStatus: install ok installed\nVersion: 1\n", "x"} {
		if _, err := ReadStatus(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

const format = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\n"

func files(licence string) string { return "Files: *\nCopyright: x\nLicense: " + licence + "\n\n" }

func TestLicencesBecomeSPDXExpressions(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		files("Expat"):                             "MIT",
		files("GPL-2+"):                            "GPL-2.0-or-later",
		files("GPL-2"):                             "GPL-2.0-only",
		files("lgpl-2.1+"):                         "LGPL-2.1-or-later",
		files("AGPL-3"):                            "AGPL-3.0-only",
		files("GPL-3.0+"):                          "GPL-3.0-or-later",
		files("GFDL-NIV-1.3+"):                     "GFDL-1.3-no-invariants-or-later",
		files("BSD-3-clause"):                      "BSD-3-Clause",
		files("Apache-2"):                          "Apache-2.0",
		files("CC0"):                               "CC0-1.0",
		files("GPL-2 with Linux-syscall-note"):     "GPL-2.0-only WITH Linux-syscall-note",
		files("GPL-2+  with Texinfo exception"):    "GPL-2.0-or-later WITH Texinfo-exception",
		files("ISC and Zlib"):                      "ISC AND Zlib",
		files("Zlib or ISC"):                       "ISC OR Zlib",
		files("ISC | Zlib"):                        "ISC OR Zlib",
		files("Zlib, ISC"):                         "ISC AND Zlib",
		files("ISC or Zlib and Expat"):             "ISC OR (MIT AND Zlib)",
		files("ISC or Zlib, and Expat"):            "(ISC OR Zlib) AND MIT",
		files("ISC and Zlib, or Expat"):            "(ISC AND Zlib) OR MIT",
		files("Zlib or ISC or Zlib"):               "ISC OR Zlib",
		files("Zlib and ISC") + files("ISC"):       "ISC AND Zlib",
		files("Zlib or ISC") + files("Expat"):      "(ISC OR Zlib) AND MIT",
		files("Zlib\n Full text.\n .\n and more"):  "Zlib",
		files("Expat") + "License: GPL-2\n text\n": "MIT", // a text that no file has
	} {
		got := ReadCopyright([]byte(format + text))
		if got.Expression != want || len(got.Texts) != 0 {
			t.Errorf("%q: got %q %v, want %q", text, got.Expression, got.Texts, want)
		}
		if ok, bad := spdxexp.ValidateLicenses([]string{got.Expression}); !ok {
			t.Errorf("%q: not an SPDX expression: %q", text, bad)
		}
	}
}

func TestALicenceThatSPDXDoesNotListKeepsItsText(t *testing.T) {
	t.Parallel()
	one := ReadCopyright([]byte(format + files("permissive and GPL-3+ with Bison exception") + "License: permissive\n Do as\n you like.\n"))
	other := ReadCopyright([]byte(format + files("permissive\n Do not.")))
	if len(one.Texts) != 2 || len(other.Texts) != 1 {
		t.Fatalf("%v\n%v", one, other)
	}
	texts := map[string]string{}
	for ref, text := range one.Texts {
		if !strings.Contains(one.Expression, ref) || !strings.HasPrefix(ref, "LicenseRef-") {
			t.Errorf("%s is not in %s", ref, one.Expression)
		}
		if _, same := other.Texts[ref]; same {
			t.Errorf("two texts are called %s", ref)
		}
		texts[text.Name] = text.Text
	}
	if ok, bad := spdxexp.ValidateLicenses([]string{one.Expression}); !ok {
		t.Errorf("not an SPDX expression: %q", bad)
	}
	if texts["permissive"] != "Do as\nyou like." || !strings.Contains(texts["GPL-3+ with Bison exception"], "gives no text") {
		t.Errorf("%q", texts)
	}
	if again := ReadCopyright([]byte(format + files("permissive") + "License: permissive\n Do not.")); again.Expression != other.Expression {
		t.Errorf("the same text is called %s and %s", again.Expression, other.Expression)
	}
}

func TestNoLicenceIsGuessed(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"free text":              "This package is under the GPL-2.\n",
		"free text with a colon": "Upstream: x\n\nLicense: GPL-2\nFiles: *\n",
		"another format":         "Format: https://example.org/\n\n" + files("GPL-2"),
		"a file that breaks":     format + files("GPL-2") + "Files: a\nno field\n",
		"no licence":             format + "Files: *\nCopyright: x\n",
		"half an expression":     format + files("GPL-2 and , Expat"),
		"no files":               format + "License: GPL-2\n text\n",
		"nothing":                "",
	} {
		if got := ReadCopyright([]byte(text)); got.Expression != "" {
			t.Errorf("%s: %q", name, got.Expression)
		}
	}
}

func TestATreesPackagesAreReadWithTheirLicences(t *testing.T) {
	t.Parallel()
	file := func(name, data string) filetest.Entry {
		return filetest.Entry{Header: tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, Data: data}
	}
	link := func(name, to string, kind byte) filetest.Entry {
		return filetest.Entry{Header: tar.Header{Name: name, Linkname: to, Typeflag: kind}}
	}
	list := ""
	for _, name := range []string{"own", "folder", "absolute", "hard", "soft", "circle", "none", "dangling"} {
		list += status(name, "all")
	}
	tree := filetest.WriteTar(t, filepath.Join(t.TempDir(), "tree"),
		file("./var/lib/dpkg/status", list),
		file("./usr/share/doc/own/copyright", format+files("Expat")),
		link("./usr/share/doc/folder", "own", tar.TypeSymlink),
		link("./usr/share/doc/absolute", "/usr/share/doc/folder", tar.TypeSymlink),
		link("./usr/share/doc/hard/copyright", "./usr/share/doc/own/copyright", tar.TypeLink),
		link("./usr/share/doc/soft/copyright", "../own/copyright", tar.TypeSymlink),
		link("./usr/share/doc/circle", "circle", tar.TypeSymlink),
		link("./usr/share/doc/dangling", "../../../../../gone", tar.TypeSymlink),
		file("./etc/passwd", "x"))
	f, err := os.Open(tree)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, err := ReadTree(f)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, i := range all {
		got[i.Name] = i.Licence.Expression
	}
	want := map[string]string{"own": "MIT", "folder": "MIT", "absolute": "MIT", "hard": "MIT", "soft": "MIT", "circle": "", "none": "", "dangling": ""}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestATreeThatSaysNothingIsRefused(t *testing.T) {
	t.Parallel()
	for name, entry := range map[string]filetest.Entry{
		"no status":       {Header: tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg}},
		"a broken status": {Header: tar.Header{Name: "var/lib/dpkg/status", Typeflag: tar.TypeReg}, Data: "x\n"},
	} {
		file := filetest.WriteTar(t, filepath.Join(t.TempDir(), "tree"), entry)
		if _, err := ReadTree(strings.NewReader(string(filetest.Read(t, file)))); err == nil || !strings.Contains(err.Error(), "var/lib/dpkg/status") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ReadTree(strings.NewReader(strings.Repeat("x", 4096))); err == nil {
		t.Error("no archive is accepted")
	}
}
