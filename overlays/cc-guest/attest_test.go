package main

// Green here means that what the guest asks its processor for is what a verifier
// computes again. configfs is go-configfs-tsm's stand-in; whether a kernel
// answers like that is seen on hardware only.

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/configfs/faketsm"

	"cc-base/overlays/cc-guest/internal/identity"
	"cc-base/overlays/cc-guest/settings"
	"cc-base/tasks/fault"
	"cc-base/tasks/fault/faulttest"
	"cc-base/tasks/tee/evidence"
)

// tdxGuest is a processor whose quote is the text that configfs was given.
func tdxGuest(t *testing.T) evidence.TSM {
	sub := faketsm.Report611(0)
	fallback := sub.ReadAttr
	sub.ReadAttr = func(e *faketsm.ReportEntry, attr string) ([]byte, error) {
		if attr == "provider" {
			return []byte("tdx_guest\n"), nil
		}
		return fallback(e, attr)
	}
	return evidence.TSM{Root: t.TempDir(), Client: &faketsm.Client{Subsystems: map[string]configfsi.Client{"report": sub}}}
}

func newIdentity(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if _, err := identity.Generate(settings.Identity{Dir: dir, Algo: "ed25519", Size: 256}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestAttestAnswersANonceForTheIdentityKey(t *testing.T) {
	t.Parallel()
	dir, nonce := newIdentity(t), []byte("sixteen bytes of")
	a, err := attest(t.Context(), tdxGuest(t), dir, nonce)
	if err != nil {
		t.Fatal(err)
	}
	sum, err := identity.Hash(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := evidence.ReportData(nonce, sum)
	if a.Kind != evidence.TDX || !strings.Contains(string(a.Report), "inblob: "+hex.EncodeToString(want[:])) {
		t.Errorf("report data is not %x in %s", want, a.Report)
	}
	if evidence.IdentityHash(a.Identity) != sum {
		t.Error("the identity is another key")
	}

	var out strings.Builder
	if err := writeAttestation(&out, a, true); err != nil {
		t.Fatal(err)
	}
	read, err := evidence.ParseAttestation([]byte(out.String()))
	if err != nil || string(read.Report) != string(a.Report) || string(read.Identity) != string(a.Identity) {
		t.Errorf("a verifier reads %+v, %v", read, err)
	}
	out.Reset()
	if err := writeAttestation(&out, a, false); err != nil || !strings.HasPrefix(out.String(), "tdx report of ") || strings.Contains(out.String(), "{") {
		t.Errorf("%q, %v", out.String(), err)
	}
}

// report is a processor that fails, or must not be asked.
type report func() error

func (r report) Report(context.Context, [evidence.DataSize]byte) (evidence.Evidence, error) {
	return evidence.Evidence{}, r()
}

func TestAttestFailsWithACode(t *testing.T) {
	t.Parallel()
	never := report(func() error { t.Error("the processor was asked"); return nil })
	_, err := attest(t.Context(), never, t.TempDir(), nil)
	faulttest.Want(t, err, fault.GuestTEE, "identity key", "identity.pub")
	broken := newIdentity(t)
	if err := os.WriteFile(filepath.Join(broken, identityFile), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = attest(t.Context(), never, broken, nil)
	faulttest.Want(t, err, fault.GuestTEE, "not PEM")

	refused := fault.New(fault.GuestTEE, errors.New("no such device"))
	_, err = attest(t.Context(), report(func() error { return refused }), newIdentity(t), nil)
	faulttest.Want(t, err, fault.GuestTEE, "no such device")
}

func TestAttestWantsANonce(t *testing.T) {
	t.Parallel()
	for _, data := range []string{`{}`, `{"nonce": "00"}`, `{"nonce": "xyz"}`, `[]`, `{"nonce": "` + strings.Repeat("00", 65) + `"}`, ``} {
		_, err := attestFor(t.Context(), json.RawMessage(data))
		faulttest.Want(t, err, fault.Usage, "nonce")
	}
	for _, args := range [][]string{nil, {"--json"}, {"--nonce"}, {"--nonce", "00", "x"}, {"--key", "x"}, {"00"}} {
		if _, ok := attestVerb(args); ok {
			t.Errorf("%q is taken for a question", args)
		}
	}
	for _, args := range [][]string{{"--nonce", "00"}, {"--nonce=00", "--json"}, {"--json", "--nonce", "00"}} {
		verb, ok := attestVerb(args)
		if !ok {
			t.Errorf("%q is not understood", args)
			continue
		}
		faulttest.Want(t, verb(t.Context()), fault.Usage, "1 bytes")
	}
}
