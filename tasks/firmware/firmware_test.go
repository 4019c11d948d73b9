package firmware

// What green does not prove: the archive is a server on the loopback interface
// that holds two tiny packages and is signed with a key of the test. That a
// real mirror has the real packages is seen in a build only, and whether a
// processor starts what they hold on hardware only. dpkg-deb is the machine's,
// not the tools tree's.

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/bundle"
	"cc-base/tasks/digest"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/fetch"
	"cc-base/tasks/filetest"
	"cc-base/tasks/firmware/firmwaretest"
	"cc-base/tasks/lab"
	"cc-base/tasks/lockfile"
	"cc-base/tasks/sh"
	"cc-base/tasks/tee/ovmf/ovmftest"
)

// now is the time of all tests.
func now() time.Time { return time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC) }

// getter returns a getter for the archive, and the lines that it says.
func getter(t *testing.T, a *firmwaretest.Archive) (Getter, *[]string) {
	t.Helper()
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		lab.Absent(t, "no dpkg-deb here")
	}
	said := &[]string{}
	return Getter{
		Mirror: a.Mirror() + "/", Keyring: a.Keyring, Cache: t.TempDir(), Work: t.TempDir(), Tools: sh.Host{}, Now: now,
		Fetch: fetch.Options{Tries: 2, Backoff: time.Millisecond, IdleTimeout: time.Second, HeaderTimeout: time.Second},
		Say:   func(format string, args ...any) { *said = append(*said, fmt.Sprintf(format, args...)) },
	}, said
}

