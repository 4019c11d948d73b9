// Package choose picks the disk to install to where the user named none.
//
// The order compares one field after the other and never adds points up: the
// classes that the user prefers, then NVMe before SSD before HDD, then the
// larger disk, then the name. Only disks that no rule of [hw.Judge] refuses
// are in it.
package choose

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cc-base/tasks/hw"
)

// The environment variables, as users of installers for these machines know
// them.
const (
	AutoSelect = "AUTO_SELECT" // choose a disk
	PreferNVMe = "PREFER_NVME" // and an NVMe one, if one is free
	PreferSSD  = "PREFER_SSD"  // and an SSD, if one is free; with the other, after NVMe
	Debug      = "DEBUG"       // show every device with every rule
)

// Preference is what the user asked for.
type Preference struct {
	Auto  bool       // choose a disk if none is named
	First []hw.Class // classes that go before all others, in this order
	Debug bool       // show the selection
}

// FromEnv reads the variables: true or 1, false or 0; empty is false. All that
// is wrong is told at once.
func FromEnv(getenv func(string) string) (Preference, error) {
	var problems []error
	is := map[string]bool{}
	for _, name := range []string{AutoSelect, PreferNVMe, PreferSSD, Debug} {
		switch value := getenv(name); value {
		case "true", "1":
			is[name] = true
		case "false", "0", "":
		default:
			problems = append(problems, fmt.Errorf("%s is %q; it may be true, false, 1 or 0", name, value))
		}
	}
	p := Preference{Debug: is[Debug], Auto: is[AutoSelect] || is[PreferNVMe] || is[PreferSSD]}
	if is[PreferNVMe] {
		p.First = append(p.First, hw.NVMe)
	}
	if is[PreferSSD] {
		p.First = append(p.First, hw.SSD)
	}
	if getenv(AutoSelect) != "" && !is[AutoSelect] && len(p.First) > 0 {
		problems = append(problems, fmt.Errorf("%s is %s, which contradicts %s", AutoSelect, getenv(AutoSelect), strings.Join(p.names(), " and ")))
	}
	return p, errors.Join(problems...)
}

// names returns the variables behind First.
func (p Preference) names() []string {
	var out []string
	for _, c := range p.First {
		out = append(out, variable(c))
	}
	return out
}

func variable(c hw.Class) string {
	if c == hw.NVMe {
		return PreferNVMe
	}
	return PreferSSD
}

// rank of a class: its place among the preferred ones, then all others alike.
func (p Preference) rank(c hw.Class) int {
	if i := slices.Index(p.First, c); i >= 0 {
		return i
	}
	return len(p.First)
}

// Candidate is a device with what every rule says of it.
type Candidate struct {
	hw.Device
	Verdicts []hw.Verdict
}

// Free reports whether no rule refuses it.
func (c Candidate) Free() bool { return len(hw.Refused(c.Verdicts)) == 0 }

// Choice is the outcome.
type Choice struct {
	Candidates []Candidate // every device, the best first, refused or not
	Free       bool        // whether there is one to be chosen
	Device     hw.Device   // the chosen one
	Reasons    []string    // why this one, in sentences
}

// Among chooses.
func Among(devices []hw.Device, need hw.Need, p Preference) Choice {
	var c Choice
	for _, d := range devices {
		c.Candidates = append(c.Candidates, Candidate{d, hw.Judge(d, need)})
	}
	slices.SortStableFunc(c.Candidates, func(a, b Candidate) int {
		return cmp.Or(cmp.Compare(p.rank(a.Class), p.rank(b.Class)), hw.ByPreference(a.Device, b.Device))
	})
	var free []hw.Device
	for _, d := range c.Candidates {
		if d.Free() {
			free = append(free, d.Device)
		}
	}
	if len(free) == 0 {
		return c
	}
	c.Free, c.Device = true, free[0]
	c.Reasons = append(p.passedOver(free[0].Class), p.why(free))
	if c.Device.Former(need.Labels) {
		c.Reasons = append(c.Reasons, c.Device.Path+" holds a former installation, whose data will be lost")
	}
	return c
}

// passedOver tells which wishes were not met.
func (p Preference) passedOver(chosen hw.Class) []string {
	var out []string
	for i, c := range p.First {
		if c == chosen {
			break
		}
		next := "the normal order decides: NVMe, SSD, HDD"
		if i+1 < len(p.First) {
			next = variable(p.First[i+1]) + " is next"
		}
		out = append(out, fmt.Sprintf("%s: no free %s disk is here; %s", variable(c), c, next))
	}
	return out
}

// why compares the chosen disk with the next best.
func (p Preference) why(free []hw.Device) string {
	best := free[0]
	if len(free) == 1 {
		return fmt.Sprintf("%s is the only free disk", best.Path)
	}
	next := free[1]
	switch {
	case p.rank(best.Class) != p.rank(next.Class):
		return fmt.Sprintf("%s: %s puts %s before %s (%s)", best.Path, variable(best.Class), best.Class, next.Class, next.Path)
	case best.Class != next.Class:
		return fmt.Sprintf("%s: %s goes before %s (%s)", best.Path, best.Class, next.Class, next.Path)
	case best.Size != next.Size:
		return fmt.Sprintf("%s is the largest free %s disk", best.Path, best.Class)
	}
	return fmt.Sprintf("%s comes first by name among the largest free %s disks", best.Path, best.Class)
}
