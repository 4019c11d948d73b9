package domain

import (
	"path/filepath"

	"cc-base/tasks/fault"
)

// runDir holds a folder for each guest, with the sockets of its ports.
const runDir = "/run/cc-base"

// ControlSocketOf returns where the guest of that name has the socket of its
// [ControlPort], by which programs on the host find it.
func ControlSocketOf(name string) (string, error) { return socketOf(name, "control.sock") }

// ReleaseSocketOf is [ControlSocketOf] for [ReleasePort].
func ReleaseSocketOf(name string) (string, error) { return socketOf(name, "release.sock") }

func socketOf(name, file string) (string, error) {
	if !namePattern.MatchString(name) {
		return "", fault.Newf(fault.Usage, "%q is no name of a virtual machine: 1 to 63 letters, digits, dots, dashes and underscores", name)
	}
	return filepath.Join(runDir, name, file), nil
}
