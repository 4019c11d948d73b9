package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"cc-base/tasks/boot/measured"
	"cc-base/tasks/fault"
	"cc-base/tasks/tpm/pcr"
)

// Bounds of the files that measure and compare read whole.
const (
	maxUKI  = 1 << 30
	maxVars = 64 << 20
	maxLog  = 4 << 20
)

// pcrOptions are the flags of measure pcr.
type pcrOptions struct {
	uki, cert, owner, vars, gpt, phases, log string
	json                                     bool
}

// prediction is what measure pcr --json writes.
type prediction struct {
	SecureBoot string                        `json:"secureBoot"` // on, off or absent
	PCRs       map[pcr.Bank]map[int]pcr.Hex  `json:"pcrs"`
	Events     []pcr.Event                   `json:"events"`
	Different  map[pcr.Bank][]pcr.Difference `json:"different,omitempty"` // from the log that was given
	compared   bool
}

// measurePCR predicts the TPM's registers for a boot of the UKI from a disk, and
// compares the prediction with a machine's event log where one is given:
//
//	cc-install measure pcr --uki FILE [--secure-boot-cert FILE [--secure-boot-owner GUID] | --vars FILE]
//	           [--gpt DISK] [--phases enter-initrd:leave-initrd] [--log FILE] [--json]
func measurePCR(_ context.Context, a *app, args []string) error {
	o, err := parsePCR(args)
	if err != nil {
		return fault.New(fault.Usage, fmt.Errorf("measure pcr: %w", err)).Hint("cc-install help shows the usage")
	}
	b, err := o.boot()
	if err != nil {
		return err
	}
	log, err := pcr.Predict(b)
	if err != nil {
		return err
	}
	p := prediction{SecureBoot: "absent", PCRs: map[pcr.Bank]map[int]pcr.Hex{}, Events: log.Events}
	switch {
	case b.SecureBoot.On():
		p.SecureBoot = "on"
	case len(b.SecureBoot.State) > 0:
		p.SecureBoot = "off"
	}
	for _, bank := range pcr.Banks() {
		if p.PCRs[bank], err = log.Replay(bank); err != nil {
			return err
		}
	}
	if o.log != "" {
		if err := p.compare(log, o.log); err != nil {
			return err
		}
	}
	if o.json {
		err = a.writeJSON(p)
	} else {
		err = p.show(a.out, log.PCRs)
	}
	if err == nil && len(p.Different) > 0 {
		return told(fault.Damaged)
	}
	return err
}

