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
// Disks are opened with snapshot=on unless they are persistent: a boot never
// changes an artefact. Every path must be absolute, because the programs may
// run in another root (toolbox) and swtpm leaves its working directory.
//
// A machine that is to be switched on again is a second [Machine] with the same
// Dir: its TPM and its EFI variables are those of the first, as they were when
// that ended, by itself, by Close or by [Machine.Kill].
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
	"sync/atomic"
	"time"

	"cc-base/tasks/atomicfile"
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

// Disk is one disk.
type Disk struct {
	Path       string
	Format     string // qcow2 when empty, or raw
	Bus        Bus
	Persistent bool // the guest's writes stay in the file; else they are dropped
}

// FWCfg is a file that the guest reads through QEMU's fw_cfg device.
type FWCfg struct{ Name, Path string }

// Machine is a virtual machine. Fill in the exported fields, call Start once,
// and always Close. It must not be copied after Start.
type Machine struct {
	Runner sh.Runner // where qemu-system-x86_64 and swtpm are
	Dir    string    // absolute; TPM state and EFI variables; a later machine with the same Dir continues with them

	Firmware   Firmware
	SecureBoot bool   // Firmware.Code is a build that keeps the variables behind system management mode
	BIOS       string // firmware that measures nothing and keeps no variables, such as qboot.rom, instead of Firmware
	Kernel     string // kernel or UKI that the host starts instead of a disk; empty means none
	Initrd     string // only with Kernel
	Append     string // command line, only with Kernel
	Disks      []Disk // booted in this order
	MemoryMiB  int    // 1024 when zero
	VCPUs      int    // 2 when zero
	Accel      Accel
	TPM        bool     // attach a TPM 2.0 emulated by swtpm
	PCRBanks   []string // the only ones that a fresh TPM has, such as sha384; nil means swtpm's own choice
	FWCfg      []FWCfg  // secrets go this way, by file and never by value
	OEMStrings []string // SMBIOS type 11: what a host can slip into a guest
	Ports      []Port   // streams between guest and host
	Extra      []string // further QEMU arguments

	ConsoleLog string    // file for the console as it came; empty means none
	Mirror     io.Writer // gets the same, live; nil means none
	Stdin      io.Reader // typed on the console; nil means what Type is given

	console *console
	log     *os.File
	keys    *os.File // the end of a pipe that Type writes to; nil with Stdin
	typed   *os.File // the end that QEMU reads
	cancel  context.CancelFunc
	done    chan struct{} // closed when QEMU and swtpm have ended
	err     error         // of QEMU; valid after done
	killed  atomic.Bool   // by Kill, so that err says nothing new
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
	if err := m.check(); err != nil {
		return fault.New(fault.Machine, err)
	}
	if err := m.prepare(ctx); err != nil {
		m.release()
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
	stdin := m.Stdin
	if stdin == nil {
		stdin = m.typed
	}
	m.err = m.Runner.Run(ctx, sh.Cmd{
		Name: "qemu-system-x86_64", Args: m.Argv(), Stdin: stdin, Stdout: m.console,
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
	if m.killed.Load() {
		m.err = nil
	}
	m.console.close()
	m.release()
	close(m.done)
}

// release closes what prepare opened.
func (m *Machine) release() {
	for _, file := range []*os.File{m.log, m.keys, m.typed} {
		if file != nil {
			_ = file.Close()
		}
	}
}

// check refuses a machine that cannot work as it is described.
func (m *Machine) check() error {
	paths := []string{m.Dir}
	if m.BIOS == "" {
		paths = append(paths, m.Firmware.Code, m.Firmware.Vars)
	}
	for _, d := range m.Disks {
		paths = append(paths, d.Path)
	}
	for _, f := range m.FWCfg {
		paths = append(paths, f.Path)
	}
	for _, p := range m.Ports {
		paths = append(paths, m.portPath(p))
	}
	for _, optional := range []string{m.BIOS, m.Kernel, m.Initrd} {
		if optional != "" {
			paths = append(paths, optional)
		}
	}
	for _, path := range paths {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("path %q is not absolute", path)
		}
	}
	for _, socket := range m.sockets() {
		if n := len(socket); n > maxSocket {
			return fmt.Errorf("%s is too long for a socket by %d bytes", socket, n-maxSocket)
		}
	}
	switch {
	case m.Kernel == "" && (m.Initrd != "" || m.Append != ""):
		return errors.New("an initrd or a command line is there without a kernel")
	case m.BIOS != "" && m.SecureBoot:
		return errors.New("a BIOS has no Secure Boot")
	case len(m.PCRBanks) > 0 && !m.TPM:
		return errors.New("PCR banks are there without a TPM")
	}
	return nil
}

// sockets returns the paths of all sockets that the programs will make.
func (m *Machine) sockets() []string {
	var all []string
	if m.TPM {
		all = append(all, m.socketPath())
	}
	for _, p := range m.Ports {
		all = append(all, m.portPath(p))
	}
	return all
}

// prepare makes what QEMU and swtpm open.
func (m *Machine) prepare(ctx context.Context) error {
	if err := os.MkdirAll(m.tpmDir(), 0o700); err != nil {
		return err
	}
	// A socket that a killed run left would look like a program that is up.
	for _, file := range append(m.sockets(), m.pidPath()) {
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if m.TPM && len(m.PCRBanks) > 0 {
		if err := m.setUpTPM(ctx); err != nil {
			return fmt.Errorf("setting up the TPM: %w", err)
		}
	}
	if err := m.copyVars(); err != nil {
		return err
	}
	if m.Stdin == nil {
		var err error
		if m.typed, m.keys, err = os.Pipe(); err != nil {
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

// copyVars gives the machine its own EFI variables, unless it has some.
func (m *Machine) copyVars() error {
	if m.BIOS != "" {
		return nil
	}
	if _, err := os.Stat(m.varsPath()); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	template, err := os.ReadFile(m.Firmware.Vars)
	if err != nil {
		return fmt.Errorf("reading EFI variables: %w", err)
	}
	// In one step: a part of a store, left by a start that was killed, would
	// be taken for the machine's own.
	return atomicfile.Write(m.varsPath(), 0o600, template)
}

// setUpTPM makes a TPM with the banks, unless there is one.
func (m *Machine) setUpTPM(ctx context.Context) error {
	return m.Runner.Run(ctx, sh.Cmd{Name: "swtpm_setup", Args: []string{
		"--tpm2", "--tpm-state", m.tpmDir(), "--pcr-banks", strings.Join(m.PCRBanks, ","), "--not-overwrite",
	}})
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

// Type types the text on the console, as it stands: a line ends with "\n". What
// the guest has not read yet waits for it. It cannot be used with Stdin.
func (m *Machine) Type(text string) error {
	if m.keys == nil {
		return fault.Newf(fault.Machine, "nobody can type on this machine's console")
	}
	if _, err := io.WriteString(m.keys, text); err != nil {
		return fault.Newf(fault.Machine, "typing on the console: %w", err)
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
	var lines []string
	if m.console != nil {
		lines = m.Lines()
	}
	if len(lines) == 0 {
		return fault.Newf(fault.Machine, "%w (the console stayed empty)", err)
	}
	if len(lines) > tailLines {
		lines = lines[len(lines)-tailLines:]
	}
	return fault.Newf(fault.Machine, "%w\n  | %s", err, strings.Join(lines, "\n  | "))
}
