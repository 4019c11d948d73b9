package receipt

// What green does not prove: the report that vouches for a record of tier
// silicon is one of the libraries' kind, signed by a test's key. No processor
// has made one here. That a host's key is on that host alone is the operator's
// to know, and a clock that is set back makes old receipts new.
//
// The tests are inside the package since they sign what Write never would.

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/filetest"
	"cc-base/tasks/golden"
	"cc-base/tasks/tee/evidence"
	"cc-base/validation/check"
)

var (
	now      = time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)
	manifest = []byte(`{"name": "cc-base"}`)
)

func testKey(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func public(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

func registry() []check.Check {
	return []check.Check{
		{ID: "bundle.checksums", Title: "the files are those that were built", Area: "bundle", Where: []check.Where{check.Artefact, check.Host}, Tier: check.TierArtefact},
		{ID: "bundle.unlisted", Title: "there is no other file", Area: "bundle", Where: []check.Where{check.Artefact, check.Host}, Tier: check.TierArtefact},
		{ID: "host.kernel", Title: "the kernel will do", Area: "host", Where: []check.Where{check.Host}, Tier: check.TierKVM},
		{ID: "guest.sealed", Title: "memory is sealed from the host", Area: "guest", Where: []check.Where{check.Guest}, Tier: check.TierSilicon},
		{ID: "guest.ssh", Title: "nothing listens on port 22", Area: "guest", Where: []check.Where{check.Guest}, Tier: check.TierKVM},
	}
}

// processor vouches for whatever it is asked.
type processor struct{}

func (processor) Report(_ context.Context, data [evidence.DataSize]byte) (evidence.Evidence, error) {
	return evidence.Evidence{Kind: evidence.Fake, Report: data[:]}, nil
}

// accepts is the verifier that belongs to processor.
func accepts(e evidence.Evidence, data [evidence.DataSize]byte, _ time.Time) error {
	if e.Kind != evidence.Fake || !bytes.Equal(e.Report, data[:]) {
		return errors.New("report data: another one")
	}
	return nil
}

func options() Options {
	return Options{
		Manifest: manifest, Registry: registry(), Now: now, Evidence: accepts,
		Keys: Keys{
			Fingerprint(public(testKey("host"))):  {Name: "host one", Most: check.TierKVM, Key: public(testKey("host"))},
			Fingerprint(public(testKey("small"))): {Name: "builder", Most: check.TierArtefact, Key: public(testKey("small"))},
		},
	}
}

func results(where check.Where) []check.Result {
	var all []check.Result
	for _, c := range registry() {
		if c.Where[0] == where {
			v := check.Passed("looked at %s", c.ID)
			if c.ID == "guest.ssh" {
				v = check.Skipped("no | network_here")
			}
			all = append(all, check.Result{ID: c.ID, Title: c.Title, Area: c.Area, Tier: c.Tier, Verdict: v})
		}
	}
	return all
}

// write writes a run and returns its folder.
func write(t testing.TB, dir string, where check.Where, change func(*Source)) string {
	t.Helper()
	s := Source{Where: where, Most: check.TierSilicon, Manifest: manifest, Log: []byte("all well\n"), Time: now.Add(-time.Hour), Tool: "cc-install test", Results: results(where), Reporter: processor{}}
	if change != nil {
		change(&s)
	}
	run, err := Write(t.Context(), dir, testKey("host"), s)
	if err != nil {
		t.Fatal(err)
	}
	return run
}

// good writes receipts of every place and returns the run of each.
func good(t testing.TB) (dir string, runs map[check.Where]string) {
	t.Helper()
	dir = t.TempDir()
	runs = map[check.Where]string{}
	for _, where := range []check.Where{check.Artefact, check.Host, check.Guest} {
		runs[where] = write(t, dir, where, nil)
	}
	return dir, runs
}

func load[T interface{ check() error }](t testing.TB, file string) sealed[T] {
	t.Helper()
	s, err := decode[T](filetest.Read(t, file))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func store(t testing.TB, file string, v any) {
	t.Helper()
	data, err := encode(v, indent)
	if err != nil {
		t.Fatal(err)
	}
	filetest.Write(t, file, data)
}

// reseal changes a record, signs it again with key and lists it in the index of
// its run, so that nothing but the change is wrong.
func reseal(t testing.TB, file string, key ed25519.PrivateKey, change func(*sealed[Record])) {
	t.Helper()
	s := load[Record](t, file)
	before := s.Evidence
	change(&s)
	vouched := s.Evidence != nil && s.Evidence == before
	signed, err := seal(recordPurpose, key, s.Body)
	if err != nil {
		t.Fatal(err)
	}
	if signed.Evidence = s.Evidence; vouched {
		data, err := ReportData(s.Body)
		if err != nil {
			t.Fatal(err)
		}
		signed.Evidence = &evidence.Evidence{Kind: evidence.Fake, Report: data[:]}
	}
	store(t, file, signed)
	relist(t, filepath.Dir(file))
}

// relist makes the index of the run anew from its files.
func relist(t testing.TB, run string) {
	t.Helper()
	file := filepath.Join(run, IndexFile)
	s := load[Index](t, file)
	s.Body.Records = nil
	for _, name := range filetest.Names(t, run) {
		if id, ok := strings.CutSuffix(name, ".json"); ok && name != IndexFile {
			s.Body.Records = append(s.Body.Records, Entry{ID: id, SHA256: digestOf(filetest.Read(t, filepath.Join(run, name)))})
		}
	}
	signed, err := seal(indexPurpose, testKey("host"), s.Body)
	if err != nil {
		t.Fatal(err)
	}
	store(t, file, signed)
}

// codes returns the codes of all problems, each once, sorted.
func codes(err error) []fault.Code {
	var p Problems
	var found []fault.Code
	if errors.As(err, &p) {
		for _, one := range p {
			found = append(found, one.Code)
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func TestGoodReceiptsAreAccepted(t *testing.T) {
	t.Parallel()
	dir, _ := good(t)
	set, err := Verify(dir, options())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]check.Tier{}
	for _, r := range set.Records {
		got[r.ID] = r.Tier
	}
	want := map[string]check.Tier{"bundle.checksums": check.TierArtefact, "bundle.unlisted": check.TierArtefact, "host.kernel": check.TierKVM, "guest.sealed": check.TierSilicon, "guest.ssh": check.TierKVM}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tiers (-want +got):\n%s", diff)
	}
	if len(set.Signers) != 1 || set.Signers[0].Name != "host one" {
		t.Errorf("signers: %+v", set.Signers)
	}
}

func TestEachRefusalHasItsOwnCode(t *testing.T) {
	t.Parallel()
	host, small, stranger := testKey("host"), testKey("small"), testKey("stranger")
	type runs = map[check.Where]string
	tests := map[string]struct {
		change func(t *testing.T, dir string, r runs)
		adjust func(*Options)
		want   []fault.Code
		words  string
	}{
		"a record without a signature": {func(t *testing.T, _ string, r runs) {
			file := r[check.Host] + "/host.kernel.json"
			s := load[Record](t, file)
			s.Signature = nil
			store(t, file, s)
			relist(t, r[check.Host])
		}, nil, []fault.Code{fault.ReceiptUnsigned}, "host.kernel.json: it has no signature"},
		"an index without a signature": {func(t *testing.T, _ string, r runs) {
			file := r[check.Host] + "/" + IndexFile
			s := load[Index](t, file)
			s.Signature = nil
			store(t, file, s)
		}, nil, []fault.Code{fault.ReceiptUnsigned}, "INDEX.json"},
		"a detail that was changed after it was signed": {func(t *testing.T, _ string, r runs) {
			file := r[check.Host] + "/host.kernel.json"
			s := load[Record](t, file)
			s.Body.Detail = "better"
			store(t, file, s)
			relist(t, r[check.Host])
		}, nil, []fault.Code{fault.ReceiptUnsigned}, "does not fit"},
		"a signature for another purpose": {func(t *testing.T, _ string, r runs) {
			file := r[check.Host] + "/host.kernel.json"
			s, err := seal(indexPurpose, host, load[Record](t, file).Body)
			if err != nil {
				t.Fatal(err)
			}
			store(t, file, s)
			relist(t, r[check.Host])
		}, nil, []fault.Code{fault.ReceiptUnsigned}, "does not fit"},
		"a foreign key": {func(t *testing.T, _ string, r runs) {
			reseal(t, r[check.Host]+"/host.kernel.json", stranger, func(s *sealed[Record]) { s.Body.Key = Fingerprint(public(stranger)) })
		}, nil, []fault.Code{fault.ReceiptForeign, fault.ReceiptIndex}, "not trusted"},
		"a foreign key that calls itself a trusted one": {func(t *testing.T, _ string, r runs) {
			reseal(t, r[check.Host]+"/host.kernel.json", stranger, func(*sealed[Record]) {})
		}, nil, []fault.Code{fault.ReceiptUnsigned}, "host one"},
		"the same claim twice": {func(t *testing.T, dir string, _ runs) {
			write(t, dir, check.Host, nil)
		}, nil, []fault.Code{fault.ReceiptDuplicate}, "host.kernel.json"},
		"a check that is not in the registry": {func(t *testing.T, dir string, _ runs) {
			write(t, dir, check.Host, func(s *Source) { s.Results[0].ID = "host.magic" })
		}, nil, []fault.Code{fault.ReceiptUnknown}, "there is no check host.magic"},
		"a check of another claim": {func(t *testing.T, _ string, r runs) {
			reseal(t, r[check.Host]+"/host.kernel.json", host, func(s *sealed[Record]) { s.Body.Title = "there is a kernel" })
		}, nil, []fault.Code{fault.ReceiptUnknown}, "claims another thing"},
		"a check at a place where it cannot run": {func(t *testing.T, dir string, _ runs) {
			write(t, dir, check.VM, func(s *Source) { s.Results = results(check.Host) })
		}, nil, []fault.Code{fault.ReceiptUnknown}, "does not run at vm"},
		"a failure": {func(t *testing.T, _ string, r runs) {
			reseal(t, r[check.Host]+"/host.kernel.json", host, func(s *sealed[Record]) { s.Body.Status, s.Body.Detail = check.Fail, "too old" })
		}, nil, []fault.Code{fault.ReceiptFailed}, "fail: the kernel will do: too old"},
		"an error": {func(t *testing.T, _ string, r runs) {
			reseal(t, r[check.Host]+"/host.kernel.json", host, func(s *sealed[Record]) { s.Body.Status, s.Body.Detail = check.Error, "no /proc" })
		}, nil, []fault.Code{fault.ReceiptFailed}, "error: the kernel will do: no /proc"},
		"a listed record that is gone": {func(t *testing.T, _ string, r runs) {
			if err := os.Remove(r[check.Host] + "/host.kernel.json"); err != nil {
				t.Fatal(err)
			}
		}, nil, []fault.Code{fault.ReceiptMissing}, "the index lists it"},
		"a check that nobody ran": {func(t *testing.T, _ string, r runs) {
			if err := os.Remove(r[check.Artefact] + "/bundle.unlisted.json"); err != nil {
				t.Fatal(err)
			}
			relist(t, r[check.Artefact])
		}, nil, []fault.Code{fault.ReceiptMissing}, "bundle.unlisted has no receipt"},
		"a run without its index": {func(t *testing.T, _ string, r runs) {
			if err := os.Remove(r[check.Host] + "/" + IndexFile); err != nil {
				t.Fatal(err)
			}
		}, nil, []fault.Code{fault.ReceiptMissing}, "no index"},
		"a place that was asked for": {nil, func(o *Options) {
			o.Places = []check.Where{check.VM}
			o.Registry = append(o.Registry, check.Check{ID: "vm.kill", Title: "data outlive a kill", Where: []check.Where{check.VM}})
		}, []fault.Code{fault.ReceiptMissing}, "vm.kill"},
		"the guest's half of a name that the host has too": {nil, func(o *Options) {
			o.Registry = append(o.Registry, check.Check{ID: "host.kernel", Title: "the guest's kernel will do", Where: []check.Where{check.Guest}})
		}, []fault.Code{fault.ReceiptMissing}, "host.kernel has no receipt: the guest's"},
		"nothing": {func(t *testing.T, dir string, _ runs) {
			for _, name := range filetest.Names(t, dir) {
				if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
		}, nil, []fault.Code{fault.ReceiptMissing}, "no run at all"},
		"another manifest": {nil, func(o *Options) { o.Manifest = []byte("{}") }, []fault.Code{fault.ReceiptManifest}, digestOf(manifest)},
		"a tier above the key's": {nil, func(o *Options) {
			for print, t := range o.Keys {
				t.Most = check.TierTCG
				o.Keys[print] = t
			}
		}, []fault.Code{fault.ReceiptTier}, "host one may sign at most tier tcg, not kvm"},
		"a tier above the check's": {func(t *testing.T, _ string, r runs) {
			reseal(t, r[check.Guest]+"/guest.ssh.json", host, func(s *sealed[Record]) {
				s.Body.Tier = check.TierSilicon
				data, err := ReportData(s.Body)
				if err != nil {
					t.Fatal(err)
				}
				s.Evidence = &evidence.Evidence{Kind: evidence.Fake, Report: data[:]}
			})
		}, nil, []fault.Code{fault.ReceiptTier}, "guest.ssh proves at most tier kvm"},
		"silicon by the host's word": {func(t *testing.T, _ string, r runs) {
			reseal(t, r[check.Guest]+"/guest.sealed.json", host, func(s *sealed[Record]) { s.Evidence = nil })
		}, nil, []fault.Code{fault.ReceiptTier}, "needs evidence"},
		"silicon on a host": {func(t *testing.T, _ string, r runs) {
			reseal(t, r[check.Host]+"/host.kernel.json", host, func(s *sealed[Record]) { s.Body.Tier = check.TierSilicon })
		}, func(o *Options) { o.Registry[2].Tier = check.TierSilicon }, []fault.Code{fault.ReceiptTier}, "what runs at host proves at most tier kvm"},
		"evidence for another record": {func(t *testing.T, _ string, r runs) {
			reseal(t, r[check.Guest]+"/guest.sealed.json", host, func(s *sealed[Record]) {
				s.Evidence = &evidence.Evidence{Kind: evidence.Fake, Report: make([]byte, 64)}
			})
		}, nil, []fault.Code{fault.ReceiptEvidence}, "report data"},
		"evidence that nobody judges": {nil, func(o *Options) { o.Evidence = nil }, []fault.Code{fault.ReceiptEvidence}, "no policy"},
		"evidence where none belongs": {func(t *testing.T, _ string, r runs) {
			reseal(t, r[check.Guest]+"/guest.ssh.json", host, func(s *sealed[Record]) {
				s.Evidence = &evidence.Evidence{Kind: evidence.Fake, Report: []byte{1}}
			})
		}, nil, []fault.Code{fault.ReceiptMalformed}, "has no evidence"},
		"too old":          {nil, func(o *Options) { o.Now = now.Add(MaxAge) }, []fault.Code{fault.ReceiptExpired}, "the oldest that is accepted"},
		"older than asked": {nil, func(o *Options) { o.MaxAge = time.Minute }, []fault.Code{fault.ReceiptExpired}, ""},
		"to come":          {nil, func(o *Options) { o.Now = now.Add(-2 * time.Hour) }, []fault.Code{fault.ReceiptFuture}, "to come"},
		"no JSON": {func(t *testing.T, _ string, r runs) {
			filetest.Write(t, r[check.Host]+"/host.kernel.json", []byte("pass\n"))
			relist(t, r[check.Host])
		}, nil, []fault.Code{fault.ReceiptMalformed}, "host.kernel.json"},
		"a link": {func(t *testing.T, _ string, r runs) {
			file := r[check.Host] + "/host.kernel.json"
			if err := errors.Join(os.Rename(file, filepath.Dir(filepath.Dir(file))+"/elsewhere"), os.Symlink("../elsewhere", file)); err != nil {
				t.Fatal(err)
			}
		}, nil, []fault.Code{fault.ReceiptMalformed, fault.ReceiptIndex}, "no regular file"},
		"a record of another run": {func(t *testing.T, dir string, r runs) {
			other := write(t, t.TempDir(), check.Host, nil)
			filetest.Write(t, r[check.Host]+"/host.kernel.json", filetest.Read(t, other+"/host.kernel.json"))
		}, nil, []fault.Code{fault.ReceiptIndex}, "lists another content"},
		"a record of another run that is listed": {func(t *testing.T, dir string, r runs) {
			other := write(t, t.TempDir(), check.Host, nil)
			filetest.Write(t, r[check.Host]+"/host.kernel.json", filetest.Read(t, other+"/host.kernel.json"))
			relist(t, r[check.Host])
		}, nil, []fault.Code{fault.ReceiptIndex}, "of another run than its index"},
		"a record under another name": {func(t *testing.T, dir string, r runs) {
			data := filetest.Read(t, r[check.Artefact]+"/bundle.checksums.json")
			filetest.Write(t, r[check.Artefact]+"/bundle.unlisted.json", data)
			relist(t, r[check.Artefact])
		}, nil, []fault.Code{fault.ReceiptDuplicate, fault.ReceiptMissing, fault.ReceiptIndex}, "it is of the check bundle.checksums"},
		"a file that is not listed": {func(t *testing.T, _ string, r runs) {
			filetest.Write(t, r[check.Host]+"/more.txt", nil)
		}, nil, []fault.Code{fault.ReceiptIndex}, "does not list it"},
		"a run under another name": {func(t *testing.T, dir string, r runs) {
			if err := os.Rename(r[check.Host], dir+"/renamed"); err != nil {
				t.Fatal(err)
			}
		}, nil, []fault.Code{fault.ReceiptIndex}, "renamed/INDEX.json"},
		"another log": {func(t *testing.T, _ string, r runs) {
			filetest.Write(t, r[check.Host]+"/"+LogFile, []byte("all well?\n"))
		}, nil, []fault.Code{fault.ReceiptLog}, "not the log"},
		"no log": {func(t *testing.T, _ string, r runs) {
			if err := os.Remove(r[check.Host] + "/" + LogFile); err != nil {
				t.Fatal(err)
			}
		}, nil, []fault.Code{fault.ReceiptLog}, "missing"},
		"many at once": {func(t *testing.T, _ string, r runs) {
			reseal(t, r[check.Host]+"/host.kernel.json", host, func(s *sealed[Record]) { s.Body.Status = check.Fail })
			reseal(t, r[check.Artefact]+"/bundle.checksums.json", small, func(s *sealed[Record]) {})
		}, func(o *Options) { o.Now = now.Add(MaxAge) }, []fault.Code{fault.ReceiptUnsigned, fault.ReceiptFailed, fault.ReceiptExpired}, "problems with the receipts"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, r := good(t)
			if tt.change != nil {
				tt.change(t, dir, r)
			}
			o := options()
			if tt.adjust != nil {
				tt.adjust(&o)
			}
			set, err := Verify(dir, o)
			if diff := cmp.Diff(tt.want, codes(err)); diff != "" {
				t.Errorf("codes (-want +got):\n%s\n%v", diff, err)
			}
			if !strings.Contains(err.Error(), tt.words) {
				t.Errorf("%q does not say %q", err, tt.words)
			}
			if len(set.Records) != 0 {
				t.Error("records of a refused set were handed out")
			}
			if fault.Of(err) == nil || fault.Exit(err) != fault.ExitFailed {
				t.Errorf("exit status %d", fault.Exit(err))
			}
		})
	}
}

func TestAHostNeverSignsSilicon(t *testing.T) {
	t.Parallel()
	run := write(t, t.TempDir(), check.Guest, func(s *Source) { s.Reporter = nil })
	s := load[Record](t, run+"/guest.sealed.json")
	if s.Body.Tier != check.TierKVM || s.Evidence != nil {
		t.Errorf("without a processor it is of tier %s", s.Body.Tier)
	}
}

func TestARunThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	bad := Source{Where: check.Host, Most: check.TierKVM, Time: now, Results: append(results(check.Host), check.Result{ID: "../escape", Tier: check.TierKVM, Verdict: check.Passed("")})}
	if _, err := Write(t.Context(), dir, testKey("host"), bad); err == nil {
		t.Error("a check named by a path was written")
	}
	bad.Results = append(results(check.Host), results(check.Host)...)
	if _, err := Write(t.Context(), dir, testKey("host"), bad); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("a check that ran twice: %v", err)
	}
	filetest.Only(t, dir)
}

func TestTheEncodingIsTheSameEachTime(t *testing.T) {
	t.Parallel()
	r := Record{Run: Run{Version: Version, Run: "r", Where: check.Host, Time: now}, ID: "a.b", Title: "<a> & b", Tier: check.TierKVM, Status: check.Pass}
	s, err := seal(recordPurpose, testKey("host"), r)
	if err != nil {
		t.Fatal(err)
	}
	data, err := encode(s, indent)
	if err != nil {
		t.Fatal(err)
	}
	golden.Compare(t, "record.json", string(data))
}

func TestTheHostKeyIsMadeOnceAndPrivate(t *testing.T) {
	t.Parallel()
	state := filepath.Join(t.TempDir(), "state")
	first, err := HostKey(state)
	if err != nil {
		t.Fatal(err)
	}
	second, err := HostKey(state)
	if err != nil || !first.Equal(second) {
		t.Errorf("another key, %v", err)
	}
	path := filepath.Join(state, KeyFile)
	if info, err := os.Lstat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = HostKey(state)
	faulttest.Want(t, err, fault.ReceiptKey, KeyFile)
	filetest.Only(t, state, KeyFile)
}

func TestTrustedKeys(t *testing.T) {
	t.Parallel()
	one := Trusted{Name: "host one", Most: check.TierKVM, Key: public(testKey("host"))}
	keys, err := ParseKeys([]byte("# hosts\n\n"+one.Line()), "trusted-keys")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Keys{Fingerprint(one.Key): one}, keys); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	_, err = ParseKeys([]byte("kvm 00 short\nsilicon "+one.Line()[4:]+"gold "+one.Line()[4:]+"kvm\n"+one.Line()+one.Line()), "trusted-keys")
	faulttest.Want(t, err, fault.ReceiptKey, "trusted-keys:1: the key", ":2: no key may sign tier silicon", `:3: no tier is called "gold"`, ":4: not a tier", ":6: this key stands above")
	_, err = ParseKeys(nil, "trusted-keys")
	faulttest.Want(t, err, fault.ReceiptKey, "no key is trusted")
}

func FuzzDecode(f *testing.F) {
	dir, runs := good(f)
	for _, run := range runs {
		for _, name := range filetest.Names(f, run) {
			f.Add(filetest.Read(f, filepath.Join(run, name)))
		}
	}
	if _, err := Verify(dir, options()); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := decode[Record](data); err == nil {
			if again, err := encode(s, indent); err != nil || !bytes.Equal(again, data) {
				t.Errorf("another encoding was accepted: %q", data)
			}
			if strings.ContainsAny(s.Body.ID, "/\\") || rank(s.Body.Tier) == 0 {
				t.Errorf("accepted: %+v", s.Body)
			}
		}
		if s, err := decode[Index](data); err == nil && !slices.IsSortedFunc(s.Body.Records, func(a, b Entry) int { return strings.Compare(a.ID, b.ID) }) {
			t.Errorf("a list in another order was accepted: %q", data)
		}
	})
}

