// Package deployment is what a host remembers of one installation: under
// /var/lib/cc-base/NAME, readable by root alone.
//
//	d, err := deployment.Open("/var/lib/cc-base", "cc-base")  // locked until Close
//	err = d.Save(deployment.Record{State: deployment.Started, …})
//	// … write the disk …
//	err = d.Save(deployment.Record{State: deployment.Written, …})
//
// The record is written before the disk and again after it was read back, so
// that what an interrupted installer left is never taken for an installation:
// it says "started" until every byte has been compared.
package deployment

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/fault"
	"cc-base/tasks/hw"
)

// Schema is the version of the record. A reader refuses any other.
const Schema = 1

// Root is the folder of all deployments on a host.
const Root = "/var/lib/cc-base"

// State is how far an installation has come.
type State string

// The states.
const (
	Started State = "started" // the disk may hold anything
	Written State = "written" // every byte of it was read back and compared
)

// The files of a deployment.
const (
	// Package machine has a lock of its own in the same folder.
	lockFile = "install.lock"

	// RecordFile holds the [Record].
	RecordFile = "install.json"
	// EnrolmentFile is the secret that opens the volumes until the guest has
	// bound them to its machine.
	EnrolmentFile = "enroll.key"
	// RecoveryFile is the recovery key of root and app, encrypted to people.
	RecoveryFile = "recovery.asc"
	scratchDir   = "scratch"

	maxRecord = 1 << 20
)

// Record describes one installation.
type Record struct {
	Schema int    `json:"schema"`
	Name   string `json:"name"`
	State  State  `json:"state"`

	Device string    `json:"device"` // as it was named
	Number hw.Number `json:"number"` // of the block device; zero for a file
	Size   int64     `json:"size"`   // bytes of the device

	Disk       string      `json:"disk"`             // GUID of the partition table
	Profile    string      `json:"profile"`          // of the image
	Epoch      int64       `json:"sourceDateEpoch"`  // of the image; a smaller one is older
	Manifest   string      `json:"manifest"`         // SHA-256 of its manifest
	Uplink     string      `json:"uplink,omitempty"` // network card of the host that the VM shares
	Dynamic    int64       `json:"dynamic"`          // where the guest's own volume begins, bytes
	Partitions []Partition `json:"partitions"`       // as they were written; none until then
	PCR5       string      `json:"pcr5,omitempty"`   // SHA-256 bank, of this disk's partition table
	RTMR1      string      `json:"rtmr1,omitempty"`  // of a TDX guest that boots this disk
}

// Partition is what was written to one partition.
type Partition struct {
	Label  string `json:"label"`
	Start  int64  `json:"start"`  // bytes from the start of the disk
	Size   int64  `json:"size"`   // bytes that were written
	SHA256 string `json:"sha256"` // of them, or with Header of those behind the header
	// Header is the size of a LUKS2 header, which the guest changes when it binds
	// the volume to its machine; 0 where there is none.
	Header int64 `json:"header,omitempty"`
	// UUID is of the LUKS2 volume.
	UUID string `json:"uuid,omitempty"`
}

// Deployment is an open and locked deployment.
type Deployment struct {
	Name string
	dir  string
	lock *os.File
}

var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// CheckName tells whether a deployment, and a domain, can have the name: 1 to 63
// letters, digits, dots, dashes and underscores.
func CheckName(name string) error {
	if !namePattern.MatchString(name) {
		return fault.Newf(fault.Usage, "the name %q is not 1 to 63 letters, digits, dots, dashes and underscores", name)
	}
	return nil
}

// Open makes the deployment's folder under root where there is none, and locks
// it. Another process that has it open is an error.
func Open(root, name string) (*Deployment, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	dir := filepath.Join(root, name)
	// Others may pass through: QEMU reads the firmware and the kernel here.
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fault.New(fault.Deployment, err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fault.New(fault.Deployment, err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, fault.Newf(fault.Deployment, "another installer works on %s", name).Hint("wait for it to end")
	}
	return &Deployment{Name: name, dir: dir, lock: lock}, nil
}

// Close unlocks the deployment.
func (d *Deployment) Close() error { return d.lock.Close() }

// Path returns a file of the deployment.
func (d *Deployment) Path(name string) string { return filepath.Join(d.dir, name) }

// Record returns what is known; found is false for a deployment that is new.
func (d *Deployment) Record() (r Record, found bool, err error) { return load(d.dir, d.Name) }

// Load returns the record of a deployment without locking it.
func Load(root, name string) (r Record, found bool, err error) {
	if err := CheckName(name); err != nil {
		return Record{}, false, err
	}
	return load(filepath.Join(root, name), name)
}

func load(dir, name string) (Record, bool, error) {
	path := filepath.Join(dir, RecordFile)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, false, nil
	}
	if err != nil {
		return Record{}, false, fault.New(fault.Deployment, err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return Record{}, false, fault.New(fault.Deployment, err)
	}
	var r Record
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	err = dec.Decode(&r)
	switch {
	case err != nil:
	case r.Schema != Schema:
		err = fmt.Errorf("schema %d, this program knows %d", r.Schema, Schema)
	case r.Name != name || r.State != Started && r.State != Written:
		err = fmt.Errorf("it is of %q in state %q", r.Name, r.State)
	}
	if err != nil {
		return Record{}, false, fault.Newf(fault.Deployment, "%s: %w", path, err)
	}
	return r, true, nil
}

// Save writes the record; it is on the disk when Save returns.
func (d *Deployment) Save(r Record) error {
	r.Schema, r.Name = Schema, d.Name
	if r.Partitions == nil {
		r.Partitions = []Partition{}
	}
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := atomicfile.Write(d.Path(RecordFile), 0o600, append(raw, '\n')); err != nil {
		return fault.New(fault.Deployment, err)
	}
	return nil
}

// Scratch returns an empty folder for the time of an installation, with what an
// interrupted one left removed. remove takes it away.
func (d *Deployment) Scratch() (dir string, remove func() error, err error) {
	dir = d.Path(scratchDir)
	remove = func() error { return os.RemoveAll(dir) }
	if err := remove(); err != nil {
		return "", nil, fault.New(fault.Deployment, err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", nil, fault.New(fault.Deployment, err)
	}
	return dir, remove, nil
}

// WriteSecret writes a file that only root may read, in place of an earlier one.
func (d *Deployment) WriteSecret(name string, data []byte) error {
	if err := atomicfile.Write(d.Path(name), 0o600, data); err != nil {
		return fault.New(fault.Deployment, err)
	}
	return nil
}

// Remove takes the deployment away, and with it its lock. The device is not
// touched.
func (d *Deployment) Remove() error {
	if err := os.RemoveAll(d.dir); err != nil {
		return fault.New(fault.Deployment, err)
	}
	return nil
}

// All returns the records of every deployment under root, by name. One that
// cannot be read is an error: what is not known cannot be kept out of the way.
func All(root string) ([]Record, error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.New(fault.Deployment, err)
	}
	var all []Record
	for _, e := range entries {
		if !e.IsDir() || !namePattern.MatchString(e.Name()) {
			continue
		}
		r, found, err := load(filepath.Join(root, e.Name()), e.Name())
		if err != nil {
			return nil, err
		}
		if found {
			all = append(all, r)
		}
	}
	return all, nil
}