// get runs g for both images, and ends the test where it fails.
func get(t *testing.T, g Getter) (Report, string) {
	t.Helper()
	dir := t.TempDir()
	report, err := g.Get(t.Context(), dir, SNP(), TDX())
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range report.Images {
		if sum := digest.Bytes(filetest.Read(t, filepath.Join(dir, got.File))); sum != got.SHA256 {
			t.Errorf("%s has digest %s, the report says %s", got.File, sum, got.SHA256)
		}
	}
	if n := len(filetest.Names(t, dir)); n != len(report.Images) {
		t.Errorf("%d files for %d images", n, len(report.Images))
	}
	err = filepath.WalkDir(g.Work, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			t.Errorf("left: %s", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return report, dir
}

// reasons are why the two images are missing, "" where one is not.
func reasons(r Report) [2]Reason {
	var out [2]Reason
	for i, image := range []Image{SNP(), TDX()} {
		for _, m := range r.Missing {
			if m.File == image.File {
				out[i] = m.Reason
			}
		}
	}
	return out
}

func TestTakesBothFromTheSignedSuite(t *testing.T) {
	t.Parallel()
	a := firmwaretest.New(t, now())
	g, said := getter(t, a)
	report, dir := get(t, g)
	if len(report.Missing) > 0 || len(report.Images) != 2 {
		t.Fatalf("%+v, %v", report, *said)
	}
	image := ovmftest.SNP().Image()
	if !bytes.Equal(filetest.Read(t, filepath.Join(dir, "OVMF.amdsev.fd")), image) {
		t.Error("other bytes")
	}
	got, ok := report.Image("OVMF.amdsev.fd")
	want := Got{
		File: "OVMF.amdsev.fd", SHA256: digest.Bytes(image), Size: int64(len(image)), From: "testing",
		Suite: &Suite{Name: "testing", Date: "2026-11-01T12:00:00Z"},
		Package: Package{
			Name: "ovmf-amdsev", Version: "1.0-1", Source: "edk2", Filename: "pool/main/e/edk2/ovmf-amdsev_1.0-1_all.deb",
			SHA256: got.Package.SHA256, Size: got.Package.Size,
		},
	}
	if diff := cmp.Diff(want, got); diff != "" || !ok {
		t.Errorf("%t, -want +got\n%s", ok, diff)
	}
	if _, ok := report.Image("OVMF.fd"); ok {
		t.Error("it has an image that nobody got")
	}
	if got := a.Requests(); len(got) != 4 || got[0] != "dists/testing/InRelease" || !strings.Contains(got[1], "/by-hash/") {
		t.Errorf("requests: %v", got)
	}
	if len(*said) != 2 {
		t.Errorf("said %q, want a line for each", *said)
	}

	// The report is read back as it was written, and what it knows needs no
	// mirror any more.
	text, err := report.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := ReadReport(filetest.Write(t, filepath.Join(t.TempDir(), "firmware.json"), text))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(report, back); diff != "" {
		t.Errorf("-written +read\n%s", diff)
	}
	a.Close()
	g.Known = back.Images
	again, _ := get(t, g)
	if diff := cmp.Diff(report, again); diff != "" {
		t.Errorf("offline: -first +second\n%s", diff)
	}
}

func TestALockNeedsNoSuiteAndTakesNothingElse(t *testing.T) {
	t.Parallel()
	a := firmwaretest.New(t, now())
	g, _ := getter(t, a)
	first, _ := get(t, g)
	pins, err := ReadLock(filetest.Write(t, filepath.Join(t.TempDir(), "packages.lock"), first.Lock()))
	if err != nil || len(pins) != 2 {
		t.Fatalf("%v, %v", pins, err)
	}
	a.Suite(t, "testing", a.Put(t, firmwaretest.SNP("2.0-1")), a.Put(t, firmwaretest.TDX("2.0-1")))
	a.Requests()
	g.Locked, g.Keyring, g.Cache = pins, "", t.TempDir()
	report, _ := get(t, g)
	for _, got := range report.Images {
		if got.Package.Version != "1.0-1" || got.From != FromLock || got.Suite != nil {
			t.Errorf("%+v", got)
		}
	}
	if got := a.Requests(); len(got) != 2 || len(report.Images) != 2 {
		t.Errorf("%d images with %v", len(report.Images), got)
	}

	// A pinned version that went is not replaced by another one.
	a.Change(t, "ovmf-amdsev_1.0-1", func([]byte) []byte { return nil })
	g.Cache = t.TempDir()
	report, _ = get(t, g)
	if got, want := reasons(report), [2]Reason{Vanished, ""}; got != want {
		t.Errorf("reasons %v, want %v", got, want)
	}
	a.Change(t, "ovmf-inteltdx_1.0-1", func(data []byte) []byte { data[len(data)-1] ^= 1; return data })
	g.Cache = t.TempDir()
	report, _ = get(t, g)
	if got, want := reasons(report), [2]Reason{Vanished, WrongContent}; got != want {
		t.Errorf("reasons %v, want %v", got, want)
	}
}

func TestWhatTheLastBuildKnewIsAskedForAnewOnceItIsGone(t *testing.T) {
	t.Parallel()
	a := firmwaretest.New(t, now())
	g, _ := getter(t, a)
	first, _ := get(t, g)
	a.Change(t, "ovmf-amdsev_1.0-1", func([]byte) []byte { return nil })
	a.Suite(t, "testing", a.Put(t, firmwaretest.SNP("2.0-1")))
	g.Known, g.Cache = first.Images, t.TempDir()
	report, _ := get(t, g)
	if len(report.Images) != 2 || report.Images[0].Package.Version != "2.0-1" || report.Images[1].Package.Version != "1.0-1" {
		t.Errorf("%+v", report)
	}
}

// wrong is a way in which an archive does not have what is asked for.
type wrong struct {
	name   string
	change func(t *testing.T, a *firmwaretest.Archive, g *Getter)
	want   [2]Reason
	says   string
}

func TestWhatCannotBeHadIsMissingWithItsReason(t *testing.T) {
	t.Parallel()
	for _, tc := range slices.Concat(wrongMachine(), wrongSuite(), wrongContent()) {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			a := firmwaretest.New(t, now())
			g, said := getter(t, a)
			tc.change(t, a, &g)
			report, _ := get(t, g)
			if got := reasons(report); got != tc.want {
				t.Errorf("reasons %q, want %q; said %q", got, tc.want, *said)
			}
			if len(report.Images)+len(report.Missing) != 2 {
				t.Errorf("%+v", report)
			}
			for _, m := range report.Missing {
				if m.Meaning == "" || m.Meaning == "unknown" || m.Package == "" {
					t.Errorf("%+v says too little", m)
				}
				without := func(line string) bool {
					return strings.HasPrefix(line, "without "+m.File+": "+m.Meaning) && !strings.Contains(line, "\n")
				}
				if !slices.ContainsFunc(*said, without) {
					t.Errorf("no line about %s: %q", m.File, *said)
				}
			}
			if !strings.Contains(strings.Join(*said, "\n"), tc.says) {
				t.Errorf("said %q, want %q", *said, tc.says)
			}
		})
	}
}

func both(r Reason) [2]Reason { return [2]Reason{r, r} }

