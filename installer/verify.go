package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"cc-base/installer/target"
	"cc-base/installer/write"
	"cc-base/tasks/fault"
	"cc-base/tasks/hw"
	"cc-base/tasks/layout"
)

// The states of a disk.
const (
	stateInstalled = "installed" // this installer's image, complete
	stateDamaged   = "damaged"   // this installer's image, with differences
	stateOther     = "other"     // another build of cc-base
	stateNone      = "none"      // no cc-base
)

// verdict is what verify --json writes.
type verdict struct {
	Device   string       `json:"device"`
	State    string       `json:"state"`
	Findings []string     `json:"findings"`           // differences
	Verified []string     `json:"verified"`           // partitions whose content is as built
	Accepted *bool        `json:"accepted,omitempty"` // as a target, for a disk without cc-base
	Refused  []hw.Refusal `json:"refused,omitempty"`
	Rules    []hw.Verdict `json:"rules,omitempty"` // all of them, for a disk without cc-base
}

// verify compares a disk with the installer. The disk is opened for reading
// and shared, so a running machine may be verified; cc-dynamic belongs to the
// guest and is not looked at.
func (a *app) verify(ctx context.Context, path string, o options) error {
	src, err := a.open(ctx, o) // first: a damaged installer says nothing about a device
	if err != nil {
		return err
	}
	defer src.Close()
	t, err := target.Find(a.root, path)
	if err != nil {
		return err
	}
	v, err := examine(ctx, src, t)
	if err != nil {
		return err
	}
	if v.State == stateNone {
		need := needs(src.manifest.Disk)
		need.Named, need.Files = true, o.allowAnyFile
		v.Rules = t.Judge(need)
		v.Refused = hw.Refused(v.Rules)
		accepted := len(v.Refused) == 0
		v.Accepted = &accepted
	}
	if o.json {
		if err := a.writeJSON(v); err != nil {
			return err
		}
	} else {
		a.showVerdict(v)
	}
	switch {
	case v.State == stateInstalled || v.State == stateNone && *v.Accepted:
		return nil
	case v.State == stateNone:
		return refusal(path, v.Refused)
	}
	return fault.Newf(fault.InstallVerify, "%s does not hold this installation: %s", path, strings.Join(v.Findings, "; "))
}

func examine(ctx context.Context, src *source, t target.Target) (verdict, error) {
	v := verdict{Device: t.Path, State: stateNone, Findings: []string{}, Verified: []string{}}
	disk, err := t.OpenRead()
	if err != nil {
		return v, err
	}
	defer disk.Close()
	table, err := layout.Read(disk, t.Size)
	var unreadable *fs.PathError
	if errors.As(err, &unreadable) {
		return v, fault.New(fault.InstallVerify, err)
	}
	if err != nil {
		// Without a table that can be read nothing on the disk is ours: the
		// installer writes it last.
		v.Findings = append(v.Findings, err.Error())
		return v, nil
	}
	if table.GUID != src.table.GUID {
		if looksLikeOurs(table, src.table) {
			v.State = stateOther
			v.Findings = append(v.Findings, fmt.Sprintf("it is another build of cc-base (disk %s)", table.GUID))
		}
		return v, nil
	}
	want, err := layout.Final(src.table, t.Size)
	if err != nil {
		v.State = stateDamaged
		v.Findings = append(v.Findings, err.Error())
		return v, nil
	}
	v.Findings = append(v.Findings, table.Compare(want)...)
	for _, p := range src.manifest.Disk.Partitions {
		if p.ContentSize == 0 {
			continue
		}
		err := write.Content(ctx, disk, p)
		switch {
		case ctx.Err() != nil:
			return v, fault.New(fault.InstallVerify, ctx.Err())
		case err != nil:
			v.Findings = append(v.Findings, p.Label+": "+err.Error())
		default:
			v.Verified = append(v.Verified, p.Label)
		}
	}
	v.State = stateInstalled
	if len(v.Findings) > 0 {
		v.State = stateDamaged
	}
	return v, nil
}

// looksLikeOurs compares labels: GUIDs differ from build to build.
func looksLikeOurs(a, b layout.Table) bool {
	if len(a.Entries) != len(b.Entries) {
		return false
	}
	for i := range a.Entries {
		if a.Entries[i].Label != b.Entries[i].Label {
			return false
		}
	}
	return true
}

func (a *app) showVerdict(v verdict) {
	switch v.State {
	case stateInstalled:
		fmt.Fprintf(a.out, "%s: installed and unchanged: partition table, %s\n", v.Device, strings.Join(v.Verified, ", "))
	case stateNone:
		fmt.Fprintf(a.out, "%s: no cc-base on it\n", v.Device)
		verdict := "refused"
		if *v.Accepted {
			verdict = "accepted"
		}
		fmt.Fprintf(a.out, "%s: it would be %s as a target:\n", v.Device, verdict)
		for _, line := range ruleLines(v.Rules) {
			fmt.Fprintf(a.out, "  %s\n", line)
		}
	default:
		fmt.Fprintf(a.out, "%s: %s\n", v.Device, v.State)
		for _, f := range v.Findings {
			fmt.Fprintf(a.out, "  %s\n", f)
		}
	}
}
