// Package vm runs a virtual machine for tests, `mage validate` and `mage vm`:
// QEMU with OVMF, and swtpm beside it where a TPM is wanted. What a machine
// does is read from its serial console, line by line.
//
//	m := &vm.Machine{Runner: tools, Dir: dir, Firmware: fw, TPM: true,
//		Disks: []vm.Disk{{Path: "out/cc-base.qcow2"}},
//		FWCfg: []vm.FWCfg{{Name: vm.EnrollKey, Path: "out/keys/image.key"}}}
//	if err := m.Start(ctx); err != nil { … }
//	defer m.Close()
//	line, err := m.Expect(ctx, "cc-base: ready", "cc-base: refused")
//
// Disks are opened with snapshot=on: a boot never changes an artefact. Every
// path must be absolute, because the programs may run in another root
// (toolbox) and swtpm leaves its working directory.
package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"cc-base/tasks/fault"
	"cc-base/tasks/sh"
)

// Accel is what executes the guest's instructions.
type Accel string

// The accelerators; the zero value is [TCG].
const (
	TCG Accel = "tcg" // emulation: works everywhere, slow
	KVM Accel = "kvm" // see [ProbeKVM]
)

// Bus is how a disk is attached; the zero value is virtio-blk.
type Bus string

// SCSI attaches a disk to a virtio-scsi controller.
const SCSI Bus = "scsi"

// EnrollKey is the fw_cfg name under which the guest looks for the image key.
const EnrollKey = "opt/org.cc-base/enroll"

const (
	// tailLines is how much of the console an error shows.
	tailLines = 40
	// maxSocket is sizeof(sockaddr_un.sun_path) less its final NUL, unix(7).
	maxSocket = 107
	// socketWait bounds swtpm's start.
	socketWait = 15 * time.Second
	// swtpmGrace is what swtpm gets to notice that QEMU has gone.
	swtpmGrace = 3 * time.Second
)

// Firmware is a pair of OVMF files. Vars is a template: each machine works on
// its own copy in Dir.
type Firmware struct{ Code, Vars string }

// Disk is one disk, never written to.
type Disk struct {
	Path   string
	Format string // qcow2 when empty, or raw
	Bus    Bus
}

// FWCfg is a file that the guest reads through QEMU's fw_cfg device.
type FWCfg struct{ Name, Path string }

// Machine is a virtual machine. Fill in the exported fields, call Start once,
// and always Close. It must not be copied after Start.
type Machine struct {
	Runner sh.Runner // where qemu-system-x86_64 and swtpm are
	Dir    string    // absolute; TPM state and EFI variables; a later machine with the same Dir continues with them

	Firmware   Firmware
	Disks      []Disk // booted in this order
	MemoryMiB  int    // 1024 when zero
	VCPUs      int    // 2 when zero
	Accel      Accel
	TPM        bool     // attach a TPM 2.0 emulated by swtpm
	FWCfg      []FWCfg  // secrets go this way, by file and never by value
	OEMStrings []string // SMBIOS type 11: what a host can slip into a guest
	Extra      []string // further QEMU arguments

	ConsoleLog string    // file for the console as it came; empty means none
	Mirror     io.Writer // gets the same, live; nil means none
	Stdin      io.Reader // typed on the console; nil means nothing

	console *console
	log     *os.File
	cancel  context.CancelFunc
	done    chan struct{} // closed when QEMU and swtpm have ended
	err     error         // of QEMU; valid after done
	once    sync.Once
}

// Start starts swtpm and QEMU and returns as soon as QEMU runs. The machine
// ends with ctx.
func (m *Machine) Start(ctx context.Context) error {
	if m.MemoryMiB == 0 {
		m.MemoryMiB = 1024
	}
	if m.VCPUs == 0 {
		m.VCPUs = 2
	}
	if err := m.prepare(); err != nil {
		return fault.New(fault.Machine, err)
	}
	// QEMU ends with ctx. swtpm must outlive it, or QEMU cannot tell the TPM
	// to shut down and the next start counts as an attack on it.
	tpmCtx, endTPM := context.WithCancel(context.WithoutCancel(ctx))
	ctx, m.cancel = context.WithCancel(ctx)
	m.done = make(chan struct{})

	// Room for one, so that whoever sends never waits for a reader.
	swtpm := make(chan error, 1)
	if m.TPM {
		go func() { swtpm <- m.Runner.Run(tpmCtx, sh.Cmd{Name: "swtpm", Args: m.swtpmArgv()}) }()
		if err := m.waitSocket(ctx, swtpm); err != nil {
			m.err = err
			m.cancel()
			endTPM()
			<-swtpm
			m.finish()
			return fault.Newf(fault.Machine, "starting swtpm: %w", err)
		}
	} else {
		swtpm <- nil
	}
	go m.run(ctx, swtpm, endTPM)
	return nil
}

