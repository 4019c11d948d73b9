package release

import (
	"context"
	"errors"
	"io"
	"os"
	"time"
)

// Link carries messages over a line of bytes. One goroutine of its own reads,
// so that the other end can always write on.
type Link struct {
	// In delivers payloads as they come. It is closed when the line has ended;
	// Err tells why then.
	In <-chan []byte

	port io.ReadWriter
	done chan struct{}
	read chan struct{} // closed when the reading goroutine has ended
	err  error         // of it; io.EOF for an orderly end
}

// queued is how many payloads may wait. Both ends of a line write before they
// read, at most a few messages each.
const queued = 16

// eofPause is how long a port rests that has nobody at its other end: a
// virtio-serial port then reads as ended (drivers/char/virtio_console.c,
// port_fops_read), and goes on when the host connects.
const eofPause = 100 * time.Millisecond

// NewLink begins to read from port. With lasting, the end of the input does not
// end the link: somebody may connect again.
//
// Close ends it. A port whose reads cannot be interrupted (no SetReadDeadline)
// keeps a goroutine until its next byte or its own end, and that byte is lost.
func NewLink(port io.ReadWriter, lasting bool) *Link {
	in := make(chan []byte, queued)
	l := &Link{In: in, port: port, done: make(chan struct{}), read: make(chan struct{})}
	go func() {
		defer close(l.read)
		defer close(in)
		l.err = l.receive(in, lasting)
	}()
	return l
}

// Err says why In was closed. It may be called only then.
func (l *Link) Err() error {
	<-l.read
	return l.err
}

func (l *Link) receive(in chan<- []byte, lasting bool) error {
	var frames Deframer
	buf := make([]byte, 16<<10)
	for {
		n, err := l.port.Read(buf)
		frames.Push(buf[:n])
		for {
			payload, damage := frames.Next()
			if payload == nil && damage == nil {
				break
			}
			if payload == nil {
				continue // noise, or bytes of a former boot
			}
			select {
			case in <- payload:
			case <-l.done:
				return os.ErrClosed
			}
		}
		switch {
		case errors.Is(err, io.EOF) && lasting:
			select {
			case <-time.After(eofPause):
			case <-l.done:
				return os.ErrClosed
			}
		case err != nil:
			return err
		}
		select {
		case <-l.done:
			return os.ErrClosed
		default:
		}
	}
}

// Send writes a message. It ends with ctx even where the port would block for
// ever; the link is of no use then.
func (l *Link) Send(ctx context.Context, message any) error {
	frame, err := Encode(message)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	written := make(chan error, 1)
	go func() {
		_, err := l.port.Write(frame)
		written <- err
	}()
	select {
	case err := <-written:
		return err
	case <-ctx.Done():
		if p, ok := l.port.(interface{ SetWriteDeadline(time.Time) error }); ok && p.SetWriteDeadline(past()) == nil {
			<-written
			_ = p.SetWriteDeadline(time.Time{})
		}
		return ctx.Err()
	}
}

// Close ends the reading. The port itself stays open.
func (l *Link) Close() {
	close(l.done)
	p, ok := l.port.(interface{ SetReadDeadline(time.Time) error })
	if !ok || p.SetReadDeadline(past()) != nil {
		return
	}
	for range l.In { // lets the goroutine go on to its end
	}
	<-l.read
	_ = p.SetReadDeadline(time.Time{})
}

// past is a deadline that is over.
func past() time.Time { return time.Unix(1, 0) }
