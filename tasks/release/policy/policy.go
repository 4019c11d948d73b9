// Package policy is the file in which an operator writes down which machines
// get their keys.
//
//	{
//	  "version": 1,
//	  "measurements": [
//	    {"kind": "snp", "digest": "6eef54…"},
//	    {"kind": "tdx", "mrtd": "bdc6fb…", "rtmr": ["any", "1f…", "2e…"]}
//	  ],
//	  "products": ["Genoa", "Turin"],
//	  "tcb": {"snp": {"Genoa": {"bootloader": 9, "tee": 0, "snp": 21, "microcode": 72}}},
//	  "debug": "never",
//	  "enrol": true,
//	  "instances": ["2c1f0f5e-0d1c-4b43-9a58-55a3a4f5f3e1"]
//	}
//
// It is strict: what it does not know is an error with its place, and what it
// leaves out is refused rather than allowed. Files that it names are relative
// to its own folder, and are read with it.
package policy

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	"cc-base/tasks/fault"
	"cc-base/tasks/release"
	"cc-base/tasks/tee/evidence"
	"cc-base/tasks/tee/evidence/verify"
)

// Version of the format.
const Version = 1

// maxFile bounds the policy and every file that it names, bytes.
const maxFile = 4 << 20

// Policy is what a machine must satisfy.
type Policy struct {
	// Verify are the options for its evidence. Now and ReportData are left to
	// the caller: they belong to one question.
	Verify verify.Options

	// Enrol lets instances that are not known get a key, in the boot in which
	// they make their volume. Without it only known ones are served.
	Enrol bool

	// Instances that may be served; nil for any.
	Instances []string
}

// Serves tells whether the instance may be served at all.
func (p Policy) Serves(instance string) bool {
	return p.Instances == nil || slices.Contains(p.Instances, instance)
}

// file is the policy as it is written.
type file struct {
	Version      int               `json:"version"`
	Measurements []fileMeasurement `json:"measurements"` // digests of the machines that may be served
	Products     []string          `json:"products"`     // processors that may vouch; left out: any but Milan, whose keys are not its own any more
	TCB          fileTCB           `json:"tcb"`          // lowest firmware
	Debug        string            `json:"debug"`        // "never", the only value
	HostData     string            `json:"hostData"`     // SNP, 64 hexadecimal digits
	MRConfigID   string            `json:"mrConfigId"`   // TDX, 96 hexadecimal digits
	TDAttributes []string          `json:"tdAttributes"` // TDX; left out: 0x10000000
	AMDRoots     string            `json:"amdRoots"`     // file; left out: AMD's
	IntelRoots   string            `json:"intelRoots"`   // file; left out: Intel's
	VCEKs        []string          `json:"vceks"`        // files: certificates of the chips
	AMDCRLs      []string          `json:"amdCRLs"`      // files
	Collateral   string            `json:"collateral"`   // folder: what Intel's PCS answered
	MaxCRLAge    string            `json:"maxCRLAge"`    // such as "720h"
	Enrol        bool              `json:"enrol"`
	Instances    *[]string         `json:"instances"`
}

type fileMeasurement struct {
	Kind   string   `json:"kind"`
	Digest string   `json:"digest"`
	MRTD   string   `json:"mrtd"`
	RTMR   []string `json:"rtmr"`
}

type fileTCB struct {
	SNP map[string]verify.SNPTCB `json:"snp"` // by product
	TDX string                   `json:"tdx"` // 32 hexadecimal digits
}

// Names of the files in the collateral folder.
const (
	TCBInfoName         = "tcbinfo.json"
	TCBInfoChainName    = "tcbinfo-chain.pem"
	QEIdentityName      = "qeidentity.json"
	QEIdentityChainName = "qeidentity-chain.pem"
	PCKCRLName          = "pckcrl.der"
	PCKCRLChainName     = "pckcrl-chain.pem"
	RootCRLName         = "rootcrl.der"
)

// Read reads a policy and the files that it names. Errors have code
// [fault.Usage] and the file's path.
func Read(path string) (Policy, error) {
	data, err := readFile(path)
	if err != nil {
		return Policy{}, fault.Newf(fault.Usage, "policy: %w", err)
	}
	return Parse(data, path)
}

// Parse is [Read] for a policy's text; path names it in errors, and says where
// the files are that it names.
func Parse(data []byte, path string) (Policy, error) {
	var f file
	if err := decode(data, &f); err != nil {
		return Policy{}, fault.Newf(fault.Usage, "policy: %s:%w", path, err)
	}
	p, err := f.policy(filepath.Dir(path))
	if err != nil {
		return Policy{}, fault.Newf(fault.Usage, "policy: %s: %w", path, err)
	}
	return p, nil
}

