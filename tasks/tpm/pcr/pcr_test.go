package pcr_test

// Green here means: for one OVMF, one systemd-stub and one kernel the
// prediction is what a virtual machine with swtpm measured, with Secure Boot
// and without, and foreign logs, stores and tables are read without harm. It
// does not prove other versions of the three, a physical TPM, boots from
// anything but the ESP of a disk, or phases: systemd measures those after the
// recorder has read the PCRs, and they are only held against boot.PCR11.

import (
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-eventlog/register"
	"github.com/google/go-eventlog/tcg"

	"cc-base/tasks/boot/measured"
	"cc-base/tasks/filetest"
	"cc-base/tasks/tpm/pcr"
)

// recorded is one boot of testdata.
type recorded struct {
	boot pcr.Boot
	raw  []byte                       // event log
	pcrs map[pcr.Bank]map[int]pcr.Hex // as the kernel read them from the TPM
}

func load(t testing.TB, name string) recorded {
	t.Helper()
	var r recorded
	r.boot.Image = image(t, name)
	var err error
	if r.boot.SecureBoot, err = pcr.ReadVars(unpack(t, name+".vars.gz")); err != nil {
		t.Fatal(err)
	}
	if r.boot.GPT, err = measured.PartitionTable(bytes.NewReader(unpack(t, name+".gpt.gz"))); err != nil {
		t.Fatal(err)
	}
	r.raw = unpack(t, name+".log.gz")
	r.pcrs = map[pcr.Bank]map[int]pcr.Hex{}
	for line := range strings.Lines(string(filetest.Read(t, filepath.Join("testdata", name+".pcrs")))) {
		f := strings.Fields(line)
		n, err := strconv.Atoi(f[1])
		if err != nil {
			t.Fatal(err)
		}
		bank := pcr.Bank(f[0])
		if r.pcrs[bank] == nil {
			r.pcrs[bank] = map[int]pcr.Hex{}
		}
		r.pcrs[bank][n] = unhex(t, f[2])
	}
	return r
}

func image(t testing.TB, name string) pcr.Image {
	t.Helper()
	var m pcr.Image
	if err := json.Unmarshal(filetest.Read(t, filepath.Join("testdata", name+".json")), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func unpack(t testing.TB, name string) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(filetest.Read(t, filepath.Join("testdata", name))))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func unhex(t testing.TB, digits string) []byte {
	t.Helper()
	b, err := hex.DecodeString(digits)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func predict(t testing.TB, b pcr.Boot) pcr.Log {
	t.Helper()
	log, err := pcr.Predict(b)
	if err != nil {
		t.Fatal(err)
	}
	return log
}

func replay(t testing.TB, log pcr.Log, bank pcr.Bank) map[int]pcr.Hex {
	t.Helper()
	values, err := log.Replay(bank)
	if err != nil {
		t.Fatal(err)
	}
	return values
}

func TestThePredictionIsWhatTheMachineMeasured(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"plain", "secureboot"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := load(t, name)
			predicted := predict(t, r.boot)
			if diff := cmp.Diff([]int{4, 5, 7, 9, 11, 12, 13}, predicted.PCRs); diff != "" {
				t.Error(diff)
			}
			actual, err := pcr.Parse(r.raw)
			if err != nil {
				t.Fatal(err)
			}
			for _, bank := range pcr.Banks() {
				for _, d := range pcr.Diff(predicted, actual, bank) {
					t.Errorf("%s: %s", bank, d.Text)
				}
				for n, value := range replay(t, predicted, bank) {
					if !bytes.Equal(value, r.pcrs[bank][n]) {
						t.Errorf("%s PCR %d: predicted %s, the TPM had %s", bank, n, value, r.pcrs[bank][n])
					}
				}
				for n, value := range replay(t, actual, bank) {
					// 10 is IMA's, 17 to 22 start as ones: no firmware event speaks of them.
					if n < 10 || n > 10 && n < 16 {
						if !bytes.Equal(value, r.pcrs[bank][n]) {
							t.Errorf("%s PCR %d: the log gives %s, the TPM had %s", bank, n, value, r.pcrs[bank][n])
						}
					}
				}
			}
		})
	}
}

