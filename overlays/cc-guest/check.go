package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"

	"cc-base/tasks/fault"
	"cc-base/validation/check"
	"cc-base/validation/guest"
)

const (
	// checkUnit runs the checks apart from the unit that talks to the host: they
	// look at the network, the audit and all processes, which that one cannot.
	checkUnit = "cc-check.service"
	// checkOutput is what the unit writes.
	checkOutput = "/run/cc/check.json"
)

// checkVerb returns the verb `check [--json] [AREA|ID]...`; ok tells whether
// these are its arguments.
func checkVerb(args []string) (verb func(context.Context) error, ok bool) {
	set := flag.NewFlagSet("check", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	inJSON, inTAP := set.Bool("json", false, ""), set.Bool("tap", false, "")
	if err := set.Parse(args); err != nil || *inJSON && *inTAP {
		return nil, false
	}
	show := check.Report.Text
	switch {
	case *inJSON:
		show = asJSON
	case *inTAP:
		show = check.Report.TAP
	}
	return func(ctx context.Context) error { return runChecks(ctx, set.Args(), show) }, true
}

// runChecks runs the named checks of the guest, or all, here and now.
func runChecks(ctx context.Context, names []string, show func(check.Report, io.Writer) error) error {
	ready, err := readyCheck()
	if err != nil {
		return err
	}
	output := func(program string, args ...string) func(context.Context) (string, error) {
		return func(ctx context.Context) (string, error) {
			text, status, err := tools{}.Run(ctx, nil, nil, program, args...)
			if err == nil && status != 0 {
				err = fmt.Errorf("%s ends with status %d", program, status)
			}
			return text, err
		}
	}
	checks, err := check.Select(guest.All(guest.Env{
		Root: os.DirFS("/"), Ready: ready,
		Ruleset: output("/usr/sbin/nft", "-j", "list", "ruleset"),
		Audit:   output("/usr/sbin/auditctl", "-s"),
	}), names)
	if err != nil {
		return fault.New(fault.Usage, err)
	}
	report := check.Run(ctx, check.Guest, checks)
	if err := show(report, os.Stdout); err != nil {
		return err
	}
	if report.Failed() {
		return fault.Newf(fault.Damaged, "not every check has passed")
	}
	return nil
}

func asJSON(r check.Report, w io.Writer) error { return json.NewEncoder(w).Encode(r) }

// checked has the checks run and returns their report.
func checked(ctx context.Context) (json.RawMessage, error) {
	_, status, err := tools{}.Run(ctx, nil, nil, "/usr/bin/systemctl", "start", checkUnit)
	if err == nil && status != 0 {
		err = fmt.Errorf("systemctl ends with status %d", status)
	}
	if err != nil {
		return nil, fault.Newf(fault.Machine, "starting %s: %w", checkUnit, err)
	}
	text, err := os.ReadFile(checkOutput)
	if err == nil && !json.Valid(text) {
		err = fmt.Errorf("%s holds no report", checkOutput)
	}
	if err != nil {
		return nil, fault.New(fault.Machine, err)
	}
	return text, nil
}
