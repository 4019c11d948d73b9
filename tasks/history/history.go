// Package history remembers what the stages of former builds cost, so that the
// next build can be told ahead what it will cost.
//
// One small JSON file holds the last [Keep] runs of each stage and profile. What
// it says is a guess about the future and never an input of a build: a file that
// is missing or damaged is an empty one.
package history

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"cc-base/tasks/atomicfile"
)

// Keep is how many runs of each stage and profile are kept: enough for one slow
// run to change no median, few enough for a faster machine to show soon.
const Keep = 9

// Run is one finished run of a stage; a result from the cache is none.
type Run struct {
	Stage   string  `json:"stage"`
	Profile string  `json:"profile"` // of the configuration; empty is the default one
	Seconds float64 `json:"seconds"`
	Bytes   int64   `json:"bytes"` // of the files that it made
}

// Expectation is what the next run should cost, by the median.
type Expectation struct {
	Runs    int     // that it is made from; 0 means that nothing is known
	Seconds float64 // 0 when nothing is known
	Bytes   int64
}

// History is the runs, oldest first.
type History struct{ runs []Run }

// Load reads the file. One that cannot be read is empty.
func Load(file string) History {
	var h History
	data, err := os.ReadFile(file)
	if err != nil || json.Unmarshal(data, &h.runs) != nil {
		return History{}
	}
	return h
}

// Expect returns the medians of the stage's runs in the profile; where there is
// none, those of its runs in any other.
func (h History) Expect(stage, profile string) Expectation {
	var here, anywhere []Run
	for _, r := range h.runs {
		if r.Stage != stage {
			continue
		}
		anywhere = append(anywhere, r)
		if r.Profile == profile {
			here = append(here, r)
		}
	}
	if len(here) > 0 {
		return expect(here)
	}
	return expect(anywhere)
}

func expect(runs []Run) Expectation {
	e := Expectation{Runs: len(runs)}
	if e.Runs == 0 {
		return e
	}
	var seconds, bytes []float64
	for _, r := range runs {
		seconds, bytes = append(seconds, r.Seconds), append(bytes, float64(r.Bytes))
	}
	e.Seconds, e.Bytes = median(seconds), int64(median(bytes))
	return e
}

// median returns the middle value, or the mean of the two in the middle.
func median(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

// Add appends the run to the file and drops what is older than [Keep] runs of
// the same stage and profile. Builds that share the file wait for each other.
func Add(file string, r Run) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(file+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	runs := append(Load(file).runs, r)
	seen := 0
	for i := len(runs) - 1; i >= 0; i-- {
		if runs[i].Stage != r.Stage || runs[i].Profile != r.Profile {
			continue
		}
		if seen++; seen > Keep {
			runs = slices.Delete(runs, i, i+1)
		}
	}
	data, err := json.MarshalIndent(runs, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(file, 0o644, append(data, '\n'))
}
