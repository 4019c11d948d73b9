package machine

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/domain"
	"cc-base/tasks/fault"
)

// Phase is how far a machine has come.
type Phase string

// The phases, in order.
const (
	Defining Phase = "defining" // being made; what is recorded may be there or not
	Defined  Phase = "defined"  // all of it is there
	Started  Phase = "started"  // the first boot has begun, and did not end well yet
	Ready    Phase = "ready"    // the guest was ready, and the enrolment secret is withdrawn
)

// State is what is recorded of a machine, in state.json.
type State struct {
	Version int        `json:"version"` // stateVersion
	Phase   Phase      `json:"phase"`
	Now     Definition `json:"now"`
	// Former is the definition before the last Apply.
	Former *Definition `json:"former,omitempty"`
	Made   []Made      `json:"made"` // in the order in which it was made
}

// Definition is a rendered machine.
type Definition struct {
	Spec         domain.Spec `json:"spec"`
	XML          string      `json:"xml"`
	LaunchDigest string      `json:"launch_digest,omitempty"` // hexadecimal; SEV-SNP
	Filters      []Resource  `json:"filters,omitempty"`
}

func define(p Plan) Definition {
	return Definition{Spec: p.Spec, XML: p.XML, LaunchDigest: hex.EncodeToString(p.Digest), Filters: p.Filters}
}

// Kind says what was made.
type Kind string

// The kinds of things that a machine needs on its host.
const (
	Folder  Kind = "folder"
	Console Kind = "console" // the file that libvirt writes it to
	Setting Kind = "file"
	Filter  Kind = "filter"
	Network Kind = "network"
	Domain  Kind = "domain"
)

// Made is a thing that was made, or was about to be.
type Made struct {
	Kind Kind   `json:"kind"`
	Name string `json:"name"` // or path
	UUID string `json:"uuid,omitempty"`

	// Of a file: what was written, and what was there before.
	SHA256 string      `json:"sha256,omitempty"`
	Before []byte      `json:"before,omitempty"`
	Mode   fs.FileMode `json:"mode,omitempty"` // of what was there before; zero when nothing was
}

const (
	stateVersion = 1
	stateFile    = "state.json"
)

func (h Host) root() string {
	if h.Root == "" {
		return DefaultRoot
	}
	return h.Root
}

func (h Host) dir(name string) string { return filepath.Join(h.root(), name) }

// State returns what is recorded of the machine; a failure with the code
// fault.NoVM when there is none of that name.
func (h Host) State(name string) (State, error) {
	s, err := h.read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return State{}, fault.Newf(fault.NoVM, "%s: no such machine was made here", name).Hint("those that were have a folder in %s", h.root())
	}
	return s, err
}

func (h Host) read(name string) (State, error) {
	if !filepath.IsLocal(name) || filepath.Base(name) != name {
		return State{}, fault.Newf(fault.Usage, "%q is no name of a machine", name)
	}
	file := filepath.Join(h.dir(name), stateFile)
	data, err := os.ReadFile(file)
	if err != nil {
		return State{}, err
	}
	var s State
	if err := json.Unmarshal(data, &s); err != nil {
		return State{}, fault.New(fault.VMState, fmt.Errorf("%s: %w", file, err))
	}
	if s.Version != stateVersion || s.Now.Spec.Name != name {
		return State{}, fault.Newf(fault.VMState, "%s: version %d of %q, want version %d of %q", file, s.Version, s.Now.Spec.Name, stateVersion, name)
	}
	return s, nil
}

// makeDir makes the machine's folder. Others may pass through it and not look
// around: QEMU's user must reach the EFI variables and the kernel, if they lie
// in it. What is secret in it is closed by its own mode.
func (h Host) makeDir(name string) error {
	if err := os.MkdirAll(h.dir(name), 0o711); err != nil {
		return err
	}
	return os.Chmod(h.dir(name), 0o711)
}

func (h Host) write(s State) error {
	if err := h.makeDir(s.Now.Spec.Name); err != nil {
		return err
	}
	s.Version = stateVersion
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(h.dir(s.Now.Spec.Name), stateFile), 0o600, append(data, '\n'))
}

// names returns the names of all machines that were made here.
func (h Host) names() ([]string, error) {
	files, err := filepath.Glob(filepath.Join(h.root(), "*", stateFile))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range files {
		names = append(names, filepath.Base(filepath.Dir(f)))
	}
	slices.Sort(names)
	return names, nil
}

// VMXML returns the machine's domain as it was rendered last.
func (h Host) VMXML(name string) (string, error) {
	s, err := h.State(name)
	return s.Now.XML, err
}
