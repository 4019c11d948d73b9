package lockfile

// What green does not prove: the locks here are made up. That a real one binds a
// real build is seen where a mirror is: `mage lock`, then a build with LOCKED=yes.

import (
	"bytes"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/deb"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/golden"
)

// deb is a package whose digest is one hexadecimal digit over and over.
func listed(name, version, digit string) deb.Package {
	return deb.Package{
		Name: name, Version: version, Architecture: "amd64", Size: 1234, SHA256: strings.Repeat(digit, 64),
		Filename: "pool/main/" + name[:1] + "/" + name + "/" + name + "_" + version[strings.Index(version, ":")+1:] + "_amd64.deb",
	}
}

func sample() Lock {
	libc, other := listed("libc6", "2.41-12+deb13u1", "a"), listed("libc6", "2.42-1~x", "b")
	return Lock{Sections: []Section{
		{Name: "tools", From: "debian forky main", Packages: []deb.Package{other, listed("libstdc++6", "14.2.0-19", "c")}},
		{Name: "image", From: "debian trixie main contrib", Packages: []deb.Package{libc, listed("auditd", "1:4.0.2-2", "d")}},
		{Name: "image/minimal", From: "debian trixie main", Packages: []deb.Package{libc}},
	}}
}

func TestALockIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	data := sample().Encode()
	golden.Compare(t, "packages.lock", string(data))
	back, err := Parse("packages.lock", data)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(back.Encode(), data) {
		t.Errorf("written again it is\n%s", back.Encode())
	}
	for _, want := range sample().Sections {
		got, ok := back.Section(want.Name)
		if diffs := Compare(want.Packages, got.Packages); !ok || got.From != want.From || len(diffs) > 0 || len(got.Packages) != len(want.Packages) {
			t.Errorf("%s: %v", want.Name, diffs)
		}
	}
	if _, ok := back.Section("image/other"); ok {
		t.Error("it has a section that nobody wrote")
	}
}

func TestTheOrderOfPackagesDoesNotShow(t *testing.T) {
	t.Parallel()
	one, two := sample(), sample()
	two.Sections[0], two.Sections[2] = two.Sections[2], two.Sections[0]
	last := two.Sections[1].Packages
	last[0], last[1] = last[1], last[0]
	last[0].Source = "audit"
	if diff := cmp.Diff(string(one.Encode()), string(two.Encode())); diff != "" {
		t.Errorf("(-one +two):\n%s", diff)
	}
}

