package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/google/go-sev-guest/abi"

	"cc-base/tasks/fault"
	"cc-base/tasks/measurements"
	"cc-base/tasks/tee/evidence"
	"cc-base/tasks/tee/snp"
)

// What a report measures, by name.
const (
	launchDigest = "measurement" // SNP
	mrtd         = "mrtd"        // TDX, firmware
	rtmr1        = "rtmr1"       // TDX, boot programs
	rtmr2        = "rtmr2"       // TDX, what the boot programs took with them
)

// register returns the register of that name.
func register(r measurements.TDXRow, name string) string {
	return map[string]string{mrtd: r.MRTD, rtmr1: r.RTMR1, rtmr2: r.RTMR2}[name]
}

// table knows digests. kind is the name of what was measured.
type table interface {
	// Lookup returns the rows of which that is the digest, in words.
	Lookup(kind, digest string) []string
	// Neighbours returns the machines outside of the table, but close to it,
	// that have the digest, in words.
	Neighbours(kind, digest string) ([]string, error)
}

// published is the table of measurements.json.
type published struct {
	measurements.Document

	// firmware and kernel are files to compute neighbours from; empty for none.
	firmware, kernel, initrd, commandLine string
}

// readTable reads measurements.json as the build writes it. That it is the
// signed one, whoever verifies the installer has checked.
func readTable(path string) (*published, error) {
	raw, err := readBounded(path, measurements.MaxSize)
	if err != nil {
		return nil, err
	}
	doc, err := measurements.Read(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(doc.SNP)+len(doc.TDX) > 0 {
		return &published{Document: doc}, nil
	}
	why := ""
	for _, n := range doc.NotComputed {
		why += fmt.Sprintf("; %s: %s", n.What, n.Why)
	}
	return nil, fault.Newf(fault.Damaged, "%s holds no measurements of a TEE%s", path, why)
}

func (p *published) Lookup(kind, digest string) []string {
	var rows []string
	if kind == launchDigest {
		for _, r := range p.SNP {
			if r.Digest == digest {
				rows = append(rows, r.String())
			}
		}
		return rows
	}
	for i, r := range p.TDX {
		if register(r, kind) == digest {
			// With its number, because two rows may read the same and a report
			// must be of one of them in every register.
			rows = append(rows, fmt.Sprintf("row %d, %s", i+1, r))
		}
	}
	return rows
}

// mostVCPUs is how far neighbours are searched.
const mostVCPUs = 512

// Neighbours computes the SNP digests of the firmware for other numbers of
// processors, models and features, with the kernel's hashes and without.
func (p *published) Neighbours(kind, digest string) ([]string, error) {
	if kind != launchDigest || p.firmware == "" {
		return nil, nil
	}
	image, err := readBounded(p.firmware, maxVars)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, boot := range []struct {
		name  string
		files bool
	}{{"direct", true}, {"no kernel hashes", false}} {
		if boot.files && p.kernel == "" {
			continue
		}
		var hashes *snp.KernelHashes
		if boot.files {
			if hashes, err = p.hashes(); err != nil {
				return nil, err
			}
		}
		vcpus := make([]int, mostVCPUs)
		for i := range vcpus {
			vcpus[i] = i + 1
		}
		rows, err := snp.Table(image, hashes, vcpus, modelsBySignature(), []uint64{snp.FeatureSNP, snp.FeatureSNP | snp.FeatureDebugSwap})
		if err != nil {
			// Firmware without a page for hashes has no digest with a kernel.
			if boot.files {
				continue
			}
			return nil, fault.Newf(fault.Usage, "%s: %w", p.firmware, err)
		}
		for _, r := range rows {
			if r.Digest.String() == digest {
				found = append(found, fmt.Sprintf("%s, %s, %s, guest features %#x", boot.name, processors(r.VCPUs), r.Model, r.Features))
			}
		}
	}
	return found, nil
}

// hashes returns the kernel hashes of the files that were named.
func (p *published) hashes() (*snp.KernelHashes, error) {
	kernel, err := os.Open(p.kernel)
	if err != nil {
		return nil, fault.New(fault.Usage, err)
	}
	defer kernel.Close()
	var initrd io.Reader
	if p.initrd != "" {
		f, err := os.Open(p.initrd)
		if err != nil {
			return nil, fault.New(fault.Usage, err)
		}
		defer f.Close()
		initrd = f
	}
	h, err := snp.HashBoot(kernel, initrd, p.commandLine)
	if err != nil {
		return nil, fault.New(fault.Usage, err)
	}
	return &h, nil
}

// modelsBySignature returns one model for each signature: others have equal
// digests.
func modelsBySignature() []string {
	var models []string
	seen := map[uint32]bool{}
	for _, m := range snp.Models() {
		s, err := snp.Signature(m)
		if err == nil && !seen[s] && strings.HasPrefix(m, "EPYC") {
			seen[s] = true
			models = append(models, m)
		}
	}
	return models
}

// claim is one property of a report.
type claim struct {
	Name    string   `json:"name"`
	Value   string   `json:"value"`
	Matches []string `json:"matches,omitempty"` // rows of measurements.json
	Note    string   `json:"note,omitempty"`    // what the value means

	measured bool // it is compared with measurements.json
}

// comparison is what compare --json writes.
type comparison struct {
	Kind    string   `json:"kind"` // snp or tdx
	Matches []string `json:"matches"`
	Claims  []claim  `json:"claims"`
	Advice  []string `json:"advice,omitempty"`
}

// compare says which row of measurements.json a report is of, and where it is
// of none, what differs:
//
//	cc-install compare --report FILE | --live NAME|SOCKET --measurements FILE
//	           [--firmware FILE [--kernel FILE [--initrd FILE] [--cmdline LINE]]] [--json]
func (a *app) compare(ctx context.Context, args []string) error {
	report, live, asJSON, t, err := parseCompare(args)
	if err != nil {
		return err
	}
	raw, err := readReport(ctx, report, live)
	if err != nil {
		return err
	}
	e, err := evidence.ParseAttestation(raw)
	if err != nil {
		return fmt.Errorf("%s: %w", report+live, err)
	}
	c, err := judge(e.Evidence, t)
	if err != nil {
		return err
	}
	if asJSON {
		err = a.writeJSON(c)
	} else {
		err = c.show(a.out)
	}
	if err == nil && len(c.Matches) == 0 {
		return told(fault.Damaged)
	}
	return err
}

// readReport reads the file, or asks a running VM for a report of its own. The
// nonce is drawn here, so that it is none that somebody has kept.
func readReport(ctx context.Context, file, live string) ([]byte, error) {
	if live == "" {
		return readBounded(file, 3*evidence.MaxSize)
	}
	socket, err := socketOf(live)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, evidence.MaxNonce)
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	return askEvidence(ctx, socket, hex.EncodeToString(nonce))
}

