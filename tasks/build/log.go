package build

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"cc-base/tasks/history"
	"cc-base/tasks/monitor"
)

// log prints events: one line each on stderr, the same with a time in the log
// file. On a terminal the line below the last event shows that the running
// stage is alive; anywhere else there are events and nothing more.
type log struct {
	to       io.Writer
	file     io.Writer
	terminal bool

	mu   sync.Mutex
	live bool // the last thing on the terminal is a progress line
	runs []*stageRun

	showing bool // somebody renews the progress line
	monitor *monitor.Monitor
}

func newLog(to io.Writer, file io.Writer) *log {
	f, ok := to.(*os.File)
	return &log{to: to, file: file, terminal: ok && term.IsTerminal(int(f.Fd()))}
}

func (l *log) event(stage, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wipe()
	fmt.Fprintf(l.to, "%s: %s\n", stage, text)
	fmt.Fprintf(l.file, "# %s %s: %s\n", time.Now().UTC().Format(time.RFC3339), stage, text)
}

// wipe removes the progress line.
func (l *log) wipe() {
	if l.live {
		fmt.Fprint(l.to, "\r\x1b[K")
		l.live = false
	}
}

// tick is how often the progress line is renewed.
const tick = 500 * time.Millisecond

// stageRun is a stage that runs.
type stageRun struct {
	stage    string
	began    time.Time
	expected float64 // seconds; 0 is unknown
}

// running shows the stage's time on a terminal until stop is called, next to
// what it is expected to take, when that is known, and to the other stages that
// run.
func (l *log) running(stage string, e history.Expectation) (stop func()) {
	if !l.terminal {
		return func() {}
	}
	r := &stageRun{stage: stage, began: time.Now(), expected: e.Seconds}
	l.mu.Lock()
	l.runs = append(l.runs, r)
	if !l.showing {
		l.showing = true
		go l.show()
	}
	l.mu.Unlock()
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.runs = slices.DeleteFunc(l.runs, func(other *stageRun) bool { return other == r })
		l.wipe()
	}
}

// watch puts what the monitor sees behind the progress; nil ends that.
func (l *log) watch(m *monitor.Monitor) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.monitor = m
}

// show renews the progress line until no stage runs.
func (l *log) show() {
	for t := time.NewTicker(tick); ; <-t.C {
		l.mu.Lock()
		if len(l.runs) == 0 {
			l.showing = false
			l.mu.Unlock()
			t.Stop()
			return
		}
		l.wipe()
		fmt.Fprint(l.to, progressOf(l.runs, time.Now()))
		if l.monitor != nil {
			if s, ok := l.monitor.Last(); ok {
				fmt.Fprint(l.to, "  ", s)
			}
		}
		l.live = true
		l.mu.Unlock()
	}
}

// progressOf is the line for the stages that run. That of several has no bars, to
// fit into the width of a terminal.
func progressOf(runs []*stageRun, now time.Time) string {
	if len(runs) == 1 {
		return progress(runs[0].stage, now.Sub(runs[0].began).Seconds(), runs[0].expected)
	}
	var parts []string
	for _, r := range runs {
		text := fmt.Sprintf("%s %.0f s", r.stage, now.Sub(r.began).Seconds())
		if r.expected >= 1 {
			text += fmt.Sprintf(" of about %.0f", r.expected)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ", ")
}

// progressWidth is the length of the bar in characters.
const progressWidth = 24

// progress renders one progress line, times in seconds. The bar never fills by
// itself: what is expected is a guess.
func progress(stage string, now, expected float64) string {
	if expected < 1 {
		return fmt.Sprintf("%s: %.0f s", stage, now)
	}
	full := min(int(progressWidth*now/expected), progressWidth-1)
	bar := make([]byte, progressWidth)
	for i := range bar {
		bar[i] = ' '
		if i < full {
			bar[i] = '='
		}
	}
	return fmt.Sprintf("%s: [%s] %.0f s of about %.0f s", stage, bar, now, expected)
}

// size renders bytes as people say them: 345 MB.
func size(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%d MB", n/1e6)
	default:
		return fmt.Sprintf("%d kB", (n+999)/1000)
	}
}

func fileSize(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return "?"
	}
	return size(info.Size())
}

// seconds renders a duration for an event line.
func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
