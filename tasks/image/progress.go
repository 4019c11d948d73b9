package image

import (
	"fmt"
	"io"
	"regexp"
	"strconv"
	"time"
)

// told is the pause between two lines about a long work where no terminal is.
const told = 10 * time.Second

// progress turns what qemu-img -p prints, "(12.34/100%)" over and over, into one
// line that is renewed on a terminal, and into a line now and then elsewhere.
type progress struct {
	event    func(format string, args ...any)
	terminal io.Writer
	doing    string

	shown int // percent
	last  time.Time
	now   func() time.Time // nil is the clock
}

var percent = regexp.MustCompile(`\((\d+)\.\d+/100%\)`)

// Write implements [io.Writer]. It never fails: a terminal that is gone must
// not end the work.
func (p *progress) Write(b []byte) (int, error) {
	all := percent.FindAllSubmatch(b, -1)
	if len(all) == 0 {
		return len(b), nil
	}
	n, _ := strconv.Atoi(string(all[len(all)-1][1]))
	if p.terminal != nil {
		if n != p.shown {
			fmt.Fprintf(p.terminal, "\r\x1b[Kimage: %s, %d %%", p.doing, n)
		}
		p.shown = n
		return len(b), nil
	}
	now := time.Now
	if p.now != nil {
		now = p.now
	}
	switch t := now(); {
	case p.last.IsZero():
		p.last = t
	case t.Sub(p.last) >= told && n != p.shown:
		p.event("%s, %d %%", p.doing, n)
		p.last, p.shown = t, n
	}
	return len(b), nil
}

// done removes the line.
func (p *progress) done() {
	if p.terminal != nil && p.shown > 0 {
		fmt.Fprint(p.terminal, "\r\x1b[K")
	}
}
