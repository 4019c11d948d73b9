package image

import (
	"io"
	"time"
)

// WithFree returns an editor for which every folder has so many bytes left.
func (e Editor) WithFree(n int64) Editor {
	e.free = func(string) (int64, error) { return n, nil }
	return e
}

// NewProgress returns what is told of qemu-img's progress, by a clock.
func NewProgress(event func(string, ...any), terminal io.Writer, now func() time.Time) (w io.Writer, done func()) {
	p := &progress{event: event, terminal: terminal, doing: "converting", now: now}
	return p, p.done
}
