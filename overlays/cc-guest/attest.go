package main

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"cc-base/tasks/fault"
	"cc-base/tasks/tee/evidence"
)

// identityFile holds the public half of the guest's own key, in the folder of
// [settings.Identity].
const identityFile = "identity.pub"

// attestVerb returns the verb `attest --nonce HEX [--json]`; ok tells whether
// these are its arguments.
func attestVerb(args []string) (verb func(context.Context) error, ok bool) {
	set := flag.NewFlagSet("attest", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	text, asJSON := set.String("nonce", "", ""), set.Bool("json", false, "")
	if err := set.Parse(args); err != nil || set.NArg() > 0 || *text == "" {
		return nil, false
	}
	return func(ctx context.Context) error { return showAttestation(ctx, os.Stdout, *text, *asJSON) }, true
}

func showAttestation(ctx context.Context, w io.Writer, nonce string, asJSON bool) error {
	a, err := attestHere(ctx, nonce)
	if err != nil {
		return err
	}
	return writeAttestation(w, a, asJSON)
}

// writeAttestation writes what a verifier needs, or that there is such a thing.
func writeAttestation(w io.Writer, a evidence.Attestation, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(a)
	}
	_, err := fmt.Fprintf(w, "%s report of %d bytes, certificates of %d, event log of %d, for the identity key %x\n--json writes it for `cc-install verify-evidence`\n",
		a.Kind, len(a.Report), len(a.Certs), len(a.EventLog), evidence.IdentityHash(a.Identity))
	return err
}

// attestFor is the verb "attest" of the control port.
func attestFor(ctx context.Context, data json.RawMessage) (evidence.Attestation, error) {
	var question struct {
		Nonce string `json:"nonce"`
	}
	if err := json.Unmarshal(data, &question); err != nil {
		return evidence.Attestation{}, fault.Newf(fault.Usage, "reading the nonce: %w", err)
	}
	return attestHere(ctx, question.Nonce)
}

func attestHere(ctx context.Context, nonce string) (evidence.Attestation, error) {
	raw, err := evidence.ParseNonce(nonce)
	if err != nil {
		return evidence.Attestation{}, err
	}
	s, err := readSettings()
	if err != nil {
		return evidence.Attestation{}, err
	}
	return attest(ctx, evidence.TSM{}, s.Keys.Identity.Dir, raw)
}

// attest has the processor vouch for the identity key in the folder, in answer
// to the nonce.
func attest(ctx context.Context, processor evidence.Reporter, dir string, nonce []byte) (evidence.Attestation, error) {
	text, err := os.ReadFile(filepath.Join(dir, identityFile))
	if err != nil {
		return evidence.Attestation{}, fault.Newf(fault.GuestTEE, "the identity key: %w", err).Hint("`cc-guest keys generate` makes it")
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return evidence.Attestation{}, fault.Newf(fault.GuestTEE, "the identity key: %s is not PEM", identityFile)
	}
	// The hash is that of identity.Hash.
	e, err := processor.Report(ctx, evidence.ReportData(nonce, evidence.IdentityHash(block.Bytes)))
	return evidence.Attestation{Evidence: e, Identity: block.Bytes}, err
}