// The log's parser is held against another one, which accepts a log only when
// it replays to the PCRs.
func TestTheLogIsReadAsGoEventlogReadsIt(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"plain", "secureboot"} {
		r := load(t, name)
		var bank []register.MR
		for n := range 10 {
			bank = append(bank, register.PCR{Index: n, Digest: r.pcrs[pcr.SHA256][n], DigestAlg: crypto.SHA256})
		}
		for _, n := range []int{11, 12, 13} {
			bank = append(bank, register.PCR{Index: n, Digest: r.pcrs[pcr.SHA256][n], DigestAlg: crypto.SHA256})
		}
		want, err := tcg.ParseAndReplay(r.raw, bank, tcg.ParseOpts{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := pcr.Parse(r.raw)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Events) != len(want) || len(want) < 30 {
			t.Fatalf("%d events, go-eventlog has %d", len(got.Events), len(want))
		}
		for i, e := range got.Events {
			if e.PCR != want[i].Index || uint32(e.Type) != uint32(want[i].Type) || !bytes.Equal(e.Digests[pcr.SHA256], want[i].Digest) {
				t.Errorf("event %d: %d %s %s, go-eventlog has %d %s %x", i, e.PCR, e.Type, e.Digests[pcr.SHA256], want[i].Index, want[i].Type, want[i].Digest)
			}
		}
	}
}

func TestTheCertificateAloneGivesTheSecureBootStateOfVirtFwVars(t *testing.T) {
	t.Parallel()
	cert, err := x509.ParseCertificate(filetest.Read(t, "testdata/secureboot.der"))
	if err != nil {
		t.Fatal(err)
	}
	g, err := pcr.ParseGUID(owner)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(load(t, "secureboot").boot.SecureBoot, pcr.Enrolled(cert, g)); diff != "" {
		t.Error(diff)
	}
}

func TestWithoutADiskPCR5IsNotPredicted(t *testing.T) {
	t.Parallel()
	b := load(t, "plain").boot
	b.GPT = nil
	log := predict(t, b)
	if slices.Contains(log.PCRs, 5) || len(log.Of(5)) != 0 {
		t.Errorf("PCRs %v, %d events of PCR 5", log.PCRs, len(log.Of(5)))
	}
	if _, ok := replay(t, log, pcr.SHA256)[5]; ok {
		t.Error("it has a value")
	}
}

