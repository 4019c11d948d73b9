// Command cc-attest asks the processor for an attestation report:
//
//	cc-attest --nonce HEX [--json]
//
// The nonce, up to 64 bytes, becomes the report's user data, so that whoever
// chose it knows the report to be fresh. The report is printed as it is; it is
// worth something only to a verifier elsewhere, never to this machine.
//
// Exit status: 0 a report was printed, 1 the request failed, 2 wrong usage,
// 3 this machine has no trusted execution environment.
package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/configfs/linuxtsm"
	"github.com/google/go-configfs-tsm/report"

	"cc-base/tasks/fault"
)

// nonceBytes is the length of the user data of SNP and TDX reports; a shorter
// nonce is filled up with zeros, as the kernel wants all of it.
const nonceBytes = 64

// errNoTEE is in the chain when the kernel offers no report interface.
var errNoTEE = errors.New("no trusted execution environment: this machine is not an SNP or TDX guest")

func main() {
	nonce, asJSON, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cc-attest:", err)
		os.Exit(fault.ExitUsage)
	}
	client, err := linuxtsm.MakeClient()
	if err != nil {
		err = fmt.Errorf("%w (%w)", errNoTEE, err)
	} else {
		err = attest(os.Stdout, client, nonce, asJSON)
	}
	switch {
	case errors.Is(err, errNoTEE):
		fmt.Fprintln(os.Stderr, "cc-attest:", err)
		os.Exit(fault.ExitUnsupported)
	case err != nil:
		fmt.Fprintln(os.Stderr, "cc-attest:", err)
		os.Exit(fault.ExitFailed)
	}
}

// parse reads the arguments.
func parse(args []string, usage io.Writer) (nonce []byte, asJSON bool, err error) {
	flags := flag.NewFlagSet("cc-attest", flag.ContinueOnError)
	flags.SetOutput(usage)
	text := flags.String("nonce", "", "user data of the report, up to 64 bytes in hexadecimal")
	flags.BoolVar(&asJSON, "json", false, "print one JSON object")
	if err := flags.Parse(args); err != nil {
		return nil, false, err
	}
	if flags.NArg() != 0 {
		return nil, false, fmt.Errorf("unknown argument %q", flags.Arg(0))
	}
	given, err := hex.DecodeString(*text)
	if err != nil {
		return nil, false, errors.New("--nonce is not hexadecimal")
	}
	if len(given) == 0 || len(given) > nonceBytes {
		return nil, false, fmt.Errorf("--nonce must have 1 to %d bytes", nonceBytes)
	}
	nonce = make([]byte, nonceBytes)
	copy(nonce, given)
	return nonce, asJSON, nil
}

// result is what is printed.
type result struct {
	Provider string `json:"provider"` // the kernel driver: sev_guest or tdx_guest
	Nonce    string `json:"nonce"`
	OutBlob  string `json:"outblob"`
}

// watched remembers why a report could not even be begun: the library passes
// that error on as text only.
type watched struct {
	configfsi.Client
	mkdir error
}

// MkdirTemp implements configfsi.Client.
func (w *watched) MkdirTemp(dir, pattern string) (string, error) {
	var name string
	name, w.mkdir = w.Client.MkdirTemp(dir, pattern)
	return name, w.mkdir
}

// attest requests a report from client and prints it.
func attest(w io.Writer, client configfsi.Client, nonce []byte, asJSON bool) error {
	watch := &watched{Client: client}
	response, err := report.Get(watch, &report.Request{InBlob: nonce})
	// The report interface without a driver behind it: tsm_report_make_item
	// in the kernel's drivers/virt/coco/tsm.c.
	if errors.Is(watch.mkdir, syscall.ENXIO) {
		return errNoTEE
	}
	if err != nil {
		return fmt.Errorf("requesting a report: %w", err)
	}
	r := result{Provider: strings.TrimSpace(response.Provider), Nonce: hex.EncodeToString(nonce), OutBlob: hex.EncodeToString(response.OutBlob)}
	if asJSON {
		return json.NewEncoder(w).Encode(r)
	}
	_, err = fmt.Fprintf(w, "provider: %s\nnonce: %s\noutblob: %s\n", r.Provider, r.Nonce, r.OutBlob)
	return err
}