func TestDecodeRefusesWhatNoReceiptHolds(t *testing.T) {
	t.Parallel()
	sound := Record{
		Run: Run{Version: Version, Run: "r-1", Where: check.Host, Manifest: digestOf(nil), Log: digestOf(nil), Time: now, Key: digestOf(nil)},
		ID:  "a.b", Tier: check.TierKVM, Status: check.Pass,
	}
	text := func(r Record) string {
		data, err := encode(sealed[Record]{Body: r}, indent)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	if _, err := decode[Record]([]byte(text(sound))); err != nil {
		t.Fatal(err)
	}
	changed := func(change func(*Record)) string {
		r := sound
		change(&r)
		return text(r)
	}
	good := text(sound)
	for name, tt := range map[string]struct{ text, want string }{
		"another version":   {changed(func(r *Record) { r.Version = 2 }), "version 2"},
		"a path as its run": {changed(func(r *Record) { r.Run.Run = "../r" }), "no run"},
		"a path as its ID":  {changed(func(r *Record) { r.ID = "a/b" }), "no check"},
		"a long ID":         {changed(func(r *Record) { r.ID = strings.Repeat("a", 101) }), "no check"},
		"no place":          {changed(func(r *Record) { r.Where = "" }), "no place"},
		"no tier":           {changed(func(r *Record) { r.Tier = "gold" }), "no tier"},
		"no verdict":        {changed(func(r *Record) { r.Status = "passed" }), "no verdict"},
		"a short digest":    {changed(func(r *Record) { r.Manifest = "00" }), "manifest: not a SHA-256"},
		"half a second":     {changed(func(r *Record) { r.Time = now.Add(time.Second / 2) }), "not whole seconds"},
		"another zone":      {changed(func(r *Record) { r.Time = now.In(time.FixedZone("", 3600)) }), "not whole seconds of UTC"},
		"an unknown field":  {strings.Replace(good, `"id"`, `"more": 1, "id"`, 1), "unknown field"},
		"a field twice":     {strings.Replace(good, `"status": "pass"`, `"status": "fail", "status": "pass"`, 1), "one encoding"},
		"other capitals":    {strings.Replace(good, `"status"`, `"Status"`, 1), "one encoding"},
		"a blank more":      {good + " ", "one encoding"},
		"two of them":       {good + good, "something follows"},
		"text that is none": {strings.Replace(good, `"a.b"`, "\"a\xff\"", 1), "one encoding"},
		"too much":          {good + strings.Repeat(" ", MaxSize), "longer than"},
	} {
		if _, err := decode[Record]([]byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	index := Index{Run: sound.Run, Records: []Entry{{"b.c", digestOf(nil)}, {"a.b", digestOf(nil)}}}
	if err := index.check(); err == nil || !strings.Contains(err.Error(), `wrong at "a.b"`) {
		t.Errorf("records in another order: %v", err)
	}
	index.Records = index.Records[:1]
	if err := index.check(); err != nil {
		t.Error(err)
	}
}
