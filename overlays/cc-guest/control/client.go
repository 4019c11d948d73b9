package control

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
	"unicode"

	"cc-base/tasks/fault"
)

// Client asks a guest from the host, over the unix socket of its port.
type Client struct {
	conn  net.Conn
	lines *bufio.Reader
	name  string // begins every ID
	next  int
}

// Dial connects to the socket that QEMU keeps for the port.
func Dial(ctx context.Context, socket string) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fault.New(fault.Machine, err).Hint("is the VM running? `mage vm` starts one")
	}
	// The port outlives its clients: an answer to one that has gone must not be
	// taken for the answer to this one.
	return &Client{conn: conn, lines: bufio.NewReaderSize(conn, maxAnswer), name: rand.Text()}, nil
}

// maxAnswer bounds an answer in bytes: a guest that was taken over must not be
// able to fill the host's memory.
const maxAnswer = 1 << 20

// resend is the pause before a request is sent again: what is written before
// the guest has opened its end of the port is lost.
const resend = 3 * time.Second

// Ask sends a request and decodes the answer into result, unless that is nil.
// It waits for a guest that is still booting until ctx ends.
func (c *Client) Ask(ctx context.Context, verb string, data, result any) error {
	c.next++
	r := Request{ID: c.name + "-" + strconv.Itoa(c.next), Verb: verb}
	if data != nil {
		raw, err := json.Marshal(data)
		if err != nil {
			return err
		}
		r.Data = raw
	}
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	a, err := c.exchange(ctx, append(line, '\n'), r.ID)
	if err != nil {
		return fmt.Errorf("asking the guest for %q: %w", verb, err)
	}
	if !a.OK {
		return fault.Newf(code(a), "the guest says to %q: %s", verb, Printable(a.Error))
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(a.Data, result)
}

// code is the guest's, if it is one of ours.
func code(a Answer) fault.Code {
	for _, m := range fault.Meanings() {
		if m.Code == a.Code {
			return a.Code
		}
	}
	return fault.Machine
}

// Printable makes a guest's text fit for a terminal: one that was taken over
// could write escape sequences there.
func Printable(text string) string {
	const most = 1000 // characters
	var b strings.Builder
	for i, r := range []rune(text) {
		switch {
		case i == most:
			return b.String() + "…"
		case unicode.IsPrint(r) && r != unicode.ReplacementChar:
			b.WriteRune(r)
		default:
			b.WriteByte('?')
		}
	}
	return b.String()
}

// exchange sends the line, again and again as long as there is no answer. A
// verb that takes longer than that gets the same request twice, and does it
// once: see [Serve].
func (c *Client) exchange(ctx context.Context, line []byte, id string) (Answer, error) {
	for {
		if err := c.send(ctx, line); err != nil {
			return Answer{}, err
		}
		a, err := c.read(ctx, id)
		if err == nil || !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return a, err
		}
	}
}

// send writes the whole line: a part of it would spoil the next. A guest that
// does not read makes it wait.
func (c *Client) send(ctx context.Context, line []byte) error {
	for {
		if err := c.conn.SetWriteDeadline(soon(ctx)); err != nil {
			return err
		}
		n, err := c.conn.Write(line)
		line = line[n:]
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case !timedOut(err):
			return err
		}
	}
}

// soon is when to look at ctx again.
func soon(ctx context.Context) time.Time {
	end := time.Now().Add(resend)
	if limit, ok := ctx.Deadline(); ok && limit.Before(end) {
		return limit
	}
	return end
}

func timedOut(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

func (c *Client) read(ctx context.Context, id string) (Answer, error) {
	if err := c.conn.SetReadDeadline(soon(ctx)); err != nil {
		return Answer{}, err
	}
	for {
		line, err := c.lines.ReadSlice('\n')
		if timedOut(err) {
			return Answer{}, context.DeadlineExceeded
		}
		if err != nil {
			return Answer{}, err
		}
		var a Answer
		if json.Unmarshal(line, &a) != nil || a.ID != id && a.ID != "" {
			continue // the answer to a request before this one
		}
		return a, nil
	}
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }
