package pcr

import (
	"bytes"
	"fmt"
	"slices"
)

// Difference is the first measurement of a PCR that is not the predicted one.
type Difference struct {
	PCR      int    `json:"pcr"`
	Event    int    `json:"event"`              // counted within the PCR, from 1
	Expected *Event `json:"expected,omitempty"` // nil: nothing more was expected
	Actual   *Event `json:"actual,omitempty"`   // nil: the machine measured nothing more
	Text     string `json:"text"`
}

// Diff compares a prediction with what a machine has logged, measurement by
// measurement in the bank, for the predicted PCRs, and returns the first
// difference of each. The log's events are compared, not its PCRs: that the log
// is the true one shows only Replay against the TPM's PCRs.
func Diff(predicted, actual Log, bank Bank) []Difference {
	var found []Difference
	for _, pcr := range predicted.PCRs {
		want, got := predicted.Of(pcr), withoutNotes(actual.Of(pcr))
		n := 0
		for n < len(want) && n < len(got) && same(want[n], got[n], bank) {
			n++
		}
		d := Difference{PCR: pcr, Event: n + 1}
		switch {
		case n == len(want) && n == len(got):
			continue
		case n == len(want):
			d.Actual = &got[n]
			d.Text = fmt.Sprintf("nothing more was expected, but the machine measured %s", got[n].in(bank))
		case n == len(got):
			d.Expected = &want[n]
			d.Text = fmt.Sprintf("%s was expected, but the machine measured nothing more", want[n].in(bank))
		default:
			d.Expected, d.Actual = &want[n], &got[n]
			d.Text = fmt.Sprintf("%s was expected, but the machine measured %s", want[n].in(bank), got[n].in(bank))
			isWanted := func(e Event) bool { return same(want[n], e, bank) }
			isGot := func(e Event) bool { return same(e, got[n], bank) }
			switch {
			case slices.ContainsFunc(got[n+1:], isWanted):
				d.Text += "; the expected one came later"
			case slices.ContainsFunc(want[n+1:], isGot):
				d.Text += "; that was expected only later"
			}
		}
		d.Text = fmt.Sprintf("PCR %d, event %d: %s", pcr, d.Event, d.Text)
		found = append(found, d)
	}
	return found
}

// withoutNotes leaves out the events that extend nothing.
func withoutNotes(events []Event) []Event {
	return slices.DeleteFunc(events, func(e Event) bool { return e.Type == NoAction })
}

func same(a, b Event, bank Bank) bool {
	return len(a.Digests[bank]) > 0 && bytes.Equal(a.Digests[bank], b.Digests[bank])
}

// in returns the event as a difference shows it, with the first digits of its
// digest.
func (e Event) in(bank Bank) string {
	return fmt.Sprintf("%s %q (%x...)", e.Type, e.What, head(e.Digests[bank], 4))
}
