package vm

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"cc-base/tasks/fault"
)

// killPoll is the pause between two looks for a QEMU that has only begun.
const killPoll = 5 * time.Millisecond

// Kill ends the machine as a power cut does: QEMU gets SIGKILL wherever it is,
// and the guest nothing. It returns when the machine has ended. What QEMU had
// been told to write but had not written is lost; what it had given to the
// host's kernel is not, flushed or not, so a disk that forgets its own cache is
// not what this shows.
//
// A machine that had ended by itself is an error that is os.ErrProcessDone: a
// test that cuts the power too late has shown nothing.
func (m *Machine) Kill() error {
	if m.done == nil {
		return fault.Newf(fault.Machine, "the machine was not started")
	}
	for {
		sent, err := m.kill()
		if err != nil {
			return fault.New(fault.Machine, err)
		}
		if sent {
			<-m.done
			return nil
		}
		select {
		case <-m.done:
			return fault.Newf(fault.Machine, "the machine had ended: %w", os.ErrProcessDone)
		case <-time.After(killPoll):
		}
	}
}

// kill sends the signal to QEMU if it runs. QEMU may be in a PID namespace of
// its own, where the number in its PID file means nothing here; but it keeps
// that file locked while it lives, and the kernel names the lock's holder by
// the number that the asking process would use (fcntl_locking(2); fs/locks.c,
// locks_translate_pid). Asking again behind the open PID descriptor makes sure
// that the number had not passed to another process.
func (m *Machine) kill() (sent bool, err error) {
	file, err := os.Open(m.pidPath())
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer file.Close()
	pid, err := holder(file)
	if err != nil || pid == 0 {
		return false, err
	}
	process, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("opening QEMU's process: %w", err)
	}
	defer unix.Close(process)
	if again, err := holder(file); err != nil || again != pid {
		return false, err
	}
	m.killed.Store(true)
	err = unix.PidfdSendSignal(process, unix.SIGKILL, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		m.killed.Store(false)
		return false, nil
	}
	return err == nil, err
}

// holder returns the process that has the file locked, or 0.
func holder(file *os.File) (pid int, err error) {
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(file.Fd(), unix.F_GETLK, &lock); err != nil {
		return 0, fmt.Errorf("%s: %w", file.Name(), err)
	}
	if lock.Type == unix.F_UNLCK {
		return 0, nil
	}
	if lock.Pid <= 0 {
		return 0, fmt.Errorf("%s is locked by a process that cannot be named here", file.Name())
	}
	return int(lock.Pid), nil
}
