// Package keystate hands what the initrd found out about the keys to the
// running system, in a file in memory. It holds no secret.
package keystate

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	// Dir is in memory and survives the switch to the root file system.
	Dir = "/run/cc/keys"
	// Headers holds the headers' copies that were judged.
	Headers = Dir + "/header"

	file = "state.json"
)

// How a volume was opened.
const (
	ByMachine   = "machine"   // by the key profile's own source
	ByEnrolment = "enrolment" // by the secret of the installation, at the first boot
	ByRecovery  = "recovery"  // by the key typed at the console
	Made        = "made"      // it was formatted at this boot
	Unencrypted = "none"
)

// State is the file.
type State struct {
	Profile   string   `json:"profile"`
	Volumes   []Volume `json:"volumes"`
	Integrity bool     `json:"integrity"` // cc-dynamic keeps an authentication code for every sector
	// Instance is what the operator knows the machine by, in profile attested.
	Instance string `json:"instance,omitempty"`
}

// Volume is one volume.
type Volume struct {
	Label  string `json:"label"`
	Node   string `json:"node"` // /dev/…, of the partition
	Opened string `json:"opened"`
	Slot   string `json:"slot,omitempty"`
	Epoch  int    `json:"epoch,omitempty"`
}

// Write keeps s.
func Write(dir string, s State) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, file), append(data, '\n'), 0o600)
}

// Read returns what Write kept.
func Read(dir string) (State, error) {
	var s State
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(data, &s)
}

// Lines are what the console says of the keys: how each volume was opened, and
// the row of the threat table that applies (docs/design.md).
func (s State) Lines() []string {
	var how []string
	for _, v := range s.Volumes {
		how = append(how, v.Label+" "+v.Opened)
	}
	return []string{
		"cc-base: keys: profile " + s.Profile + ": " + strings.Join(how, ", "),
		"cc-base: protects: " + s.threat(),
	}
}

func (s State) threat() string {
	encrypted := func(v Volume) bool { return v.Opened != Unencrypted }
	if !slices.ContainsFunc(s.Volumes, encrypted) {
		return "nothing is encrypted"
	}
	switch s.Profile {
	case "snp":
		return "a lost disk and, for cc-dynamic, against the host; not against playing back an old disk"
	case "attested":
		return "a lost disk and, for cc-dynamic, against the host; the operator sees every start"
	}
	return "a lost disk whose TPM state is elsewhere; not against the host, which owns the TPM"
}
