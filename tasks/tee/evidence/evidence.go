// Package evidence has a processor vouch for the running guest: an attestation
// report on SEV-SNP, a quote on TDX, with whatever a verifier needs beside it.
//
//	e, err := evidence.TSM{}.Report(ctx, sha512.Sum512(transcript))
//
// Both come through the kernel's one interface, configfs-tsm
// (Documentation/ABI/testing/configfs-tsm-report, Linux 6.7 and later). Package
// verify below this one judges what others send; it is apart so that the guest,
// which only asks, carries none of it.
package evidence

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"cc-base/tasks/fault"
)

// Kinds of evidence.
const (
	SNP  = "snp"  // attestation report, AMD publication 56860
	TDX  = "tdx"  // quote, Intel TDX DCAP quoting library API
	Fake = "fake" // a test's; no production code accepts it
)

// DataSize is the length of the data that a report carries for its requester,
// bytes: REPORT_DATA on SEV-SNP, REPORTDATA on TDX.
const DataSize = 64

// MaxSize bounds each part of an evidence, and the file of one, bytes. A report
// has 1184, a quote about 5000, an event log up to some hundred thousand.
const MaxSize = 512 << 10

// Evidence is what one processor said about one guest.
type Evidence struct {
	Kind     string `json:"kind"`
	Report   []byte `json:"report"`             // report or quote, as the firmware made it
	Certs    []byte `json:"certs,omitempty"`    // SNP: the host's certificate table (AMD publication 56421), where it has one
	EventLog []byte `json:"eventLog,omitempty"` // TDX: what was measured into the RTMRs (ACPI table CCEL, data only)
}

// Reporter makes evidence that carries data.
type Reporter interface {
	Report(ctx context.Context, data [DataSize]byte) (Evidence, error)
}

// Sizes and marks of the raw formats.
const (
	snpReportSize = 1184 // AMD publication 56860, ATTESTATION_REPORT
	tdxMinSize    = 636  // header, body and the length of the signature
	tdxTeeType    = 0x81 // Intel TDX DCAP quoting library API, quote header
)

// Parse reads a file of evidence: the JSON of [Evidence], or a bare SNP report
// or TDX quote as other tools write them. The content is judged by package
// verify, not here; errors have code [fault.Usage].
func Parse(data []byte) (Evidence, error) {
	e, err := parse(data)
	if err != nil {
		return Evidence{}, fault.Newf(fault.Usage, "evidence: %w", err)
	}
	return e, nil
}

func parse(data []byte) (Evidence, error) {
	if len(data) > 3*MaxSize {
		return Evidence{}, fmt.Errorf("%d bytes are more than evidence has", len(data))
	}
	switch {
	case len(bytes.TrimLeft(data, " \t\r\n")) > 0 && bytes.TrimLeft(data, " \t\r\n")[0] == '{':
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.DisallowUnknownFields()
		var e Evidence
		if err := dec.Decode(&e); err != nil {
			return Evidence{}, err
		}
		if _, err := dec.Token(); !errors.Is(err, io.EOF) {
			return Evidence{}, errors.New("something follows the JSON object")
		}
		return e, e.Check()
	case len(data) == snpReportSize && data[0] >= 2 && data[1] == 0:
		return Evidence{Kind: SNP, Report: data}, nil
	case len(data) >= tdxMinSize && binary.LittleEndian.Uint32(data[4:]) == tdxTeeType:
		return Evidence{Kind: TDX, Report: data}, nil
	}
	return Evidence{}, errors.New("neither JSON, an SNP report of 1184 bytes, nor a TDX quote")
}

// Check says whether the parts have a known kind and possible sizes.
func (e Evidence) Check() error {
	switch e.Kind {
	case SNP, TDX, Fake:
	default:
		return fmt.Errorf("kind %q is neither %s nor %s", e.Kind, SNP, TDX)
	}
	if len(e.Report) == 0 {
		return errors.New("there is no report")
	}
	for _, part := range [][]byte{e.Report, e.Certs, e.EventLog} {
		if len(part) > MaxSize {
			return fmt.Errorf("a part has %d bytes, at most %d", len(part), MaxSize)
		}
	}
	return nil
}
