package main

// Green here means that a report is requested with the nonce that was given
// and printed as it came, against the fake that the library's authors ship. It
// does not prove anything about SNP or TDX hardware, or about a report's
// signature.

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/configfs/faketsm"
)

func fakeTSM() configfsi.Client {
	return &faketsm.Client{Subsystems: map[string]configfsi.Client{"report": faketsm.Report611(0)}}
}

func TestAttestPrintsTheReportForTheNonce(t *testing.T) {
	t.Parallel()
	nonce, asJSON, err := parse([]string{"--nonce", "c0ffee", "--json"}, io.Discard)
	if err != nil || !asJSON {
		t.Fatalf("json=%v, err=%v", asJSON, err)
	}
	var out bytes.Buffer
	if err := attest(&out, fakeTSM(), nonce, true); err != nil {
		t.Fatal(err)
	}
	var got result
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	padded := "c0ffee" + strings.Repeat("00", nonceBytes-3)
	blob, err := hex.DecodeString(got.OutBlob)
	if err != nil || !strings.Contains(string(blob), "inblob: "+padded) {
		t.Errorf("report %q (%v) is not for the nonce", blob, err)
	}
	if got.Provider != "fake" || got.Nonce != padded {
		t.Errorf("provider %q, nonce %q", got.Provider, got.Nonce)
	}

	out.Reset()
	if err := attest(&out, fakeTSM(), nonce, false); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(out.String(), "provider: fake\nnonce: c0ffee00") || !strings.Contains(out.String(), "\noutblob: ") {
		t.Errorf("text is %q", out.String())
	}
}

// broken is a report interface that cannot begin a report.
type broken struct {
	configfsi.Client
	err error
}

func (b broken) MkdirTemp(string, string) (string, error) { return "", b.err }

func TestAttestTellsNoHardwareFromOtherFailures(t *testing.T) {
	t.Parallel()
	none := &os.PathError{Op: "mkdir", Path: "report/entry", Err: syscall.ENXIO}
	if err := attest(io.Discard, broken{err: none}, make([]byte, nonceBytes), false); !errors.Is(err, errNoTEE) {
		t.Errorf("error is %v", err)
	}
	denied := &os.PathError{Op: "mkdir", Path: "report/entry", Err: syscall.EACCES}
	err := attest(io.Discard, broken{err: denied}, make([]byte, nonceBytes), false)
	if err == nil || errors.Is(err, errNoTEE) {
		t.Errorf("error is %v", err)
	}
}

func TestParseRefusesOtherArguments(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"nothing":         {},
		"empty nonce":     {"--nonce", ""},
		"not hexadecimal": {"--nonce", "xyz"},
		"half a byte":     {"--nonce", "abc"},
		"too long":        {"--nonce", strings.Repeat("00", nonceBytes+1)},
		"unknown flag":    {"--nonce", "00", "--quiet"},
		"extra argument":  {"--nonce", "00", "more"},
	} {
		if _, _, err := parse(args, io.Discard); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