func wrongMachine() []wrong {
	return []wrong{
		{"no mirror is known", func(t *testing.T, a *firmwaretest.Archive, g *Getter) { g.Mirror = "" }, both(NoMirror), ""},
		{"a mirror in a folder", func(t *testing.T, a *firmwaretest.Archive, g *Getter) { g.Mirror = "file:///srv/debian" }, both(NoMirror), ""},
		{"no keyring", func(t *testing.T, a *firmwaretest.Archive, g *Getter) { g.Keyring += ".not" }, both(NoKeyring), "no such file"},
		{"a keyring that is none", func(t *testing.T, a *firmwaretest.Archive, g *Getter) { filetest.Write(t, g.Keyring, []byte("text")) }, both(NoKeyring), ""},
		{"nobody listens", func(t *testing.T, a *firmwaretest.Archive, g *Getter) { a.Close() }, both(Unreachable), "refused"},
		{"the mirror hangs up", func(t *testing.T, a *firmwaretest.Archive, g *Getter) { a.Break("dists/testing/InRelease") }, both(Unreachable), "unexpected EOF"},
	}
}

func wrongSuite() []wrong {
	in := func(change func(data []byte) []byte) func(*testing.T, *firmwaretest.Archive, *Getter) {
		return func(t *testing.T, a *firmwaretest.Archive, g *Getter) { a.Change(t, "InRelease", change) }
	}
	replace := func(from, to string) func([]byte) []byte {
		return func(data []byte) []byte { return bytes.Replace(data, []byte(from), []byte(to), 1) }
	}
	signed := func(text string) func(*testing.T, *firmwaretest.Archive, *Getter) {
		return func(t *testing.T, a *firmwaretest.Archive, g *Getter) { a.Sign(t, "testing", text) }
	}
	const head = "Suite: testing\nDate: Sun, 01 Nov 2026 12:00:00 UTC\n"
	return []wrong{
		{"no suite", in(func([]byte) []byte { return nil }), both(NoSuite), ""},
		{"the text was changed", in(replace("Origin: Debian", "Origin: debian")), both(NotSigned), "invalid signature"},
		{"a digest was changed", in(replace("\nSHA256:\n ", "\nSHA256:\n 0")), both(NotSigned), ""},
		{"it is not signed", in(func([]byte) []byte { return []byte(head) }), both(NotSigned), "not a signed message"},
		{"it is cut off", in(func(data []byte) []byte { return data[:len(data)/2] }), both(NotSigned), "not a signed message"},
		{"it is signed by somebody", func(t *testing.T, a *firmwaretest.Archive, g *Getter) {
			g.Keyring = firmwaretest.Keyring(t, firmwaretest.NewKey(t, now(), 0))
		}, both(NotSigned), "unknown entity"},
		{"it is signed by two of them", func(t *testing.T, a *firmwaretest.Archive, g *Getter) {
			a.Signers = append(a.Signers, firmwaretest.NewKey(t, now(), 0))
			a.Suite(t, "testing")
			g.Keyring = firmwaretest.Keyring(t, firmwaretest.NewKey(t, now(), 0))
		}, both(NotSigned), "unknown entity, "},
		{"its key has expired", func(t *testing.T, a *firmwaretest.Archive, g *Getter) {
			a.Signers = []*openpgp.Entity{firmwaretest.NewKey(t, now(), 24*60*60)}
			g.Keyring = firmwaretest.Keyring(t, a.Signers...)
			a.Suite(t, "testing")
		}, both(NotSigned), "expired"},
		{"it is another suite's", func(t *testing.T, a *firmwaretest.Archive, g *Getter) {
			a.Release(t, firmwaretest.Release{Name: "testing", Says: "oldstable", Until: now()})
		}, both(NotSigned), "another suite's"},
		{"it has no date", signed("Suite: testing\nSHA256:\n"), both(NotSigned), "no date"},
		{"its date is none", signed("Suite: testing\nDate: today\n"), both(NotSigned), "Date"},
		{"a digest is none", signed(head + "SHA256:\n 00 1 main/binary-all/Packages.gz\n"), both(NotSigned), "not one of a digest"},
		{"a line has no size", signed(head + "SHA256:\n " + strings.Repeat("0", 64) + " main/binary-all/Packages.gz\n"), both(NotSigned), "not one of a digest"},
		{"it lists no index", signed(head + "SHA256:\n"), both(NoPackage), "lists none of"},
	}
}

