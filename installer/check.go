package main

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"

	"cc-base/installer/unpacked"
	"cc-base/tasks/facts"
	"cc-base/tasks/fault"
	"cc-base/validation"
	"cc-base/validation/check"
	guestchecks "cc-base/validation/guest"
)

// check runs the checks of the named areas, or all of them. With --live the
// guest that runs is asked as well; a dry run says what it would be asked. No
// check changes anything.
func (a *app) check(ctx context.Context, areas []string, o options) error {
	formats := 0
	for _, asked := range []bool{o.json, o.tap, o.junit} {
		if asked {
			formats++
		}
	}
	if formats > 1 {
		return fault.Newf(fault.Usage, "--json, --tap and --junit are several formats")
	}
	env := &validation.Env{Root: a.root, Dir: o.dir}
	defer env.Close()
	all := validation.All(env)
	if len(areas) > 0 {
		// Without a name the installer is checked, and whether a disk takes it; the
		// host is the doctor's.
		all = append(all, hostChecks(func(ctx context.Context) facts.Facts { return facts.Gather(ctx, a.world()) }, imageOptions(o.dir))...)
	}
	if o.live != "" {
		all = append(append(all, guestchecks.All(guestchecks.Env{})...), liveChecks(nil, o)...)
	}
	checks, err := check.Select(all, areas)
	if err != nil {
		return fault.New(fault.Usage, err)
	}
	var host, inside []check.Check
	for _, c := range checks {
		if in(c, check.Guest) || in(c, check.VM) {
			inside = append(inside, c)
		} else {
			host = append(host, c)
		}
	}
	report := check.Run(ctx, check.Host, host)
	switch {
	case len(inside) == 0:
	case o.dryRun:
		report = check.Join(report, unasked(ctx, inside, o.live))
	default:
		live, err := a.checkLive(ctx, inside, o)
		if err != nil {
			return err
		}
		report = check.Join(report, live)
	}
	if err := a.writeReceipts(ctx, checks, report, o); err != nil {
		return err
	}
	switch {
	case o.json:
		err = a.writeJSON(report)
	case o.tap:
		err = report.TAP(a.out)
	case o.junit:
		err = report.JUnit(a.out)
	default:
		err = report.Text(a.out)
	}
	if err == nil && report.Failed() {
		return told(fault.Damaged)
	}
	return err
}

func (a *app) explain(codes []string) error {
	if len(codes) == 0 {
		for _, m := range fault.Meanings() {
			fmt.Fprintf(a.out, "%s  %s\n", m.Code, m.Title)
		}
		return nil
	}
	code := fault.Code(strings.ToUpper(codes[0]))
	for _, m := range fault.Meanings() {
		if m.Code == code {
			fmt.Fprintf(a.out, "%s: %s (exit status %d)\nwhen: %s\ndo:   %s\n", m.Code, m.Title, m.Exit, m.Cause, m.Cure)
			return nil
		}
	}
	return fault.Newf(fault.Usage, "no such code: %s", code).Hint("cc-install explain lists them all")
}

// version tells program and image apart: the image may be missing, the program
// is here.
func (a *app) version(o options) error {
	program := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		program = info.Main.Version + " " + info.GoVersion
	}
	fmt.Fprintf(a.out, "cc-install %s\n", program)
	folder, err := unpacked.Open(o.dir)
	if err != nil {
		fmt.Fprintln(a.out, "image      none beside this program")
		return nil
	}
	m, err := folder.Manifest()
	if err = errors.Join(err, folder.Close()); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "image      %s %s %s, profile %s, kernel %s, disk %s\n", m.Name, m.Distribution, m.Suite, m.Profile, m.Kernel, m.Disk.GUID)
	return nil
}
