package vm

import (
	"context"
	"fmt"
	"net"
	"time"

	"cc-base/tasks/fault"
)

// portPoll is the pause between two attempts to connect to a port.
const portPoll = 20 * time.Millisecond

// Port is a virtio-serial port: a stream between the guest, which finds it by
// its name, and whoever on the host connects to the socket, one at a time.
type Port struct {
	Name string // as the guest finds it, such as org.cc-base.release.0
	Path string // absolute path of the socket, at most 107 bytes; Dir/Name.sock when empty
}

// Dial connects to the port of that name and waits until QEMU has made its
// socket. What the guest writes before somebody is connected, its driver keeps
// back or loses.
func (m *Machine) Dial(ctx context.Context, name string) (net.Conn, error) {
	for _, p := range m.Ports {
		if p.Name == name {
			return m.dial(ctx, m.portPath(p))
		}
	}
	return nil, fault.Newf(fault.Machine, "the machine has no port %q", name)
}

func (m *Machine) dial(ctx context.Context, path string) (net.Conn, error) {
	var dialer net.Dialer
	for {
		conn, err := dialer.DialContext(ctx, "unix", path)
		if err == nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, m.failure(fmt.Errorf("connecting to a port: %w", err))
		case <-m.done:
			return nil, m.failure(fmt.Errorf("connecting to a port of a machine that ended: %w", err))
		case <-time.After(portPoll):
		}
	}
}
