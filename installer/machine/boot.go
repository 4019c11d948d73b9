package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"time"

	"cc-base/installer/virt"
	"cc-base/tasks/atomicfile"
	"cc-base/tasks/domain"
	"cc-base/tasks/fault"
)

// What the guest prints on its console (overlays/cc-guest).
const readyLine = "cc-base: ready"

var refusedLine = regexp.MustCompile(`cc-base: refused: (CC[0-9]{4}): ([ -~]*)`)

const (
	readyTime = 10 * time.Minute // under emulation a boot takes two
	lookEvery = 250 * time.Millisecond
	// consoleMost bounds what a guest can make the installer read.
	consoleMost = 16 << 20
	tailLines   = 15
)

// FirstBoot starts the machine, waits for its ready line and withdraws the
// enrolment secret: from the domain's definition, and from the disk of the
// host. QEMU keeps it in its memory until the guest is switched off.
//
// A guest that refuses is an error with the guest's own code. A machine that
// libvirt cannot start at all has not booted: it is taken back, as Define would.
// After any other failure everything stays, for a look at the console, and
// FirstBoot may be called again.
func (h Host) FirstBoot(ctx context.Context, name string) error {
	if _, err := h.State(name); err != nil {
		return err
	}
	unlock, err := h.lock(name)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := h.State(name)
	if err != nil {
		return err
	}
	switch s.Phase {
	case Ready:
		return nil
	case Defining:
		return fault.Newf(fault.VMState, "%s was never defined to the end", name).Hint("install again, or cc-install uninstall %s", name)
	}
	if s.Now.Spec.ConsoleFile == "" {
		return fault.Newf(fault.Config, "%s has no console file: nobody would see that it is ready", name)
	}
	if err := h.start(ctx, &s); err != nil {
		return err
	}
	h.say("%s: started; its console is %s", name, s.Now.Spec.ConsoleFile)
	if err := h.waitReady(ctx, s.Now.Spec); err != nil {
		return err
	}
	h.say("%s: ready", name)
	return h.withdraw(ctx, s)
}

// start starts a machine that does not run, with an empty console.
func (h Host) start(ctx context.Context, s *State) error {
	spec := s.Now.Spec
	state, err := h.Virt.State(ctx, spec.Name)
	if err != nil {
		return err
	}
	if state == virt.Running {
		return nil
	}
	// The ready line of an earlier boot must not count.
	if err := os.Truncate(spec.ConsoleFile, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err = h.Virt.Start(ctx, spec.Name)
	if err == nil {
		s.Phase = Started
		return h.write(*s)
	}
	if s.Phase == Defined {
		return errors.Join(err, h.takeBack(context.WithoutCancel(ctx), *s))
	}
	return err
}

func (h Host) waitReady(ctx context.Context, spec domain.Spec) error {
	limit := h.Ready
	if limit == 0 {
		limit = readyTime
	}
	timer, look := time.NewTimer(limit), time.NewTicker(lookEvery)
	defer timer.Stop()
	defer look.Stop()
	for late := false; ; {
		// The state first: whatever a guest that has ended printed is in the
		// file by then.
		state, err := h.Virt.State(ctx, spec.Name)
		if err != nil {
			return err
		}
		text, err := console(spec.ConsoleFile)
		if err != nil {
			return err
		}
		if verdict, over := judge(text); over {
			return verdict
		}
		ended := state == virt.ShutOff || state == virt.Crashed
		switch {
		case ended:
			return notReady(spec, text, "it ended (%s)", state)
		case late:
			return notReady(spec, text, "%v have passed", limit)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			late = true
		case <-look.C:
		}
	}
}

// console returns what the guest has printed, or the end of it.
func console(file string) ([]byte, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if over := info.Size() - consoleMost; over > 0 {
		if _, err := f.Seek(over, io.SeekStart); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(io.LimitReader(f, consoleMost))
}

// judge looks for the guest's verdict; over tells that there is one.
func judge(text []byte) (verdict error, over bool) {
	// Both end with a line end; before that more may come.
	whole := text[:bytes.LastIndexByte(text, '\n')+1]
	if m := refusedLine.FindSubmatch(whole); m != nil {
		code := fault.Code(m[1])
		if fault.Explain(code).Cause == "" {
			return fault.Newf(fault.VMNotReady, "the guest refused to start: %s: %s", code, m[2]), true
		}
		return fault.Newf(code, "the guest refused to start: %s", m[2]), true
	}
	return nil, bytes.Contains(whole, []byte(readyLine))
}

// control is what a terminal would obey: a guest may print anything.
var control = regexp.MustCompile(`\x1b(\[[0-9;?]*[ -/]*[@-~]|[ -/]*[0-~])|[^\t -~]`)

func notReady(spec domain.Spec, text []byte, format string, args ...any) error {
	var lines []string
	for _, raw := range strings.Split(string(text), "\n") {
		if line := strings.TrimSpace(control.ReplaceAllString(raw, "")); line != "" {
			lines = append(lines, line)
		}
	}
	lines = lines[max(0, len(lines)-tailLines):]
	why := fmt.Sprintf(format, args...)
	if len(lines) > 0 {
		why += "\n  | " + strings.Join(lines, "\n  | ")
	}
	return fault.Newf(fault.VMNotReady, "%s is not ready: %s", spec.Name, why).Hint("the whole console is in %s", spec.ConsoleFile)
}

// withdraw takes the enrolment secret out of the definition and away.
func (h Host) withdraw(ctx context.Context, s State) error {
	file := s.Now.Spec.EnrollFile
	if file != "" {
		spec := s.Now.Spec
		spec.EnrollFile = ""
		xml, digest, err := h.render(spec)
		if err != nil {
			return err
		}
		if err := h.Virt.Define(ctx, xml); err != nil {
			return fmt.Errorf("the enrolment secret is still in the definition of %s: %w", spec.Name, err)
		}
		s.Now = define(Plan{Wanted: Wanted{Spec: spec, Filters: s.Now.Filters}, XML: xml, Digest: digest})
	}
	// The file goes last, and by its name here: once the state has forgotten
	// it, nobody would look for it.
	if err := wipe(file); err != nil {
		return fmt.Errorf("the enrolment secret is still on the disk: %w", err)
	}
	s.Phase = Ready
	return h.write(s)
}

// wipe overwrites a file and removes it. On a file system that writes elsewhere,
// or on flash, the former bytes may still be there: keep the file in memory,
// under /run.
func wipe(file string) error {
	if file == "" {
		return nil
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", file)
	}
	if err == nil {
		_, err = f.Write(make([]byte, info.Size()))
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return atomicfile.Remove(file)
}
