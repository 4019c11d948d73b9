//go:build cctest

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"os"
	"time"

	"github.com/google/go-sev-guest/abi"
	sevtest "github.com/google/go-sev-guest/testing"

	"cc-base/overlays/cc-guest/internal/source"
	"cc-base/tasks/fault"
	"cc-base/tasks/tee/evidence"
)

const testBuild = true

// releaseWait is short: a test waits for its end.
const releaseWait = 40 * time.Second

// snpRoot stands in for the processor of a test build: one key for every test
// guest, which protects nothing.
func snpRoot() (source.Root, error) { return fakeRoot{}, nil }

type fakeRoot struct{}

// Key implements source.Root.
func (fakeRoot) Key(context.Context, uint64) ([]byte, uint64, error) {
	return bytes.Repeat([]byte("T"), 32), 1, nil
}

// chipFile is the processor that the test has put into the initrd: its signing
// key is no secret there, and only a policy that names the test's own root
// certificates accepts it.
const chipFile = "/usr/lib/cc/test-chip.json"

// chip signs attestation reports in AMD's format.
type chip struct {
	Key         []byte `json:"key"`   // PKCS #8
	Certs       []byte `json:"certs"` // the host's certificate table
	Measurement []byte `json:"measurement"`
}

// reporter stands in for the processor.
func reporter() (evidence.Reporter, error) {
	var c chip
	text, err := os.ReadFile(chipFile)
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	if err != nil {
		return nil, fault.New(fault.GuestTEE, err)
	}
	return c, nil
}

// Report implements evidence.Reporter.
func (c chip) Report(_ context.Context, data [evidence.DataSize]byte) (evidence.Evidence, error) {
	key, err := x509.ParsePKCS8PrivateKey(c.Key)
	if err != nil {
		return evidence.Evidence{}, err
	}
	raw := sevtest.CreateRawReport(&sevtest.TestReportOptions{ReportData: data[:], Version: 3, FMS: 0x00a00f11})
	report := raw[:abi.ReportSize]
	binary.LittleEndian.PutUint64(report[0x08:], 0x30000) // policy
	copy(report[0x90:0xC0], c.Measurement)
	sum := sha512.Sum384(abi.SignedComponent(report))
	r, s, err := ecdsa.Sign(rand.Reader, key.(*ecdsa.PrivateKey), sum[:])
	if err == nil {
		err = abi.SetSignature(r, s, report)
	}
	return evidence.Evidence{Kind: evidence.SNP, Report: report, Certs: c.Certs}, err
}