// run runs QEMU to its end and then sees swtpm off.
func (m *Machine) run(ctx context.Context, swtpm <-chan error, endTPM context.CancelFunc) {
	defer endTPM()
	m.err = m.Runner.Run(ctx, sh.Cmd{
		Name: "qemu-system-x86_64", Args: m.Argv(), Stdin: m.Stdin, Stdout: m.console,
		// snapshot=on writes its scratch file to TMPDIR; /tmp may be memory.
		Env: []string{"TMPDIR=" + m.Dir},
	})
	select {
	case <-swtpm:
	case <-time.After(swtpmGrace):
		endTPM()
		<-swtpm
	}
	m.finish()
}

// finish runs when both programs have ended and nothing writes any more.
func (m *Machine) finish() {
	m.console.close()
	if m.log != nil {
		_ = m.log.Close()
	}
	close(m.done)
}

// prepare checks the machine and makes what QEMU opens.
func (m *Machine) prepare() error {
	paths := []string{m.Dir, m.Firmware.Code, m.Firmware.Vars}
	for _, d := range m.Disks {
		paths = append(paths, d.Path)
	}
	for _, f := range m.FWCfg {
		paths = append(paths, f.Path)
	}
	for _, path := range paths {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("path %q is not absolute", path)
		}
	}
	if n := len(m.socketPath()); m.TPM && n > maxSocket {
		return fmt.Errorf("the folder %s is too long for a socket by %d bytes", m.Dir, n-maxSocket)
	}
	if err := os.MkdirAll(m.tpmDir(), 0o700); err != nil {
		return err
	}
	// A socket that a killed run left would look like a swtpm that is up.
	if err := os.Remove(m.socketPath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if _, err := os.Stat(m.varsPath()); errors.Is(err, os.ErrNotExist) {
		template, err := os.ReadFile(m.Firmware.Vars)
		if err != nil {
			return fmt.Errorf("reading EFI variables: %w", err)
		}
		if err := os.WriteFile(m.varsPath(), template, 0o600); err != nil {
			return err
		}
	}
	var sinks []io.Writer
	if m.ConsoleLog != "" {
		log, err := os.Create(m.ConsoleLog)
		if err != nil {
			return fmt.Errorf("opening the console log: %w", err)
		}
		m.log = log
		sinks = append(sinks, log)
	}
	if m.Mirror != nil {
		sinks = append(sinks, m.Mirror)
	}
	m.console = newConsole(io.MultiWriter(sinks...))
	return nil
}

// waitSocket waits until swtpm listens.
func (m *Machine) waitSocket(ctx context.Context, swtpm chan error) error {
	deadline := time.After(socketWait)
	for {
		if _, err := os.Stat(m.socketPath()); err == nil {
			return nil
		}
		select {
		case err := <-swtpm:
			if err == nil {
				err = errors.New("it ended at once")
			}
			swtpm <- err // the caller waits for it, too
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline:
			return fmt.Errorf("no socket after %s", socketWait)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Expect waits for a console line that contains one of wants and returns the
// whole line, free of escape sequences. The next call looks only at later
// lines. When ctx or the machine ends first, the error shows the last lines of
// the console.
func (m *Machine) Expect(ctx context.Context, wants ...string) (string, error) {
	line, err := m.console.expect(ctx, wants)
	if err == nil {
		return line, nil
	}
	if errors.Is(err, errEnded) {
		<-m.done
		if m.err != nil {
			err = m.err
		}
	}
	return "", m.failure(fmt.Errorf("the console never showed %q: %w", wants, err))
}

// Wait waits until the machine has ended by itself. QEMU's error comes with
// the last lines of the console.
func (m *Machine) Wait(ctx context.Context) error {
	select {
	case <-m.done:
	case <-ctx.Done():
		return m.failure(fmt.Errorf("the machine does not end: %w", ctx.Err()))
	}
	if m.err != nil {
		return m.failure(m.err)
	}
	return nil
}

// Lines returns every console line so far.
func (m *Machine) Lines() []string { return m.console.all() }

// Close ends the machine if it still runs, waits for its programs and closes
// the log. It may be called whether Start succeeded or not, and more than once.
func (m *Machine) Close() error {
	m.once.Do(func() {
		if m.cancel != nil {
			m.cancel()
			<-m.done
		}
	})
	return nil
}

// failure adds the end of the console to err.
func (m *Machine) failure(err error) error {
	lines := m.Lines()
	if len(lines) == 0 {
		return fault.Newf(fault.Machine, "%w (the console stayed empty)", err)
	}
	if len(lines) > tailLines {
		lines = lines[len(lines)-tailLines:]
	}
	return fault.Newf(fault.Machine, "%w\n  | %s", err, strings.Join(lines, "\n  | "))
}