func parsePCR(args []string) (pcrOptions, error) {
	var o pcrOptions
	set := flag.NewFlagSet("measure pcr", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.StringVar(&o.uki, "uki", "", "")
	set.StringVar(&o.cert, "secure-boot-cert", "", "")
	set.StringVar(&o.owner, "secure-boot-owner", "", "")
	set.StringVar(&o.vars, "vars", "", "")
	set.StringVar(&o.gpt, "gpt", "", "")
	set.StringVar(&o.phases, "phases", "", "")
	set.StringVar(&o.log, "log", "", "")
	set.BoolVar(&o.json, "json", false, "")
	err := set.Parse(args)
	switch {
	case err != nil:
		return o, err
	case set.NArg() > 0:
		return o, fmt.Errorf("%q is not expected", set.Arg(0))
	case o.uki == "":
		return o, errors.New("--uki is missing")
	case o.cert != "" && o.vars != "":
		return o, errors.New("--secure-boot-cert and --vars say the same in two ways")
	case o.owner != "" && o.cert == "":
		return o, errors.New("--secure-boot-owner belongs to --secure-boot-cert")
	case o.log != "" && o.phases != "":
		return o, errors.New("the firmware's log holds no phases: --log or --phases")
	}
	return o, nil
}

// boot reads the files.
func (o pcrOptions) boot() (pcr.Boot, error) {
	uki, err := readBounded(o.uki, maxUKI)
	if err != nil {
		return pcr.Boot{}, err
	}
	var b pcr.Boot
	if b.Image, err = pcr.ReadUKI(uki); err != nil {
		return pcr.Boot{}, fmt.Errorf("%s: %w", o.uki, err)
	}
	switch {
	case o.cert != "":
		b.SecureBoot, err = enrolled(o.cert, o.owner)
	case o.vars != "":
		var fd []byte
		if fd, err = readBounded(o.vars, maxVars); err == nil {
			b.SecureBoot, err = pcr.ReadVars(fd)
		}
	}
	if err != nil {
		return pcr.Boot{}, err
	}
	if o.gpt != "" {
		if b.GPT, err = readGPT(o.gpt); err != nil {
			return pcr.Boot{}, err
		}
	}
	if o.phases != "" {
		b.Phases = strings.Split(o.phases, ":")
		if slices.Contains(b.Phases, "") {
			return pcr.Boot{}, fault.Newf(fault.Usage, "measure pcr: an empty word in --phases")
		}
	}
	return b, nil
}

func enrolled(certFile, owner string) (pcr.SecureBoot, error) {
	raw, err := readBounded(certFile, maxVars)
	if err != nil {
		return pcr.SecureBoot{}, err
	}
	if block, _ := pem.Decode(raw); block != nil {
		raw = block.Bytes
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		return pcr.SecureBoot{}, fault.Newf(fault.Usage, "%s is not a certificate: %w", certFile, err)
	}
	if owner == "" {
		owner = pcr.DefaultOwner
	}
	g, err := pcr.ParseGUID(owner)
	if err != nil {
		return pcr.SecureBoot{}, fault.New(fault.Usage, err)
	}
	return pcr.Enrolled(cert, g), nil
}

func readGPT(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.New(fault.Usage, err)
	}
	defer f.Close()
	data, err := measured.PartitionTable(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return data, nil
}

// readBounded reads a file that must not be larger than most.
func readBounded(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.New(fault.Usage, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > most {
		return nil, fault.Newf(fault.Usage, "%s is larger than %d bytes", path, most)
	}
	return b, nil
}

// compare holds the prediction against a machine's event log, in every bank
// that the log has.
func (p *prediction) compare(predicted pcr.Log, path string) error {
	raw, err := readBounded(path, maxLog)
	if err != nil {
		return err
	}
	actual, err := pcr.Parse(raw)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	p.compared, p.Different = true, map[pcr.Bank][]pcr.Difference{}
	banks := 0
	for _, bank := range pcr.Banks() {
		has := func(e pcr.Event) bool { return len(e.Digests[bank]) > 0 }
		if !slices.ContainsFunc(actual.Events, has) {
			continue
		}
		banks++
		if found := pcr.Diff(predicted, actual, bank); len(found) > 0 {
			p.Different[bank] = found
		}
	}
	if banks == 0 {
		return fault.Newf(fault.Damaged, "%s: it has no digests of SHA-256 or SHA-384", path)
	}
	return nil
}

func (p prediction) show(out io.Writer, pcrs []int) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "Secure Boot: %s\n", p.SecureBoot)
	for _, n := range pcrs {
		for _, bank := range pcr.Banks() {
			fmt.Fprintf(&b, "PCR %-2d %s %s\n", n, bank, p.PCRs[bank][n])
		}
	}
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nPCR\tEVENT\tSHA256\tWHAT")
	for _, n := range pcrs {
		for _, e := range p.Events {
			if e.PCR == n {
				fmt.Fprintf(table, "%d\t%s\t%.16s\t%s\n", n, e.Type, e.Digests[pcr.SHA256], e.What)
			}
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if p.compared {
		fmt.Fprintln(&b)
		for _, bank := range pcr.Banks() {
			for _, d := range p.Different[bank] {
				fmt.Fprintf(&b, "different (%s): %s\n", bank, d.Text)
			}
		}
		if len(p.Different) == 0 {
			fmt.Fprintln(&b, "the log holds exactly these events; whether it is the TPM's own, only a quote shows")
		}
	}
	_, err := out.Write(b.Bytes())
	return err
}
