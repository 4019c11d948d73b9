package evidence_test

// What green does not prove: configfs is go-configfs-tsm's stand-in and plain
// folders. That a kernel's sev-guest and tdx-guest answer like that, with which
// certificates, is seen on hardware only.

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/configfs/faketsm"
	"github.com/google/go-configfs-tsm/report"
	tdxdata "github.com/google/go-tdx-guest/testing/testdata"

	snpdata "github.com/google/go-sev-guest/verify/testdata"

	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/tee/evidence"
)

// tsm is the library's configfs with the provider and blobs of a test.
func tsm(provider, aux string) *faketsm.Client {
	sub := faketsm.Report611(0)
	fallback := sub.ReadAttr
	sub.ReadAttr = func(e *faketsm.ReportEntry, attr string) ([]byte, error) {
		switch attr {
		case "provider":
			return []byte(provider + "\n"), nil
		case "auxblob":
			if aux == "" {
				return nil, os.ErrNotExist
			}
			return []byte(aux), nil
		}
		return fallback(e, attr)
	}
	return &faketsm.Client{Subsystems: map[string]configfsi.Client{"report": sub}}
}

func TestReportCarriesTheData(t *testing.T) {
	t.Parallel()
	data := [64]byte{0: 0xAB, 63: 0xCD}
	for _, tc := range []struct{ provider, aux, kind string }{
		{"sev_guest", "table", evidence.SNP},
		{"tdx_guest", "", evidence.TDX},
	} {
		client := tsm(tc.provider, tc.aux)
		root := t.TempDir()
		ccel := filepath.Join(root, "sys/firmware/acpi/tables/data")
		if err := errors.Join(os.MkdirAll(ccel, 0o755), os.WriteFile(filepath.Join(ccel, "CCEL"), []byte("log"), 0o600)); err != nil {
			t.Fatal(err)
		}
		e, err := evidence.TSM{Root: root, Client: client}.Report(t.Context(), data)
		if err != nil {
			t.Fatalf("%s: %v", tc.provider, err)
		}
		if e.Kind != tc.kind || !bytes.Contains(e.Report, []byte("inblob: ab0000")) || !bytes.HasSuffix(e.Report, []byte("00cd")) || string(e.Certs) != tc.aux {
			t.Errorf("%s: %+v", tc.provider, e)
		}
		if want := map[string]string{evidence.TDX: "log"}[tc.kind]; string(e.EventLog) != want {
			t.Errorf("%s: event log %q, want %q", tc.provider, e.EventLog, want)
		}
		if left := client.Subsystems["report"].(*faketsm.ReportSubsystem).Entries; len(left) != 0 {
			t.Errorf("%s: entries are left in configfs: %v", tc.provider, left)
		}
	}
}

func TestReportRefusals(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]evidence.TSM{
		"another provider":           {Client: tsm("arm_cca_guest", "")},
		"the library's own provider": {Client: tsm("fake", "x")},
		"no certificates attribute":  {Client: tsm("sev_guest", "")},
		"no configfs":                {Root: t.TempDir()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := r.Report(t.Context(), [64]byte{})
			faulttest.Want(t, err, fault.GuestTEE, "attestation report")
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (evidence.TSM{Client: tsm("tdx_guest", "")}).Report(ctx, [64]byte{}); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancellation: %v", err)
	}
}

// disturbed lets another writer come between the first few times.
type disturbed struct {
	*faketsm.Client
	left atomic.Int32
}

func (d *disturbed) ReadFile(name string) ([]byte, error) {
	if filepath.Base(name) == "outblob" && d.left.Add(-1) >= 0 {
		p, _ := configfsi.ParseTsmPath(name)
		p.Attribute = "inblob"
		if err := d.WriteFile(p.String(), make([]byte, 64)); err != nil && !errors.Is(err, syscall.EBUSY) {
			return nil, err
		}
	}
	return d.Client.ReadFile(name)
}

func TestADisturbedReportIsAskedForAnew(t *testing.T) {
	t.Parallel()
	d := &disturbed{Client: tsm("tdx_guest", "")}
	d.left.Store(2)
	if _, err := (evidence.TSM{Root: t.TempDir(), Client: d}).Report(t.Context(), [64]byte{1}); err != nil {
		t.Errorf("disturbed twice: %v", err)
	}
	d.left.Store(100)
	_, err := evidence.TSM{Root: t.TempDir(), Client: d}.Report(t.Context(), [64]byte{1})
	faulttest.Want(t, err, fault.GuestTEE)
	var generation *report.GenerationErr
	if !errors.As(err, &generation) {
		t.Errorf("the cause is lost: %v", err)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	whole := evidence.Evidence{Kind: evidence.SNP, Report: []byte{1}, Certs: []byte{2}}
	text, err := json.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	got, err := evidence.Parse(append([]byte("\n "), text...))
	if err != nil || got.Kind != evidence.SNP || got.Report[0] != 1 || got.Certs[0] != 2 {
		t.Errorf("JSON: %+v, %v", got, err)
	}
	if e, err := evidence.Parse(snpdata.AttestationBytes); err != nil || e.Kind != evidence.SNP {
		t.Errorf("SNP report: %v, %v", e.Kind, err)
	}
	if e, err := evidence.Parse(tdxdata.RawQuote); err != nil || e.Kind != evidence.TDX {
		t.Errorf("TDX quote: %v, %v", e.Kind, err)
	}
	for name, data := range map[string][]byte{
		"empty":             {},
		"truncated report":  snpdata.AttestationBytes[:1183],
		"long report":       append(bytes.Clone(snpdata.AttestationBytes), 0),
		"truncated quote":   tdxdata.RawQuote[:635],
		"truncated JSON":    text[:len(text)-1],
		"two objects":       append(bytes.Clone(text), text...),
		"an unknown key":    []byte(`{"kind":"snp","report":"AA==","x":1}`),
		"an unknown kind":   []byte(`{"kind":"cca","report":"AA=="}`),
		"no report":         []byte(`{"kind":"snp"}`),
		"not base64":        []byte(`{"kind":"snp","report":"?"}`),
		"a part too large":  []byte(`{"kind":"snp","report":"` + base64.StdEncoding.EncodeToString(make([]byte, evidence.MaxSize+1)) + `"}`),
		"a file too large":  make([]byte, 3*evidence.MaxSize+1),
		"a list":            []byte(`[]`),
		"an SEV-ES version": append([]byte{1}, make([]byte, 1183)...),
	} {
		_, err := evidence.Parse(data)
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		faulttest.Want(t, err, fault.Usage, "evidence")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(snpdata.AttestationBytes)
	f.Add(tdxdata.RawQuote)
	f.Add([]byte(`{"kind":"snp","report":"AA=="}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := evidence.Parse(data)
		if err == nil && e.Check() != nil {
			t.Errorf("accepted, but %v", e.Check())
		}
	})
}

// A plain folder cannot answer like configfs, but it sees which files are
// written and that the entry goes.
func TestRootIsWhereTheFilesAre(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, configfsi.TsmPrefix, "report"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := evidence.TSM{Root: root}.Report(t.Context(), [64]byte{})
	faulttest.Want(t, err, fault.GuestTEE, "generation")
	left, err := os.ReadDir(filepath.Join(root, configfsi.TsmPrefix, "report"))
	if err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