func TestAMalformedLockIsRefusedWithEveryMistake(t *testing.T) {
	t.Parallel()
	const head = "# a remark\nFormat: 1\n\nSection: image\nFrom: debian trixie main\n"
	good := "\nPackage: libc6\nVersion: 2.41-12\nArchitecture: amd64\nFilename: pool/main/g/glibc/libc6_2.41-12_amd64.deb\nSize: 1\nSHA256: " +
		strings.Repeat("a", 64) + "\nSection: image\n"
	if l, err := Parse("lock", []byte(head+good)); err != nil || len(l.Sections) != 1 || len(l.Sections[0].Packages) != 1 {
		t.Fatalf("%v, %v", l, err)
	}
	change := func(old, new string) string { return head + strings.Replace(good, old, new, 1) }
	for name, tt := range map[string]struct {
		text string
		want []string // whole lines
	}{
		"nothing":            {"", []string{"lock:1: the lock is empty"}},
		"remarks alone":      {"# a\n\n", []string{"lock:1: the lock is empty"}},
		"no lock at all":     {"\n<html>\n", []string{`lock:2: a lock begins with the line "Format: 1" and an empty one`}},
		"a newer format":     {"Format: 2\n", []string{`lock:1: a lock begins with the line "Format: 1" and an empty one`}},
		"no empty line":      {"Format: 1\nSection: image\n", []string{`lock:1: a lock begins with the line "Format: 1" and an empty one`}},
		"a merge conflict":   {head + "<<<<<<< ours\n" + good, []string{`lock:6: "<<<<<<< ours" is not FIELD: VALUE`, "lock:8: no stanza before this one describes the section image"}},
		"a section twice":    {head + "\nSection: image\nFrom: debian sid main\n", []string{"lock:7: the section image is there twice"}},
		"no origin":          {"Format: 1\n\nSection: image\n", []string{"lock:3: From is missing"}},
		"a package twice":    {head + good + good, []string{"lock:15: libc6 is already in the section image, by line 7"}},
		"an unknown section": {change("Section: image\n", "Section: image tools\n"), []string{"lock:7: no stanza before this one describes the section tools"}},
		"no section":         {change("Section: image\n", ""), []string{"lock:7: Section is missing"}},
		"an unknown field":   {change("Size: 1", "Size: 1\nMD5sum: x"), []string{"lock:12: there is no field MD5sum here"}},
		"a field twice":      {change("Size: 1", "Size: 1\nSize: 2"), []string{"lock:12: Size is there twice"}},
		"a longer field":     {change("Size: 1", "Size: 1\n more"), []string{`lock:12: " more" is not FIELD: VALUE`}},
		"no digest": {change("SHA256: "+strings.Repeat("a", 64)+"\n", ""),
			[]string{"lock:7: SHA256 is missing"}},
		"several mistakes": {change("Size: 1\n", "Size: 0\nBugs: x\n"),
			[]string{`lock:11: Size cannot be "0"`, "lock:12: there is no field Bugs here"}},
		"a pin of its own":    {change("Version: 2.41-12\n", "Version: 2.*\n"), []string{`lock:8: Version cannot be "2.*"`}},
		"a name for all":      {change("Package: libc6", "Package: *"), []string{`lock:7: Package cannot be "*"`}},
		"a place outside":     {change("pool/main", "pool/../main"), []string{`lock:10: Filename cannot be "pool/../main/g/glibc/libc6_2.41-12_amd64.deb"`}},
		"a place at the root": {change("pool/main", "/pool/main"), []string{`lock:10: Filename cannot be "/pool/main/g/glibc/libc6_2.41-12_amd64.deb"`}},
		"a question":          {change(".deb", ".deb?x"), []string{`lock:10: Filename cannot be "pool/main/g/glibc/libc6_2.41-12_amd64.deb?x"`}},
		"half a digest":       {change("SHA256: aaaa", "SHA256: "), []string{`lock:12: SHA256 cannot be "` + strings.Repeat("a", 60) + `"`}},
		"a size beyond all":   {change("Size: 1", "Size: 1234567890123456789"), []string{`lock:11: Size cannot be "1234567890123456789"`}},
		"lines of DOS":        {strings.ReplaceAll(head, "\n", "\r\n"), []string{`lock:2: a lock begins with the line "Format: 1" and an empty one`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse("lock", []byte(tt.text))
			faulttest.Want(t, err, fault.Config)
			if diff := cmp.Diff(strings.Join(tt.want, "\n"), err.Error()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadTellsAMissingLockFromABrokenOne(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "packages.lock")
	if _, err := Read(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("not there: %v", err)
	}
	filetest.Write(t, file, []byte("nonsense\n"))
	_, err := Read(file)
	faulttest.Want(t, err, fault.Config, file+":1: ")
	filetest.Write(t, file, sample().Encode())
	if l, err := Read(file); err != nil || len(l.Sections) != 3 {
		t.Errorf("%v, %v", l, err)
	}
}

func TestCheckNamesEveryDifference(t *testing.T) {
	t.Parallel()
	all := listed("all", "1", "e")
	all.Architecture = "all"
	s := Section{Name: "image", From: "debian trixie main", Packages: []deb.Package{
		listed("same", "1", "a"), listed("gone", "1", "b"), listed("newer", "1:1-1", "c"), listed("other", "1", "d"), all,
	}}
	if err := s.Check("debian trixie main", s.Packages); err != nil {
		t.Errorf("the locked packages: %v", err)
	}
	err := s.Check("debian sid main", []deb.Package{listed("other", "1", "0"), listed("newer", "1:1-2", "c"), listed("added", "3", "f"), listed("same", "1", "a"), listed("all", "1", "e")})
	faulttest.Want(t, err, fault.NotLocked)
	want := "the packages are not those of the section image in the lock, 7 differences:\n" +
		"  they come from debian sid main: locked debian trixie main\n" +
		"  added 3: not in the lock\n" +
		"  all 1: in the lock, but not among these packages\n" + // all:all
		"  all 1: not in the lock\n" + // all:amd64
		"  gone 1: in the lock, but not among these packages\n" +
		"  newer 1:1-2: locked 1:1-1\n" +
		"  other 1: sha256 " + strings.Repeat("0", 64) + ", locked " + strings.Repeat("d", 64)
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !strings.Contains(fault.Render(err), "\nhint: `mage outdated` lists ") {
		t.Errorf("no hint in %s", fault.Render(err))
	}
	faulttest.Want(t, s.Check("debian sid main", s.Packages), fault.NotLocked, "one difference:\n  they come from debian sid main")
}

func TestSinceMergesWhatSeveralSectionsHave(t *testing.T) {
	t.Parallel()
	if news := sample().Since(sample()); !news.None() {
		t.Errorf("%+v", news)
	}
	now := sample()
	libc := listed("libc6", "2.41-13", "9")
	now.Sections[1].Packages = []deb.Package{libc, listed("auditd", "1:4.0.2-2", "d")}
	now.Sections[2].Packages = []deb.Package{libc, listed("zlib1g", "1", "8")}
	now.Sections[2].From = "debian trixie main contrib"
	now.Sections[0].Name = "image/new"
	want := News{
		Origins: []Origin{
			{"image/minimal", "debian trixie main", "debian trixie main contrib"},
			{"image/new", "", "debian forky main"},
			{"tools", "debian forky main", ""},
		},
		Packages: []Change{
			{Difference{Package: "libc6", Architecture: "amd64", Locked: "2.41-12+deb13u1", Offered: "2.41-13"}, []string{"image", "image/minimal"}},
			{Difference{Package: "zlib1g", Architecture: "amd64", Offered: "1"}, []string{"image/minimal"}},
		},
	}
	if diff := cmp.Diff(want, now.Since(sample())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
