// Package port opens a virtio-serial port by its name.
//
// A port whose host side is not connected ends every read at once; here such a
// read waits instead, because whoever connects later is just as welcome.
package port

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// poll is the pause between two looks at a port that is not connected.
const poll = 200 * time.Millisecond

// Port is one port, opened.
type Port struct{ fd int }

// Open finds the port in sysfs and opens its node.
func Open(sys fs.FS, name string) (*Port, error) {
	node, err := Node(sys, name)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Open("/dev/"+node, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the port %s: %w", name, err)
	}
	return &Port{fd: fd}, nil
}

// Node returns the device node's name, such as vport1p1.
func Node(sys fs.FS, name string) (string, error) {
	const class = "class/virtio-ports"
	entries, err := fs.ReadDir(sys, class)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	for _, e := range entries {
		text, err := fs.ReadFile(sys, path.Join(class, e.Name(), "name"))
		if err == nil && strings.TrimSpace(string(text)) == name {
			return e.Name(), nil
		}
	}
	return "", fmt.Errorf("the machine has no port %s: %w", name, fs.ErrNotExist)
}

// Close closes the port.
func (p *Port) Close() error { return unix.Close(p.fd) }

// With returns the port's stream, which ends with ctx.
func (p *Port) With(ctx context.Context) io.ReadWriter { return stream{p, ctx} }

type stream struct {
	port *Port
	ctx  context.Context
}

// Read implements io.Reader.
func (s stream) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(s.port.fd, b)
		switch {
		case n > 0:
			return n, nil
		case err != nil && !again(err):
			return 0, err
		}
		if err := s.wait(); err != nil {
			return 0, err
		}
	}
}

// Write implements io.Writer. Before anybody is connected the device would
// take the bytes and drop them.
func (s stream) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		if !s.connected() {
			if err := s.wait(); err != nil {
				return done, err
			}
			continue
		}
		n, err := unix.Write(s.port.fd, b[done:])
		if err != nil && !again(err) {
			return done, err
		}
		if n > 0 {
			done += n
			continue
		}
		if err := s.wait(); err != nil {
			return done, err
		}
	}
	return done, nil
}

// connected asks the driver (drivers/char/virtio_console.c, port_fops_poll).
func (s stream) connected() bool {
	fds := []unix.PollFd{{Fd: int32(s.port.fd), Events: unix.POLLOUT}}
	_, err := unix.Poll(fds, 0)
	return err == nil && fds[0].Revents&unix.POLLHUP == 0
}

func (s stream) wait() error {
	select {
	case <-s.ctx.Done():
		return s.ctx.Err()
	case <-time.After(poll):
		return nil
	}
}

func again(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, os.ErrDeadlineExceeded)
}
