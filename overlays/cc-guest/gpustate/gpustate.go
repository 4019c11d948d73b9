// Package gpustate is what a guest says of its GPU: whether one is there, and
// how far it may be trusted with secrets. cc-guest writes it at boot; the
// console, the checks of the guest and workloads read it.
package gpustate

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"cc-base/tasks/atomicfile"
)

const (
	// Path is where the state lies, in memory.
	Path = "/run/cc/gpu.json"
	// ReadyPath is there exactly when the state is Ready: what a unit that
	// needs the GPU names as its ConditionPathExists.
	ReadyPath = "/run/cc/gpu-ready"
)

// State is how far the boot came with the GPU.
type State string

// The states. Only Ready takes work, and only it was set by the guest in the GPU.
const (
	None       State = "none"       // the machine has no GPU
	NoDriver   State = "no-driver"  // the image was built without a driver
	Failed     State = "failed"     // the driver or its tools did not work
	Loaded     State = "loaded"     // the driver is loaded and nothing is known of the GPU yet
	Off        State = "cc-off"     // confidential computing is off
	Devtools   State = "devtools"   // open to debuggers
	Unattested State = "unattested" // confidential, and nobody has checked its evidence
	Refused    State = "refused"    // its evidence was checked and is not good
	Ready      State = "ready"      // attested, and takes work
)

// Report is the state of all GPUs of the machine.
type Report struct {
	State  State    `json:"state"`
	GPUs   []string `json:"gpus,omitempty"`   // model and PCI address
	Detail string   `json:"detail,omitempty"` // what a tool said, one line
}

// text is what people are told of a state.
func (s State) text() string {
	switch s {
	case None:
		return "no GPU"
	case NoDriver:
		return "no driver in this image"
	case Failed:
		return "the driver does not work"
	case Loaded:
		return "the driver is loaded"
	case Off:
		return "confidential computing is off: the host can read what it computes"
	case Devtools:
		return "DEVTOOLS MODE: it is open to debuggers and passes no attestation"
	case Unattested:
		return "not attested: nothing in this image checks its evidence"
	case Refused:
		return "its evidence is not good: it gets no work"
	case Ready:
		return "attested and ready"
	}
	return "unknown state " + string(s)
}

// String is the report in one line without an end.
func (r Report) String() string {
	line := r.State.text()
	if len(r.GPUs) > 0 {
		line = strings.Join(r.GPUs, ", ") + ": " + line
	}
	if r.Detail != "" {
		line += ": " + r.Detail
	}
	return line
}

// Line is what the console says.
func (r Report) Line() string { return "cc-base: GPU: " + r.String() }

// Write keeps the report at Path below root and makes ReadyPath agree with it.
func Write(root string, r Report) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	file, ready := path.Join(root, Path), path.Join(root, ReadyPath)
	if err := os.MkdirAll(path.Dir(file), 0o755); err != nil {
		return err
	}
	// Never there with another state, not even for a moment.
	if err := atomicfile.Remove(ready); err != nil {
		return err
	}
	if err := atomicfile.Write(file, 0o644, append(data, '\n')); err != nil {
		return err
	}
	if r.State != Ready {
		return nil
	}
	return atomicfile.Write(ready, 0o644, nil)
}

// Read returns what Write kept; root is the root folder.
func Read(root fs.FS) (Report, error) {
	var r Report
	data, err := fs.ReadFile(root, Path[1:])
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("%s: %w", Path, err)
	}
	return r, nil
}
