package main

import (
	"errors"
	"fmt"

	"cc-base/installer/choose"
	"cc-base/installer/target"
	"cc-base/tasks/fault"
	"cc-base/tasks/hw"
)

// installUsage is shown with the list of devices where none is named. The
// users of install.sh see it, too.
const installUsage = `usage: ./install.sh DEVICE [--name NAME] [--yes] [--dry-run] [--recipient KEY.asc]
                    [--image-key FILE] [--allow-plain] [--allow-downgrade] [--allow-debug]
       AUTO_SELECT=true ./install.sh …   chooses the best free disk and has its name typed
       PREFER_NVME=true, PREFER_SSD=true   the same, with that class first
       DEBUG=true                          shows every device with every rule
`

// preference reads the environment.
func (a *app) preference() (choose.Preference, error) {
	p, err := choose.FromEnv(a.getenv)
	if err != nil {
		return p, fault.New(fault.Usage, err)
	}
	return p, nil
}

// noDevice answers a command that names no device and asks for no choice.
func (a *app) noDevice(p choose.Preference, o options) error {
	listed := a.listDevices(o)
	if devices, err := hw.Devices(a.root); err == nil && p.Debug {
		a.showSelection(choose.Among(devices, a.need(o), p))
	}
	fmt.Fprint(a.err, installUsage)
	return fault.New(fault.Usage, errors.Join(errors.New("no device named; nothing was written"), listed))
}

// target finds the device that is named, or chooses one and says why.
func (a *app) target(named []string, need hw.Need, p choose.Preference, o options) (target.Target, []string, error) {
	if len(named) == 1 {
		t, err := target.Find(a.root, named[0])
		if err == nil && p.Debug {
			a.showCandidate(choose.Candidate{Device: t.Device, Verdicts: t.Judge(need)})
		}
		return t, nil, err
	}
	devices, err := hw.Devices(a.root)
	if err != nil {
		return target.Target{}, nil, fault.New(fault.DeviceRefused, err)
	}
	c := choose.Among(devices, need, p)
	if p.Debug {
		a.showSelection(c)
	}
	for _, r := range c.Reasons {
		a.say("%s", r)
	}
	if !o.yes && !o.dryRun && !a.asks {
		return target.Target{}, nil, fault.Newf(fault.Usage, "a disk is to be chosen and there is no terminal to confirm it; nothing was written").
			Hint("--yes takes the choice; `cc-install plan` shows it")
	}
	if !c.Free {
		return target.Target{}, nil, noneFree(c)
	}
	t, err := target.Find(a.root, c.Device.Path)
	if err == nil && t.Device.Number != c.Device.Number {
		err = fault.Newf(fault.DeviceRefused, "%s is the device %s, not the chosen %s", c.Device.Path, t.Device.Number, c.Device.Number)
	}
	return t, c.Reasons, err
}

// noneFree tells of every disk what stands against it; partitions follow their
// disks.
func noneFree(c choose.Choice) error {
	errs := []error{errors.New("no free disk to choose")}
	for _, d := range c.Candidates {
		if d.Kind != hw.Partition && d.Kind != hw.Memory && d.Size > 0 {
			errs = append(errs, fmt.Errorf("%s: %s", d.Path, sentence(hw.Refused(d.Verdicts))))
		}
	}
	return fault.New(fault.DeviceRefused, errors.Join(errs...))
}

func (a *app) showSelection(c choose.Choice) {
	for _, d := range c.Candidates {
		a.showCandidate(d)
	}
}

func (a *app) showCandidate(d choose.Candidate) {
	verdict := "refused"
	if d.Free() {
		verdict = "accepted"
	}
	a.say("%s %s %s %s: %s", d.Path, d.Class, d.Kind, human(d.Size), verdict)
	for _, line := range ruleLines(d.Verdicts) {
		a.say("  %s", line)
	}
}

// ruleLines shows every rule. One that found something and does not refuse has
// yielded to the name that was given.
func ruleLines(verdicts []hw.Verdict) []string {
	var lines []string
	for _, v := range verdicts {
		switch {
		case v.Refused:
			lines = append(lines, fmt.Sprintf("refused  %-13s %s", v.Rule, v.Detail))
		case v.Detail != "":
			lines = append(lines, fmt.Sprintf("named    %-13s %s", v.Rule, v.Detail))
		default:
			lines = append(lines, fmt.Sprintf("ok       %s", v.Rule))
		}
	}
	return lines
}
