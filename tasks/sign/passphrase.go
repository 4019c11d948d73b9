package sign

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"cc-base/tasks/fault"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// maxPassphrase in bytes; a longer one is a file given by mistake.
const maxPassphrase = 4096

// Passphrase returns the function that [LoadKey] calls for a locked key. It
// reads the first line from the descriptor whose number is in
// CC_SIGNING_PASSPHRASE_FD, as in
//
//	CC_SIGNING_PASSPHRASE_FD=3 go tool mage sign 3<passphrase.txt
//
// or, where that is not set, asks at the terminal without echo. The descriptor
// is read and closed once; a second call would find it empty.
func Passphrase(ctx context.Context, env Lookup) func() ([]byte, error) {
	return func() ([]byte, error) {
		if value, ok := env(PassphraseFDEnv); ok && value != "" {
			return fromDescriptor(value)
		}
		return fromTerminal(ctx)
	}
}

func fromDescriptor(value string) ([]byte, error) {
	fd, err := strconv.Atoi(value)
	if err != nil || fd < 0 || fd == 1 || fd == 2 {
		// The value is not repeated: it may be the passphrase itself.
		return nil, fault.Newf(fault.SigningKey, "%s is not the number of an open input", PassphraseFDEnv).
			Hint("give a number such as 3, and redirect the passphrase to it: 3<FILE")
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	// An inherited descriptor cannot have close-on-exec set, or it would not
	// have come through exec; one that has belongs to this program.
	if err != nil || flags&unix.FD_CLOEXEC != 0 {
		return nil, fault.Newf(fault.SigningKey, "descriptor %d, named by %s, was not inherited", fd, PassphraseFDEnv).
			Hint("redirect the passphrase to it: %d<FILE", fd)
	}
	f := os.NewFile(uintptr(fd), "passphrase")
	defer f.Close()
	return firstLine(f)
}

// firstLine reads into one buffer that never grows, so that no copy is left.
func firstLine(r io.Reader) ([]byte, error) {
	buf := make([]byte, maxPassphrase+2)
	n, err := io.ReadFull(r, buf)
	if err == nil {
		wipe(buf)
		return nil, fmt.Errorf("longer than %d bytes", maxPassphrase)
	}
	if err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF) {
		wipe(buf)
		return nil, err
	}
	line, rest, _ := bytes.Cut(buf[:n], []byte("\n"))
	wipe(rest)
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 {
		return nil, errors.New("empty")
	}
	return line, nil
}

// fromTerminal asks on the controlling terminal, so that it works when standard
// input and output are redirected.
func fromTerminal(ctx context.Context) ([]byte, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, fault.Newf(fault.SigningKey, "the key is locked and there is no terminal to ask at").
			Hint("give the passphrase on a descriptor: %s=3 … 3<FILE", PassphraseFDEnv)
	}
	defer tty.Close()
	fd := int(tty.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	if _, err := io.WriteString(tty, "passphrase of the signing key: "); err != nil {
		return nil, err
	}
	type answer struct {
		pass []byte
		err  error
	}
	answers := make(chan answer)
	gone := make(chan struct{})
	defer close(gone)
	go func() {
		pass, err := term.ReadPassword(fd)
		select {
		case answers <- answer{pass, err}:
		case <-gone:
			wipe(pass)
		}
	}()
	select {
	case <-ctx.Done():
		// The read cannot be interrupted; without this the shell would be
		// left without echo.
		return nil, errors.Join(ctx.Err(), term.Restore(fd, before))
	case a := <-answers:
		_, _ = io.WriteString(tty, "\n") // the user's return key was not echoed
		if a.err == nil && len(a.pass) == 0 {
			a.err = errors.New("empty")
		}
		return a.pass, a.err
	}
}
