package sh

import (
	"bytes"
	"io"
	"strings"
	"sync"
)

// tail keeps the last lines written to it.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// tailBytes bounds what a chatty command can make the build hold.
const tailBytes = 64 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(p)
	if over := t.buf.Len() - tailBytes; over > 0 {
		t.buf.Next(over)
	}
	return len(p), nil
}

func (t *tail) lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := strings.TrimRight(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(t.buf.String()), "\n")
	if text == "" {
		return nil
	}
	lines := strings.Split(text, "\n")
	if len(lines) > TailLines {
		lines = lines[len(lines)-TailLines:]
	}
	return lines
}

// prefixed writes whole lines, each with a prefix, so that two commands that
// run side by side stay readable.
type prefixed struct {
	mu     sync.Mutex
	w      io.Writer
	prefix string
	rest   []byte
}

func (p *prefixed) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rest = append(p.rest, b...)
	for {
		i := bytes.IndexByte(p.rest, '\n')
		if i < 0 {
			return len(b), nil
		}
		if _, err := io.WriteString(p.w, p.prefix+string(p.rest[:i+1])); err != nil {
			return 0, err
		}
		p.rest = p.rest[i+1:]
	}
}

// flush writes the last line when the program did not end it.
func (p *prefixed) flush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.rest) > 0 {
		_, _ = io.WriteString(p.w, p.prefix+string(p.rest)+"\n")
		p.rest = nil
	}
}