func TestTheFirstDifferenceOfEachPCRIsNamed(t *testing.T) {
	t.Parallel()
	r := load(t, "plain")
	actual, err := pcr.Parse(r.raw)
	if err != nil {
		t.Fatal(err)
	}
	other := predict(t, load(t, "secureboot").boot)
	tests := []struct {
		name   string
		change func(p, a *pcr.Log)
		want   []string // beginnings
	}{
		{"nothing", func(p, a *pcr.Log) {}, nil},
		{"another boot image", func(p, a *pcr.Log) { a.Events = other.Events },
			[]string{
				`PCR 4, event 3: EV_EFI_BOOT_SERVICES_APPLICATION "the boot image (UKI)" (e5b3b707...) was expected, but the machine measured EV_EFI_BOOT_SERVICES_APPLICATION "the boot image (UKI)" (3d71dfeb...)`,
				`PCR 7, event 1: EV_EFI_VARIABLE_DRIVER_CONFIG "variable SecureBoot" (ce9ce386...) was expected, but`,
				`PCR 9, event 1: EV_EVENT_TAG "kernel command line" (`,
				`PCR 11, event 6: EV_IPL "section .cmdline" (`,
			}},
		{"something more", func(p, a *pcr.Log) {
			a.Events = append(a.Events, pcr.Event{PCR: 12, Type: pcr.IPL, What: "init=/bin/sh", Digests: pcr.Digests{pcr.SHA256: make(pcr.Hex, 32)}})
		}, []string{`PCR 12, event 1: nothing more was expected, but the machine measured EV_IPL "init=/bin/sh" (00000000...)`}},
		{"a note that extends nothing", func(p, a *pcr.Log) {
			a.Events = append(a.Events, pcr.Event{PCR: 12, Type: pcr.NoAction, Digests: pcr.Digests{pcr.SHA256: make(pcr.Hex, 32)}})
		}, nil},
		{"something less", func(p, a *pcr.Log) {
			a.Events = slices.DeleteFunc(a.Events, func(e pcr.Event) bool { return e.Type == pcr.EventTag })
		}, []string{`PCR 9, event 1: EV_EVENT_TAG "kernel command line" (ea6ac549...) was expected, but the machine measured nothing more`}},
		{"something before", func(p, a *pcr.Log) {
			i := slices.IndexFunc(a.Events, func(e pcr.Event) bool { return e.PCR == 4 })
			a.Events = slices.Insert(a.Events, i, pcr.Event{PCR: 4, Type: pcr.Action, What: "Returning from EFI Application", Digests: pcr.Digests{pcr.SHA256: make(pcr.Hex, 32)}})
		}, []string{`PCR 4, event 1: EV_EFI_ACTION "Calling EFI Application from Boot Option" (3d6772b4...) was expected, but the machine measured EV_EFI_ACTION "Returning from EFI Application" (00000000...); the expected one came later`}},
		{"something left out", func(p, a *pcr.Log) {
			a.Events = slices.DeleteFunc(a.Events, func(e pcr.Event) bool { return e.PCR == 5 && e.Type == pcr.GPT })
		}, []string{`PCR 5, event 2: EV_EFI_GPT_EVENT "partition table of the boot disk" (4b2d9c10...) was expected, but the machine measured EV_EFI_ACTION "Exit Boot Services Invocation" (d8043d6b...); that was expected only later`}},
		{"a bank that was not active", func(p, a *pcr.Log) {
			for i := range a.Events {
				a.Events[i].Digests = nil
			}
		}, []string{"PCR 4, event 1:", "PCR 5, event 1:", "PCR 7, event 1:", "PCR 9, event 1:", "PCR 11, event 1:"}},
	}
	for _, test := range tests {
		p, a := predict(t, r.boot), pcr.Log{PCRs: actual.PCRs, Events: slices.Clone(actual.Events)}
		test.change(&p, &a)
		found := pcr.Diff(p, a, pcr.SHA256)
		if len(found) != len(test.want) {
			t.Errorf("%s: %d differences: %v", test.name, len(found), found)
			continue
		}
		for i, d := range found {
			if !strings.HasPrefix(d.Text, test.want[i]) {
				t.Errorf("%s:\n %s, want\n %s", test.name, d.Text, test.want[i])
			}
		}
	}
}

func TestReplayWantsADigestForEveryEvent(t *testing.T) {
	t.Parallel()
	for _, d := range []pcr.Digests{nil, {pcr.SHA256: make(pcr.Hex, 20)}, {pcr.SHA384: make(pcr.Hex, 48)}} {
		if _, err := (pcr.Log{PCRs: []int{4}, Events: []pcr.Event{{PCR: 4, Type: pcr.IPL, Digests: d}}}).Replay(pcr.SHA256); err == nil {
			t.Errorf("%v: no error", d)
		}
	}
	if _, err := (pcr.Log{}).Replay("sha1"); err == nil {
		t.Error("there is a bank sha1")
	}
	values := replay(t, pcr.Log{PCRs: []int{12}, Events: []pcr.Event{{PCR: 3}}}, pcr.SHA384)
	if diff := cmp.Diff(map[int]pcr.Hex{12: make(pcr.Hex, 48)}, values); diff != "" {
		t.Error(diff)
	}
}

func TestALogIsShownAsJSON(t *testing.T) {
	t.Parallel()
	log := pcr.Log{PCRs: []int{4}, Events: []pcr.Event{{PCR: 4, Type: pcr.Action, What: "x", Digests: pcr.Digests{pcr.SHA256: pcr.Hex{0xab}}}}}
	got, err := json.Marshal(log)
	want := `{"pcrs":[4],"events":[{"pcr":4,"type":"EV_EFI_ACTION","what":"x","digests":{"sha256":"ab"}}]}`
	if err != nil || string(got) != want {
		t.Errorf("%s, %v", got, err)
	}
	if got := fmt.Sprint(pcr.EventType(0x77)); got != "0x77" {
		t.Error(got)
	}
}
