package evidence

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/report"

	"cc-base/tasks/fault"
)

// ccelPath is where Linux gives the data of the ACPI table CCEL, the log of
// what firmware and boot loaders measured into the RTMRs.
const ccelPath = "sys/firmware/acpi/tables/data/CCEL"

// TSM is the [Reporter] of real guests. Its zero value is the running machine;
// modules sev-guest or tdx-guest must be loaded and configfs mounted.
type TSM struct {
	// Root is the root folder, for tests and other mounts; empty for /.
	Root string

	// Client stands in for configfs in tests; nil for the files under Root.
	Client configfsi.Client
}

// attempts bounds how often a report is asked for anew when another program
// disturbed it. Each has a folder of its own in configfs, so one is enough but
// for an administrator's tool that writes into all of them.
const attempts = 3

// Report implements [Reporter]. Errors have code [fault.GuestTEE]. The ioctl
// below cannot be cancelled: ctx is looked at between the attempts.
func (t TSM) Report(ctx context.Context, data [DataSize]byte) (Evidence, error) {
	client := t.Client
	if client == nil {
		client = rooted{t.root()}
	}
	var err error
	for range attempts {
		if ctx.Err() != nil {
			return Evidence{}, ctx.Err()
		}
		var e Evidence
		if e, err = t.ask(client, data); err == nil {
			return e, nil
		}
		var disturbed *report.GenerationErr
		if !errors.As(err, &disturbed) {
			break
		}
	}
	return Evidence{}, fault.Newf(fault.GuestTEE, "attestation report: %w", err).
		Hint("is the guest a confidential one, and are configfs and the module sev-guest or tdx-guest there? On TDX, does the host run its quote generation service?")
}

func (t TSM) ask(client configfsi.Client, data [DataSize]byte) (e Evidence, err error) {
	open, err := report.CreateOpenReport(client)
	if err != nil {
		return Evidence{}, err
	}
	defer func() { err = errors.Join(err, open.Destroy()) }()
	if err := open.WriteOption("inblob", data[:]); err != nil {
		return Evidence{}, err
	}
	provider, err := open.ReadOption("provider")
	if err != nil {
		return Evidence{}, err
	}
	switch name := strings.TrimSpace(string(provider)); name {
	case "sev_guest":
		e.Kind = SNP
		e.Certs, err = open.ReadOption("auxblob")
	case "tdx_guest":
		// TDX has no auxblob: the quote holds its certificates.
		e.Kind = TDX
		e.EventLog, err = t.eventLog()
	default:
		err = fmt.Errorf("the TSM provider %q is neither sev_guest nor tdx_guest", name)
	}
	if err != nil {
		return Evidence{}, err
	}
	if e.Report, err = open.ReadOption("outblob"); err != nil {
		return Evidence{}, err
	}
	return e, e.Check()
}

// eventLog returns the CCEL's data; firmware need not have one.
func (t TSM) eventLog() ([]byte, error) {
	log, err := os.ReadFile(filepath.Join(t.root(), ccelPath))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return log, err
}

func (t TSM) root() string {
	if t.Root == "" {
		return "/"
	}
	return t.Root
}

// rooted is configfs under a root folder. The library's own client knows / only.
type rooted struct{ root string }

func (r rooted) path(name string) string { return filepath.Join(r.root, name) }

// MkdirTemp returns the name without the root, which is how the library wants
// to see it.
func (r rooted) MkdirTemp(dir, pattern string) (string, error) {
	made, err := os.MkdirTemp(r.path(dir), pattern)
	return filepath.Join(dir, filepath.Base(made)), err
}

func (r rooted) ReadFile(name string) ([]byte, error) { return os.ReadFile(r.path(name)) }

func (r rooted) ReadDir(name string) ([]os.DirEntry, error) { return os.ReadDir(r.path(name)) }

// WriteFile writes an attribute. It creates and truncates nothing: the kernel
// has made the file, and one write is one value.
func (r rooted) WriteFile(name string, contents []byte) error {
	f, err := os.OpenFile(r.path(name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(contents)
	return errors.Join(err, f.Close())
}

// RemoveAll removes a folder of configfs: its files go with it, and cannot be
// removed one by one.
func (r rooted) RemoveAll(name string) error { return os.Remove(r.path(name)) }
