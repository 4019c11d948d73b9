package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"cc-base/installer/deployment"
	"cc-base/installer/target"
	"cc-base/installer/write"
	"cc-base/tasks/digest"
	"cc-base/tasks/fault"
	"cc-base/tasks/hw"
	"cc-base/tasks/layout"
	"cc-base/tasks/manifest"
	"cc-base/tasks/seal"
	"cc-base/tasks/seal/header"
)

// The states of a disk.
const (
	stateInstalled  = "installed"  // this installer's image, complete
	stateUnfinished = "unfinished" // an installation that was interrupted
	stateDamaged    = "damaged"    // this installer's image, with differences
	stateOther      = "other"      // another build of cc-base
	stateNone       = "none"       // no cc-base
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
	v, err := examine(ctx, src, t, o)
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

// record finds what this host remembers of the disk; nothing for a disk that was
// written elsewhere, or by other means than this program.
func record(src *source, t target.Target, o options) (*deployment.Record, error) {
	all, err := deployment.All(o.state)
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		here := r.Number == t.Device.Number
		if t.File {
			here = samePath(r.Device, t.Path)
		}
		if here && r.Size == t.Size && r.Disk == src.manifest.Disk.GUID {
			return &r, nil
		}
	}
	return nil, nil
}

// samePath compares paths that may be relative or links.
func samePath(a, b string) bool {
	one, err := os.Stat(a)
	if err != nil {
		return false
	}
	other, err := os.Stat(b)
	return err == nil && os.SameFile(one, other)
}

func examine(ctx context.Context, src *source, t target.Target, o options) (verdict, error) {
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
	known, err := record(src, t, o)
	if err != nil {
		return v, err
	}
	if known != nil && known.State != deployment.Written {
		v.State = stateUnfinished
		v.Findings = append(v.Findings, fmt.Sprintf("the installation of %s on it was not finished", known.Name))
		return v, nil
	}
	for _, p := range src.manifest.Disk.Partitions {
		if p.ContentSize == 0 {
			continue
		}
		err := compare(ctx, disk, p, known)
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

// compare compares a partition with what was written to it, or without a record
// with the image. The header of an encrypted one is the guest's to change: it
// must be one that the guest accepts, of the same volume.
func compare(ctx context.Context, disk io.ReaderAt, p manifest.Partition, known *deployment.Record) error {
	i := -1
	if known != nil {
		i = slices.IndexFunc(known.Partitions, func(k deployment.Partition) bool { return k.Label == p.Label })
	}
	if i < 0 {
		err := write.Content(ctx, disk, p)
		if err != nil && p.Encrypted && known == nil {
			err = fmt.Errorf("%w; this host has no record of an installation on this disk, and a volume with keys of its own cannot be compared without", err)
		}
		return err
	}
	k := known.Partitions[i]
	if k.Start != p.Start || k.Size != p.ContentSize {
		return fmt.Errorf("the record of %s has it at another place", known.Name)
	}
	if k.Header > 0 {
		h, err := header.Read(io.NewSectionReader(disk, p.Start, k.Header))
		if err == nil {
			err = h.Check(header.Rules{Cipher: "aes-xts-plain64", SectorSize: seal.SectorSize, HeaderSize: k.Header, DeviceSize: p.Size})
		}
		if err != nil {
			return err
		}
		if h.UUID() != k.UUID {
			return fmt.Errorf("it is the volume %s, %s was written", h.UUID(), k.UUID)
		}
	}
	got, err := digest.Reader(ctx, io.NewSectionReader(disk, p.Start+k.Header, k.Size-k.Header))
	if err == nil && got != k.SHA256 {
		err = fmt.Errorf("its content has sha256 %s, %s was written", got, k.SHA256)
	}
	return err
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