func wrongContent() []wrong {
	in := func(part string, change func(data []byte) []byte) func(*testing.T, *firmwaretest.Archive, *Getter) {
		return func(t *testing.T, a *firmwaretest.Archive, g *Getter) { a.Change(t, part, change) }
	}
	suite := func(packages ...firmwaretest.Package) func(*testing.T, *firmwaretest.Archive, *Getter) {
		return func(t *testing.T, a *firmwaretest.Archive, g *Getter) {
			var stanzas []string
			for _, p := range packages {
				stanzas = append(stanzas, a.Put(t, p))
			}
			a.Suite(t, "testing", stanzas...)
		}
	}
	index := func(text string) func(*testing.T, *firmwaretest.Archive, *Getter) {
		return func(t *testing.T, a *firmwaretest.Archive, g *Getter) {
			a.Serve("dists/testing/main/binary-amd64/Packages.gz", []byte(text))
			a.Sign(t, "testing", fmt.Sprintf("Codename: testing\nDate: Sun, 01 Nov 2026 12:00:00 UTC\nSHA256:\n %s %d main/binary-amd64/Packages.gz\n", digest.Bytes([]byte(text)), len(text)))
		}
	}
	flip := func(data []byte) []byte { data[len(data)/2] ^= 1; return data }
	half := func(data []byte) []byte { return data[:len(data)/2] }
	none := func([]byte) []byte { return nil }
	snp, tdx := SNP(), TDX()
	return []wrong{
		{"the index was changed", in("by-hash", flip), both(WrongContent), ""},
		{"the index is cut off", in("by-hash", half), both(WrongContent), ""},
		{"the index is missing", in("by-hash", none), both(Unreachable), ""},
		{"the index is not packed", index("Package: ovmf-amdsev\n"), both(WrongContent), "gzip"},
		{"the index names no digest", suite(), both(NoPackage), "in testing or unstable"},
		{"one package is missing", suite(firmwaretest.TDX("1")), [2]Reason{NoPackage, ""}, ""},
		{"a package was changed", in("amdsev_1.0-1", flip), [2]Reason{WrongContent, ""}, ""},
		{"a package is cut off", in("inteltdx_1.0-1", half), [2]Reason{"", WrongContent}, ""},
		{"a package is not there", in("inteltdx_1.0-1", none), [2]Reason{"", Unreachable}, ""},
		{"firmware without hashes", suite(firmwaretest.File(snp.Package, "1", snp.path, ovmftest.TDX().Image())), [2]Reason{Unusable, NoPackage}, "no page for kernel hashes"},
		{"firmware without metadata", suite(firmwaretest.File(tdx.Package, "1", tdx.path, ovmftest.SNP().Image())), [2]Reason{NoPackage, Unusable}, "no TDX metadata"},
		{"no firmware", suite(firmwaretest.File(snp.Package, "1", snp.path, []byte("text"))), [2]Reason{Unusable, NoPackage}, ""},
		{"a link for a file", suite(firmwaretest.Package{Name: snp.Package, Version: "1", Header: tar.Header{Name: "./" + snp.path, Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}}), [2]Reason{Unusable, NoPackage}, "is not a file"},
		{"the file elsewhere", suite(firmwaretest.File(snp.Package, "1", "usr/share/OVMF.amdsev.fd", ovmftest.SNP().Image())), [2]Reason{Unusable, NoPackage}, "has no file"},
		{"a package without end", suite(firmwaretest.File(snp.Package, "1", snp.path, make([]byte, maxTree))), [2]Reason{Unusable, NoPackage}, "unpacks to more"},
	}
}

func TestTheNextSuiteIsAskedForWhatTheFirstLacks(t *testing.T) {
	t.Parallel()
	a := firmwaretest.New(t, now())
	a.Release(t, firmwaretest.Release{Name: "unstable", Stanzas: []string{a.Put(t, firmwaretest.SNP("3"))}, Until: now().AddDate(0, 0, 7)})
	a.Suite(t, "testing", a.Put(t, firmwaretest.TDX("1")))
	g, _ := getter(t, a)
	report, _ := get(t, g)
	if len(report.Images) != 2 || report.Images[0].From != "unstable" || report.Images[1].From != "testing" {
		t.Errorf("%+v", report)
	}
	if n := strings.Count(strings.Join(a.Requests(), "\n"), "testing/InRelease"); n != 1 {
		t.Errorf("testing was read %d times", n)
	}
}

func TestASuitePastItsValidityIsTakenAndSaidToBe(t *testing.T) {
	t.Parallel()
	a := firmwaretest.New(t, now())
	a.Release(t, firmwaretest.Release{Name: "testing", Stanzas: []string{a.Put(t, firmwaretest.SNP("1"))}, Until: now().AddDate(0, 0, -1), ByHash: true})
	g, said := getter(t, a)
	report, _ := get(t, g)
	if len(report.Images) != 1 || !report.Images[0].Suite.Expired {
		t.Errorf("%+v", report)
	}
	if want := "testing is of 2026-10-24 and was valid until 2026-10-31: taken all the same"; !strings.HasPrefix((*said)[0], want) {
		t.Errorf("said %q, want %q", *said, want)
	}
}