// policy resolves the file; every error at once.
func (f file) policy(dir string) (Policy, error) {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	digits := func(name, text string, size int) []byte {
		b, err := digest(text, size)
		if err != nil {
			fail("%s: %w", name, err)
		}
		return b
	}
	optional := func(name, text string, size int) []byte {
		if text == "" {
			return nil
		}
		return digits(name, text, size)
	}
	load := func(name, path string) []byte {
		if path == "" {
			return nil
		}
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		b, err := readFile(path)
		if err != nil {
			fail("%s: %w", name, err)
		}
		return b
	}

	if f.Version != Version {
		fail("version is %d, not %d", f.Version, Version)
	}
	if f.Debug != "" && f.Debug != "never" {
		fail(`debug: %.20q: a guest that may be debugged keeps no secret, so "never" is the only value`, f.Debug)
	}
	p := Policy{Enrol: f.Enrol}
	v := &p.Verify
	if len(f.Measurements) == 0 {
		fail("measurements: none is given, so no machine could be served")
	}
	for i, m := range f.Measurements {
		name := fmt.Sprintf("measurements[%d]", i)
		out := verify.Measurement{Kind: m.Kind}
		switch {
		case m.Kind == evidence.SNP && (m.MRTD != "" || m.RTMR != nil), m.Kind == evidence.TDX && m.Digest != "":
			fail("%s: a field belongs to the other kind", name)
		case m.Kind == evidence.SNP:
			out.Digest = digits(name+".digest", m.Digest, 48)
		case m.Kind == evidence.TDX:
			out.MRTD = digits(name+".mrtd", m.MRTD, 48)
			if len(m.RTMR) != 3 && len(m.RTMR) != 4 {
				fail(`%s.rtmr: %d values, not RTMR0 to RTMR2 or RTMR3; "any" leaves one out`, name, len(m.RTMR))
				break
			}
			for n, text := range m.RTMR {
				if text != "any" {
					out.RTMR[n] = digits(fmt.Sprintf("%s.rtmr[%d]", name, n), text, 48)
				}
			}
		default:
			fail("%s.kind: %.20q is neither %s nor %s", name, m.Kind, evidence.SNP, evidence.TDX)
		}
		v.Measurements = append(v.Measurements, out)
	}
	for i, name := range f.Products {
		if !product(name) {
			fail("products[%d]: %.20q is neither Milan, Genoa, Turin nor an FMSPC of 12 lower-case hexadecimal digits", i, name)
		}
	}
	v.Products = f.Products
	if f.Products != nil && len(f.Products) == 0 {
		fail("products: an empty list allows nobody; leave it out to allow all")
	}
	for name := range f.TCB.SNP {
		if !slices.Contains(snpProducts(), name) {
			fail("tcb.snp: %.20q is neither Milan, Genoa nor Turin", name)
		}
	}
	v.SNPMinTCB = f.TCB.SNP
	v.TDXMinTCB = optional("tcb.tdx", f.TCB.TDX, 16)
	v.HostData = optional("hostData", f.HostData, 32)
	v.MRConfigID = optional("mrConfigId", f.MRConfigID, 48)
	for i, text := range f.TDAttributes {
		n, err := strconv.ParseUint(text, 0, 64)
		switch {
		case err != nil:
			fail("tdAttributes[%d]: %.20q is no number", i, text)
		case n&0xFF != 0:
			fail("tdAttributes[%d]: %s allows debugging", i, text)
		}
		v.TDXAttributes = append(v.TDXAttributes, n)
	}
	v.AMDRoots, v.IntelRoots = load("amdRoots", f.AMDRoots), load("intelRoots", f.IntelRoots)
	for i, path := range f.VCEKs {
		v.VCEKs = append(v.VCEKs, load(fmt.Sprintf("vceks[%d]", i), path))
	}
	for i, path := range f.AMDCRLs {
		v.AMDCRLs = append(v.AMDCRLs, load(fmt.Sprintf("amdCRLs[%d]", i), path))
	}
	if f.Collateral != "" {
		get := func(name string) []byte { return load("collateral", filepath.Join(f.Collateral, name)) }
		v.Collateral = &verify.Collateral{
			TCBInfo: get(TCBInfoName), TCBInfoChain: get(TCBInfoChainName),
			QEIdentity: get(QEIdentityName), QEIdentityChain: get(QEIdentityChainName),
			PCKCRL: get(PCKCRLName), PCKCRLChain: get(PCKCRLChainName), RootCRL: get(RootCRLName),
		}
	}
	if f.MaxCRLAge != "" {
		age, err := time.ParseDuration(f.MaxCRLAge)
		if err != nil || age <= 0 {
			fail("maxCRLAge: %.20q is no positive duration such as 720h", f.MaxCRLAge)
		}
		v.MaxCRLAge = age
	}
	if f.Instances != nil {
		p.Instances = *f.Instances
		if len(p.Instances) == 0 {
			fail("instances: an empty list allows nobody; leave it out to allow all")
		}
		for i, id := range p.Instances {
			if err := release.CheckInstance(id); err != nil {
				fail("instances[%d]: %w", i, err)
			}
		}
	}
	return p, errors.Join(errs...)
}

var fmspcPattern = regexp.MustCompile(`^[0-9a-f]{12}$`)

// snpProducts are the processor lines that sign with a root of their own.
func snpProducts() []string { return []string{"Milan", "Genoa", "Turin"} }

func product(name string) bool {
	return slices.Contains(snpProducts(), name) || fmspcPattern.MatchString(name)
}

// digest reads lower-case hexadecimal digits.
func digest(text string, size int) ([]byte, error) {
	b, err := hex.DecodeString(text)
	switch {
	case err != nil || hex.EncodeToString(b) != text:
		return nil, fmt.Errorf("%.20q is not in lower-case hexadecimal digits", text)
	case len(b) != size:
		return nil, fmt.Errorf("%d hexadecimal digits, not %d", len(text), 2*size)
	}
	return b, nil
}

func readFile(path string) ([]byte, error) {
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular():
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New("not a regular file")}
	case st.Size() > maxFile:
		return nil, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("longer than %d bytes", maxFile)}
	}
	return os.ReadFile(path)
}
