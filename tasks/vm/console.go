package vm

import (
	"bytes"
	"context"
	"errors"
	"io"
	"regexp"
	"strings"
	"sync"
)

// errEnded is what waiting on a console returns when the machine has ended
// and the line never came.
var errEnded = errors.New("the machine ended")

// maxLine bounds a line without an end, so that a guest that prints garbage
// cannot fill the memory of the machine that tests it.
const maxLine = 16 << 10

// ansi matches what firmware and systemd send to a terminal besides text:
// CSI sequences, operating system commands, and two-byte escapes.
var ansi = regexp.MustCompile(`\x1b(\[[0-9;:<=>?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|P[^\x1b]*\x1b\\|[ -/]*[0-~])`)

// console collects what a serial line prints, as clean lines, and lets callers
// wait for some of them.
type console struct {
	raw io.Writer // log and mirror; gets the bytes as they come

	mu     sync.Mutex
	rest   []byte
	lines  []string
	next   int           // first line that no Expect has looked at
	closed bool          // nothing more will come
	change chan struct{} // closed and replaced whenever something above changes
}

func newConsole(raw io.Writer) *console {
	return &console{raw: raw, change: make(chan struct{})}
}

// Write takes what the serial line prints. An error of the log or mirror is
// not the guest's: it must not stop QEMU, so it is left out.
func (c *console) Write(p []byte) (int, error) {
	if c.raw != nil {
		_, _ = c.raw.Write(p)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rest = append(c.rest, p...)
	for {
		i := bytes.IndexByte(c.rest, '\n')
		if i < 0 && len(c.rest) > maxLine {
			i = maxLine
		}
		if i < 0 {
			break
		}
		c.add(c.rest[:i])
		c.rest = c.rest[i+1:]
	}
	return len(p), nil
}

// close ends the console; an unfinished line counts as one.
func (c *console) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.rest) > 0 {
		c.add(c.rest)
		c.rest = nil
	}
	c.closed = true
	c.signal()
}

// add appends a line; the caller holds mu.
func (c *console) add(raw []byte) {
	if line := clean(raw); line != "" {
		c.lines = append(c.lines, line)
		c.signal()
	}
}

func (c *console) signal() {
	close(c.change)
	c.change = make(chan struct{})
}

// expect returns the first line, after the last one that an earlier call
// returned, that contains one of wants.
func (c *console) expect(ctx context.Context, wants []string) (string, error) {
	for {
		c.mu.Lock()
		for ; c.next < len(c.lines); c.next++ {
			for _, want := range wants {
				if line := c.lines[c.next]; strings.Contains(line, want) {
					c.next++
					c.mu.Unlock()
					return line, nil
				}
			}
		}
		closed, change := c.closed, c.change
		c.mu.Unlock()
		if closed {
			return "", errEnded
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-change:
		}
	}
}

// all returns a copy of every line so far.
func (c *console) all() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.lines...)
}

// clean takes escape sequences and control characters out of a line.
func clean(raw []byte) string {
	text := ansi.ReplaceAllString(string(raw), "")
	text = strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f {
			return -1
		}
		return r
	}, text)
	return strings.TrimSpace(strings.ToValidUTF8(text, "?"))
}