// Debian signs with the keys of several releases; in the years between, the
// first may have expired or be unknown.
func TestOneGoodSignatureOfSeveralIsEnough(t *testing.T) {
	t.Parallel()
	for name, lifetime := range map[string]uint32{"expired": 24 * 60 * 60, "unknown": 0} {
		a := firmwaretest.New(t, now())
		a.Signers = []*openpgp.Entity{firmwaretest.NewKey(t, now(), lifetime), a.Signers[0]}
		g, said := getter(t, a)
		if name == "expired" {
			g.Keyring = firmwaretest.Keyring(t, a.Signers...)
		}
		a.Suite(t, "testing", a.Put(t, firmwaretest.SNP("1")))
		if report, _ := get(t, g); len(report.Images) != 1 {
			t.Errorf("%s: %+v, %q", name, report, *said)
		}
	}
}

func TestTextOutsideTheSignatureCountsForNothing(t *testing.T) {
	t.Parallel()
	a := firmwaretest.New(t, now())
	a.Change(t, "InRelease", func(data []byte) []byte {
		evil := []byte("Valid-Until: Thu, 01 Jan 1970 00:00:00 UTC\nSHA256:\n " + strings.Repeat("0", 64) + " 1 main/binary-all/Packages.gz\n")
		return slices.Concat(evil, data, evil)
	})
	g, _ := getter(t, a)
	report, _ := get(t, g)
	if len(report.Images) != 2 || report.Images[0].Suite.Expired {
		t.Errorf("%+v", report)
	}
}

func TestTroubleOfThisMachineIsAnError(t *testing.T) {
	t.Parallel()
	a := firmwaretest.New(t, now())
	g, _ := getter(t, a)
	file := filetest.Write(t, filepath.Join(t.TempDir(), "file"), nil)
	if report, err := g.Get(t.Context(), file, SNP()); err == nil {
		t.Errorf("a file for a folder: %+v", report)
	}
	g.Cache = file
	if report, err := g.Get(t.Context(), t.TempDir(), SNP()); err == nil {
		t.Errorf("a file for the cache: %+v", report)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := g.Get(ctx, t.TempDir(), SNP()); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	broken := errors.New("broken")
	g, _ = getter(t, a)
	g.Tools = &sh.Recorder{Answer: func(sh.Cmd) (string, error) { return "", broken }}
	if _, err := g.Get(t.Context(), t.TempDir(), SNP()); !errors.Is(err, broken) {
		t.Errorf("dpkg-deb does not run: %v", err)
	}
}

// What is wrong with a lock is for package lockfile to find.
func TestALockPinsWhatItsSectionNames(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "packages.lock")
	if pins, err := ReadLock(file); err != nil || pins != nil {
		t.Errorf("no lock: %v, %v", pins, err)
	}
	pkg := func(name string) bundle.Package {
		return bundle.Package{Name: name, Version: "1", Architecture: "all", Filename: "pool/main/e/edk2/" + name + "_1_all.deb", Size: 1, SHA256: strings.Repeat("a", 64)}
	}
	others := lockfile.Section{Name: "tools", From: "debian trixie main", Packages: []bundle.Package{pkg("ovmf-inteltdx"), pkg("zlib1g")}}
	for _, tt := range []struct {
		lock lockfile.Lock
		want []bundle.Package
	}{
		{lockfile.Lock{}, nil},
		{lockfile.Lock{Sections: []lockfile.Section{others}}, nil},
		{lockfile.Lock{Sections: []lockfile.Section{others, LockSection([]bundle.Package{pkg("ovmf-amdsev")})}}, []bundle.Package{pkg("ovmf-amdsev")}},
	} {
		filetest.Write(t, file, tt.lock.Encode())
		pins, err := ReadLock(file)
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(tt.want, pins); diff != "" {
			t.Errorf("pins (-want +got):\n%s", diff)
		}
	}
	filetest.Write(t, file, []byte("not a lock at all"))
	_, err := ReadLock(file)
	faulttest.Want(t, err, fault.Config, file+":1: ")
}

func TestAReportOfAnotherSchemaIsRefused(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "firmware.json")
	for _, text := range []string{"[]", `{"schema":2}`, "{"} {
		filetest.Write(t, file, []byte(text))
		if r, err := ReadReport(file); err == nil {
			t.Errorf("%s: %+v", text, r)
		}
	}
	if r := Off(SNP(), TDX()); reasons(r) != both(NotWanted) || len(r.Images) != 0 {
		t.Errorf("%+v", r)
	}
}