func parseCompare(args []string) (report, live string, asJSON bool, t table, err error) {
	usage := func(err error) error {
		return fault.New(fault.Usage, fmt.Errorf("compare: %w", err)).Hint("cc-install help shows the usage")
	}
	set := flag.NewFlagSet("compare", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	var measurements, firmware, kernel, initrd, line string
	set.StringVar(&report, "report", "", "")
	set.StringVar(&live, "live", "", "")
	set.StringVar(&measurements, "measurements", "", "")
	set.StringVar(&firmware, "firmware", "", "")
	set.StringVar(&kernel, "kernel", "", "")
	set.StringVar(&initrd, "initrd", "", "")
	set.StringVar(&line, "cmdline", "", "")
	set.BoolVar(&asJSON, "json", false, "")
	if err := set.Parse(args); err != nil {
		return "", "", false, nil, usage(err)
	}
	switch {
	case set.NArg() > 0:
		return "", "", false, nil, usage(fmt.Errorf("%q is not expected", set.Arg(0)))
	case (report == "") == (live == ""):
		return "", "", false, nil, usage(errors.New("one of --report and --live is needed"))
	case measurements == "":
		return "", "", false, nil, usage(errors.New("--measurements is needed"))
	case firmware == "" && kernel != "" || kernel == "" && (initrd != "" || line != ""):
		return "", "", false, nil, usage(errors.New("--kernel belongs to --firmware, --initrd and --cmdline belong to --kernel"))
	}
	p, err := readTable(measurements)
	if err != nil {
		return "", "", false, nil, err
	}
	p.firmware, p.kernel, p.initrd, p.commandLine = firmware, kernel, initrd, line
	return report, live, asJSON, p, nil
}

// judge compares the report with the table.
func judge(e evidence.Evidence, t table) (comparison, error) {
	c := comparison{Kind: e.Kind, Matches: []string{}}
	var err error
	switch e.Kind {
	case evidence.SNP:
		c.Claims, err = snpClaims(e.Report)
	case evidence.TDX:
		c.Claims, err = tdxClaims(e.Report)
	default:
		err = fmt.Errorf("a report of kind %q is of no TEE", e.Kind)
	}
	if err != nil {
		return comparison{}, fault.New(fault.Usage, err)
	}
	first := true
	for i := range c.Claims {
		m := &c.Claims[i]
		if !m.measured {
			continue
		}
		m.Matches = t.Lookup(m.Name, m.Value)
		if first {
			c.Matches = slices.Clone(m.Matches)
		} else {
			c.Matches = slices.DeleteFunc(c.Matches, func(row string) bool { return !slices.Contains(m.Matches, row) })
		}
		first = false
	}
	if len(c.Matches) > 0 {
		return c, nil
	}
	c.Matches = []string{}
	c.Advice, err = advice(c, t)
	return c, err
}

// advice says what else a report without a row may be of.
func advice(c comparison, t table) ([]string, error) {
	var lines []string
	for _, m := range c.Claims {
		if !m.measured || len(m.Matches) > 0 {
			continue
		}
		near, err := t.Neighbours(m.Name, m.Value)
		if err != nil {
			return nil, err
		}
		for _, n := range near {
			lines = append(lines, "the machine is not in the table, but close to it: "+n)
		}
		if len(near) > 0 {
			continue
		}
		switch m.Name {
		case launchDigest:
			lines = append(lines,
				"in order of likelihood: another number of virtual processors; another CPU model; guest features 0x21 instead of 0x1 (kvm_amd's debug_swap); another build of the firmware; another boot image; kernel hashes off",
				"--firmware and --kernel with the files of the host search the first three and the last")
		case mrtd:
			lines = append(lines, "mrtd: another build of the firmware")
		case rtmr1:
			lines = append(lines, "rtmr1: another boot image or kernel, another partition table, or another way of booting")
		case rtmr2:
			lines = append(lines, "rtmr2: another command line or initrd")
		}
	}
	if len(lines) == 0 {
		lines = append(lines, "every register is in the table, but not all of them in one row: firmware and boot image belong to different ways of booting")
	}
	return lines, nil
}

// snpClaims reads an attestation report (AMD publication 56860,
// ATTESTATION_REPORT).
func snpClaims(raw []byte) ([]claim, error) {
	r, err := abi.ReportToProto(raw)
	if err != nil {
		return nil, fmt.Errorf("the SNP report: %w", err)
	}
	policy, err := abi.ParseSnpPolicy(r.GetPolicy())
	if err != nil {
		return nil, fmt.Errorf("the SNP report: %w", err)
	}
	note := "debugging forbidden"
	if policy.Debug {
		note = "DEBUGGING ALLOWED: the host can read and change the guest"
	}
	if policy.MigrateMA {
		note += "; a migration agent may move the guest"
	}
	return []claim{
		{Name: launchDigest, Value: hex.EncodeToString(r.GetMeasurement()), measured: true},
		{Name: "policy", Value: fmt.Sprintf("%#x", r.GetPolicy()), Note: note},
		{Name: "vmpl", Value: fmt.Sprint(r.GetVmpl())},
		{Name: "guest svn", Value: fmt.Sprint(r.GetGuestSvn())},
		{Name: "host data", Value: hex.EncodeToString(r.GetHostData())},
		{Name: "report data", Value: hex.EncodeToString(r.GetReportData())},
		{Name: "reported tcb", Value: fmt.Sprintf("%016x", r.GetReportedTcb())},
	}, nil
}

// tdxClaims reads the body of a quote, version 4 or 5 (Intel TDX DCAP Quoting
// Library API, quote formats).
func tdxClaims(raw []byte) ([]claim, error) {
	const header, descriptor, body = 48, 6, 584
	if len(raw) < header+descriptor+body {
		return nil, errors.New("the TDX quote is cut short")
	}
	at := header
	switch v := binary.LittleEndian.Uint16(raw); v {
	case 4:
	case 5:
		at += descriptor
	default:
		return nil, fmt.Errorf("a TDX quote of version %d is unknown", v)
	}
	b := raw[at : at+body]
	digits := func(from, n int) string { return hex.EncodeToString(b[from : from+n]) }
	attributes := binary.LittleEndian.Uint64(b[120:])
	note := "debugging forbidden"
	if attributes&1 != 0 {
		note = "DEBUGGING ALLOWED: the host can read and change the guest"
	}
	return []claim{
		{Name: mrtd, Value: digits(136, 48), measured: true},
		{Name: rtmr1, Value: digits(376, 48), measured: true},
		{Name: rtmr2, Value: digits(424, 48), measured: true},
		{Name: "rtmr0", Value: digits(328, 48), Note: "virtual hardware; depends on the host's QEMU"},
		{Name: "rtmr3", Value: digits(472, 48)},
		{Name: "attributes", Value: fmt.Sprintf("%#x", attributes), Note: note},
		{Name: "mrconfigid", Value: digits(184, 48)},
		{Name: "report data", Value: digits(520, 64)},
		{Name: "tee tcb svn", Value: digits(0, 16)},
	}, nil
}

func (c comparison) show(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CLAIM\tVALUE\tVERDICT")
	for _, m := range c.Claims {
		verdict := m.Note
		switch {
		case m.measured && len(m.Matches) > 0:
			verdict = "is that of: " + strings.Join(m.Matches, "; ")
		case m.measured:
			verdict = "NOT in measurements.json"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", m.Name, m.Value, verdict)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(c.Matches) > 0 {
		fmt.Fprintf(out, "\nthe report is of: %s\n", strings.Join(c.Matches, "; "))
	} else {
		fmt.Fprintln(out, "\nthe report is of no machine in measurements.json")
	}
	for _, line := range c.Advice {
		fmt.Fprintln(out, "  "+line)
	}
	_, err := fmt.Fprintln(out, "the signature was not checked: anybody can write such a report")
	return err
}

func processors(n int) string {
	if n == 1 {
		return "1 virtual processor"
	}
	return fmt.Sprintf("%d virtual processors", n)
}
